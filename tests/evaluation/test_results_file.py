"""Detections of any program, read from COCO's results format, measure what they measured inside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_coco import content, write

from pkdzoo.evaluation import CocoEvaluator, evaluate_results, read_results
from pkdzoo.structures import Detections

FOUND = {
    10: Detections(torch.tensor([[5.0, 6, 25, 16], [31, 20, 40, 31]]), torch.tensor([0.9, 0.75]), torch.tensor([0, 1])),
    4: Detections(torch.tensor([[2.0, 2, 12, 20]]), torch.tensor([0.5]), torch.tensor([1])),
}
ROW = {"image_id": 10, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    return write(tmp_path, content(), with_images=False)[0]


def save(folder: Path, rows: Any) -> Path:
    path = folder / "found.json"
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows))
    return path


def test_there_and_back(truth: Path, tmp_path: Path) -> None:
    inside = CocoEvaluator(truth, "pycocotools")
    inside.update(list(FOUND), list(FOUND.values()))
    path = save(tmp_path, inside.to_coco_results())
    expected = inside.compute()
    assert expected["AP"] > 10  # something was found
    assert evaluate_results(path, truth, "pycocotools") == expected
    for image, found in read_results(path, {3: 0, 7: 1}).items():
        assert torch.allclose(found.boxes, FOUND[image].boxes)
        assert torch.equal(found.scores, FOUND[image].scores)
        assert torch.equal(found.labels, FOUND[image].labels)


def test_nothing_found_is_nothing_right(truth: Path, tmp_path: Path) -> None:
    assert evaluate_results(save(tmp_path, []), truth, "pycocotools")["AP"] == 0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("{", "is not JSON"),
        ({"annotations": []}, "holds dict, not a list"),
        ([ROW, {"image_id": 10}], "row 1 is not a detection"),
        ([{**ROW, "bbox": [1, 2, 3]}], "row 0 is not a detection"),
        ([{**ROW, "score": float("nan")}], "row 0 holds a number that is not finite"),
        ([{**ROW, "category_id": 1}], "row 0 has category_id 1, the annotation file's are 3 to 7"),
        ([{**ROW, "image_id": 99}], "image id 99 is not in the data set"),
    ],
)
def test_what_is_no_results_file(truth: Path, tmp_path: Path, rows: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_results(save(tmp_path, rows), truth)


def test_annotations_that_are_no_json_are_named(tmp_path: Path) -> None:
    found = save(tmp_path, [ROW])
    (tmp_path / "train.txt").write_text("000001\n000002\n")
    with pytest.raises(ValueError, match=r"train\.txt is not JSON.*pkdzoo data convert"):
        evaluate_results(found, tmp_path / "train.txt")
