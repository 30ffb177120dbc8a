"""Assignment of points by size and nearness (RepPoints, Yang et al. 2019). As mmdetection's PointAssigner."""

from __future__ import annotations

import torch
from torch import Tensor

from pkdzoo.models.assigners.max_iou import NEGATIVE


@torch.no_grad()
def match_nearest(points: Tensor, strides: Tensor, boxes: Tensor, scale: float = 4.0, k: int = 1) -> Tensor:
    """The object that each point stands for.

    An object belongs to one level, whose stride is about its side over ``scale``, and takes the ``k`` points of that
    level nearest to its centre, in units of its sides. A point that several take goes to the nearest of them.

    Args:
        points: (P, 2) x, y.
        strides: (P,) of each point's level, powers of two.
        boxes: (G, 4) xyxy.
        scale: sides of an object in strides of its level.
        k: points of an object.

    Returns:
        (P,) int64: index of an object, or ``NEGATIVE``.
    """
    if not len(boxes) or not len(points):
        return torch.full((len(points),), NEGATIVE, dtype=torch.int64, device=points.device)
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6)
    levels = strides.log2().int()
    wanted = (sides / scale).log2().mean(dim=1).int()  # towards zero, as the original
    wanted = wanted.clamp(levels.min(), levels.max())
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    distances = ((points[None] - centers[:, None]) / sides[:, None]).norm(dim=-1)  # (G, P)
    distances = torch.where(wanted[:, None] == levels, distances, torch.inf)
    nearest, index = distances.topk(min(k, len(points)), dim=1, largest=False)
    taken = torch.full_like(distances, torch.inf).scatter(1, index, nearest)
    owner = taken.argmin(dim=0)  # the first of equals
    return torch.where(taken.amin(dim=0).isinf(), NEGATIVE, owner)
