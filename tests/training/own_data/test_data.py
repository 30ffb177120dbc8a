"""The look at the data: what stops a run, what is said, and the validation split that is held out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pkdzoo.data import make_shapes
from pkdzoo.dataset_tools.convert import convert
from pkdzoo.training import Data, build
from pkdzoo.training.own_data.data import OwnData, data_places, digest_of, look_at

Look = Callable[[Path], tuple[OwnData, str]]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("shapes") / "data", train=12, val=3, size=(64, 96))


@pytest.fixture
def copy(shapes: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shapes, tmp_path / "copy"))


@pytest.fixture
def look(tmp_path: Path) -> Look:
    def now(folder: Path) -> tuple[OwnData, str]:
        lines: list[str] = []
        try:
            return look_at(folder, tmp_path / "held_out", lines.append), "\n".join(lines)
        except ValueError as error:
            raise ValueError("\n".join([*lines, str(error)])) from error

    return now


def yolo_without_splits(shapes: Path, folder: Path) -> Path:
    """One folder of images and one of labels."""
    convert(shapes, folder / "split", "yolo", ["train"])
    (folder / "labels").mkdir(parents=True)
    (folder / "images").mkdir()
    for kind in ("images", "labels"):
        for file in (folder / "split" / kind / "train").iterdir():
            shutil.move(file, folder / kind / file.name)
    text = (folder / "split" / "data.yaml").read_text()
    shutil.rmtree(folder / "split")
    (folder / "data.yaml").write_text("train: images\n" + text[text.index("names:") :])
    return folder


def test_splits_that_exist_are_used(look: Look, shapes: Path) -> None:
    data, said = look(shapes)
    assert data.options == ["--data", str(shapes)] and (data.train_images, data.val_images) == (12, 3)
    assert "train: 12 images up to 96 x 64 pixels" in said and "split " not in said


@pytest.mark.parametrize("kind", ["yolo", "voc", "coco"])
def test_a_split_is_held_out_from_every_format(look: Look, shapes: Path, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "own"
    if kind == "yolo":
        yolo_without_splits(shapes, folder)
    else:
        convert(shapes, tmp_path / "yolo", "yolo", ["train"])
        convert(tmp_path / "yolo", folder, kind, ["train"])
    data, said = look(folder)
    assert data.train_images + data.val_images == 12 and data.val_images == 2
    assert "no val split: held out 2 of 12 images" in said
    train, val = (json.loads(Path(str(file)).read_text()) for file in (data.train_json, data.val_json))
    names = [{row["file_name"] for row in part["images"]} for part in (train, val)]
    assert not names[0] & names[1]
    assert all((Path(str(data.images)) / name).is_file() for name in names[0] | names[1])
    assert data.options[:2] == ["--data", str(folder)]  # which may have a test split
    assert build.find_data(Data(), *data_places(data)).train[0] == Path(str(data.train_json))
    assert {row["image_id"] for row in val["annotations"]} <= {row["id"] for row in val["images"]}


def test_copies_stay_together_where_the_file_names_another_folder(look: Look, copy: Path) -> None:
    """Names such as ``images/train/a.jpg`` stand for files of the image folder, see docs/own_data.md."""
    (copy / "annotations" / "instances_val2017.json").unlink()
    file = copy / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    for number, image in enumerate(content["images"]):
        name = "abcdefghijkl"[number] + ".jpg"
        source = copy / "train2017" / content["images"][number % 6]["file_name"].rpartition("/")[2]
        shutil.copy(source, copy / "train2017" / name)
        image["file_name"] = f"images/train/{name}"
    file.write_text(json.dumps(content))
    data, _ = look(copy)
    val = json.loads(Path(str(data.val_json)).read_text())["images"]
    held_out = sorted("abcdefghijkl".index(Path(image["file_name"]).stem) % 6 for image in val)
    assert held_out and held_out[::2] == held_out[1::2]


def test_annotations_that_were_not_written_here_are_not_overwritten(shapes: Path, tmp_path: Path) -> None:
    """A data set in ``OUTPUT/data``, where the held-out split would be written."""
    folder = Path(shutil.copytree(shapes, tmp_path / "project" / "data"))
    (folder / "annotations" / "instances_val2017.json").unlink()
    (folder / "annotations" / "instances_train2017.json").rename(folder / "annotations" / "instances_train.json")
    before = (folder / "annotations" / "instances_train.json").read_bytes()
    with pytest.raises(ValueError, match=r"instances_train\.json.* would be overwritten .* choose another output"):
        look_at(folder, folder, lambda line: None)
    assert (folder / "annotations" / "instances_train.json").read_bytes() == before
    for _ in range(2):  # its own files it may write again
        assert look_at(folder, tmp_path / "run" / "data", lambda line: None).val_images == 2


def test_more_labels_are_taken_after_the_error_that_asks_for_them(copy: Path, tmp_path: Path) -> None:
    (copy / "annotations" / "instances_val2017.json").unlink()
    file = copy / "annotations" / "instances_train2017.json"
    whole = json.loads(file.read_text())
    first = whole["annotations"][0]["image_id"]
    few = [row for row in whole["annotations"] if row["image_id"] == first]
    file.write_text(json.dumps({**whole, "annotations": few}))
    with pytest.raises(ValueError, match="label more images"):
        look_at(copy, tmp_path / "run" / "data", lambda line: None)
    file.write_text(json.dumps(whole))
    assert look_at(copy, tmp_path / "run" / "data", lambda line: None).val_images == 2


def test_the_digest_is_that_of_the_content(look: Look, shapes: Path, copy: Path) -> None:
    same = look(copy)[0].digest
    assert same == look(shapes)[0].digest
    changes: list[Callable[[dict], object]] = [
        lambda content: content["annotations"][0].update(bbox=[1, 2, 30, 30]),
        lambda content: content["annotations"][0].update(category_id=content["annotations"][0]["category_id"] % 6 + 1),
        lambda content: content["annotations"][0].update(iscrowd=1),
        lambda content: content["annotations"][0].update(ignore=1),
        lambda content: content["annotations"][0].update(area=7.0),
        lambda content: content["images"][0].update(height=content["images"][0]["height"] + 1),
    ]
    train, val = (copy / "annotations" / f"instances_{split}2017.json" for split in ("train", "val"))
    seen = {digest_of(train, val)}
    before = train.read_text()
    for change in changes:
        edit(copy, change)
        seen.add(digest_of(train, val))
        train.write_text(before)
    assert len(seen) == 1 + len(changes)
    edit(copy, changes[0])
    assert look(copy)[0].digest != same


def edit(folder: Path, change: Callable[[dict], object], split: str = "train") -> None:
    path = folder / "annotations" / f"instances_{split}2017.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_no_data(look: Look, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere does not exist"):
        look(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no annotations for the train split"):
        look(tmp_path / "empty")


def test_no_labels(look: Look, copy: Path) -> None:
    edit(copy, lambda content: content["annotations"].clear())
    with pytest.raises(ValueError, match=r"no image of the train split has a box: .*Label some images first"):
        look(copy)


def test_no_box_to_evaluate(look: Look, copy: Path) -> None:
    edit(copy, lambda content: content["annotations"].clear(), "val")
    with pytest.raises(ValueError, match="no image of the val split has a box, so nothing can be evaluated"):
        look(copy)


def test_validation_only(look: Look, copy: Path) -> None:
    (copy / "annotations" / "instances_train2017.json").unlink()
    with pytest.raises(ValueError, match="has no training split, only val: rename it to train"):
        look(copy)


def test_one_image(look: Look, shapes: Path, tmp_path: Path) -> None:
    folder = yolo_without_splits(shapes, tmp_path / "one")
    for kind in ("images", "labels"):
        for file in sorted((folder / kind).iterdir())[1:]:
            file.unlink()
    with pytest.raises(ValueError, match="1 image of one source cannot be divided"):
        look(folder)


def test_an_error_in_the_data_stops_with_its_name(look: Look, copy: Path) -> None:
    victim = min((copy / "train2017").iterdir())
    victim.write_bytes(victim.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"ERROR.*train: .*\n.*errors in the data: 1, see above"):
        look(copy)


def test_images_that_nobody_labeled_are_counted(look: Look, copy: Path) -> None:
    def unlabel(content: dict) -> None:
        first = {row["id"] for row in content["images"][:6]}
        content["annotations"] = [row for row in content["annotations"] if row["image_id"] not in first]

    edit(copy, unlabel)
    data, said = look(copy)
    assert data.train_images == 6
    assert "6 of 12 train images without a box: left out of the training" in said


def test_many_findings_are_a_few_lines(look: Look, copy: Path) -> None:
    Image.new("RGB", (8, 8)).save(copy / "train2017" / "unlisted.png")
    edit(copy, lambda content: content["annotations"][0].update(bbox=[0, 0, 1, 1]))
    _, said = look(copy)
    assert "check     train: " in said and "image files that no annotation mentions: 1" in said
    assert len(said.splitlines()) < 10


def test_a_test_split_without_labels_stops_nothing(look: Look, shapes: Path, tmp_path: Path) -> None:
    """Nothing is trained or evaluated on it; ``data check`` calls it an error, since it cannot be evaluated on."""
    folder = tmp_path / "yolo"
    convert(shapes, folder, "yolo")
    (folder / "images" / "test").mkdir()
    Image.new("RGB", (96, 64), "teal").save(folder / "images" / "test" / "a.png")
    (folder / "data.yaml").write_text((folder / "data.yaml").read_text() + "test: images/test\n")
    data, said = look(folder)
    assert (data.train_images, data.val_images) == (12, 3)
    assert "check     test: invalid annotations: 1, e.g. no image of" in said and "ERROR" not in said
