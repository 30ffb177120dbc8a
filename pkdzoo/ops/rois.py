"""Features of regions: which pyramid level a box is read from, and RoIAlign over several levels.

torchvision's MultiScaleRoIAlign does the same for torchvision's detectors, but with the alignment of before 2019
(half a cell off); the published weights were trained with ``aligned=True`` and an adaptive number of samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import roi_align

FINEST = 56.0  # a box of twice this side moves from the finest level to the next


def to_rois(boxes: Sequence[Tensor]) -> Tensor:
    """Boxes of several images in one tensor.

    Args:
        boxes: for each image (N_i, 4) xyxy.

    Returns:
        (N, 5): index of the image, then xyxy.
    """
    return torch.cat([torch.cat([b.new_full((len(b), 1), float(i)), b], dim=1) for i, b in enumerate(boxes)])


def roi_levels(boxes: Tensor, levels: int, finest: float = FINEST) -> Tensor:
    """The level each box is read from: by the root of its area, an octave a level (Lin et al. 2017, equation 1).

    Args:
        boxes: (N, 4) xyxy pixels.
        levels: how many there are.
        finest: boxes of a side below twice this are read from level 0.

    Returns:
        (N,) int64 in ``0 .. levels-1``.
    """
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    return (side / finest + 1e-6).log2().floor().clamp(0, levels - 1).long()


def pool_rois(levels: Sequence[Tensor], strides: Sequence[int], rois: Tensor, size: int) -> Tensor:
    """RoIAlign, each region from the level that fits its size.

    Args:
        levels: maps (B, channels, h, w), finest first.
        strides: their strides.
        rois: (N, 5) as :func:`to_rois` gives them.
        size: cells along each side of the result.

    Returns:
        (N, channels, size, size) in float32, in the order of ``rois``; a level without regions gets gradient zero.
    """
    chosen = roi_levels(rois[:, 1:], len(levels))
    parts, places = [], []
    for i, (level, stride) in enumerate(zip(levels, strides)):
        index = (chosen == i).nonzero().squeeze(1)
        # float32 whatever the autocast: half precision moves large coordinates by whole pixels
        parts.append(roi_align(level.float(), rois[index].float(), size, 1.0 / stride, sampling_ratio=0, aligned=True))
        places.append(index)
    pooled: Tensor = torch.cat(parts)[torch.cat(places).argsort()]
    return pooled
