"""Converts a data set from one format to another: annotations, images, and counts of what cannot be converted."""

from __future__ import annotations

import filecmp
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pkdzoo.data.formats import coco_folders
from pkdzoo.data.formats.base import split_of
from pkdzoo.data.formats.common import NOT_READ, UNKNOWN_SIZE, read_sizes, relative_image_path
from pkdzoo.data.formats.read import FORMATS, TABLE, find_format, read_coco, splits_of
from pkdzoo.data.image_names import match_content
from pkdzoo.data.locate import find_split
from pkdzoo.dataset_tools.hold_out import divide
from pkdzoo.utils.files import atomic_folder, open_regular_file
from pkdzoo.utils.text import counted, quote_some


@dataclass
class Converted:
    """Result of a conversion.

    Attributes:
        target: the new folder.
        source_format, target_format: keys of ``pkdzoo.data.formats.read.TABLE``, e.g. ``coco``.
        images, boxes: numbers of written images and boxes, by split.
        dropped: counts of what the target's format cannot store, by split.
        remarks: what else the user should know.
    """

    target: str
    source_format: str
    target_format: str
    images: dict[str, int] = field(default_factory=dict)
    boxes: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """JSON values, ready for ``json.dump``."""
        return dict(vars(self))

    def __str__(self) -> str:
        lines = [f"{self.target}: {self.source_format} to {self.target_format}"]
        for split, images in self.images.items():
            lines.append(f"  {split:<8} {counted(images, 'image')}, {counted(self.boxes[split], 'box')}")
            lines += [f"           not converted: {count} {what}" for what, count in self.dropped[split].items()]
        return "\n".join([*lines, *(f"  note     {remark}" for remark in self.remarks)])


def convert(
    source: str | Path,
    target: str | Path,
    to: str,
    splits: Sequence[str] | None = None,
    link: bool = False,
    progress: bool = False,
    hold_out: float = 0.0,
    follow_links: bool = False,
) -> Converted:
    """Write a data set in another format.

    COCO is written as ``annotations/instances_SPLIT.json`` with ``images/SPLIT/``; VOC and YOLO in their own layouts.

    Args:
        source: a folder in any format that is read, or a ``data.yaml``.
        target: a folder that is empty or does not exist. After an error nothing is left of it.
        to: one of ``FORMATS``; the source's own format only with ``hold_out``.
        splits: convert only these; None means all.
        link: make symbolic links to the images instead of copies.
        progress: show a progress bar on a terminal.
        hold_out: share of the training images, 0..1, that become the validation split of a source without one. Copies
            of an image and frames of a video stay together; see ``hold_out.py``.
        follow_links: copy images that are symbolic links, or lie in a linked folder outside the data set. Otherwise
            they stay links, so that nobody's private files get into the new folder.

    Returns:
        Counts, also of what could not be converted.

    Raises:
        ValueError: no format is recognized in ``source``, its annotations are invalid, an image is missing or a link to
            something else, ``target`` is not empty, or ``hold_out`` is used with an existing validation split.

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
    names = [split_of(name) for name in splits] if splits else splits_of(source)
    if not names or kind is None:
        find_split(source, "train")  # raises, and lists what was looked for
    _check_arguments(source, kind, target, to, names, hold_out)
    job = _Job(source, Converted(str(target), kind or "coco", to), link, follow_links, progress)
    _run(job, target, names, hold_out)
    return job.result


@dataclass(frozen=True)
class _Job:
    """Arguments that all splits share, and the result that they fill in."""

    source: Path
    result: Converted
    link: bool
    follow_links: bool
    progress: bool


def _run(job: _Job, target: Path, splits: Sequence[str], hold_out: float) -> None:
    """Write all splits into a temporary folder, which becomes the target."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(target) as temporary:
        for split in splits:
            _convert_split(job, temporary, split, hold_out)


def _check_arguments(
    source: Path, kind: str | None, target: Path, to: str, splits: Sequence[str], hold_out: float
) -> None:
    if to not in FORMATS:
        raise ValueError(f"to={to!r}: write one of {', '.join(map(repr, FORMATS))}")
    if kind == to and not hold_out:
        raise ValueError(f"{source} is already in the format {to!r}; --hold-out SHARE would divide its train split")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} is not empty: choose a folder that is empty or does not exist")
    if hold_out and (not 0 < hold_out < 1 or "train" not in splits or "val" in splits):
        raise ValueError(
            f"hold_out={hold_out}: write a share between 0 and 1, for a data set with train and without val; "
            f"{source} has the splits {', '.join(splits)}"
        )
    if to == "yolo" and set(splits) - {"train", "val", "test"}:
        raise ValueError(f"YOLO has the splits train, val and test; choose among them instead of {quote_some(splits)}")


