"""Helpers shared by the formats that are read as COCO and written from COCO."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from pkdzoo.data.formats.base import read_lines, walk_files
from pkdzoo.data.formats.coco import CROWD, IGNORE, flags_of
from pkdzoo.data.image_files import UnreadableImage, is_image_name, read_size
from pkdzoo.utils.text import quote_some

UNKNOWN_SIZE = (1, 1)  # none of its boxes is used, and loading the image raises an error with its name
# Files with the order of the classes, one name per line, and the lines that name no class.
CLASS_FILES = {"classes.txt": (), "labels.txt": ("__ignore__", "_background_"), "labelmap.txt": ("background",)}
NOT_READ = "not_read"  # key of a COCO content: counts of what the source has and the content has not


@dataclass
class Object:
    """One checked annotation of a COCO file, to be written in another format.

    Attributes:
        record: the annotation record of the COCO file.
        name: name of its class.
        label: number of its class, from 0 in the order of category ids.
        box: x, y, width, height in pixels, all finite.
    """

    record: Mapping[str, Any]
    name: str
    label: int
    box: tuple[float, float, float, float]

    @property
    def crowd(self) -> bool:
        """Whether it is a region of many objects."""
        return bool(flags_of(self.record) & CROWD)

    @property
    def segmented(self) -> bool:
        """Whether it has polygons or run lengths."""
        return bool(self.record.get("segmentation"))

    @property
    def ignored(self) -> bool:
        """Whether it is marked as not to be learned from."""
        return bool(flags_of(self.record) & IGNORE)


def class_names(coco: Mapping[str, Any]) -> list[str]:
    """Names of the classes in the order of their ids.

    Raises:
        ValueError: a name occurs twice, or cannot be written on a line of text.
    """
    names = [str(c.get("name", c["id"])) for c in sorted(coco["categories"], key=lambda c: int(c["id"]))]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"the class name {quote_some(twice)} occurs twice: formats other than COCO tell classes apart by name only"
        )
    invalid = [name for name in names if name != name.strip() or not name.isprintable() or not name]
    if invalid:
        raise ValueError(
            "class names cannot be empty, contain line breaks, or begin or end with white space: "
            f"rename {quote_some(invalid)}"
        )
    return names


def objects_by_image(
    coco: Mapping[str, Any], dropped: Counter[str]
) -> Iterator[tuple[Mapping[str, Any], PurePosixPath, list[Object]]]:
    """Iterate over the images of a COCO file.

    Args:
        coco: content of a COCO annotation file.
        dropped: counts the annotations that are left out, by reason.

    Returns:
        Each image's record, its path inside the image folder, and its objects, in the order of the file.

    Raises:
        ValueError: a record lacks a key, or an image's name leads out of its folder.
    """
    names = class_names(coco)
    order = {int(c["id"]): k for k, c in enumerate(sorted(coco["categories"], key=lambda c: int(c["id"])))}
    objects: dict[int, list[Object]] = {int(image["id"]): [] for image in coco["images"]}
    for position, record in enumerate(coco["annotations"]):
        try:
            x, y, w, h = (float(v) for v in record["bbox"])
            label = order[int(record["category_id"])]
            image_id = int(record["image_id"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"annotations[{position}] has no usable image_id, category_id or bbox ({error!r})"
            ) from None
        if image_id not in objects:
            dropped["annotations of images that are not listed"] += 1
        elif not all(math.isfinite(v) for v in (x, y, w, h)):
            dropped["boxes that are not numbers"] += 1
        else:
            objects[image_id].append(Object(record, names[label], label, (x, y, w, h)))
    for image in coco["images"]:
        yield image, relative_image_path(str(image["file_name"])), objects[int(image["id"])]


def relative_image_path(name: str) -> PurePosixPath:
    """An image's file name as a path below the image folder.

    Raises:
        ValueError: writing to the path would leave the folder.
    """
    path = PurePosixPath(name)
    outside = path.is_absolute() or PureWindowsPath(name).drive or not path.name
    if outside or ".." in path.parts or ".." in PureWindowsPath(name).parts:
        raise ValueError(f"the image name {name!r} leads out of the data set's folder; write a path inside it")
    return path


def int_if_whole(value: float) -> int | float:
    """A whole number as an int, as annotation tools write it."""
    return int(value) if value == int(value) else value


def make_annotation(
    number: int, image_id: int, category_id: int, box: Sequence[int | float], **more: Any
) -> dict[str, Any]:
    """Make a COCO annotation record whose area is that of its polygons, or of the box where it has none."""
    area = int_if_whole(sum(map(polygon_area, more.get("segmentation") or ())) or float(box[2]) * float(box[3]))
    record = {"id": number, "image_id": image_id, "category_id": category_id, "bbox": list(box), "area": area}
    return {**record, "iscrowd": 0, **more}


def polygon_area(polygon: Sequence[float]) -> float:
    """The area inside a polygon x1, y1, x2, y2, ... in pixels²."""
    xs, ys = polygon[::2], polygon[1::2]
    following = zip([*xs[1:], xs[0]], [*ys[1:], ys[0]])
    return abs(sum(x * next_y - next_x * y for x, y, (next_x, next_y) in zip(xs, ys, following))) / 2


def make_content(
    images: list[dict[str, Any]],
    annotations: list[dict[str, Any]],
    names: Iterable[str],
    not_read: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Make the content of a COCO annotation file, with categories numbered from 1 in the order of ``names``.

    Args:
        images: records.
        annotations: records.
        names: of the classes.
        not_read: counts of what the source has and COCO's records have not, by description.
    """
    categories = [{"id": k, "name": name} for k, name in enumerate(names, 1)]
    content: dict[str, Any] = {"images": images, "annotations": annotations, "categories": categories}
    return {**content, NOT_READ: dict(not_read)} if not_read else content


