"""Images and maps of a network that takes images of one size, beside a detector that takes them as they are.

Such a network sees each image of a batch squashed to its own size, without the padding of the batch. Its maps are then
resampled to where the batch has the image, so that they can be compared with maps of the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pkdzoo.structures import Batch
from pkdzoo.utils.precision import float32_or_wider


def squash_images(batch: Batch, size: tuple[int, int]) -> Tensor:
    """Every image of a batch at one size, whatever its aspect ratio; bilinear with antialiasing, as PIL resizes.

    Args:
        batch: raw images.
        size: (height, width) in pixels.

    Returns:
        (B, channels, height, width) float32 (float64 for float64 images), raw pixels without padding.
    """
    images = [
        F.interpolate(
            float32_or_wider(image[None, :, :h, :w]), size, mode="bilinear", align_corners=False, antialias=True
        )
        for image, (h, w) in zip(batch.images, batch.sizes)
    ]
    return torch.cat(images)


def place_maps(maps: Tensor, sizes: Sequence[tuple[int, int]], canvas: tuple[int, int], stride: int) -> Tensor:
    """Maps of squashed images, resampled to their places in a batch.

    The value of a location is that of the squashed map at the same point of the image. Locations whose center is in
    the padding get the mean of the image's map, which PKD's normalization neither likes nor dislikes.

    Args:
        maps: (B, C, h, w), one map for each squashed image.
        sizes: (height, width) of each image in pixels, inside the padding.
        canvas: (height, width) of the batch in pixels.
        stride: of the maps that are returned, in pixels of the batch.

    Returns:
        (B, C, ceil(height / stride), ceil(width / stride)) in float32, or wider if ``maps`` are.
    """
    maps = float32_or_wider(maps)
    counts = [-(-side // stride) for side in canvas]
    placed = []
    with torch.autocast(maps.device.type, enabled=False):  # else the products would be in half precision
        for image, size in zip(maps, sizes):
            rows, columns = (
                resampling(count, stride, side, length).to(image)
                for count, side, length in zip(counts, size, image.shape[-2:])
            )
            outside = (rows.sum(dim=1) == 0)[:, None] | (columns.sum(dim=1) == 0)
            mean = image.mean(dim=(1, 2), keepdim=True)
            placed.append(torch.where(outside, mean, rows @ image @ columns.T))
    return torch.stack(placed)


def resampling(count: int, stride: int, side: int, length: int) -> Tensor:
    """Weights that resample one axis of a map: linear where it becomes finer, means over area where it becomes coarser.

    Each new location is the mean of the old ones under a window around the same point: as wide as the new location, and
    at least as wide as an old one.

    Args:
        count: number of new locations.
        stride: distance between them, in pixels.
        side: of the image that the map covers, in pixels.
        length: number of old locations.

    Returns:
        (count, length); the rows sum to 1, or to 0 for a location whose center is beyond the image.
    """
    per_pixel = length / side
    centers = (torch.arange(count, dtype=torch.float64) + 0.5) * stride * per_pixel  # in old locations
    half = max(1.0, stride * per_pixel) / 2
    inside = centers <= length
    starts = torch.arange(length, dtype=torch.float64)
    low, high = (centers - half)[:, None], (centers + half)[:, None]
    # what a window covers beyond the border counts as the old location at the border
    starts_wide, ends_wide = starts.clone(), starts + 1
    starts_wide[0], ends_wide[-1] = -torch.inf, torch.inf
    overlap = (torch.minimum(high, ends_wide) - torch.maximum(low, starts_wide)).clamp(min=0)
    return overlap / (2 * half) * inside[:, None]
