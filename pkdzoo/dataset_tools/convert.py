"""A data set from one format to another: annotations, images and what could not be taken along."""

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
    """What a conversion wrote.

    Attributes:
        target: the new folder.
        source_format, target_format: out of ``coco``, ``voc``, ``yolo``.
        images, boxes: written, by split.
        lost: what the target's format has no place for, counted, by split.
    """

    target: str
    source_format: str
    target_format: str
    images: dict[str, int] = field(default_factory=dict)
    boxes: dict[str, int] = field(default_factory=dict)
    lost: dict[str, dict[str, int]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and names, ready for ``json.dump``."""
        return dict(vars(self))

    def __str__(self) -> str:
        lines = [f"{self.target}: {self.source_format} to {self.target_format}"]
        for split, images in self.images.items():
            lines.append(f"  {split:<8} {images} images, {self.boxes[split]} boxes")
            lines += [f"           not taken along: {count} {what}" for what, count in self.lost[split].items()]
        return "\n".join(lines)


def write_coco(coco: Mapping[str, Any], folder: str | Path, split: str) -> Counter[str]:
    """Write ``annotations/instances_SPLIT.json``; nothing is lost."""
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

    COCO's layout is ``annotations/instances_SPLIT.json`` with ``images/SPLIT/``; VOC's and YOLO's are their own.

    Args:
        source: a folder in any of ``FORMATS``, or a ``data.yaml``.
        target: a folder that is empty or does not exist. It appears whole or not at all.
        to: ``coco``, ``voc`` or ``yolo``.
        splits: only these; None takes all there are.
        link: make symbolic links to the images instead of copies.
        progress: show a bar, on a terminal.
        hold_out: share of the training images, 0..1, that become the validation split of a source without one.
            Their names decide, so an image keeps its side in a data set that grows by few.

    Returns:
        Counts, and what could not be taken along.

    Raises:
        ValueError: nothing is recognised in ``source``, its annotations are broken, an image is missing,
            ``target`` is not empty, or there is a validation split already.

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
    if to not in WRITERS:
        raise ValueError(f"to={to!r}: write one of {', '.join(map(repr, FORMATS))}")
    if kind == to:
        raise ValueError(f"{source} is in the format {to!r} already")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} holds something already: choose a folder that is empty or does not exist")
    wanted = list(splits) if splits else splits_of(source)
    if not wanted:
        find_split(source, "train")  # says what was looked for
    if hold_out and (not 0 < hold_out < 1 or "train" not in wanted or "val" in wanted):
        have = f"{source} has the splits {', '.join(wanted)}"
        raise ValueError(f"hold_out={hold_out}: a share between 0 and 1 of train where there is no val; {have}")
    if to == "yolo" and set(wanted) - {"train", "val", "test"}:
        raise ValueError(f"YOLO has the splits train, val and test; choose among them instead of {quote_some(wanted)}")
    result = Converted(str(target), kind or "coco", to)
    target.parent.mkdir(parents=True, exist_ok=True)
    building = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}"
    try:
        for split in wanted:
            annotations, images = find_split(source, split)
            coco = read_coco(annotations)
            parts = {split: coco}
            if hold_out and split == "train":
                parts = dict(zip(("train", "val"), _divided(coco, hold_out)))
            for name, part in parts.items():
                _write_split(part, images, building, name, result, link, progress)
        os.rename(building, target)  # onto an empty folder too
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return result


def _divided(coco: dict[str, Any], share: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """What stays, and a share of the images (one at least) with their annotations."""

    def rank(image: Mapping[str, Any]) -> bytes:
        return hashlib.blake2b(str(image["file_name"]).encode(), digest_size=8).digest()

    ranked = sorted(coco["images"], key=rank)
    count = min(max(1, round(share * len(ranked))), len(ranked) - 1)
    if count < 1:
        raise ValueError(f"{len(ranked)} images cannot be divided into two splits")
    held = {image["id"] for image in ranked[:count]}
    parts = []
    for inside_held in (False, True):
        images = [image for image in coco["images"] if (image["id"] in held) == inside_held]
        rows = [row for row in coco["annotations"] if (row["image_id"] in held) == inside_held]
        parts.append({**coco, "images": images, "annotations": rows})
    return parts[0], parts[1]


def _write_split(
    coco: dict[str, Any], images: Path, building: Path, split: str, result: Converted, link: bool, progress: bool
) -> None:
    paths = [images / relative_image_path(str(image["file_name"])) for image in coco["images"]]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise ValueError(f"{len(missing)} of {len(paths)} images of {split} are missing: {quote_some(missing, 4)}")
    lost: Counter[str] = Counter()
    if result.target_format == "yolo":
        coco = _of_told_size(coco, paths, lost)
    before = len(coco["annotations"])
    written = WRITERS[result.target_format](coco, building, split)
    folder = building / ("JPEGImages" if result.target_format == "voc" else f"images/{split}")
    names = [str(image["file_name"]) for image in coco["images"]]
    for name in tqdm(names, desc=split, unit="image", disable=None if progress else True):
        place_image(images / name, folder / name, link)
    dropped = sum(count for what, count in written.items() if what != "segmentations")
    result.images[split], result.boxes[split] = len(names), before - dropped
    result.lost[split] = dict(lost + written)


def _of_told_size(coco: dict[str, Any], paths: list[Path], lost: Counter[str]) -> dict[str, Any]:
    """Without images whose own size is another: YOLO's shares would be of the wrong pixels."""
    sizes = read_sizes(paths, strict=True)
    images = [image for image, size in zip(coco["images"], sizes) if size == (image["height"], image["width"])]
    lost["images of another size than their annotations say, or turned by their EXIF tag"] = len(paths) - len(images)
    kept, all_ids = {image["id"] for image in images}, {image["id"] for image in coco["images"]}
    annotations = [a for a in coco["annotations"] if a["image_id"] in kept or a["image_id"] not in all_ids]
    return {**coco, "images": images, "annotations": annotations}


def place_image(source: Path, place: Path, link: bool) -> None:
    """Copy or link an image; ValueError if another image is there already."""
    if place.exists():
        if not filecmp.cmp(source, place, shallow=False):
            raise ValueError(f"two different images are called {place.name}: rename one of them ({source})")
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    if link:
        os.symlink(source.resolve(), place)
    else:
        shutil.copyfile(source, place)
