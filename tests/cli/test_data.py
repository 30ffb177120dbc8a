"""``pkdzoo data``: check, convert and preview."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.commands import fails, run
from PIL import Image

from pkdzoo.data import open_dataset


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
