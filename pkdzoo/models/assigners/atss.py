"""Adaptive training sample selection (Zhang et al. 2020, arXiv:1912.02424): an IoU threshold for each object.

The candidates of an object are the anchors nearest to its center on each level. Candidates are positive if their IoU
reaches the mean plus the standard deviation over the candidates, and if their center lies in the object. As
mmdetection's ATSSAssigner.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import box_iou

from pkdzoo.models.assigners.dense import targets_from
from pkdzoo.models.assigners.max_iou import NEGATIVE
from pkdzoo.ops.boxes import encode_distances
from pkdzoo.structures import DenseTargets, Instances, Priors

MARGIN = 0.01  # minimum distance in pixels of a positive center to the sides of its object


@torch.no_grad()
def match_atss(anchors: Tensor, counts: Sequence[int], boxes: Tensor, k: int = 9) -> Tensor:
    """Match each anchor to an object; among several, to the one it overlaps most.

    Args:
        anchors: (P, 4) xyxy, level by level.
        counts: number of anchors of each level.
        boxes: (G, 4) xyxy.
        k: number of candidates per object and level.

    Returns:
        (P,) int64: index of the matched object, or ``NEGATIVE``.
    """
    if not len(boxes) or not len(anchors):
        return torch.full((len(anchors),), NEGATIVE, dtype=torch.int64, device=anchors.device)
    overlaps = box_iou(boxes, anchors)  # (G, P)
    index = nearest_anchors(anchors, counts, boxes, k)
    overlap = overlaps.gather(1, index)
    enough = overlap >= overlap_thresholds(overlap)[:, None]
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    inside = encode_distances(boxes[:, None], centers[index]).amin(dim=-1) > MARGIN
    return best_of(overlaps, index, enough & inside)


def nearest_anchors(anchors: Tensor, counts: Sequence[int], boxes: Tensor, k: int = 9) -> Tensor:
    """The candidates of each object: the ``k`` anchors of each level whose centers are nearest to its center.

    Args:
        anchors: (P, 4) xyxy, level by level.
        counts: number of anchors of each level.
        boxes: (G, 4) xyxy.
        k: number of candidates per object and level.

    Returns:
        (G, K) int64 indices of anchors, without duplicates.
    """
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    distances = (centers[None] - ((boxes[:, :2] + boxes[:, 2:]) / 2)[:, None]).norm(dim=-1)
    candidates, start = [], 0
    for level in torch.split(distances, list(counts), dim=1):
        nearest = level.topk(min(k, level.shape[1]), dim=1, largest=False).indices
        candidates.append(nearest + start)
        start += level.shape[1]
    return torch.cat(candidates, dim=1)


def overlap_thresholds(overlaps: Tensor) -> Tensor:
    """The IoU from which a candidate is positive: (G, K) IoU of objects with their candidates -> (G,)."""
    return overlaps.mean(dim=1) + overlaps.std(dim=1)


def best_of(overlaps: Tensor, index: Tensor, positive: Tensor) -> Tensor:
    """Match each prior to the object it overlaps most, among the objects that selected it.

    Args:
        overlaps: (G, P) IoU of objects with priors.
        index: (G, K) indices of each object's candidate priors, without duplicates.
        positive: (G, K) bool, whether the object selects the candidate.

    Returns:
        (P,) int64: index of the matched object, or ``NEGATIVE``.
    """
    selected = torch.full_like(overlaps, -1.0)
    selected.scatter_(1, index, torch.where(positive, overlaps.gather(1, index), -1.0))
    best, matched = selected.max(dim=0)
    return torch.where(best >= 0, matched, NEGATIVE)


def atss_targets(
    priors: Priors, instances: list[Instances], valid: Tensor, background: int, k: int = 9
) -> DenseTargets:
    """Targets of a batch by :func:`match_atss`; arguments as in :func:`pkdzoo.models.assigners.dense.targets_from`."""
    per_level = [part.sum(dim=1) for part in torch.split(valid, priors.counts, dim=1)]
    counts = torch.stack(per_level, dim=1).tolist()  # (B, L)

    def match(image: int, valid_index: Tensor, objects: Instances) -> Tensor:
        return match_atss(priors.boxes[valid_index], counts[image], objects.boxes, k)

    return targets_from(match, instances, valid, background)
