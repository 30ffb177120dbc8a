"""Masks of objects: cut out below a region to learn from, and pasted from a region back into the image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

PIXELS_AT_ONCE = 2**24  # of masks that are cut: as float32 64 MB, where all masks of a crowded image fill a gigabyte


@torch.no_grad()
def crop_masks(masks: Tensor, boxes: Tensor, matched: Tensor, size: int) -> Tensor:
    """The part of an object's mask that lies in a region, resampled by RoIAlign and cut at a half.

    mmdetection's BitmapMasks.crop_and_resize. There masks were padded like the image, so a target at the image's
    edge could depend on the other images of the batch; here the edge is the edge.

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
def paste_mask(
    cells: Tensor, box: Tensor, size: tuple[int, int], threshold: float = 0.5
) -> tuple[Tensor, slice, slice]:
    """The mask of one region, bilinear, on the pixels that the region touches.

    Args:
        cells: (m, m) in 0..1.
        box: (4,) xyxy pixels, which the mask fills.
        size: (height, width) of the image.
        threshold: a pixel belongs to the object from this probability on.

    Returns:
        (h, w) bool, and the rows and columns of the image that it covers; the image outside is not the object.
    """
    left, top, right, bottom = (*box[:2].floor().tolist(), *box[2:].ceil().tolist())
    rows = slice(min(size[0], max(0, int(top))), min(size[0], max(0, int(bottom))))
    columns = slice(min(size[1], max(0, int(left))), min(size[1], max(0, int(right))))
    if columns.start >= columns.stop or rows.start >= rows.stop:
        return torch.zeros(0, 0, dtype=torch.bool, device=cells.device), slice(0, 0), slice(0, 0)
    box = box.float()
    # centres of the pixels, -1 at one side of the box and 1 at the other
    x, y = (
        (torch.arange(part.start, part.stop, device=box.device) + 0.5 - box[i]) / (box[i + 2] - box[i]) * 2 - 1
        for i, part in enumerate((columns, rows))
    )
    grid = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], dim=-1)
    sampled = F.grid_sample(cells.float()[None, None], grid[None], align_corners=False)[0, 0]
    return sampled >= threshold, rows, columns


def paste_masks(cells: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float = 0.5) -> Tensor:
    """Masks of regions drawn into the image, one after the other; see :func:`paste_mask`.

    Args:
        cells: (N, m, m) in 0..1.
        boxes: (N, 4) xyxy pixels, which the masks fill.
        size: (height, width) of the image.
        threshold: a pixel belongs to the object from this probability on.

    Returns:
        (N, height, width) bool.
    """
    drawn = torch.zeros(len(boxes), *size, dtype=torch.bool, device=boxes.device)
    for image, mine, box in zip(drawn, cells, boxes):
        mask, rows, columns = paste_mask(mine, box, size, threshold)
        image[rows, columns] = mask
    return drawn


def run_lengths(mask: Tensor, rows: slice, columns: slice, size: tuple[int, int]) -> list[int]:
    """COCO's run lengths of a mask that covers a part of an image: column by column, first those outside the object.

    A mask on an image of 12,000 x 9,000 pixels costs what its own pixels cost.

    Args:
        mask: (h, w) bool.
        rows: of the image that it covers.
        columns: likewise.
        size: (height, width) of the image.

    Returns:
        Lengths, whose sum is the number of the image's pixels.
    """
    height, width = size
    above = torch.zeros(mask.shape[1], 1, dtype=torch.int8, device=mask.device)
    edges = torch.cat([above, mask.T.to(torch.int8), above], dim=1).diff(dim=1)  # (w, h + 1)
    x, y = edges.nonzero(as_tuple=True)
    places = (x + columns.start) * height + y + rows.start  # where the answer changes, in the image's order
    # An object that reaches the lower edge and goes on at the top of the next column does not change there.
    ends, counts = places.unique_consecutive(return_counts=True)
    ends = ends[counts == 1]
    bounds = torch.cat([ends.new_zeros(1), ends, ends.new_tensor([height * width])])
    lengths: list[int] = bounds.diff().tolist()
    return lengths[:-1] if len(lengths) > 1 and lengths[-1] == 0 else lengths  # as COCO ends them
