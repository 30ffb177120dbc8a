"""A COCO annotation file read record by record into flat columns, never into a tree of Python objects.

COCO's training file as ``json.load`` gives it takes some 5 GB of small objects, and each worker process that
touches them copies them (their reference counts lie in the same pages). Columns take 65 bytes a box while
reading, 24 afterwards, and are never written again, so workers share them.
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

# Polygons are nine tenths of COCO's file, and decoding them is most of the work: where no masks are wanted they
# are cut from the text. Lists of lists of numbers only, so a match is the whole value; a quote inside a JSON
# string is escaped, so the key cannot be part of one. Anything else is left to the decoder.
POLYGONS = re.compile(r'"segmentation"\s*:\s*\[(?:\s*\[[0-9eE+.,\s-]*\]\s*,?)*\s*\]')
SECTIONS = ("images", "annotations", "categories")


@dataclass
class Columns:
    """What a COCO file says, as it says it: N annotations in the file's order, M images likewise.

    Attributes:
        image_ids: (M,) int64.
        sizes: (M, 2) int32, (height, width).
        names: file names of the images as UTF-8, end to end; image k's ends at ``name_ends[k + 1]``.
        name_ends: (M + 1,) int64.
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
    """Columns while they grow."""

    def __init__(self, path: Path, segments: Segments | None) -> None:
        self.path, self.segments = path, segments
        self.image_ids, self.sizes, self.name_ends = array("q"), array("q"), array("q", [0])
        self.names = bytearray()
        self.categories: list[tuple[int, str]] = []
        self.ids, self.owners, self.labels = array("q"), array("q"), array("q")
        self.boxes, self.areas = array("d"), array("d")
        self.flags = bytearray()

    def refuse(self, where: str, what: str) -> ValueError:
        return ValueError(f"{self.path}: {where} {what}")

    def require(self, record: Any, where: str, keys: str) -> None:
        if not isinstance(record, dict):
            raise self.refuse(where, f"is {record!r:.60}, not an object with {keys}")

    def whole(self, record: dict[str, Any], key: str, where: str, least: int | None = None) -> int:
        """The whole number at ``key``, or an error that names the place."""
        if key not in record:
            raise self.refuse(where, f"has no {key!r}; it has {', '.join(map(repr, record)) or 'nothing'}")
        value = record[key]
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value != int(value):
            raise self.refuse(where, f"has {key!r} = {value!r}, which is not a whole number")
        if least is not None and value < least:
            raise self.refuse(where, f"has {key!r} = {value!r}; it is at least {least}")
        if abs(value) >= 2**63:
            raise self.refuse(where, f"has {key!r} = {value!r}, which is beyond 64 bits")
        return int(value)

    def images(self, record: Any, place: int) -> None:
        where = f"images[{place}]"
        self.require(record, where, "'id', 'file_name', 'height', 'width'")
        self.image_ids.append(self.whole(record, "id", where))
        self.sizes.append(self.whole(record, "height", where, 1))
        self.sizes.append(self.whole(record, "width", where, 1))
        name = record.get("file_name")
        if not isinstance(name, str) or not name:
            raise self.refuse(where, f"has file_name = {name!r}; it is the image's path inside the image folder")
        self.names += name.encode()
        self.name_ends.append(len(self.names))

    def add_category(self, record: Any, place: int) -> None:
        where = f"categories[{place}]"
        self.require(record, where, "'id' and 'name'")
        number = self.whole(record, "id", where)
        self.categories.append((number, str(record.get("name", number))))

    def annotations(self, record: Any, place: int) -> None:
        try:  # nearly all records; the careful way below finds the words for the others
            x, y, w, h = record["bbox"]
            self.boxes.extend((x, y, w, h))
            self.owners.append(record["image_id"])
            self.labels.append(record["category_id"])
            self.ids.append(record.get("id", -1))
        except (TypeError, KeyError, ValueError, OverflowError, AttributeError):
            self.explain(record, f"annotations[{place}]")
        area = record.get("area")
        self.areas.append(area if isinstance(area, (int, float)) else math.nan)
        self.flags.append((1 if record.get("iscrowd") else 0) | (2 if record.get("ignore") else 0))
        if self.segments is not None:
            try:
                self.segments.append(record.get("segmentation"))
            except ValueError as error:
                raise self.refuse(f"annotations[{place}]", str(error)) from None

    def explain(self, record: Any, where: str) -> None:
        """Repair or refuse a record that the short way stumbled over."""
        self.require(record, where, "'image_id', 'category_id', 'bbox'")
        owner = self.whole(record, "image_id", where)
        label = self.whole(record, "category_id", where)
        number = -1 if record.get("id") is None else self.whole(record, "id", where)
        box = record.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, (int, float)) for v in box):
            raise self.refuse(where, f"has bbox = {box!r:.60}; it is [x, y, width, height] in pixels")
        count = len(self.areas)  # the last column to grow: forget what the short way had begun
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
    """The array's own memory, seen by numpy."""
    return np.frombuffer(values, np.dtype(values.typecode))


def read_columns(path: str | Path, segmentations: bool = False) -> Columns:
    """Read a COCO detection file.

    Args:
        path: the JSON file.
        segmentations: keep polygons and run lengths.

    Raises:
        ValueError: it is not JSON, not COCO, or one of its records lacks what a detector needs.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    reader = _Reader(path, Segments() if segmentations else None)
    sections = dict(zip(SECTIONS, (reader.images, reader.annotations, reader.add_category)))
    seen: list[str] = []
    with path.open("rb") as file:
        stream = JsonStream(file, str(path), cut=None if segmentations else POLYGONS)
        if stream.peek() == "[":
            raise ValueError(
                f"{path} holds a list, not an object with 'images', 'annotations' and 'categories': a list is what a "
                "detector's results look like, not a data set"
            )
        for key in stream.members():
            if key not in sections:
                stream.skip()
            elif key in seen or stream.peek() != "[":
                raise ValueError(f"{path}: {key!r} {'occurs twice' if key in seen else 'is not a list'}")
            else:
                add = sections[key]
                for place, record in enumerate(stream.elements()):
                    add(record, place)
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
    """Columns of a COCO annotation file that is in memory.

    Args:
        content: with ``images``, ``annotations`` and ``categories``.
        source: where it comes from, for messages.
        segmentations: keep polygons and run lengths.

    Raises:
        ValueError: one of its records lacks what a detector needs.
    """
    reader = _Reader(Path(source), Segments() if segmentations else None)
    for key, add in zip(SECTIONS, (reader.images, reader.annotations, reader.add_category)):
        for place, record in enumerate(content[key]):
            add(record, place)
    return reader.finish()
