"""The priors of dense heads: anchors and points over a pyramid.

Both are ``Priors``: a point is stored as an anchor one stride wide. The order is mmdetection's: locations row by row,
and at each location ratio by ratio, then scale by scale.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pkdzoo.structures import Priors


def base_anchors(base: float, scales: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """The anchors of one location, centered on zero.

    Args:
        base: side of an anchor of scale 1 in pixels.
        scales: multiples of ``base``.
        ratios: height / width; all ratios of one scale have the same area.

    Returns:
        (len(ratios) * len(scales), 4) xyxy, ratio-major.
    """
    root = torch.tensor(ratios, dtype=torch.float32).sqrt()[:, None]
    side = torch.tensor(scales, dtype=torch.float32)[None, :] * base
    width, height = (side / root).flatten(), (side * root).flatten()
    return torch.stack([-width, -height, width, height], dim=1) / 2


def grid_priors(
    base_anchors: Sequence[Tensor], sizes: Sequence[tuple[int, int]], strides: Sequence[int], offset: float = 0.0
) -> Priors:
    """Repeat the anchors of each level at all its locations.

    Args:
        base_anchors: L tensors (A, 4) xyxy, centered on zero; the result has their device and dtype.
        sizes: (h, w) of each level.
        strides: stride of each level in pixels.
        offset: position of the first location, in strides: 0 for anchors, 0.5 for FCOS' points.

    Returns:
        Priors of all levels, finest first.
    """
    boxes, prior_strides, counts = [], [], []
    for anchors, (h, w), stride in zip(base_anchors, sizes, strides):
        ys = (torch.arange(h, device=anchors.device, dtype=anchors.dtype) + offset) * stride
        xs = (torch.arange(w, device=anchors.device, dtype=anchors.dtype) + offset) * stride
        x, y = xs.expand(h, w), ys[:, None].expand(h, w)
        level = (torch.stack([x, y, x, y], dim=-1)[:, :, None] + anchors).reshape(-1, 4)  # (h, w, A, 4)
        boxes.append(level)
        prior_strides.append(level.new_full((level.shape[0],), float(stride)))
        counts.append(level.shape[0])  # not len(), which would make the size a constant of an exported graph
    return Priors(torch.cat(boxes), torch.cat(prior_strides), counts)


def point_base_anchors(strides: Sequence[int]) -> list[Tensor]:
    """The point prior of each level, as one box per location that is one stride wide and centered on zero."""
    return [torch.tensor([[-stride, -stride, stride, stride]], dtype=torch.float32) / 2 for stride in strides]


def valid_prior_mask(
    sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    image: tuple[int, int],
    priors_per_location: int = 1,
    divisor: int = 32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Which priors lie on the image, and not on padding that only larger images of the batch need.

    The size of the image is rounded up to a multiple of ``divisor``: a batch of this image alone is padded to that.

    Args:
        sizes: (h, w) of each level.
        strides: stride of each level in pixels.
        image: (height, width) of the image without padding.
        priors_per_location: A.
        divisor: batch sizes are padded to a multiple of this.
        device: device of the result.

    Returns:
        (P,) bool.
    """
    height, width = (-(-side // divisor) * divisor for side in image)
    flags = []
    for (h, w), stride in zip(sizes, strides):
        rows = torch.arange(h, device=device) < -(-height // stride)
        columns = torch.arange(w, device=device) < -(-width // stride)
        flags.append((rows[:, None] & columns[None, :]).flatten().repeat_interleave(priors_per_location))
    return torch.cat(flags)
