"""Selects the images and boxes of an annotation file that a detector can learn from, in columns sorted by image.

The same boxes as in mmdetection's ``CocoDataset`` are left out, and counted: boxes without area, boxes outside their
image, boxes thinner than a pixel, annotations marked ``ignore``. mmdetection also drops boxes whose *annotated* area is
0; here the box decides, since converters often write 0 there.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pkdzoo.data.formats.coco import CROWD, IGNORE, Columns
from pkdzoo.data.formats.common import UNKNOWN_SIZE
from pkdzoo.data.load_report import LoadReport
from pkdzoo.data.segmentations import INVALID, NONE
from pkdzoo.utils.text import quote_some

SLICE = 1 << 16  # annotations checked at a time: float64 intermediates of a million boxes are large


@dataclass
class Table:
    """n images and their boxes, in the order of the file.

    Attributes:
        image_ids: (n,) int64.
        sizes: (n, 2) int32, (height, width).
        names: concatenated file names; the name of image k ends at ``name_ends[k + 1]``.
        name_ends: (n + 1,) int64.
        box_ends: (n + 1,) int64; the boxes of image k are ``box_ends[k] : box_ends[k + 1]``.
        boxes: (N, 4) float32 xyxy, clipped to their image.
        labels: (N,) int32.
        crowd: (N,) bool.
        rows: (N,) int64, position of each annotation in the file.
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
    """Sort the usable boxes by image, and leave out unsuitable images.

    Args:
        columns: the file.
        label_of: label of each category id; boxes of other categories are left out.
        label_names: name of each label.
        report: is filled in; its ``source`` names the file in errors.
        drop_empty: leave out images without a box.
        min_image_size: leave out images whose short side is smaller, in pixels.

    Raises:
        ValueError: no image, no image with a box, or annotations of a category that the file does not declare.
    """
    if len(columns.image_ids) == 0:
        raise ValueError(f"{report.source}: 'images' is an empty list")
    columns.check_image_ids(report.source)
    order, first = _first_of_each(columns.image_ids)
    _count_records(columns, first, report)
    owner = positions(columns.owners, columns.image_ids, order)
    labels = _labels(columns, label_of, report.source)
    boxes, usable = _usable_boxes(columns, owner, labels, report)
    counts = np.bincount(owner[usable], minlength=len(columns.image_ids))
    kept = _kept_images(columns, first, counts, drop_empty, min_image_size, report)
    # crowd regions are no objects to learn from
    with_object = len(np.unique(owner[usable & (columns.flags & CROWD == 0)]))
    usable &= kept[owner]
    rows = np.flatnonzero(usable)
    rows = rows[np.argsort(owner[rows], kind="stable")]
    images = np.flatnonzero(kept)
    table = _table(columns, images, rows, boxes[rows], labels[rows], counts)
    _count_boxes(columns, table, label_names, report)
    _require_boxes(with_object, len(first), len(images), label_names, report)
    if columns.segments is not None:
        other_size = columns.segments.mark_other_sizes(rows, columns.sizes[owner[rows]])
        _ignore_maskless(columns, table, other_size, report)
        _count_boxes(columns, table, label_names, report)  # objects without a mask are crowd now
    return table


def _table(
    columns: Columns,
    images: NDArray[np.int64],
    rows: NDArray[np.int64],
    boxes: NDArray[np.float32],
    labels: NDArray[np.int32],
    counts: NDArray[np.int64],
) -> Table:
    """The table of some images and some annotations, sorted by image; ``counts`` are those of all images."""
    names = [columns.names[columns.name_ends[k] : columns.name_ends[k + 1]] for k in images.tolist()]
    return Table(
        image_ids=columns.image_ids[images],
        sizes=columns.sizes[images],
        names=np.frombuffer(b"".join(names), np.uint8),
        name_ends=np.cumsum([0, *map(len, names)], dtype=np.int64),
        box_ends=np.cumsum([0, *counts[images].tolist()], dtype=np.int64),
        boxes=boxes,
        labels=labels,
        crowd=(columns.flags[rows] & CROWD).astype(bool),
        rows=rows,
    )


