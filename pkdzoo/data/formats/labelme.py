"""labelme's JSON files, one per image, read as COCO.

``folders.py`` finds the files. A rectangle has two corners in any order; a polygon is kept as ``segmentation``, and its
box encloses it; a circle is its center and a point on it. Shapes of one class and one ``group_id`` are parts of one
object, as labelme's own converters read them: its box encloses them all. Points, lines and other shapes have no box:
they are counted and left out. Images without a JSON file are left out. ``labels.txt``, as labelme uses it, gives the
order of the classes; otherwise it is alphabetical over all splits.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from pkdzoo.data.formats import folders
from pkdzoo.data.formats.base import Finding, Format, plain_path, read_head, read_text
from pkdzoo.data.formats.common import (
    class_order,
    int_if_whole,
    list_images,
    make_annotation,
    make_content,
    read_sizes,
)
from pkdzoo.utils.text import quote_some

FILE_LIMIT = 128 << 20  # bytes: the image may be inside
LARGEST = 10**9  # pixels
NO_CLASS = ("__ignore__", "_background_")
Box = list[int | float]  # x, y, width, height in pixels


def is_annotation(path: Path) -> bool:
    """Whether a JSON file begins as one of labelme's."""
    return re.search(rb'"(shapes"\s*:\s*\[|imageData"\s*:|imagePath"\s*:)', read_head(path, 1 << 16)) is not None


def splits(root: Path) -> dict[str, Path]:
    """The annotations of each split; empty for a folder without such files."""
    return folders.find_splits(root, ".json", is_annotation)


def _load(path: Path) -> dict[str, Any]:
    problem = ""
    try:
        content = json.loads(read_text(path, FILE_LIMIT), parse_constant=_no_constant)
    except RecursionError:
        problem = "it is nested too deeply"
    except ValueError as error:
        problem = str(error)
    if problem:
        raise ValueError(f"{path} is not a JSON file: {problem:.300}")
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise ValueError(f"{path} is not a file of labelme: it has no list 'shapes'")
    if not all(isinstance(shape, dict) for shape in content["shapes"]):
        raise ValueError(f"{path}: 'shapes' holds something else than objects")
    return content


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not a number")


def to_coco(pattern: Path, strict: bool = True) -> dict[str, Any]:
    """Read a split as the content of a COCO annotation file, with images in the order of their names.

    Args:
        pattern: ``FOLDER/*.json``.
        strict: raise an error for unreadable images whose annotation has no size.

    Raises:
        ValueError: a file is invalid, or there are no images.
    """
    roots, patterns = folders.data_set_of(pattern, splits)
    images = folders.image_dir(pattern)
    files = [path for each in patterns for _, path in folders.annotation_files(each)]
    classes = class_order(roots, lambda: _labels(files))
    ids = {name: number for number, name in enumerate(classes, 1)}
    stated: list[tuple[str, PureWindowsPath]] = []
    records: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    not_read: Counter[str] = Counter()
    for number, (name, path) in enumerate(folders.annotation_files(pattern), 1):
        content = _load(path)
        height, width = (_side(content.get(key)) for key in ("imageHeight", "imageWidth"))
        stated.append((name, _stated_image(content, path)))
        records.append({"id": number, "file_name": "", "height": height, "width": width})
        for label, parts in _objects(content["shapes"], path, not_read):
            if label not in ids:
                raise ValueError(f"{path}: the class {label!r:.60} is not among {quote_some(classes, 20)}")
            box, more = _join(parts)
            annotations.append(make_annotation(len(annotations) + 1, number, ids[label], box, **more))
    for record, file in zip(records, match_images(stated, list_images(images), beside=images == pattern.parent)):
        record["file_name"] = file
    _fill_sizes(records, images, strict)
    return make_content(records, annotations, classes, not_read)


def _objects(
    shapes: list[dict[str, Any]], path: Path, not_read: Counter[str]
) -> Iterator[tuple[str, list[tuple[Box, dict[str, Any]]]]]:
    """Class and parts of each object, in the order of its first shape."""
    objects: dict[Any, tuple[str, list[tuple[Box, dict[str, Any]]]]] = {}
    for position, shape in enumerate(shapes, 1):
        where = f"{path}: shape {position}"
        label = _class_of(shape, where)
        box, more = _box(shape, where)
        if label in NO_CLASS or box is None:
            not_read[f"shapes {'without a class' if box else 'without a box (points, lines)'}"] += 1
            continue
        group = shape.get("group_id")
        key = ("shape", position) if group in (None, "") else (label, str(group))
        objects.setdefault(key, (label, []))[1].append((box, more))
    yield from objects.values()


def _join(parts: list[tuple[Box, dict[str, Any]]]) -> tuple[Box, dict[str, Any]]:
    """Box and ``segmentation`` of an object; the latter only where each of its parts has one."""
    if len(parts) == 1:
        return parts[0]
    left, top = (min(box[k] for box, _ in parts) for k in (0, 1))
    right, bottom = (max(box[k] + box[k + 2] for box, _ in parts) for k in (0, 1))
    polygons = [more["segmentation"][0] for _, more in parts if more]
    return [left, top, right - left, bottom - top], {"segmentation": polygons} if len(polygons) == len(parts) else {}


def _labels(files: list[Path]) -> Iterator[str]:
    """Classes of all shapes that have a box."""
    for path in files:
        for position, shape in enumerate(_load(path)["shapes"], 1):
            label = _class_of(shape, f"{path}: shape {position}")
            if label not in NO_CLASS and _box(shape, f"{path}: shape {position}")[0] is not None:
                yield label


