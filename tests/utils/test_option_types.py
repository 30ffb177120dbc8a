"""Numbers of the command line: what is refused, and what the message says to write."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import pytest

import pkdzoo
from pkdzoo.cli import main
from pkdzoo.training.arguments import parse_train_arguments, several
from pkdzoo.utils.option_types import gigabytes, natural_int, percent, positive_int, share


@pytest.mark.parametrize(
    ("parse", "good", "bad", "message"),
    [
        (positive_int, {"1": 1, "12": 12}, ("0", "-1", "1.5", "", "two", "inf"), "write a whole number of at least 1"),
        (natural_int, {"0": 0}, ("-1", "x"), "write a whole number of at least 0"),
        (several, {"2": 2}, ("1", "x"), "write a whole number of at least 2, or --threads 1 for one process"),
        (share, {"0": 0.0, "1": 1.0, ".5": 0.5}, ("1.1", "-0.1", "nan", "half"), "write a number from 0 to 1"),
        (percent, {"0": 0.0, "100": 100.0}, ("100.1", "-1", "nan", "5%"), "write a number from 0 to 100"),
        (gigabytes, {"0": 0.0, "0.5": 0.5}, ("-1", "inf", "nan", "4GB"), "write gigabytes from 0 up, e.g. 4 or 0.5"),
    ],
)
def test_numbers(parse: Callable[[str], Any], good: dict[str, Any], bad: tuple[str, ...], message: str) -> None:
    assert {text: parse(text) for text in good} == good
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match=f"^{text}: {message}$"):
            parse(text)


def test_the_command_line_shows_the_message(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        parse_train_arguments(["recipe.py", "--cache-images", "4GB"])
    assert "argument --cache-images: 4GB: write gigabytes from 0 up" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["predict", "retina_r10w16", ""], ["train", "recipe.py", "--data", " "], ["eval", "--data="]]
)
def test_empty_words_are_no_current_folder(words: list[str], capsys: pytest.CaptureFixture) -> None:
    """``pkdzoo predict NAME "$FOLDER"`` where nothing is set."""
    for start in (main, parse_train_arguments):
        with pytest.raises(SystemExit) as stopped:
            start(words)
        assert stopped.value.code == 2 and "an argument is empty, perhaps a shell variable" in capsys.readouterr().err


def test_an_empty_path_of_images_is_no_current_folder() -> None:
    with pytest.raises(ValueError, match="the path of the images is empty: write that of an image"):
        pkdzoo.create_detector("retina_r10w16").predict("")
