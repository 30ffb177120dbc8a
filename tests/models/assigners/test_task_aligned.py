"""Task alignment: selected priors and their quality, computed by hand."""

from __future__ import annotations

import pytest
import torch

from pkdzoo.models.assigners.max_iou import NEGATIVE
from pkdzoo.models.assigners.task_aligned import match_task_aligned

BOXES = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
LABELS = torch.tensor([1])
POINTS = torch.tensor([[5.0, 5.0], [4.0, 4.0], [6.0, 6.0], [30.0, 30.0]])
FOUND = torch.tensor([
    [0.0, 0.0, 10.0, 10.0],  # IoU 1
    [0.0, 0.0, 10.0, 8.0],  # 0.8
    [0.0, 0.0, 10.0, 5.0],  # 0.5
    [0.0, 0.0, 10.0, 10.0],  # 1, but its point lies outside
])  # fmt: skip
SCORES = torch.tensor([[0.9, 0.2], [0.9, 0.8], [0.9, 0.8], [0.9, 0.9]])  # of the object's class: the second column


def test_best_aligned_priors_are_chosen() -> None:
    """Alignments 0.2, 0.8 * 0.8^6 = 0.21, 0.8 * 0.5^6 = 0.0125 and 0.9."""
    matched, quality = match_task_aligned(POINTS, SCORES, FOUND, BOXES, LABELS, k=3)
    assert matched.tolist() == [0, 0, NEGATIVE, NEGATIVE]
    first, second = 0.2, 0.8 * 0.8**6
    assert quality.tolist() == pytest.approx([first / second, 1.0, 0.0, 0.0], rel=1e-4)


def test_the_best_prior_is_worth_the_best_overlap() -> None:
    matched, quality = match_task_aligned(POINTS[1:], SCORES[1:], FOUND[1:], BOXES, LABELS)
    assert matched.tolist() == [0, 0, NEGATIVE]
    assert quality.tolist() == pytest.approx([0.8, 0.8 * (0.5 / 0.8) ** 6, 0.0], rel=1e-4)


def test_powers_weigh_score_against_overlap() -> None:
    matched, _ = match_task_aligned(POINTS[:2], SCORES[:2], FOUND[:2], BOXES, LABELS, k=1, beta=6.0)
    assert matched.tolist() == [NEGATIVE, 0]
    matched, _ = match_task_aligned(POINTS[:2], SCORES[:2], FOUND[:2], BOXES, LABELS, k=1, alpha=0.1)
    assert matched.tolist() == [0, NEGATIVE]


def test_a_prior_of_two_objects_goes_to_the_larger_overlap() -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 8.0]])
    matched, quality = match_task_aligned(POINTS[:2], SCORES[:2], FOUND[:2], boxes, torch.tensor([1, 1]))
    assert matched.tolist() == [0, 1]
    assert quality.tolist() == pytest.approx([1.0, 1.0], rel=1e-4)


def test_boxes_that_miss_every_object_are_background() -> None:
    matched, quality = match_task_aligned(POINTS, SCORES, FOUND + 100, BOXES, LABELS)
    assert (matched == NEGATIVE).all() and not quality.any()


def test_no_objects_no_priors_and_no_gradient() -> None:
    matched, quality = match_task_aligned(POINTS, SCORES, FOUND, torch.zeros(0, 4), LABELS[:0])
    assert (matched == NEGATIVE).all() and not quality.any()
    matched, quality = match_task_aligned(POINTS[:0], SCORES[:0], FOUND[:0], BOXES, LABELS)
    assert matched.shape == quality.shape == (0,)
    _, quality = match_task_aligned(POINTS, SCORES.clone().requires_grad_(), FOUND, BOXES, LABELS)
    assert not quality.requires_grad
