"""Whole folders from one format to another and back, with their images."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.tiny_coco import annotation, image
from PIL import Image

from pkdzoo.data import find_split, make_shapes, open_dataset
from pkdzoo.data.formats.read import find_format, splits_of
from pkdzoo.data.synthetic import CLASSES
from pkdzoo.dataset_tools.check import check
from pkdzoo.dataset_tools.convert import convert

FORMATS = ("coco", "voc", "yolo")


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Two splits with an image in a folder, an empty one, three classes of which one has no box."""
    root = tmp_path / "coco"
    sizes = {"a.png": (40, 60), "deep/b.png": (60, 40), "c.png": (40, 60)}
    for split, shift in (("train", 0.0), ("val", 1.25)):
        rows = [annotation(k + 1, 10 + k % 2, [5 + shift, 6, 20 + k, 10.5], 3 + 4 * (k % 2)) for k in range(5)]
        for row in rows:
            del row["segmentation"]
        images = []
        for k, (name, (height, width)) in enumerate(sizes.items()):
            path = root / "images" / split / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image(height, width, k + len(split))).save(path)
            images.append({"id": 10 + k, "file_name": f"{split}/{name}", "height": height, "width": width})
        categories = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": 90, "name": "traffic light"}]
        file = root / "annotations" / f"instances_{split}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({"images": images, "annotations": rows, "categories": categories}))
    return root


def meaning(root: Path, split: str) -> dict[str, Any]:
    """What a detector sees of a split, whatever its format and its ids."""
    dataset = open_dataset(root, split)
    found = {}
    for k in range(len(dataset)):
        sample = dataset[k]
        names = [dataset.label_names[label] for label in sample.instances.labels.tolist()]
        pixels = np.asarray(sample.image).sum().item()
        found[dataset.file_name(k)] = (pixels, sorted(zip(names, sample.instances.boxes.tolist())))
    return {"classes": dataset.label_names, "images": found}


@pytest.mark.parametrize("first", ["voc", "yolo"])
@pytest.mark.parametrize("second", FORMATS)
def test_there_and_back(coco: Path, tmp_path: Path, first: str, second: str) -> None:
    convert(coco, tmp_path / "1", first)
    assert find_format(tmp_path / "1") == first
    last = tmp_path / "1"
    if second != first:
        report = convert(tmp_path / "1", tmp_path / "2", second)
        assert (report.source_format, report.target_format) == (first, second)
        assert report.images == {"train": 3, "val": 3}
        assert report.boxes == {"train": 5, "val": 5}
        assert report.dropped == {"train": {}, "val": {}}
        last = tmp_path / "2"
    if second != "coco":
        convert(last, tmp_path / "3", "coco")
        last = tmp_path / "3"
    assert splits_of(last) == ["train", "val"]
    for split in ("train", "val"):
        assert meaning(last, split) == meaning(coco, split)


def test_generated_shapes_in_every_format(tmp_path: Path) -> None:
    shapes = make_shapes(tmp_path / "shapes", train=3, val=2, size=(96, 128))
    expected = meaning(shapes, "train")
    for to in ("voc", "yolo"):
        report = convert(shapes, tmp_path / to, to)
        assert report.dropped["train"] == {"segmentations": report.boxes["train"]}
        assert meaning(tmp_path / to, "train") == expected


