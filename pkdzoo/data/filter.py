"""Which images and boxes of an annotation file a detector can learn from, in columns sorted by image.

What mmdetection's ``CocoDataset`` leaves out is left out here too, but counted: boxes without area, boxes
outside their image, boxes thinner than a pixel, annotations marked ``ignore``. mmdetection also drops boxes
whose *annotated* area is 0; here the box decides, since converters often write 0 there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pkdzoo.data.formats.coco import Columns
from pkdzoo.data.load_report import LoadReport, few
from pkdzoo.data.masks import NONE

CROWD, IGNORE = 1, 2  # bits of Columns.flags
SLICE = 1 << 16  # annotations judged at a time: float64 intermediates of a million boxes are large


@dataclass
class Table:
    """n images and their boxes, in the order of the file.

    Attributes:
        image_ids: (n,) int64.
        sizes: (n, 2) int32, (height, width).
        names: file names as UTF-8, end to end; image k's ends at ``name_ends[k + 1]``.
        name_ends: (n + 1,) int64.
        box_ends: (n + 1,) int64; the boxes of image k are ``box_ends[k] : box_ends[k + 1]``.
        boxes: (N, 4) float32 xyxy, clipped to their image.
        labels: (N,) int32.
        crowd: (N,) bool.
        rows: (N,) int64, the annotation's place in the file.
    """

    image_ids: NDArray[np.int64]
    sizes: NDArray[np.int32]
    names: NDArray[np.uint8]
    name_ends: NDArray[np.int64]
    box_ends: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int32]
    crowd: NDArray[np.bool_]
    rows: NDArray[np.int64]


def select(
    columns: Columns,
    label_of: dict[int, int],
    label_names: list[str],
    report: LoadReport,
    drop_empty: bool = False,
    min_image_size: int = 0,
) -> Table:
    """Sort the usable boxes by image, and leave out images that are not wanted.

    Args:
        columns: the file.
        label_of: label of each category id; boxes of other categories are left out.
        label_names: name of each label.
        report: filled in; its ``source`` names the file in errors.
        drop_empty: leave out images without a box.
        min_image_size: leave out images whose short side is smaller.

    Raises:
        ValueError: no image, no image with a box, or annotations of a category that the file lacks.
    """
    if len(columns.image_ids) == 0:
        raise ValueError(f"{report.source}: 'images' is an empty list")
    order, first = _first_of_each(columns.image_ids)
    report.images, report.annotations = len(columns.image_ids), len(columns.labels)
    report.duplicate_images = len(columns.image_ids) - len(first)
    known = columns.ids[columns.ids >= 0]
    report.duplicate_annotations = len(known) - len(np.unique(known))
    owner = positions(columns.owners, columns.image_ids, order)
    labels = _labels(columns, label_of, report.source)
    boxes, usable = _usable(columns, owner, labels, report)
    counts = np.bincount(owner[usable], minlength=len(columns.image_ids))
    wanted = np.zeros(len(columns.image_ids), bool)
    wanted[first] = True
    small = wanted & (columns.sizes.min(1) < min_image_size)
    empty = wanted & ~small & (counts == 0)
    report.small_images, report.empty_images = int(small.sum()), int(empty.sum())
    report.dropped_empty = drop_empty
    wanted &= ~small
    if drop_empty:
        wanted &= ~empty
    alone = owner[usable & (columns.flags & CROWD == 0)]  # a crowd region is nothing to learn from
    usable &= wanted[owner]
    rows = np.flatnonzero(usable)
    rows = rows[np.argsort(owner[rows], kind="stable")]
    images = np.flatnonzero(wanted)
    names = [columns.names[columns.name_ends[k] : columns.name_ends[k + 1]] for k in images.tolist()]
    report.boxes = len(rows)
    per_class = np.bincount(labels[rows], minlength=len(label_names)).tolist()
    report.per_class = dict(zip(label_names, per_class))
    _require_boxes(len(np.unique(alone)), len(first), len(images), label_names, report)
    table = Table(
        image_ids=columns.image_ids[images],
        sizes=columns.sizes[images],
        names=np.frombuffer(b"".join(names), np.uint8),
        name_ends=np.cumsum([0, *map(len, names)], dtype=np.int64),
        box_ends=np.cumsum([0, *counts[images].tolist()], dtype=np.int64),
        boxes=boxes[rows],
        labels=labels[rows],
        crowd=(columns.flags[rows] & CROWD).astype(bool),
        rows=rows,
    )
    report.crowd = int(table.crowd.sum())
    if columns.segments is not None:
        _ignore_maskless(columns, table, report)
    return table


def _labels(columns: Columns, label_of: dict[int, int], source: str) -> NDArray[np.int32]:
    """(N,) label of each annotation, -1 for a class that is left out."""
    declared = {number for number, _ in columns.categories}
    found, inverse = np.unique(columns.labels, return_inverse=True)
    strange = [int(number) for number in found if int(number) not in declared]
    if strange:
        raise ValueError(
            f"{source}: annotations have category id {few(strange)}, which is not in 'categories' "
            f"({few(sorted(declared), 20) or 'an empty list'})"
        )
    table = np.array([label_of.get(int(number), -1) for number in found], np.int32)
    labels: NDArray[np.int32] = table[inverse.reshape(-1)]
    return labels


def _usable(
    columns: Columns, owner: NDArray[np.int64], labels: NDArray[np.int32], report: LoadReport
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(N, 4) float32 xyxy clipped to the images, and which boxes can be learnt from."""
    boxes, usable = np.zeros((len(labels), 4), np.float32), np.ones(len(labels), bool)
    for start in range(0, len(labels), SLICE):
        part = slice(start, start + SLICE)
        _judge(columns, part, owner[part], labels[part], boxes[part], usable[part], report)
    return boxes, usable


