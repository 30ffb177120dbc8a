"""Small annotation files and detections, and their evaluation."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch

from pkdzoo.evaluation import CocoEvaluator
from pkdzoo.structures import Detections

BACKENDS = ["pycocotools", pytest.param("faster", marks=pytest.mark.skipif(
    importlib.util.find_spec("faster_coco_eval") is None, reason="faster-coco-eval is not installed"
))]  # fmt: skip


def truth(boxes, **more):
    """A data set of one image a list; boxes are (category, x, y, w, h) with optional changes as a dict."""
    images = [{"id": 5 + k, "file_name": f"{k}.png", "height": 200, "width": 300} for k in range(len(boxes))]
    rows = []
    for k, image in enumerate(boxes):
        for category, x, y, w, h, *change in image:
            corners = [x, y, x + w, y, x + w, y + h, x, y + h]
            row = {"id": len(rows) + 1, "image_id": 5 + k, "category_id": category, "bbox": [x, y, w, h]}
            rows.append(
                {**row, "area": w * h, "iscrowd": 0, "segmentation": [corners], **(change[0] if change else {})}
            )
    categories = [{"id": number, "name": name} for number, name in ((2, "cat"), (9, "dog"), (4, "cow"))]
    return {"images": images, "annotations": rows, "categories": categories, **more}


def write(folder, data):
    file = folder / "truth.json"
    file.write_text(json.dumps(data))
    return file


def detections(*rows, masks=None):
    """Rows of (label, score, x1, y1, x2, y2)."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return Detections(table[:, 2:], table[:, 1], table[:, 0].long(), masks)


def evaluate(file, found, backend="pycocotools", **options):
    evaluator = CocoEvaluator(file, backend=backend, **options)
    evaluator.update(list(range(5, 5 + len(found))), found)
    return evaluator.compute()
