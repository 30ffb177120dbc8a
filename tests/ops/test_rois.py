"""The level of each region, and RoIAlign over several levels."""

from __future__ import annotations

import torch

from pkdzoo.ops.rois import pool_rois, roi_levels, to_rois

STRIDES = (4, 8, 16, 32)


def square(side: float, x: float = 0.0, y: float = 0.0) -> torch.Tensor:
    return torch.tensor([[x, y, x + side, y + side]])


def test_an_octave_a_level() -> None:
    sides = [1.0, 55.0, 111.0, 112.0, 223.0, 224.0, 447.0, 448.0, 5000.0]
    boxes = torch.cat([square(side) for side in sides])
    assert roi_levels(boxes, 4).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]


def test_the_area_counts_not_the_side() -> None:
    wide = torch.tensor([[0.0, 0.0, 448.0, 28.0]])  # the area of a square of 112
    assert roi_levels(wide, 4).tolist() == [1]
    assert roi_levels(square(448.0), 2).tolist() == [1]  # no more levels than there are


def test_rois_carry_their_image() -> None:
    rois = to_rois([square(3.0), torch.zeros(0, 4), square(5.0, 1.0, 2.0)])
    assert rois.tolist() == [[0, 0, 0, 3, 3], [2, 1, 2, 6, 7]]


def ramp(stride: int, size: int = 512) -> torch.Tensor:
    """(1, 2, h, w): x and y of every location's center in pixels."""
    centers = (torch.arange(size // stride) + 0.5) * stride
    return torch.stack(torch.meshgrid(centers, centers, indexing="xy"))[None]


def test_a_ramp_is_read_at_the_centers_of_the_cells() -> None:
    """On maps of coordinates, RoIAlign returns the centers of the bins of a region."""
    rois = to_rois([torch.cat([square(140.0, 60.0, 100.0), square(35.0, 201.0, 50.0), square(300.0, 40.0, 70.0)])])
    pooled = pool_rois([ramp(stride) for stride in STRIDES], STRIDES, rois, 7)
    assert pooled.shape == (3, 2, 7, 7)
    for found, (_, x1, y1, x2, y2) in zip(pooled, rois.tolist()):
        steps = (torch.arange(7) + 0.5) / 7
        torch.testing.assert_close(found[0], (x1 + steps * (x2 - x1)).expand(7, 7), atol=1e-3, rtol=0)
        torch.testing.assert_close(found[1], (y1 + steps * (y2 - y1))[:, None].expand(7, 7), atol=1e-3, rtol=0)


def test_no_regions() -> None:
    levels = [torch.randn(2, 3, 512 // s, 512 // s, requires_grad=True) for s in STRIDES]
    pooled = pool_rois(levels, STRIDES, to_rois([torch.zeros(0, 4)] * 2), 7)
    assert pooled.shape == (0, 3, 7, 7)
    pooled.sum().backward()
    assert all(level.grad is not None and not level.grad.any() for level in levels)


def test_every_level_is_part_of_the_graph() -> None:
    levels = [torch.randn(1, 3, 512 // s, 512 // s, requires_grad=True) for s in STRIDES]
    pool_rois(levels, STRIDES, to_rois([square(300.0)]), 7).sum().backward()
    assert [bool(level.grad.any()) for level in levels] == [False, False, True, False]


def test_large_coordinates_survive_half_precision() -> None:
    rois = to_rois([square(35.0, 457.3, 401.7)])
    lowered = [ramp(stride).bfloat16() for stride in STRIDES]
    with torch.autocast("cpu", torch.bfloat16):
        pooled = pool_rois(lowered, STRIDES, rois, 7)
    assert pooled.dtype == torch.float32
    assert torch.equal(pooled, pool_rois([level.float() for level in lowered], STRIDES, rois, 7))
