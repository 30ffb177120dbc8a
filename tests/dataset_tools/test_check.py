"""Every kind of finding, each made on purpose in a data set that is otherwise clean; and the contact sheet."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.tiny_coco import annotation, content, image
from helpers.tiny_coco import write as write_one
from PIL import Image

from pkdzoo.data import check_headers, make_shapes, open_dataset
from pkdzoo.dataset_tools.check import check
from pkdzoo.dataset_tools.check_report import CheckReport
from pkdzoo.dataset_tools.convert import convert
from pkdzoo.dataset_tools.preview import preview
from pkdzoo.inference.draw import class_color
from pkdzoo.training import Data, Recipe
from pkdzoo.training.build import build_datasets, find_data


def clean() -> dict[str, Any]:
    data = content()
    for row in data["annotations"]:
        row.pop("segmentation")
    return data


def write(root: Path, **splits: dict[str, Any]) -> Path:
    """Splits with images of their own, in COCO's layout."""
    for k, (split, data) in enumerate(splits.items()):
        file, images = write_one(root / "building", data)
        for n, path in enumerate(sorted(p for p in images.rglob("*") if p.is_file())):
            height, width = np.asarray(Image.open(path)).shape[:2]
            Image.fromarray(image(height, width, 100 * k + n)).save(path)
        (root / "images").mkdir(exist_ok=True)
        images.rename(root / "images" / split)
        (root / "annotations").mkdir(exist_ok=True)
        file.rename(root / "annotations" / f"instances_{split}.json")
    return root


def words(report: CheckReport) -> dict[str, int]:
    found = [*report.findings, *(f for split in report.splits for f in split.findings)]
    return {("E " if f.error else "") + f.what: f.count for f in found}


class TestCounts:
    def test_a_clean_data_set(self, tmp_path: Path) -> None:
        report = check(write(tmp_path, train=clean(), val=clean()))
        assert words(report) == {}
        assert report.errors == 0
        train = report.splits[0]
        assert (train.images, train.boxes, train.empty) == (3, 4, 1)
        assert train.classes == {"cat": {"boxes": 2, "images": 1}, "dog": {"boxes": 2, "images": 2}}
        assert train.image_sides == {"smallest": (60, 40), "largest": (60, 40)}
        assert train.boxes_per_image == {"mean": pytest.approx(4 / 3), "largest": 3.0}
        assert train.areas == {"small": 3, "medium": 1, "large": 0}
        assert train.box_sides["50%"] == pytest.approx((200**0.5 + 300**0.5) / 2)
        assert train.overlaps == {"0.5": 0, "0.7": 0, "0.9": 0}  # crowd overlaps whatever it likes
        assert "train: 3 images, 4 boxes, 2 classes" in str(report)
        assert str(report).endswith("errors: 0")
        assert json.loads(json.dumps(report.to_dict()))["splits"][1]["split"] == "val"

    def test_every_format(self, tmp_path: Path) -> None:
        shapes = make_shapes(tmp_path / "shapes", train=3, val=2, size=(96, 128))
        expected = check(shapes).to_dict()["splits"]
        for to in ("voc", "yolo"):
            convert(shapes, tmp_path / to, to)
            report = check(tmp_path / to)
            assert report.format == to
            for mine, theirs in zip(report.to_dict()["splits"], expected):
                assert {**mine, "annotations": "", "image_dir": ""} == {**theirs, "annotations": "", "image_dir": ""}

    def test_overlaps(self, tmp_path: Path) -> None:
        data = clean()
        data["annotations"] = [
            annotation(1, 10, [0, 0, 20, 20]),
            annotation(2, 10, [0, 0, 20, 16]),  # 0.8 of the first
            annotation(3, 10, [0, 0, 20, 12]),  # 0.6 of the first, 0.75 of the second
            annotation(4, 10, [0, 0, 20, 20], 7),
            annotation(5, 4, [0, 0, 20, 20]),
        ]
        report = check(write(tmp_path, train=data))
        assert report.splits[0].overlaps == {"0.5": 3, "0.7": 3, "0.9": 0}
        assert words(report) == {"boxes that repeat one of another class (IoU over 0.9)": 1}


