"""Masks of objects: cut out below a region to learn from, and pasted from a region back into the picture."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

PIXELS_AT_ONCE = 2**24  # of masks that are cut: as float32 64 MB, where all masks of a crowded picture fill a gigabyte


@torch.no_grad()
def crop_masks(masks: Tensor, boxes: Tensor, matched: Tensor, size: int) -> Tensor:
    """The part of an object's mask that lies in a region, resampled by RoIAlign and cut at a half.

    mmdetection's BitmapMasks.crop_and_resize. There masks were padded like the picture, so a target at the picture's
    edge could depend on the other pictures of the batch; here the edge is the edge.

    Args:
        masks: (G, h, w) bool.
        boxes: (N, 4) xyxy in pixels of the masks.
        matched: (N,) int64 in ``0 .. G-1``, the object of each region.
        size: cells along a side of the result.

    Returns:
        (N, size, size) bool.
    """
    cut = torch.zeros(len(boxes), size, size, dtype=torch.bool, device=boxes.device)
    step = max(1, PIXELS_AT_ONCE // max(1, masks.shape[-2] * masks.shape[-1]))
    for start in range(0, len(masks), step):
        here = ((matched >= start) & (matched < start + step)).nonzero().squeeze(1)
        rois = torch.cat([(matched[here, None] - start).float(), boxes[here].float()], dim=1)
        part = masks[start : start + step, None].float()
        cut[here] = roi_align(part, rois, size, 1.0, sampling_ratio=0, aligned=True)[:, 0] >= 0.5
    return cut


@torch.no_grad()
def paste_masks(probabilities: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float = 0.5) -> Tensor:
    """Masks of regions drawn into the picture, bilinear, one after the other and only where the region is.

    Args:
        probabilities: (N, m, m) in 0..1.
        boxes: (N, 4) xyxy pixels, which the masks fill.
        size: (height, width) of the picture.
        threshold: a pixel belongs to the object from this probability on.

    Returns:
        (N, height, width) bool.
    """
    height, width = size
    drawn = torch.zeros(len(boxes), height, width, dtype=torch.bool, device=boxes.device)
    corners = torch.cat([boxes[:, :2].floor(), boxes[:, 2:].ceil()], dim=1).tolist()
    for picture, mask, box, (left, top, right, bottom) in zip(drawn, probabilities.float(), boxes.float(), corners):
        columns = slice(max(0, int(left)), min(width, int(right)))
        rows = slice(max(0, int(top)), min(height, int(bottom)))
        if columns.start >= columns.stop or rows.start >= rows.stop:
            continue
        # centres of the pixels, -1 at one side of the box and 1 at the other
        x, y = (
            (torch.arange(part.start, part.stop, device=box.device) + 0.5 - box[i]) / (box[i + 2] - box[i]) * 2 - 1
            for i, part in enumerate((columns, rows))
        )
        grid = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], dim=-1)
        sampled = F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0]
        picture[rows, columns] = sampled >= threshold
    return drawn
