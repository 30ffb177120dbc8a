"""Train the recipes and seeds of an experiment, one run after the other, and record the results.

    python recipes/experiments/run.py recipes/experiments/bccd.py --data bccd/                    # all missing runs
    python recipes/experiments/run.py recipes/experiments/bccd.py --data bccd/ --runs plain-0 pkd-0
    python recipes/experiments/run.py recipes/experiments/bccd.py --data bccd/ -- --cpu --threads 1   # for train.py
    python recipes/experiments/run.py --report                       # write recipes/experiments/README.md

An experiment is a recipe file (recipes/train.py can train each of its recipes) whose RUNS say which recipes run with
how many seeds, the most important first: ``(((NAME, NAME), 5), ((NAME,), 1))``. All have the same data and schedule, or
each distilled student has a plain student with the same budget among them, so that budgets do not explain a
difference. A teacher is a recipe outside RUNS. A student names it by its folder,
``local-dir:runs/experiments/EXPERIMENT/TEACHER-0/best``; it is trained when the first student needs it. Plain students
are compared with the first teacher.

The program can be stopped at any time and started again: it skips runs that have a result file, and resumes an
interrupted run from its last checkpoint. The result file of a run is ``results/EXPERIMENT/VARIANT-SEED.json`` beside
this file; VARIANT is the name of the recipe without that of the experiment. The metrics are those of the last epoch,
so no epoch is chosen by its result.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import runpy
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torchvision

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the folder that holds recipes/

from pkdzoo import create_detector
from pkdzoo.distill.adapters.students import is_saved_student, saved_student
from pkdzoo.distill.methods.pkd import PKD
from pkdzoo.evaluation import METRICS
from pkdzoo.training import Recipe, build, checkpoint, load_recipes, resume, run_folder
from pkdzoo.training.errors import describe_error
from pkdzoo.utils.files import sha256_of_file, write_json
from recipes.benchmarks.measure import commit, packages
from recipes.experiments import report
from recipes.experiments.result_files import SAME, load

ROOT = Path(__file__).resolve().parents[2]
RUN_FOLDER = "runs/experiments"  # where recipes expect their teachers
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Run:
    """One recipe with one seed."""

    experiment: str
    recipe: Recipe
    seed: int

    @property
    def variant(self) -> str:
        """Name of the recipe without that of the experiment."""
        return self.recipe.name.removeprefix(f"{self.experiment}_")

    @property
    def key(self) -> str:
        """Name of the run's folder and result file."""
        return f"{self.variant}-{self.seed}"


@dataclass(frozen=True)
class Experiment:
    """Runs of one experiment file: students in the order in which they run, teachers by key."""

    path: Path
    students: list[Run]
    teachers: dict[str, Run]


def load_experiment(path: Path) -> Experiment:
    """Read an experiment file.

    Raises:
        ValueError: for a file without RUNS, an unknown name in RUNS, or students with unequal budgets.
    """
    recipes = {recipe.name: recipe for recipe in load_recipes(path)}
    planned = runpy.run_path(str(path)).get("RUNS")
    if not planned:
        raise ValueError(f"{path} is not an experiment: write RUNS = (((NAME, NAME), SEEDS), ...) beside its RECIPES")
    unknown = [name for names, _ in planned for name in names if name not in recipes]
    if unknown:
        raise ValueError(f"{path}: RUNS names {', '.join(unknown)}, RECIPES has {', '.join(recipes)}")
    students = {
        (name, seed): Run(path.stem, replace(recipes[name], seed=seed), seed)
        for names, seeds in planned
        for seed in range(seeds)
        for name in names
    }
    variants = {run.recipe.name for run in students.values()}
    check_budgets([recipes[name] for name in recipes if name in variants])
    others = [Run(path.stem, recipe, recipe.seed) for name, recipe in recipes.items() if name not in variants]
    return Experiment(path, list(students.values()), {run.key: run for run in others})


def check_budgets(recipes: Sequence[Recipe]) -> None:
    """Check that each distilled student has a plain student with the same data and schedule.

    If all recipes have one budget, no plain student is needed.

    Raises:
        ValueError: for a distilled student without one.
    """
    for recipe in recipes:
        unequal = [(r.name, resume.differences(budget(r), budget(recipe))) for r in recipes]
        name, differences = next((each for each in unequal if each[1]), ("", []))
        if differences and recipe.distill and not any(is_plain_of(other, recipe) for other in recipes):
            raise ValueError(
                f"{recipe.name} and {name} have unequal budgets: {'; '.join(differences)}. Add the same student "
                "without a teacher on that budget, or write another experiment"
            )


def budget(recipe: Recipe) -> dict[str, Any]:
    """The fields that students must share to be compared."""
    content = recipe.to_dict()
    return {key: content[key] for key in ("data", "schedule", "logging")}