def read_sizes(images: Sequence[Path], strict: bool) -> list[tuple[int, int]]:
    """Read (height, width) of each image from its header.

    Args:
        images: the files.
        strict: raise an error for images that cannot be read; otherwise their size is ``UNKNOWN_SIZE``.

    Raises:
        ValueError: with the first few unreadable images.
    """
    with ThreadPoolExecutor(8) as pool:  # the threads mostly wait for the disk
        sizes = list(pool.map(_size_or_error, images))
    errors = [error for error in sizes if isinstance(error, UnreadableImage)]
    if errors and strict:
        more = f" (and {len(errors) - 4} more)" if len(errors) > 4 else ""
        raise ValueError(
            f"{len(errors)} of {len(images)} images cannot be read: {'; '.join(map(str, errors[:4]))}{more}"
        )
    return [UNKNOWN_SIZE if isinstance(size, UnreadableImage) else size for size in sizes]


def _size_or_error(path: Path) -> tuple[int, int] | UnreadableImage:
    try:
        return read_size(path)
    except UnreadableImage as error:
        return error


def list_images(folder: Path) -> list[str]:
    """Sorted relative paths, with ``/``, of the image files in a folder and its subfolders; see :func:`walk_files`."""
    return [name for name in walk_files(folder) if is_image_name(name)]


def class_order(folders: Iterable[Path], used: Callable[[], Iterable[str]]) -> list[str]:
    """Names of the classes in the order of their labels.

    The order is that of ``classes.txt``, ``labels.txt`` or ``labelmap.txt`` in one of the folders, and otherwise
    alphabetical over the classes of all splits, so that it is the same for each split.

    Args:
        folders: where the file may be, the likeliest first.
        used: gives the classes of all annotations.
    """
    for file in (folder / name for folder in folders for name in CLASS_FILES):
        if not file.is_file():
            continue
        lines = read_lines(file)
        if file.name == "labelmap.txt":  # CVAT's: name:color:parts:actions
            lines = [line.split(":")[0].strip() for line in lines if not line.startswith("#")]
        return [name for name in lines if name not in CLASS_FILES[file.name]]
    return sorted(set(used()) - {""})
