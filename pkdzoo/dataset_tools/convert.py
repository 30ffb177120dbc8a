"""Converts a data set from one format to another: annotations, images, and counts of what cannot be converted."""

from __future__ import annotations

import filecmp
import hashlib
import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pkdzoo.data.formats import voc, yolo
from pkdzoo.data.formats.common import read_sizes, relative_image_path
from pkdzoo.data.formats.read import FORMATS, find_format, read_coco, splits_of
from pkdzoo.data.locate import find_split
from pkdzoo.utils.text import quote_some


@dataclass
class Converted:
    """Result of a conversion.

    Attributes:
        target: the new folder.
        source_format, target_format: ``coco``, ``voc`` or ``yolo``.
        images, boxes: numbers of written images and boxes, by split.
        dropped: counts of what the target's format cannot store, by split.
    """

    target: str
    source_format: str
    target_format: str
    images: dict[str, int] = field(default_factory=dict)
    boxes: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON values, ready for ``json.dump``."""
        return dict(vars(self))

    def __str__(self) -> str:
        lines = [f"{self.target}: {self.source_format} to {self.target_format}"]
        for split, images in self.images.items():
            lines.append(f"  {split:<8} {images} images, {self.boxes[split]} boxes")
            lines += [f"           not converted: {count} {what}" for what, count in self.dropped[split].items()]
        return "\n".join(lines)


def write_coco(coco: Mapping[str, Any], folder: str | Path, split: str) -> Counter[str]:
    """Write ``annotations/instances_SPLIT.json``, which can store everything."""
    file = Path(folder) / "annotations" / f"instances_{split}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(coco, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    return Counter()


WRITERS: dict[str, Callable[[Mapping[str, Any], Path, str], Counter[str]]] = {
    "coco": write_coco,
    "voc": voc.from_coco,
    "yolo": yolo.from_coco,
}


def convert(
    source: str | Path,
    target: str | Path,
    to: str,
    splits: Sequence[str] | None = None,
    link: bool = False,
    progress: bool = False,
    hold_out: float = 0.0,
) -> Converted:
    """Write a data set in another format.

    COCO is written as ``annotations/instances_SPLIT.json`` with ``images/SPLIT/``; VOC and YOLO in their own layouts.

    Args:
        source: a folder in any of ``FORMATS``, or a ``data.yaml``.
        target: a folder that is empty or does not exist. After an error nothing is left of it.
        to: ``coco``, ``voc`` or ``yolo``.
        splits: convert only these; None means all.
        link: make symbolic links to the images instead of copies.
        progress: show a progress bar on a terminal.
        hold_out: share of the training images, 0..1, that become the validation split of a source without one. It
            depends on the file names, so images mostly stay in their split when the data set grows.

    Returns:
        Counts, also of what could not be converted.

    Raises:
        ValueError: no format is recognized in ``source``, its annotations are invalid, an image is missing, ``target``
            is not empty, or ``hold_out`` is used with an existing validation split.

    Example:
        >>> import tempfile
        >>> from pkdzoo.data import make_shapes
        >>> from pkdzoo.dataset_tools.convert import convert
        >>> shapes = make_shapes(tempfile.mkdtemp(), train=5, val=1, size=(64, 96))
        >>> convert(shapes, f"{tempfile.mkdtemp()}/yolo", "yolo", splits=["train"], hold_out=0.2).images
        {'train': 4, 'val': 1}
    """
    source, target = Path(source), Path(target)
    kind = find_format(source)
    names = list(splits) if splits else splits_of(source)
    if not names:
        find_split(source, "train")  # raises, and lists what was looked for
    _check_arguments(source, kind, target, to, names, hold_out)
    result = Converted(str(target), kind or "coco", to)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}"
    try:
        for split in names:
            annotations, images = find_split(source, split)
            coco = read_coco(annotations)
            parts = {split: coco}
            if hold_out and split == "train":
                parts = dict(zip(("train", "val"), _hold_out(coco, hold_out)))
            for name, part in parts.items():
                _write_split(part, images, temporary, name, result, link, progress)
        os.rename(temporary, target)  # also replaces an empty folder
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return result


def _check_arguments(
    source: Path, kind: str | None, target: Path, to: str, splits: Sequence[str], hold_out: float
) -> None:
    if to not in WRITERS:
        raise ValueError(f"to={to!r}: write one of {', '.join(map(repr, FORMATS))}")
    if kind == to:
        raise ValueError(f"{source} is already in the format {to!r}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} is not empty: choose a folder that is empty or does not exist")
    if hold_out and (not 0 < hold_out < 1 or "train" not in splits or "val" in splits):
        raise ValueError(
            f"hold_out={hold_out}: write a share between 0 and 1, for a data set with train and without val; "
            f"{source} has the splits {', '.join(splits)}"
        )
    if to == "yolo" and set(splits) - {"train", "val", "test"}:
        raise ValueError(f"YOLO has the splits train, val and test; choose among them instead of {quote_some(splits)}")


def _hold_out(coco: dict[str, Any], share: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divide a data set: the images that stay, and a share of the images (at least one), with their annotations."""

    def rank(image: Mapping[str, Any]) -> bytes:
        return hashlib.blake2b(str(image["file_name"]).encode(), digest_size=8).digest()

    ranked = sorted(coco["images"], key=rank)
    count = min(max(1, round(share * len(ranked))), len(ranked) - 1)
    if count < 1:
        raise ValueError(f"{len(ranked)} images cannot be divided into two splits")
    held_out = {image["id"] for image in ranked[:count]}
    parts = []
    for selected in (False, True):
        images = [image for image in coco["images"] if (image["id"] in held_out) == selected]
        rows = [row for row in coco["annotations"] if (row["image_id"] in held_out) == selected]
        parts.append({**coco, "images": images, "annotations": rows})
    return parts[0], parts[1]


