"""A csv with one box per line and a header, as TensorFlow's and RetinaNet's tools write it, read as COCO.

    SPLIT/_annotations.csv                  Roboflow: beside the images
    SPLIT_labels.csv, SPLIT.csv             with images/SPLIT/, SPLIT/ or images/
    annotations.csv, labels.csv, boxes.csv  one split, or the only csv of the folder

The header names the columns, in any case of letters and any order: the image (``filename``, ``image_path``, ...), the
class (``class``, ``label``, ...) and the corners (``xmin``, ``ymin``, ``xmax``, ``ymax``, or ``x1`` ... ``y2``), or
``bbox_x``, ``bbox_y``, ``bbox_width``, ``bbox_height``. Corners are edges in pixels from 0, so ``w = xmax - xmin``. A
``width`` and ``height`` are the image's size. A line without class and corners is an image without objects. Images in
the folder that no line names are left out. Classes are in the order of ``classes.txt`` or ``labels.txt``, otherwise
alphabetical over all splits.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pkdzoo.data.formats.base import (
    Format,
    by_split,
    is_split_name,
    names_of,
    plain_path,
    read_beginning,
    read_text,
    split_folders,
    split_of,
    subfolder,
)
from pkdzoo.data.formats.common import class_order, int_if_whole, list_images, make_annotation, make_content, read_sizes
from pkdzoo.data.formats.folders import IMAGE_FOLDERS
from pkdzoo.utils.text import counted, quote_some

FILE_LIMIT = 512 << 20  # bytes
LARGEST = 10**9  # pixels
FILE = ("filename", "file_name", "image_path", "image_name", "image_file", "image", "path", "file", "image_id", "img")
CLASS = ("class", "label", "class_name", "label_name", "category", "category_name", "labels", "classname", "name")
CORNERS = (
    ("xmin", "ymin", "xmax", "ymax"),
    ("x_min", "y_min", "x_max", "y_max"),
    ("x1", "y1", "x2", "y2"),
    ("left", "top", "right", "bottom"),
)
SIDES = (("bbox_x", "bbox_y", "bbox_width", "bbox_height"), ("bbox_x", "bbox_y", "bbox_w", "bbox_h"))
IMAGE_SIZE = (("image_width", "image_height"), ("img_width", "img_height"), ("width", "height"))
WHOLE_SETS = ("annotations.csv", "_annotations.csv", "labels.csv", "boxes.csv")


@dataclass(frozen=True)
class Row:
    """One line of the file.

    Attributes:
        where: file and line, for messages.
        image: the image's file as the line names it.
        label: the class; empty for an image without objects.
        box: x, y, width, height in pixels; None for an image without objects.
        size: (height, width) of the image; None where the file does not tell it.
    """

    where: str
    image: str
    label: str
    box: tuple[float, float, float, float] | None
    size: tuple[int, int] | None


def splits(root: Path) -> dict[str, Path]:
    """The file of each split; empty for a folder without such files."""
    named: list[tuple[str, Path]] = []
    for split, folder in split_folders(root).items():
        named += [(split, path) for path in _boxes_in(folder)[:1]]
    places = [root, *(folder for folder in [subfolder(root, ("annotations", "data", "labels"))] if folder)]
    for folder in places:
        found = [(_split_in(path.stem), path) for path in _boxes_in(folder)]
        named += [(name, path) for name, path in found if name]
    if named:
        return by_split(reversed(named))  # of several files, one in the data set's folder
    single = [path for folder in places for path in _boxes_in(folder)]
    usual = [path for path in single if path.name in WHOLE_SETS]
    return {"train": (usual or single)[0]} if usual or len(single) == 1 else {}


def _split_in(stem: str) -> str:
    """The name of a split that is a word of a file's name, as in ``train_labels``; empty where there is none."""
    return next((word for word in re.split(r"[^A-Za-z]+", stem) if is_split_name(word)), "")