def _class_of(shape: dict[str, Any], where: str) -> str:
    label = shape.get("label")
    if not isinstance(label, str) or not label.strip():
        raise ValueError(f"{where} has label = {label!r:.60}; it is the name of the class")
    return label.strip()


def _stated_image(content: dict[str, Any], path: Path) -> PureWindowsPath:
    """``imagePath`` of an annotation, without drive and dots; empty where there is none."""
    stated = PureWindowsPath(plain_path(str(content.get("imagePath") or ""), path))  # also splits at "/"
    return PureWindowsPath(*(part for part in stated.parts if part not in ("..", stated.anchor)))


def match_images(annotations: Sequence[tuple[str, PureWindowsPath]], stored: Sequence[str], beside: bool) -> list[str]:
    """The image file of each annotation; no file is that of two annotations.

    An image has the path of its annotation without the suffix. Where there is none, the annotation's name or that in
    ``imagePath``, which may be an older name, stands for one image in another folder, but never for the image of
    another annotation. Of several images of that name it is the one in the folder that ``imagePath`` ends with.

    Args:
        annotations: path without suffix, and ``imagePath``, of each.
        stored: image files.
        beside: annotations lie beside their images, so that only ``imagePath`` may name an image of another folder.

    Returns:
        Paths inside the folder of the images; for an annotation without an image that of the missing file.
    """
    by_stem: dict[str, list[str]] = {}
    for file in stored:
        by_stem.setdefault(Path(file).with_suffix("").as_posix(), []).append(file)
    own = [_of_suffix(by_stem.get(name, []), stated) for name, stated in annotations]
    taken, by_name = set(own), dict[str, list[str]]()
    for file in stored:
        if file not in taken:
            by_name.setdefault(Path(file).stem, []).append(file)
    found = [file or _elsewhere(name, stated, by_name, beside) for file, (name, stated) in zip(own, annotations)]
    claims = Counter(found)
    return [
        file if file and claims[file] == 1 else f"{name}{stated.suffix or '.jpg'}"
        for file, (name, stated) in zip(found, annotations)
    ]


def _of_suffix(files: Sequence[str], stated: PureWindowsPath) -> str:
    """Of files that differ in their suffix the one with that of ``imagePath``, else the first; empty without any."""
    alike = [file for file in files if Path(file).suffix.lower() == stated.suffix.lower()]
    return next(iter([*alike, *files]), "")


def _elsewhere(name: str, stated: PureWindowsPath, by_name: Mapping[str, list[str]], beside: bool) -> str:
    """The one image of another path that an annotation may mean; empty without one, and where it may be several."""
    folder = Path(name).parent
    for wanted in dict.fromkeys((Path(name).name, stated.stem)):
        files = by_name.get(wanted, [])
        told = [file for file in files if len(stated.parts) > 1 and _ends_with(stated.parent, Path(file).parent)]
        same = [file for file in files if Path(file).parent == folder]
        folders = (told, same) if beside else (told, same, files)
        for choice in folders:
            if len({Path(file).parent for file in choice}) == 1:
                return _of_suffix(choice, stated)
    return ""


def _ends_with(stated: PureWindowsPath, folder: Path) -> bool:
    return bool(folder.parts) and stated.parts[-len(folder.parts) :] == folder.parts


def _side(value: Any) -> int:
    return int(value) if isinstance(value, (int, float)) and 1 <= value < LARGEST else 0


def _fill_sizes(records: list[dict[str, Any]], images: Path, strict: bool) -> None:
    without = [record for record in records if not record["height"] or not record["width"]]
    sizes = read_sizes([images / record["file_name"] for record in without], strict)
    for record, (height, width) in zip(without, sizes):
        record.update(height=height, width=width)


def _box(shape: dict[str, Any], where: str) -> tuple[Box | None, dict[str, Any]]:
    """Box of a shape, None for shapes without one; and its ``segmentation``, if it is a polygon."""
    kind: Any = shape.get("shape_type") or "polygon"
    points: Any = shape.get("points")
    if kind not in ("rectangle", "polygon", "circle", "mask", "oriented_rectangle"):
        return None, {}
    pairs = isinstance(points, list) and all(isinstance(p, list) and len(p) == 2 for p in points)
    if not pairs or not all(_is_pixel(v) for p in points for v in p):
        raise ValueError(f"{where} has no usable 'points': {points!s:.60}; they are [x, y] in pixels")
    if len(points) < 2 or (kind == "polygon" and len(points) < 3):
        return None, {}
    if kind == "circle":
        (x, y), (a, b) = points[:2]
        radius = math.hypot(a - x, b - y)
        return [x - radius, y - radius, 2 * radius, 2 * radius], {}
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    box = [int_if_whole(v) for v in (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))]
    return box, {"segmentation": [[v for p in points for v in p]]} if kind == "polygon" else {}


def _is_pixel(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST


def findings(pattern: Path) -> list[Finding]:
    """Shapes that are left out."""
    left_out = [
        f"{path}: shape {position} ({shape.get('shape_type')})"
        for _, path in folders.annotation_files(pattern)
        for position, shape in enumerate(_load(path)["shapes"], 1)
        if _class_of(shape, str(path)) in NO_CLASS or _box(shape, str(path))[0] is None
    ]
    return [("shapes without a box or a class, left out (points, lines, __ignore__)", left_out, False)]


FORMAT = Format(
    name="labelme",
    title="labelme",
    tree="NAME.json beside NAME.jpg, also in SPLIT/, or annotations/NAME.json with images/NAME.jpg (labelme)",
    present=lambda root: bool(splits(root)),
    splits=splits,
    owns=lambda path: path.name == "*.json",
    image_dir=folders.image_dir,
    read=to_coco,
    findings=findings,
)
