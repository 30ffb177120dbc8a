"""The images on which two detectors differ most, with the boxes of the ground truth and of each detector."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pkdzoo.data.image_files import UnreadableImage, open_image
from pkdzoo.evaluation.matches import Matches, errors_by_image
from pkdzoo.evaluation.thresholds import RIGHT
from pkdzoo.training.report.contenders import TEACHER
from pkdzoo.training.report.measures import Measured
from pkdzoo.utils.text import counted

IMAGES = 18
SIDE = 520  # pixels of the longer side of an embedded image
QUALITY = 80
MOST_BOXES = 300  # of one image and detector


def gallery(measured: Measured, threshold: float) -> list[dict[str, Any]]:
    """Images with their boxes as JSON values, those with the largest difference in errors first.

    An error is a wrong detection above the threshold, or an object that is not found (IoU 0.5). With one detector, the
    images with most errors come first. Images that cannot be read any more are left out.

    Args:
        measured: contenders with their matches.
        threshold: lowest score of a drawn detection, 0..1.
    """
    main = measured.main
    errors = errors_by_image(main[1], threshold).sum(axis=1)
    other = measured.plain
    differs = other is not None and other[0] is not main[0]
    rivals = errors_by_image(other[1], threshold).sum(axis=1) if other is not None and differs else errors * 0
    order = np.lexsort((-errors, -np.abs(errors - rivals)))
    names = dict(zip(np.asarray(measured.truth.image_ids).tolist(), measured.truth.file_names))
    sizes = dict(zip(np.asarray(measured.truth.image_ids).tolist(), np.asarray(measured.truth.sizes).tolist()))
    shown: list[dict[str, Any]] = []
    for position in order.tolist():
        if len(shown) == IMAGES:
            break
        number = int(main[1].image_ids[position])
        entry = _embedded(measured, names[number], tuple(sizes[number]))
        if entry is None:
            continue
        caption = f"{main[0].title}: {counted(int(errors[position]), 'error')}"
        if differs and other is not None:
            caption += f", {other[0].title}: {rivals[position]}"
        shown.append({**entry, "caption": caption, "tiles": _tiles(measured, number, threshold, entry)})
    return shown


def _embedded(measured: Measured, name: str, size: tuple[int, int]) -> dict[str, Any] | None:
    try:
        image = open_image(measured.images / name, size=size if all(size) else None)
    except (UnreadableImage, OSError):
        return None
    width, height = image.size
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)  # without the metadata of the photograph
    source = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    return {"name": name, "width": width, "height": height, "src": source}


def _tiles(measured: Measured, number: int, threshold: float, entry: dict[str, Any]) -> list[dict[str, Any]]:
    label = {category: k for k, category in enumerate(measured.truth.label_to_coco_id)}
    objects = measured.objects
    rows = np.flatnonzero((np.asarray(objects["image_id"]) == number) & ~np.asarray(objects["ignore"], bool))
    categories = np.asarray(objects["category_id"])[rows].tolist()
    truth = _boxes(np.asarray(objects["bbox"])[rows], entry)
    tiles = [{"title": "ground truth", "boxes": [[*b, label[c], None, 1] for b, c in zip(truth, categories)]}]
    for contender, matches in measured.rows:
        if contender.role != TEACHER or len(measured.rows) == 1:
            tiles.append({"title": contender.title, "boxes": _found(matches, number, threshold, entry, label)})
    return tiles


def _found(
    matches: Matches, number: int, threshold: float, entry: dict[str, Any], label: dict[int, int]
) -> list[list[Any]]:
    found = matches.found
    rows = np.flatnonzero((found["image_id"] == number) & (found["score"] > threshold))
    rows = rows[np.argsort(-found["score"][rows], kind="stable")][:MOST_BOXES]
    right = (matches.status[0][rows] == RIGHT).tolist()
    scores, categories = found["score"][rows].tolist(), found["category_id"][rows].tolist()
    boxes = _boxes(found["bbox"][rows], entry)
    return [
        [*box, label[category], round(score, 3), int(good)]
        for box, category, score, good in zip(boxes, categories, scores, right)
    ]


def _boxes(boxes: NDArray[np.float64], entry: dict[str, Any]) -> list[list[float]]:
    """x, y, width and height in percent of the image."""
    scale = 100 / np.array([entry["width"], entry["height"]] * 2, np.float64)
    rounded: list[list[float]] = np.round(boxes.reshape(-1, 4) * scale, 2).tolist()
    return rounded
