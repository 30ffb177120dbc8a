"""Segmentations are checked before pycocotools draws them: damaged ones are counted, and their objects ignored."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.tiny_coco import content, write
from pycocotools import mask as coco_mask

from pkdzoo.data import CocoDataset
from pkdzoo.data.segmentations import INVALID, NONE, POLYGON, RUNS, Segments, decode_counts

SQUARE = [5, 6, 25, 6, 25, 16, 5, 16]
COMPRESSED = coco_mask.encode(np.asfortranarray(np.eye(40, 60, dtype=np.uint8)))["counts"].decode()


def kind_of(segmentation: Any) -> int:
    segments = Segments()
    segments.append(segmentation)
    return int(segments.kinds[0])


@pytest.mark.parametrize(
    "segmentation",
    [
        [[*SQUARE[:-1], None]],
        [[*SQUARE[:-1], math.nan]],
        [[*SQUARE[:-1], math.inf]],
        [[*SQUARE[:-1], 5e8]],
        [[*SQUARE[:-1], 10**30]],
        [[*SQUARE[:-1], "16"]],
        [[*SQUARE[:-2], [5], 16]],
        [[True] * 6],
        [[0, 0, 1e7, 0, 1e7, 1e7]],  # gigabytes of points
        [[0, 0, 1e6, 0, 1e6, 1e6]] * 3,
        [SQUARE, [*SQUARE[:-1], math.nan]],
        {"size": [40, 60], "counts": [0, 2399]},
        {"size": [40, 60], "counts": [0, 2401]},
        {"size": [40, 60], "counts": []},
        {"size": [40, 60], "counts": [2500, -100]},
        {"size": [40, 60], "counts": [0, 2400.0]},
        {"size": [40, 60], "counts": COMPRESSED[:-3]},
        {"size": [40, 60], "counts": COMPRESSED + "1"},
        {"size": [40, 61], "counts": COMPRESSED},
        {"size": [40, 60], "counts": "é"},
        {"size": [40, 60], "counts": "o" * 40},
        {"size": [40, 60], "counts": None},
        {"size": [40, 60]},
        {"size": [40], "counts": [2400]},
        {"size": [-40, -60], "counts": [2400]},
        {"size": [10**9, 10**9], "counts": [10**18]},
        {"size": ["40", 60], "counts": [2400]},
        "polygon",
        7,
    ],
    ids=str,
)
def test_what_pycocotools_must_not_see(segmentation: Any) -> None:
    assert kind_of(segmentation) == INVALID


def test_what_it_may_see() -> None:
    assert kind_of([SQUARE]) == kind_of([[-3.5, 6, 1e3, 6, 25, 16]]) == POLYGON
    assert kind_of({"size": [40, 60], "counts": [0, 2400]}) == RUNS
    assert kind_of({"size": [40.0, 60], "counts": COMPRESSED}) == RUNS
    assert kind_of(None) == kind_of([]) == kind_of([[1, 2, 3, 4]]) == kind_of(True) == NONE


@pytest.mark.parametrize("seed", range(5))
def test_compressed_counts_are_decoded_as_pycocotools_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = np.asfortranarray(rng.random((rng.integers(1, 90), rng.integers(1, 900))) < rng.random(), np.uint8)
    counts = decode_counts(coco_mask.encode(mask)["counts"])
    drawn = np.repeat(np.arange(len(counts)) % 2, counts).reshape(mask.shape, order="F")
    assert np.array_equal(drawn, mask)
    assert decode_counts(b"") == []


def dataset(folder: Path, segmentation: Any, rows: tuple[int, ...] = (0,), **options: Any) -> CocoDataset:
    data = content()
    for row in rows:
        data["annotations"][row]["segmentation"] = segmentation
    return CocoDataset(*write(folder, data), with_masks=True, **options)


def test_damaged_masks_are_counted_and_ignored(tmp_path: Path) -> None:
    found = dataset(tmp_path, [[*SQUARE[:-1], math.nan]], (0, 1))
    assert found.report.invalid_masks == 2
    assert "2 segmentations are damaged" in str(found.report)
    objects = found.load_instances(0)
    assert objects.crowd is not None and objects.crowd.tolist() == [True, False, True]
    assert objects.masks is not None and objects.masks.sum((1, 2)).tolist() == [0, 100, 2400]


def test_run_lengths_of_another_size_are_counted_and_ignored(tmp_path: Path) -> None:
    found = dataset(tmp_path, {"size": [60, 40], "counts": [0, 2400]})
    assert (found.report.other_size_masks, found.report.invalid_masks) == (1, 0)
    assert "1 segmentation is of another size than the image" in str(found.report)
    assert found.load_instances(0).crowd.tolist() == [True, False, True]  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"no annotation has a usable segmentation\. 4 segmentations are of another"):
        dataset(tmp_path, {"size": [1, 1], "counts": [0, 1]}, (0, 1, 2, 3))


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ({"size": [60, 40], "counts": [0, 2400]}, "1 are of another size"),
        ([[*SQUARE[:-1], 5e8]], "0 are of another size than their image, the others are damaged"),
    ],
)
def test_masks_cannot_be_evaluated_against_damaged_ones(tmp_path: Path, segmentation: Any, reason: str) -> None:
    """A mask left out would count as an object that was not found."""
    found = dataset(tmp_path, segmentation)
    with pytest.raises(ValueError, match=f"1 of 4 segmentations cannot be used .*{re.escape(reason)}"):
        found.ground_truth(segmentations=True)
    assert len(found.ground_truth()["bbox"]) == 4  # boxes are evaluated as ever


def test_classes_of_crowd_regions_alone_are_named(tmp_path: Path) -> None:
    data = content()
    for row in data["annotations"]:
        row["iscrowd"] = int(row["category_id"] == 7)
    found = CocoDataset(*write(tmp_path, data))
    assert "1 class has only crowd regions, which are not learned ('dog')" in str(found.report)
    assert "crowd regions" not in str(CocoDataset(*write(tmp_path, content())).report)


@pytest.mark.parametrize("factor", [0, 1e-4, 100])
def test_areas_of_another_unit_are_reported(tmp_path: Path, factor: float) -> None:
    data = content()
    for row in data["annotations"]:
        row["area"] *= factor
    report = CocoDataset(*write(tmp_path, data)).report
    assert report.other_areas == 4
    assert "4 areas do not fit their boxes" in str(report)
    json.dumps(vars(report))
