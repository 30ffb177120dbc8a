"""Detections of any program, read from COCO's results format, measure what they measured inside."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.commands import fails, run
from helpers.tiny_coco import content, image, write
from PIL import Image

from pkdzoo import create_detector
from pkdzoo.cli.writers import open_detection_writer
from pkdzoo.data import find_split, make_shapes, open_dataset
from pkdzoo.dataset_tools.convert import convert
from pkdzoo.evaluation import CocoEvaluator, evaluate_results, read_results
from pkdzoo.evaluation.ground_truth import FileNameIndex
from pkdzoo.inference import Result
from pkdzoo.structures import Detections

pytestmark = pytest.mark.filterwarnings("ignore:.*the lowest score is")  # it is, in most of these small files
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
    for number, found in read_results(path, {3: 0, 7: 1}).items():
        assert torch.equal(found.boxes.float(), FOUND[number].boxes)
        assert torch.equal(found.scores.float(), FOUND[number].scores)
        assert torch.equal(found.labels, FOUND[number].labels)


def test_nothing_found_is_nothing_right(truth: Path, tmp_path: Path) -> None:
    assert evaluate_results(save(tmp_path, []), truth, "pycocotools")["AP"] == 0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("{", "is not a JSON file"),
        ("[" * 100_000, "nested too deeply"),
        ([{**ROW, "image_id": 10**30}], "row 0 holds a number that is not finite or too large"),
        ({"annotations": []}, "it is an object without 'images', 'categories'. Write a list of detections"),
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
    with pytest.raises(ValueError, match=r"train\.txt is not a JSON file: found '0' where '\{' was expected"):
        evaluate_results(found, tmp_path / "train.txt")


def saved(folder: Path, paths: dict[int, str], suffix: str = ".json") -> Path:
    """FOUND as ``pkdzoo predict --save`` writes it, with image ids in the order of the paths."""
    path = folder / f"saved{suffix}"
    with open_detection_writer(path, ("dog", "cat", "bird")) as writer:  # another order than the data set's
        for number, name in paths.items():
            found = FOUND.get(number, Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long()))
            size = (60, 40) if number == 4 else (40, 60)  # as in the data set
            writer.add(Result(found.boxes, found.scores, 1 - found.labels, ("dog", "cat", "bird"), size, name))
    return path


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@pytest.mark.parametrize("start", ["", "/elsewhere/images/", "../images/", "C:\\images\\"])
def test_saved_predictions_are_matched_by_the_names_of_images_and_classes(
    truth: Path, tmp_path: Path, suffix: str, start: str
) -> None:
    inside = CocoEvaluator(truth, "pycocotools")
    inside.update(list(FOUND), list(FOUND.values()))
    path = saved(tmp_path, {7: f"{start}c.png", 10: f"{start}a.png", 4: f"{start}deep/b.png"}, suffix)
    assert evaluate_results(path, truth, "pycocotools") == inside.compute()
    if suffix == ".json":  # its annotations alone have the names of the images, too
        rows = json.loads(path.read_text())["annotations"]
        renamed = [{**row, "category_id": {1: 7, 2: 3}[row["category_id"]]} for row in rows]
        assert evaluate_results(save(tmp_path, renamed), truth, "pycocotools") == inside.compute()


def test_rows_with_ids_of_another_file_are_refused(truth: Path, tmp_path: Path) -> None:
    rows = [{**ROW, "id": 1, "area": 12, "iscrowd": 0}]
    with pytest.raises(ValueError, match=r"row 0 is an annotation of a data set, .* evaluate the whole file"):
        evaluate_results(save(tmp_path, rows), truth)


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_images_and_classes_that_the_data_set_lacks_are_named(truth: Path, tmp_path: Path, suffix: str) -> None:
    with pytest.raises(ValueError, match=r"row 0 cannot be matched: the data set has no image of the name 'z\.png'"):
        evaluate_results(saved(tmp_path, {10: "z.png"}, suffix), truth)
    data = content()
    data["categories"][0]["name"] = "wolf"
    other = write(tmp_path, data, with_images=False)[0]
    with pytest.raises(ValueError, match=r"row \d has the class 'dog'\. Known names: cat, wolf"):
        evaluate_results(saved(tmp_path, {10: "a.png"}, suffix), other)


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@pytest.mark.parametrize("second", ["train/a.png", "a.png"])
def test_two_images_of_one_name_are_refused(truth: Path, tmp_path: Path, suffix: str, second: str) -> None:
    path = tmp_path / f"saved{suffix}"
    with open_detection_writer(path, ("dog", "cat", "bird")) as writer:
        for name in ("val/a.png", second):
            found = FOUND[10]
            writer.add(Result(found.boxes, found.scores, found.labels, ("dog", "cat", "bird"), (40, 60), name))
    with pytest.raises(ValueError, match=rf"row \d is a second image .* by its name '{second}': leave out"):
        evaluate_results(path, truth)


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@pytest.mark.parametrize(
    ("stored", "words"), [((40, 60), "turns a photo as its EXIF tag says"), ((80, 120), "full size")]
)
def test_detections_on_another_size_than_the_boxes_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str, stored: tuple[int, int], words: str
) -> None:
    """A photo with an EXIF quarter turn whose boxes lie on the stored pixels, and one that was made smaller since."""
    annotations, images = write(tmp_path, content())
    exif = Image.Exif()
    exif[0x0112] = 6 if stored == (40, 60) else 1
    Image.fromarray(image(*stored)).save(images / "a.png", exif=exif)
    model = create_detector("fcos_r10w16", label_names=("dog", "cat"), resize=(64, 96))
    folder, found = model.save_pretrained(tmp_path / "tiny"), tmp_path / f"found{suffix}"
    assert run(capsys, "predict", folder, images, "--threshold", 0, "--save", found)[0] == 0
    message = fails(capsys, "eval", found, "--annotations", annotations)
    actual = "60 x 40" if stored == (40, 60) else "80 x 120"
    assert f"lie on {actual} pixels (h x w)" in message and "drawn on 40 x 60" in message and words in message
    data = content()
    for record in data["images"]:  # an annotation file without sizes has nothing to compare with
        del record["height"], record["width"]
    annotations.write_text(json.dumps(data))
    assert run(capsys, "eval", found, "--annotations", annotations)[0] == 0


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_saved_predictions_without_sizes_are_evaluated(truth: Path, tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path, {7: "c.png", 10: "a.png", 4: "deep/b.png"}, suffix)
    expected = evaluate_results(path, truth, "pycocotools")
    without = re.sub(r'"height": \d+, "width": \d+', '"note": 0', path.read_text())
    assert without.count('"note"') == 3
    path.write_text(without)
    assert evaluate_results(path, truth, "pycocotools") == expected


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_images_that_were_not_predicted_are_counted_aloud(
    truth: Path, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        low = {number: replace(found, scores=found.scores / 10) for number, found in FOUND.items()}
        monkeypatch.setitem(globals(), "FOUND", low)
        evaluate_results(saved(tmp_path, {7: "c.png", 10: "a.png", 4: "deep/b.png"}, suffix), truth)
    with pytest.warns(UserWarning, match=r"has 2 of the 3 images of .*instances\.json.*: predict all images"):
        evaluate_results(saved(tmp_path, {7: "c.png", 10: "a.png"}, suffix), truth)


def test_a_threshold_for_display_is_noticed(truth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(tmp_path, [{**ROW, "score": 0.31}, {**ROW, "score": 0.9}])
    with pytest.warns(UserWarning, match=r"the lowest score is 0\.31.*--threshold none --save"):
        evaluate_results(path, truth)
    code, _, err = run(capsys, "eval", path, "--annotations", truth)
    assert code == 0 and "the lowest score is 0.31" in err


def test_the_printed_threshold_keeps_what_its_numbers_count(
    truth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scores of a confident detector differ in the fifth digit only."""
    right = {**ROW, "category_id": 7, "bbox": [30, 20, 10, 10], "score": 0.99999}  # one of two dogs
    wrong = {**ROW, "category_id": 7, "image_id": 7, "score": 0.99996}
    code, out, _ = run(capsys, "eval", save(tmp_path, [right, wrong]), "--annotations", truth)
    (dog,) = [line.split() for line in out.splitlines() if line.startswith("dog") and line.count(".") > 1]
    assert code == 0 and dog[2:] == ["100.0", "50.0", "66.7"]
    assert 0.99996 <= float(dog[1]) < 0.99999


