"""Both folder layouts are found, and what is missing is said together with what is there."""

from __future__ import annotations

import pytest

from pkdzoo.data import find_split


def make(root, *paths):
    for path in paths:
        place = root / path
        if path.endswith("/"):
            place.mkdir(parents=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text("{}")


@pytest.mark.parametrize("split", ["train", "val"])
def test_cocos_own(tmp_path, split):
    make(tmp_path, f"annotations/instances_{split}2017.json", f"{split}2017/", "images/")
    file, folder = find_split(tmp_path, split)
    assert (file.name, folder.name) == (f"instances_{split}2017.json", f"{split}2017")


@pytest.mark.parametrize("folder", ["images", "images/test", "test"])
def test_short_names(tmp_path, folder):
    make(tmp_path, "annotations/instances_test.json", f"{folder}/")
    assert find_split(tmp_path, "test") == (tmp_path / "annotations/instances_test.json", tmp_path / folder)


def test_each_file_goes_with_its_own_folder(tmp_path):
    make(tmp_path, "annotations/instances_val.json", "val2017/", "images/")
    assert find_split(tmp_path, "val")[1].name == "images"


def test_given_places_win(tmp_path):
    make(tmp_path, "annotations/instances_val.json", "images/", "a.json", "b/")
    assert find_split(tmp_path, "val", tmp_path / "a.json", tmp_path / "b") == (tmp_path / "a.json", tmp_path / "b")
    assert find_split(None, "val", tmp_path / "a.json", tmp_path / "b") == (tmp_path / "a.json", tmp_path / "b")
    assert find_split(tmp_path, "val", json=tmp_path / "a.json")[1].name == "images"


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere does not exist; give the folder of the data set$"):
        find_split(tmp_path / "nowhere", "train")
    with pytest.raises(ValueError, match="is empty"):
        find_split(tmp_path, "train")
    make(tmp_path, "annotations/instances_val.json", "pictures/")
    with pytest.raises(
        ValueError, match=r"looked for annotations/instances_train2017.json or .*holds instances_val.json"
    ):
        find_split(tmp_path, "train")
    with pytest.raises(
        ValueError, match=r"no images for the val split: looked for images/val/.*holds annotations/, pict"
    ):
        find_split(tmp_path, "val")
    with pytest.raises(ValueError, match=r"no annotation file .*typo\.json"):
        find_split(tmp_path, "val", json=tmp_path / "typo.json")
    with pytest.raises(ValueError, match=r"no image folder .*typo"):
        find_split(tmp_path, "val", images=tmp_path / "typo")
    with pytest.raises(ValueError, match="where is the val set"):
        find_split(None, "val", json=tmp_path / "a.json")
