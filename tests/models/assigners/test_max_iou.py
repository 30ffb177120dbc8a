"""Assignment by IoU, on boxes that can be checked by hand."""

from __future__ import annotations

import torch

from pkdzoo.models.assigners.max_iou import NEGATIVE, SKIPPED, labels_of, match_by_iou

PRIORS = torch.tensor([
    [0, 0, 10, 10],  # the first object itself
    [0, 0, 10, 20],  # overlaps it by half
    [0, 0, 10, 22],  # by 0.4545
    [0, 0, 10, 30],  # by a third
    [50, 50, 60, 70],  # overlaps the second by a quarter, the highest overlap with it
    [90, 90, 99, 99],  # nothing
], dtype=torch.float32)  # fmt: skip
BOXES = torch.tensor([[0, 0, 10, 10], [50, 50, 60, 55]], dtype=torch.float32)


def test_thresholds() -> None:
    matched = match_by_iou(PRIORS, BOXES, positive=0.5, negative=0.4)
    assert matched.tolist() == [0, 0, SKIPPED, NEGATIVE, NEGATIVE, NEGATIVE]


def test_every_object_gets_its_best_prior_where_allowed() -> None:
    assert match_by_iou(PRIORS, BOXES, 0.5, 0.4, low_quality=0.0)[4] == 1
    assert match_by_iou(PRIORS, BOXES, 0.5, 0.4, low_quality=0.3)[4] == NEGATIVE


def test_objects_that_want_one_prior_the_last_wins() -> None:
    twins = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 10]], dtype=torch.float32)
    assert match_by_iou(PRIORS[:1], twins, 0.5, 0.4).tolist() == [0]
    assert match_by_iou(PRIORS[:1], twins, 0.5, 0.4, low_quality=0.0).tolist() == [1]


def test_no_objects_and_no_priors() -> None:
    assert match_by_iou(PRIORS, torch.zeros(0, 4), 0.5, 0.4, 0.0).tolist() == [NEGATIVE] * 6
    assert match_by_iou(torch.zeros(0, 4), BOXES, 0.5, 0.4, 0.0).shape == (0,)


def test_labels_from_matches() -> None:
    matched = torch.tensor([1, NEGATIVE, SKIPPED, 0])
    assert labels_of(matched, torch.tensor([7, 3]), background=9).tolist() == [3, 9, -1, 7]
    assert labels_of(matched.clamp(max=-1), torch.zeros(0, dtype=torch.int64), 9).tolist() == [9, 9, -1, 9]
