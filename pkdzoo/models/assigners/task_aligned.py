"""Task-aligned assignment (TOOD, Feng et al. 2021): objects choose the priors that already predict them well.

As mmdetection's TaskAlignedAssigner, with the normalised alignment of its TOODHead.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_iou

from pkdzoo.models.assigners.atss import MARGIN, best_of
from pkdzoo.models.assigners.max_iou import NEGATIVE
from pkdzoo.ops.boxes import encode_distances


@torch.no_grad()
def match_task_aligned(
    points: Tensor,
    scores: Tensor,
    found: Tensor,
    boxes: Tensor,
    labels: Tensor,
    k: int = 13,
    alpha: float = 1.0,
    beta: float = 6.0,
) -> tuple[Tensor, Tensor]:
    """The object that each prior stands for, and how well it does.

    Each object chooses the ``k`` priors of highest alignment ``score ** alpha * IoU ** beta``; those whose point lies
    in it are positive. A prior that several choose goes to the one its box overlaps most.

    Args:
        points: (P, 2) x, y.
        scores: (P, C) predicted, in 0..1.
        found: (P, 4) predicted boxes, xyxy.
        boxes: (G, 4) xyxy.
        labels: (G,) classes of the objects.
        k: choices of an object.
        alpha: power of the score.
        beta: power of the overlap.

    Returns:
        (P,) int64 index of an object or ``NEGATIVE``; and (P,) in 0..1 the alignment of positives, scaled for each
        object so that its best prior gets its best overlap, 0 elsewhere.
    """
    quality = scores.new_zeros(len(points))
    if not len(boxes) or not len(points):
        return torch.full((len(points),), NEGATIVE, dtype=torch.int64, device=points.device), quality
    overlaps = box_iou(boxes, found)  # (G, P)
    alignment = scores[:, labels].t().pow(alpha) * overlaps.pow(beta)
    chosen, index = alignment.topk(min(k, len(points)), dim=1)
    inside = encode_distances(boxes[:, None], points[index]).amin(dim=-1) > MARGIN
    matched = best_of(overlaps, index, (chosen > 0) & inside)
    positive = (matched >= 0).nonzero().squeeze(1)
    owner = matched[positive]
    own, overlap = alignment[owner, positive], overlaps[owner, positive]
    best = own.new_zeros(len(boxes)).scatter_reduce(0, owner, own, "amax")
    best_overlap = own.new_zeros(len(boxes)).scatter_reduce(0, owner, overlap, "amax")
    quality[positive] = own / (best[owner] + 1e-7) * best_overlap[owner]
    return matched, quality