class TestHoldOut:
    """A folder of images and YOLO labels, nobody has divided it yet."""

    @pytest.fixture
    def photos(self, tmp_path: Path) -> Path:
        convert(make_shapes(tmp_path / "shapes", train=10, val=1, size=(64, 96)), tmp_path / "there", "yolo", ["train"])
        root = tmp_path / "photos"
        for kind in ("images", "labels"):
            (root / kind).mkdir(parents=True)
            for file in (tmp_path / "there" / kind / "train").iterdir():
                file.rename(root / kind / file.name)
        return root

    def test_from_a_flat_folder(self, photos: Path, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"need a data.yaml beside them"):
            open_dataset(photos, "train")
        (photos / "data.yaml").write_text(f"train: images\nnames: {list(CLASSES)}\n")
        with pytest.raises(ValueError, match=r"no 'val'; it has train.*--hold-out"):
            open_dataset(photos, "val")
        report = convert(photos, tmp_path / "coco", "coco", hold_out=0.3)
        assert report.images == {"train": 7, "val": 3}
        train, val, before = (open_dataset(*where) for where in self.places(photos, tmp_path / "coco"))
        assert train.label_names == val.label_names == before.label_names
        names = [{Path(one.file_name(k)).name for k in range(len(one))} for one in (train, val, before)]
        assert names[0] | names[1] == names[2] and not names[0] & names[1]
        assert train.report.boxes + val.report.boxes == before.report.boxes == sum(report.boxes.values())
        assert len(list((tmp_path / "coco" / "images" / "val").iterdir())) == 3

    @staticmethod
    def places(photos: Path, coco: Path) -> list[tuple[Path, str]]:
        return [(coco, "train"), (coco, "val"), (photos, "train")]

    def test_names_decide(self, photos: Path, tmp_path: Path) -> None:
        (photos / "data.yaml").write_text(f"train: images\nnames: {list(CLASSES)}\n")
        convert(photos, tmp_path / "a", "coco", hold_out=0.3)
        for file in sorted((photos / "images").iterdir())[:1]:
            file.unlink()
        convert(photos, tmp_path / "b", "coco", hold_out=0.3)
        a, b = ({path.name for path in (tmp_path / k / "images/val").iterdir()} for k in "ab")
        assert len(a & b) >= 2

    @pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
    def test_no_share(self, photos: Path, tmp_path: Path, share: float) -> None:
        (photos / "data.yaml").write_text(f"train: images\nnames: {list(CLASSES)}\n")
        with pytest.raises(ValueError, match="a share between 0 and 1"):
            convert(photos, tmp_path / "coco", "coco", hold_out=share)

    def test_there_is_a_val(self, coco: Path, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="has the splits train, val"):
            convert(coco, tmp_path / "yolo", "yolo", hold_out=0.2)
        assert not (tmp_path / "yolo").exists()


def test_links(coco: Path, tmp_path: Path) -> None:
    convert(coco, tmp_path / "voc", "voc", splits=["val"], link=True)
    placed = tmp_path / "voc/JPEGImages/val/deep/b.png"
    assert placed.is_symlink()
    assert os.path.samefile(placed, coco / "images/val/val/deep/b.png")
    assert splits_of(tmp_path / "voc") == ["val"]


def test_crowd_and_difficult_objects(coco: Path, tmp_path: Path) -> None:
    file = coco / "annotations/instances_train.json"
    data = json.loads(file.read_text())
    data["annotations"][0]["iscrowd"] = 1
    data["annotations"][1]["ignore"] = 1
    file.write_text(json.dumps(data))
    convert(coco, tmp_path / "voc", "voc")
    report = convert(tmp_path / "voc", tmp_path / "coco2", "coco")
    assert report.dropped == {"train": {}, "val": {}}
    before, after = open_dataset(coco, "train").report, open_dataset(tmp_path / "coco2", "train").report
    assert (after.crowd, after.ignored, after.boxes) == (before.crowd, before.ignored, before.boxes) == (1, 1, 4)
    report = convert(coco, tmp_path / "yolo", "yolo")
    assert report.boxes["train"] == 3
    assert "not converted: 1 crowd regions" in str(report)
    assert report.to_dict()["dropped"]["train"] == {"crowd regions": 1, "objects marked 'ignore' (VOC: difficult)": 1}


@pytest.mark.parametrize("to", ["voc", "yolo"])
def test_flags_mean_in_every_format_what_training_reads(coco: Path, tmp_path: Path, to: str) -> None:
    file = coco / "annotations/instances_train.json"
    data = json.loads(file.read_text())
    for row, flags in zip(data["annotations"], [{"iscrowd": "0"}, {"difficult": 1}, {"ignore": "0", "difficult": "1"}]):
        row |= flags
    file.write_text(json.dumps(data))
    report = convert(coco, tmp_path / to, to, splits=["train"])
    before, after = open_dataset(coco, "train").report, open_dataset(tmp_path / to, "train").report
    assert (before.crowd, before.ignored, before.boxes) == (0, 2, 3)
    assert (after.crowd, after.boxes) == (0, 3)
    assert after.ignored == (2 if to == "voc" else 0)
    assert report.dropped["train"] == ({} if to == "voc" else {"objects marked 'ignore' (VOC: difficult)": 2})