class TestBoxes:
    @pytest.mark.parametrize(
        ("box", "expected"),
        [
            ([5, 5, 0, 10], "E boxes without area, or not of numbers"),
            ([5, 5, -3, 10], "E boxes without area, or not of numbers"),
            ([5, float("nan"), 3, 10], "E boxes without area, or not of numbers"),
            ([60, 5, 3, 10], "E boxes outside their image"),
            ([-9, 5, 8, 10], "E boxes outside their image"),
            ([50, 5, 11, 10], "boxes that extend over the edge of their image"),
            ([50, 5, 10.4, 10], None),
            ([0, 0, 60, 39.5], "boxes of the whole image"),
            ([0, 0, 60, 38], None),
            ([40, 5, 2.9, 10], "boxes thinner than 3 pixels"),
            ([5, 6, 20, 10.5], "boxes that repeat another of their class (IoU over 0.9)"),
        ],
    )
    def test_one_box(self, tmp_path: Path, box: list[float], expected: str | None) -> None:
        data = clean()
        data["annotations"].append(annotation(9, 10, box))
        report = check(write(tmp_path, train=data))
        assert words(report) == ({} if expected is None else {expected: 1})
        assert report.errors == (expected or "").startswith("E ")
        if expected:
            assert report.splits[0].findings[0].examples[0].startswith("a.png: cat [")

    def test_examples_are_few(self, tmp_path: Path) -> None:
        data = clean()
        data["annotations"] += [annotation(9 + k, 10, [k, 5, 0, 10]) for k in range(7)]
        (found,) = check(write(tmp_path, train=data)).splits[0].findings
        assert (found.count, len(found.examples)) == (7, 5)
        assert str(found).splitlines()[0] == "  ERROR  boxes without area, or not of numbers: 7"
        assert str(found).splitlines()[-1].strip() == "..."

    def test_many_boxes_in_one_image(self, tmp_path: Path) -> None:
        """More than are compared at a time."""
        data = clean()
        data["annotations"] = [annotation(k, 10, [k % 50, k // 50, 4, 4]) for k in range(1500)]
        data["annotations"].append(annotation(1500, 10, [7, 20, 4, 4]))
        report = check(write(tmp_path, train=data))
        assert words(report)["boxes that repeat another of their class (IoU over 0.9)"] == 1
        assert report.splits[0].overlaps == {"0.5": 1501, "0.7": 2, "0.9": 2}


class TestRecords:
    def test_what_belongs_to_nothing(self, tmp_path: Path) -> None:
        data = clean()
        data["annotations"] += [annotation(8, 99, [1, 2, 5, 5]), annotation(9, 4, [20, 40, 9, 9], 50)]
        data["categories"].append({"id": 8, "name": "bird"})
        data["images"].append({**data["images"][0], "id": 10})
        report = check(write(tmp_path, train=data))
        assert words(report) == {
            "E images listed more than once": 1,
            "E image ids that occur more than once": 1,
            "E annotations of images that are not listed": 1,
            "E annotations of classes that are not listed": 1,
            "classes without a box": 1,
            "images more than once in a split, byte for byte": 1,
        }
        assert "image_id 99: cat [1, 2, 5, 5]" in str(report)
        assert "deep/b.png: category 50 [20, 40, 9, 9]" in str(report)

    def test_broken_annotations_are_a_finding(self, tmp_path: Path) -> None:
        root = write(tmp_path, train=clean(), val=clean())
        (root / "annotations/instances_train.json").write_text("{")
        report = check(root)
        assert words(report) == {"E invalid annotations": 1}
        assert report.splits[1].boxes == 4

    def test_nothing_in_it(self, tmp_path: Path) -> None:
        report = check(write(tmp_path, train={"images": [], "annotations": [], "categories": []}))
        assert report.splits[0].images == 0
        with pytest.raises(ValueError, match="no annotations for the train split"):
            check(tmp_path / "images")
        with pytest.raises(ValueError, match="no annotations for the val split"):
            check(tmp_path, splits=["val"])


class TestAnnotations:
    def test_classes_of_crowd_regions_alone(self, tmp_path: Path) -> None:
        data = clean()
        for row in data["annotations"]:
            row["iscrowd"] = int(row["category_id"] == 7)
        report = check(write(tmp_path, train=data))
        assert words(report)["classes with crowd regions only, which are not learned"] == 1
        assert "dog" in str(report)

    def test_areas_of_another_unit(self, tmp_path: Path) -> None:
        data = clean()
        for row, area in zip(data["annotations"], (0, 1e-3, 1e6, 2400)):
            row["area"] = area
        assert words(check(write(tmp_path, train=data)))["areas that do not fit their boxes"] == 3


class TestImages:
    @pytest.mark.parametrize("decode", [True, False])
    def test_missing_broken_and_of_another_size(self, tmp_path: Path, decode: bool) -> None:
        root = write(tmp_path, train=clean())
        (root / "images/train/a.png").unlink()
        (root / "images/train/deep/b.png").write_bytes(b"no image")
        Image.new("RGB", (30, 40)).save(root / "images/train/c.png")
        report = check(root, decode=decode)
        assert words(report) == {
            "E missing images": 1,
            "E unreadable images": 1,
            "E images of another size": 1,
        }
        assert report.errors == 3
        assert "it has 40 x 30 pixels (h x w), but its boxes were drawn on 40 x 60" in str(report)

    @pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no such device")
    def test_a_device_is_no_image(self, tmp_path: Path) -> None:
        root = write(tmp_path, train=clean())
        file = root / "annotations" / "instances_train.json"
        data = json.loads(file.read_text())
        data["images"][0]["file_name"] = "/dev/zero"  # has no end
        file.write_text(json.dumps(data))
        assert "it is no file" in str(check(root, decode=False))

    def test_only_decoding_finds_a_cut_file(self, tmp_path: Path) -> None:
        root = write(tmp_path, train=clean())
        file = root / "images/train/a.png"
        file.write_bytes(file.read_bytes()[:3000])
        assert words(check(root)) == {"E unreadable images": 1}
        assert words(check(root, decode=False)) == {}

    def test_a_turned_image_is_no_other_size(self, tmp_path: Path) -> None:
        root = write(tmp_path, train=clean())
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(image(40, 60, 77)).save(root / "images/train/a.png", exif=exif)  # boxes on stored pixels
        assert words(check(root)) == {}
        Image.fromarray(image(60, 40, 77)).save(root / "images/train/a.png", exif=exif)  # boxes on turned pixels
        assert words(check(root)) == {}

    def test_the_same_image_twice(self, tmp_path: Path) -> None:
        root = write(tmp_path, train=clean(), val=clean(), test=clean())
        one = (root / "images/train/a.png").read_bytes()
        (root / "images/val/c.png").write_bytes(one)
        (root / "images/test/c.png").write_bytes((root / "images/test/a.png").read_bytes())
        report = check(root)
        assert words(report) == {
            "E images in more than one split, byte for byte": 1,
            "images more than once in a split, byte for byte": 1,
        }
        assert "train/a.png = val/c.png" in str(report)

    def test_files_that_nobody_mentions(self, tmp_path: Path) -> None:
        root = write(tmp_path, train=clean(), val=clean())
        Image.new("RGB", (30, 40)).save(root / "images/train/more.png")
        assert words(check(root)) == {"image files that no annotation mentions": 1}
        assert words(check(root, splits=["train"])) == {}

    def test_other_classes_in_another_split(self, tmp_path: Path) -> None:
        data = clean()
        data["categories"][0]["name"] = "wolf"
        report = check(write(tmp_path, train=clean(), val=data))
        assert words(report) == {"E splits with different classes": 2}
        assert "val: cat, wolf" in str(report)

    def test_names_decide_and_not_ids(self, tmp_path: Path) -> None:
        data = clean()
        data["categories"] = [{"id": 1, "name": "dog"}, {"id": 9, "name": "cat"}]
        for row in data["annotations"]:
            row["category_id"] = {7: 1, 3: 9}[row["category_id"]]
        assert words(check(write(tmp_path, train=clean(), val=data))) == {}
        del data["categories"][1]
        data["annotations"] = [row for row in data["annotations"] if row["category_id"] == 1]
        assert words(check(write(tmp_path / "fewer", train=clean(), val=data))) == {"splits with different classes": 2}

    def test_an_image_without_size_has_no_boxes_outside(self, tmp_path: Path) -> None:
        convert(write(tmp_path / "coco", train=clean()), tmp_path / "yolo", "yolo")
        (tmp_path / "yolo/images/train/a.png").write_bytes(b"no image")
        assert words(check(tmp_path / "yolo")) == {"E unreadable images": 1, "classes without a box": 1}


class TestWhatTrainingRefuses:
    """check and training agree: what one refuses, the other calls an error."""

    def refused(self, root: Path) -> str:
        with pytest.raises(ValueError, match="instances_") as caught:
            build_datasets(Recipe("tiny", "retina_r10w16"), find_data(Data(), root))
        return str(caught.value)

    def test_fractions(self, tmp_path: Path) -> None:
        data = clean()
        for row in data["annotations"]:
            x, y, w, h = row["bbox"]
            row["bbox"] = [x / 60, y / 60, w / 60, h / 60]
        root = write(tmp_path, train=data, val=clean())
        assert "0 of 3 images have a box" in self.refused(root)
        found = words(check(root))
        assert found == {"E boxes of at most 1 pixel, probably fractions: multiply them by the image's sides": 4}

    def test_a_single_small_box_is_no_fraction(self, tmp_path: Path) -> None:
        data = clean()
        data["annotations"].append(annotation(9, 10, [0, 0, 1, 1]))
        assert words(check(write(tmp_path, train=data))) == {"boxes thinner than 3 pixels": 1}

    def test_one_name_for_two_classes(self, tmp_path: Path) -> None:
        data = clean()
        data["categories"][0]["name"] = "cat"
        root = write(tmp_path, train=data, val=data)
        assert "the class name 'cat' occurs twice" in self.refused(root)
        report = check(root)
        assert words(report) == {"E annotations that training or evaluation refuses": 1}
        assert report.splits[0].classes == {"cat (3)": {"boxes": 2, "images": 1}, "cat (7)": {"boxes": 2, "images": 2}}

    def test_a_validation_split_without_boxes(self, tmp_path: Path) -> None:
        root = write(tmp_path, train=clean(), val={**clean(), "annotations": []})
        assert "0 of 3 images have a box of your classes" in self.refused(root)
        found = words(check(root))
        assert found == {"E annotations that training or evaluation refuses": 1, "classes without a box": 2}

    def test_an_image_that_is_cut_off(self, tmp_path: Path) -> None:
        root = write(tmp_path, train=clean(), val=clean())
        file = root / "images/val/deep/b.png"
        file.write_bytes(file.read_bytes()[:200])
        assert words(check(root)) == {"E unreadable images": 1}
        (problem,) = check_headers(open_dataset(root, "val"))
        assert problem.startswith(str(file)) and "truncated" in problem
        assert check_headers(open_dataset(root, "train")) == []


class TestMissingSplits:
    @pytest.mark.parametrize(("split", "errors"), [("test", 0), ("val", 1)])
    def test_a_split_that_is_named_and_not_there_is_a_finding(self, tmp_path: Path, split: str, errors: int) -> None:
        root = tmp_path / "yolo"
        convert(write(tmp_path / "coco", train=clean(), val=clean()), root, "yolo")
        text = (root / "data.yaml").read_text()
        gone = text.replace("images/val", "images/gone") if split == "val" else f"{text}test: images/gone\n"
        (root / "data.yaml").write_text(gone)
        report = check(root)
        prefix = "E " if errors else ""
        assert words(report) == {f"{prefix}the {split} set is missing": 1} and report.errors == errors
        with pytest.raises(ValueError, match="images/gone"):
            check(root, splits=[split])


class TestPreview:
    def test_boxes_names_and_order(self, tmp_path: Path) -> None:
        data = clean()
        root = write(tmp_path, train=data)
        sheet = preview(root, "train", count=9, columns=2, tile=120)
        assert sheet.width == 2 * 126 + 6
        pixels = np.asarray(sheet)
        # a.png is 60 x 40, drawn at twice its size at (6, 6); the dog's box is [30, 20, 10, 10]
        assert tuple(pixels[6 + 2 * 20 + 10, 6 + 2 * 30]) == class_color(1)
        assert tuple(pixels[6 + 2 * 30 - 1, 6 + 2 * 30 + 10]) == class_color(1)
        assert (np.asarray(preview(root, "train", count=9, columns=2, tile=120)) == pixels).all()
        assert preview(root, "train", count=1, columns=2, tile=120).width == 126 + 6

    def test_what_cannot_be_drawn_is_said(self, tmp_path: Path) -> None:
        data = clean()
        data["annotations"].append(annotation(9, 10, [5, float("nan"), 3, 10]))
        data["annotations"].append(annotation(10, 10, [5, 5, -30, 10]))
        root = write(tmp_path, train=data)
        red = [(np.asarray(preview(root, tile=100)) == (255, 120, 120)).all(2).sum()]
        (root / "images/train/c.png").write_bytes(b"no image")
        red.append((np.asarray(preview(root, tile=100)) == (255, 120, 120)).all(2).sum())
        assert red[0] == 0 < red[1]
        with pytest.raises(ValueError, match="count and columns from 1 up, tile from 32 up"):
            preview(root, count=0)
        with pytest.raises(ValueError, match="val split"):
            preview(root, "val")

    def test_a_long_name_keeps_its_end(self, tmp_path: Path) -> None:
        data = clean()
        data["images"] = [{**data["images"][0], "file_name": "x" * 100 + ".png"}]
        data["annotations"] = data["annotations"][:1]
        assert preview(write(tmp_path, train=data), tile=64).width == 76


def test_check_runs_without_torch(tmp_path: Path) -> None:
    """Importing torch takes longer than checking a small data set."""
    write(tmp_path, train=clean(), val=clean())
    code = (
        "import sys\n"
        "from pkdzoo.dataset_tools.check import check\n"
        f"report = check({str(tmp_path)!r})\n"
        "assert report.errors == 0, report\n"
        "assert not {'torch', 'torchvision', 'accelerate'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
