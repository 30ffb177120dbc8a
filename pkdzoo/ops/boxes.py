"""Boxes and the numbers heads regress: deltas to an anchor, distances to a point.

Coordinates are xyxy pixels. The coders are those of mmdetection (DeltaXYWH and distance-to-point), whose
published weights they have to decode; torchvision's differ in the clip of widths and in pixel offsets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MAX_LOG_RATIO = abs(math.log(16 / 1000))  # a box may grow or shrink at most 62.5 times relative to its anchor
UNIT_STDS = (1.0, 1.0, 1.0, 1.0)


def encode_deltas(boxes: Tensor, anchors: Tensor, stds: Sequence[float] = UNIT_STDS) -> Tensor:
    """Boxes as shift and log-scale relative to anchors; the inverse of :func:`decode_deltas`.

    Args:
        boxes: (..., 4) xyxy, of positive size.
        anchors: (..., 4) xyxy, of positive size.
        stds: the deltas are divided by these.

    Returns:
        (..., 4): dx, dy in anchor sizes, log of the width and height ratio, each over its std.
    """
    center, size = (anchors[..., :2] + anchors[..., 2:]) / 2, anchors[..., 2:] - anchors[..., :2]
    shift = ((boxes[..., :2] + boxes[..., 2:]) / 2 - center) / size
    scale = torch.log((boxes[..., 2:] - boxes[..., :2]) / size)
    return torch.cat([shift, scale], dim=-1) / boxes.new_tensor(stds)


def decode_deltas(deltas: Tensor, anchors: Tensor, stds: Sequence[float] = UNIT_STDS) -> Tensor:
    """Boxes from deltas; log-scales are limited to ``+-MAX_LOG_RATIO``. Not clipped to the image.

    Args:
        deltas: (..., 4) as :func:`encode_deltas` writes them.
        anchors: (..., 4) xyxy.
        stds: as when encoding.

    Returns:
        (..., 4) xyxy.
    """
    deltas = deltas * deltas.new_tensor(stds)
    center, size = (anchors[..., :2] + anchors[..., 2:]) / 2, anchors[..., 2:] - anchors[..., :2]
    center = center + deltas[..., :2] * size
    half = size * deltas[..., 2:].clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp() / 2
    return torch.cat([center - half, center + half], dim=-1)


def decode_distances(distances: Tensor, points: Tensor) -> Tensor:
    """Boxes from the distances (left, top, right, bottom) of their sides to a point inside.

    Args:
        distances: (..., 4) pixels.
        points: (..., 2) x, y.

    Returns:
        (..., 4) xyxy.
    """
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], dim=-1)


def encode_distances(boxes: Tensor, points: Tensor) -> Tensor:
    """Distances (left, top, right, bottom) from points to the sides of boxes; negative where the point is outside."""
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], dim=-1)


def clip_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes limited to an image of ``size`` (height, width)."""
    height, width = size
    return torch.stack([boxes[..., i].clamp(0, (width, height)[i % 2]) for i in range(4)], dim=-1)


def paired_iou(a: Tensor, b: Tensor, eps: float = 1e-6) -> Tensor:
    """Intersection over union of ``a[i]`` with ``b[i]``.

    Args:
        a: (..., 4) xyxy.
        b: (..., 4) xyxy, the same shape.
        eps: lower limit of the union, so that two empty boxes give 0.

    Returns:
        (...,) in 0..1.
    """
    inter = _area_of(torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2]))
    union = _area(a) + _area(b) - inter
    return inter / union.clamp(min=eps)


def paired_giou(a: Tensor, b: Tensor, eps: float = 1e-6) -> Tensor:
    """Generalised IoU of ``a[i]`` with ``b[i]`` (Rezatofighi et al. 2019), in -1..1.

    torchvision's ``generalized_box_iou_loss`` adds its epsilon to the union; the published detectors were trained
    with a lower limit instead, and for tiny boxes the two are not the same number.
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
