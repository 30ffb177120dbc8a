"""OpenCV's resizes of uint8 images, equal in every pixel: bilinear (``INTER_LINEAR``) and area (``INTER_AREA``).

The bilinear one repeats OpenCV's fixed-point arithmetic: weights of 11 bits, rows scaled to 7 more bits, and products
that are truncated before they are added and rounded. Integers give the same image with any number of threads.
"""

from __future__ import annotations

import torch
from torch import Tensor

WEIGHT = 1 << 11


def resize_bilinear(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize without antialiasing.

    Args:
        image: uint8 (channels, H, W).
        size: (height, width) of the result.

    Returns:
        uint8 (channels, height, width).

    Example:
        >>> import torch
        >>> from pkdzoo.data.opencv_resize import resize_bilinear
        >>> resize_bilinear(torch.tensor([[[0, 100]]], dtype=torch.uint8), (1, 4)).tolist()
        [[[0, 25, 75, 100]]]
    """
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    height, width = image.shape[-2:]
    # At the border a column's weights are 1 and 0; a row is mixed with itself, which truncates differently.
    rows, lower, shares = _neighbors(height, size[0])
    columns, right, parts = _neighbors(width, size[1])
    parts = torch.where((columns < 0) | (columns >= width - 1), 0.0, parts)
    columns, right = columns.clamp(0, width - 1), right.clamp(0, width - 1)
    rows, lower = rows.clamp(0, height - 1), lower.clamp(0, height - 1)
    needed = torch.cat([rows, lower])
    few = len(needed) < height
    mixed = _mix_columns(image.index_select(1, needed) if few else image, columns, right, _weights(parts))
    if few:
        upper, under = mixed[:, : size[0]], mixed[:, size[0] :]
    else:
        upper, under = mixed.index_select(1, rows), mixed.index_select(1, lower)
    first, second = _weights(shares)
    total = ((upper * first[:, None]) >> 16) + ((under * second[:, None]) >> 16)
    return ((total + 2) >> 2).clamp_(0, 255).to(torch.uint8)


def _mix_columns(image: Tensor, left: Tensor, right: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor:
    wide = image.int()
    return (wide.index_select(2, left) * weights[0] + wide.index_select(2, right) * weights[1]) >> 4


def _neighbors(length: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each of ``count`` positions the two nearest of ``length`` values, not clipped, and the second one's share."""
    position = ((torch.arange(count, dtype=torch.float64) + 0.5) * (length / count) - 0.5).float()
    first = position.floor()
    return first.long(), first.long() + 1, position - first


def _weights(shares: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of the first and the second neighbor as integers."""
    return ((1 - shares) * WEIGHT).round().int(), (shares * WEIGHT).round().int()


def resize_by_area(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Shrink an image: each pixel of the result is the mean of the area that it covers.

    Args:
        image: uint8 (channels, H, W).
        size: (height, width) of the result, at most those of the image.

    Returns:
        uint8 (channels, height, width).
    """
    means = _means(_means(image, size[0], dim=1), size[1], dim=2)
    return means.add_(0.5).clamp_(0, 255).to(torch.uint8)


def _means(values: Tensor, count: int, dim: int) -> Tensor:
    """Means of ``count`` equal intervals along a dimension, in float64; intervals may begin and end inside a value."""
    length = values.shape[dim]
    if count == length:
        return values.double()
    kind = torch.float64 if values.is_floating_point() else torch.int32
    sums = torch.cumsum(values, dim, dtype=kind)
    sums = torch.cat([torch.zeros_like(sums.narrow(dim, 0, 1)), sums], dim)  # of the first 0, 1, ..., length values
    ends = torch.arange(count + 1, dtype=torch.float64) * (length / count)
    whole = ends.floor().clamp(max=length - 1).long()
    part = (ends - whole).view([-1 if i == dim else 1 for i in range(values.ndim)])
    below, above = sums.index_select(dim, whole).double(), sums.index_select(dim, whole + 1).double()
    return (below + part * (above - below)).diff(dim=dim) / (length / count)
