"""Comparison of several finished runs: a table of their metrics, and a sheet of their predictions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch.utils.data import DataLoader

from pkdzoo.data import CocoDataset
from pkdzoo.evaluation.saved_detections import DETECTIONS
from pkdzoo.models._registry import folder_of
from pkdzoo.models.detector import Detector
from pkdzoo.structures import Batch
from pkdzoo.training.build import val_dataset_for
from pkdzoo.training.evaluate import evaluate
from pkdzoo.training.loaders import val_loader
from pkdzoo.training.processes import run_on_main_process
from pkdzoo.training.recipe import Recipe
from pkdzoo.training.run_table import COLUMNS, FinishedRun, is_teacher, teacher_row
from pkdzoo.training.sheet import prediction_sheet
from pkdzoo.utils.files import sha256_of_bytes, write_json
from pkdzoo.utils.text import printable

TEACHER_DETECTIONS = f"teacher_{DETECTIONS}"


@dataclass
class TrainedRun:
    """A finished run.

    Attributes:
        recipe: of the run.
        student: the trained detector, as it was evaluated.
        teacher: the teacher of its distillation methods, or None.
        metrics: of the last evaluation.
        output: folder of the run.
        val_set: validation images.
        val_loader: batches of ``val_set``, prepared by Accelerate.
        accelerator: of the run.
    """

    recipe: Recipe
    student: Detector
    teacher: Detector | None
    metrics: dict[str, Any]
    output: Path
    val_set: CocoDataset
    val_loader: DataLoader[Batch]
    accelerator: Accelerator


def compare(runs: Sequence[TrainedRun], output: Path) -> list[dict[str, Any]]:
    """Evaluate the teacher, print one table and write ``comparison.json`` and ``predictions.png``.

    Args:
        runs: evaluated on the same images. The plain student of a distilled one is the first run without a teacher
            whose recipe is otherwise the same, with the same seed; a run that is itself the teacher of another one is
            no plain student.
        output: folder for the two files.

    Returns:
        The rows of the table.
    """
    rows = [
        {
            **_row(run.recipe.name, _role(run, runs), run.metrics, run.student, _student(run.recipe)),
            "settings": _settings(run),
            "seed": run.recipe.seed,
        }
        for run in runs
    ]
    teachers, teacher_models = _teachers(runs, rows, output / TEACHER_DETECTIONS)
    rows, models = [*teachers, *rows], [*teacher_models, *(run.student for run in runs)]
    add_gap(rows)

    def write() -> None:
        write_json(output / "comparison.json", rows)
        columns = list(zip(map(_title, rows), models))
        prediction_sheet(columns, runs[0].val_set).save(output / "predictions.png")
        print(f"\n{printable(table(rows), keep=chr(10))}")
        print_where(output, runs[-1].output, images=output / "predictions.png")

    run_on_main_process(write)
    return rows


def _teachers(
    runs: Sequence[TrainedRun], rows: Sequence[dict[str, Any]], saved: Path
) -> tuple[list[dict[str, Any]], list[Detector]]:
    """A row for each different teacher, and the teachers; adds to each distilled row the name of its teacher's row.

    The detections of the first teacher are written to ``saved``, for the report.
    """
    found: dict[str, dict[str, Any]] = {}
    models: list[Detector] = []
    for run, row in zip(runs, rows):
        row["teacher"] = None
        if run.teacher is None or run.recipe.distill is None or not _same_classes(run.teacher, run.val_set):
            continue
        distill = run.recipe.to_dict()["distill"]
        key = json.dumps([distill.get(name) for name in ("teacher", "teacher_args", "teacher_weights")], sort_keys=True)
        if key not in found:
            teacher = run.teacher.to(run.accelerator.device)
            alike = sum(model.name == teacher.name for model in models)
            name = f"{teacher.name} ({alike + 1})" if alike else teacher.name
            metrics = _evaluate_teacher(teacher, run, None if found else saved)
            found[key] = _row(name, "teacher", metrics, teacher)
            models.append(teacher)
        row["teacher"] = found[key]["name"]
    return list(found.values()), models


def _evaluate_teacher(teacher: Detector, run: TrainedRun, save: Path | None) -> dict[str, Any]:
    """Metrics of a teacher at its own image size and letterbox; at those of the student it may find less."""
    dataset, loader = run.val_set, run.val_loader
    if (teacher.resize, teacher.letterbox) != (run.recipe.data.eval_size, run.student.letterbox):
        data = run.recipe.data
        dataset = val_dataset_for(teacher, dataset)
        loader = run.accelerator.prepare(val_loader(dataset, data.eval_batch_size, data.workers))
    return evaluate(teacher, loader, dataset, run.accelerator, save=save)


def _settings(run: TrainedRun) -> str:
    """Digits that are equal for runs that differ in nothing but name, seed and teacher."""
    key = FinishedRun(run.output, run.recipe.to_dict(), run.metrics).key(with_teacher=False)
    return sha256_of_bytes(key.encode())[:8]


def print_where(output: Path, run: Path, images: Path | None = None) -> None:
    """Print where the results of finished runs are, and how to detect with them.

    Args:
        output: folder of the run, or of the comparison.
        run: folder of the run whose student the line that detects names.
        images: the sheet of predictions, if there is one.
    """
    print(f"\nweights and metrics   {output.resolve()}")
    if images is not None:
        print(f"images                {images.resolve()}")
    student = run / ("best" if (run / "best").is_dir() else "last")  # without a metric there is no best
    detect = "detect with them" if images is None else "detect with one "
    print(f"{detect}      pkdzoo predict {student} IMAGE --output out", flush=True)


def _same_classes(teacher: Detector, dataset: CocoDataset) -> bool:
    return tuple(teacher.label_names) == tuple(dataset.label_names)


def _title(row: dict[str, Any]) -> str:
    name = "teacher" if row["role"] == "teacher" else row["name"]
    return name if row["AP"] is None else f"{name}, AP {row['AP']:.1f}"


def _row(name: str, role: str, metrics: dict[str, Any], model: Detector, student: str | None = None) -> dict[str, Any]:
    own = {} if student is None else {"student": student}
    numbers = {key: metrics[key] for key in COLUMNS}
    return {"name": name, "role": role, **own, **numbers, "image_size": list(model.resize)}


def _student(recipe: Recipe) -> str:
    """The architecture that a recipe trains, as text."""
    arguments = json.dumps(recipe.to_dict()["model_args"], sort_keys=True) if recipe.model_args else ""
    return f"{recipe.model} {arguments}".strip()


def _role(run: TrainedRun, runs: Sequence[TrainedRun]) -> str:
    if run.teacher is not None:
        return "distilled"
    names = [other.recipe.distill.teacher for other in runs if other.recipe.distill is not None]
    folders = [folder.resolve() for name in names if (folder := folder_of(name)) is not None]
    return "its run" if is_teacher(run.output, folders) else "plain"


def add_gap(rows: list[dict[str, Any]]) -> None:
    """Add to each distilled row the share of the AP gap between its plain student and its teacher that it closes.

    The plain student is the one of the same seed, as in ``run_table.compare_runs``.
    """
    plain_rows: dict[Any, dict[str, Any]] = {
        _same_student(row): row for row in reversed(rows) if row["role"] == "plain"
    }
    for row in rows:
        plain, teacher = plain_rows.get(_same_student(row), {}).get("AP"), teacher_row(rows, row).get("AP")
        if row["role"] != "distilled" or teacher is None or plain is None or row["AP"] is None:
            continue
        # Without a gap, when the teacher is not better than the plain student, there is no share.
        row["gap_closed"] = (row["AP"] - plain) / (teacher - plain) if teacher > plain else None


def _same_student(row: dict[str, Any]) -> tuple[Any, ...]:
    return row.get("student"), row.get("settings"), row.get("seed")


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a table in aligned text."""
    width = max(len(row["name"]) for row in rows)
    lines = [f"{'':<{width}}  {'':<9}  " + "  ".join(f"{key:>5}" for key in COLUMNS) + "  gap closed"]
    for row in rows:
        numbers = "  ".join(f"{'-' if row[key] is None else format(row[key], '.1f'):>5}" for key in COLUMNS)
        gap = row.get("gap_closed")
        lines.append(
            f"{row['name']:<{width}}  {row['role']:<9}  {numbers}  {'' if gap is None else format(gap, '.0%'):>10}"
        )
    sizes = {tuple(row["image_size"]): row["name"] for row in reversed(rows) if "image_size" in row}
    if len(sizes) > 1:
        of_each = ", ".join(f"{short} x {long} of {name}" for (short, long), name in reversed(sizes.items()))
        lines.append(f"each is evaluated at its own image size (short x long side in pixels): {of_each}")
    return "\n".join(lines)
