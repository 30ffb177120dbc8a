"""Checks of annotations: counts, records that contradict each other, suspicious boxes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pkdzoo.data.filter import odd_areas, positions
from pkdzoo.data.formats.coco import CROWD, Columns
from pkdzoo.data.formats.common import UNKNOWN_SIZE, unique_names
from pkdzoo.dataset_tools.check_report import SplitReport, make_finding

TINY = 3.0  # pixels; a shorter side is mostly an accidental click
WHOLE = 0.98  # share of the image from which a box counts as the whole image
DUPLICATE_IOU = 0.9  # IoU above which two boxes count as one
OVERLAPS = (0.5, 0.7, 0.9)
ROWS = 1024  # boxes compared with all others of their image at a time


@dataclass(frozen=True)
class Annotations:
    """The annotations of a split.

    Attributes:
        columns: the annotation file.
        names: file name of each image.
        owner: (N,) position of each annotation's image, -1 where there is no such image.
    """

    columns: Columns
    names: list[str]
    owner: NDArray[np.int64]

    @classmethod
    def of(cls, columns: Columns) -> Annotations:
        """Decode the file names and look up the image of each annotation."""
        ids = columns.image_ids
        owner = np.full(len(columns.owners), -1, np.int64)
        if len(ids):
            owner = positions(columns.owners, ids, np.argsort(ids, kind="stable"))
        return cls(columns, [columns.file_name(k) for k in range(len(ids))], owner)

    def describe(self, mask: NDArray[np.bool_]) -> list[str]:
        """File name, class and box of each annotation that the mask (N,) selects."""
        classes, lines = dict(self.columns.categories), []
        for row in np.flatnonzero(mask).tolist():
            owner, category = int(self.owner[row]), int(self.columns.labels[row])
            name = self.names[owner] if owner >= 0 else f"image_id {self.columns.owners[row]}"
            box = ", ".join(f"{v:.6g}" for v in self.columns.boxes[row].tolist())
            lines.append(f"{name}: {classes.get(category, f'category {category}')} [{box}]")
        return lines


def count(part: SplitReport, annotations: Annotations) -> None:
    """Fill in the counts of the report."""
    columns, owner, known = annotations.columns, annotations.owner, annotations.owner >= 0
    part.images, part.boxes = len(columns.image_ids), len(columns.labels)
    for (number, _), name in zip(columns.categories, unique_names(columns.categories)):
        of_class = (columns.labels == number) & known
        part.classes[name] = {"boxes": int(of_class.sum()), "images": len(np.unique(owner[of_class]))}
    per_image = np.bincount(owner[known], minlength=part.images)
    part.empty = int((per_image == 0).sum())
    if not part.boxes or not part.images:
        return
    order = columns.sizes.prod(1, dtype=np.int64).argsort(kind="stable")
    smallest, largest = ((int(columns.sizes[k, 1]), int(columns.sizes[k, 0])) for k in (order[0], order[-1]))
    part.image_sides = {"smallest": smallest, "largest": largest}
    part.boxes_per_image = {"mean": float(per_image.mean()), "largest": float(per_image.max())}
    valid = np.isfinite(columns.boxes).all(1) & (columns.boxes[:, 2:] > 0).all(1) & known
    side = np.sqrt(columns.boxes[valid, 2:].prod(1)) if valid.any() else np.zeros(1)
    part.box_sides = {f"{q}%": float(np.percentile(side, q)) for q in (1, 50, 99)}
    small, large = int((side[: valid.sum()] < 32).sum()), int((side >= 96).sum())
    part.areas = {"small": small, "medium": int(valid.sum()) - small - large, "large": large}


def check_records(part: SplitReport, annotations: Annotations) -> None:
    """Find records that contradict each other."""
    columns = annotations.columns
    declared = np.array([number for number, _ in columns.categories], np.int64)
    ids, repeats = np.unique(columns.image_ids, return_counts=True)
    twice = [name for name, times in Counter(annotations.names).items() if times > 1]
    part.add(
        make_finding("images listed more than once", twice, error=True),
        make_finding("image ids that occur more than once", map(str, ids[repeats > 1].tolist()), error=True),
        make_finding(
            "annotations of images that are not listed", annotations.describe(annotations.owner < 0), error=True
        ),
        make_finding(
            "annotations of classes that are not listed",
            annotations.describe(~np.isin(columns.labels, declared)),
            error=True,
        ),
        make_finding("classes without a box", [n for n, c in part.classes.items() if not c["boxes"]], error=False),
        make_finding("classes with crowd regions only, which are not learned", _crowd_only(columns), error=False),
    )


def _crowd_only(columns: Columns) -> list[str]:
    """Names of the classes that have boxes, all of which are crowd regions (CVAT exports masks as such)."""
    crowd = (columns.flags & CROWD) > 0
    crowds, objects = set(columns.labels[crowd].tolist()), set(columns.labels[~crowd].tolist())
    return [name for number, name in columns.categories if number in crowds - objects]


def check_boxes(part: SplitReport, annotations: Annotations) -> None:
    """Find boxes that are invalid or were probably annotated by mistake."""
    columns, owner = annotations.columns, annotations.owner
    if not len(columns.labels) or not annotations.names:
        return
    sizes = columns.sizes[owner]
    limits = sizes[:, ::-1].astype(np.float64)  # (N, 2) width, height
    checked = (owner >= 0) & ~(sizes == UNKNOWN_SIZE).all(1)
    crowd = (columns.flags & CROWD) > 0
    low, sides = columns.boxes[:, :2], columns.boxes[:, 2:]
    empty = checked & ~(np.isfinite(columns.boxes).all(1) & (sides > 0).all(1))
    with np.errstate(invalid="ignore"):
        high = low + sides
        inside = (np.minimum(high, limits) - np.maximum(low, 0)).clip(min=0)
        outside = checked & ~empty & ~(inside > 0).all(1)
        valid = checked & ~empty & ~outside
        over_edge = valid & (np.maximum(-low, high - limits) > 0.5).any(1)
        whole = valid & ~crowd & (inside.prod(1) >= WHOLE * limits.prod(1))
        fractions = valid & (np.abs(columns.boxes) <= 1).all(1)
        fractions &= 2 * fractions.sum() >= valid.sum()  # a single one may be an accidental click
        tiny = valid & ~crowd & ~fractions & (sides.min(1) < TINY)
    twice, two_classes, largest_iou = _overlaps(columns, owner, valid & ~crowd)
    part.overlaps = {str(iou): int((largest_iou > iou).sum()) for iou in OVERLAPS}
    for what, mask, error in (
        ("boxes without area, or not of numbers", empty, True),
        ("boxes outside their image", outside, True),
        ("boxes of at most 1 pixel, probably fractions: multiply them by the image's sides", fractions, True),
        ("boxes that extend over the edge of their image", over_edge, False),
        (f"boxes that repeat another of their class (IoU over {DUPLICATE_IOU})", twice, False),
        (f"boxes that repeat one of another class (IoU over {DUPLICATE_IOU})", two_classes, False),
        ("boxes of the whole image", whole, False),
        (f"boxes thinner than {TINY:.0f} pixels", tiny, False),
        ("areas that do not fit their boxes", valid & odd_areas(columns.areas, columns.boxes), False),
    ):
        part.add(make_finding(what, annotations.describe(mask), error))


def _overlaps(
    columns: Columns, owner: NDArray[np.int64], checked: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.float64]]:
    """Compare the boxes of each image with each other.

    Returns:
        Of each box (N,): whether it repeats an earlier one of its class, whether it repeats an earlier one of another
        class, and the largest IoU with another box of its class.
    """
    twice, two_classes = np.zeros(len(owner), bool), np.zeros(len(owner), bool)
    largest_iou = np.zeros(len(owner))
    rows = np.flatnonzero(checked)
    rows = rows[np.argsort(owner[rows], kind="stable")]
    ends = np.flatnonzero(np.diff(owner[rows], prepend=-1, append=-1))
    for start, end in pairwise(ends):
        image_rows = rows[start:end]
        boxes = columns.boxes[image_rows]
        xyxy = np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), 1)
        labels = columns.labels[image_rows]
        index = np.arange(len(image_rows))
        for first in range(0, len(image_rows), ROWS):
            part = slice(first, first + ROWS)
            iou = _iou(xyxy[part], xyxy)
            iou[index[part, None] == index] = 0
            same_class = labels[part, None] == labels
            earlier = index < index[part, None]
            largest_iou[image_rows[part]] = (iou * same_class).max(1)
            twice[image_rows[part]] = (same_class & earlier & (iou > DUPLICATE_IOU)).any(1)
            two_classes[image_rows[part]] = (~same_class & earlier & (iou > DUPLICATE_IOU)).any(1)
    return twice, two_classes, largest_iou


def _iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, M) IoU of boxes (N, 4) and (M, 4), xyxy in float64."""
    sides = (np.minimum(a[:, None, 2:], b[:, 2:]) - np.maximum(a[:, None, :2], b[:, :2])).clip(min=0)
    common = sides.prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (a, b)]
    result: NDArray[np.float64] = common / (areas[0][:, None] + areas[1] - common)
    return result
