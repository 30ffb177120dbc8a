"""Reads a COCO annotation file record by record into flat columns instead of a tree of Python objects.

``json.load`` of COCO's training file makes about 5 GB of small objects, and each worker process that uses them copies
them, since their reference counts are in the same memory pages. Columns take 65 bytes per box while reading and 24
afterward. They are never written again, so workers share them.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pkdzoo.data.formats.json_stream import JsonStream
from pkdzoo.data.masks import Segments

# Polygons are nine tenths of COCO's file, and decoding them takes most of the time: where no masks are needed they are
# cut from the text. Only lists of lists of numbers match, so a match is a whole value. A quote inside a JSON string is
# escaped, so the key cannot be part of a string. All other values are decoded as usual.
POLYGONS = re.compile(r'"segmentation"\s*:\s*\[(?:\s*\[[0-9eE+.,\s-]*\]\s*,?)*\s*\]')
SECTIONS = ("images", "annotations", "categories")


@dataclass
class Columns:
    """The unchanged content of a COCO file: N annotations and M images, in the file's order.

    Attributes:
        image_ids: (M,) int64.
        sizes: (M, 2) int32, (height, width).
        names: concatenated UTF-8 file names of the images; the name of image k ends at ``name_ends[k + 1]``.
        name_ends: (M + 1,) int64.
        categories: (id, name) of each category, sorted by id.
        ids: (N,) int64 annotation ids, -1 where the file has none.
        owners: (N,) int64 image id of each annotation.
        labels: (N,) int64 category ids.
        boxes: (N, 4) float64 x, y, width, height.
        areas: (N,) float64; NaN where the file has none.
        flags: (N,) uint8; bit 0 crowd, bit 1 ignore.
        segments: N segmentations; None if they were not requested.
    """

    image_ids: NDArray[np.int64]
    sizes: NDArray[np.int32]
    names: bytes
    name_ends: NDArray[np.int64]
    categories: list[tuple[int, str]]
    ids: NDArray[np.int64]
    owners: NDArray[np.int64]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float64]
    areas: NDArray[np.float64]
    flags: NDArray[np.uint8]
    segments: Segments | None = None


class _Reader:
    """Builds the columns record by record."""

    def __init__(self, path: Path, segments: Segments | None) -> None:
        self.path, self.segments = path, segments
        self.image_ids, self.sizes, self.name_ends = array("q"), array("q"), array("q", [0])
        self.names = bytearray()
        self.categories: list[tuple[int, str]] = []
        self.ids, self.owners, self.labels = array("q"), array("q"), array("q")
        self.boxes, self.areas = array("d"), array("d")
        self.flags = bytearray()

    def error(self, where: str, problem: str) -> ValueError:
        return ValueError(f"{self.path}: {where} {problem}")

    def require(self, record: Any, where: str, keys: str) -> None:
        if not isinstance(record, dict):
            raise self.error(where, f"is {record!r:.60}, not an object with {keys}")

    def integer(self, record: dict[str, Any], key: str, where: str, minimum: int | None = None) -> int:
        """The whole number at ``key``; otherwise raises a ValueError that names the record."""
        if key not in record:
            raise self.error(where, f"has no {key!r}; it has {', '.join(map(repr, record)) or 'nothing'}")
        value = record[key]
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value != int(value):
            raise self.error(where, f"has {key!r} = {value!r}, which is not a whole number")
        if minimum is not None and value < minimum:
            raise self.error(where, f"has {key!r} = {value!r}; it must be at least {minimum}")
        if abs(value) >= 2**63:
            raise self.error(where, f"has {key!r} = {value!r}, which does not fit into 64 bits")
        return int(value)

    def add_image(self, record: Any, index: int) -> None:
        where = f"images[{index}]"
        self.require(record, where, "'id', 'file_name', 'height', 'width'")
        self.image_ids.append(self.integer(record, "id", where))
        self.sizes.append(self.integer(record, "height", where, 1))
        self.sizes.append(self.integer(record, "width", where, 1))
        name = record.get("file_name")
        if not isinstance(name, str) or not name:
            raise self.error(where, f"has file_name = {name!r}; it is the image's path inside the image folder")
        self.names += name.encode()
        self.name_ends.append(len(self.names))

    def add_category(self, record: Any, index: int) -> None:
        where = f"categories[{index}]"
        self.require(record, where, "'id' and 'name'")
        number = self.integer(record, "id", where)
        self.categories.append((number, str(record.get("name", number))))

    def add_annotation(self, record: Any, index: int) -> None:
        try:  # valid records; others are repaired or reported below
            x, y, w, h = record["bbox"]
            self.boxes.extend((x, y, w, h))
            self.owners.append(record["image_id"])
            self.labels.append(record["category_id"])
            self.ids.append(record.get("id", -1))
        except (TypeError, KeyError, ValueError, OverflowError, AttributeError):
            self.add_carefully(record, f"annotations[{index}]")
        area = record.get("area")
        self.areas.append(area if isinstance(area, (int, float)) else math.nan)
        self.flags.append((1 if record.get("iscrowd") else 0) | (2 if record.get("ignore") else 0))
        if self.segments is not None:
            try:
                self.segments.append(record.get("segmentation"))
            except ValueError as error:
                raise self.error(f"annotations[{index}]", str(error)) from None

    def add_carefully(self, record: Any, where: str) -> None:
        """Add a record on which the fast way failed, or raise an error that names the problem."""
        self.require(record, where, "'image_id', 'category_id', 'bbox'")
        owner = self.integer(record, "image_id", where)
        label = self.integer(record, "category_id", where)
        number = -1 if record.get("id") is None else self.integer(record, "id", where)
        box = record.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, (int, float)) for v in box):
            raise self.error(where, f"has bbox = {box!r:.60}; it is [x, y, width, height] in pixels")
        count = len(self.areas)  # the column that is filled last: remove what the fast way added to the others
        for column, values in ((self.boxes, box), (self.owners, [owner]), (self.labels, [label]), (self.ids, [number])):
            del column[count * len(values) :]
            column.extend(values)

    def finish(self) -> Columns:
        return Columns(
            _column(self.image_ids),
            _column(self.sizes).astype(np.int32).reshape(-1, 2),
            bytes(self.names),
            _column(self.name_ends),
            sorted(self.categories),
            _column(self.ids),
            _column(self.owners),
            _column(self.labels),
            _column(self.boxes).reshape(-1, 4),
            _column(self.areas),
            np.frombuffer(self.flags, np.uint8),
            None if self.segments is None else self.segments.freeze(),
        )


def _column(values: array[Any]) -> NDArray[Any]:
    """The array as a NumPy array that shares its memory."""
    return np.frombuffer(values, np.dtype(values.typecode))


def read_columns(path: str | Path, segmentations: bool = False) -> Columns:
    """Read a COCO detection file.

    Args:
        path: the JSON file.
        segmentations: keep polygons and run lengths.

    Raises:
        ValueError: the file is not JSON or not COCO, or a record is invalid.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    reader = _Reader(path, Segments() if segmentations else None)
    sections = dict(zip(SECTIONS, (reader.add_image, reader.add_annotation, reader.add_category)))
    seen: list[str] = []
    with path.open("rb") as file:
        stream = JsonStream(file, str(path), cut=None if segmentations else POLYGONS)
        if stream.peek() == "[":
            raise ValueError(
                f"{path} holds a list, not an object with 'images', 'annotations' and 'categories'; "
                "lists are results of detectors, not data sets"
            )
        for key in stream.members():
            if key not in sections:
                stream.skip()
            elif key in seen or stream.peek() != "[":
                raise ValueError(f"{path}: {key!r} {'occurs twice' if key in seen else 'is not a list'}")
            else:
                add = sections[key]
                for index, record in enumerate(stream.elements()):
                    add(record, index)
            seen.append(key)
    missing = [key for key in SECTIONS if key not in seen]
    if missing:
        raise ValueError(
            f"{path} is not a COCO annotation file: it has no {' and no '.join(map(repr, missing))} at its top "
            f"level, where it has {', '.join(map(repr, seen)) or 'nothing'}. COCO's detection files are "
            '{"images": [...], "annotations": [...], "categories": [...]}'
        )
    return reader.finish()


def columns_of(content: Mapping[str, Any], source: str | Path, segmentations: bool = False) -> Columns:
    """Make columns of a COCO annotation file that is in memory.

    Args:
        content: has ``images``, ``annotations`` and ``categories``.
        source: name of the file in messages.
        segmentations: keep polygons and run lengths.

    Raises:
        ValueError: a record is invalid.
    """
    reader = _Reader(Path(source), Segments() if segmentations else None)
    for key, add in zip(SECTIONS, (reader.add_image, reader.add_annotation, reader.add_category)):
        for index, record in enumerate(content[key]):
            add(record, index)
    return reader.finish()