def _judge(
    columns: Columns,
    part: slice,
    owner: NDArray[np.int64],
    labels: NDArray[np.int32],
    boxes: NDArray[np.float32],
    usable: NDArray[np.bool_],
    report: LoadReport,
) -> None:
    """Fill in ``boxes`` and ``usable`` for one slice of the annotations, counting why in the report."""
    raw = columns.boxes[part]

    def leave_out(mask: Any) -> int:
        mask = mask & usable
        usable[mask] = False
        return int(mask.sum())

    report.without_image += leave_out(owner < 0)
    report.other_classes += leave_out(labels < 0)
    report.ignored += leave_out((columns.flags[part] & IGNORE) > 0)
    # A negation, so that not-a-number falls through it too.
    report.no_size += leave_out(~(np.isfinite(raw).all(1) & (raw[:, 2:] > 0).all(1)))
    limits = np.tile(columns.sizes[owner][:, ::-1], 2)
    xyxy = np.concatenate((raw[:, :2], raw[:, :2] + raw[:, 2:]), 1)
    clipped = np.clip(xyxy, 0, limits)
    report.outside += leave_out(~(clipped[:, 2:] > clipped[:, :2]).all(1))
    report.thin += leave_out((raw[:, 2:] < 1).any(1))
    report.clipped += int(((np.abs(clipped - xyxy) > 0.5).any(1) & usable).sum())
    boxes[usable] = clipped[usable]


def _ignore_maskless(columns: Columns, table: Table, report: LoadReport) -> None:
    """Boxes without a mask can teach no mask: they become regions to ignore, as in mmdetection."""
    assert columns.segments is not None
    lacking = np.asarray(columns.segments.kinds)[table.rows] == NONE
    report.without_mask = int((lacking & ~table.crowd).sum())
    if lacking.all():
        raise ValueError(f"{report.source}: no annotation has a segmentation; load it with with_masks=False")
    table.crowd |= lacking


def _require_boxes(with_box: int, total: int, left: int, label_names: list[str], report: LoadReport) -> None:
    why = report.reasons() if report.annotations else "The file has no annotations"
    if with_box == 0:
        raise ValueError(f"{report.source}: 0 of {total} images have a box of your classes ({few(label_names)}). {why}")
    if left == 0:
        raise ValueError(f"{report.source}: no image is left. {why}")


def _first_of_each(ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A stable order that sorts ``ids``, and the places where each id stands first, in the file's order."""
    order = np.argsort(ids, kind="stable")
    ranked = ids[order]
    new = np.concatenate(([True], ranked[1:] != ranked[:-1]))
    return order, np.sort(order[new])


def positions(wanted: NDArray[np.int64], ids: NDArray[np.int64], order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Place in ``ids`` of each of ``wanted``, the first where an id stands twice; -1 where it does not stand.

    Args:
        wanted: (N,) ids to look up.
        ids: (M,) ids to look in, at least one.
        order: a stable order that sorts ``ids``.
    """
    ranked = ids[order]
    place = np.searchsorted(ranked, wanted).clip(max=len(ids) - 1)
    found: NDArray[np.int64] = np.where(ranked[place] == wanted, order[place], -1)
    return found
