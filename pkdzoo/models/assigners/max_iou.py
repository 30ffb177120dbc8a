"""Assignment by IoU (RetinaNet, RPN, RoI heads).

As mmdetection's MaxIoUAssigner: each prior is matched to the object it overlaps most; it is positive from one
threshold, negative below another, and skipped in between. Then each object also takes the priors that overlap it most.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_iou

from pkdzoo.structures import IGNORE

NEGATIVE = -1  # value of `matched` for background
SKIPPED = -2  # value of `matched` for priors that are neither positive nor negative


@torch.no_grad()
def match_by_iou(
    priors: Tensor,
    boxes: Tensor,
    positive: float,
    negative: float,
    low_quality: float | None = None,
) -> Tensor:
    """Match each prior to an object.

    Args:
        priors: (P, 4) xyxy.
        boxes: (G, 4) xyxy.
        positive: minimum IoU of positive priors.
        negative: priors with an IoU below this are background; in between they are skipped.
        low_quality: if given, each object also takes all priors that have the highest IoU with it, if this IoU is at
            least ``low_quality``. If several objects take one prior, the last object wins, as in mmdetection.

    Returns:
        (P,) int64: index of the matched object, ``NEGATIVE`` or ``SKIPPED``.
    """
    matched = torch.full((len(priors),), SKIPPED, dtype=torch.int64, device=priors.device)
    if not len(boxes):
        return matched.fill_(NEGATIVE)
    if not len(priors):
        return matched
    overlaps = box_iou(boxes, priors)  # (G, P)
    best, index = overlaps.max(dim=0)
    matched[best < negative] = NEGATIVE
    matched = torch.where(best >= positive, index, matched)
    if low_quality is not None:
        best_of_object = overlaps.max(dim=1).values  # (G,)
        is_best = (overlaps == best_of_object[:, None]) & (best_of_object >= low_quality)[:, None]
        order = torch.arange(len(boxes), device=boxes.device)[:, None]
        last = torch.where(is_best, order, -1).max(dim=0).values
        matched = torch.where(last >= 0, last, matched)
    return matched


def labels_of(matched: Tensor, labels: Tensor, background: int) -> Tensor:
    """Labels of priors from their matches.

    Args:
        matched: (P,) as returned by :func:`match_by_iou`.
        labels: (G,) labels of the objects.
        background: label of background, the number of classes.

    Returns:
        (P,) int64: label of the matched object, ``background``, or ``IGNORE`` for skipped priors.
    """
    if not len(labels):
        result = torch.full_like(matched, background)
    else:
        result = torch.where(matched >= 0, labels[matched.clamp(min=0)], background)
    return torch.where(matched == SKIPPED, IGNORE, result)
