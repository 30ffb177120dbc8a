"""Precision, recall and F1 of the detections above a threshold, and the threshold at which F1 is highest.

AP describes a detector at all thresholds. A user needs a single one, and has to know what it finds there.
Detections are matched to objects as in COCO's evaluation at one IoU: those of an image and class in the order of their
scores, each with the free object of the highest IoU. Crowd regions and ignored objects take any number of detections,
which count neither as right nor as wrong.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

IOU = 0.5  # a detection is right from this IoU on
MAX_DETECTIONS = 100  # of an image and class, as in COCO's evaluation
WRONG, RIGHT, IGNORED = 0, 1, 2  # status of a detection


def best_thresholds(
    truth: dict[str, Any], found: dict[str, NDArray[Any]], names: list[str], category_ids: list[int]
) -> dict[str, Any]:
    """The threshold with the highest F1, over all classes and by class.

    Args:
        truth: columns ``image_id``, ``category_id``, ``bbox`` (x, y, width, height), ``iscrowd`` and ``ignore``.
        found: columns ``image_id``, ``category_id``, ``bbox`` and ``score`` of the detections.
        names: class names.
        category_ids: category id of each class; negative where the data set lacks it.

    Returns:
        ``all`` (one threshold for all classes) and ``per_class`` by name, each with ``threshold`` (0..1),
        ``precision``, ``recall`` and ``f1`` (percent) of the detections with scores above the threshold. None where
        there is no object, or nothing is right at any threshold.
    """
    status = match(truth, found)
    objects = ~(truth["iscrowd"] | truth["ignore"])
    per_class = {}
    for name, number in zip(names, category_ids):
        own, total = found["category_id"] == number, int((objects & (truth["category_id"] == number)).sum())
        per_class[name] = _highest_f1(found["score"][own], status[own], total)
    return {"all": _highest_f1(found["score"], status, int(objects.sum())), "per_class": per_class}


def _highest_f1(scores: NDArray[np.float64], status: NDArray[np.int8], objects: int) -> dict[str, float] | None:
    used = status != IGNORED
    scores, right = scores[used], status[used] == RIGHT
    if objects == 0 or not right.any():
        return None
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(right[order])
    last = np.append(scores[1:] < scores[:-1], True)  # a threshold cannot separate equal scores
    counts = np.flatnonzero(last)  # keep the detections 0 to counts[k]
    f1 = 2 * hits[counts] / (counts + 1 + objects)
    best = int(counts[np.argmax(f1)])
    # below the lowest score other detections may follow that were not evaluated
    lower = float(scores[best + 1]) if best + 1 < len(scores) else 0.9 * float(scores[best])
    return {
        "threshold": _short_number(lower, float(scores[best])),
        "precision": 100 * float(hits[best]) / (best + 1),
        "recall": 100 * float(hits[best]) / objects,
        "f1": 100 * float(f1.max()),
    }


def _short_number(lower: float, upper: float) -> float:
    """A number of few digits, at least ``lower`` and below ``upper``."""
    for digits in range(2, 9):
        number = math.floor(upper * 10.0**digits) / 10.0**digits
        if lower <= number < upper:
            return number
    return (lower + upper) / 2


def match(truth: dict[str, Any], found: dict[str, NDArray[Any]], iou: float = IOU) -> NDArray[np.int8]:
    """Status of each detection: ``WRONG``, ``RIGHT`` or ``IGNORED``.

    Args:
        truth: see :func:`best_thresholds`.
        found: see :func:`best_thresholds`.
        iou: lowest IoU of a match, 0..1. With a crowd region it is the share of the detection inside the region.
    """
    status = np.zeros(len(found["score"]), np.int8)
    if not len(status):
        return status
    group_of_found, group_of_truth = _groups(truth, found)
    order = np.lexsort((-found["score"], group_of_found))
    starts = np.concatenate(([0], np.flatnonzero(np.diff(group_of_found[order])) + 1))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    status[rank >= MAX_DETECTIONS] = IGNORED  # COCO's evaluation does not see them
    optional = np.asarray(truth["iscrowd"], bool) | np.asarray(truth["ignore"], bool)
    rows, objects, overlaps = _pairs(truth, found, group_of_found, group_of_truth, iou)
    keep = rank[rows] < MAX_DETECTIONS
    rows, objects, overlaps = rows[keep], objects[keep], overlaps[keep]
    # by group, then by score; of one detection real objects before optional ones, and the highest overlap first
    pairs = np.lexsort((-objects, -overlaps, optional[objects], rank[rows], group_of_found[rows]))
    taken: set[int] = set()
    matched: set[int] = set()
    columns = (rows[pairs], objects[pairs], optional[objects[pairs]])
    for row, other, is_optional in zip(*(column.tolist() for column in columns)):
        if row not in matched and (is_optional or other not in taken):
            status[row] = IGNORED if is_optional else RIGHT
            matched.add(row)
            taken.add(other)
    return status


def count_near(truth: dict[str, Any], found: dict[str, NDArray[Any]], iou: float) -> NDArray[np.int64]:
    """Number of detections of the same image and class that overlap each object.

    Args:
        truth: see :func:`best_thresholds`.
        found: see :func:`best_thresholds`.
        iou: lowest overlap, above 0.
    """
    objects = len(truth["image_id"])
    if not len(found["score"]) or not objects:
        return np.zeros(objects, np.int64)
    _, near, _ = _pairs(truth, found, *_groups(truth, found), iou)
    return np.bincount(near, minlength=objects)


def pairs_of_images(truth: dict[str, Any], found: dict[str, NDArray[Any]], iou: float) -> list[tuple[int, int]]:
    """Detections and objects of the same image that overlap, whatever their classes.

    Args:
        truth: see :func:`best_thresholds`.
        found: see :func:`best_thresholds`.
        iou: lowest overlap, above 0.

    Returns:
        (detection, object), by detection; of one detection the object with the highest overlap first.
    """
    if not len(found["score"]) or not len(truth["image_id"]):
        return []
    objects_of_one = {**truth, "category_id": np.zeros(len(truth["image_id"]), np.int64)}
    found_of_one = {**found, "category_id": np.zeros(len(found["image_id"]), np.int64)}
    groups = _groups(objects_of_one, found_of_one)
    rows, objects, overlaps = _pairs(objects_of_one, found_of_one, *groups, iou)
    order = np.lexsort((-overlaps, rows))
    return list(zip(rows[order].tolist(), objects[order].tolist()))


def _groups(truth: dict[str, Any], found: dict[str, NDArray[Any]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number of the image and class of each detection, and of each object."""
    group = np.zeros(1, np.int64)
    for name in ("image_id", "category_id"):
        _, number = np.unique(np.concatenate((found[name], np.asarray(truth[name], np.int64))), return_inverse=True)
        group = group * (number.max() + 1) + number.reshape(-1)
    return group[: len(found["score"])], group[len(found["score"]) :]


