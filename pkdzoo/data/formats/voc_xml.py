"""XML files of Pascal VOC, as labelImg, CVAT and others write them: one file per image.

VOC counts pixels from 1, and its corners are part of the object: ``x = xmin - 1`` and ``w = xmax - xmin + 1``. The
arithmetic is decimal, so numbers that are written and read again are the same to their last digit.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path, PureWindowsPath
from typing import Any, NoReturn

from pkdzoo.data.formats.base import read_beginning, read_bytes
from pkdzoo.data.formats.common import int_if_whole, make_annotation, make_content, read_sizes
from pkdzoo.utils.text import quote_some

CORNERS = ("xmin", "ymin", "xmax", "ymax")
LARGEST = 10**9  # pixels; 1e999999999 is a Decimal, too, and fills the memory as a whole number
NO, YES = ("0", "", "false", "no", "unspecified"), ("1", "true", "yes")
FILE_LIMIT, DEPTH_LIMIT = 16 << 20, 64  # bytes of a file, and elements inside each other


class _Bounded(ET.TreeBuilder):
    """Rejects deep nesting, and a DOCTYPE, which can refer to other files and define entities of unlimited size."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = 0

    def doctype(self, name: str, pubid: str | None, system: str | None) -> NoReturn:
        raise ValueError("it declares a DOCTYPE, which annotations do not need and which can define harmful entities")

    def start(self, tag: str, attrs: dict[str, str], /) -> ET.Element:
        self._depth += 1
        if self._depth > DEPTH_LIMIT:
            raise ValueError(f"more than {DEPTH_LIMIT} elements lie inside each other")
        return super().start(tag, attrs)

    def end(self, tag: str, /) -> ET.Element:
        self._depth -= 1
        return super().end(tag)


