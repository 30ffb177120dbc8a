"""Evaluation of COCO results files, as mmdetection, torchvision and others write them.

A results file is a JSON list of ``image_id``, ``category_id``, ``bbox`` (x, y, width, height) and ``score``. Its
numbers equal those that ``CocoEvaluator`` computes for the same detections.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch

from pkdzoo.evaluation.coco import CocoEvaluator
from pkdzoo.structures import Detections


def read_results(path: str | Path, label_of: dict[int, int]) -> dict[int, Detections]:
    """Read the detections of each image.

    Args:
        path: the JSON file.
        label_of: label of each category id of the data set.

    Returns:
        Detections by image id, boxes as xyxy.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no list of results; the message has the number of the invalid row.

    Example:
        >>> import json, pathlib, tempfile
        >>> from pkdzoo.evaluation import read_results
        >>> results = pathlib.Path(tempfile.mkdtemp()) / "results.json"
        >>> row = {"image_id": 7, "category_id": 18, "bbox": [10, 20, 30, 40], "score": 0.9}
        >>> _ = results.write_text(json.dumps([row]))
        >>> read_results(results, {18: 0})[7].boxes.tolist()
        [[10.0, 20.0, 40.0, 60.0]]
    """
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(rows, list):
        raise ValueError(f"{path} is not a results file: it holds {type(rows).__name__}, not a list of detections")
    grouped: dict[int, list[tuple[int, float, list[float]]]] = {}
    for number, row in enumerate(rows):
        try:
            image, category, score = int(row["image_id"]), int(row["category_id"]), float(row["score"])
            x, y, width, height = (float(value) for value in row["bbox"])
        except (KeyError, TypeError, ValueError):
            raise ValueError(
                f"{path}: row {number} is not a detection: write image_id, category_id, bbox of four numbers, and score"
            ) from None
        if not all(map(math.isfinite, (x, y, width, height, score))):
            raise ValueError(f"{path}: row {number} holds a number that is not finite")
        if category not in label_of:
            known = f"{min(label_of)} to {max(label_of)}" if label_of else "none"
            raise ValueError(f"{path}: row {number} has category_id {category}, the annotation file's are {known}")
        grouped.setdefault(image, []).append((label_of[category], score, [x, y, x + width, y + height]))
    return {
        image: Detections(
            torch.tensor([box for _, _, box in rows]),
            torch.tensor([score for _, score, _ in rows]),
            torch.tensor([label for label, _, _ in rows]),
        )
        for image, rows in grouped.items()
    }


def evaluate_results(path: str | Path, annotations: str | Path, backend: str = "auto") -> dict[str, Any]:
    """Evaluate a results file; an image without a row is an image without detections.

    Args:
        path: the results file.
        annotations: the COCO annotation file.
        backend: see :class:`CocoEvaluator`.

    Returns:
        The twelve numbers in percent and ``per_class``.

    Raises:
        ValueError: as for :func:`read_results`, and for an image id that the annotation file lacks.

    Example:
        >>> import json, pathlib, tempfile
        >>> from pkdzoo.data import make_shapes
        >>> from pkdzoo.evaluation import evaluate_results
        >>> root = make_shapes(tempfile.mkdtemp(), train=1, val=2, size=(64, 96))
        >>> annotations = root / "annotations" / "instances_val2017.json"
        >>> keys = ("image_id", "category_id", "bbox")
        >>> truth = json.loads(annotations.read_text())["annotations"]
        >>> results = pathlib.Path(tempfile.mkdtemp()) / "results.json"
        >>> _ = results.write_text(json.dumps([{**{key: row[key] for key in keys}, "score": 1.0} for row in truth]))
        >>> round(evaluate_results(results, annotations)["AP"], 3)
        100.0
    """
    evaluator = CocoEvaluator(annotations, backend)
    detections = read_results(path, {number: label for label, number in enumerate(evaluator.truth.label_to_coco_id)})
    evaluator.update(list(detections), list(detections.values()))
    return evaluator.compute()
