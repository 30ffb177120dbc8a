"""Evaluation against annotation files with ignored objects, equal names, missing fields and broken records."""

from __future__ import annotations

import json

import pytest
import torch
from helpers.coco_truth import BACKENDS, detections, evaluate, truth, write
from pycocotools.mask import decode

from pkdzoo.evaluation import CocoEvaluator
from pkdzoo.evaluation.ground_truth import AnnotationFile


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("field", ["ignore", "difficult"])
def test_ignored_objects_count_neither_way(tmp_path, backend, field):
    """Found or not, an ignored object changes nothing; it takes any number of detections, by IoU."""
    marked = {field: 1}
    file = write(tmp_path, truth([[(2, 10, 10, 40, 40), (2, 100, 100, 50, 50, marked)]]))
    real, hit, inside = (0, 0.5, 10, 10, 50, 50), (0, 0.9, 100, 100, 150, 150), (0, 0.8, 100, 100, 120, 120)
    assert evaluate(file, [detections(real)], backend)["AP"] == pytest.approx(100)
    assert evaluate(file, [detections(real, hit)], backend)["AP"] == pytest.approx(100)
    again = (0, 0.7, 100, 100, 150, 150)
    assert evaluate(file, [detections(real, hit, again)], backend)["AP"] == pytest.approx(100)
    assert evaluate(file, [detections(real, inside)], backend)["AP"] == pytest.approx(50)  # no crowd: IoU is 0.16
    crowd = write(tmp_path, truth([[(2, 10, 10, 40, 40), (2, 100, 100, 50, 50, {"iscrowd": 1})]]))
    assert evaluate(crowd, [detections(real, hit, again, inside)], backend)["AP"] == pytest.approx(100)


@pytest.mark.parametrize("kinds", [("bbox",), ("bbox", "segm")])
def test_ignored_masks_count_neither_way(tmp_path, kinds):
    file = write(tmp_path, truth([[(2, 10, 10, 40, 40), (2, 100, 100, 50, 50, {"ignore": "1"})]]))
    masks = torch.zeros(3, 200, 300, dtype=torch.bool)
    masks[0, 10:50, 10:50] = masks[1:, 100:150, 100:150] = True
    found = detections(
        (0, 0.5, 10, 10, 50, 50), (0, 0.9, 100, 100, 150, 150), (0, 0.8, 100, 100, 150, 150), masks=masks
    )
    metrics = evaluate(file, [found], kinds=kinds)
    assert metrics["AP"] == pytest.approx(100)
    assert metrics.get("segm", metrics)["AP"] == pytest.approx(100)


@pytest.mark.parametrize("backend", BACKENDS)
def test_boxes_that_are_no_numbers_count_neither_way(tmp_path, backend):
    nan = float("nan")
    file = write(tmp_path, truth([[(2, 10, 10, 40, 40), (2, nan, nan, nan, nan)]]))
    real, elsewhere = (0, 0.5, 10, 10, 50, 50), (0, 0.4, 200, 100, 250, 150)
    assert evaluate(file, [detections(real)], backend)["AP"] == pytest.approx(100)
    assert evaluate(file, [detections(real, elsewhere)], backend)["AP"] == pytest.approx(100)
    assert evaluate(file, [detections(elsewhere)], backend)["AP"] == 0
    assert "1 box holds NaN or infinity and is left out" in AnnotationFile(file).remarks()[0]


def test_masks_without_an_area_are_small_by_their_pixels(tmp_path):
    """A triangle in a box of 40 x 40: 780 pixels are a small mask, 1,600 a medium box."""
    data = truth([[(2, 10, 10, 40, 40, {"segmentation": [[10, 10, 50, 10, 10, 50]]})]])
    del data["annotations"][0]["area"]
    file = write(tmp_path, data)
    rows = AnnotationFile(file).ground_truth(segmentations=True)["segmentation"]
    mask = torch.from_numpy(decode(rows[0])).bool()
    assert int(mask.sum()) < 32**2
    found = detections((0, 0.9, 10, 10, 50, 50), masks=mask[None])
    metrics = evaluate(file, [found], kinds=("bbox", "segm"))
    assert (metrics["APs"], metrics["APm"]) == (None, pytest.approx(100))
    assert (metrics["segm"]["APs"], metrics["segm"]["APm"]) == (pytest.approx(100), None)


def test_classes_of_one_name_keep_their_own_numbers(tmp_path):
    data = truth([[(2, 10, 10, 40, 40), (9, 100, 100, 50, 40)]])
    for row in data["categories"]:
        row["name"] = "cat"
    metrics = evaluate(write(tmp_path, data), [detections((0, 0.9, 10, 10, 50, 50))])
    assert metrics["per_class"] == {"cat (2)": pytest.approx(100), "cat (4)": None, "cat (9)": 0.0}


def test_names_and_sizes_may_be_missing_and_a_byte_order_mark_may_be_there(tmp_path):
    data = truth([[(2, 10, 10, 40, 40)]])
    for row in data["categories"]:
        del row["name"]
    for row in data["images"]:
        del row["height"], row["width"]
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(data), encoding="utf-8-sig")
    metrics = evaluate(file, [detections((0, 0.9, 10, 10, 50, 50))])
    assert metrics["per_class"] == {"2": pytest.approx(100), "4": None, "9": None}
    with pytest.raises(ValueError, match=r"images\[0\] has no 'height'"):  # masks are drawn at it
        evaluate(file, [detections(masks=torch.zeros(0, 200, 300))], kinds=("segm",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": None}, r"annotations\[0\] has bbox = None"),
        ({"iscrowd": "no idea"}, r"annotations\[0\] has 'iscrowd' = 'no idea'; write 0 or 1"),
        ({"category_id": None}, r"annotations\[0\] has 'category_id' = None"),
    ],
)
def test_the_broken_record_is_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        CocoEvaluator(write(tmp_path, truth([[(2, 10, 10, 40, 40, change)]])))


def test_two_images_of_one_id_are_refused(tmp_path):
    data = truth([[(2, 10, 10, 40, 40)], []])
    data["images"][1]["id"] = 5
    with pytest.raises(ValueError, match=r"image id 5 belongs to '0\.png', '1\.png'"):
        CocoEvaluator(write(tmp_path, data))