def test_numbers_of_double_precision_stay(tmp_path: Path) -> None:
    """Scores that are equal in float32, and an IoU of exactly 0.75 far from the corner of the image."""
    data = content()
    data["annotations"] = [{**data["annotations"][0], "bbox": [1000.1, 1000.1, 10, 10], "area": 100, "iscrowd": 0}]
    truth = write(tmp_path, data, with_images=False)[0]
    row = {key: data["annotations"][0][key] for key in ("image_id", "category_id", "bbox")}
    exact = {**row, "bbox": [1000.1, 1000.1, 7.5, 10], "score": 1.0}
    assert evaluate_results(save(tmp_path, [exact]), truth, "pycocotools")["AP"] == pytest.approx(60)
    wrong, right = {**row, "bbox": [1, 1, 5, 5], "score": 0.99999999}, {**row, "score": 0.999999999}
    assert evaluate_results(save(tmp_path, [wrong, right]), truth, "pycocotools")["AP"] == pytest.approx(100)


def test_an_ambiguous_name_is_refused() -> None:
    index = FileNameIndex(["a/1.png", "b/1.png", "c/2.png", "2.png"], [1, 2, 3, 4])
    assert [index.find(name) for name in ("x/b/1.png", "2.png", "c/2.png", "d/2.png", "./a/1.png")] == [2, 4, 3, 4, 1]
    with pytest.raises(ValueError, match=r"may be 'a/1\.png', 'b/1\.png'"):
        index.find("1.png")


@pytest.mark.parametrize("kind", ["coco", "voc", "yolo"])
def test_annotations_of_every_format(tmp_path: Path, kind: str) -> None:
    """Saved predictions of the objects themselves; the ids of images and classes differ between the formats."""
    shapes = make_shapes(tmp_path / "shapes", train=1, val=3, size=(64, 96))
    dataset = open_dataset(shapes, "val")
    names = tuple(dataset.label_names)
    with open_detection_writer(tmp_path / "found.jsonl", names) as writer:
        for k in range(len(dataset)):
            objects = dataset.load_instances(k)
            path = str(dataset.image_dir / dataset.file_name(k))
            writer.add(Result(objects.boxes, torch.ones(len(objects)), objects.labels, names, (64, 96), path))
    if kind != "coco":
        convert(shapes, tmp_path / kind, kind)
    annotations, _ = find_split(shapes if kind == "coco" else tmp_path / kind, "val")
    assert evaluate_results(tmp_path / "found.jsonl", annotations)["AP"] > 95  # VOC and YOLO round coordinates