def is_plain_of(plain: Recipe, distilled: Recipe) -> bool:
    """Whether two students differ only in the teacher and the optimizer."""
    one, other = plain.to_dict(), distilled.to_dict()
    return plain.distill is None and all(one[key] == other[key] for key in SAME)


def teacher_key(experiment: Experiment, run: Run) -> str | None:
    """Key of the run of this experiment that is the teacher; None for a teacher from elsewhere, or none."""
    teacher = run.recipe.distill.teacher if run.recipe.distill else ""
    start = f"local-dir:{RUN_FOLDER}/{experiment.path.stem}/"
    key = teacher.removeprefix(start).partition("/")[0] if teacher.startswith(start) else None
    if key is not None and key not in experiment.teachers:
        raise ValueError(f"{run.recipe.name} learns from {teacher}, but the file has {', '.join(experiment.teachers)}")
    return key


def in_order(experiment: Experiment, keys: Iterable[str]) -> list[Run]:
    """The runs with these keys (without keys, all), each teacher before the first run that needs it."""
    known = {run.key: run for run in [*experiment.teachers.values(), *experiment.students]}
    missing = [key for key in keys if key not in known]
    if missing:
        raise ValueError(f"{experiment.path} has no run {', '.join(missing)}; it has {', '.join(known)}")
    ordered: dict[str, Run] = {}
    for run in [known[key] for key in keys] or experiment.students:
        key = compared_with(experiment, run)
        if key in experiment.teachers:
            ordered.setdefault(key, experiment.teachers[key])
        ordered.setdefault(run.key, run)
    return list(ordered.values())


def train_script() -> Any:
    """recipes/train.py as a module."""
    spec = importlib.util.spec_from_file_location("pkdzoo_recipes_train", ROOT / "recipes" / "train.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- one run --------------------------------------------------------------------------------------------------------


def train_run(experiment: Experiment, run: Run, args: argparse.Namespace) -> bool:
    """Train a run, or what is left of it, and write its result file. Returns whether the run is finished."""
    file = args.results / run.experiment / f"{run.key}.json"
    if file.is_file():
        changed = resume.differences(json.loads(file.read_text())["recipe"], run.recipe.to_dict())
        if changed:
            raise ValueError(f"{file} holds another recipe ({'; '.join(changed)}): move it away, or rename the new one")
        return True
    output = args.output / run.key
    commits = note_commit(args.output / f"{run.key}.commits.json")
    words = ["--only", run.recipe.name, "--set", f"seed={run.seed}"]
    key = teacher_key(experiment, run)
    moved = ["--set", f"distill.teacher=local-dir:{args.output / key}/best"] if key else []
    where = ["--data", str(args.data), "--output", str(output), "--resume"]
    try:
        train_script().main([str(experiment.path), *words, *moved, *where, *args.train])
    except SystemExit as end:
        if not isinstance(end.code, int) or end.code <= 128:  # above: stopped by a signal
            raise
    found = checkpoint.find_checkpoint(output)
    if found is None or not found[1].done:
        return False
    about = run_folder.about(1)
    content = {
        "experiment": run.experiment,
        "variant": run.variant,
        "seed": run.seed,
        "role": "teacher" if run.key in experiment.teachers else "student",
        "command": " ".join(
            ["accelerate launch recipes/train.py", f"recipes/experiments/{experiment.path.name}", *words, *args.train]
        ),
        "commits": commits,
        "versions": {**versions(), "pkdzoo": about["pkdzoo"]},
        "hardware": f"{about['hardware']}, {torch.get_num_threads()} threads",
        "date": about["date"],
        "teacher": about_teacher(args.output / key) if key else None,
        **measured(experiment, run, args, output, found[1]),
        "recipe": run.recipe.to_dict(),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, content)
    return True


def about_teacher(folder: Path) -> dict[str, Any]:
    """Which weights taught: the key of the run, its AP after the last epoch, and the hash of the weights.

    A teacher that is trained again, on another machine or with another version, is another teacher.
    """
    weights = sha256_of_file(folder / "best" / "model.safetensors")
    return {"run": folder.name, "AP": json.loads((folder / "metrics.json").read_text())["AP"], "sha256": weights}


def note_commit(path: Path) -> list[str]:
    """All commits at which a run was trained, including the current one."""
    now = commit()
    before = json.loads(path.read_text()) if path.is_file() else []
    commits = before if now in before else [*before, now]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, commits)
    return commits


def versions() -> dict[str, str | None]:
    """Versions of the packages that influence results; torch's includes the accelerator that it was built for."""
    builds = {"torch": torch.__version__, "torchvision": torchvision.__version__}
    return {"python": platform.python_version(), **packages(), **builds}


