"""Draw the PKD paper's figures for any teacher and students, and write their numbers as JSON.

    python recipes/visualize.py runs/demo                                     # the runs of an experiment, their teacher
    python recipes/visualize.py runs/mine --data DIR --output figures/mine    # a run on your own data
    python recipes/visualize.py retina_r50_pkd_swin --images street.jpg       # a pair by name, with its own teacher
    python recipes/visualize.py retina_r50 gfl_r50 --teacher gfl_r101 --data coco/ --count 8
    python recipes/visualize.py runs/plain runs/pkd runs/fgd --curves         # from the logs alone

Writes into --output, without a display:

    activations.png   the largest value over channels at each location, by level, before and after normalization
    magnitudes.png    histogram of the magnitudes of each level
    channels.png      share of the locations at which each channel is the largest
    pearson.png       Pearson's r of each level over training, for runs that logged it
    convergence.png   AP over epochs, for runs
    figures.json      the numbers

The images are one batch, as in training: the normalization takes its statistics from all of them.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pkdzoo.data import CocoDataset, Sample, collate, eval_transform, find_split, read_image, resize_keep_ratio
from pkdzoo.figures import PyramidMaps, Run, extract_maps, pair_numbers, read_run
from pkdzoo.hub.errors import DownloadError
from pkdzoo.models._factory import create_teacher
from pkdzoo.models._registry import find
from pkdzoo.models.detector import Detector
from pkdzoo.structures import Batch, Instances
from pkdzoo.training import Recipe, load_recipe
from pkdzoo.training.build import build_teacher
from pkdzoo.training.errors import describe_error
from pkdzoo.training.evaluate import open_detector
from pkdzoo.utils.option_types import natural_int, positive_int
from pkdzoo.utils.text import install_line


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("students", nargs="+", help="names, hf-hub:..., or folders of detectors, runs or experiments")
    parser.add_argument("--teacher", help="likewise; default: the first student's own teacher")
    parser.add_argument("--data", type=Path, help="folder of a data set; default: the generated data of the run")
    parser.add_argument("--split", default="val")
    parser.add_argument("--images", nargs="+", type=Path, metavar="FILE", help="images instead of a data set")
    parser.add_argument(
        "--count", type=positive_int, default=4, metavar="N", help="number of images from --data (default: 4)"
    )
    parser.add_argument(
        "--show", type=natural_int, default=0, metavar="K", help="number of the image to show, from 0 (default: 0)"
    )
    parser.add_argument(
        "--levels",
        type=positive_int,
        default=4,
        metavar="N",
        help="number of levels, from the finest (default: 4, as in PKD)",
    )
    parser.add_argument("--curves", action="store_true", help="draw only the curves of the logs")
    parser.add_argument("--output", type=Path, default=Path("figures"), help="folder (default: figures)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(argv)


@dataclass
class Subject:
    """One student: its name, and the folder of its run if it has one."""

    source: str
    name: str
    run: Path | None = None

    @property
    def recipe(self) -> Recipe | None:
        return load_recipe(self.run / "recipe.json") if self.run else None

    def has_weights(self) -> bool:
        return self.run is None or any((self.run / part / "config.json").is_file() for part in ("best", "last"))

    def teacher(self, student: Detector) -> Detector | None:
        """The teacher from its recipe or its registered name; None where there is none."""
        recipe = self.recipe
        if recipe is not None:
            return build_teacher(recipe.distill, student.label_names) if recipe.distill else None
        if Path(self.source).is_dir() or ":" in self.source or find(self.source)[0].distilled is None:
            return None
        return create_teacher(self.source)


def subjects_of(source: str) -> list[Subject]:
    """The students that an argument names: a run, the runs of an experiment, a folder of a detector, or a name."""
    folder = Path(source)
    if not folder.is_dir():
        return [Subject(source, source)]
    if (folder / "recipe.json").is_file():
        return [Subject(source, load_recipe(folder / "recipe.json").name, folder)]
    subjects = [subject for path in sorted(folder.glob("*/recipe.json")) for subject in subjects_of(str(path.parent))]
    if subjects:
        return sorted(subjects, key=lambda s: s.recipe is not None and s.recipe.distill is not None)  # plain ones first
    return [Subject(source, folder.resolve().name)]


def open_batch(args: argparse.Namespace, subjects: list[Subject], size: tuple[int, int]) -> Batch:
    """The images as one batch, resized to (short, long) pixels as for the first student."""
    if args.images:
        images = [resize_keep_ratio(read_image(path), *size)[0] for path in args.images]
        no_objects = Instances(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
        return collate([Sample(i, no_objects, {"file_name": str(p)}) for i, p in zip(images, args.images)])
    folder = args.data
    if folder is None:  # generated data is in the folder of the run or of its experiment
        parents = [parent for s in subjects if s.run for parent in (s.run, s.run.resolve().parent)]
        folder = next((f for f in (parent / "data" / "shapes" for parent in parents) if f.is_dir()), None)
    if folder is None:
        raise ValueError("no images: write --images FILE ... or --data FOLDER")
    dataset = CocoDataset(*find_split(folder, args.split), transform=eval_transform(*size))
    return collate([dataset[k] for k in range(min(args.count, len(dataset)))])


def compute_maps(args: argparse.Namespace, subjects: list[Subject]) -> tuple[list[PyramidMaps], Batch] | None:
    """Maps of teacher and students for the same images; None where there is no teacher, but there are logs to draw."""
    students = [(s, open_detector(s.source)) for s in subjects if s.has_weights()]
    if args.teacher:
        teacher: Detector | None = open_detector(args.teacher)
    else:
        teacher = next((t for s, model in students if (t := s.teacher(model)) is not None), None)
    if teacher is None:
        if any(subject.run for subject in subjects):
            return None
        raise ValueError(f"{subjects[0].name} has no teacher: write --teacher NAME or --teacher FOLDER")
    batch = open_batch(args, subjects, students[0][1].resize).to(args.device)
    if not 0 <= args.show < len(batch):
        raise ValueError(f"--show {args.show}: there are {len(batch)} images, counted from 0")
    models = [(f"teacher {teacher.name}", teacher), *((s.name, model) for s, model in students)]
    return [extract_maps(model.to(args.device), batch, args.levels, name) for name, model in models], batch


def references(subjects: list[Subject]) -> dict[str, float]:
    """AP of an experiment's teacher, if it was evaluated with its students."""
    for run in (s.run for s in subjects if s.run):
        path = run.resolve().parent / "comparison.json"
        rows = json.loads(path.read_text()) if path.is_file() else []
        teachers = {f"teacher {row['name']}": row["AP"] for row in rows if row["role"] == "teacher" and row["AP"]}
        if teachers:
            return teachers
    return {}


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    try:
        from pkdzoo.figures import draw
    except ImportError:
        sys.exit(f"error: figures need matplotlib: {install_line('viz')}")
    try:
        subjects = [subject for source in args.students for subject in subjects_of(source)]
        runs = [read_run(s.run, s.name) for s in subjects if s.run]
        if args.curves and not runs:
            raise ValueError(f"--curves: none of {', '.join(args.students)} is the folder of a run")
        computed = None if args.curves else compute_maps(args, subjects)
        numbers: dict[str, Any] = {"runs": [run.to_dict() for run in runs]}
        figures = curves(draw, runs, references(subjects), computed[0][-1].level_names if computed else ())
        if computed:
            maps, batch = computed
            image = draw.pixels_of(batch.images, batch.sizes[args.show], args.show)
            figures |= {
                "activations": draw.activations(maps, image, args.show),
                "magnitudes": draw.magnitudes(maps),
                "channels": draw.channels(maps),
            }
            numbers["images"] = [str(meta["file_name"]) for meta in batch.meta or []]
            numbers["detectors"] = {one.name: one.numbers() for one in maps}
            numbers["pairs"] = {one.name: pair_numbers(one, maps[0]) for one in maps[1:]}
        args.output.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            draw.save(figure, args.output / f"{name}.png")
        (args.output / "figures.json").write_text(json.dumps(numbers, indent=2, allow_nan=False) + "\n")
    except (ValueError, OSError, DownloadError) as error:
        sys.exit(f"error: {describe_error(error)}")
    if not computed and not args.curves:
        print("drew only the curves: these runs have no teacher; choose one by --teacher NAME", file=sys.stderr)
    print("\n".join(str(args.output / name) for name in [*(f"{name}.png" for name in figures), "figures.json"]))


def curves(draw: Any, runs: list[Run], reference_ap: dict[str, float], level_names: Any) -> dict[str, Any]:
    """The figures for which the logs have data."""
    evaluated, correlated = [run for run in runs if run.ap], [run for run in runs if run.r]
    figures = {"convergence": draw.convergence(evaluated, reference_ap)} if evaluated else {}
    return {**figures, **({"pearson": draw.correlation(correlated, level_names)} if correlated else {})}


if __name__ == "__main__":
    main()
