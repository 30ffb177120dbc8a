"""Features of regions: the choice of a pyramid level for each box, and RoIAlign over several levels.

torchvision's MultiScaleRoIAlign uses ``aligned=False``, which is off by half a location. The published weights were
trained with ``aligned=True`` and an adaptive number of samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import roi_align

from pkdzoo.utils.precision import float32_or_wider

FINEST = 56.0  # boxes from twice this side on are pooled from the second-finest level


def to_rois(boxes: Sequence[Tensor]) -> Tensor:
    """Join the boxes of several images in one tensor.

    Args:
        boxes: for each image (N_i, 4) xyxy.

    Returns:
        (N, 5): index of the image, then xyxy.
    """
    return torch.cat([torch.cat([b.new_full((len(b), 1), float(i)), b], dim=1) for i, b in enumerate(boxes)])


def roi_levels(boxes: Tensor, levels: int, finest: float = FINEST) -> Tensor:
    """The level that each box is pooled from, by the root of its area (Lin et al. 2017, equation 1).

    Args:
        boxes: (N, 4) xyxy in pixels.
        levels: number of levels.
        finest: boxes with a side below twice this, in pixels, are pooled from level 0.

    Returns:
        (N,) int64 in ``0 .. levels-1``.
    """
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    return (side / finest + 1e-6).log2().floor().clamp(0, levels - 1).long()


def pool_rois(
    levels: Sequence[Tensor],
    strides: Sequence[int],
    rois: Tensor,
    size: int,
    finest: float = FINEST,
    sampling_ratio: int = 0,
) -> Tensor:
    """RoIAlign of each region on the level that fits its size, see :func:`roi_levels`.

    Args:
        levels: maps (B, channels, h, w), finest first.
        strides: stride of each level in pixels.
        rois: (N, 5) as returned by :func:`to_rois`.
        size: height and width of the result.
        finest: as in :func:`roi_levels`.
        sampling_ratio: samples per side of a bin of the result; 0 adapts it to the size of the region.

    Returns:
        (N, channels, size, size) in float32, in the order of ``rois``. Levels without regions get a gradient of zero.
    """
    level_of_roi = roi_levels(rois[:, 1:], len(levels), finest)
    parts, indices = [], []
    for i, (level, stride) in enumerate(zip(levels, strides)):
        index = (level_of_roi == i).nonzero().squeeze(1)
        # float32 also under autocast: half precision moves large coordinates by whole pixels
        maps = float32_or_wider(level)
        pooled = roi_align(maps, rois[index].to(maps.dtype), size, 1.0 / stride, sampling_ratio, aligned=True)
        parts.append(pooled)
        indices.append(index)
    return torch.cat(parts)[torch.cat(indices).argsort()]
