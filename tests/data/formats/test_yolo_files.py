"""The files of YOLO folders: which images are read, and labels that lie elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.yolo_folders import read, write_yolo
from PIL import Image

from pkdzoo.data import open_dataset
from pkdzoo.dataset_tools.check import check
from pkdzoo.dataset_tools.convert import convert
from pkdzoo.inference.sources import images_in


class TestImageFiles:
    def test_one_list_of_suffixes(self, tmp_path: Path) -> None:
        root = write_yolo(tmp_path, {"a": "1 0.5 0.5 0.25 0.5"})
        suffixes = ("avif", "jp2", "jfif", "ppm", "jpe", "mpo", "JPG", "bmp", "webp", "tif", "gif")
        for suffix in suffixes:
            Image.new("RGB", (80, 40)).save(root / f"images/train/{suffix}.{suffix}")
            (root / f"labels/train/{suffix}.txt").write_text("0 0.5 0.5 0.5 0.5")
        dataset = open_dataset(root, "train")
        assert len(dataset) == len(images_in(root / "images/train")) == 1 + len(suffixes)
        assert all(len(dataset[k].instances) == 1 for k in range(len(dataset)))

    def test_hidden_files_are_no_images(self, tmp_path: Path) -> None:
        text = "train: images/train\nnames: [cat, dog]"
        root = write_yolo(tmp_path, {"a": "1 0.5 0.5 0.25 0.5\n0 0.1 0.1 0.1 0.1"}, text)
        for hidden in ("._a.png", ".ipynb_checkpoints/a.png", "__MACOSX/a.png"):
            (root / "images/train" / hidden).parent.mkdir(exist_ok=True)
            (root / "images/train" / hidden).write_bytes(b"\0\5\26\7")
        (root / "labels/train/._a.txt").write_bytes(b"\0\5\26\7\xff")
        assert [image["file_name"] for image in read(root)["images"]] == ["a.png"]
        assert [path.name for path in images_in(root / "images/train")] == ["a.png"]
        report = check(root)
        assert report.errors == 0 and report.findings == [] and report.splits[0].findings == []

    def test_what_is_not_read_is_reported(self, tmp_path: Path) -> None:
        root = write_yolo(tmp_path, {"a": "0 0.5 0.5 0.25 0.5\n1 0.5 0.5 0.3 0.3"})
        (root / "images/train/b.heic").write_bytes(b"x")
        (root / "labels/train/b.txt").write_text("0 0.5 0.5 0.5 0.5")
        (root / "data.yaml").write_text("train: images/train\nnames: [cat, dog]")
        report = check(root)
        found = {f.what: f.examples for f in [*report.findings, *report.splits[0].findings]}
        assert found == {
            "images of formats that are not read, left out: save them as JPEG or PNG": [
                str(root / "images/train/b.heic")
            ],
            "label files that no image uses": [str(root / "labels/train/b.txt")],
        }
        with pytest.warns(UserWarning, match=r"1 image of other formats left out: 'b\.heic'"):
            images_in(root / "images/train")

    def test_a_turned_tiff_file(self, tmp_path: Path) -> None:
        root = write_yolo(tmp_path, {"a": "0 0.25 0.5 0.5 1"})
        (root / "images/train/a.png").unlink()
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (80, 40)).save(root / "images/train/a.tif", exif=exif)
        sample = open_dataset(root, "train")[0]
        assert sample.image.shape == (3, 80, 40)
        assert sample.instances.boxes.tolist() == [[0, 0, 20, 80]]


class TestLabelsElsewhere:
    """Label files that the rule does not find would be lost without a word."""

    def finding(self, root: Path) -> tuple[int, list[str]]:
        report = check(root)
        named = [f for f in report.splits[0].findings if f.what.startswith("label files that are not where")]
        return report.errors, [Path(path).relative_to(root).as_posix() for path in named[0].examples] if named else []

    def test_beside_their_images(self, tmp_path: Path) -> None:
        root = write_yolo(tmp_path, {"a": "0 0.5 0.5 0.5 0.5\n1 0.5 0.5 0.2 0.2", "b": None})
        (root / "images/train/b.txt").write_text("0 0.5 0.5 0.5 0.5")
        (root / "data.yaml").write_text("train: images/train\nnames: [cat, dog]")
        assert self.finding(root) == (1, ["images/train/b.txt"])

    @pytest.mark.parametrize("place", ["labels/train/B.txt", "labels/train/b.TXT", "Labels/train/b.txt"])
    def test_in_other_case(self, tmp_path: Path, place: str) -> None:
        root = write_yolo(tmp_path, {"a": "0 0.5 0.5 0.5 0.5\n1 0.5 0.5 0.2 0.2", "b": None})
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_text("0 0.5 0.5 0.5 0.5")
        (root / "data.yaml").write_text("train: images/train\nnames: [cat, dog]")
        assert self.finding(root) == (1, [place])

    def test_images_without_a_file_where_most_have_one(self, tmp_path: Path) -> None:
        labels: dict[str, str | None] = dict.fromkeys("abc", "0 0.5 0.5 0.5 0.5\n1 0.5 0.5 0.2 0.2")
        root = write_yolo(tmp_path, {**labels, "d": None}, "train: images/train\nnames: [cat, dog]")
        report = check(root)
        assert report.errors == 0
        assert [(f.what, f.count) for f in report.splits[0].findings][:1] == [
            ("images without a label file, though most have one", 1)
        ]


def test_images_outside_the_descriptions_folder(tmp_path: Path) -> None:
    text = "path: ../data\ntrain: [images/train, images/extra]\nval: images/val\nnames: [cat, dog]\n"
    for folder in ("train", "extra", "val"):
        write_yolo(tmp_path / "data", {f"{folder}1": "1 0.5 0.5 0.25 0.5"}, text, f"images/{folder}")
    (tmp_path / "cfg").mkdir()
    (tmp_path / "data" / "data.yaml").rename(tmp_path / "cfg" / "my.yaml")
    dataset = open_dataset(tmp_path / "cfg" / "my.yaml", "train")
    assert [dataset.file_name(k) for k in range(2)] == ["train/train1.png", "extra/extra1.png"]
    report = convert(tmp_path / "cfg" / "my.yaml", tmp_path / "coco", "coco")
    assert report.images == {"train": 2, "val": 1}
    assert len(open_dataset(tmp_path / "coco", "train")[1].instances) == 1