def parse(path: Path) -> ET.Element:
    """Parse an annotation file to its root element.

    Raises:
        ValueError: the file is missing, too long, too deep, not XML, not an annotation, or has a DOCTYPE.
    """
    try:
        root = ET.fromstring(read_bytes(path, FILE_LIMIT), ET.XMLParser(target=_Bounded()))
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file, though a split lists it") from None
    except (ET.ParseError, ValueError, LookupError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if root.tag != "annotation":
        raise ValueError(f"{path} is not a VOC annotation: its root is <{root.tag:.60}>, not <annotation>")
    return root


def is_annotation(path: Path) -> bool:
    """Whether a file begins as an annotation, from its first bytes."""
    return re.search(r"<annotation[\s>]", read_beginning(path, 4096)) is not None


def class_names_in(files: Iterable[Path]) -> Iterator[str]:
    """Class names of all objects."""
    for file in files:
        yield from (text_of(item, "name") for item in parse(file).findall("object"))


def to_content(
    files: Sequence[tuple[str, Path]], stored: Sequence[str], images: Path, classes: list[str], strict: bool
) -> dict[str, Any]:
    """Read annotation files as the content of a COCO annotation file.

    Args:
        files: name (path of the image without suffix) and XML file of each image.
        stored: image files, relative to ``images``.
        images: folder of the images.
        classes: names of the classes in the order of their labels.
        strict: raise an error for unreadable images whose annotation has no size; otherwise their size is 1 x 1.

    Raises:
        ValueError: a file is invalid, an object's class is not among ``classes``, or an annotation fits images in
            several folders.
    """
    ids = {name: number for number, name in enumerate(classes, 1)}
    by_stem: dict[str, list[str]] = {}
    for image in stored:
        by_stem.setdefault(_stem(image), []).append(image)
    by_name: dict[str, list[str]] = {}  # the annotations may lie in one folder, and the images in several
    for image in stored:
        by_name.setdefault(_stem(Path(image).name), []).append(image)
    records: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (name, path) in enumerate(files, 1):
        tree = parse(path)
        records.append(_image(tree, number, _image_of(name, tree, by_stem, by_name, path), path))
        for position, element in enumerate(tree.findall("object"), 1):
            class_name, box, flags = _object(element, f"{path}: object {position}")
            if class_name not in ids:
                raise ValueError(
                    f"{path}: the class {class_name!r:.60} is not among {quote_some(classes, 20)}; add it to the list"
                )
            annotations.append(make_annotation(len(annotations) + 1, number, ids[class_name], box, **flags))
    _fill_sizes(records, images, strict)
    return make_content(records, annotations, classes)


def _stem(file: str) -> str:
    return file[: len(file) - len(Path(file).suffix)]


def _image_of(
    name: str,
    tree: ET.Element,
    by_stem: Mapping[str, list[str]],
    by_name: Mapping[str, list[str]],
    path: Path,
) -> str:
    """The image file of an annotation, by the annotation's name: ``<filename>`` may be an older name of the image.

    Args:
        name: path of the image without suffix.
        tree: the annotation.
        by_stem: image files by their path without suffix.
        by_name: image files by their name without folder and suffix.
        path: of the annotation.
    """
    filename = text_of(tree, "filename")
    suffix = Path(filename).suffix or ".jpg"
    files = by_stem.get(name) or _in_one_folder(by_name.get(name, []), tree, path)
    if files:
        return next((file for file in files if file.lower().endswith(suffix.lower())), files[0])
    return filename if filename in by_stem.get(_stem(filename), []) else name + suffix


def _in_one_folder(files: list[str], tree: ET.Element, path: Path) -> list[str]:
    """Those of several files of one name that are in the folder of an annotation's ``<path>`` or ``<folder>``.

    Raises:
        ValueError: neither tells which folder it is.
    """
    folders = {Path(file).parent.parts for file in files}
    if len(folders) < 2:
        return files
    for stated in (PureWindowsPath(text_of(tree, "path")).parent.parts, PureWindowsPath(text_of(tree, "folder")).parts):
        meant = [folder for folder in folders if stated and _end_alike(folder, stated)]
        if len(meant) == 1:
            return [file for file in files if Path(file).parent.parts == meant[0]]
    raise ValueError(
        f"{path}: there are several images of its name ({quote_some(files)}): write the folder of one of them in "
        "<folder>, or give the annotation the same folder as its image"
    )


def _end_alike(first: Sequence[str], second: Sequence[str]) -> bool:
    """Whether two paths have the same parts from their ends, as far as the shorter one reaches."""
    return all(a == b for a, b in zip(reversed(first), reversed(second)))


def _image(tree: ET.Element, number: int, file: str, path: Path) -> dict[str, Any]:
    size = tree.find("size")
    width, height, depth = (
        int(_number(size, key, f"{path}: size")) if size is not None and size.find(key) is not None else 0
        for key in ("width", "height", "depth")
    )
    record = {"id": number, "file_name": file, "width": width, "height": height}
    if depth not in (0, 3):
        record["depth"] = depth
    return {**record, "segmented": 1} if _flag(tree, "segmented", str(path)) else record


def _fill_sizes(records: list[dict[str, Any]], images: Path, strict: bool) -> None:
    """Read the sizes of images whose annotation has none; some tools write 0."""
    without_size = [record for record in records if record["width"] < 1 or record["height"] < 1]
    if without_size:
        sizes = read_sizes([images / record["file_name"] for record in without_size], strict)
        for record, (height, width) in zip(without_size, sizes):
            record.update(width=width, height=height)


def _object(element: ET.Element, where: str) -> tuple[str, list[int | float], dict[str, Any]]:
    """Class name, box and further keys of an object element."""
    name, box = text_of(element, "name"), element.find("bndbox")  # not iter(): parts have their own boxes
    if not name or box is None:
        raise ValueError(f"{where} has no <{'name' if not name else 'bndbox'}>")
    left, top, right, bottom = (_number(box, key, where) for key in CORNERS)
    x, y = left - 1, top - 1
    sides = [int_if_whole(float(v)) for v in (x, y, right - x, bottom - y)]
    flags: dict[str, Any] = {}
    if _flag(element, "iscrowd", where):
        flags["iscrowd"] = 1
    elif _flag(element, "difficult", where):
        flags["ignore"] = 1
    flags.update({key: 1 for key in ("truncated", "occluded") if _flag(element, key, where)})
    pose = text_of(element, "pose")
    return name, sides, {**flags, "pose": pose} if pose.lower() not in NO else flags


def text_of(element: ET.Element, key: str) -> str:
    """Text of an element's child, stripped; empty where there is none."""
    return (element.findtext(key) or "").strip()


def _number(element: ET.Element, key: str, where: str) -> Decimal:
    try:
        value = Decimal(text_of(element, key))
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite():
        raise ValueError(f"{where} has <{key}> = {element.findtext(key)!r:.60}, which is not a number")
    if not -LARGEST <= value <= LARGEST:  # abs() of a Decimal may overflow
        raise ValueError(
            f"{where} has <{key}> = {element.findtext(key)!r:.60}, which is too large for a number of pixels"
        )
    return value


def _flag(element: ET.Element, key: str, where: str) -> bool:
    value = text_of(element, key).lower()
    if value in (*NO, *YES):
        return value in YES
    try:
        return float(value) != 0  # some converted data sets have a share of the object here
    except ValueError:
        raise ValueError(f"{where} has <{key}> = {value!r:.60}; it is 0 or 1") from None
