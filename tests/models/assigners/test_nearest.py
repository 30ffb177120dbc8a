"""RepPoints' assignment of points: level by size, nearest point, conflicts."""

from __future__ import annotations

import torch

from pkdzoo.models.assigners.max_iou import NEGATIVE
from pkdzoo.models.assigners.points import match_nearest
from pkdzoo.ops.priors import grid_priors, point_base_anchors

STRIDES = (8, 16, 32)
PRIORS = grid_priors(point_base_anchors(STRIDES), [(8, 8), (4, 4), (2, 2)], STRIDES)


def positives(boxes: list[list[float]], k: int = 1) -> dict[tuple[float, float, float], int]:
    """Stride, x and y of each positive point, and the index of its object."""
    matched = match_nearest(PRIORS.centers, PRIORS.strides, torch.tensor(boxes).reshape(-1, 4), k=k)
    found = (matched >= 0).nonzero().squeeze(1).tolist()
    return {(float(PRIORS.strides[i]), *PRIORS.centers[i].tolist()): int(matched[i]) for i in found}


def test_size_decides_the_level_and_place_the_point() -> None:
    """Sides of 32, 64 and 128 are four strides of 8, 16 and 32."""
    assert positives([[2, 3, 34, 35]]) == {(8, 16, 16): 0}
    assert positives([[0, 0, 64, 64]]) == {(16, 32, 32): 0}
    assert positives([[0, 0, 128, 128]])[(32, 32, 32)] == 0


def test_sizes_off_the_pyramid_go_to_its_ends() -> None:
    assert positives([[15, 15, 17, 17]]) == {(8, 16, 16): 0}
    assert positives([[-396, -396, 436, 436]]) == {(32, 32, 32): 0}


def test_long_objects_take_their_mean_size() -> None:
    """32 by 128: between the levels of 8 and 32."""
    assert {key[0] for key in positives([[0, 0, 128, 32]])} == {16}


def test_two_objects_of_one_point_the_nearer_takes_it() -> None:
    assert positives([[0, 0, 32, 32], [2, 1, 34, 33]]) == {(8, 16, 16): 0}
    assert positives([[2, 1, 34, 33], [0, 0, 32, 32]]) == {(8, 16, 16): 1}


def test_the_first_of_equals_takes_it() -> None:
    assert positives([[0, 0, 32, 32], [0, 0, 32, 32]]) == {(8, 16, 16): 0}


def test_more_points_an_object() -> None:
    assert set(positives([[1, 1, 33, 33]], k=3)) == {(8, 16, 16), (8, 24, 16), (8, 16, 24)}


def test_no_objects_and_no_points() -> None:
    assert positives([]) == {}
    none = torch.zeros(0, 2)
    assert match_nearest(none, none[:, 0], torch.ones(1, 4)).shape == (0,)
    assert (match_nearest(PRIORS.centers, PRIORS.strides, torch.zeros(0, 4)) == NEGATIVE).all()
