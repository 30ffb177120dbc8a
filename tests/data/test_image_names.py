"""Image names that are written from another folder: absolute paths, prefixes, backslashes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import run
from helpers.tiny_coco import content, image
from PIL import Image

from pkdzoo.data import open_dataset
from pkdzoo.data.image_names import match_names


def data_set(root: Path, prefix: str, names: dict[str, str] | None = None) -> Path:
    """The hand-made set as train, its images in ``images/train``, with a prefix before each ``file_name``."""
    data: dict[str, Any] = content()
    for number, row in enumerate(data["images"]):
        path = root / "images/train" / (names or {}).get(row["file_name"], row["file_name"])
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image(row["height"], row["width"], number)).save(path, format="PNG")
        row["file_name"] = prefix + row["file_name"]
    (root / "annotations").mkdir()
    (root / "annotations/instances_train.json").write_text(json.dumps(data))
    return root


@pytest.mark.parametrize("prefix", ["/home/someone/coco/images/train/", "images/train/", "train/", "D:\\coco\\train\\"])
def test_names_are_found_by_their_last_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str], prefix: str) -> None:
    root = data_set(tmp_path / "coco", prefix)
    dataset = open_dataset(root, "train")
    assert dataset.check_files() == []
    assert [dataset.file_name(k) for k in range(3)] == ["a.png", "deep/b.png", "c.png"]
    assert [dataset[k].size for k in range(3)] == [(40, 60), (60, 40), (40, 60)]
    assert "3 image names are found by their last parts, e.g. " in str(dataset.report)
    code, out, _ = run(capsys, "data", "check", root)
    assert code == 0 and "image names that are found by their last parts inside" in out and "-> deep/b.png" in out
    code, out, _ = run(capsys, "data", "convert", root, tmp_path / "out", "--to", "voc")
    assert code == 0 and "3 image names are found by their last parts" in out
    assert (tmp_path / "out/JPEGImages/deep/b.png").is_file()
    assert run(capsys, "data", "preview", root, "--output", tmp_path / "sheet.png")[0] == 0


@pytest.mark.parametrize(
    ("files", "names", "expected"),
    [
        (["a.png"], ["cam1/a.png", "cam2/a.png"], {}),  # two names, one file
        (["a.png"], ["a.png", "cam2/a.png"], {}),  # it has an owner
        (["a.png"], ["images/val/a.png"], {}),  # the folder is that of another split
        (["a.png"], ["/data/val2017/a.png"], {}),
        (["a.png"], ["/data/train2017/a.png"], {"/data/train2017/a.png": "a.png"}),
        (["a.png"], ["/data/val/x/train/a.png"], {"/data/val/x/train/a.png": "a.png"}),
        (["a.png", "x/a.png"], ["train/x/a.png"], {"train/x/a.png": "x/a.png"}),  # the longest part
        (["x/a.png"], ["a.png", "y/a.png"], {}),  # no folder is guessed
        (["a.png"], ["../../a.png", "b/../a.png"], {}),
        (["a\\b.png"], ["a\\b.png"], {}),  # a backslash in a name of Linux
        (["a\\b.png", "a/b.png"], ["a\\b.png", "a/b.png"], {}),
        (["a/b.png"], ["a\\b.png"], {"a\\b.png": "a/b.png"}),
        ([], ["x\\a.png"], {"x\\a.png": "x/a.png"}),
    ],
)
def test_which_file_a_name_stands_for(tmp_path: Path, files: list[str], names: list[str], expected: Any) -> None:
    folder = tmp_path / "images" / "train"
    for name in ["other.png", *files]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    assert match_names(names, folder) == expected


def test_an_absolute_name_inside_the_folder_becomes_relative(tmp_path: Path) -> None:
    (tmp_path / "x.png").touch()
    assert match_names([str(tmp_path / "x.png")], tmp_path) == {str(tmp_path / "x.png"): "x.png"}


def test_a_backslash_in_a_name_is_kept_by_every_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = data_set(tmp_path / "coco", "", {"a.png": "a\\1.png"})
    file = root / "annotations/instances_train.json"
    file.write_text(file.read_text().replace('"a.png"', json.dumps("a\\1.png")))
    assert open_dataset(root, "train").check_files() == []
    assert run(capsys, "data", "check", root)[0] == 0


def test_names_that_are_not_found_say_what_to_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = data_set(tmp_path / "coco", "val/")
    code, out, _ = run(capsys, "data", "check", root)
    assert code == 1 and "missing images: 3" in out
    assert f"(names are paths inside {root / 'images/train'}; this one is 'val/a.png')" in out
