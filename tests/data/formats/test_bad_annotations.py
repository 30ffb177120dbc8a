"""Every broken annotation file gets a message that says what is wrong, and where."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.tiny_coco import annotation, content, write

from pkdzoo.data import CocoDataset


def load(tmp_path, data, **options):
    return CocoDataset(*write(tmp_path, data, with_images=False), **options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a JSON file"),
        ("<html>", "is not a JSON file"),
        ('{"images": [', "is not a JSON file"),
        ("[]", "holds a list, not an object"),
        ("{}", "no 'images' and no 'annotations' and no 'categories' at its top level, where it has nothing"),
        ('{"shapes": [], "imageData": ""}', "at its top level, where it has 'shapes', 'imageData'"),
        ('{"images": [], "annotations": []}', "it has no 'categories' at its top level"),
        ('{"images": {}, "annotations": [], "categories": []}', "'images' is not a list"),
        ('{"images": [], "images": [], "annotations": [], "categories": []}', "'images' occurs twice"),
        ('{"images": [], "annotations": [], "categories": []}', "'images' is an empty list"),
    ],
)
def test_not_a_coco_file(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path, text)
    assert "instances.json" in str(caught.value)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json"):
        CocoDataset(tmp_path / "nowhere.json", tmp_path)


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("images", {"id": None}, r"images\[1\] has 'id' = None"),
        ("images", {"id": "0001"}, r"images\[1\] has 'id' = '0001', which is not a whole number"),
        ("images", {"height": 0}, r"images\[1\] has 'height' = 0; it must be at least 1"),
        ("images", {"width": math.nan}, r"images\[1\] has 'width' = nan"),
        ("images", {"file_name": None}, r"images\[1\] has file_name = None"),
        ("categories", {"id": 2.5}, r"categories\[1\] has 'id' = 2.5"),
        ("annotations", {"bbox": [1, 2, 3]}, r"annotations\[1\] has bbox = \[1, 2, 3\]; it is \[x, y, width, height\]"),
        ("annotations", {"bbox": [1, 2, "3", 4]}, r"annotations\[1\] has bbox"),
        ("annotations", {"bbox": None}, r"annotations\[1\] has bbox = None"),
        ("annotations", {"image_id": 2**63}, r"annotations\[1\] has 'image_id' = 9223372036854775808, .* 64 bits"),
        ("annotations", {"image_id": "a"}, r"annotations\[1\] has 'image_id' = 'a'"),
    ],
)
def test_a_broken_record_is_named(tmp_path, section, change, message):
    data = content()
    data[section][1].update(change)
    with pytest.raises(ValueError, match=message):
        load(tmp_path, data)


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("images", "id"),
        ("images", "width"),
        ("annotations", "image_id"),
        ("annotations", "category_id"),
        ("annotations", "bbox"),
    ],
)
def test_a_missing_key_is_named(tmp_path, section, key):
    data = content()
    del data[section][1][key]
    with pytest.raises(ValueError, match=rf"{section}\[1\] has (no '{key}'|bbox = None)"):
        load(tmp_path, data)


@pytest.mark.parametrize("section", ["images", "annotations", "categories"])
def test_a_record_that_is_no_object(tmp_path, section):
    data = content()
    data[section][1] = [1, 2]
    with pytest.raises(ValueError, match=rf"{section}\[1\] is \[1, 2\], not an object"):
        load(tmp_path, data)


def test_unknown_category_ids_are_listed(tmp_path):
    data = content()
    data["annotations"] += [annotation(8, 4, [1, 1, 2, 2], 90), annotation(9, 4, [1, 1, 2, 2], 0)]
    with pytest.raises(ValueError, match=r"category id 0, 90, which is not in 'categories' \(3, 7\)"):
        load(tmp_path, data)


def test_a_category_id_twice(tmp_path):
    data = content()
    data["categories"].append({"id": 3, "name": "bird"})
    with pytest.raises(ValueError, match="category id 3 occurs twice"):
        load(tmp_path, data)


def test_category_names_twice_stay_apart_unless_names_decide(tmp_path):
    data = content()
    data["categories"][0]["name"] = "cat"
    assert load(tmp_path, data).label_names == ["cat (3)", "cat (7)"]
    with pytest.raises(ValueError, match="class name 'cat' occurs twice"):
        load(tmp_path, data, label_names=["cat"])


def test_classes_the_model_does_not_know_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"are not in label_names: 'dog' \(and the file has no 'cow'\)"):
        load(tmp_path, content(), label_names=["cow", "cat"])
    with pytest.raises(ValueError, match=r"has no class 'cow'; its classes are 'cat', 'dog'"):
        load(tmp_path, content(), label_names=["cow", "cat"], skip_other_classes=True)


def test_boxes_nobody_can_learn_from_are_counted(tmp_path):
    data = content()
    bad = {
        "no_size": [[1, 1, 0, 5], [1, 1, 5, -2], [1, 1, math.nan, 5], [1, 1, math.inf, 5]],
        "outside": [[60, 0, 5, 5], [-9, 3, 9, 5], [0, 40, 5, 5]],
        "thin": [[1, 1, 0.5, 5]],
    }
    for boxes in bad.values():
        data["annotations"] += [annotation(0, 10, box) for box in boxes]
    data["annotations"].append(annotation(0, 10, [-10, 30, 30, 30]))
    data["annotations"].append(annotation(0, 10, [1, 1, 5, 5], ignore=1))
    data["annotations"].append(annotation(0, 99, [1, 1, 5, 5]))
    found = load(tmp_path, data)
    counts = {name: getattr(found.report, name) for name in (*bad, "clipped", "ignored", "without_image", "boxes")}
    assert counts == {"no_size": 4, "outside": 3, "thin": 1, "clipped": 1, "ignored": 1, "without_image": 1, "boxes": 5}
    assert found.load_instances(0).boxes[-1].tolist() == [0, 30, 20, 40]
    for words in (
        "4 boxes left out: width or height",
        "3 boxes left out: outside",
        "1 box clipped",
        "5 boxes (1 crowd)",
    ):
        assert words in str(found.report)
    # an evaluation keeps them all but those of NaN and infinity
    assert len(found.ground_truth()["bbox"]) == len(data["annotations"]) - 2 - 1  # one has no image
    text = found.report.describe(evaluated=True)
    assert "5 boxes cannot be found by any detector (no size, or outside the image): counted as missed, as" in text
    assert ": 11 boxes (1 crowd) of 2 classes" in text
    assert "2 boxes left out: NaN or infinity; 1 annotation marked 'ignore': neither found nor missed; 1 ann" in text
    assert "clipped" not in text and "thinner" not in text


def test_two_images_of_one_id_are_refused(tmp_path):
    data = content()
    data["images"].append({"id": 10, "file_name": "other.png", "height": 9, "width": 9})
    with pytest.raises(ValueError, match=r"image id 10 belongs to 'a\.png', 'other\.png': give each image an id"):
        load(tmp_path, data)


def test_repeated_records_are_counted(tmp_path):
    data = content()
    data["images"].append(dict(data["images"][0]))
    data["annotations"].append(annotation(1, 4, [1, 1, 5, 5]))
    found = load(tmp_path, data)
    assert (found.report.duplicate_images, found.report.duplicate_annotations) == (1, 1)
    assert found.image_ids.tolist() == [10, 4, 7]
    assert found.file_name(0) == "a.png"
    assert [len(found.load_instances(k)) for k in range(3)] == [3, 2, 0]


def test_a_file_listed_under_two_ids_is_counted(tmp_path):
    data = content()
    data["images"] += [{**data["images"][0], "id": 11}, {**data["images"][0], "id": 12}, dict(data["images"][1])]
    found = load(tmp_path, data)
    assert (len(found), found.report.twice_listed, found.report.duplicate_images) == (5, 1, 1)
    assert "1 image is listed twice, under different ids" in str(found.report)
    assert load(tmp_path, content()).report.twice_listed == 0


def test_a_box_that_vanishes_in_single_precision_is_left_out(tmp_path):
    data = content()
    data["annotations"].append(annotation(0, 10, [59.9999999, 10, 30, 30]))
    found = load(tmp_path, data)
    assert (found.report.outside, found.report.clipped, found.report.boxes) == (1, 0, 4)
    boxes = found.load_instances(0).boxes
    assert bool((boxes[:, 2:] > boxes[:, :2]).all())


def test_no_box_at_all(tmp_path):
    data = content()
    with pytest.raises(
        ValueError, match=r"0 of 3 images have a box of your classes \('cat', 'dog'\)\. The file has no ann"
    ):
        load(tmp_path, {**data, "annotations": []})
    for row in data["annotations"]:
        row["bbox"] = [5, 5, 0, 0]
    with pytest.raises(ValueError, match=r"0 of 3 images .* 4 boxes left out: width or height is not above zero"):
        load(tmp_path, data)


def test_no_image_large_enough(tmp_path):
    with pytest.raises(ValueError, match=r"no image is left\. .*3 images left out: too small"):
        load(tmp_path, content(), min_image_size=41)


def test_masks_that_are_not_there(tmp_path):
    data = content()
    data["annotations"][1]["segmentation"] = []
    found = load(tmp_path, data, with_masks=True)
    assert found.report.without_mask == 1
    assert found.load_instances(1).crowd.tolist() == [True]
    for row in data["annotations"]:
        row["segmentation"] = []
    with pytest.raises(ValueError, match="no annotation has a segmentation; load it with with_masks=False"):
        load(tmp_path, data, with_masks=True)
    data["annotations"][0]["segmentation"] = {"counts": [1]}
    with pytest.raises(ValueError, match=r"no annotation has a usable segmentation\. .*1 segmentation is damaged"):
        load(tmp_path, data, with_masks=True)


def test_image_folders(tmp_path):
    file, images = write(tmp_path, content(), with_images=False)
    with pytest.raises(ValueError, match="images is empty: it should hold the 3 images"):
        CocoDataset(file, images).check_files()
    with pytest.raises(ValueError, match="is not a folder"):
        CocoDataset(file, tmp_path / "none").check_files()
    write(tmp_path, content())
    assert CocoDataset(file, images).check_files() == []
    (images / "deep" / "b.png").unlink()
    (images / "c.png").unlink()
    assert CocoDataset(file, images).check_files() == ["deep/b.png", "c.png"]


def test_wrong_words(tmp_path):
    with pytest.raises(ValueError, match=r"write 'raise' .* or 'skip'"):
        load(tmp_path, content(), on_error="ignore")


def test_a_box_of_the_whole_edge_is_no_clip(tmp_path):
    data = content()
    data["annotations"][0]["bbox"] = [0, 0, 60.2, 40]  # rounding of an annotator's tool
    found = load(tmp_path, data)
    assert found.report.clipped == 0
    assert torch.equal(found.load_instances(0).boxes[0], torch.tensor([0.0, 0.0, 60.0, 40.0]))
