"""The result file of a run: what was trained, by which program and teacher, and what came out."""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import torch
import torchvision

from pkdzoo import create_detector
from pkdzoo.distill.adapters.students import is_saved_student, saved_student
from pkdzoo.distill.methods.pkd import PKD
from pkdzoo.evaluation import METRICS
from pkdzoo.training import Recipe, build, checkpoint, loaders, run_folder
from pkdzoo.utils.files import write_json
from recipes.benchmarks.measure import commit, packages
from recipes.experiments.experiment_file import Experiment, Run, compared_with, teacher_key


def note_start(path: Path) -> None:
    """Add this program to those that trained a run: its commit to the earlier ones, its versions in their place."""
    commits = read_start(path)["commits"]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"commits": list(dict.fromkeys([*commits, commit()])), "versions": versions()})


def read_start(path: Path) -> dict[str, Any]:
    """Commits and versions that trained a run; empty ones for a run that has not begun."""
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"commits": [], "versions": {}}
    return found


def versions() -> dict[str, str | None]:
    """Versions of the packages that influence results; torch's includes the accelerator that it was built for."""
    builds = {"torch": torch.__version__, "torchvision": torchvision.__version__}
    return {"python": platform.python_version(), **packages(), **builds}


def result_of(
    experiment: Experiment, run: Run, recipe: Recipe, words: list[str], args: argparse.Namespace, started: Path
) -> dict[str, Any]:
    """The content of a result file.

    Args:
        experiment: of the run.
        run: the finished run.
        recipe: of the run, with the fields that this call changes.
        words: options of recipes/train.py.
        args: of the command line.
        started: what :func:`note_start` wrote.
    """
    output, start = args.output / run.key, read_start(started)
    about = json.loads((output / "run.json").read_text())
    found = checkpoint.find_checkpoint(output)
    assert found is not None
    threads = about.get("threads", torch.get_num_threads())
    file = f"recipes/experiments/{experiment.path.name}"
    return {
        "experiment": run.experiment,
        "variant": run.variant,
        "seed": run.seed,
        "role": "teacher" if run.key in experiment.teachers else "student",
        "command": " ".join(["accelerate launch recipes/train.py", file, *words]),
        "commits": start["commits"],
        "versions": {**start["versions"], "pkdzoo": about["pkdzoo"]},
        "hardware": f"{about['hardware']}, {threads} thread{'s' * (threads > 1)}",
        "date": about["date"],
        "teacher": about_teacher(experiment, run, about),
        **measured(experiment, run, args, output, found[1]),
        "recipe": recipe.to_dict(),
    }


def about_teacher(experiment: Experiment, run: Run, about: dict[str, Any]) -> dict[str, Any] | None:
    """Which weights taught a run: key of the run or name, AP and hash of the weights; None without a teacher.

    A teacher that is trained again, on another machine or with another version, is another teacher.
    """
    if run.recipe.distill is None:
        return None
    facts = about.get("teacher", {})  # none for a frozen pyramid without a method
    name = teacher_key(experiment, run) or run.recipe.distill.teacher
    return {"run": name, "AP": facts.get("teacher_AP"), "sha256": facts.get("teacher_sha256")}


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
        for batch in loaders.val_loader(val_set, run.recipe.data.eval_batch_size, 0):
            method(student.trace(batch, upto="features"), teacher.trace(batch, upto="features"), batch)
            found.append(torch.stack([method.logs[f"r{level}"] for level in range(len(method.pairs))]))
            if len(found) * run.recipe.data.eval_batch_size >= 100:
                break
    return {"teacher": compared, "r": [round(r, 4) for r in torch.stack(found).mean(0).tolist()]}
