"""What ``--resume`` knows of the data that a run began with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.tiny_coco import annotation, content, write

from pkdzoo.data import CocoDataset
from pkdzoo.training.resume import about_annotations, check_same_data


def facts(folder: Path, data: dict[str, Any], masks: bool) -> dict[str, Any]:
    dataset = CocoDataset(*write(folder, data), with_masks=masks)
    return about_annotations(dataset, dataset)


def with_ignored() -> dict[str, Any]:
    data = content()
    data["annotations"].append(annotation(5, 7, [10, 10, 20, 20], ignore=1))
    return data


@pytest.mark.parametrize(
    ("masks", "change", "said"),
    [
        (True, {"segmentation": [[5, 6, 25, 6, 25, 16]]}, "the masks of the train images and the masks of the val"),
        (True, {"segmentation": {"size": [40, 60], "counts": [250, 10, 2140]}}, "the masks of the train images"),
        (False, {"area": 55}, "areas, crowd regions or objects marked 'ignore' of the val images"),
        (False, {"ignore": 1}, "the train images or their boxes"),
    ],
)
def test_what_else_than_boxes_changed_is_named(tmp_path: Path, masks: bool, change: Any, said: str) -> None:
    before = facts(tmp_path / "a", with_ignored(), masks)
    check_same_data(tmp_path, before, facts(tmp_path / "b", with_ignored(), masks))
    changed = with_ignored()
    changed["annotations"][0].update(change)
    with pytest.raises(ValueError, match=f"the data changed since .*{said}"):
        check_same_data(tmp_path, before, facts(tmp_path / "c", changed, masks))


def test_an_ignored_object_counts_in_validation_only(tmp_path: Path) -> None:
    before, changed = facts(tmp_path / "a", with_ignored(), False), with_ignored()
    changed["annotations"][-1]["bbox"][0] += 1
    after = facts(tmp_path / "b", changed, False)
    assert {key for key in before if before[key] != after[key]} == {"val_truth_sha256"}


def test_masks_that_are_not_read_do_not_count(tmp_path: Path) -> None:
    changed = content()
    changed["annotations"][0]["segmentation"] = [[5, 6, 25, 6, 25, 16]]
    check_same_data(tmp_path, facts(tmp_path / "a", content(), False), facts(tmp_path / "b", changed, False))