def _write_split(
    coco: dict[str, Any], images: Path, folder: Path, split: str, result: Converted, link: bool, progress: bool
) -> None:
    paths = [images / relative_image_path(str(image["file_name"])) for image in coco["images"]]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise ValueError(f"{len(missing)} of {len(paths)} images of {split} are missing: {quote_some(missing, 4)}")
    dropped: Counter[str] = Counter()
    if result.target_format == "yolo":
        coco = _of_annotated_size(coco, paths, dropped)
    total = len(coco["annotations"])
    not_written = WRITERS[result.target_format](coco, folder, split)
    image_folder = folder / ("JPEGImages" if result.target_format == "voc" else f"images/{split}")
    names = [str(image["file_name"]) for image in coco["images"]]
    for name in tqdm(names, desc=split, unit="image", disable=None if progress else True):
        place_image(images / name, image_folder / name, link)
    boxes = total - sum(count for what, count in not_written.items() if what != "segmentations")
    result.images[split], result.boxes[split] = len(names), boxes
    result.dropped[split] = dict(dropped + not_written)


def _of_annotated_size(coco: dict[str, Any], paths: list[Path], dropped: Counter[str]) -> dict[str, Any]:
    """Drop images of another size than annotated: YOLO's fractions would give wrong pixels."""
    sizes = read_sizes(paths, strict=True)
    images = [image for image, size in zip(coco["images"], sizes) if size == (image["height"], image["width"])]
    dropped["images of another size than annotated, or turned by their EXIF tag"] = len(paths) - len(images)
    kept, all_ids = {image["id"] for image in images}, {image["id"] for image in coco["images"]}
    annotations = [a for a in coco["annotations"] if a["image_id"] in kept or a["image_id"] not in all_ids]
    return {**coco, "images": images, "annotations": annotations}


def place_image(source: Path, target: Path, link: bool) -> None:
    """Copy or link an image.

    Raises:
        ValueError: the target is another image.
    """
    if target.exists():
        if not filecmp.cmp(source, target, shallow=False):
            raise ValueError(f"two different images are called {target.name}: rename one of them ({source})")
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        os.symlink(source.resolve(), target)
    else:
        shutil.copyfile(source, target)
