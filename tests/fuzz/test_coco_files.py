"""Fuzzing of COCO annotation files, with and without masks, and of files of detections."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz.fuzzing import fuzz, mutate_bytes
from helpers.tiny_coco import annotation, content
from pycocotools import mask as coco_mask

from pkdzoo.data import CocoDataset
from pkdzoo.evaluation import CocoEvaluator, evaluate_results
from pkdzoo.structures import Detections

COMPRESSED = coco_mask.encode(np.asfortranarray(np.eye(60, 40, dtype=np.uint8)))["counts"].decode()
VALUES: list[Any] = [
    None, True, False, "", "0", "1", "a", "\ud800", "../x", [], {}, [[]], 0, -1, 1, 0.5, 1e999, float("nan"), 5e8, -5e8,
    1e308, 2**31, 2**32 + 40, 2**63, 10**400, [1, 2, 3, 4], {"size": [40, 60], "counts": [0, 5]},
    [[1, 2, 3, 4, 5, 5e8]],
]  # fmt: skip


def with_masks() -> dict[str, Any]:
    data = content()
    data["annotations"] += [
        annotation(5, 4, [1, 1, 20, 20], segmentation={"size": [60, 40], "counts": [0, 100, 2300]}),
        annotation(6, 4, [1, 1, 20, 20], segmentation={"size": [60, 40], "counts": COMPRESSED}, iscrowd=1),
        annotation(7, 7, [1, 1, 20, 20], segmentation=[[1, 2.5, 30, 4, 5, 36], [7, 8, 9, 1, 2, 3]], ignore=1),
    ]
    return data


def change_a_value(rng: random.Random, text: bytes) -> bytes:
    """Replace, remove or repeat one value of the JSON tree; or mutate the bytes where it is none any more."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return mutate_bytes(rng, text)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        node, parent, key = data, None, None
        while isinstance(node, (dict, list)) and node and (parent is None or rng.random() < 0.85):
            parent, key = node, rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
            node = node[key]
        if parent is None:
            break
        chance = rng.random()
        if chance < 0.15:
            del parent[key]
        elif chance < 0.25 and isinstance(parent, list):
            parent.insert(key, copy.deepcopy(node))
        elif chance < 0.4 and isinstance(node, str) and node:
            place = rng.randrange(len(node))
            parent[key] = node[:place] + chr(rng.choice((48, 111, 112, 127, 233, 0))) + node[place + 1 :]
        elif chance < 0.55 and isinstance(node, (int, float)):
            parent[key] = -node if rng.random() < 0.5 else node * 1000
        else:
            parent[key] = rng.choice(VALUES)
    return json.dumps(data).encode()


def read_data_set(path: Path) -> None:
    """Open a data set, decode all masks, and evaluate its own objects."""
    for masks in (False, True):
        dataset = CocoDataset(path, path.parent, with_masks=masks)
        str(dataset.report)
        objects = [dataset.load_instances(k) for k in range(len(dataset))] if dataset.sizes.max() < 1000 else []
    detections = [Detections(o.boxes, o.boxes.new_ones(len(o)), o.labels) for o in objects]
    evaluator = CocoEvaluator(path, "pycocotools")
    evaluator.update(dataset.image_ids.tolist()[: len(detections)], detections)
    evaluator.compute(thresholds=True)


def read_detections(path: Path) -> None:
    """Evaluate a file of detections."""
    truth = path.parent / "truth.json"
    if not truth.exists():
        truth.write_text(json.dumps(content()))
    evaluate_results(path, truth, "pycocotools", thresholds=True)


@pytest.mark.slow
def test_annotation_files() -> None:
    seeds = {
        "plain.json": json.dumps(content()).encode(),
        "masks.json": json.dumps(with_masks(), indent=1).encode(),
    }
    # a thousand repetitions of an object are compared with each other in pycocotools, which takes seconds
    report = fuzz(read_data_set, seeds, mutate=change_a_value, memory=1 << 30, hang=60)
    assert report.cases > 100
    assert not report.findings, report


@pytest.mark.slow
def test_files_of_detections() -> None:
    row = {"image_id": 10, "category_id": 3, "bbox": [1, 2, 20, 20], "score": 0.5}
    saved = {**content(), "annotations": [{"id": 1, **row, "area": 400, "iscrowd": 0, "file_name": "a.png"}]}
    line = {"path": "x/a.png", "size": {"height": 40, "width": 60}}
    line["detections"] = [{"name": "cat", "label": 0, "score": 0.5, "box_xyxy": [1, 2, 21, 22]}]
    other = {**line, "path": "x/deep/b.png", "size": {"height": 60, "width": 40}}
    seeds = {
        "rows.json": json.dumps([row, {**row, "image_id": 4}]).encode(),
        "saved.json": json.dumps(saved).encode(),
        "saved.jsonl": f"{json.dumps(line)}\n{json.dumps(other)}\n".encode(),
    }
    report = fuzz(read_detections, seeds, mutate=change_a_value, memory=1 << 30)
    assert report.cases > 100
    assert not report.findings, report