def _pairs(
    truth: dict[str, Any],
    found: dict[str, NDArray[Any]],
    group_of_found: NDArray[np.int64],
    group_of_truth: NDArray[np.int64],
    iou: float,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Detection, object and overlap of all pairs of one group with an overlap of at least ``iou``."""
    by_group = np.argsort(group_of_truth, kind="stable")
    ranked = group_of_truth[by_group]
    first = np.searchsorted(ranked, group_of_found, "left")
    counts = np.searchsorted(ranked, group_of_found, "right") - first
    parts = []
    for start in range(0, len(counts), 1 << 16):  # all pairs of a large data set would fill the memory
        part = slice(start, start + (1 << 16))
        rows = np.repeat(np.arange(start, start + len(counts[part])), counts[part])
        ends = np.cumsum(counts[part])
        inside = np.arange(len(rows)) - np.repeat(ends - counts[part], counts[part])
        objects = by_group[np.repeat(first[part], counts[part]) + inside]
        overlaps = _overlap(found["bbox"][rows], truth["bbox"][objects], np.asarray(truth["iscrowd"], bool)[objects])
        near = overlaps >= min(iou, 1 - 1e-10)
        parts.append((rows[near], objects[near], overlaps[near]))
    return tuple(np.concatenate(columns) for columns in zip(*parts))  # type: ignore[return-value]


def _overlap(boxes: NDArray[np.float64], others: NDArray[np.float64], crowd: NDArray[np.bool_]) -> NDArray[np.float64]:
    """IoU of boxes (N, 4) x, y, width, height; for crowd regions the share of the first box inside the other."""
    corner = np.maximum(boxes[:, :2], others[:, :2])
    sides = (np.minimum(boxes[:, :2] + boxes[:, 2:], others[:, :2] + others[:, 2:]) - corner).clip(min=0)
    shared = sides.prod(axis=1)
    own, area = boxes[:, 2:].prod(axis=1), others[:, 2:].prod(axis=1)
    union = np.where(crowd, own, own + area - shared)
    overlap: NDArray[np.float64] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return overlap
