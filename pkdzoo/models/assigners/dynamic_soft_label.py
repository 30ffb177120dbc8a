"""Dynamic soft label assignment (RTMDet, Lyu et al. 2022, arXiv:2212.07784): by the cost of the current predictions.

Two dialects: mmdetection's DynamicSoftLabelAssigner, and the batch assigner that MMYOLO's detectors (and the published
distillation) were trained with. They differ in the class cost and in how many priors an object takes.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pkdzoo.models.assigners.max_iou import NEGATIVE
from pkdzoo.ops.boxes import paired_iou

Dialect = Literal["mmdetection", "mmyolo"]
DIALECTS: tuple[Dialect, ...] = ("mmdetection", "mmyolo")

EPS = 1e-7  # inside the logarithm of the IoU
IOU_WEIGHT = 3.0
CENTER_RADIUS = 3.0  # distance to a box's center in strides at which the center cost is 1
BEST = 13  # the IoUs of so many priors are summed to the number of priors of an object


@torch.no_grad()
def match_dynamic_soft_label(
    points: Tensor,
    strides: Tensor,
    logits: Tensor,
    predicted: Tensor,
    boxes: Tensor,
    labels: Tensor,
    dialect: Dialect = "mmdetection",
) -> tuple[Tensor, Tensor]:
    """Match each prior to an object.

    Candidates are the priors inside of any box. Their cost for a box is the sum of a class cost, ``-3 log(IoU)`` and
    ``10 ** (distance to the center of the box in strides - 3)``. A box takes its k cheapest candidates, where k is the
    sum of its 13 largest IoUs, rounded down and at least 1. A prior that several boxes take is matched to the one for
    which it is cheapest.

    Args:
        points: (P, 2) x and y in pixels.
        strides: (P,) in pixels.
        logits: (P, C) predicted class logits.
        predicted: (P, 4) predicted boxes, xyxy.
        boxes: (G, 4) xyxy.
        labels: (G,) labels of the objects.
        dialect: ``mmdetection`` sums the class cost over all classes and takes the 13 largest IoUs of the candidates;
            ``mmyolo`` takes the cost of the object's own class alone, and the 13 largest IoUs of all priors.

    Returns:
        (P,) int64: index of the matched object or ``NEGATIVE``; and (P,) the IoU with it, 0 for all other priors.
    """
    matched = torch.full((len(points),), NEGATIVE, dtype=torch.int64, device=points.device)
    quality = predicted.new_zeros(len(points))
    if not len(boxes) or not len(points):
        return matched, quality
    candidates = _inside(points, boxes).any(dim=0).nonzero().squeeze(1)
    if not len(candidates):
        return matched, quality
    if dialect == "mmdetection":
        among = overlaps = paired_iou(boxes[:, None], predicted[candidates])  # (G, n), as everything below
    else:
        among = paired_iou(boxes[:, None], predicted)  # (G, P)
        overlaps = among[:, candidates]
    counts = _numbers_of_priors(among, len(candidates))
    cost = class_cost(logits[candidates], overlaps, labels, all_classes=dialect == "mmdetection")
    cost = cost - IOU_WEIGHT * (overlaps + EPS).log()
    cost = cost + _center_cost(points[candidates], strides[candidates], boxes)
    taken = torch.zeros_like(cost, dtype=torch.bool)
    for box, count in enumerate(counts.tolist()):
        taken[box, cost[box].topk(count, largest=False).indices] = True
    positive = taken.any(dim=0).nonzero().squeeze(1)
    of_positive = taken[:, positive]
    several = of_positive.sum(dim=0) > 1
    best = torch.where(several, cost[:, positive].argmin(dim=0), of_positive.int().argmax(dim=0))
    matched[candidates[positive]] = best
    quality[candidates[positive]] = overlaps[best, positive].to(quality.dtype)
    return matched, quality


def class_cost(logits: Tensor, overlaps: Tensor, labels: Tensor, all_classes: bool) -> Tensor:
    """Cross entropy with a soft label, the IoU at the class of a box and 0 elsewhere, times its squared distance.

    The cost of a class is ``BCE(logit, target) * |target - score| ** 2``. The target of all classes but the own one is
    the same for all boxes, so their sum is computed once for each prior and not once for each pair.

    Args:
        logits: (n, C).
        overlaps: (G, n) IoU of boxes and priors.
        labels: (G,).
        all_classes: sum over all classes, or the class of the box alone.

    Returns:
        (G, n).
    """
    own = logits.t().contiguous()[labels]
    score = own.sigmoid()
    cost = F.binary_cross_entropy_with_logits(own, overlaps, reduction="none") * (overlaps - score).square()
    if not all_classes:
        return cost
    background = F.softplus(logits) * logits.sigmoid().square()  # (n, C)
    return cost + background.sum(dim=1) - background.t().contiguous()[labels]


def _inside(points: Tensor, boxes: Tensor) -> Tensor:
    """(G, P) bool: whether each point lies inside of each box, not on its sides."""
    x, y = points.t().contiguous()
    x1, y1, x2, y2 = boxes[:, :, None].unbind(1)
    inside: Tensor = (x > x1).logical_and_(y > y1).logical_and_(x < x2).logical_and_(y < y2)
    return inside


def _center_cost(points: Tensor, strides: Tensor, boxes: Tensor) -> Tensor:
    """(G, n): soft preference for priors near the center of a box."""
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    x, y = points[:, 0] - centers[:, :1], points[:, 1] - centers[:, 1:]
    distance = x.square_().add_(y.square_()).sqrt_().div_(strides)
    return torch.pow(10.0, distance.sub_(CENTER_RADIUS))


def _numbers_of_priors(overlaps: Tensor, most: int) -> Tensor:
    """(G, n) IoUs -> (G,) number of priors that each box takes."""
    best = overlaps.topk(min(BEST, overlaps.shape[1]), dim=1).values.t().contiguous()
    return best.sum(dim=0).int().clamp(min=1, max=most)
