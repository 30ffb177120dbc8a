"""Assignment by size range and, optionally, distance to the center (FCOS, Tian et al. 2019, arXiv:1904.01355)."""

from __future__ import annotations

import torch
from torch import Tensor

from pkdzoo.models.assigners.max_iou import NEGATIVE
from pkdzoo.ops.boxes import encode_distances

# of each level: smallest and largest distance from a point to the farthest side of its object, in pixels
RANGES = ((-1.0, 64.0), (64.0, 128.0), (128.0, 256.0), (256.0, 512.0), (512.0, 1e8))


@torch.no_grad()
def match_points(
    points: Tensor, strides: Tensor, ranges: Tensor, boxes: Tensor, center_radius: float | None = None
) -> Tensor:
    """Match each point to an object; among several, to the one of smallest area.

    Args:
        points: (P, 2) x and y in pixels.
        strides: (P,) stride of each point's level in pixels.
        ranges: (P, 2) smallest and largest distance to the farthest side, for each point's level, in pixels.
        boxes: (G, 4) xyxy.
        center_radius: None means that all points inside a box can be positive; a number means only those within this
            many strides of the box's center.

    Returns:
        (P,) int64: index of the matched object, or ``NEGATIVE``.
    """
    if not len(boxes) or not len(points):
        return torch.full((len(points),), NEGATIVE, dtype=torch.int64, device=points.device)
    distances = encode_distances(boxes[None], points[:, None])  # (P, G, 4)
    if center_radius is None:
        inside = distances.amin(dim=-1) > 0
    else:
        center = (boxes[:, :2] + boxes[:, 2:]) / 2
        radius = (strides * center_radius)[:, None, None]
        near = torch.cat(
            [torch.maximum(center - radius, boxes[:, :2]), torch.minimum(center + radius, boxes[:, 2:])], -1
        )
        inside = encode_distances(near, points[:, None]).amin(dim=-1) > 0
    farthest = distances.amax(dim=-1)
    responsible = (farthest >= ranges[:, :1]) & (farthest <= ranges[:, 1:])
    area = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).expand(len(points), -1)
    area, index = torch.where(inside & responsible, area, float("inf")).min(dim=1)
    return torch.where(area.isinf(), NEGATIVE, index)


def centerness(distances: Tensor) -> Tensor:
    """Centerness of a point in its box: 1 at the center, 0 on a side.

    Args:
        distances: (..., 4) left, top, right, bottom, all positive.

    Returns:
        (...,) in 0..1.
    """
    x, y = distances[..., 0::2], distances[..., 1::2]
    return ((x.amin(-1) / x.amax(-1)) * (y.amin(-1) / y.amax(-1))).sqrt()
