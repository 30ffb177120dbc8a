"""Masks of objects: cropped to regions as training targets, pasted from regions into the image, run-length encoded."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from pkdzoo.utils.precision import float32_or_wider

MAX_PIXELS = 2**24  # masks that are cropped at once, 64 MB as float32; all masks of a crowded image would take 1 GB


@torch.no_grad()
def crop_masks(masks: Tensor, boxes: Tensor, matched: Tensor, size: int) -> Tensor:
    """Crop objects' masks to regions and resample them by RoIAlign, with a threshold of 0.5.

    As mmdetection's BitmapMasks.crop_and_resize, except at the border of the image: mmdetection pads masks like the
    image, so a target at the border could depend on the other images of the batch.

    Args:
        masks: (G, h, w) bool.
        boxes: (N, 4) xyxy in pixels of the masks.
        matched: (N,) int64 in ``0 .. G-1``, index of each region's object.
        size: height and width of the result.

    Returns:
        (N, size, size) bool.
    """
    cropped = torch.zeros(len(boxes), size, size, dtype=torch.bool, device=boxes.device)
    chunk = max(1, MAX_PIXELS // max(1, masks.shape[-2] * masks.shape[-1]))
    wide = float32_or_wider(boxes)
    for start in range(0, len(masks), chunk):
        index = ((matched >= start) & (matched < start + chunk)).nonzero().squeeze(1)
        rois = torch.cat([(matched[index, None] - start).to(wide.dtype), wide[index]], dim=1)
        part = masks[start : start + chunk, None].to(wide.dtype)
        cropped[index] = roi_align(part, rois, size, 1.0, sampling_ratio=0, aligned=True)[:, 0] >= 0.5
    return cropped


@torch.no_grad()
def paste_mask(
    probabilities: Tensor, box: Tensor, size: tuple[int, int], threshold: float = 0.5
) -> tuple[Tensor, slice, slice]:
    """Resample the mask of one region bilinearly to the pixels that the region covers.

    Args:
        probabilities: (m, m) in 0..1, on a grid over the box.
        box: (4,) xyxy in pixels.
        size: (height, width) of the image.
        threshold: minimum probability of a pixel of the mask, 0..1.

    Returns:
        Mask (height, width) bool, and the rows and columns of the image that it covers; outside it is False.
    """
    left, top, right, bottom = (*box[:2].floor().tolist(), *box[2:].ceil().tolist())
    rows = slice(min(size[0], max(0, int(top))), min(size[0], max(0, int(bottom))))
    columns = slice(min(size[1], max(0, int(left))), min(size[1], max(0, int(right))))
    if columns.start >= columns.stop or rows.start >= rows.stop:
        return torch.zeros(0, 0, dtype=torch.bool, device=probabilities.device), slice(0, 0), slice(0, 0)
    box = box.float()
    # coordinates of the pixels' centers: -1 at one side of the box, 1 at the other
    x, y = (
        (torch.arange(part.start, part.stop, device=box.device) + 0.5 - box[i]) / (box[i + 2] - box[i]) * 2 - 1
        for i, part in enumerate((columns, rows))
    )
    grid = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], dim=-1)
    sampled = F.grid_sample(probabilities.float()[None, None], grid[None], align_corners=False)[0, 0]
    return sampled >= threshold, rows, columns


def paste_masks(probabilities: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float = 0.5) -> Tensor:
    """Paste the masks of regions into the image; see :func:`paste_mask`.

    Args:
        probabilities: (N, m, m) in 0..1, on a grid over each box.
        boxes: (N, 4) xyxy in pixels.
        size: (height, width) of the image.
        threshold: minimum probability of a pixel of the mask, 0..1.

    Returns:
        (N, height, width) bool.
    """
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool, device=boxes.device)
    for mask, probability, box in zip(masks, probabilities, boxes):
        part, rows, columns = paste_mask(probability, box, size, threshold)
        mask[rows, columns] = part
    return masks


def run_lengths(mask: Tensor, rows: slice, columns: slice, size: tuple[int, int]) -> list[int]:
    """COCO's run lengths of a mask that covers a part of an image: column by column, the first run is background.

    The cost depends on the size of the mask, not on the size of the image.

    Args:
        mask: (h, w) bool.
        rows: rows of the image that the mask covers.
        columns: columns of the image that the mask covers.
        size: (height, width) of the image.

    Returns:
        Lengths, whose sum is the number of pixels of the image.
    """
    height, width = size
    above = torch.zeros(mask.shape[1], 1, dtype=torch.int8, device=mask.device)
    edges = torch.cat([above, mask.T.to(torch.int8), above], dim=1).diff(dim=1)  # (w, h + 1)
    x, y = edges.nonzero(as_tuple=True)
    positions = (x + columns.start) * height + y + rows.start  # where a run ends, in column-major order of the image
    # A run that reaches the lower border and continues at the top of the next column does not end there.
    ends, counts = positions.unique_consecutive(return_counts=True)
    ends = ends[counts == 1]
    bounds = torch.cat([ends.new_zeros(1), ends, ends.new_tensor([height * width])])
    lengths: list[int] = bounds.diff().tolist()
    return lengths[:-1] if len(lengths) > 1 and lengths[-1] == 0 else lengths  # COCO has no final run of length 0
