"""FCOS' assignment and centerness, on points that can be checked by hand."""

from __future__ import annotations

import pytest
import torch

from pkdzoo.models.assigners.fcos import RANGES, centerness, match_points
from pkdzoo.models.assigners.max_iou import NEGATIVE

POINTS = torch.tensor([[4.0, 4.0], [20.0, 20.0], [36.0, 20.0], [60.0, 60.0]])
STRIDES = torch.full((4,), 8.0)
FINE = torch.tensor([RANGES[0]]).expand(4, 2)
COARSE = torch.tensor([RANGES[1]]).expand(4, 2)


def test_inside_means_strictly_inside() -> None:
    boxes = torch.tensor([[4.0, 4.0, 40.0, 40.0]])
    assert match_points(POINTS, STRIDES, FINE, boxes).tolist() == [NEGATIVE, 0, 0, NEGATIVE]


def test_a_level_takes_only_its_sizes() -> None:
    """The farthest side is 96, 80, 80 and 60 away: only the last point is of the first range."""
    boxes = torch.tensor([[0.0, 0.0, 100.0, 100.0]])
    assert match_points(POINTS, STRIDES, FINE, boxes).tolist() == [NEGATIVE, NEGATIVE, NEGATIVE, 0]
    assert match_points(POINTS, STRIDES, COARSE, boxes).tolist() == [0, 0, 0, NEGATIVE]


def test_the_smaller_of_two_objects_wins() -> None:
    boxes = torch.tensor([[0.0, 0.0, 50.0, 50.0], [10.0, 10.0, 30.0, 30.0]])
    assert match_points(POINTS, STRIDES, FINE, boxes).tolist() == [0, 1, 0, NEGATIVE]


def test_center_sampling_keeps_near_points_of_the_box() -> None:
    """Center (30, 20), reach 12: (20, 20) and (36, 20); with reach 8 only the latter."""
    boxes = torch.tensor([[0.0, 0.0, 60.0, 40.0]])
    assert match_points(POINTS, STRIDES, FINE, boxes, 1.5).tolist() == [NEGATIVE, 0, 0, NEGATIVE]
    assert match_points(POINTS, STRIDES, FINE, boxes, 1.0).tolist() == [NEGATIVE, NEGATIVE, 0, NEGATIVE]


def test_center_sampling_never_leaves_the_box() -> None:
    thin = torch.tensor([[19.0, 0.0, 21.0, 40.0]])
    near = torch.tensor([[20.0, 20.0], [24.0, 20.0]])
    assert match_points(near, STRIDES[:2], FINE[:2], thin, 1.5).tolist() == [0, NEGATIVE]


def test_no_objects_and_no_points() -> None:
    assert match_points(POINTS, STRIDES, FINE, torch.zeros(0, 4)).tolist() == [NEGATIVE] * 4
    none = torch.zeros(0, 2)
    assert match_points(none, none[:, 0], none, torch.ones(1, 4)).shape == (0,)


def test_centerness() -> None:
    distances = torch.tensor([[5.0, 5.0, 5.0, 5.0], [1.0, 5.0, 4.0, 5.0], [1.0, 1.0, 4.0, 9.0]])
    assert centerness(distances).tolist() == pytest.approx([1.0, 0.5, 1 / 6])
