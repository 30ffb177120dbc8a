"""YOLO folders: shares of the image, the many ways of data.yaml, and floats that come back as they were."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers.yolo_folders import PLAIN, read, write_yolo
from PIL import Image

from pkdzoo.data import open_dataset
from pkdzoo.data.formats import yolo
from pkdzoo.dataset_tools.check import check


class TestReading:
    def test_shares_become_pixels(self, tmp_path: Path) -> None:
        content = read(write_yolo(tmp_path, {"a": "1 0.5 0.5 0.25 0.5\n\n0 0.1 0.1 0.2 0.2\n", "b": None, "c": ""}))
        assert [i["file_name"] for i in content["images"]] == ["a.png", "b.png", "c.png"]
        assert content["images"][0] == {"id": 1, "file_name": "a.png", "width": 80, "height": 40}
        assert [(a["category_id"], a["bbox"], a["image_id"]) for a in content["annotations"]] == [
            (2, [30, 10, 20, 20], 1),
            (1, [0, 0, 16, 8], 1),
        ]
        assert content["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]

    def test_six_decimals_give_whole_pixels_within_a_thousandth(self, tmp_path: Path) -> None:
        Image.new("RGB", (640, 480)).save(write_yolo(tmp_path, {"a": ""}) / "images/train/a.png")
        x, y, w, h = 123, 45, 77, 301
        line = f"0 {(x + w / 2) / 640:.6f} {(y + h / 2) / 480:.6f} {w / 640:.6f} {h / 480:.6f}"
        (tmp_path / "labels/train/a.txt").write_text(line)
        np.testing.assert_allclose(read(tmp_path)["annotations"][0]["bbox"], [x, y, w, h], atol=1e-3)

    def test_polygons(self, tmp_path: Path) -> None:
        root = write_yolo(tmp_path, {"a": "0 0.25 0.25 0.75 0.25 0.5 0.75\n0 0.5 0.5 0.5 0.5"})
        polygon, box = read(root)["annotations"]
        assert polygon["bbox"] == [20, 10, 40, 20]
        assert polygon["segmentation"] == [[20, 10, 60, 10, 40, 30]]
        assert box["bbox"] == [20, 10, 40, 20]
        assert open_dataset(root, "train", with_masks=True)[0].instances.masks[0, 11:29].any(1).all()

    def test_a_data_set_like_any_other(self, tmp_path: Path) -> None:
        root = write_yolo(tmp_path, {"a": "1 0.5 0.5 0.25 0.5", "b": ""})
        for place in (root, root / "data.yaml"):
            dataset = open_dataset(place, "train")
            assert dataset.label_names == ["cat", "dog"]
            assert dataset[0].instances.boxes.tolist() == [[30, 10, 50, 30]]
            assert dataset.report.empty_images == 1
            assert len(dataset.ground_truth()["bbox"]) == 1
            assert dataset.check_files() == []
        assert len(open_dataset(None, "train", json=root / "data.yaml" / "train")) == 2

    def test_in_the_working_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(write_yolo(tmp_path, {"a": "1 0.5 0.5 0.25 0.5"}))
        for place in (".", "data.yaml", tmp_path):
            assert len(open_dataset(place, "train")[0].instances) == 1
        assert yolo.label_file(Path("/images/images/a.b.jpg")) == Path("/images/labels/a.b.txt")
        assert yolo.label_file(Path("photos/a.jpg")) == Path("photos/a.txt")

    def test_an_unreadable_image_fails_when_it_is_loaded(self, tmp_path: Path) -> None:
        root = write_yolo(tmp_path, {"a": "1 0.5 0.5 0.25 0.5", "b": "1 0.5 0.5 0.25 0.5"})
        (root / "images/train/b.png").write_bytes(b"no image")
        dataset = open_dataset(root, "train")
        assert len(dataset[0].instances.boxes) == 1
        with pytest.raises(ValueError, match=r"b\.png"):
            dataset[1]
        with pytest.raises(ValueError, match="1 of 2 images cannot be read"):
            read(root)

    def test_an_image_turned_by_its_tag(self, tmp_path: Path) -> None:
        root = write_yolo(tmp_path, {"a": "0 0.25 0.5 0.5 1"})
        for suffix in ("jpg", "png"):
            for old in (root / "images/train").iterdir():
                old.unlink()
            exif = Image.Exif()
            exif[0x0112] = 6
            Image.new("RGB", (80, 40)).save(root / f"images/train/a.{suffix}", exif=exif)
            sample = open_dataset(root, "train")[0]
            assert sample.image.shape == (3, 80, 40)
            assert sample.instances.boxes.tolist() == [[0, 0, 20, 80]]


class TestDescriptions:
    @pytest.mark.parametrize(
        ("text", "folder"),
        [
            ("path: .\ntrain: images/train\nnames: [cat, dog]", "images/train"),
            ("path: somewhere/else\ntrain: images/train\nnames: [cat, dog]", "images/train"),
            ("path: data\ntrain: images/train\nnames: [cat, dog]", "data/images/train"),
            ("train: ../train/images\nval: ../valid/images\nnames: [cat, dog]", "train/images"),
            ("train: [images/a, images/b]\nnames: [cat, dog]", "images/b"),
            ("train: images\nnames: [cat, dog]", "images"),
            ("train: images/train\nnames: {1: dog, 0: cat}", "images/train"),
        ],
    )
    def test_ways_to_name_a_folder(self, tmp_path: Path, text: str, folder: str) -> None:
        (tmp_path / "images/a").mkdir(parents=True)
        dataset = open_dataset(write_yolo(tmp_path, {"deep/x": "1 0.5 0.5 0.5 0.5"}, text, folder), "train")
        assert len(dataset) == 1
        assert dataset.label_names == ["cat", "dog"]
        assert dataset[0].instances.labels.tolist() == [1]

    @pytest.mark.parametrize("line", ["./images/train/x.png", "images/train/x.png", "{root}/images/train/x.png"])
    def test_lists_of_images(self, tmp_path: Path, line: str) -> None:
        root = write_yolo(tmp_path, {"x": "1 0.5 0.5 0.5 0.5"}, "train: train.txt\nnames: [cat, dog]")
        (root / "train.txt").write_text(line.format(root=root) + "\n")
        assert len(open_dataset(root, "train")[0].instances) == 1

    def test_valid_is_val(self, tmp_path: Path) -> None:
        text = "train: images/train\nvalid: images/valid\ntest:\nnames: [cat, dog]"
        root = write_yolo(tmp_path, {"x": "0 0.5 0.5 0.5 0.5"}, text, "images/valid")
        assert len(open_dataset(root, "val")) == 1
        assert list(yolo.describe(root / "data.yaml").splits) == ["train", "val"]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("train: [", "is not a YAML file"),
            ("- cat", "holds list"),
            ("train: images/train", "has no 'names'"),
            ("train: images/train\nnames: [cat, no]", "write it in quotes"),
            ("train: images/train\nnames: {1: cat, 2: dog}", "write 0 to 1"),
            ("train: images/elsewhere\nnames: [cat]", "does not exist; looked for"),
            ("val: images/train\nnames: [cat]", "has no 'train'; it has val"),
            ("names: [cat]", "and no other split; write e.g. 'train: images'"),
            ("train: images/train\nnames: [[cat]]", "the class name list is no text"),
            ("train: [[images/train]]\nnames: [cat]", "a path must be a text, not list"),
            ("!!python/object/apply:os.system ['exit 1']", "is not a YAML file"),
        ],
    )
    def test_refusals(self, tmp_path: Path, text: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            open_dataset(write_yolo(tmp_path, {"a": ""}, text), "train")

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("2 0.5 0.5 0.5 0.5", "class 2; 'names' has the classes 0 to 1"),
            ("0.5 0.5 0.5 0.5 0.5", "class 0.5"),
            ("nan 0.5 0.5 0.5 0.5", "class nan"),
            ("inf 0.5 0.5 0.5 0.5", "class inf"),
            ("0 0.5 0.5 0.5", "4 numbers; a box has 5"),
            ("0 0.5 0.5 0.5 0.5 0.9", "6 numbers"),
            ("0 x 0.5 0.5 0.5", "not all numbers"),
            ("0 nan 0.5 0.5 0.5", "no fractions of the image"),
            ("0 320 240 40 50", "no fractions of the image, which lie in 0..1"),
        ],
    )
    def test_broken_lines_are_named(self, tmp_path: Path, line: str, message: str) -> None:
        root = write_yolo(tmp_path, {"a": f"0 0.5 0.5 0.5 0.5\n{line}\n"})
        with pytest.raises(ValueError, match=message) as caught:
            read(root)
        assert "a.txt, object 2" in str(caught.value)

    def test_aliases_that_would_fill_the_memory(self, tmp_path: Path) -> None:
        nine = "".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 20))
        root = write_yolo(tmp_path, {"a": ""}, f"a0: &a0 [lol]\n{nine}train: images/train\nnames: *a19\n")
        with pytest.raises(ValueError, match="the class name list is no text"):
            read(root)

    def test_no_labels_at_all(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"no image of .* has a label file; looked for .*labels.train.a\.txt"):
            read(write_yolo(tmp_path, {"a": None}))


class TestWriting:
    def coco(self, boxes: list[list[float]], width: int = 640, height: int = 427, **more: object) -> dict:
        return {
            "images": [{"id": 9, "file_name": "deep/a.v2.png", "width": width, "height": height}],
            "annotations": [
                {"id": k, "image_id": 9, "category_id": 40, "bbox": box, "iscrowd": 0, **more}
                for k, box in enumerate(boxes)
            ],
            "categories": [{"id": 40, "name": "no"}, {"id": 3, "name": "猫: a"}],
        }

    def back(self, root: Path, coco: dict) -> dict:
        yolo.from_coco(coco, root, "train")
        image = coco["images"][0]
        path = root / "images/train" / image["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("1", (image["width"], image["height"])).save(path)
        return read(root)

    @pytest.mark.parametrize("size", [(640, 427), (7, 5), (9999, 333)])
    def test_pixels_survive(self, tmp_path: Path, size: tuple[int, int]) -> None:
        rng = np.random.default_rng(0)
        scale = np.array([*size, *size]) * 0.5
        boxes = [[round(float(v), k % 7) for v in rng.uniform(0.01, 1, 4) * scale] for k in range(500)]
        boxes = [box for box in boxes if min(box[2:]) > 0]
        content = self.back(tmp_path, self.coco(boxes, *size))
        assert len(boxes) > 300
        assert [a["bbox"] for a in content["annotations"]] == boxes
        assert content["images"][0]["file_name"] == "deep/a.v2.png"
        assert [c["name"] for c in content["categories"]] == ["猫: a", "no"]  # by id; and no is a text

    def test_finer_floats_survive_to_a_millionth_of_a_pixel(self, tmp_path: Path) -> None:
        boxes = np.random.default_rng(1).uniform(1, 300, (200, 4))
        found = [a["bbox"] for a in self.back(tmp_path, self.coco(boxes.tolist()))["annotations"]]
        np.testing.assert_allclose(found, boxes, rtol=0, atol=0.51e-6)

    def test_the_text_of_others_survives(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(2)
        rows = [[f"{v:.6f}" for v in (*rng.uniform(0.3, 0.7, 2), *rng.uniform(0.01, 0.3, 2))] for _ in range(300)]
        lines = "".join(f"1 {' '.join(row)}\n" for row in rows)
        text = "train: images/train\nnames: ['猫: a', 'no']"
        content = read(write_yolo(tmp_path / "a", {"deep/a.v2": lines}, text))
        yolo.from_coco(content, tmp_path / "b", "train")
        assert (tmp_path / "b/labels/train/deep/a.v2.txt").read_text() == lines

    def test_what_is_lost_is_counted(self, tmp_path: Path) -> None:
        coco = self.coco(
            [[1, 2, 3, 4], [1, 2, 0, 4], [1, 2, 3, -4], [9000, 0, 5, 5]], segmentation=[[0, 0, 1, 1, 1, 0]]
        )
        coco["annotations"][0:0] = [
            {"image_id": 9, "category_id": 3, "bbox": [0, 0, 9, 9], "iscrowd": 1},
            {"image_id": 9, "category_id": 3, "bbox": [0, 0, 9, 9], "ignore": 1},
        ]
        assert yolo.from_coco(coco, tmp_path, "train") == {
            "crowd regions": 1,
            "objects marked 'ignore' (VOC: difficult)": 1,
            "boxes without area": 2,
            "boxes far outside their image": 1,
            "segmentations": 1,
        }
        assert (tmp_path / "labels/train/deep/a.v2.txt").read_text().count("\n") == 1

    def test_the_description_names_every_split(self, tmp_path: Path) -> None:
        for split in ("train", "val"):
            yolo.from_coco(self.coco([]), tmp_path, split)
        content = yaml.safe_load((tmp_path / "data.yaml").read_text())
        assert content == {"train": "images/train", "val": "images/val", "names": {0: "猫: a", 1: "no"}}
        other = self.coco([])
        other["categories"].pop()
        with pytest.raises(ValueError, match="the splits have different classes"):
            yolo.from_coco(other, tmp_path, "test")

    def test_refusals(self, tmp_path: Path) -> None:
        coco = self.coco([])
        coco["images"] = [
            {"id": k, "file_name": f"a.{s}", "width": 6, "height": 4} for k, s in enumerate(("jpg", "png"))
        ]
        with pytest.raises(ValueError, match=r"two images need labels/train/a\.txt"):
            yolo.from_coco(coco, tmp_path, "train")
        coco["images"][0]["file_name"] = "../../evil.jpg"
        with pytest.raises(ValueError, match="leads out of"):
            yolo.from_coco(coco, tmp_path, "val")
        coco["annotations"] = [{"image_id": 0, "category_id": 8, "bbox": [0, 0, 1, 1]}]
        with pytest.raises(ValueError, match=r"annotations\[0\] has no usable"):
            yolo.from_coco(coco, tmp_path, "test")


class TestKeypoints:
    LINE = "1 0.5 0.5 0.25 0.5 0.1 0.1 2 0.2 0.2 1\n"

    def test_the_box_is_read_and_the_keypoints_are_counted(self, tmp_path: Path) -> None:
        content = read(write_yolo(tmp_path, {"a": self.LINE}, PLAIN + "kpt_shape: [2, 3]\n"))
        assert [(a["bbox"], "segmentation" in a) for a in content["annotations"]] == [([30, 10, 20, 20], False)]
        assert content["not_read"] == {"sets of keypoints": 1}

    @pytest.mark.parametrize("shape", ["[2, 4]", "[0, 3]", "3", "[1000000000000, 3]", "[a, b]"])
    def test_shapes_that_are_none(self, tmp_path: Path, shape: str) -> None:
        with pytest.raises(ValueError, match=r"kpt_shape is \[number of keypoints, 2 or 3\]"):
            read(write_yolo(tmp_path, {"a": self.LINE}, f"{PLAIN}kpt_shape: {shape}\n"))

    def test_another_number_of_keypoints(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"11 numbers; kpt_shape in data\.yaml asks for 17"):
            read(write_yolo(tmp_path, {"a": self.LINE}, PLAIN + "kpt_shape: [4, 3]\n"))

    @pytest.mark.parametrize(
        ("line", "doubtful"),
        [
            ("1 0.5 0.5 0.5 0.5 0.4 0.4 2 0.6 0.6 1 0 0 0 0.3 0.3 2\n", 1),  # visibility in every third place
            ("1 0.5 0.5 0.5 0.5 0.4 0.4 0.6 0.6 0.3 0.3\n", 1),
            ("1 0.1 0.1 0.4 0.1 0.4 0.5 0.1 0.5\n", 0),  # four corners
            ("1 0.1 0.1 0.4 0.1 0.4 0.5 0.3 0.6 0.1 0.5\n", 0),
            ("1 0.5 0.5 0.5 0.5\n", 0),
        ],
    )
    def test_keypoints_without_their_shape_are_reported(self, tmp_path: Path, line: str, doubtful: int) -> None:
        root = write_yolo(tmp_path, {"a": line}, PLAIN)
        found = {what: cases for what, cases, error in yolo.findings(root / "data.yaml/train") if error and cases}
        assert [len(cases) for what, cases in found.items() if "kpt_shape" in what] == [1] * doubtful
        write_yolo(tmp_path, {"a": line, "b": "1 0.5 0.5 0.5 0.5\n"}, PLAIN)  # boxes and polygons in one set
        assert not any("kpt_shape" in what and cases for what, cases, _ in yolo.findings(root / "data.yaml/train"))


class TestNumberOfClasses:
    @pytest.mark.parametrize(("nc", "cases"), [("3", 1), ("1", 1), ("'2'", 1), ("null", 0), ("2", 0)])
    def test_another_number_than_names_is_reported(self, tmp_path: Path, nc: str, cases: int) -> None:
        root = write_yolo(tmp_path, {"a": "1 0.5 0.5 0.5 0.5\n"}, f"{PLAIN}nc: {nc}\n")
        write_yolo(tmp_path, {"b": "1 0.5 0.5 0.5 0.5\n"}, f"{PLAIN}nc: {nc}\n", "images/val")
        report = check(root)
        found = [f for part in report.splits for f in part.findings if f.what.startswith("nc in data.yaml")]
        assert [(f.count, f.error) for f in found] == [(1, True)] * 2 * cases


class TestBounds:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("train: images/train\nnc: 1000000000", r"nc: 1000000000 classes; at most 100000"),
            (f"train: images/train\nnc: {'9' * 400}", "nc: a number of more than 18 digits classes; at most 100000"),
            (f"train: images/train\nnc: 0x{'f' * 9000}", "nc: a number of more than 18 digits classes"),
            (f"train: images/train\nnames: [a]\nkpt_shape: 0x{'f' * 9000}", "not a number of more than 18 digits"),
            ("train: images/train\nnc: true", "has no 'names'"),
            ("train: images/train\nnc: -3", "has no 'names'"),
            ("train: images/train\nnames: " + "[" * 200 + "]" * 200, "nested too deeply"),
            ("train: images/train\nnames: " + "[" * 100_000, "is not a YAML file"),
            ("a: &a {x: 1}\nb: {<<: [*a, *a]}\ntrain: images/train\nnames: [cat]", "merges keys"),
            ("train: images/train\nnames: [2001-99-99]", "is not a YAML file"),
            ("train: images/train\nnames: [" + "a" * (2 << 20) + "]", "has more than 1 MiB"),
            ("train: " + "x" * 300 + "\nnames: [cat]", "is no path"),
        ],
    )
    def test_a_description_has_bounds(self, tmp_path: Path, text: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            open_dataset(write_yolo(tmp_path, {"a": ""}, text), "train")

    def test_links_in_a_circle(self, tmp_path: Path) -> None:
        root = write_yolo(tmp_path, {"a": "1 0.5 0.5 0.25 0.5"})
        for name in ("again", "more"):
            (root / "images/train" / name).symlink_to(root / "images")
        assert [image["file_name"] for image in read(root)["images"]] == ["a.png"]

    def test_a_pipe_is_no_label_file(self, tmp_path: Path) -> None:
        root = write_yolo(tmp_path, {"a": "1 0.5 0.5 0.25 0.5", "b": None})
        os.mkfifo(root / "data2.yaml")
        with pytest.raises(ValueError, match="is no ordinary file"):
            yolo.describe(root / "data2.yaml")
