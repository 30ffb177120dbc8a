"""YOLO folders in the layout of Ultralytics, read as COCO and written from COCO.

    data.yaml                       names of the classes, and where each split's images are
    images/SPLIT/NAME.jpg           (any folder, list of folders, or text file of paths)
    labels/SPLIT/NAME.txt           one object per line: class, then center x, center y, width, height as fractions of
                                    the image; or class, then the corners of a polygon

The label file of an image is found as in Ultralytics: the last ``/images/`` of its path becomes ``/labels/``, and the
suffix ``.txt``; no file means no object. ``data check`` lists label files that are not used by this rule. Where
``data.yaml`` has a ``kpt_shape``, a line is class, box and keypoints, which are not read.

Fractions become pixels of the image as its EXIF tag turns it, rounded to a millionth of a pixel, so that whole pixels
stay whole. Numbers are written with as many digits as are needed to read the same pixels again, at least six; boxes
with at most six decimals are unchanged after writing and reading.

A path ``data.yaml/SPLIT`` stands for one split, where other formats have a file.

YOLO cannot store COCO's ids, areas, super-categories, segmentations (a polygon's corners would not give its annotated
box), crowd regions, and objects marked ``ignore``, which would become ordinary objects.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pkdzoo.data.formats.base import Finding, Format, by_split, plain_path, read_lines, with_slashes
from pkdzoo.data.formats.common import (
    UNKNOWN_SIZE,
    class_names,
    int_if_whole,
    list_images,
    make_annotation,
    make_content,
    objects_by_image,
    read_sizes,
)
from pkdzoo.data.formats.yolo_description import Description, describe, find_yaml, load_yaml
from pkdzoo.utils.text import quote_some

__all__ = ["FORMAT", "describe", "find_yaml", "from_coco", "image_dir", "label_file", "to_coco"]

LABELS_LIMIT = 16 << 20  # bytes
DECIMALS = 6  # of a pixel
MAX_FRACTION = 2.0  # larger numbers are no fractions of the image, probably pixels


# -- reading -----------------------------------------------------------------------------------------------------


def read_split_path(split_path: str | Path) -> tuple[Description, str]:
    """Description and split of a path ``data.yaml/SPLIT``."""
    path = Path(split_path)
    return describe(path.parent), path.name


def image_dir(split_path: str | Path) -> Path:
    """The folder that a split's file names are relative to.

    It is the split's only folder, or where it has several that of ``data.yaml``, or where some images are not below
    that the deepest folder of all images.
    """
    description, split = read_split_path(split_path)
    entries = _entries(description, split)
    if len(entries) == 1 and entries[0].is_dir():
        return entries[0]
    folders = {
        e if e.is_dir() else path.parent for e in entries for path in ([e] if e.is_dir() else _listed(description, e))
    }
    base = Path(os.path.abspath(description.file.parent))
    absolute = [os.path.abspath(folder) for folder in folders]
    if all(Path(folder).is_relative_to(base) for folder in absolute):
        return description.file.parent
    return Path(os.path.commonpath(absolute))


def _entries(description: Description, split: str) -> list[Path]:
    """Existing folders and lists of a split."""
    if split not in description.splits:
        if not description.splits:
            raise ValueError(f"{description.file} has no {split!r} and no other split; write e.g. '{split}: images'")
        names = ", ".join(description.splits)
        hint = ". 'pkdzoo data convert ... --hold-out 0.2' makes one from train" if split == "val" else ""
        raise ValueError(f"{description.file} has no {split!r}; it has {names}{hint}")
    entries = []
    for entry in description.splits[split]:
        # Roboflow writes ../train/images for a folder beside the file.
        texts = dict.fromkeys(
            (entry, entry.removeprefix("../"), with_slashes(entry), with_slashes(entry).removeprefix("../"))
        )
        candidates = [base / text for base in description.bases for text in texts]
        path = next((path for path in candidates if path.exists()), None)
        if path is None:
            raise ValueError(
                f"{description.file}: {split}: {entry} does not exist; looked for {quote_some(map(str, candidates))}"
            )
        entries.append(Path(os.path.normpath(path)))
    return entries


def _images(description: Description, split: str) -> list[Path]:
    paths: list[Path] = []
    for entry in _entries(description, split):
        paths += [entry / name for name in list_images(entry)] if entry.is_dir() else _listed(description, entry)
    if not paths:
        raise ValueError(f"{description.file}: {split}: no images in {', '.join(description.splits[split])}")
    return paths


def _listed(description: Description, list_file: Path) -> list[Path]:
    """The images that a list names, relative to the list or to the data set."""
    bases, paths = (list_file.parent, *description.bases), []
    for line in read_lines(list_file):
        texts = dict.fromkeys((plain_path(line, list_file), with_slashes(line)))
        candidates = [base / text for text in texts for base in bases]
        paths.append(next((path for path in candidates if os.path.isfile(path)), candidates[0]))
    return [Path(os.path.normpath(path)) for path in paths]


def label_file(image: Path) -> Path:
    """The file with the objects of an image."""
    # With a separator in front, a relative images/a.jpg matches as well.
    before, images, after = f"{os.sep}{image}".rpartition(f"{os.sep}images{os.sep}")
    path = f"{before}{os.sep}labels{os.sep}{after}"[len(os.sep) :] if images else image
    return Path(path).with_suffix(".txt")


def to_coco(split_path: str | Path, strict: bool = True) -> dict[str, Any]:
    """Read a split as the content of a COCO annotation file; file names are relative to :func:`image_dir`.

    Args:
        split_path: ``data.yaml/SPLIT``.
        strict: raise an error for images whose size cannot be read; otherwise their size is 1 x 1, none of their boxes
            is used, and loading them fails.

    Raises:
        ValueError: a path does not exist, no image has a label file, or a line of a label file is invalid.
    """
    description, split = read_split_path(split_path)
    paths, root = _images(description, split), image_dir(split_path)
    labels = [label_file(path) for path in paths]
    with_labels = {path for path in labels if path.is_file()}
    if not with_labels:
        raise ValueError(f"no image of {split_path} has a label file; looked for {quote_some(map(str, labels), 2)}")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    not_read: Counter[str] = Counter()
    for number, (path, label, size) in enumerate(zip(paths, labels, read_sizes(paths, strict)), 1):
        name = Path(os.path.relpath(path, root)).as_posix()
        images.append({"id": number, "file_name": name, "width": size[1], "height": size[0]})
        if label not in with_labels or size == UNKNOWN_SIZE:
            continue
        for position, line in enumerate(read_lines(label, LABELS_LIMIT), 1):
            where, fields = f"{label}, object {position}", line.split()
            if description.keypoints:
                fields = _without_keypoints(fields, description.keypoints, where)
                not_read["sets of keypoints"] += 1
            class_index, box, more = _object(fields, size, len(description.names), where)
            annotations.append(make_annotation(len(annotations) + 1, number, class_index + 1, box, **more))
    return make_content(images, annotations, description.names, not_read)


def image_names(split_path: str | Path) -> list[str]:
    """The image files of a split, with or without labels, relative to :func:`image_dir`."""
    root = image_dir(split_path)
    return [Path(os.path.relpath(path, root)).as_posix() for path in _images(*read_split_path(split_path))]


def _without_keypoints(fields: list[str], keypoints: int, where: str) -> list[str]:
    """Class and box of an object in a data set with ``kpt_shape``."""
    if len(fields) not in (5, 5 + keypoints):
        raise ValueError(
            f"{where}: {len(fields)} numbers; kpt_shape in data.yaml asks for {5 + keypoints} (class, box, keypoints)"
        )
    return fields[:5]


def _object(
    fields: list[str], size: tuple[int, int], classes: int, where: str
) -> tuple[int, list[int | float], dict[str, Any]]:
    """Label, box and, for a polygon, ``segmentation`` with its corners in pixels."""
    try:
        first, *values = (float(field) for field in fields)
    except ValueError:
        raise ValueError(f"{where}: {' '.join(fields):.60} are not all numbers") from None
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise ValueError(
            f"{where}: {len(fields)} numbers; a box has 5 (class, center x, center y, width, height), a polygon 7 or "
            "more (class, then x and y of each corner); keypoints need kpt_shape in data.yaml"
        )
    if not 0 <= first < classes or first != int(first):
        raise ValueError(f"{where}: class {fields[0]:.60}; 'names' has the classes 0 to {classes - 1}")
    if not all(math.isfinite(value) and abs(value) <= MAX_FRACTION for value in values):
        raise ValueError(f"{where}: {' '.join(fields[1:]):.60} are no fractions of the image, which lie in 0..1")
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
    """Start and length in pixels of an interval given as fractions of a side."""
    return round((center - length / 2) * side, DECIMALS), round(length * side, DECIMALS)


def findings(split_path: Path) -> list[Finding]:
    """A wrong number of classes, label files that are not read, and images without one where most have one."""
    description, split = read_split_path(split_path)
    names, count = description.names, description.other_count
    counts = [f"nc: {count}, names: {len(names)} ({quote_some(names, 4)})"] if count else []
    paths = _images(description, split)
    without = [path for path in paths if not label_file(path).is_file()]
    all_labels = {os.path.abspath(label_file(path)) for path in _all_images(description)}
    stems = {path.stem.lower() for path in without}
    unread = [path for path in _label_files(paths) if os.path.abspath(path) not in all_labels]
    unread += [path.with_suffix(".txt") for path in without if path.with_suffix(".txt").is_file()]
    lost = sorted({str(path) for path in unread if path.stem.lower() in stems})
    keypoints = [] if description.keypoints else _look_like_keypoints(map(label_file, paths))
    return [
        ("nc in data.yaml is not the number of names, which decides: correct one of them", counts, True),
        (
            "objects that look like a box with keypoints, read as polygons: write kpt_shape in data.yaml",
            keypoints,
            True,
        ),
        (
            "label files that are not where, or not written as, their images ask for (labels/ beside images/)",
            lost,
            True,
        ),
        ("label files that no image uses", sorted({str(path) for path in unread} - set(lost)), False),
        (
            "images without a label file, though most have one",
            [str(path) for path in without] if len(without) * 2 < len(paths) else [],
            False,
        ),
    ]


def _look_like_keypoints(labels: Iterable[Path]) -> list[str]:
    """All objects, if each has a box and the same number of keypoints, as far as numbers can show it; else none."""
    found: list[str] = []
    lengths: set[int] = set()
    for label in (path for path in labels if path.is_file()):
        for position, line in enumerate(read_lines(label, LABELS_LIMIT), 1):
            values = [float(field) for field in line.split()[1:]]
            lengths.add(len(values))
            if len(lengths) > 1 or not _is_pose(values):
                return []
            found.append(f"{label}, object {position}")
    return found


def _is_pose(values: list[float]) -> bool:
    """Whether numbers are center, width and height of a box, then at least two keypoints in it or with visibility."""
    (x, y, width, height), points = values[:4], values[4:]
    if len(points) < 6:  # four corners have eight numbers as well
        return False
    if len(points) % 3 == 0 and all(flag in (0, 1, 2) for flag in points[2::3]):
        return True
    return len(points) % 2 == 0 and all(
        (abs(px - x) <= width / 2 and abs(py - y) <= height / 2) or px == py == 0
        for px, py in zip(points[::2], points[1::2])
    )


def _all_images(description: Description) -> list[Path]:
    """Images of all splits whose folders exist."""
    paths: list[Path] = []
    for split in description.splits:
        try:
            paths += _images(description, split)
        except ValueError:  # data.yaml names a split that was not downloaded
            continue
    return paths


def _label_files(images: list[Path]) -> list[Path]:
    """Label files in the folders that labels of these images are read from, and in those of other case (``Labels``)."""
    folders = set()
    for folder in {path.parent for path in images}:
        parts = folder.parts
        at = next((k for k in reversed(range(len(parts))) if parts[k].lower() == "images"), None)
        if at is None:
            continue
        above = Path(*parts[:at])
        for twin in above.iterdir() if above.is_dir() else ():
            if twin.name.lower() == "labels" and twin.joinpath(*parts[at + 1 :]).is_dir():
                folders.add(twin.joinpath(*parts[at + 1 :]))
    return [path for folder in folders for path in folder.iterdir() if _is_label_name(path.name)]


def _is_label_name(name: str) -> bool:
    return name.lower().endswith(".txt") and not name.startswith(".") and name.lower() != "classes.txt"


# -- writing -----------------------------------------------------------------------------------------------------


def encode(start: float, length: float, side: int) -> tuple[str, str]:
    """Center and length as fractions of a side, with the fewest digits (at least six) that ``decode`` inverts."""
    center, fraction = (start + length / 2) / side, length / side
    for digits in range(6, 17):
        texts = f"{center:.{digits}f}", f"{fraction:.{digits}f}"
        if decode(float(texts[0]), float(texts[1]), side) == (start, length):
            return texts
    return repr(center), repr(fraction)


def from_coco(coco: Mapping[str, Any], folder: str | Path, split: str) -> Counter[str]:
    """Write the label files of a split and add it to ``data.yaml``; images, in ``images/SPLIT``, are not written.

    Args:
        coco: content of a COCO annotation file.
        folder: the data set.
        split: ``train``, ``val`` or ``test``.

    Returns:
        Counts of what YOLO cannot store.

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
            reason = _why_dropped(item.box, item.crowd, item.ignored, image)
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


