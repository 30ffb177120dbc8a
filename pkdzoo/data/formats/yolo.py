"""YOLO folders as Ultralytics lays them out, read as COCO and written from it.

    data.yaml                       names of the classes, and where each split's images are
    images/SPLIT/NAME.jpg           (any folder, list of folders, or text file of paths)
    labels/SPLIT/NAME.txt           one object a line: class, then centre x, centre y, width, height as shares of
                                    the image; or class, then the corners of a polygon

The label file of an image is found as Ultralytics finds it: the last ``/images/`` of its path becomes
``/labels/``, the suffix ``.txt``; no file means no object. Shares become pixels of the image as its EXIF tag
turns it, rounded to a millionth of a pixel, which makes whole pixels whole again. Written are as many digits as
bring the same pixels back, six at least; boxes with at most six decimals survive the round trip unchanged.

A path ``data.yaml/SPLIT`` stands for one split where other formats have a file.

Lost on the way from COCO: ids, areas, segmentations (a polygon's corners would not give its annotated box back),
super-categories, crowd regions and objects marked ``ignore``, which would turn into ordinary ones.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pkdzoo.data.formats.common import (
    UNKNOWN_SIZE,
    class_names,
    int_if_whole,
    list_images,
    make_annotation,
    make_content,
    objects_by_image,
    read_lines,
    read_sizes,
)
from pkdzoo.utils.text import quote_some

FILES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
SPLIT_KEYS = {"val": ("val", "valid", "validation")}
DECIMALS = 6  # of a pixel
FAR = 2.0  # a share of a box near its image is smaller than this; pixels are larger


@dataclass(frozen=True)
class Description:
    """What a ``data.yaml`` says.

    Attributes:
        file: itself.
        bases: folders that its paths may start from, the likeliest first.
        names: of the classes.
        splits: paths of each split's images.
    """

    file: Path
    bases: tuple[Path, ...]
    names: list[str]
    splits: dict[str, list[str]]


def find_yaml(folder: str | Path) -> Path | None:
    """The description of a data set, given its folder or the file itself."""
    place = Path(folder)
    if place.suffix in (".yaml", ".yml") and place.is_file():
        return place
    return next((place / name for name in FILES if (place / name).is_file()), None)


def is_yolo(folder: str | Path) -> bool:
    """Whether a folder holds a description as YOLO's tools write it."""
    return find_yaml(folder) is not None


# -- reading -----------------------------------------------------------------------------------------------------


def describe(file: str | Path) -> Description:
    """Read a ``data.yaml``.

    Raises:
        ValueError: not YAML, or without classes.
    """
    import yaml  # here and below: it takes longer to import than everything else in this folder

    file = Path(file)
    try:
        told = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not a YAML file: {' '.join(str(error).split())}") from None
    if not isinstance(told, dict):
        raise ValueError(f"{file} holds {type(told).__name__}, not 'names' and the paths of the splits")
    bases = [file.parent]
    if told.get("path"):
        bases.insert(0, file.parent / _path(told["path"], file))  # an absolute path stays what it is
    splits = {}
    for split in ("train", "val", "test"):
        value = next((told[key] for key in SPLIT_KEYS.get(split, (split,)) if told.get(key)), None)
        if value is not None:
            splits[split] = [_path(v, file) for v in (value if isinstance(value, list) else [value])]
    return Description(file, tuple(bases), _names(told, file), splits)


def _names(told: Mapping[str, Any], file: Path) -> list[str]:
    names = told.get("names")
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise ValueError(f"{file}: 'names' numbers its classes {quote_some(names)}; write 0 to {len(names) - 1}")
        names = [names[k] for k in range(len(names))]
    if names is None and isinstance(told.get("nc"), int):
        names = [f"class_{k}" for k in range(told["nc"])]
    if not isinstance(names, list) or not names:
        raise ValueError(f"{file} has no 'names': write the list of classes, e.g. names: [cat, dog]")
    odd = [name for name in names if isinstance(name, (bool, dict, list)) or name is None]
    if odd:
        raise ValueError(
            f"{file}: the class name {_shown(odd[0])} is no text; YAML reads yes, no, on, off so: quote it"
        )
    return [str(name) for name in names]


def _shown(value: Any) -> str:
    """A value as it stands, or its kind: aliases make a list of lists longer than any memory."""
    return type(value).__name__ if isinstance(value, (dict, list)) else repr(value)


