"""Adaptive training sample selection (Zhang et al. 2020, arXiv:1912.02424): a threshold for each object.

Of each level the anchors nearest to an object's centre are its candidates; positive are those whose overlap reaches
the candidates' mean plus standard deviation and whose centre lies in the object. As mmdetection's ATSSAssigner.
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

MARGIN = 0.01  # pixels that a centre must lie inside its object


@torch.no_grad()
def match_atss(anchors: Tensor, counts: Sequence[int], boxes: Tensor, k: int = 9) -> Tensor:
    """The object that each anchor stands for; among several, the one it overlaps most.

    Args:
        anchors: (P, 4) xyxy, level by level.
        counts: anchors of each level.
        boxes: (G, 4) xyxy.
        k: candidates an object and level.

    Returns:
        (P,) int64: index of an object, or ``NEGATIVE``.
    """
    if not len(boxes) or not len(anchors):
        return torch.full((len(anchors),), NEGATIVE, dtype=torch.int64, device=anchors.device)
    overlaps = box_iou(boxes, anchors)  # (G, P)
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    distances = (centers[None] - ((boxes[:, :2] + boxes[:, 2:]) / 2)[:, None]).norm(dim=-1)
    candidates, start = [], 0
    for level in torch.split(distances, list(counts), dim=1):
        nearest = level.topk(min(k, level.shape[1]), dim=1, largest=False).indices
        candidates.append(nearest + start)
        start += level.shape[1]
    index = torch.cat(candidates, dim=1)  # (G, K)
    overlap = overlaps.gather(1, index)
    enough = overlap >= (overlap.mean(dim=1) + overlap.std(dim=1))[:, None]
    inside = encode_distances(boxes[:, None], centers[index]).amin(dim=-1) > MARGIN
    return best_of(overlaps, index, enough & inside)


def best_of(overlaps: Tensor, index: Tensor, positive: Tensor) -> Tensor:
    """Give each prior to the object it overlaps most among those that chose it.

    Args:
        overlaps: (G, P) of objects with priors.
        index: (G, K) priors that each object looked at, none twice.
        positive: (G, K) bool, whether it chose them.

    Returns:
        (P,) int64: index of an object, or ``NEGATIVE``.
    """
    wanted = torch.full_like(overlaps, -1.0)
    wanted.scatter_(1, index, torch.where(positive, overlaps.gather(1, index), -1.0))
    best, of = wanted.max(dim=0)
    return torch.where(best >= 0, of, NEGATIVE)


def atss_targets(
    priors: Priors, instances: list[Instances], valid: Tensor, background: int, k: int = 9
) -> DenseTargets:
    """Targets of a batch by :func:`match_atss`; arguments as :func:`pkdzoo.models.assigners.dense.targets_from`."""
    counts = torch.stack(
        [part.sum(dim=1) for part in torch.split(valid, priors.counts, dim=1)], dim=1
    ).tolist()  # (B, L)

    def match(image: int, inside: Tensor, objects: Instances) -> Tensor:
        return match_atss(priors.boxes[inside], counts[image], objects.boxes, k)

    return targets_from(match, instances, valid, background)
