"""Comparison of several finished runs: a table of their metrics, and a sheet of their predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from PIL import Image, ImageDraw, ImageFont
from torch.utils.data import DataLoader

from pkdzoo.data import CocoDataset
from pkdzoo.data.image_io import read_image
from pkdzoo.inference.draw import draw_detections
from pkdzoo.models.detector import Detector
from pkdzoo.structures import Batch
from pkdzoo.training.evaluate import evaluate
from pkdzoo.training.recipe import Recipe
from pkdzoo.utils.files import write_json

COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")


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
        runs: evaluated on the same images; the first one without a teacher is the baseline of the others.
        output: folder for the two files.

    Returns:
        The rows of the table.
    """
    rows = [_row(run.recipe.name, "distilled" if run.teacher else "plain", run.metrics) for run in runs]
    models = [(run.recipe.name, run.student) for run in runs]
    distilled = next((run for run in runs if run.teacher is not None), None)
    if distilled is not None and distilled.teacher is not None and _same_classes(distilled.teacher, distilled.val_set):
        teacher = distilled.teacher.to(distilled.accelerator.device)
        metrics = evaluate(teacher, distilled.val_loader, distilled.val_set, distilled.accelerator)
        rows.insert(0, _row(teacher.name, "teacher", metrics))
        models.insert(0, (teacher.name, teacher))
    add_gap(rows)
    if runs[0].accelerator.is_main_process:
        text = table(rows)
        write_json(output / "comparison.json", rows)
        predictions(models, runs[0].val_set).save(output / "predictions.png")
        print(f"\n{text}\n\nweights, metrics and predictions.png: {output.resolve()}", flush=True)
    return rows


def _same_classes(teacher: Detector, dataset: CocoDataset) -> bool:
    return tuple(teacher.label_names) == tuple(dataset.label_names)


def _row(name: str, role: str, metrics: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "role": role, **{key: metrics[key] for key in COLUMNS}}


def add_gap(rows: list[dict[str, Any]]) -> None:
    """Add to each distilled row the share of the AP gap between plain student and teacher that it closes."""
    ap = {row["role"]: row["AP"] for row in reversed(rows)}
    teacher, plain = ap.get("teacher"), ap.get("plain")
    for row in rows:
        if row["role"] != "distilled" or teacher is None or plain is None or row["AP"] is None:
            continue
        # Without a gap, when the teacher is not better than the plain student, there is no share.
        row["gap_closed"] = (row["AP"] - plain) / (teacher - plain) if teacher > plain else None


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
    return "\n".join(lines)


def predictions(
    models: Sequence[tuple[str, Detector]], dataset: CocoDataset, count: int = 4, threshold: float = 0.3
) -> Image.Image:
    """A sheet of images: a row each, first the truth, then what each model sees.

    Args:
        models: with the names that stand above their columns.
        dataset: the first ``count`` of its images are shown.
        count: rows.
        threshold: detections below it are not drawn.
    """
    rows = []
    for index in range(min(count, len(dataset))):
        truth = dataset.load_instances(index)
        names = [dataset.label_names[label] for label in truth.labels.tolist()]
        pixels = read_image(dataset.image_dir / dataset.file_name(index))
        image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        cells = [draw_detections(image, truth.boxes.numpy(), truth.labels.tolist(), names, enlarge=True)]
        for _, model in models:
            result = model.predict(image, threshold=threshold)
            assert not isinstance(result, list)
            cells.append(result.plot())
        rows.append(cells)
    return sheet(["truth", *(name for name, _ in models)], rows)


def sheet(titles: Sequence[str], rows: Sequence[Sequence[Image.Image]], margin: int = 6) -> Image.Image:
    """Images in rows and columns on white, a title above each column."""
    widths = [max(row[k].width for row in rows) for k in range(len(titles))]
    heights = [max(cell.height for cell in row) for row in rows]
    head = 22
    canvas = Image.new(
        "RGB", (sum(widths) + margin * (len(widths) + 1), head + sum(heights) + margin * len(rows)), "white"
    )
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=13)
    x = margin
    for k, title in enumerate(titles):
        draw.text((x, 4), title, fill="black", font=font)
        y = head
        for row, height in zip(rows, heights):
            canvas.paste(row[k], (x, y))
            y += height + margin
        x += widths[k] + margin
    return canvas