def measured(
    experiment: Experiment, run: Run, args: argparse.Namespace, output: Path, progress: checkpoint.Progress
) -> dict[str, Any]:
    """Metrics of the last epoch, AP by epoch, similarity of the pyramids of student and teacher, and the budget.

    ``cpu_hours`` are those of the steps, without evaluations, and of one process without its loaders.
    """
    numbers = json.loads((output / "metrics.json").read_text())
    metrics = {key: numbers[key] for key in [*METRICS, "per_class"]}
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    keys = ("epoch", "step", "AP", "AP50", "AP75")
    times = [line.get("cpu_seconds") for line in lines if "AP" not in line]  # None in lines of older versions
    curve = [{key: line[key] for key in keys} for line in lines if "AP" in line]
    splits = build.find_data(run.recipe.data, args.data)
    train_set, val_set = build.build_datasets(run.recipe, splits)
    data = {
        name: {"annotations": each.json_path.name, **run_folder.about_data(each.json_path, len(each))}
        for name, each in (("train", train_set), ("val", val_set))
    }
    whole = run.recipe.schedule.max_steps is None  # by epochs, whose last batch may be smaller
    images = progress.epoch * len(train_set) if whole else progress.step * run.recipe.data.batch_size
    return {
        "budget": {"steps": progress.step, "images": images},
        "cpu_hours": round(sum(times) / 3600, 3) if times and None not in times else None,
        "metrics": metrics,
        "curve": curve,
        "pearson": similarity(experiment, run, args, output, val_set),
        "data": data,
    }


def similarity(
    experiment: Experiment, run: Run, args: argparse.Namespace, output: Path, val_set: Any
) -> dict[str, Any] | None:
    """Pearson's r of each level with the teacher's pyramid; a plain student is compared with the first teacher.

    Over at most 100 validation images, in the batches of the evaluation. None without a teacher, and for a teacher
    whose pyramid has another number of channels.
    """
    compared = compared_with(experiment, run)
    if compared is None:
        return None
    name = f"local-dir:{args.output / compared}/best" if compared in experiment.teachers else compared
    student = (
        saved_student(output / "last")
        if is_saved_student(output / "last")
        else create_detector(f"local-dir:{output}/last")
    )
    teacher = create_detector(name, pretrained=True)
    try:
        method = PKD(student, teacher)
    except ValueError:
        return None
    found = []
    with torch.no_grad():
        for batch in build.val_loader(val_set, run.recipe.data.eval_batch_size, 0):
            method(student.trace(batch, upto="features"), teacher.trace(batch, upto="features"), batch)
            found.append(torch.stack([method.logs[f"r{level}"] for level in range(len(method.pairs))]))
            if len(found) * run.recipe.data.eval_batch_size >= 100:
                break
    return {"teacher": compared, "r": [round(r, 4) for r in torch.stack(found).mean(0).tolist()]}


def compared_with(experiment: Experiment, run: Run) -> str | None:
    """Key of a teacher of this experiment, or a registered name: its pyramid is compared with the run's."""
    if run.key in experiment.teachers:
        return None
    if run.recipe.distill is None:
        return next(iter(experiment.teachers), None)
    return teacher_key(experiment, run) or run.recipe.distill.teacher


# -- the script ------------------------------------------------------------------------------------------------------


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", type=Path, nargs="?", help="a recipe file that defines RUNS")
    parser.add_argument("--data", type=Path, help="folder of the data set, as recipes/train.py takes it")
    parser.add_argument("--output", type=Path, help=f"folder of the runs (default: {RUN_FOLDER}/EXPERIMENT)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    parser.add_argument(
        "--runs", nargs="+", default=[], metavar="VARIANT-SEED", help="only these runs and their teachers"
    )
    parser.add_argument(
        "--report", action="store_true", help="train nothing, write README.md beside the folder of the results"
    )
    arguments = list(sys.argv[1:] if argv is None else argv)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    args = parser.parse_args(arguments[:end])
    args.train = arguments[end + 1 :]
    if (args.experiment is None) == (not args.report):
        parser.error("name an experiment file, or write --report")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    try:
        if args.report:
            return print(f"wrote {report.write(args.results)}")
        experiment = load_experiment(args.experiment)
        args.output = args.output or Path(RUN_FOLDER) / experiment.path.stem
        runs = in_order(experiment, args.runs)
        for number, run in enumerate(runs, 1):
            if not train_run(experiment, run, args):
                print(f"stopped on request in {run.key}, {number} of {len(runs)}; the same command continues")
                sys.exit(143)
            print(f"== {run.key} is finished, {number} of {len(runs)}", flush=True)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {describe_error(error)}")
    print(report.table(load(args.results), experiment.path.stem))


if __name__ == "__main__":
    main()
