"""A COCO annotation file read record by record into flat columns, never into a tree of Python objects.

The training file of COCO as ``json.load`` gives it takes some 5 GB of small dicts, and each worker process
that touches them copies them (reference counts live in the same pages). Columns cost 57 bytes a box and are
never written after loading, so workers share them.

The reader is a sliding buffer over ``json.JSONDecoder.raw_decode``: any order of keys, any white space, any
nesting, and one record in memory at a time.
"""

from __future__ import annotations

import codecs
import json
import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pkdzoo.data.masks import Segments

CHUNK = 1 << 20  # bytes read at a time; a record longer than the buffer doubles it
_SPACE = " \t\n\r"


class JsonStream:
    """Walks the members of one JSON object, handing out the elements of its arrays one at a time."""

    def __init__(self, file: BinaryIO, name: str, chunk: int = CHUNK) -> None:
        self.file, self.name, self.chunk = file, name, chunk
        self.decode = codecs.getincrementaldecoder("utf-8-sig")().decode  # a byte order mark is no reason to fail
        self.raw_decode = json.JSONDecoder().raw_decode
        self.text, self.at, self.passed, self.ended = "", 0, 0, False

    def fail(self, message: str) -> ValueError:
        return ValueError(f"{self.name} is not a JSON file: {message} (character {self.passed + self.at})")

    def more(self) -> bool:
        """Drop what has been read, and read at least as much again as is still unread."""
        if self.ended:
            return False
        data = self.file.read(max(self.chunk, len(self.text) - self.at))
        self.ended = not data
        try:
            fresh = self.decode(data, self.ended)
        except UnicodeDecodeError as error:
            raise self.fail(f"its text is not UTF-8 ({error.reason})") from None
        self.text, self.passed, self.at = self.text[self.at :] + fresh, self.passed + self.at, 0
        return True

    def peek(self) -> str:
        """The next character that is not white space, left unread; empty at the end of the file."""
        while True:
            while self.at < len(self.text):
                if self.text[self.at] not in _SPACE:
                    return self.text[self.at]
                self.at += 1
            if not self.more():
                return ""

    def take(self, wanted: str) -> str:
        """Read one of the characters in ``wanted``."""
        found = self.peek()
        if not found or found not in wanted:
            told = f"{found!r} stands" if found else "the file ends"
            raise self.fail(f"{told} where {' or '.join(repr(c) for c in wanted)} was expected")
        self.at += 1
        return found

    def value(self) -> Any:
        """Decode the next value, whole."""
        self.peek()
        while True:
            try:
                found, end = self.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                if not self.more():
                    raise self.fail(error.msg) from None
                continue
            # A number at the end of the buffer may go on in the next chunk.
            if end == len(self.text) and self.more():
                continue
            self.at = end
            return found

    def members(self) -> Iterator[str]:
        """Keys of the object; the caller reads or skips each value before asking for the next key."""
        self.take("{")
        if self.peek() == "}":
            return
        while True:
            if self.peek() != '"':
                self.take('"')
            yield self.value()
            if self.take(",}") == "}":
                return

    def colon(self) -> None:
        self.take(":")

    def elements(self) -> Iterator[Any]:
        """Elements of the array, decoded one at a time."""
        self.take("[")
        if self.peek() == "]":
            self.at += 1
            return
        while True:
            yield self.value()
            if self.take(",]") == "]":
                return

    def skip(self) -> None:
        """Read a value nobody asked for without holding more of it than one element."""
        if self.peek() == "[":
            for _ in self.elements():
                pass
        else:
            self.value()


@dataclass
class Columns:
    """What a COCO file says, as it says it; N annotations in the file's order, M pictures likewise.

    Attributes:
        image_ids: (M,) int64.
        sizes: (M, 2) int32, (height, width).
        names: file name of each picture.
        categories: (id, name) of each category, sorted by id.
        ids: (N,) int64 annotation ids, -1 where the file has none.
        owners: (N,) int64 image id of each annotation.
        labels: (N,) int64 category ids.
        boxes: (N, 4) float64 x, y, width, height.
        areas: (N,) float64; NaN where the file has none.
        flags: (N,) uint8; bit 0 crowd, bit 1 ignore.
        segments: N segmentations; None unless they were asked for.
    """

    image_ids: NDArray[np.int64]
    sizes: NDArray[np.int32]
    names: list[str]
    categories: list[tuple[int, str]]
    ids: NDArray[np.int64]
    owners: NDArray[np.int64]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float64]
    areas: NDArray[np.float64]
    flags: NDArray[np.uint8]
    segments: Segments | None = None


