"""``pkdzoo data``: check, convert, preview and label."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from helpers.commands import fails, run
from PIL import Image

from pkdzoo.cli import build_parser
from pkdzoo.data import open_dataset
from pkdzoo.data.formats.read import TABLE


def test_help_names_every_layout(capsys: pytest.CaptureFixture[str]) -> None:
    """The page that lists them is not part of an installed package."""
    program = {"coco": "COCO", "roboflow": "Roboflow", "voc": "Pascal VOC", "yolo": "YOLO", "xml": "labelImg"}
    expected = ", ".join(program.get(name, name) for name in TABLE)
    for words in (("data", "check"), ("data", "convert"), ("data", "preview"), ("eval",)):
        with pytest.raises(SystemExit):
            build_parser().parse_args([*words, "--help"])
        assert expected in " ".join(capsys.readouterr().out.split())


class TestData:
    def test_check(self, capsys: pytest.CaptureFixture[str], shapes: Path) -> None:
        code, out, err = run(capsys, "data", "check", shapes)
        assert (code, err) == (0, "")
        assert "train: 3 images" in out
        parsed = json.loads(run(capsys, "data", "check", shapes, "--split", "val", "--json", "--headers")[1])
        assert [part["split"] for part in parsed["splits"]] == ["val"]

    def test_a_finding_that_breaks_training_is_code_1(
        self, capsys: pytest.CaptureFixture[str], shapes: Path, tmp_path: Path
    ) -> None:
        assert run(capsys, "data", "convert", shapes, tmp_path / "yolo", "--to", "yolo")[0] == 0
        next((tmp_path / "yolo/images/val").iterdir()).write_bytes(b"no image")
        code, out, _ = run(capsys, "data", "check", tmp_path / "yolo")
        assert code == 1
        assert "ERROR  unreadable images: 1" in out

    def test_convert(self, capsys: pytest.CaptureFixture[str], shapes: Path, tmp_path: Path) -> None:
        start = ("data", "convert", shapes, tmp_path / "voc", "--to", "voc")
        parsed = json.loads(run(capsys, *start, "--link", "--split", "train", "--json")[1])
        assert parsed["images"] == {"train": 3}
        assert len(open_dataset(tmp_path / "voc", "train")) == 3
        assert "is not empty" in fails(capsys, *start)
        out = run(capsys, "data", "convert", tmp_path / "voc", tmp_path / "yolo", "--to", "yolo")[1]
        assert "voc to yolo" in out

    def test_preview(self, capsys: pytest.CaptureFixture[str], shapes: Path, tmp_path: Path) -> None:
        sheet = tmp_path / "new" / "sheet.png"
        start = ("data", "preview", shapes, "--output", sheet, "--count", 2, "--columns", 2, "--tile", 100)
        assert run(capsys, *start) == (0, f"{sheet}\n", "")
        assert Image.open(sheet).size[0] == 2 * 106 + 6
        assert "test split" in fails(capsys, *start, "--split", "test")
        assert "unknown file extension" in fails(capsys, *start[:3], "--output", tmp_path / "sheet.what")


class TestLabel:
    @pytest.fixture
    def own(self, shapes: Path, tmp_path: Path) -> Path:
        """Images without annotations, in a folder that is to become a data set."""
        root = tmp_path / "own"
        shutil.copytree(shapes / "train2017", root / "images" / "sub")
        return root

    def test_what_it_writes_is_a_data_set(self, capsys: pytest.CaptureFixture[str], own: Path) -> None:
        file = own / "annotations" / "instances_train.json"
        start = ("data", "label", own / "images", "--model", "fcos_r18w24", "--threshold", 0.2, "--output", file)
        code, out, err = run(capsys, *start)
        assert (code, err) == (0, "") and out.startswith(f"{file}: ") and "in 3 images" in out
        content = json.loads(file.read_text())
        assert {key: content["info"][key] for key in ("model", "threshold")} == {
            "model": "fcos_r18w24",
            "threshold": 0.2,
        }
        assert [image["file_name"][:4] for image in content["images"]] == ["sub/"] * 3
        scores = [row["score"] for row in content["annotations"]]
        assert scores and min(scores) >= 0.2
        code, out, _ = run(capsys, "data", "check", own, "--json")
        report = json.loads(out)
        assert code == 0 and report["splits"][0]["boxes"] == len(scores)
        assert len(open_dataset(own, "train")) == 3
        before = file.read_text()
        assert "exists already and is not overwritten" in fails(capsys, *start)
        assert file.read_text() == before

    def test_an_unreadable_image_is_named_and_left_out(self, capsys: pytest.CaptureFixture[str], own: Path) -> None:
        victim = min((own / "images" / "sub").iterdir())
        victim.write_bytes(b"no image")
        file = own / "labels.json"
        start = (
            "data",
            "label",
            own / "images",
            "--model",
            "fcos_r18w24",
            "--classes",
            "star,moon",
            "--threshold",
            0.05,
        )
        code, out, err = run(capsys, *start, "--output", file, "--json")
        assert code == 1 and str(victim) in err
        assert json.loads(out)["images"] == len(json.loads(file.read_text())["images"]) == 2
        assert set(json.loads(out)["boxes"]) == {"star", "moon"}
        # a student that is trained on the file has these classes, and not those that nobody looked for
        content = json.loads(file.read_text())
        assert [each["name"] for each in content["categories"]] == ["star", "moon"]
        assert {row["category_id"] for row in content["annotations"]} <= {each["id"] for each in content["categories"]}

    def test_nothing_is_written_without_a_detection(self, capsys: pytest.CaptureFixture[str], own: Path) -> None:
        start = ("data", "label", own / "images", "--model", "fcos_r18w24", "--output", own / "labels.json")
        assert "nothing is detected in 3 images with a score of 1 or more" in fails(capsys, *start, "--threshold", 1)
        assert [path.name for path in own.iterdir()] == ["images"]
        assert "write a name that ends in .json" in fails(capsys, *start[:-1], own / "labels.csv")
        (own / "empty").mkdir()
        assert "has no images" in fails(capsys, "data", "label", own / "empty", *start[3:])
