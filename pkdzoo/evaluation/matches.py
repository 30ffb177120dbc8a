"""AP of any weighting of the images, from detections that are matched once: bootstrap intervals, curves, confusion.

The AP equals that of pycocotools (area ``all``, at most 100 detections of an image and class) with every image counted
once; a bootstrap counts some images several times and others not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pkdzoo.evaluation.thresholds import IGNORED, RIGHT, WRONG, match, pairs_of_images

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
SAMPLES, LEAST_SAMPLES = 500, 100  # of a bootstrap: the usual number, and that of a large data set
WORK = 3e8  # numbers that a bootstrap handles, about

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Matches:
    """Detections of one detector beside the objects of a data set.

    Attributes:
        truth: columns ``image_id``, ``category_id``, ``bbox``, ``iscrowd`` and ``ignore``, as from ``ground_truth()``.
        found: columns ``image_id``, ``category_id``, ``bbox`` and ``score``.
        image_ids: (n,) of all images, ascending.
        category_ids: of all classes.
    """

    truth: dict[str, Any]
    found: Columns
    image_ids: NDArray[np.int64]
    category_ids: Sequence[int]

    @cached_property
    def status(self) -> NDArray[np.int8]:
        """(10, N) status of each detection at each IoU of COCO's metrics."""
        return np.stack([match(self.truth, self.found, float(iou)) for iou in IOUS])

    @cached_property
    def real(self) -> NDArray[np.bool_]:
        """(M,) objects that are neither crowd regions nor ignored."""
        real: NDArray[np.bool_] = ~(np.asarray(self.truth["iscrowd"], bool) | np.asarray(self.truth["ignore"], bool))
        return real

    @cached_property
    def classes(self) -> list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
        """For each class: its detections by descending score, their images, and the images of its objects."""
        image = np.searchsorted(self.image_ids, self.found["image_id"])
        owner = np.searchsorted(self.image_ids, np.asarray(self.truth["image_id"], np.int64))
        ranked = np.lexsort((image, -self.found["score"]))
        number = self.found["category_id"][ranked]
        result = []
        for category in self.category_ids:
            rows = ranked[number == category]
            own = self.real & (np.asarray(self.truth["category_id"]) == category)
            result.append((rows, image[rows], owner[own]))
        return result

    @cached_property
    def precision(self) -> NDArray[np.float64]:
        """(10, 101, C) precision at each IoU, recall and class; NaN for a class without objects."""
        result = np.full((len(IOUS), len(RECALLS), len(self.category_ids)), np.nan)
        for number, (rows, _, owners) in enumerate(self.classes):
            if len(owners):
                hits, precision = _enveloped(self.status[:, rows], np.ones(len(rows)))
                result[:, :, number] = _interpolated(hits / len(owners), precision)
        return result

    def ap(self) -> float | None:
        """AP in percent; None without an object."""
        return None if np.isnan(self.precision).all() else 100 * float(np.nanmean(self.precision))

    def weighted_ap(self, weights: NDArray[np.float64]) -> float | None:
        """AP in percent with another number of each image; None without an object.

        It equals :meth:`ap` for weights of 1 up to rounding: a recall that is a whole percent up to rounding may be
        counted on the other side.

        Args:
            weights: (n,) how often each image counts.
        """
        aps = []
        for rows, images, owners in self.classes:
            objects = float(weights[owners].sum())
            if objects:
                hits, precision = _enveloped(self.status[:, rows], weights[images])
                reached = np.floor(hits * (100 / objects) + 1e-9) + 1
                new = np.diff(reached, axis=1, prepend=0.0)  # of the 101 recalls, those that a detection reaches first
                aps.append(float((precision * new).sum()) / (len(IOUS) * len(RECALLS)))
        return 100 * sum(aps) / len(aps) if aps else None