@dataclass
class _Reader:
    """Columns while they grow."""

    path: Path
    image_ids: array[int] = field(default_factory=lambda: array("q"))
    sizes: array[int] = field(default_factory=lambda: array("i"))
    names: list[str] = field(default_factory=list)
    categories: list[tuple[int, str]] = field(default_factory=list)
    ids: array[int] = field(default_factory=lambda: array("q"))
    owners: array[int] = field(default_factory=lambda: array("q"))
    labels: array[int] = field(default_factory=lambda: array("q"))
    boxes: array[float] = field(default_factory=lambda: array("d"))
    areas: array[float] = field(default_factory=lambda: array("d"))
    flags: array[int] = field(default_factory=lambda: array("B"))
    segments: Segments | None = None

    def refuse(self, where: str, what: str) -> ValueError:
        return ValueError(f"{self.path}: {where} {what}")

    def whole(self, record: dict[str, Any], key: str, where: str, least: int | None = None) -> int:
        """The whole number at ``key``, or an error that names the place."""
        if key not in record:
            raise self.refuse(where, f"has no {key!r}; it has {', '.join(map(repr, record)) or 'nothing'}")
        value = record[key]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value or value != int(value):
            raise self.refuse(where, f"has {key!r} = {value!r}, which is not a whole number")
        if least is not None and value < least:
            raise self.refuse(where, f"has {key!r} = {value!r}; it is at least {least}")
        return int(value)

    def image(self, record: Any, where: str) -> None:
        if not isinstance(record, dict):
            raise self.refuse(where, f"is {record!r:.60}, not an object with 'id', 'file_name', 'height', 'width'")
        self.image_ids.append(self.whole(record, "id", where))
        self.sizes.extend((self.whole(record, "height", where, 1), self.whole(record, "width", where, 1)))
        name = record.get("file_name")
        if not isinstance(name, str) or not name:
            raise self.refuse(where, f"has file_name = {name!r}; it is the picture's path inside the image folder")
        self.names.append(name)

    def category(self, record: Any, where: str) -> None:
        if not isinstance(record, dict):
            raise self.refuse(where, f"is {record!r:.60}, not an object with 'id' and 'name'")
        number = self.whole(record, "id", where)
        self.categories.append((number, str(record.get("name", number))))

    def annotation(self, record: Any, where: str) -> None:
        try:  # what nearly all records look like; the careful way below finds the words for the others
            x, y, w, h = record["bbox"]
            self.boxes.extend((x, y, w, h))
            self.owners.append(record["image_id"])
            self.labels.append(record["category_id"])
            self.ids.append(record.get("id", -1))
        except (TypeError, KeyError, ValueError, OverflowError):
            self.explain(record, where)
        area = record.get("area")
        self.areas.append(area if isinstance(area, (int, float)) else math.nan)
        self.flags.append((1 if record.get("iscrowd") else 0) | (2 if record.get("ignore") else 0))
        if self.segments is not None:
            try:
                self.segments.append(record.get("segmentation"))
            except ValueError as error:
                raise self.refuse(where, str(error)) from None

    def explain(self, record: Any, where: str) -> None:
        """Repair or refuse a record that the short way stumbled over."""
        if not isinstance(record, dict):
            raise self.refuse(where, f"is {record!r:.60}, not an object with 'image_id', 'category_id', 'bbox'")
        owner = self.whole(record, "image_id", where)
        label = self.whole(record, "category_id", where)
        number = self.whole(record, "id", where) if "id" in record else -1
        box = record.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, (int, float)) for v in box):
            raise self.refuse(where, f"has bbox = {box!r:.60}; it is [x, y, width, height] in pixels")
        count = len(self.areas)  # the last column to grow: forget what the short way had begun
        for column, values in (
            (self.boxes, box),
            (self.owners, [owner]),
            (self.labels, [label]),
            (self.ids, [number]),
        ):
            del column[count * len(values) :]
            column.extend(values)


def _not_coco(path: Path, seen: list[str], missing: list[str]) -> ValueError:
    return ValueError(
        f"{path} is not a COCO annotation file: it has no {' and no '.join(map(repr, missing))} at its top "
        f"level, where it has {', '.join(map(repr, seen)) or 'nothing'}. COCO's detection files are "
        '{"images": [...], "annotations": [...], "categories": [...]}'
    )


def read_columns(path: str | Path, segmentations: bool = False) -> Columns:
    """Read a COCO detection file.

    Args:
        path: the JSON file.
        segmentations: keep polygons and run lengths, which are nine tenths of COCO's file.

    Raises:
        ValueError: it is not JSON, not COCO, or one of its records lacks what a detector needs.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    reader = _Reader(path, segments=Segments() if segmentations else None)
    sections = {"images": reader.image, "annotations": reader.annotation, "categories": reader.category}
    seen: list[str] = []
    with path.open("rb") as file:
        stream = JsonStream(file, str(path))
        if stream.peek() == "[":
            raise ValueError(
                f"{path} holds a list, not an object with 'images', 'annotations' and 'categories': a list is what a "
                "detector's results look like, not a data set"
            )
        for key in stream.members():
            stream.colon()
            seen.append(key)
            if key in sections and stream.peek() == "[":
                for position, record in enumerate(stream.elements()):
                    sections[key](record, f"{key}[{position}]")
            elif key in sections:
                raise ValueError(f"{path}: {key!r} is not a list")
            else:
                stream.skip()
    missing = [key for key in sections if key not in seen]
    if missing:
        raise _not_coco(path, seen, missing)
    return Columns(
        _column(reader.image_ids, np.int64),
        np.array(reader.sizes, np.int32).reshape(-1, 2),
        reader.names,
        sorted(reader.categories),
        _column(reader.ids, np.int64),
        _column(reader.owners, np.int64),
        _column(reader.labels, np.int64),
        _column(reader.boxes, np.float64).reshape(-1, 4),
        _column(reader.areas, np.float64),
        _column(reader.flags, np.uint8),
        reader.segments.freeze() if reader.segments is not None else None,
    )


def _column(values: array[Any], dtype: Any) -> NDArray[Any]:
    """The array's own memory, seen by numpy."""
    return np.frombuffer(values, dtype) if len(values) else np.zeros(0, dtype)