def _why_dropped(box: tuple[float, ...], crowd: bool, ignored: bool, image: Mapping[str, Any]) -> str:
    """Why an object cannot be written; empty for an object that can."""
    x, y, w, h = box
    fractions = [(x + w / 2) / image["width"], w / image["width"], (y + h / 2) / image["height"], h / image["height"]]
    if crowd:
        return "crowd regions"
    if ignored:
        return "objects marked 'ignore' (VOC: difficult)"
    if w <= 0 or h <= 0:
        return "boxes without area"
    return "boxes far outside their image" if any(abs(v) > MAX_FRACTION for v in fractions) else ""


def _write_yaml(path: Path, split: str, names: list[str]) -> None:
    import yaml

    data: dict[str, Any] = {"names": dict(enumerate(names))}
    if path.exists():
        data = load_yaml(path)
        if list(data["names"].values()) != names:
            raise ValueError(
                f"the splits have different classes: {quote_some(data['names'].values())} and {quote_some(names)}"
            )
    splits = {**{key: value for key, value in data.items() if key != "names"}, split: f"images/{split}"}
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump({**splits, "names": data["names"]}, sort_keys=False, allow_unicode=True)
    path.write_text(text, encoding="utf-8")


def _splits(root: Path) -> dict[str, Path]:
    file = find_yaml(root)
    return {} if file is None else by_split((split, file / split) for split in describe(file).splits)


def _is_split_path(path: Path) -> bool:
    return path.parent.suffix in (".yaml", ".yml") and path.parent.is_file()


FORMAT = Format(
    name="yolo",
    title="YOLO",
    tree="data.yaml, images/SPLIT/NAME.jpg, labels/SPLIT/NAME.txt (YOLO)",
    present=lambda root: find_yaml(root) is not None,
    splits=_splits,
    owns=_is_split_path,
    image_dir=image_dir,
    read=to_coco,
    names=image_names,
    write=from_coco,
    findings=findings,
)
