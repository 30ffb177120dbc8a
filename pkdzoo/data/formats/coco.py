"""Reads a COCO annotation file record by record into flat columns instead of a tree of Python objects.

``json.load`` of COCO's training file makes about 5 GB of small objects, and each worker process that uses them copies
them, since their reference counts are in the same memory pages. Columns take 65 bytes per box while reading and 24
afterward. They are never written again, so workers share them.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pkdzoo.data.formats.json_stream import JsonStream
from pkdzoo.data.segmentations import Segments
from pkdzoo.utils.text import quote_some

# Polygons are nine tenths of COCO's file, and decoding them takes most of the time: where no masks are needed they are
# cut from the text. Only lists of lists of numbers match, so a match is a whole value. A quote inside a JSON string is
# escaped, so the key cannot be part of a string. All other values are decoded as usual. White space can be matched in
# one way only; with two ways, a text that does not match would take exponential time.
POLYGONS = re.compile(r'"segmentation"\s*:\s*\[\s*(?:\[[0-9eE+.,\s-]*\]\s*(?:,\s*)?)*\]')
SECTIONS = ("images", "annotations", "categories")
CROWD, IGNORE = 1, 2  # bits of Columns.flags
MAX_SIDE = 1_000_000  # pixels; a height or width beyond it is a mistake
PLAIN = (int, bool, type(None))  # types of the flags of nearly all records
FLAG_WORDS = {"0": False, "1": True, "false": False, "true": True, "no": False, "yes": True, "": False}


@dataclass
class Columns:
    """The unchanged content of a COCO file: N annotations and M images, in the file's order.

    Attributes:
        image_ids: (M,) int64.
        sizes: (M, 2) int32, (height, width); 0 where the file has none and none is needed.
        names: concatenated file names of the images; the name of image k ends at ``name_ends[k + 1]``.
        name_ends: (M + 1,) int64.
        categories: (id, name) of each category, sorted by id.
        ids: (N,) int64 annotation ids, -1 where the file has none.
        owners: (N,) int64 image id of each annotation.
        labels: (N,) int64 category ids.
        boxes: (N, 4) float64 x, y, width, height.
        areas: (N,) float64; NaN where the file has none.
        flags: (N,) uint8; bit ``CROWD`` from ``iscrowd``, bit ``IGNORE`` from ``ignore`` or ``difficult``.
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

    def file_name(self, index: int) -> str:
        """File name of an image."""
        return decode_name(self.names[self.name_ends[index] : self.name_ends[index + 1]])

    def check_image_ids(self, source: str | Path) -> None:
        """Check that no image id belongs to several files; boxes of one file would be put on another one.

        Args:
            source: name of the annotation file in messages.

        Raises:
            ValueError: two files have the same id. A record that is repeated as it is does no harm.
        """
        first: dict[int, int] = {}
        if len(np.unique(self.image_ids)) == len(self.image_ids):
            return
        for index, number in enumerate(self.image_ids.tolist()):
            names = self.file_name(first.setdefault(number, index)), self.file_name(index)
            if names[0] != names[1]:
                raise ValueError(
                    f"{source}: image id {number} belongs to {quote_some(names)}: give each image an id of its own"
                )


def decode_name(name: Any) -> str:
    """A file name from its bytes in :class:`Columns`."""
    return bytes(name).decode("utf-8", "surrogateescape")


class _Reader:
    """Builds the columns record by record."""

    def __init__(self, path: Path, segments: Segments | None, need_sizes: bool = True) -> None:
        self.path, self.segments, self.need_sizes = path, segments, need_sizes
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

    def integer(
        self, record: dict[str, Any], key: str, where: str, lowest: int = -(2**63), highest: int = 2**63 - 1
    ) -> int:
        """The whole number at ``key``; otherwise raises a ValueError that names the record."""
        if key not in record:
            raise self.error(where, f"has no {key!r}; it has {quote_some(record) or 'nothing'}")
        value = record[key]
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or (isinstance(value, float) and not value.is_integer()):
            raise self.error(where, f"has {key!r} = {value!r:.60}, which is not a whole number")
        if abs(value) >= 2**63:
            raise self.error(where, f"has {key!r} = {value!r:.60}, which does not fit into 64 bits")
        if value < lowest:
            raise self.error(where, f"has {key!r} = {value!r:.60}; it must be at least {lowest}")
        if value > highest:
            raise self.error(where, f"has {key!r} = {value!r:.60}; it must be at most {highest}")
        return int(value)

    def add_image(self, record: Any, index: int) -> None:
        where = f"images[{index}]"
        self.require(record, where, "'id', 'file_name', 'height', 'width'")
        self.image_ids.append(self.integer(record, "id", where))
        for key in ("height", "width"):
            missing = not self.need_sizes and record.get(key) is None
            self.sizes.append(0 if missing else self.integer(record, key, where, 1, MAX_SIDE))
        name = record.get("file_name")
        if not isinstance(name, str) or not name:
            raise self.error(where, f"has file_name = {name!r:.60}; it is the image's path inside the image folder")
        try:
            self.names += name.encode("utf-8", "surrogateescape")  # names on disk need not be valid UTF-8
        except UnicodeEncodeError:
            raise self.error(where, f"has file_name = {name!r:.60}, which is not a text") from None
        self.name_ends.append(len(self.names))

    def add_category(self, record: Any, index: int) -> None:
        where = f"categories[{index}]"
        self.require(record, where, "'id' and 'name'")
        number = self.integer(record, "id", where)
        name = record.get("name")
        if name is not None and not isinstance(name, (str, int, float)):
            raise self.error(where, f"has name = {name!r:.60}; it is a text")
        self.categories.append((number, str(number if name is None else name)))

    def add_annotation(self, record: Any, index: int) -> None:
        try:  # valid records; others are repaired or reported below
            x, y, w, h = record["bbox"]
            self.boxes.extend((x, y, w, h))
            self.owners.append(record["image_id"])
            self.labels.append(record["category_id"])
            self.ids.append(record.get("id", -1))
        except (TypeError, KeyError, ValueError, OverflowError, AttributeError):
            self.add_with_checks(record, f"annotations[{index}]")
        area = record.get("area")
        self.areas.append(area if _is_float(area) and math.isfinite(area) else math.nan)
        try:
            self.flags.append(flags_of(record))
        except ValueError as error:
            raise self.error(f"annotations[{index}]", str(error)) from None
        if self.segments is not None:
            self.segments.append(record.get("segmentation"))

    def add_with_checks(self, record: Any, where: str) -> None:
        """Add a record on which the fast way failed, or raise an error that names the problem."""
        self.require(record, where, "'image_id', 'category_id', 'bbox'")
        owner = self.integer(record, "image_id", where)
        label = self.integer(record, "category_id", where)
        number = -1 if record.get("id") is None else self.integer(record, "id", where)
        box = record.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(map(_is_float, box)):
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


