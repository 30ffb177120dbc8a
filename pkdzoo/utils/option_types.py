"""Options of the command line: numbers within a range, and no empty words; errors say what to write."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence


def positive_int(text: str) -> int:
    """Parse a whole number of at least 1."""
    return whole_number(text, 1)


def natural_int(text: str) -> int:
    """Parse a whole number of at least 0."""
    return whole_number(text, 0)


def share(text: str) -> float:
    """Parse a number from 0 to 1."""
    return _number_up_to(text, 1)


def percent(text: str) -> float:
    """Parse a number from 0 to 100."""
    return _number_up_to(text, 100)


def refuse_empty(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Refuse empty words, as ``"$FOLDER"`` gives where nothing is set: as a path one would mean the current folder.

    Raises:
        SystemExit: with code 2 and a message.
    """
    if any(not word.strip() or (word.startswith("--") and word.endswith("=")) for word in words):
        parser.error("an argument is empty, perhaps a shell variable that is not set: write a value, or leave it out")


def gigabytes(text: str) -> float:
    """Parse a finite number of at least 0."""
    number = _float(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: write gigabytes from 0 up, e.g. 4 or 0.5")
    return number


def whole_number(text: str, lowest: int, advice: str = "") -> int:
    """Parse a whole number of at least ``lowest``; ``advice`` ends the message of the error."""
    try:
        number = int(text)
    except ValueError:
        number = lowest - 1
    if number < lowest:
        raise argparse.ArgumentTypeError(f"{text}: write a whole number of at least {lowest}{advice}")
    return number


def _number_up_to(text: str, highest: int) -> float:
    number = _float(text)
    if not 0 <= number <= highest:
        raise argparse.ArgumentTypeError(f"{text}: write a number from 0 to {highest}")
    return number


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
