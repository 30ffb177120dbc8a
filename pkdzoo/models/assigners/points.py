"""Assignment by size and distance (RepPoints, Yang et al. 2019, arXiv:1904.11490); as mmdetection's PointAssigner."""

from __future__ import annotations

import torch
from torch import Tensor

from pkdzoo.models.assigners.max_iou import NEGATIVE


@torch.no_grad()
def match_nearest(points: Tensor, strides: Tensor, boxes: Tensor, scale: float = 4.0, k: int = 1) -> Tensor:
    """Match each point to an object.

    Each object is assigned to the level whose stride is about its side / ``scale``. It takes the ``k`` points of this
    level nearest to its center, by the distance in units of its sides. A point that several objects take is matched to
    the nearest of them.

    Args:
        points: (P, 2) x and y in pixels.
        strides: (P,) stride of each point's level in pixels, powers of two.
        boxes: (G, 4) xyxy.
        scale: side of a typical object, in strides of its level.
        k: number of points per object.

    Returns:
        (P,) int64: index of the matched object, or ``NEGATIVE``.
    """
    if not len(boxes) or not len(points):
        return torch.full((len(points),), NEGATIVE, dtype=torch.int64, device=points.device)
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6)
    levels = strides.log2().int()
    box_levels = (sides / scale).log2().mean(dim=1).int()  # truncated toward zero, as in the original
    box_levels = box_levels.clamp(levels.min(), levels.max())
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    distances = ((points[None] - centers[:, None]) / sides[:, None]).norm(dim=-1)  # (G, P)
    distances = torch.where(box_levels[:, None] == levels, distances, torch.inf)
    nearest, index = distances.topk(min(k, len(points)), dim=1, largest=False)
    taken = torch.full_like(distances, torch.inf).scatter(1, index, nearest)
    matched = taken.argmin(dim=0)  # the first one at equal distances
    return torch.where(taken.amin(dim=0).isinf(), NEGATIVE, matched)
