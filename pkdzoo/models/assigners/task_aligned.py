"""Task-aligned assignment (TOOD, Feng et al. 2021, arXiv:2108.07755): by the quality of the current predictions.

As mmdetection's TaskAlignedAssigner, with the normalized alignment of its TOODHead.
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
    predicted: Tensor,
    boxes: Tensor,
    labels: Tensor,
    k: int = 13,
    alpha: float = 1.0,
    beta: float = 6.0,
) -> tuple[Tensor, Tensor]:
    """Match each prior to an object, and compute the quality target of the match.

    Each object selects the ``k`` priors of highest alignment ``score ** alpha * IoU ** beta``; those whose point lies
    in the object are positive. A prior that several objects select is matched to the one that its box overlaps most.

    Args:
        points: (P, 2) x and y in pixels.
        scores: (P, C) predicted scores in 0..1.
        predicted: (P, 4) predicted boxes, xyxy.
        boxes: (G, 4) xyxy.
        labels: (G,) labels of the objects.
        k: number of priors that an object selects.
        alpha: exponent of the score.
        beta: exponent of the IoU.

    Returns:
        (P,) int64: index of the matched object, or ``NEGATIVE``; and (P,) the quality in 0..1: the alignment of
        positives, scaled per object so that its maximum equals the object's highest IoU; 0 for all other priors.
    """
    quality = scores.new_zeros(len(points))
    if not len(boxes) or not len(points):
        return torch.full((len(points),), NEGATIVE, dtype=torch.int64, device=points.device), quality
    overlaps = box_iou(boxes, predicted)  # (G, P)
    alignment = scores[:, labels].t().pow(alpha) * overlaps.pow(beta)
    selected, index = alignment.topk(min(k, len(points)), dim=1)
    inside = encode_distances(boxes[:, None], points[index]).amin(dim=-1) > MARGIN
    matched = best_of(overlaps, index, (selected > 0) & inside)
    positive = (matched >= 0).nonzero().squeeze(1)
    box = matched[positive]
    aligned, overlap = alignment[box, positive], overlaps[box, positive]
    best = aligned.new_zeros(len(boxes)).scatter_reduce(0, box, aligned, "amax")
    best_overlap = aligned.new_zeros(len(boxes)).scatter_reduce(0, box, overlap, "amax")
    quality[positive] = aligned / (best[box] + 1e-7) * best_overlap[box]
    return matched, quality
