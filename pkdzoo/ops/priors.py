"""Where dense heads look: anchors and points over a pyramid.

One structure serves both worlds: a point is an anchor one stride wide, so every head gets ``Priors``.
Layout is mmdetection's: cells row by row, and inside a cell ratio by ratio, scale by scale.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pkdzoo.structures import Priors


def base_anchors(base: float, scales: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """The anchors of one cell, centred on zero.

    Args:
        base: side in pixels of an anchor of scale 1.
        scales: factors on ``base``.
        ratios: height over width; the area stays the same.

    Returns:
        (len(ratios) * len(scales), 4) xyxy, ratio major.
    """
    root = torch.tensor(ratios, dtype=torch.float32).sqrt()[:, None]
    side = torch.tensor(scales, dtype=torch.float32)[None, :] * base
    width, height = (side / root).flatten(), (side * root).flatten()
    return torch.stack([-width, -height, width, height], dim=1) / 2


def grid_priors(
    cells: Sequence[Tensor], sizes: Sequence[tuple[int, int]], strides: Sequence[int], offset: float = 0.0
) -> Priors:
    """Repeat each level's cell anchors over its map.

    Args:
        cells: L tensors (A, 4), centred on zero; their device and dtype are the result's.
        sizes: (h, w) of each level.
        strides: pixels a cell at each level.
        offset: place of the first centre, in strides (0 for anchors, 0.5 for points and ATSS-like anchors).

    Returns:
        Priors of all levels, finest first.
    """
    boxes, steps, counts = [], [], []
    for cell, (h, w), stride in zip(cells, sizes, strides):
        ys = (torch.arange(h, device=cell.device, dtype=cell.dtype) + offset) * stride
        xs = (torch.arange(w, device=cell.device, dtype=cell.dtype) + offset) * stride
        x, y = xs.expand(h, w), ys[:, None].expand(h, w)
        level = (torch.stack([x, y, x, y], dim=-1)[:, :, None] + cell).reshape(-1, 4)  # (h, w, A, 4)
        boxes.append(level)
        steps.append(level.new_full((level.shape[0],), float(stride)))
        counts.append(level.shape[0])  # len() would fix the size of a graph that is being exported
    return Priors(torch.cat(boxes), torch.cat(steps), counts)


def point_base_anchors(strides: Sequence[int]) -> list[Tensor]:
    """One cell prior a level: a box one stride wide, for heads that look at points."""
    return [torch.tensor([[-stride, -stride, stride, stride]], dtype=torch.float32) / 2 for stride in strides]


def valid_prior_mask(
    sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    image: tuple[int, int],
    priors_a_cell: int = 1,
    divisor: int = 32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Which priors lie on the image and not on padding that other images of the batch forced on it.

    An image's own size counts rounded up to ``divisor``, as a batch of it alone would have been padded.

    Args:
        sizes: (h, w) of each level.
        strides: pixels a cell at each level.
        image: (height, width) of the image without padding.
        priors_a_cell: A.
        divisor: what batches are padded to.
        device: where the answer goes.

    Returns:
        (P,) bool.
    """
    height, width = (-(-side // divisor) * divisor for side in image)
    flags = []
    for (h, w), stride in zip(sizes, strides):
        rows = torch.arange(h, device=device) < -(-height // stride)
        columns = torch.arange(w, device=device) < -(-width // stride)
        flags.append((rows[:, None] & columns[None, :]).flatten().repeat_interleave(priors_a_cell))
    return torch.cat(flags)