def _convert_split(job: _Job, folder: Path, split: str, share: float) -> None:
    annotations, images = find_split(job.source, split)
    result = job.result
    is_coco = TABLE[result.source_format].read is coco_folders.read
    coco = (
        coco_folders.read_whole(annotations) if is_coco and result.target_format == "coco" else read_coco(annotations)
    )
    found_names = match_content(coco, images)
    if found_names:
        example = "{!r:.80} as {!r:.80}".format(*next(iter(found_names.items())))
        found = counted(
            len(found_names), "image name is found by its last parts", "image names are found by their last parts"
        )
        result.remarks.append(f"{split}: {found}, e.g. {example}")
    difficult = 0 if is_coco else sum(bool(row.get("ignore")) for row in coco["annotations"])
    if difficult and result.target_format == "coco":
        result.remarks.append(
            f"{split}: {counted(difficult, 'difficult object is', 'difficult objects are')} marked 'ignore', which "
            "pycocotools counts and pkdzoo does not"
        )
    parts = {split: coco}
    if share and split == "train":
        train, val, remarks = divide(coco, share, images)
        parts = {"train": train, "val": val}
        result.remarks += remarks
    for name, part in parts.items():
        _write_split(job, part, images, folder, name)


def _write_split(job: _Job, coco: dict[str, Any], images: Path, folder: Path, split: str) -> None:
    paths = [images / relative_image_path(str(image["file_name"])) for image in coco["images"]]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise ValueError(f"{len(missing)} of {len(paths)} images of {split} are missing: {quote_some(missing, 4)}")
    linked = _linked(paths, job.source, images)
    if linked and not job.link and not job.follow_links:
        job.result.remarks.append(
            f"{split}: {counted(len(linked), 'image is a link', 'images are links')}, or in a linked folder outside "
            "the data set, and stay so; --follow-links copies what they point to"
        )
    result = job.result
    dropped: Counter[str] = Counter(coco.get(NOT_READ, {}))
    if result.target_format == "yolo":
        coco = _of_annotated_size(coco, paths, dropped)
    total = len(coco["annotations"])
    write = TABLE[result.target_format].write
    assert write is not None
    not_written = write(coco, folder, split)
    image_folder = folder / ("JPEGImages" if result.target_format == "voc" else f"images/{split}")
    names = [str(image["file_name"]) for image in coco["images"]]
    for name in tqdm(names, desc=split, unit="image", disable=None if job.progress else True):
        link = job.link or (images / name in linked and not job.follow_links)
        place_image(images / name, image_folder / name, link, job.follow_links)
    boxes = total - sum(count for what, count in not_written.items() if what != "segmentations")
    result.images[split], result.boxes[split] = len(names), boxes
    result.dropped[split] = dict(+(dropped + not_written))


def _linked(paths: Sequence[Path], source: Path, images: Path) -> set[Path]:
    """Images that are symbolic links, or that a linked folder puts outside the data set.

    Raises:
        ValueError: such a link points to something else than an image, e.g. to a private file.
    """
    root = source if source.is_dir() else source.parent
    inside = Path(os.path.abspath(images)).is_relative_to(os.path.abspath(root))
    allowed = Path(os.path.realpath(root if inside else images))  # data.yaml may name a folder elsewhere
    folders = {path.parent for path in paths}
    outside = {folder for folder in folders if not Path(os.path.realpath(folder)).is_relative_to(allowed)}
    linked = [path for path in paths if path.is_symlink() or path.parent in outside]
    sizes = read_sizes(linked, strict=False)
    bad = [str(path) for path, size in zip(linked, sizes) if size == UNKNOWN_SIZE]
    if bad:
        raise ValueError(
            f"{len(bad)} of {len(paths)} images are symbolic links to something else than images: "
            f"{quote_some(bad, 2)}; delete these links"
        )
    return set(linked)


def _of_annotated_size(coco: dict[str, Any], paths: list[Path], dropped: Counter[str]) -> dict[str, Any]:
    """Drop images of another size than annotated: YOLO's fractions would give wrong pixels."""
    sizes = read_sizes(paths, strict=True)
    images = [image for image, size in zip(coco["images"], sizes) if size == (image["height"], image["width"])]
    dropped["images of another size than annotated, or turned by their EXIF tag"] = len(paths) - len(images)
    kept, all_ids = {image["id"] for image in images}, {image["id"] for image in coco["images"]}
    annotations = [a for a in coco["annotations"] if a["image_id"] in kept or a["image_id"] not in all_ids]
    return {**coco, "images": images, "annotations": annotations}


def place_image(source: Path, target: Path, link: bool, follow_links: bool = False) -> None:
    """Copy or link an image.

    Raises:
        ValueError: the target is another image, or the source a symbolic link although links are not followed.
    """
    if target.exists():
        if not filecmp.cmp(source, target, shallow=False):
            raise ValueError(f"two different images are called {target.name}: rename one of them ({source})")
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        os.symlink(source.resolve(), target)
        return
    with open_regular_file(source.resolve() if follow_links else source) as file, target.open("xb") as copy:
        shutil.copyfileobj(file, copy)
