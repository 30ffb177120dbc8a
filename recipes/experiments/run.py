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
interrupted run from its last checkpoint. To repeat runs whose results are in this repository, write ``--results
again``. The result file of a run is ``results/EXPERIMENT/VARIANT-SEED.json`` beside this file; VARIANT is the name of
the recipe without that of the experiment. The metrics are those of the last epoch, so no epoch is chosen by its
result.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the folder that holds recipes/

from pkdzoo.training import Recipe, build, checkpoint, load_recipes, resume, run_folder
from pkdzoo.training.arguments import parse_train_arguments
from pkdzoo.training.errors import describe_error
from pkdzoo.training.provenance import read_json_object
from pkdzoo.utils.files import write_json
from recipes.experiments import report
from recipes.experiments.experiment_file import (
    RUN_FOLDER,
    Experiment,
    Run,
    compared_with,
    in_order,
    load_experiment,
    teacher_key,
)
from recipes.experiments.record import note_start, result_of
from recipes.experiments.result_files import load

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).parent / "results"


def train_script() -> Any:
    """recipes/train.py as a module."""
    spec = importlib.util.spec_from_file_location("pkdzoo_recipes_train", ROOT / "recipes" / "train.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def result_file(run: Run, args: argparse.Namespace) -> Path:
    """Where the result of a run is written."""
    path: Path = args.results / run.experiment / f"{run.key}.json"
    return path


def options_of(run: Run, args: argparse.Namespace) -> list[str]:
    """The options of recipes/train.py that choose a run, and those of this call."""
    return ["--only", run.recipe.name, "--set", f"seed={run.seed}", *args.train]


def recipe_of(experiment: Experiment, run: Run, args: argparse.Namespace) -> Recipe:
    """The recipe of a run, with the fields that this call changes (``-- --set schedule.epochs=1``)."""
    parsed = parse_train_arguments([str(experiment.path), *options_of(run, args)])
    return load_recipes(experiment.path, parsed.set, parsed.only)[0]


def is_recorded(experiment: Experiment, run: Run, args: argparse.Namespace) -> bool:
    """Whether a run has a result file.

    Raises:
        ValueError: for a result of another recipe or of other data.
    """
    file = result_file(run, args)
    if not file.is_file():
        return False
    saved = json.loads(file.read_text())
    then = Recipe.from_dict(saved["recipe"]).to_dict()  # older files lack fields that were added since
    changed = resume.differences(then, recipe_of(experiment, run, args).to_dict())
    if changed:
        raise ValueError(f"{file} holds another recipe ({'; '.join(changed)}): move it away, or rename the new one")
    paths = build.find_data(run.recipe.data, args.data)
    for split, path in (("train", paths.train[0]), ("val", paths.val[0])):
        if run_folder.about_data(path, 0).get("annotations_sha256") != saved["data"][split].get("annotations_sha256"):
            raise ValueError(f"{file} was trained on other data than {path}: write another folder after --results")
    return True


def is_needed(experiment: Experiment, run: Run, others: list[Run], args: argparse.Namespace) -> bool:
    """Whether a teacher has a result but no weights, or half-trained ones, and one of the other runs needs them."""
    if run.key not in experiment.teachers or is_finished(args.output / run.key):
        return False
    students = (other for other in others if compared_with(experiment, other) == run.key)
    return any(not result_file(student, args).is_file() for student in students)


def check_same_run(experiment: Experiment, run: Run, args: argparse.Namespace) -> None:
    """Check that the folder of a run holds what this call would train: the result says what the call says.

    Raises:
        ValueError: for a folder of another recipe or, once it is finished, of other data; ``--resume`` checks the rest.
    """
    output = args.output / run.key
    if not (output / "recipe.json").is_file():
        return
    then = Recipe.from_dict(read_json_object(output / "recipe.json")).to_dict()
    now = recipe_of(experiment, run, args).to_dict()
    key = teacher_key(experiment, run)
    if key and then["distill"] and Path(then["distill"]["teacher"]).parent.name == key:
        then["distill"]["teacher"] = now["distill"]["teacher"]  # its folder may have moved
    changed = resume.differences(then, now)
    if changed:
        raise ValueError(f"{output} holds another run ({'; '.join(changed)}): move it away, or choose another --output")
    if is_finished(output):
        data = build.build_datasets(run.recipe, build.find_data(run.recipe.data, args.data))
        known = read_json_object(output / "run.json").get("data") or {}
        resume.check_same_data(output, known, resume.about_annotations(*data))


def train_run(experiment: Experiment, run: Run, args: argparse.Namespace) -> int:
    """Train a run, or what is left of it, and write its result file if there is none.

    Returns:
        0, or the exit status of a stop request: 130 after Ctrl-C, 143 after SIGTERM.
    """
    output, started, status = args.output / run.key, args.output / f"{run.key}.started.json", 0
    check_same_run(experiment, run, args)
    if not is_finished(output):
        note_start(started)
        key = teacher_key(experiment, run)
        moved = ["--set", f"distill.teacher=local-dir:{args.output / key}/best"] if key else []
        where = ["--data", str(args.data), "--output", str(output), "--resume"]
        try:
            train_script().main([str(experiment.path), *options_of(run, args), *moved, *where])
        except SystemExit as end:
            if not isinstance(end.code, int) or end.code <= 128:  # above: stopped by a signal
                raise
            status = end.code
        if not is_finished(output):
            return status or 143
    file = result_file(run, args)
    if file.is_file():
        print(f"{file} is kept: {run.key} was trained again only for its weights")
        return status
    recipe = recipe_of(experiment, run, args)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, result_of(experiment, run, recipe, options_of(run, args), args, started))
    return status


def is_finished(output: Path) -> bool:
    """Whether the run in a folder has reached its last step."""
    found = checkpoint.find_checkpoint(output) if output.is_dir() else None
    return found is not None and found[1].done


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
            place = f"{number} of {len(runs)}"
            if is_recorded(experiment, run, args) and not is_needed(experiment, run, runs, args):
                print(f"== {run.key} has a result already and is not trained, {place}: {result_file(run, args)}")
                continue
            if status := train_run(experiment, run, args):
                print(f"stopped on request in {run.key}, {place}; the same command continues")
                sys.exit(status)
            print(f"== {run.key} is finished, {place}", flush=True)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {describe_error(error)}")
    print(report.table(load(args.results), experiment.path.stem))


if __name__ == "__main__":
    main()
