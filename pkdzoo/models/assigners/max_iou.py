"""Assignment by overlap (RetinaNet, RPN, RoI heads).

As mmdetection's MaxIoUAssigner: each prior goes to the object it overlaps most, positive from one threshold,
negative below another, ignored between; then each object also takes the priors that overlap it most.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_iou

from pkdzoo.structures import IGNORE

NEGATIVE = -1  # of `matched`: background
SKIPPED = -2  # of `matched`: neither positive nor negative


@torch.no_grad()
def match_by_iou(
    priors: Tensor,
    boxes: Tensor,
    positive: float,
    negative: float,
    low_quality: float | None = None,
) -> Tensor:
    """The object that each prior stands for.

    Args:
        priors: (P, 4) xyxy.
        boxes: (G, 4) xyxy.
        positive: overlap from which a prior is positive.
        negative: overlap below which it is background; between the two it is skipped.
        low_quality: when given, every object also takes all priors whose overlap with it equals its best one,
            if that best is at least this. Among objects that want one prior, the last wins, as in mmdetection.

    Returns:
        (P,) int64: index of an object, ``NEGATIVE`` or ``SKIPPED``.
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
        wanted = (overlaps == best_of_object[:, None]) & (best_of_object >= low_quality)[:, None]
        order = torch.arange(len(boxes), device=boxes.device)[:, None]
        last = torch.where(wanted, order, -1).max(dim=0).values
        matched = torch.where(last >= 0, last, matched)
    return matched


def labels_of(matched: Tensor, labels: Tensor, background: int) -> Tensor:
    """Class label of each prior from its match.

    Args:
        matched: (P,) as :func:`match_by_iou` returns it.
        labels: (G,) classes of the objects.
        background: label of a prior without an object, the number of classes.

    Returns:
        (P,) int64: class, ``background`` or -1 for skipped priors.
    """
    if not len(labels):
        taken = torch.full_like(matched, background)
    else:
        taken = torch.where(matched >= 0, labels[matched.clamp(min=0)], background)
    return torch.where(matched == SKIPPED, IGNORE, taken)
