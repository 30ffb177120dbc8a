"""Draw what distillation works on: the PKD paper's figures for any teacher and students, and their numbers as JSON.

    python recipes/visualize.py runs/demo                                     # the arms of an experiment, their teacher
    python recipes/visualize.py runs/mine --data DIR --output figures/mine     # a run on data of one's own
    python recipes/visualize.py retina_r50_pkd_swin --images street.jpg      # a pair by name: it knows its teacher
    python recipes/visualize.py retina_r50 gfl_r50 --teacher gfl_r101 --data coco/ --count 8
    python recipes/visualize.py runs/plain runs/pkd runs/fgd --curves          # logs alone: nothing is loaded

Writes into --output, without a screen:

    activations.png   the largest value over channels at each pixel, by level, before and after normalisation
    magnitudes.png    how large the values of each level are
    channels.png      in which share of the pixels each channel is the largest
    pearson.png       Pearson's r of each level over training, of runs that logged it
    convergence.png   AP over epochs, of runs
    figures.json      the same as numbers

The images go through as one batch, as in training: normalisation takes its statistics from all of them.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pkdzoo.data import CocoDataset, Sample, collate, find_split, read_image, resize_keep_ratio, test_transform
from pkdzoo.figures import Look, Run, look, pair_numbers, read_run
from pkdzoo.hub.download import DownloadError
from pkdzoo.models._factory import create_teacher
from pkdzoo.models._registry import find
from pkdzoo.models.detector import Detector
from pkdzoo.structures import Batch, Instances
from pkdzoo.training import Recipe, load_recipe, machine
from pkdzoo.training.build import build_teacher
from pkdzoo.training.evaluate import open_detector


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("students", nargs="+", help="names, hf-hub:..., folders of detectors, runs or experiments")
    parser.add_argument("--teacher", help="likewise; without it the first student's own")
    parser.add_argument("--data", type=Path, help="folder of a data set; of a run without it, what the run generated")
    parser.add_argument("--split", default="val")
    parser.add_argument("--images", nargs="+", type=Path, metavar="FILE", help="images instead of a data set")
    parser.add_argument("--count", type=int, default=4, metavar="N", help="images out of --data (default: 4)")
    parser.add_argument("--show", type=int, default=0, metavar="K", help="the one of them to show, from 0 (default)")
    parser.add_argument("--levels", type=int, default=4, metavar="N", help="finest levels (default: 4, as PKD's)")
    parser.add_argument("--curves", action="store_true", help="draw only what the logs tell")
    parser.add_argument("--output", type=Path, default=Path("figures"), help="folder (default: figures)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(argv)


@dataclass
class Subject:
    """One student: what names it, and its run if it was trained here."""

    source: str
    name: str
    run: Path | None = None

    @property
    def recipe(self) -> Recipe | None:
        return load_recipe(self.run / "recipe.json") if self.run else None

    def has_weights(self) -> bool:
        return self.run is None or any((self.run / part / "config.json").is_file() for part in ("best", "last"))

    def teacher(self, student: Detector) -> Detector | None:
        """Who taught it, as far as it says."""
        recipe = self.recipe
        if recipe is not None:
            return build_teacher(recipe.distill, student.label_names) if recipe.distill else None
        if Path(self.source).is_dir() or ":" in self.source or find(self.source)[0].distilled is None:
            return None
        return create_teacher(self.source)


def subjects_of(source: str) -> list[Subject]:
    """A folder may be a run, an experiment of several, or a detector; anything else is a name."""
    folder = Path(source)
    if not folder.is_dir():
        return [Subject(source, source)]
    if (folder / "recipe.json").is_file():
        return [Subject(source, load_recipe(folder / "recipe.json").name, folder)]
    found = [subject for path in sorted(folder.glob("*/recipe.json")) for subject in subjects_of(str(path.parent))]
    if found:
        return sorted(found, key=lambda s: s.recipe is not None and s.recipe.distill is not None)  # plain ones first
    return [Subject(source, folder.resolve().name)]


def open_batch(args: argparse.Namespace, subjects: list[Subject], size: tuple[int, int]) -> Batch:
    """The images, scaled to (short, long) pixels as the first student wants them."""
    if args.images:
        images = [resize_keep_ratio(read_image(path), *size)[0] for path in args.images]
        nothing = Instances(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
        return collate([Sample(i, nothing, {"file_name": str(p)}) for i, p in zip(images, args.images)])
    folder = args.data
    if folder is None:  # a run that generated its data left it in its own folder, or its experiment's
        near = [place / "data" / "shapes" for s in subjects if s.run for place in (s.run, s.run.resolve().parent)]
        folder = next((place for place in near if place.is_dir()), None)
    if folder is None:
        raise ValueError("no images: write --images and files, or --data and the folder of a data set")
    dataset = CocoDataset(*find_split(folder, args.split), transform=test_transform(*size))
    return collate([dataset[k] for k in range(min(args.count, len(dataset)))])


def see(args: argparse.Namespace, subjects: list[Subject]) -> tuple[list[Look], Batch] | None:
    """Teacher and students on the same images; None where nobody says who teaches and there are logs to draw."""
    students = [(s, open_detector(s.source)) for s in subjects if s.has_weights()]
    if args.teacher:
        teacher: Detector | None = open_detector(args.teacher)
    else:
        teacher = next((found for s, model in students if (found := s.teacher(model)) is not None), None)
    if teacher is None:
        if any(subject.run for subject in subjects):
            return None
        raise ValueError(f"{subjects[0].name} does not say who taught it: write --teacher and a name or a folder")
    batch = open_batch(args, subjects, students[0][1].resize).to(args.device)
    if not 0 <= args.show < len(batch):
        raise ValueError(f"--show {args.show}: there are {len(batch)} images, counted from 0")
    models = [(f"teacher {teacher.name}", teacher), *((s.name, model) for s, model in students)]
    return [look(model.to(args.device), batch, args.levels, name) for name, model in models], batch


def references(subjects: list[Subject]) -> dict[str, float]:
    """AP of an experiment's teacher, if it was measured beside its students."""
    for run in (s.run for s in subjects if s.run):
        path = run.resolve().parent / "comparison.json"
        rows = json.loads(path.read_text()) if path.is_file() else []
        found = {f"teacher {row['name']}": row["AP"] for row in rows if row["role"] == "teacher" and row["AP"]}
        if found:
            return found
    return {}


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    try:
        from pkdzoo.figures import draw
    except ImportError:
        sys.exit("error: figures need matplotlib: pip install matplotlib")
    try:
        if args.count < 1 or args.levels < 1:
            raise ValueError(f"--count {args.count} --levels {args.levels}: both from 1 up")
        subjects = [subject for source in args.students for subject in subjects_of(source)]
        runs = [read_run(s.run, s.name) for s in subjects if s.run]
        if args.curves and not runs:
            raise ValueError(f"--curves: none of {', '.join(args.students)} is the folder of a run")
        seen = None if args.curves else see(args, subjects)
        numbers: dict[str, Any] = {"runs": [run.to_dict() for run in runs]}
        figures = curves(draw, runs, references(subjects), seen[0][-1].level_names if seen else ())
        if seen:
            looks, batch = seen
            image = draw.pixels_of(batch.images, batch.sizes[args.show], args.show)
            figures |= {
                "activations": draw.activations(looks, image, args.show),
                "magnitudes": draw.magnitudes(looks),
                "channels": draw.channels(looks),
            }
            numbers["images"] = [str(meta["file_name"]) for meta in batch.meta or []]
            numbers["detectors"] = {one.name: one.numbers() for one in looks}
            numbers["pairs"] = {one.name: pair_numbers(one, looks[0]) for one in looks[1:]}
        args.output.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            draw.save(figure, args.output / f"{name}.png")
        (args.output / "figures.json").write_text(json.dumps(numbers, indent=2, allow_nan=False) + "\n")
    except (ValueError, OSError, DownloadError) as error:
        sys.exit(f"error: {machine.plainly(error)}")
    if not seen and not args.curves:
        print("only curves: none of these runs had a teacher; --teacher NAME says which to look at", file=sys.stderr)
    print("\n".join(str(args.output / name) for name in [*(f"{name}.png" for name in figures), "figures.json"]))


def curves(draw: Any, runs: list[Run], levels_of: dict[str, float], level_names: Any) -> dict[str, Any]:
    """The figures that logs have something for."""
    measured, correlated = [run for run in runs if run.ap], [run for run in runs if run.r]
    figures = {"convergence": draw.convergence(measured, levels_of)} if measured else {}
    return {**figures, **({"pearson": draw.correlation(correlated, level_names)} if correlated else {})}


if __name__ == "__main__":
    main()
