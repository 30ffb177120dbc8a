"""Boxes and their encodings for regression: deltas to an anchor, distances to a point.

Coordinates are xyxy in pixels. The encodings are those of mmdetection (DeltaXYWH and distance-to-point), as its
published weights require; torchvision's differ in the limit of the log-scales and in pixel offsets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MAX_LOG_RATIO = abs(math.log(16 / 1000))  # a box may grow or shrink at most 62.5 times relative to its anchor
UNIT_STDS = (1.0, 1.0, 1.0, 1.0)


def encode_deltas(boxes: Tensor, anchors: Tensor, stds: Sequence[float] = UNIT_STDS) -> Tensor:
    """Encode boxes as shift and log-scale relative to anchors; the inverse of :func:`decode_deltas`.

    Args:
        boxes: (..., 4) xyxy with a positive area.
        anchors: (..., 4) xyxy with a positive area.
        stds: the deltas are divided by these.

    Returns:
        (..., 4): dx and dy in anchor sizes, log of the width and height ratios, each divided by its std.
    """
    center, size = (anchors[..., :2] + anchors[..., 2:]) / 2, anchors[..., 2:] - anchors[..., :2]
    shift = ((boxes[..., :2] + boxes[..., 2:]) / 2 - center) / size
    scale = torch.log((boxes[..., 2:] - boxes[..., :2]) / size)
    return torch.cat([shift, scale], dim=-1) / boxes.new_tensor(stds)


def decode_deltas(deltas: Tensor, anchors: Tensor, stds: Sequence[float] = UNIT_STDS) -> Tensor:
    """Decode deltas to boxes, not clipped to the image; log-scales are limited to ``+-MAX_LOG_RATIO``.

    Args:
        deltas: (..., 4) as returned by :func:`encode_deltas`.
        anchors: (..., 4) xyxy.
        stds: the same as for encoding.

    Returns:
        (..., 4) xyxy.
    """
    deltas = deltas * deltas.new_tensor(stds)
    center, size = (anchors[..., :2] + anchors[..., 2:]) / 2, anchors[..., 2:] - anchors[..., :2]
    center = center + deltas[..., :2] * size
    half = size * deltas[..., 2:].clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp() / 2
    return torch.cat([center - half, center + half], dim=-1)


def decode_distances(distances: Tensor, points: Tensor) -> Tensor:
    """Decode the distances (left, top, right, bottom) from a point to the four sides of a box.

    Args:
        distances: (..., 4) in pixels.
        points: (..., 2) x, y.

    Returns:
        (..., 4) xyxy.
    """
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], dim=-1)


def encode_distances(boxes: Tensor, points: Tensor) -> Tensor:
    """Distances (left, top, right, bottom) from points to the sides of boxes; negative beyond a side."""
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], dim=-1)


def clip_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes clipped to an image of ``size`` (height, width)."""
    height, width = size
    return torch.stack([boxes[..., i].clamp(0, (width, height)[i % 2]) for i in range(4)], dim=-1)


def has_area(boxes: Tensor) -> Tensor:
    """Whether each box (..., 4) has an area: (...) bool. Boxes that are clipped outside an image have none."""
    return (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)


def paired_iou(a: Tensor, b: Tensor, eps: float = 1e-6) -> Tensor:
    """Intersection over union of ``a[i]`` with ``b[i]``.

    Args:
        a: (..., 4) xyxy.
        b: (..., 4) xyxy, the same shape, or one that broadcasts with it: (n, 1, 4) and (G, 4) give all pairs.
        eps: lower limit of the union; two empty boxes give 0.

    Returns:
        (...,) in 0..1.
    """
    # one coordinate after the other: for all pairs of two sets this is much faster than maps of (n, G, 2)
    sides = [torch.minimum(a[..., i + 2], b[..., i + 2]) - torch.maximum(a[..., i], b[..., i]) for i in (0, 1)]
    inter = sides[0].clamp(min=0) * sides[1].clamp(min=0)
    union = _area(a) + _area(b) - inter
    return inter / union.clamp(min=eps)


def paired_giou(a: Tensor, b: Tensor, eps: float = 1e-6) -> Tensor:
    """Generalized IoU of ``a[i]`` with ``b[i]`` (Rezatofighi et al. 2019), in -1..1.

    torchvision's ``generalized_box_iou_loss`` adds its epsilon to the union. The published detectors were trained with
    a lower limit instead, which gives another value for tiny boxes.
    """
    inter = _area_of(torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2]))
    union = (_area(a) + _area(b) - inter).clamp(min=eps)
    hull = _area_of(torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp(min=eps)
    return inter / union - (hull - union) / hull


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _area_of(size: Tensor) -> Tensor:
    size = size.clamp(min=0)
    return size[..., 0] * size[..., 1]
