"""What Pascal VOC and YOLO folders have in common when they are read as COCO, or written from it."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from pkdzoo.data.image_io import SUFFIXES, UnreadableImage, read_size
from pkdzoo.data.load_report import few

UNKNOWN_SIZE = (1, 1)  # boxes become too thin to be learnt from, and loading the image fails by its name


@dataclass
class Object:
    """One annotation on its way out of COCO's format: its record, checked, with its class's name.

    Attributes:
        record: as it stands in the COCO file.
        name: of its class.
        label: place of its class, counted from 0 in the order of category ids.
        box: x, y, width, height in pixels, all finite.
    """

    record: Mapping[str, Any]
    name: str
    label: int
    box: tuple[float, float, float, float]

    @property
    def crowd(self) -> bool:
        """Whether it is a region of many objects."""
        return bool(self.record.get("iscrowd"))

    @property
    def segmented(self) -> bool:
        """Whether it has polygons or run lengths."""
        return bool(self.record.get("segmentation"))

    @property
    def ignored(self) -> bool:
        """Whether it is marked as not to be learnt from."""
        return bool(self.record.get("ignore"))


def class_names(coco: Mapping[str, Any]) -> list[str]:
    """Names of the classes in the order of their ids.

    Raises:
        ValueError: a name stands twice, or one that no line of text can hold.
    """
    names = [str(c.get("name", c["id"])) for c in sorted(coco["categories"], key=lambda c: int(c["id"]))]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"the class name {few(twice)} stands twice: classes outside COCO's format have no other id")
    wrong = [name for name in names if name != name.strip() or not name.isprintable() or not name]
    if wrong:
        raise ValueError(f"class names cannot be empty, nor begin, end or break with white space: rename {few(wrong)}")
    return names


def objects_by_image(
    coco: Mapping[str, Any], lost: Counter[str]
) -> Iterator[tuple[Mapping[str, Any], PurePosixPath, list[Object]]]:
    """Each image's record, its path inside the image folder, and its objects, in the order of the file.

    Args:
        coco: content of a COCO annotation file.
        lost: counts what has to be left out.

    Raises:
        ValueError: a record lacks what it needs, or an image's name leads out of its folder.
    """
    names = class_names(coco)
    order = {int(c["id"]): k for k, c in enumerate(sorted(coco["categories"], key=lambda c: int(c["id"])))}
    owned: dict[int, list[Object]] = {int(image["id"]): [] for image in coco["images"]}
    for place, record in enumerate(coco["annotations"]):
        try:
            x, y, w, h = (float(v) for v in record["bbox"])
            label = order[int(record["category_id"])]
            owner = int(record["image_id"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"annotations[{place}] has no usable image_id, category_id or bbox ({error!r})") from None
        if owner not in owned:
            lost["annotations of images that are not listed"] += 1
        elif not all(math.isfinite(v) for v in (x, y, w, h)):
            lost["boxes that are not numbers"] += 1
        else:
            owned[owner].append(Object(record, names[label], label, (x, y, w, h)))
    for image in coco["images"]:
        yield image, inside(str(image["file_name"])), owned[int(image["id"])]


def inside(name: str) -> PurePosixPath:
    """An image's name as a relative path; ValueError if writing to it would leave the folder."""
    path = PurePosixPath(name)
    outside = path.is_absolute() or PureWindowsPath(name).drive or not path.name
    if outside or ".." in path.parts or ".." in PureWindowsPath(name).parts:
        raise ValueError(f"the image name {name!r} leads out of the data set's folder; write a path inside it")
    return path


def plain(value: float) -> int | float:
    """A whole number as an int, as annotation tools write it."""
    return int(value) if value == int(value) else value


def annotation(number: int, image_id: int, category_id: int, box: Sequence[int | float], **more: Any) -> dict[str, Any]:
    """A COCO annotation record; its area is the box's."""
    area = plain(float(box[2]) * float(box[3]))
    record = {"id": number, "image_id": image_id, "category_id": category_id, "bbox": list(box), "area": area}
    return {**record, "iscrowd": 0, **more}


def content(images: list[dict[str, Any]], annotations: list[dict[str, Any]], names: Iterable[str]) -> dict[str, Any]:
    """A COCO annotation file whose categories are numbered from 1 in the order of ``names``."""
    categories = [{"id": k, "name": name} for k, name in enumerate(names, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def sizes_of(images: Sequence[Path], strict: bool) -> list[tuple[int, int]]:
    """(height, width) of each image from its header.

    Args:
        images: the files.
        strict: refuse an image that cannot be read; otherwise its size is ``UNKNOWN_SIZE``.

    Raises:
        ValueError: naming the first few unreadable images.
    """
    with ThreadPoolExecutor(8) as pool:  # mostly waiting for the disk
        found = list(pool.map(_size_or_error, images))
    broken = [error for error in found if isinstance(error, UnreadableImage)]
    if broken and strict:
        more = f" (and {len(broken) - 4} more)" if len(broken) > 4 else ""
        raise ValueError(
            f"{len(broken)} of {len(images)} images cannot be read: {'; '.join(map(str, broken[:4]))}{more}"
        )
    return [UNKNOWN_SIZE if isinstance(size, UnreadableImage) else size for size in found]


def _size_or_error(path: Path) -> tuple[int, int] | UnreadableImage:
    try:
        return read_size(path)
    except UnreadableImage as error:
        return error


def images_below(folder: Path) -> list[str]:
    """Paths of the image files in a folder and the folders in it, relative, sorted, with ``/``."""
    found = []
    for where, _, files in os.walk(folder, followlinks=True):
        relative = Path(where).relative_to(folder)
        found += [(relative / name).as_posix() for name in files if Path(name).suffix.lower() in SUFFIXES]
    return sorted(found)


def lines_of(path: Path) -> list[str]:
    """Lines of a text file without those that are empty.

    Raises:
        ValueError: it is not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows editors write the mark
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason})") from None
    return [line.strip() for line in text.splitlines() if line.strip()]
