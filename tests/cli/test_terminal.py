"""Names from strangers do not control the terminal: their control characters are printed as escapes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.commands import run
from PIL import Image

import pkdzoo
from pkdzoo.data import make_shapes
from pkdzoo.utils.text import escape_markdown, markdown_code, printable

RED, TITLE, BACKWARDS = "red\x1b[31m", "\x1b]0;title\x07bell", "abc\u202edcb\u2028\x9b1m"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A detector whose class names are escape sequences; it detects something everywhere."""
    torch.manual_seed(0)
    model = pkdzoo.create_detector("retina_r10w16", label_names=(RED, TITLE, BACKWARDS), resize=(64, 96))
    return model.save_pretrained(tmp_path / "mo\x1b[2Jdel")


def is_clean(text: str) -> bool:
    """Whether text moves no cursor, changes no color and reorders nothing."""
    return all(character.isprintable() or character == "\n" for character in text)


def test_names_of_classes_and_files_are_printed_as_escapes(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path
) -> None:
    image = tmp_path / "im\x1b[31mage.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)).save(image)
    for words in (
        ("info", folder),
        ("predict", folder, image, "--threshold", 0),
        ("predict", folder, image, "--threshold", 0, "--json"),
        ("predict", folder, tmp_path / "no\x1b[31mne.png"),
        ("predict", tmp_path / "no\x1b[31mne", image),
        ("push", folder, "--repo", "org/name", "--dry-run"),
        ("push", folder, "--repo", "org/na\x1bme", "--dry-run"),
    ):
        _, out, err = run(capsys, *words)
        assert is_clean(out) and is_clean(err), words
        assert "\\u001b" in out + err or "\\x1b" in err, words
    _, out, _ = run(capsys, "predict", folder, image, "--threshold", 0, "--json")
    parsed = json.loads(out.splitlines()[0])  # JSON keeps their meaning
    assert parsed["path"] == str(image)
    assert {row["name"] for row in parsed["detections"]} & {RED, TITLE, BACKWARDS}
    result = pkdzoo.create_detector(str(folder)).predict(image, threshold=0.0)
    assert is_clean(str(result)) and is_clean(repr(result))


def test_tables_of_evaluations_are_clean(capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path) -> None:
    data = make_shapes(tmp_path / "data", train=1, val=2, size=(64, 96))
    truth = data / "annotations" / "instances_val2017.json"
    content = json.loads(truth.read_text())
    content["categories"] = [{"id": k + 1, "name": name} for k, name in enumerate((RED, TITLE, BACKWARDS))]
    content["annotations"] = [row for row in content["annotations"] if row["category_id"] <= 3]
    truth.write_text(json.dumps(content))
    code, out, err = run(capsys, "eval", folder, "--data", data)
    assert code == 0, err
    assert is_clean(out) and "red\\u001b[31m" in out


def test_text_that_shows_itself_stays() -> None:
    for text in ("Katze, кошка, 猫", "a\u0301", "नि\u200dक", "C:\\data", '"quoted"', "👩\u200d🔬"):
        assert printable(text) == text
    assert printable("a\nb\tc", keep="\n") == "a\nb\\u0009c"
    assert json.loads(printable(json.dumps("\x9b\u202e\U000e0001", ensure_ascii=False))) == "\x9b\u202e\U000e0001"
    assert printable("\udcff") == "\\udcff"  # a byte of a file name that is no UTF-8
    assert escape_markdown("red_fox v2") == "red_fox v2"
    assert escape_markdown("# a\n1. b") == "\\# a 1. b"
    assert markdown_code("``x`") == "``` ``x` ```"