def test_a_link_to_an_empty_folder_is_filled(coco: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    assert convert(coco, tmp_path / "link", "yolo").images["train"] == 3
    assert (tmp_path / "link").is_symlink()
    assert sorted(path.name for path in (tmp_path / "empty").iterdir()) == ["data.yaml", "images", "labels"]


def test_boxes_of_other_pixels_do_not_become_shares(coco: Path, tmp_path: Path) -> None:
    """An image whose boxes were drawn on its stored pixels, which its tag turns."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(coco / "images/train/train/a.png", exif=exif)
    report = convert(coco, tmp_path / "yolo", "yolo")
    assert report.images == {"train": 2, "val": 3}
    assert report.boxes["train"] == 2
    assert any("EXIF" in what for what in report.dropped["train"])
    assert convert(coco, tmp_path / "voc", "voc").images["train"] == 3


class TestRefusals:
    def test_target(self, coco: Path, tmp_path: Path) -> None:
        (tmp_path / "full").mkdir()
        (tmp_path / "full/notes").write_text("mine")
        with pytest.raises(ValueError, match="is not empty: choose"):
            convert(coco, tmp_path / "full", "voc")
        with pytest.raises(ValueError, match="already"):
            convert(coco, tmp_path / "new", "coco")
        with pytest.raises(ValueError, match="'coco', 'voc', 'yolo'"):
            convert(coco, tmp_path / "new", "kitti")

    @pytest.mark.parametrize("to", ["voc", "yolo"])
    def test_a_failure_leaves_nothing_behind(self, coco: Path, tmp_path: Path, to: str) -> None:
        (coco / "images/val/val/c.png").unlink()
        before = sorted(tmp_path.iterdir())
        with pytest.raises(ValueError, match=r"1 of 3 images of val are missing: .*c\.png"):
            convert(coco, tmp_path / "new", to)
        assert sorted(tmp_path.iterdir()) == before

    def test_one_name_for_two_images(self, coco: Path, tmp_path: Path) -> None:
        for split in ("train", "val"):
            (coco / f"images/{split}/{split}").rename(coco / f"images/{split}/same")
            file = coco / f"annotations/instances_{split}.json"
            file.write_text(file.read_text().replace(f"{split}/", "same/"))
        with pytest.raises(ValueError, match="two images need Annotations"):
            convert(coco, tmp_path / "voc", "voc")
        convert(coco, tmp_path / "yolo", "yolo")  # a folder for each split

    def test_source(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="no annotations for the train split"):
            convert(tmp_path, tmp_path / "new", "voc")
        (tmp_path / "data.yaml").write_text("names: [cat]")
        (tmp_path / "ImageSets/Main").mkdir(parents=True)
        with pytest.raises(ValueError, match="holds both VOC and YOLO"):
            open_dataset(tmp_path, "train")
        (tmp_path / "ImageSets/Main/trainval.txt").write_text("a\n")
        assert find_format(tmp_path / "data.yaml") == "yolo"

    def test_trainval_alone(self, coco: Path, tmp_path: Path) -> None:
        root = tmp_path / "voc"
        convert(coco, root, "voc")
        lists = root / "ImageSets/Main"
        (lists / "trainval.txt").write_text((lists / "train.txt").read_text())
        assert splits_of(root) == ["train", "val"]
        for split in ("train", "val"):
            (lists / f"{split}.txt").unlink()
        assert splits_of(root) == ["trainval"]
        (lists / "test.txt").write_text("")
        assert splits_of(root) == ["trainval", "test"]  # VOC's own two lists, of which neither is lost
        (lists / "test.txt").unlink()
        with pytest.raises(ValueError, match="YOLO has the splits train, val and test"):
            convert(root, tmp_path / "yolo", "yolo")
        assert convert(root, tmp_path / "coco2", "coco").images == {"trainval": 3}

    def test_images_elsewhere_are_a_matter_of_coco(self, coco: Path, tmp_path: Path) -> None:
        convert(coco, tmp_path / "yolo", "yolo")
        with pytest.raises(ValueError, match="leave out the image folder"):
            find_split(tmp_path / "yolo", "train", images=tmp_path)


class TestLinks:
    """A data set from somebody else may hold links to private files."""

    @pytest.fixture
    def linked(self, coco: Path, tmp_path: Path) -> Path:
        secret = tmp_path / "home" / "secret.png"
        secret.parent.mkdir()
        Image.new("RGB", (60, 40), (9, 9, 9)).save(secret)
        (coco / "images/train/train/a.png").unlink()
        (coco / "images/train/train/a.png").symlink_to(secret)
        return coco

    @pytest.mark.parametrize("to", ["voc", "yolo"])
    def test_a_linked_image_stays_a_link(self, linked: Path, tmp_path: Path, to: str) -> None:
        report = convert(linked, tmp_path / "new", to)
        (placed,) = [path for path in (tmp_path / "new").rglob("*") if path.is_symlink()]
        assert placed.name == "a.png" and os.path.samefile(placed, tmp_path / "home/secret.png")
        assert "train: 1 image is a link" in str(report) and "--follow-links copies" in str(report)
        report = convert(linked, tmp_path / "copies", to, follow_links=True)
        assert report.images == {"train": 3, "val": 3} and report.remarks == []
        assert not any(path.is_symlink() for path in (tmp_path / "copies").rglob("*"))

    @pytest.mark.parametrize("options", [{}, {"link": True}, {"follow_links": True}])
    def test_a_link_to_something_else_is_an_error(self, linked: Path, tmp_path: Path, options: dict[str, bool]) -> None:
        (tmp_path / "home" / "secret.png").write_text("-----BEGIN PRIVATE KEY-----")
        with pytest.raises(ValueError, match=r"1 of 3 images are symbolic links to something else .*a\.png"):
            convert(linked, tmp_path / "new", "voc", **options)  # type: ignore[arg-type]
        assert not (tmp_path / "new").exists()

    def test_images_of_a_linked_folder_stay_links(self, coco: Path, tmp_path: Path) -> None:
        (coco / "images/train").rename(tmp_path / "elsewhere")
        (coco / "images/train").symlink_to(tmp_path / "elsewhere")
        convert(coco, tmp_path / "new", "voc")
        assert sum(path.is_symlink() for path in (tmp_path / "new").rglob("*")) == 3
        assert convert(coco, tmp_path / "copies", "voc", follow_links=True).images["train"] == 3
        assert not any(path.is_symlink() for path in (tmp_path / "copies").rglob("*"))

    def test_a_link_inside_and_a_linked_data_set_are_as_before(self, coco: Path, tmp_path: Path) -> None:
        (coco / "images/train").rename(coco / "kept")
        (coco / "images/train").symlink_to(coco / "kept")
        (tmp_path / "short").symlink_to(coco)
        assert convert(tmp_path / "short", tmp_path / "new", "voc").images["train"] == 3


class TestSources:
    """Images of one source stay in one split."""

    def write(self, root: Path, names: list[str], kind: str = "yolo", classes: list[int] | None = None) -> Path:
        for k, name in enumerate(names):
            path = root / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image(40, 60, k)).save(path)
            label = root / "labels" / Path(name).with_suffix(".txt")
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(f"{classes[k] if classes else 0} 0.5 0.5 0.25 0.5\n")
        (root / "data.yaml").write_text("train: images\nnames: [cat, dog]\n")
        if kind != "yolo":
            convert(root, root.parent / kind, kind)
            return root.parent / kind
        return root

    def divided(self, root: Path, target: Path, share: float = 0.3, to: str = "coco") -> tuple[set[str], set[str]]:
        self.report = convert(root, target, to, hold_out=share)
        train, val = (open_dataset(target, split) for split in ("train", "val"))
        names = [{Path(one.file_name(k)).name for k in range(len(one))} for one in (train, val)]
        return names[0], names[1]

    @pytest.mark.parametrize("kind", FORMATS)
    @pytest.mark.parametrize("to", FORMATS)
    def test_copies_of_roboflow_in_every_format(self, tmp_path: Path, kind: str, to: str) -> None:
        names = [f"img{k}_jpg.rf.{copy}a{k}f.jpg" for k in range(6) for copy in range(3)]
        train, val = self.divided(self.write(tmp_path / "data", names, kind), tmp_path / "out", to=to)
        assert len(train) == 12 and len(val) == 6
        assert not {name.split(".")[0] for name in train} & {name.split(".")[0] for name in val}
        assert check(tmp_path / "out").errors == 0

    def test_masks_of_coco_stay(self, tmp_path: Path) -> None:
        shapes = make_shapes(tmp_path / "shapes", train=6, val=1, size=(64, 96))
        (shapes / "annotations/instances_val2017.json").unlink()
        convert(shapes, tmp_path / "out", "coco", hold_out=0.4)
        pixels: dict[str, int] = {}
        for root, split in ((shapes, "train"), (tmp_path / "out", "train"), (tmp_path / "out", "val")):
            dataset = open_dataset(root, split, with_masks=True)
            for k in range(len(dataset)):
                masks = dataset[k].instances.masks
                assert masks is not None
                assert int(masks.sum()) == pixels.setdefault(dataset.file_name(k), int(masks.sum())) > 0
        assert len(pixels) == 6

    def test_equal_files(self, tmp_path: Path) -> None:
        root = self.write(tmp_path / "data", [f"{name}{'' if k else 'x'}.png" for name in "abcdefgh" for k in range(2)])
        for name in "abcdefgh":
            (root / f"images/{name}x.png").write_bytes((root / f"images/{name}.png").read_bytes())
        train, val = self.divided(root, tmp_path / "out", 0.25)
        assert len(val) == 4
        assert not {name[0] for name in train} & {name[0] for name in val}

    @pytest.mark.parametrize(
        "style", ["clip{}_{:04d}.png", "clip{}/{:04d}.png", "clip{}-frame{}.png", "clip{}_mp4-{:03d}_png.rf.ab12.png"]
    )
    def test_frames_of_a_video(self, tmp_path: Path, style: str) -> None:
        names = [style.format(clip, frame) for clip in range(5) for frame in range(4)]
        root = self.write(tmp_path / "data", names)
        convert(root, tmp_path / "out", "coco", hold_out=0.2)
        one = open_dataset(tmp_path / "out", "val")
        clips = {one.file_name(k)[:5] for k in range(len(one))}
        assert len(one) == 4 and len(clips) == 1

    def test_numbers_that_are_no_video(self, tmp_path: Path) -> None:
        """One sequence of all images cannot stay together, and a sequence may be a class."""
        one = self.write(tmp_path / "one", [f"IMG_{k:04d}.png" for k in range(10)])
        assert [len(part) for part in self.divided(one, tmp_path / "a")] == [7, 3]
        assert "10 images have numbered names of 1 sequence (IMG_#), which were divided" in str(self.report)
        names = [f"{'cat' if k % 2 else 'dog'}_{k:03d}.png" for k in range(10)]
        two = self.write(tmp_path / "two", names, classes=[k % 2 for k in range(10)])
        train, _ = self.divided(two, tmp_path / "b", 0.4)
        assert {name[:3] for name in train} == {"cat", "dog"}
        assert "(cat_#, dog_#), which were divided" in str(self.report)

    @pytest.mark.parametrize("rare", range(8))
    def test_a_class_with_one_image_stays_in_training(self, tmp_path: Path, rare: int) -> None:
        names = [f"{name}.png" for name in "abcdefgh"]
        root = self.write(tmp_path / "data", names, classes=[int(k == rare) for k in range(8)])
        train, val = self.divided(root, tmp_path / "out", 0.25)
        assert names[rare] in train
        assert len(val) == 2

    def test_a_class_that_cannot_stay_is_named(self, tmp_path: Path) -> None:
        train, val = self.divided(self.write(tmp_path / "data", ["a.png", "b.png"], classes=[0, 1]), tmp_path / "out")
        assert len(train) == len(val) == 1
        lost = "cat" if val == {"a.png"} else "dog"
        assert f"no object of '{lost}' is left for training" in str(self.report)

    def test_one_source_cannot_be_divided(self, tmp_path: Path) -> None:
        root = self.write(tmp_path / "data", [f"a_jpg.rf.{k}abc.jpg" for k in range(4)])
        with pytest.raises(ValueError, match=r"4 images of one source cannot be divided .* add images"):
            convert(root, tmp_path / "out", "coco", hold_out=0.5)
        with pytest.raises(ValueError, match="already in the format 'yolo'; --hold-out"):
            convert(root, tmp_path / "out", "yolo")

    def test_check_lists_copies_in_two_splits(self, tmp_path: Path) -> None:
        for split in ("train", "val"):
            self.write(tmp_path, [f"{split}/a_jpg.rf.{split}1.jpg", f"{split}/{split}.jpg"])
        (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat]\n")
        found = [str(f) for f in check(tmp_path).findings if "copies (.rf.)" in f.what]
        assert len(found) == 1 and "train/a_jpg.rf.train1.jpg = val/a_jpg.rf.val1.jpg" in found[0]
