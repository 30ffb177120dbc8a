"""Weights of locations and channels: masks of the objects, and attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import box_iou

from pkdzoo.structures import Batch, Instances
from pkdzoo.utils.precision import float32_or_wider

FINEST = 56.0  # boxes with a side below twice this belong to the finest level


def objects_of(batch: Batch) -> list[Instances]:
    """The objects of each image without crowds; no objects where the batch has no instances."""
    if batch.instances is None:
        none = Instances(batch.images.new_zeros(0, 4), torch.zeros(0, dtype=torch.int64, device=batch.images.device))
        return [none for _ in batch.sizes]
    return [objects.without_crowd() for objects in batch.instances]


def covered_locations(boxes: Tensor, stride: float) -> Tensor:
    """The locations that boxes touch.

    Args:
        boxes: (G, 4) xyxy pixels.
        stride: of the map, in pixels.

    Returns:
        (G, 4) x1, y1, x2, y2 in locations, ends exclusive; they may lie outside the map.
    """
    return torch.cat([(boxes[:, :2] / stride).floor(), (boxes[:, 2:] / stride).ceil()], dim=1)


def rectangles(corners: Tensor, size: tuple[int, int]) -> Tensor:
    """Rectangles of locations as masks.

    Args:
        corners: (G, 4) x1, y1, x2, y2 in locations, ends exclusive.
        size: (h, w) of the map.

    Returns:
        (G, h, w) bool.
    """
    h, w = size
    y, x = torch.arange(h, device=corners.device), torch.arange(w, device=corners.device)
    rows = (y >= corners[:, 1, None]) & (y < corners[:, 3, None])  # (G, h)
    columns = (x >= corners[:, 0, None]) & (x < corners[:, 2, None])
    return rows[:, :, None] & columns[:, None, :]


def object_mask(objects: Sequence[Instances], size: tuple[int, int], stride: float) -> Tensor:
    """1 where a location overlaps a box: (B, 1, h, w) float.

    A box covers ``floor(x1 / stride) .. ceil(x2 / stride)``. The papers that use such a mask do not state the rounding.
    """
    masks = [rectangles(covered_locations(o.boxes, stride), size).any(dim=0) for o in objects]
    return torch.stack(masks)[:, None].float()


def assign_size_levels(boxes: Tensor, levels: int) -> Tensor:
    """The level that fits the size of each box, one octave per level: (G,) int64 in ``0 .. levels-1``.

    Level 0 ends at a side of 112 pixels whatever its stride, as in DeFeat and Global Knowledge, for RetinaNet too.
    """
    width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(1)
    side = ((width + 1) * (height + 1)).sqrt()
    return (side / FINEST + 1e-6).log2().floor().clamp(0, levels - 1).long()


def select_level(objects: Sequence[Instances], level: int, levels: int) -> list[Instances]:
    """Only the objects whose size fits a level."""
    return [o[assign_size_levels(o.boxes, levels) == level] for o in objects]


def near_anchor_mask(
    objects: Sequence[Instances], anchors: Tensor, size: tuple[int, int], share: float = 0.5
) -> Tensor:
    """FGFI's mask: locations with an anchor that overlaps an object nearly as much as the best anchor does.

    Args:
        objects: of each image.
        anchors: (h*w*A, 4) xyxy of one level, location by location.
        size: (h, w).
        share: an anchor counts if its overlap is more than this share of the object's best overlap.

    Returns:
        (B, 1, h, w) float, 1 in the mask.
    """
    h, w = size
    masks = []
    for o in objects:
        overlaps = box_iou(o.boxes, anchors.to(o.boxes.dtype))  # (G, h*w*A)
        best = overlaps.amax(dim=1, keepdim=True) if len(anchors) else overlaps
        near = (overlaps > share * best).any(dim=0)
        masks.append(near.view(h, w, -1).any(dim=-1))
    return torch.stack(masks)[:, None].float()


def spatial_attention(maps: Tensor, temperature: float) -> Tensor:
    """Softmax of the mean magnitude over locations: (B, C, h, w) -> (B, 1, h, w), summing to h*w in each image."""
    b, _, h, w = maps.shape
    strength = float32_or_wider(maps).abs().mean(dim=1).flatten(1)
    return (h * w * (strength / temperature).softmax(dim=1)).view(b, 1, h, w)


def channel_attention(maps: Tensor, temperature: float) -> Tensor:
    """Softmax of the mean magnitude over channels: (B, C, h, w) -> (B, C, 1, 1), summing to C in each image."""
    strength = float32_or_wider(maps).abs().mean(dim=(2, 3))
    return (maps.shape[1] * (strength / temperature).softmax(dim=1))[..., None, None]
