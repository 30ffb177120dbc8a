"""Pascal VOC folders: 1-based inclusive corners, flags, class order, and XML that must not be trusted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.coco_truth import BACKENDS
from PIL import Image

from pkdzoo import Detections
from pkdzoo.data import open_dataset
from pkdzoo.data.formats import voc
from pkdzoo.evaluation import CocoEvaluator

CAT = """
<object><name>cat</name><pose>Left</pose><truncated>1</truncated><occluded>1</occluded><difficult>0</difficult>
  <bndbox><xmax>20</xmax><xmin>1</xmin><ymin>3</ymin><ymax>12</ymax></bndbox>
  <part><name>head</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part>
</object>"""
DOG = """
<object><name> dog </name><difficult>1</difficult>
  <bndbox><xmin>10.5</xmin><ymin>1</ymin><xmax>60</xmax><ymax>40</ymax></bndbox></object>"""
SIZE = "<size><width>60</width><height>40</height><depth>3</depth></size>"


def write_voc(root: Path, documents: dict[str, str], split: str = "train", suffix: str = ".jpg") -> Path:
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, body in documents.items():
        text = body if body.startswith("<") and "<annotation>" in body else f"<annotation>{body}</annotation>"
        (root / "Annotations" / f"{name}.xml").write_text(text)
        Image.new("RGB", (60, 40), (len(name), 0, 0)).save(root / "JPEGImages" / f"{name}{suffix}")
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in documents))
    return root


class TestReading:
    def test_corners_count_from_one_and_belong_to_the_box(self, tmp_path: Path) -> None:
        root = write_voc(tmp_path, {"a": f"<filename>old.jpg</filename>{SIZE}{CAT}{DOG}"})
        content = voc.to_coco(root, "train")
        assert content["images"] == [{"id": 1, "file_name": "a.jpg", "width": 60, "height": 40}]
        cat, dog = content["annotations"]
        assert cat["bbox"] == [0, 2, 20, 10]  # the whole 20 x 10 pixels, not 19 x 9
        assert cat["area"] == 200
        assert dog["bbox"] == [9.5, 0, 50.5, 40]

    def test_flags_and_parts(self, tmp_path: Path) -> None:
        cat, dog = voc.to_coco(write_voc(tmp_path, {"a": SIZE + CAT + DOG}), "train")["annotations"]
        assert {k: cat.get(k) for k in ("truncated", "occluded", "pose", "ignore")} == {
            "truncated": 1, "occluded": 1, "pose": "Left", "ignore": None,
        }  # fmt: skip
        assert dog["ignore"] == 1
        assert "difficult" not in dog

    def test_a_data_set_like_any_other(self, tmp_path: Path) -> None:
        dataset = open_dataset(write_voc(tmp_path, {"a": SIZE + CAT + DOG, "b": SIZE + DOG}), "train")
        assert dataset.label_names == ["cat", "dog"]
        assert dataset.report.ignored == 2  # the difficult dogs
        sample = dataset[0]
        assert sample.instances.boxes.tolist() == [[0, 2, 20, 12]]
        assert sample.image.shape == (3, 40, 60)
        assert len(dataset.ground_truth()["bbox"]) == 3

    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize("layout", ["voc", "labelImg"])
    def test_difficult_objects_are_ignored_in_evaluation(self, tmp_path: Path, layout: str, backend: str) -> None:
        """As in VOC: they are not missed, and a detection of one is no mistake."""
        easy = CAT.replace("<xmin>1<", "<xmin>31<").replace("<xmax>20<", "<xmax>50<")
        hard = CAT.replace("<difficult>0<", "<difficult>1<")
        write_voc(tmp_path, {"a": SIZE + easy + hard, "b": SIZE + easy})
        if layout == "labelImg":
            (tmp_path / "ImageSets/Main/train.txt").unlink()
        dataset = open_dataset(tmp_path, "train")
        assert dataset.report.ignored == 1
        learned = [dataset.load_instances(k).boxes for k in range(2)]
        assert [boxes.tolist() for boxes in learned] == [[[30, 2, 50, 12]]] * 2
        hard_one = torch.tensor([[0.0, 2.0, 20.0, 12.0]])
        for found in (learned, [torch.cat([hard_one, learned[0]]), learned[1]]):
            evaluator = CocoEvaluator(dataset, backend)
            scores = [torch.linspace(0.9, 0.5, len(boxes)) for boxes in found]
            labels = [torch.zeros(len(boxes), dtype=torch.int64) for boxes in found]
            evaluator.update(dataset.image_ids.tolist(), list(map(Detections, found, scores, labels)))
            assert evaluator.compute()["AP"] == pytest.approx(100)

    def test_classes_are_those_of_all_splits(self, tmp_path: Path) -> None:
        write_voc(tmp_path, {"a": SIZE + DOG}, "train")
        write_voc(tmp_path, {"b": SIZE + CAT}, "val")
        assert [c["name"] for c in voc.to_coco(tmp_path, "train")["categories"]] == ["cat", "dog"]
        (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:::\ndog:1,2,3::\ncat:::\n")
        assert [c["name"] for c in voc.to_coco(tmp_path, "val")["categories"]] == ["dog", "cat"]
        (tmp_path / "classes.txt").write_text("cat\ndog\nbird\n")
        assert [c["name"] for c in voc.to_coco(tmp_path, "val")["categories"]] == ["cat", "dog", "bird"]

    @pytest.mark.parametrize("size", ["", "<size><width>0</width><height>0</height></size>"])
    def test_a_size_that_is_not_told_is_read_from_the_image(self, tmp_path: Path, size: str) -> None:
        root = write_voc(tmp_path, {"a": size + CAT}, suffix=".png")
        assert voc.to_coco(root, "train")["images"][0] == {"id": 1, "file_name": "a.png", "width": 60, "height": 40}
        (root / "JPEGImages" / "a.png").unlink()
        with pytest.raises(ValueError, match=r"1 of 1 images cannot be read.*no such file"):
            voc.to_coco(root, "train")

    def test_the_annotations_own_name_finds_the_image(self, tmp_path: Path) -> None:
        root = write_voc(tmp_path, {"a": f"<filename>b.jpg</filename>{SIZE}", "b": f"<filename>b.jpg</filename>{SIZE}"})
        assert [i["file_name"] for i in voc.to_coco(root, "train")["images"]] == ["a.jpg", "b.jpg"]

    @pytest.mark.parametrize(
        ("stated", "expected"),
        [
            ("<folder>cam2</folder>", "cam2/a.jpg"),
            ("<folder>images</folder><path>C:\\data\\cam1\\a.jpg</path>", "cam1/a.jpg"),
            ("<folder>old</folder><path>/old/a.jpg</path>", None),
            ("", None),
        ],
    )
    def test_of_images_of_one_name_the_annotation_tells_which(
        self, tmp_path: Path, stated: str, expected: str | None
    ) -> None:
        root = write_voc(tmp_path, {"a": f"<filename>a.jpg</filename>{stated}{SIZE}{CAT}"})
        for folder in ("cam1", "cam2"):
            (root / "JPEGImages" / folder).mkdir()
            Image.new("RGB", (60, 40)).save(root / "JPEGImages" / folder / "a.jpg")
        (root / "JPEGImages" / "a.jpg").unlink()
        if expected is not None:
            assert voc.to_coco(root, "train")["images"][0]["file_name"] == expected
            return
        with pytest.raises(ValueError, match=r"a\.xml: there are several images .*'cam1/a\.jpg', 'cam2/a\.jpg'"):
            voc.to_coco(root, "train")

    def test_images_may_lie_in_images(self, tmp_path: Path) -> None:
        root = write_voc(tmp_path, {"a": SIZE + CAT})
        (root / "JPEGImages").rename(root / "images")
        assert open_dataset(root, "train")[0].meta["file_name"] == "a.jpg"


class TestRefusals:
    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ("<!DOCTYPE x [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;'>]><annotation>&b;</annotation>", "DOCTYPE"),
            ('<!DOCTYPE x SYSTEM "file:///etc/hostname"><annotation></annotation>', "DOCTYPE"),
            ("<nothing><annotation></annotation></nothing>", "its root is <nothing>"),
            ("<annotation><object></annotation>", "mismatched tag"),
            (SIZE + "<object><name>cat</name></object>", "object 1 has no <bndbox>"),
            (SIZE + CAT + "<object><bndbox/></object>", "object 2 has no <name>"),
            (SIZE + CAT.replace("<xmin>1<", "<xmin>one<"), "<xmin> = 'one', which is not a number"),
            (SIZE + CAT.replace("<xmin>1<", "<xmin>Infinity<"), "not a number"),
            (SIZE + CAT.replace("<xmin>1<", "<xmin>1e400<"), "too large for a number of pixels"),
            (SIZE.replace("60", "1e999999999") + CAT, "too large for a number of pixels"),
            (SIZE + CAT.replace("<difficult>0<", "<difficult>perhaps<"), "'perhaps'; it is 0 or 1"),
            ("<a>" * 1_000_000, "more than 64 elements lie inside each other"),
            ("<a/>" * 5_000_000, "more than 16 MiB"),
        ],
    )
    def test_broken_files_are_named(self, tmp_path: Path, body: str, message: str) -> None:
        root = write_voc(tmp_path, {"a": body})
        with pytest.raises(ValueError, match=message) as caught:
            voc.to_coco(root, "train")
        assert "a.xml" in str(caught.value)

    def test_an_entity_is_refused_in_any_encoding(self, tmp_path: Path) -> None:
        text = "<?xml version='1.0' encoding='utf-16'?><!DOCTYPE x [<!ENTITY a 'b'>]><annotation>&a;</annotation>"
        file = tmp_path / "a.xml"
        file.write_bytes(text.encode("utf-16"))
        with pytest.raises(ValueError, match="DOCTYPE"):
            voc.parse(file)

    def test_a_long_text_is_shown_in_part(self, tmp_path: Path) -> None:
        root = write_voc(tmp_path, {"a": SIZE + CAT.replace("<xmin>1<", f"<xmin>{'9' * 100_000}<")})
        with pytest.raises(ValueError, match="too large for a number of pixels") as caught:
            voc.to_coco(root, "train")
        assert len(str(caught.value)) < 400

    def test_lists(self, tmp_path: Path) -> None:
        root = write_voc(tmp_path, {"a": SIZE + CAT})
        with pytest.raises(ValueError, match=r"no annotations for the val split.*holds train\.txt"):
            open_dataset(root, "val")
        (root / "ImageSets/Main/train.txt").write_text("a\nb\na\n")
        with pytest.raises(ValueError, match=r"lists 'a' more than once"):
            open_dataset(root, "train")
        (root / "ImageSets/Main/train.txt").write_text("a\nb\n")
        with pytest.raises(ValueError, match=r"b\.xml: there is no such file"):
            open_dataset(root, "train")
        (root / "ImageSets/Main/train.txt").write_text("a\n")
        (root / "classes.txt").write_text("dog\n")
        with pytest.raises(ValueError, match=r"'cat' is not among 'dog'"):
            open_dataset(root, "train")


class TestWriting:
    def coco(self, boxes: list[list[float]], **flags: int) -> dict:
        return {
            "images": [{"id": 9, "file_name": "deep/a.v2.png", "width": 60, "height": 40}],
            "annotations": [
                {"id": k, "image_id": 9, "category_id": 40, "bbox": box, "area": 1, "iscrowd": 0, **flags}
                for k, box in enumerate(boxes)
            ],
            "categories": [{"id": 40, "name": "zebra & co <1>"}, {"id": 3, "name": "猫"}],
        }

    def back(self, tmp_path: Path, coco: dict) -> dict:
        voc.from_coco(coco, tmp_path, "train")
        image = tmp_path / "JPEGImages" / coco["images"][0]["file_name"]
        image.parent.mkdir(parents=True)
        Image.new("RGB", (60, 40)).save(image)
        return voc.to_coco(tmp_path, "train")

    def test_every_float_survives(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        boxes = [[float(v) for v in row] for row in rng.uniform(0, 5000, (300, 4))]
        boxes += [[0.1, 0.2, 0.3, 1 / 3], [-3, -0.5, 70, 1e-7], [473.07, 395.93, 38.65, 28.67]]
        content = self.back(tmp_path, self.coco(boxes))
        assert [a["bbox"] for a in content["annotations"]] == boxes
        assert content["images"] == [{"id": 1, "file_name": "deep/a.v2.png", "width": 60, "height": 40}]
        assert [c["name"] for c in content["categories"]] == ["猫", "zebra & co <1>"]  # by id, not by alphabet
        assert {a["category_id"] for a in content["annotations"]} == {2}

    @pytest.mark.parametrize("flags", [{"iscrowd": 1}, {"ignore": 1}, {"truncated": 1, "occluded": 1}, {}])
    def test_flags_survive(self, tmp_path: Path, flags: dict[str, int]) -> None:
        (found,) = self.back(tmp_path, self.coco([[1, 2, 3, 4]], **flags))["annotations"]
        assert found == {
            "id": 1, "image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0, **flags,
        }  # fmt: skip
        text = (tmp_path / "Annotations" / "deep" / "a.v2.xml").read_text()
        assert f"<difficult>{int('iscrowd' in flags or 'ignore' in flags)}</difficult>" in text
        assert "<xmin>2</xmin>" in text
        assert "<xmax>4</xmax>" in text

    def test_what_is_lost_is_counted(self, tmp_path: Path) -> None:
        coco = self.coco([[1, 2, 3, 4], [float("nan"), 0, 1, 1]], segmentation=[[0, 0, 1, 1, 1, 0]])
        coco["annotations"].append({"image_id": 77, "category_id": 3, "bbox": [0, 0, 1, 1]})
        assert voc.from_coco(coco, tmp_path, "train") == {
            "segmentations": 1, "boxes that are not numbers": 1, "annotations of images that are not listed": 1,
        }  # fmt: skip

    def test_refusals(self, tmp_path: Path) -> None:
        coco = self.coco([])
        for name in ("../../evil.jpg", "/evil.jpg", "c:\\evil.jpg", "a\\..\\..\\evil.jpg"):
            coco["images"][0]["file_name"] = name
            with pytest.raises(ValueError, match="leads out of the data set's folder"):
                voc.from_coco(coco, tmp_path, "train")
        coco["images"] = [
            {"id": k, "file_name": f"a.{s}", "width": 60, "height": 40} for k, s in enumerate(("jpg", "png"))
        ]
        with pytest.raises(ValueError, match=r"two images need Annotations/a\.xml"):
            voc.from_coco(coco, tmp_path, "train")
        coco["categories"].pop()
        with pytest.raises(ValueError, match="the splits have different classes"):
            voc.from_coco(coco, tmp_path, "val")
        for name in (" cat", "a\nb", ""):
            coco["categories"] = [{"id": 1, "name": name}]
            with pytest.raises(ValueError, match="class names cannot be empty"):
                voc.from_coco(coco, tmp_path / "other", "val")
        coco["categories"] = [{"id": 1, "name": "cat"}, {"id": 2, "name": "cat"}]
        with pytest.raises(ValueError, match="'cat' occurs twice"):
            voc.from_coco(coco, tmp_path / "other", "val")
        assert not (tmp_path / "other").exists()
