"""Reading of small JSON files of other people: what ``json`` accepts although it is damaged or hostile is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

MAX_BYTES = 4 << 20
MAX_DEPTH = 50
MAX_DIGITS = 18


def read_strict_json(path: str | Path) -> Any:
    """The content of a JSON file.

    Args:
        path: of a file in UTF-8.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: naming the file, if it is not JSON, is larger than 4 MiB or nested deeper than 50, or has a key
            twice, NaN, infinity, or a number of more than 18 digits.
    """
    with open(path, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"{path} is larger than {MAX_BYTES >> 20} MiB: write a smaller file")
    return parse_strict_json(data, str(path))


def parse_strict_json(data: bytes, place: str) -> Any:
    """The content of JSON in UTF-8.

    Args:
        data: of at most a few MiB.
        place: where it stands, for errors.

    Raises:
        ValueError: as :func:`read_strict_json`, naming the place.
    """
    try:
        content = json.loads(
            data.decode("utf-8-sig"),
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_short,
        )
        check_depth(content)
    except RecursionError:
        raise ValueError(f"{place} cannot be read: it is nested deeper than {MAX_DEPTH}") from None
    except ValueError as error:  # also invalid UTF-8
        raise ValueError(f"{place} is not JSON that can be read: {error}") from error
    return content


def check_depth(content: Any) -> None:
    """Raise ValueError for lists and objects that are nested deeper than ``MAX_DEPTH``."""
    level, depth = [content], 0
    while level:
        depth += 1
        containers = [value for value in level if isinstance(value, (list, dict))]
        if containers and depth > MAX_DEPTH:
            raise ValueError(f"it is nested deeper than {MAX_DEPTH}")
        level = [item for value in containers for item in (value.values() if isinstance(value, dict) else value)]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"it has the key {twice[:50]!r} twice: keep one")
    return content


def _no_constant(name: str) -> float:
    raise ValueError(f"it has {name}: write a number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"it has the number {text[:30]}, which is too large")
    return number


def _short(text: str) -> int:
    if len(text.lstrip("-")) > MAX_DIGITS:
        raise ValueError(f"it has a number of more than {MAX_DIGITS} digits, {text[:30]}...")
    return int(text)