def _path(value: Any, file: Path) -> str:
    if isinstance(value, (dict, list)):
        raise ValueError(f"{file}: a path is a text, not {_shown(value)}")
    return str(value)


def listed(split_path: str | Path) -> tuple[Description, str]:
    """Description and split behind ``data.yaml/SPLIT``."""
    path = Path(split_path)
    return describe(path.parent), path.name


def image_dir(split_path: str | Path) -> Path:
    """The folder that a split's file names are relative to: its own, or the data set's where it has several."""
    description, split = listed(split_path)
    entries = _entries(description, split)
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else description.file.parent


def _entries(description: Description, split: str) -> list[Path]:
    """Folders and lists of a split."""
    if split not in description.splits:
        there = ", ".join(description.splits) or "no split"
        hint = ". 'pkdzoo data convert ... --hold-out 0.2' makes one out of train" if split == "val" else ""
        raise ValueError(f"{description.file} has no {split!r}; it has {there}{hint}")
    found = []
    for entry in description.splits[split]:
        # Roboflow writes ../train/images for a folder beside the file.
        tried = [base / text for base in description.bases for text in (entry, entry.removeprefix("../"))]
        place = next((path for path in tried if path.exists()), None)
        if place is None:
            raise ValueError(
                f"{description.file}: {split}: {entry} does not exist; looked for {quote_some(map(str, tried))}"
            )
        found.append(Path(os.path.normpath(place)))
    return found


def _images(description: Description, split: str) -> list[Path]:
    found: list[Path] = []
    for place in _entries(description, split):
        if place.is_dir():
            found += [place / name for name in list_images(place)]
            continue
        for line in read_lines(place):  # relative to the list where it says so, else to the data set
            bases = (place.parent, *description.bases)
            found.append(next((base / line for base in bases if (base / line).is_file()), place.parent / line))
    if not found:
        raise ValueError(f"{description.file}: {split}: no images in {', '.join(description.splits[split])}")
    return found


def label_file(image: Path) -> Path:
    """Where the objects of an image are listed."""
    # One more separator in front, so that a relative images/a.jpg is found as well.
    before, images, after = f"{os.sep}{image}".rpartition(f"{os.sep}images{os.sep}")
    place = f"{before}{os.sep}labels{os.sep}{after}"[len(os.sep) :] if images else image
    return Path(place).with_suffix(".txt")


def to_coco(split_path: str | Path, strict: bool = True) -> dict[str, Any]:
    """A split as the content of a COCO annotation file; file names are relative to :func:`image_dir`.

    Args:
        split_path: ``data.yaml/SPLIT``.
        strict: refuse images whose size cannot be read; otherwise they are 1 x 1, have no usable box and
            fail when they are loaded.

    Raises:
        ValueError: a path leads nowhere, no image has a label file, or a line of one is no object.
    """
    description, split = listed(split_path)
    paths, root = _images(description, split), image_dir(split_path)
    labels = [label_file(path) for path in paths]
    with_labels = {path for path in labels if path.is_file()}
    if not with_labels:
        raise ValueError(f"no image of {split_path} has a label file; looked for {quote_some(map(str, labels), 2)}")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (path, label, size) in enumerate(zip(paths, labels, read_sizes(paths, strict)), 1):
        name = Path(os.path.relpath(path, root)).as_posix()
        images.append({"id": number, "file_name": name, "width": size[1], "height": size[0]})
        if label not in with_labels or size == UNKNOWN_SIZE:
            continue
        for place, line in enumerate(read_lines(label), 1):
            number_of_class, box, more = _object(line.split(), size, len(description.names), f"{label}, object {place}")
            annotations.append(make_annotation(len(annotations) + 1, number, number_of_class + 1, box, **more))
    return make_content(images, annotations, description.names)