def _enveloped(
    status: NDArray[np.int8], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(10, D) right detections up to each one, and the highest precision from there on."""
    hits = np.cumsum((status == RIGHT) * weights, axis=1)
    total = hits + np.cumsum((status == WRONG) * weights, axis=1)
    precision = np.divide(hits, total, out=np.zeros_like(hits), where=total > 0)
    return hits, np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]


def _interpolated(recalls: NDArray[np.float64], precision: NDArray[np.float64]) -> NDArray[np.float64]:
    """(10, 101) precision by recall, as pycocotools interpolates it."""
    result = np.zeros((len(recalls), len(RECALLS)))
    for iou, recall in enumerate(recalls):
        places = np.searchsorted(recall, RECALLS, side="left")
        inside = places < len(recall)
        result[iou, inside] = precision[iou, places[inside]]
    return result


@dataclass(frozen=True)
class Difference:
    """A difference of two APs in percent, with its 95 % bootstrap interval over images."""

    value: float
    low: float
    high: float

    @property
    def shows(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def paired_difference(one: Matches, other: Matches, seed: int = 0) -> Difference | None:
    """AP of ``one`` minus AP of ``other``, with an interval from drawing the same images for both.

    Args:
        one: matches of a detector.
        other: of another one, with the same objects.
        seed: of the drawing.

    Returns:
        The difference; None for fewer than two images, or without objects.
    """
    images = len(one.image_ids)
    aps = one.ap(), other.ap()
    if images < 2 or aps[0] is None or aps[1] is None:
        return None
    work = 10.0 * (len(one.found["score"]) + len(other.found["score"])) + 5e4 * len(one.category_ids)
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(int(min(SAMPLES, max(LEAST_SAMPLES, WORK / max(work, 1))))):
        weights = np.bincount(rng.integers(0, images, images), minlength=images).astype(np.float64)
        drawn = one.weighted_ap(weights), other.weighted_ap(weights)
        if drawn[0] is not None and drawn[1] is not None:
            values.append(drawn[0] - drawn[1])
    low, high = np.percentile(values, [2.5, 97.5]) if values else (np.nan, np.nan)
    return Difference(aps[0] - aps[1], float(low), float(high))


def confusion(matches: Matches, threshold: float) -> NDArray[np.int64]:
    """(C + 1, C + 1) counts of objects by true and by detected class; the last row and column are the background.

    Detections above the threshold take objects of an IoU of at least 0.5 whatever their class, in the order of their
    scores. Crowd regions and ignored objects count neither as found nor as missed.

    Args:
        matches: of a detector.
        threshold: lowest score, 0..1.
    """
    classes = len(matches.category_ids)
    label = {number: k for k, number in enumerate(matches.category_ids)}
    kept = matches.found["score"] > threshold
    found = {name: column[kept] for name, column in matches.found.items()}
    order = np.argsort(-found["score"], kind="stable")
    found = {name: column[order] for name, column in found.items()}
    counts = np.zeros((classes + 1, classes + 1), np.int64)
    real, truth = matches.real, matches.truth
    taken: dict[int, int] = {}  # object by detection
    used: set[int] = set()
    near_ignored: set[int] = set()
    for row, other in pairs_of_images(truth, found, 0.5):
        if row in taken:
            continue
        if not real[other]:
            near_ignored.add(row)
        elif other not in used:
            taken[row] = other
            used.add(other)
    for row, number in enumerate(found["category_id"].tolist()):
        if row in taken:
            counts[label[int(truth["category_id"][taken[row]])], label[number]] += 1
        elif row not in near_ignored:
            counts[classes, label[number]] += 1
    for other in np.flatnonzero(real).tolist():
        if other not in used:
            counts[label[int(truth["category_id"][other])], classes] += 1
    return counts


def errors_by_image(matches: Matches, threshold: float) -> NDArray[np.int64]:
    """(n, 2) wrong detections and missed objects of each image, at an IoU of 0.5.

    Args:
        matches: of a detector.
        threshold: lowest score, 0..1.
    """
    status, above = matches.status[0], matches.found["score"] > threshold
    image = np.searchsorted(matches.image_ids, matches.found["image_id"])
    owner = np.searchsorted(matches.image_ids, np.asarray(matches.truth["image_id"], np.int64)[matches.real])
    images = len(matches.image_ids)
    wrong = np.bincount(image[above & (status == WRONG)], minlength=images)
    right = np.bincount(image[above & (status == RIGHT)], minlength=images)
    objects = np.bincount(owner, minlength=images)
    return np.stack([wrong, objects - right], axis=1)


def score_histogram(matches: Matches, bins: int = 20) -> tuple[list[int], list[int]]:
    """Numbers of right and of wrong detections (IoU 0.5) by score, in equal bins from 0 to 1."""
    status, score = matches.status[0], matches.found["score"]
    rows = [np.histogram(score[status == kind], bins, (0.0, 1.0))[0].tolist() for kind in (RIGHT, WRONG)]
    return rows[0], rows[1]


def f1_by_threshold(matches: Matches, points: int = 100) -> list[float]:
    """F1 in percent over all classes at thresholds 0, 0.01, ..., 0.99."""
    status, score = matches.status[0], matches.found["score"]
    objects, result = int(matches.real.sum()), []
    for threshold in np.arange(points) / points:
        above = (score > threshold) & (status != IGNORED)
        right = int((status[above] == RIGHT).sum())
        result.append(100 * 2 * right / max(int(above.sum()) + objects, 1))
    return result