def _count_boxes(columns: Columns, table: Table, label_names: list[str], report: LoadReport) -> None:
    by_label = np.bincount(table.labels, minlength=len(label_names))
    objects = np.bincount(table.labels[~table.crowd], minlength=len(label_names))
    report.boxes, report.crowd = len(table.rows), int(table.crowd.sum())
    report.per_class = dict(zip(label_names, by_label.tolist()))
    report.crowd_only = [label_names[k] for k in np.flatnonzero((by_label > 0) & (objects == 0))]
    report.other_areas = int(odd_areas(columns.areas[table.rows], columns.boxes[table.rows]).sum())


def odd_areas(areas: NDArray[np.float64], boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(N,) whether an annotated area cannot be that of an object in its box: zero, or of another unit than pixels.

    Args:
        areas: (N,), NaN where the file has none.
        boxes: (N, 4) x, y, width, height.
    """
    limit = boxes[:, 2] * boxes[:, 3]
    odd: NDArray[np.bool_] = (limit > 1) & ((areas < limit / 1000) | (areas > 1.2 * limit + 16))
    return odd


def positions(ids: NDArray[np.int64], table: NDArray[np.int64], order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Look up ids: the position of each in ``table``, of the first where it occurs twice, -1 where it is missing.

    Args:
        ids: (N,) ids to look up.
        table: (M,) ids to look in, at least one.
        order: a stable order that sorts ``table``.
    """
    ranked = table[order]
    rank = np.searchsorted(ranked, ids).clip(max=len(table) - 1)
    position: NDArray[np.int64] = np.where(ranked[rank] == ids, order[rank], -1)
    return position


def _count_records(columns: Columns, first: NDArray[np.int64], report: LoadReport) -> None:
    """Count records and those that repeat an id or a file name; ``first`` is the first image of each id."""
    report.images, report.annotations = len(columns.image_ids), len(columns.labels)
    report.duplicate_images = len(columns.image_ids) - len(first)
    files = Counter(columns.names[columns.name_ends[k] : columns.name_ends[k + 1]] for k in first.tolist())
    report.twice_listed = sum(count > 1 for count in files.values())
    known = columns.ids[columns.ids >= 0]
    report.duplicate_annotations = len(known) - len(np.unique(known))


def _kept_images(
    columns: Columns,
    first: NDArray[np.int64],
    counts: NDArray[np.int64],
    drop_empty: bool,
    min_image_size: int,
    report: LoadReport,
) -> NDArray[np.bool_]:
    """(M,) which images stay: the first of each id, not too small and, with ``drop_empty``, with a box.

    Images of unknown size stay as well: loading counts them as unreadable, and too many of them are an error.
    """
    kept = np.zeros(len(columns.image_ids), bool)
    kept[first] = True
    unknown = _of_unknown_size(columns.sizes)
    small = kept & ~unknown & (columns.sizes.min(1) < min_image_size)
    empty = kept & ~unknown & ~small & (counts == 0)
    report.unread_images = int((kept & unknown).sum())
    report.small_images, report.empty_images = int(small.sum()), int(empty.sum())
    report.dropped_empty = drop_empty
    kept &= ~small
    if drop_empty:
        kept &= ~empty
    return kept


def _of_unknown_size(sizes: NDArray[np.int32]) -> NDArray[np.bool_]:
    """(M,) which images could not be read when their annotations were."""
    unknown: NDArray[np.bool_] = (sizes == UNKNOWN_SIZE).all(1)
    return unknown


def _labels(columns: Columns, label_of: dict[int, int], source: str) -> NDArray[np.int32]:
    """(N,) label of each annotation, -1 for a class that is left out."""
    declared = {number for number, _ in columns.categories}
    used, inverse = np.unique(columns.labels, return_inverse=True)
    undeclared = [int(number) for number in used if int(number) not in declared]
    if undeclared:
        raise ValueError(
            f"{source}: annotations have category id {quote_some(undeclared)}, which is not in 'categories' "
            f"({quote_some(sorted(declared), 20) or 'an empty list'})"
        )
    table = np.array([label_of.get(int(number), -1) for number in used], np.int32)
    labels: NDArray[np.int32] = table[inverse.reshape(-1)]
    return labels


def _usable_boxes(
    columns: Columns, owner: NDArray[np.int64], labels: NDArray[np.int32], report: LoadReport
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(N, 4) float32 xyxy clipped to the images, and (N,) which boxes are used."""
    boxes, usable = np.zeros((len(labels), 4), np.float32), np.ones(len(labels), bool)
    for start in range(0, len(labels), SLICE):
        part = slice(start, start + SLICE)
        _fill_slice(columns, part, owner[part], labels[part], boxes[part], usable[part], report)
    return boxes, usable


def _fill_slice(
    columns: Columns,
    part: slice,
    owner: NDArray[np.int64],
    labels: NDArray[np.int32],
    boxes: NDArray[np.float32],
    usable: NDArray[np.bool_],
    report: LoadReport,
) -> None:
    """Fill in ``boxes`` and ``usable`` for one slice of the annotations, and count the reasons in the report."""
    raw = columns.boxes[part]

    def leave_out(mask: Any) -> int:
        mask = mask & usable
        usable[mask] = False
        return int(mask.sum())

    report.without_image += leave_out(owner < 0)
    report.other_classes += leave_out(labels < 0)
    report.ignored += leave_out((columns.flags[part] & IGNORE) > 0)
    infinite = leave_out(~np.isfinite(raw).all(1))
    report.not_finite += infinite
    report.no_size += infinite + leave_out((raw[:, 2:] <= 0).any(1))
    leave_out(_of_unknown_size(columns.sizes[owner]))  # not counted: their image cannot be read
    limits = np.tile(columns.sizes[owner][:, ::-1], 2)
    xyxy = np.concatenate((raw[:, :2], raw[:, :2] + raw[:, 2:]), 1)
    clipped = np.clip(xyxy, 0, limits).astype(np.float32)  # as they are kept: a thinner rest has no size there
    report.outside += leave_out(~(clipped[:, 2:] > clipped[:, :2]).all(1))
    report.thin += leave_out((raw[:, 2:] < 1).any(1))
    report.clipped += int(((np.abs(clipped - xyxy) > 0.5).any(1) & usable).sum())
    boxes[usable] = clipped[usable]


def _ignore_maskless(columns: Columns, table: Table, other_size: int, report: LoadReport) -> None:
    """Turn objects without a mask into regions to ignore, as mmdetection does: no mask can be learned from them."""
    assert columns.segments is not None
    kinds = np.asarray(columns.segments.kinds)[table.rows]
    report.without_mask = int(((kinds == NONE) & ~table.crowd).sum())
    report.other_size_masks = other_size
    report.invalid_masks = int((kinds == INVALID).sum()) - other_size
    maskless = (kinds == NONE) | (kinds == INVALID)
    if maskless.all() and (kinds == INVALID).any():
        raise ValueError(f"{report.source}: no annotation has a usable segmentation. {report.reasons()}")
    if maskless.all():
        raise ValueError(f"{report.source}: no annotation has a segmentation; load it with with_masks=False")
    table.crowd |= maskless


def _require_boxes(with_object: int, total: int, kept: int, label_names: list[str], report: LoadReport) -> None:
    reasons = report.reasons() if report.annotations or report.unread_images else "The file has no annotations"
    if with_object == 0:
        raise ValueError(
            f"{report.source}: 0 of {total} images have a box of your classes ({quote_some(label_names)}). {reasons}"
        )
    if kept == 0:
        raise ValueError(f"{report.source}: no image is left. {reasons}")


def _first_of_each(ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A stable order that sorts ``ids``, and the position of the first occurrence of each id, ascending."""
    order = np.argsort(ids, kind="stable")
    ranked = ids[order]
    new = np.concatenate(([True], ranked[1:] != ranked[:-1]))
    return order, np.sort(order[new])