def _object(
    fields: list[str], size: tuple[int, int], classes: int, where: str
) -> tuple[int, list[int | float], dict[str, Any]]:
    """Label, box and, of a polygon, its corners in pixels."""
    try:
        first, *values = (float(field) for field in fields)
    except ValueError:
        raise ValueError(f"{where}: {' '.join(fields):.60} are not all numbers") from None
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise ValueError(
            f"{where}: {len(fields)} numbers; a box has 5 (class, centre x, centre y, width, height), a polygon 7 or "
            "more (class, then x and y of each corner)"
        )
    if not 0 <= first < classes or first != int(first):
        raise ValueError(f"{where}: class {fields[0]}; 'names' has the classes 0 to {classes - 1}")
    if not all(math.isfinite(value) and abs(value) <= FAR for value in values):
        raise ValueError(f"{where}: {' '.join(fields[1:]):.60} are no shares of the image; they lie in 0..1")
    height, width = size
    if len(values) == 4:
        left, across = decode(values[0], values[2], width)
        top, down = decode(values[1], values[3], height)
        return int(first), [int_if_whole(v) for v in (left, top, across, down)], {}
    xs, ys = ([round(v * side, DECIMALS) for v in values[k::2]] for k, side in enumerate((width, height)))
    sides = (min(xs), min(ys), round(max(xs) - min(xs), DECIMALS), round(max(ys) - min(ys), DECIMALS))
    corners = [int_if_whole(v) for pair in zip(xs, ys) for v in pair]
    return int(first), [int_if_whole(v) for v in sides], {"segmentation": [corners]}


def decode(center: float, length: float, side: int) -> tuple[float, float]:
    """Start and length in pixels of an interval given as shares of a side."""
    return round((center - length / 2) * side, DECIMALS), round(length * side, DECIMALS)


# -- writing -----------------------------------------------------------------------------------------------------


def encode(start: float, length: float, side: int) -> tuple[str, str]:
    """Centre and length as shares of a side, in the fewest digits from six up that ``decode`` brings back."""
    center, share = (start + length / 2) / side, length / side
    for digits in range(6, 17):
        texts = f"{center:.{digits}f}", f"{share:.{digits}f}"
        if decode(float(texts[0]), float(texts[1]), side) == (start, length):
            return texts
    return repr(center), repr(share)


def from_coco(coco: Mapping[str, Any], folder: str | Path, split: str) -> Counter[str]:
    """Write a split's label files and name it in ``data.yaml``. Images, in ``images/SPLIT``, are the caller's.

    Args:
        coco: content of a COCO annotation file.
        folder: the data set.
        split: ``train``, ``val`` or ``test``.

    Returns:
        What YOLO has no place for, counted.

    Raises:
        ValueError: two images need one label file, or another split has other classes.
    """
    root, dropped = Path(folder), Counter[str]()
    written: set[Path] = set()
    _write_yaml(root / "data.yaml", split, class_names(coco))
    for image, path, objects in objects_by_image(coco, dropped):
        file = label_file(root / "images" / split / path)
        if file in written:
            raise ValueError(f"two images need {file.relative_to(root)}: rename one of them ({path})")
        written.add(file)
        lines = []
        for item in objects:
            reason = _unfit(item.box, item.crowd, item.ignored, image)
            if reason:
                dropped[reason] += 1
                continue
            dropped["segmentations"] += item.segmented
            x, y, w, h = item.box
            (cx, width), (cy, height) = encode(x, w, int(image["width"])), encode(y, h, int(image["height"]))
            lines.append(f"{item.label} {cx} {cy} {width} {height}\n")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(lines), encoding="utf-8")
    return +dropped


def _unfit(box: tuple[float, ...], crowd: bool, ignored: bool, image: Mapping[str, Any]) -> str:
    """Why an object cannot be written, in words; empty for one that can."""
    x, y, w, h = box
    shares = [(x + w / 2) / image["width"], w / image["width"], (y + h / 2) / image["height"], h / image["height"]]
    if crowd:
        return "crowd regions"
    if ignored:
        return "objects marked 'ignore' (VOC: difficult)"
    if w <= 0 or h <= 0:
        return "boxes without area"
    return "boxes far outside their image" if any(abs(v) > FAR for v in shares) else ""


def _write_yaml(path: Path, split: str, names: list[str]) -> None:
    import yaml

    told: dict[str, Any] = {"names": dict(enumerate(names))}
    if path.exists():
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
        if list(told["names"].values()) != names:
            raise ValueError(
                f"the splits have different classes: {quote_some(told['names'].values())} and {quote_some(names)}"
            )
    places = {**{key: value for key, value in told.items() if key != "names"}, split: f"images/{split}"}
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump({**places, "names": told["names"]}, sort_keys=False, allow_unicode=True)
    path.write_text(text, encoding="utf-8")
