"""Looks at a data set before it is trained on, and holds out a validation split where there is none."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pkdzoo.data.formats import coco_folders
from pkdzoo.data.formats.read import TABLE, find_format, format_of, read_annotations, read_coco, splits_of
from pkdzoo.data.image_names import match_content
from pkdzoo.data.locate import find_split
from pkdzoo.dataset_tools.check import check
from pkdzoo.dataset_tools.check_report import CheckReport, Finding, SplitReport
from pkdzoo.dataset_tools.hold_out import divide
from pkdzoo.utils.files import write_json
from pkdzoo.utils.text import counted, quote_some

HELD_OUT = 0.2  # share of the training images
HELD_OUT_MARK = "held_out.json"  # beside annotations that were written here, and may be written again
DECODED = 5000  # images up to which every one is decoded; of larger data sets only the headers are read
FINDINGS = 6  # lines of findings that are printed
MANY_EMPTY = 0.2  # share of images without a box that is worth a line

Say = Callable[[str], None]


@dataclass(frozen=True)
class OwnData:
    """A data set with a training and a validation split.

    Attributes:
        folder: as given.
        train_json: annotation file of the training split, where a validation split was held out; else None.
        val_json: of the validation split; else None.
        images: image folder of both; else None.
        classes: names, in the order of the labels.
        train_images: training images with a box.
        val_images: validation images.
        size: (width, height) in pixels of the largest image.
        box_side: median of the square root of the box area, in pixels of the original images.
        digest: of all that the annotations of both splits say, see :func:`digest_of`.
    """

    folder: str
    train_json: str | None
    val_json: str | None
    images: str | None
    classes: tuple[str, ...]
    train_images: int
    val_images: int
    size: tuple[int, int]
    box_side: float
    digest: str

    @property
    def options(self) -> list[str]:
        """The options of ``pkdzoo train`` that select this data."""
        if self.train_json is None:
            return ["--data", self.folder]
        own = ["--train-json", self.train_json, "--val-json", str(self.val_json), "--images", str(self.images)]
        return ["--data", self.folder, *own]  # the folder may have a test split, whose images stay out of the training


def look_at(folder: Path, target: Path, say: Say) -> OwnData:
    """Check a data set, and write a held-out validation split into ``target`` if it has none.

    Args:
        folder: the data set, in any layout that is read, or its ``data.yaml``.
        target: folder for ``annotations/instances_train.json`` and ``..._val.json``; images stay where they are.
        say: is called with each line for the user.

    Raises:
        ValueError: for errors in the data except in its test split, a data set without a training split, without a box,
            or of one image.
    """
    known = splits_of(folder)
    if known and not {"train", "trainval"} & set(known):
        raise ValueError(
            f"{folder} has no training split, only {', '.join(known)}: rename it to train, or add training images"
        )
    sizes = sum(len(read_annotations(find_split(folder, split)[0]).image_ids) for split in known[:1])
    report = check(folder, decode=sizes <= DECODED, progress=True)
    describe(report, decoded=sizes <= DECODED, say=say)
    parts = {part.split: part for part in report.splits}
    train = parts.get("train") or parts["trainval"]
    if train.images and not train.boxes:
        raise ValueError(f"no image of the {train.split} split has a box: {train.annotations}. Label some images first")
    if "val" in parts and parts["val"].images and not parts["val"].boxes:
        raise ValueError(
            f"no image of the val split has a box, so nothing can be evaluated: {parts['val'].annotations}. Label some "
            "of its images first"
        )
    errors = sum(finding.count for split, finding in findings_by_split(report) if stops(split, finding))
    if errors:
        raise ValueError(
            f"errors in the data: {errors}, see above. Correct them, 'pkdzoo data check {folder}' tells when "
            "there are none"
        )
    if train.empty > MANY_EMPTY * train.images:
        say(
            f"data      {train.empty} of {train.images} {train.split} images without a box: left out of the "
            "training, as in published training. If they show objects that nobody labeled, label them"
        )
    if "val" in parts:
        return _with_splits(folder, train, parts["val"])
    return _held_out(folder, train, target, say)


def describe(report: CheckReport, decoded: bool, say: Say) -> None:
    """Print what the check found in a few lines."""
    for part in report.splits:
        sides = " x ".join(map(str, part.image_sides.get("largest", ())))
        say(
            f"data      {part.split}: {counted(part.images, 'image')}{f' up to {sides} pixels' if sides else ''}, "
            f"{counted(part.boxes, 'box')}, {counted(len(part.classes), 'class')} ({quote_some(list(part.classes), 5)})"
        )
    named = findings_by_split(report)
    for split, finding in sorted(named, key=lambda pair: not stops(*pair))[:FINDINGS]:
        kind = "ERROR" if stops(split, finding) else "check"
        example = f", e.g. {finding.examples[0]}" if finding.examples else ""
        say(f"{kind:<9} {split}: {finding.what}: {finding.count}{example}")
    if len(named) > FINDINGS:
        say(f"          and {counted(len(named) - FINDINGS, 'more kind')}: pkdzoo data check {report.folder}")
    if not decoded:
        say(f"data      more than {DECODED} images: only their headers were read; 'pkdzoo data check' decodes all")


def findings_by_split(report: CheckReport) -> list[tuple[str, Finding]]:
    """All findings of a check, each with the name of its split."""
    named = [("all splits", finding) for finding in report.findings]
    return named + [(part.split, finding) for part in report.splits for finding in part.findings]


def stops(split: str, finding: Finding) -> bool:
    """Whether a finding stops a run. Those of the test split do not: it is not used here, and often has no labels."""
    return finding.error and split != "test"


def _with_splits(folder: Path, train: SplitReport, val: SplitReport) -> OwnData:
    digest = digest_of(Path(train.annotations), Path(val.annotations))
    return _own_data(folder, train, None, (train.images - train.empty, val.images), digest)


def _held_out(folder: Path, train: SplitReport, target: Path, say: Say) -> OwnData:
    """Divide the training split; copies of an image and frames of one video stay together."""
    annotations, images = find_split(folder, train.split)
    written = [target / "annotations" / f"instances_{split}.json" for split in ("train", "val")]
    taken = [str(file) for file in written if file.exists() and not (target / HELD_OUT_MARK).is_file()]
    if taken:
        raise ValueError(
            f"{quote_some(taken)} would be overwritten by the images that are held out for validation: choose another "
            "output, which is not the folder around the data set"
        )
    is_coco = TABLE[find_format(folder) or format_of(annotations)].read is coco_folders.read
    content: dict[str, Any] = coco_folders.read_whole(annotations) if is_coco else read_coco(annotations)
    match_content(content, images)  # else copies of an image are not found, and would be in both splits
    kept_part, held_part, remarks = divide(content, HELD_OUT, images)
    parts = {"train": kept_part, "val": held_part}
    for split, part in parts.items():
        if not part["annotations"]:
            raise ValueError(
                f"after a fifth of the images was held out for validation, none with a box is in {split}: label more "
                "images, or make a val split by hand"
            )
    target.mkdir(parents=True, exist_ok=True)
    write_json(target / HELD_OUT_MARK, {"data": str(folder), "share": HELD_OUT})
    for split, part in parts.items():
        coco_folders.write(part, target, split)
    files = [str(file) for file in written]
    images = images.resolve()
    kept, held = (len(part["images"]) for part in parts.values())
    say(
        f"split     no val split: held out {held} of {held + kept} images, copies of an image together; "
        f"written to {target / 'annotations'}"
    )
    for remark in remarks:
        say(f"check     {remark}")
    labeled = len({row["image_id"] for row in parts["train"]["annotations"]})
    return _own_data(folder, train, (files[0], files[1], str(images)), (labeled, held), digest_of(*map(Path, files)))


def _own_data(
    folder: Path, train: SplitReport, files: tuple[str, str, str] | None, images: tuple[int, int], digest: str
) -> OwnData:
    width, height = train.image_sides["largest"]
    train_json, val_json, image_folder = files or (None, None, None)
    return OwnData(
        folder=str(folder),
        train_json=train_json,
        val_json=val_json,
        images=image_folder,
        classes=tuple(train.classes),
        train_images=images[0],
        val_images=images[1],
        size=(width, height),
        box_side=train.box_sides["50%"],
        digest=digest,
    )


def digest_of(*annotations: Path) -> str:
    """A short hash of image names and sizes, classes, and boxes with their areas and flags (crowd, ignored)."""
    state = hashlib.blake2b(digest_size=8)
    for path in annotations:
        columns = read_annotations(path)
        state.update(repr(list(columns.categories)).encode())
        for array in (
            columns.image_ids, columns.sizes, columns.owners, columns.labels, columns.boxes, columns.areas,
            columns.flags,
        ):  # fmt: skip
            state.update(np.ascontiguousarray(array).tobytes())
        state.update("\n".join(columns.file_name(k) for k in range(len(columns.image_ids))).encode())
    return state.hexdigest()


def check_unchanged(data: OwnData, folder: Path) -> None:
    """Check, before a run goes on, that the data is still what its teacher and students learn from.

    Args:
        data: of the plan.
        folder: of the run, for the message.

    Raises:
        ValueError: for other images, classes or boxes.
    """
    own = [Path(file) for file in (data.train_json, data.val_json) if file is not None]
    if digest_of(*(own or (find_split(data.folder, split)[0] for split in ("train", "val")))) != data.digest:
        raise ValueError(
            f"the images, classes or boxes of {data.folder} changed since {folder} began. --resume continues on the "
            "same data: put it back, or choose another --output"
        )


def data_places(data: OwnData) -> tuple[str, str | None, str | None, str | None]:
    """Folder, training file, validation file and image folder, as ``build.find_data`` takes them."""
    return (data.folder, data.train_json, data.val_json, data.images)