def flags_of(record: Mapping[str, Any]) -> int:
    """Bits ``CROWD`` (``iscrowd``) and ``IGNORE`` (``ignore`` or ``difficult``) of an annotation record.

    A flag is written as 0 or 1, a boolean, or one of these as text; "0" is not true.

    Raises:
        ValueError: another value.
    """
    crowd, ignore, difficult = record.get("iscrowd"), record.get("ignore"), record.get("difficult")
    if crowd.__class__ not in PLAIN or ignore.__class__ not in PLAIN or difficult.__class__ not in PLAIN:
        crowd, ignore, difficult = (_flag(record, key) for key in ("iscrowd", "ignore", "difficult"))
    return (CROWD if crowd else 0) | (IGNORE if ignore or difficult else 0)


def _flag(record: Mapping[str, Any], key: str) -> bool:
    value = record.get(key)
    if value is None or isinstance(value, (bool, int)):
        return bool(value)
    if isinstance(value, float) and value in (0.0, 1.0):
        return value == 1.0
    word = value.strip().lower() if isinstance(value, str) else None
    if word not in FLAG_WORDS:
        raise ValueError(f"has {key!r} = {value!r:.60}; write 0 or 1")
    return FLAG_WORDS[word]


def _is_float(value: Any) -> bool:
    """Whether a value of a JSON file is a number that fits into a float."""
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**1000)


def _column(values: array[Any]) -> NDArray[Any]:
    """The array as a NumPy array that shares its memory."""
    return np.frombuffer(values, np.dtype(values.typecode))


def read_columns(
    path: str | Path, segmentations: bool = False, need_sizes: bool = True, needed: Sequence[str] = SECTIONS
) -> Columns:
    """Read a COCO detection file.

    Args:
        path: the JSON file.
        segmentations: keep polygons and run lengths.
        need_sizes: raise an error for an image without height or width.
        needed: lists that the file must have.

    Raises:
        ValueError: the file is not JSON or not COCO, or a record is invalid.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    reader = _Reader(path, Segments() if segmentations else None, need_sizes)
    with path.open("rb") as file:
        found = _read_sections(JsonStream(file, str(path), cut=None if segmentations else POLYGONS), reader)
    missing = [key for key in needed if key not in found]
    if missing:
        raise ValueError(
            f"{path} is not a COCO annotation file: it has no {' and no '.join(map(repr, missing))} at its top "
            f"level, where it has {quote_some(found) or 'nothing'}. COCO's detection files are "
            '{"images": [...], "annotations": [...], "categories": [...]}'
        )
    return reader.finish()


def _read_sections(stream: JsonStream, reader: _Reader) -> list[str]:
    """Read the sections of a COCO file; the keys at its top level."""
    sections = dict(zip(SECTIONS, (reader.add_image, reader.add_annotation, reader.add_category)))
    if stream.peek() == "[":
        raise ValueError(
            f"{stream.name} holds a list, not an object with 'images', 'annotations' and 'categories'; "
            "lists are results of detectors, not data sets"
        )
    found: dict[str, None] = {}
    for key in stream.members():
        if key in found:
            raise ValueError(f"{stream.name}: {key!r} occurs twice")
        found[key] = None
        if key not in sections:
            stream.skip()
            continue
        if stream.peek() != "[":
            raise ValueError(f"{stream.name}: {key!r} is not a list")
        for index, record in enumerate(stream.elements()):
            sections[key](record, index)
    stream.end()
    return list(found)


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