def _boxes_in(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.csv")) if not path.name.startswith(".") and has_boxes(path)]


def has_boxes(path: Path) -> bool:
    """Whether the first line of a csv names a file, a class and a box."""
    if not path.is_file():
        return False
    line = read_beginning(path, 4096).partition("\n")[0]
    names = {name.strip().strip('"').lower() for name in line.split(_delimiter(line))}
    boxes = any(set(box) <= names for box in (*CORNERS, *SIDES))
    return boxes and bool(names & set(FILE)) and bool(names & set(CLASS))


def _delimiter(header: str) -> str:
    return max(",;\t", key=header.count)


def read_rows(path: Path) -> list[Row]:
    """Read the lines of a file.

    Raises:
        ValueError: a column is missing, or a line is invalid; the message names it.
    """
    text = read_text(path, FILE_LIMIT)
    lines = csv.reader(io.StringIO(text), delimiter=_delimiter(text.partition("\n")[0]))
    rows: list[Row] = []
    problem = ""
    try:
        header = [name.strip().lower() for name in next(lines, [])]
        columns = _columns(header, path)
        for fields in lines:
            if any(field.strip() for field in fields):
                rows.append(_row(fields, columns, path, lines.line_num))
    except csv.Error as error:
        problem = str(error)
    if problem:
        raise ValueError(f"{path}, line {lines.line_num}: {problem}")
    _refuse_fractions(rows, path)
    return rows


def _columns(header: list[str], path: Path) -> dict[str, Any]:
    """Positions of the columns: of the file, the class, the four numbers of the box, and the image's size."""
    at = {name: k for k, name in reversed(list(enumerate(header)))}
    file, label = (next((at[name] for name in names if name in at), None) for names in (FILE, CLASS))
    box = next((names for names in (*CORNERS, *SIDES) if all(name in at for name in names)), None)
    size = next((names for names in IMAGE_SIZE if all(name in at for name in names)), None)
    missing = [
        text for text, found in (("filename", file), ("class", label), ("xmin, ymin, xmax, ymax", box)) if found is None
    ]
    if missing or box is None:
        raise ValueError(
            f"{path} has the columns {quote_some(header, 12)}: it needs {' and '.join(missing)}; rename its columns"
        )
    return {
        "file": file,
        "label": label,
        "box": [at[name] for name in box],
        "corners": box in CORNERS,
        "size": [at[name] for name in size] if size else None,
    }


def _row(fields: list[str], columns: dict[str, Any], path: Path, line: int) -> Row:
    where = f"{path}, line {line}"

    def field(position: int) -> str:
        return fields[position].strip() if position < len(fields) else ""

    image, label, values = field(columns["file"]), field(columns["label"]), [field(k) for k in columns["box"]]
    if not image:
        raise ValueError(f"{where} has no file name")
    plain_path(image, path)
    size = None
    if columns["size"]:
        width, height = (_number(field(k), where) if field(k) else 0.0 for k in columns["size"])
        size = (int(height), int(width)) if min(height, width) >= 1 else None
    if not label and not any(values):
        return Row(where, image, "", None, size)
    if not label:
        raise ValueError(f"{where} has a box but no class")
    x, y, right, bottom = (_number(value, where) for value in values)
    box = (x, y, right - x, bottom - y) if columns["corners"] else (x, y, right, bottom)
    return Row(where, image, label, box, size)


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or abs(value) > LARGEST:
        raise ValueError(f"{where}: {text[:60]!r} is no number of pixels")
    return value


def _refuse_fractions(rows: list[Row], path: Path) -> None:
    boxes = [row.box for row in rows if row.box]
    if boxes and all(max(x + w, y + h) <= 1 for x, y, w, h in boxes):
        raise ValueError(f"{path}: all corners are at most 1, fractions of the image: multiply them by its sides")


def image_dir(path: Path) -> Path:
    """The folder of the images: the first that holds one of the first files that the csv names.

    Raises:
        ValueError: no such folder.
    """
    folder, name = path.parent, _split_in(path.stem)
    above = folder.parent if folder.name.lower() in ("annotations", "data", "labels") else folder
    parts = names_of(split_of(name)) if name else ()
    candidates = [folder]
    for parent in (above, *(found for found in [subfolder(above, IMAGE_FOLDERS)] if found)):
        candidates += [found for found in [subfolder(parent, parts)] if found]
    candidates += [found for found in [subfolder(above, IMAGE_FOLDERS)] if found] + [above]
    images = [_relative(row.image) for row in read_rows(path)[:100]]
    for candidate in candidates:
        if any((candidate / name).is_file() for name in images):
            return candidate
    expected = {PurePosixPath(name).name for name in images}
    for candidate in candidates:  # the paths may be those of another machine, and an image_id has no suffix
        stored = [PurePosixPath(name) for name in list_images(candidate)]
        if expected & {text for path in stored for text in (path.name, path.stem)}:
            return candidate
    looked = ", ".join(map(str, candidates))
    raise ValueError(
        f"{path}: none of its first {counted(len(images), 'image')} ({quote_some(images, 2)}) is in {looked}"
    )


def _relative(name: str) -> str:
    return name.replace("\\", "/").lstrip("/")


def to_coco(path: Path, strict: bool = True) -> dict[str, Any]:
    """Read a split as the content of a COCO annotation file, with images in the order of the file.

    Args:
        path: the csv.
        strict: raise an error for unreadable images whose size the file does not tell.

    Raises:
        ValueError: the file is invalid, or there are no images.
    """
    rows, images = read_rows(path), image_dir(path)
    root, files = _data_set_of(path)
    classes = class_order([root, path.parent], lambda: (row.label for file in files for row in read_rows(file)))
    ids = {name: number for number, name in enumerate(classes, 1)}
    paths = _match_images((row.image for row in rows), images)
    numbers: dict[str, int] = {}
    records: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for row in rows:
        name = paths[row.image]
        if name not in numbers:
            numbers[name] = len(numbers) + 1
            height, width = row.size or (0, 0)
            records.append({"id": numbers[name], "file_name": name, "height": height, "width": width})
        if row.box is None:
            continue
        if row.label not in ids:
            raise ValueError(f"{row.where}: the class {row.label!r:.60} is not among {quote_some(classes, 20)}")
        box = [int_if_whole(value) for value in row.box]
        annotations.append(make_annotation(len(annotations) + 1, numbers[name], ids[row.label], box))
    without = [record for record in records if not record["height"]]
    sizes = read_sizes([images / record["file_name"] for record in without], strict)
    for record, (height, width) in zip(without, sizes):
        record.update(height=height, width=width)
    return make_content(records, annotations, classes)


def _data_set_of(path: Path) -> tuple[Path, list[Path]]:
    """Folder of the data set that a file belongs to, and the files of all its splits."""
    for root in reversed([path.parent, path.parent.parent, path.parent.parent.parent]):
        files = list(splits(root).values())
        if path in files:
            return root, files
    return path.parent, [path]


def _match_images(stated: Iterable[str], images: Path) -> dict[str, str]:
    """Path in the folder of each image name of the csv; names without a file stay as they are.

    A name may have more parts than the path of its file, or fewer, if no other name stands for that file.
    """
    find = _finder(images)
    plain = {name: PurePosixPath(_relative(name)).as_posix() for name in dict.fromkeys(stated)}
    found = {path: find(path) for path in plain.values()}
    users = Counter(found.values())
    usable = {path: file for path, file in found.items() if file and (file == path or users[file] == 1)}
    return {name: usable.get(path, path) for name, path in plain.items()}


def _finder(images: Path) -> Callable[[str], str]:
    """A function that gives the path of an image in the folder, from a name with ``/``; empty where it has none."""
    stored = list_images(images)
    names = set(stored)
    by_name: dict[str, list[str]] = {}
    by_stem: dict[str, list[str]] = {}
    for name in stored:
        by_name.setdefault(PurePosixPath(name).name, []).append(name)
        by_stem.setdefault(PurePosixPath(name).stem, []).append(name)

    def find(name: str) -> str:
        plain = PurePosixPath(name)
        tails = ("/".join(plain.parts[start:]) for start in range(len(plain.parts)))
        tail = next((tail for tail in tails if tail in names), None)
        if tail is not None:
            return tail
        same = by_name.get(plain.name) or by_stem.get(plain.name) or []  # image_id has no suffix
        return same[0] if len(same) == 1 else ""  # several: which one cannot be told

    return find


FORMAT = Format(
    name="csv",
    title="csv",
    tree="SPLIT/_annotations.csv, SPLIT_labels.csv or annotations.csv, columns filename, class, xmin, ymin, xmax, ymax",
    present=lambda root: bool(splits(root)),
    splits=splits,
    owns=lambda path: path.suffix.lower() == ".csv",
    image_dir=image_dir,
    read=to_coco,
)
