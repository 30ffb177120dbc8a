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
BLOCK = 1 << 18  # IoU that a CPU computes at a time
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
    parts = block_slices(len(priors), len(boxes), priors.device)
    blocks = [_best_overlaps(priors[part], boxes) for part in parts]
    best, index = (torch.cat([block[i] for block in blocks]) for i in (0, 1))
    matched[best < negative] = NEGATIVE
    matched = torch.where(best >= positive, index, matched)
    if low_quality is not None:
        last = _taken_by_objects(priors, boxes, parts, torch.stack([block[2] for block in blocks]), low_quality)
        matched = torch.where(last >= 0, last, matched)
    return matched


def block_slices(priors: int, objects: int, device: torch.device) -> list[slice]:
    """Parts of the priors: a CPU is several times faster on IoU that fit its cache. Other devices take all at once.

    Args:
        priors: number of priors.
        objects: number of objects of one image.
        device: of both.
    """
    step = max(1, BLOCK // max(objects, 1)) if device.type == "cpu" else max(priors, 1)
    return [slice(start, start + step) for start in range(0, priors, step)]


def _best_overlaps(priors: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The highest IoU of each prior, its object, and the highest IoU of each object.

    A CPU computes only IoU with the objects that reach into the area of the priors; all others are 0.
    """
    near = torch.arange(len(boxes), device=boxes.device)
    if boxes.device.type == "cpu":
        first, last = priors[:, :2].amin(dim=0), priors[:, 2:].amax(dim=0)
        near = ((boxes[:, :2] < last) & (boxes[:, 2:] > first)).all(dim=1).nonzero()[:, 0]
    of_object = (priors[:0, 0] + boxes[:0, 0]).new_zeros(len(boxes))  # the wider type of both
    if not len(near):
        return of_object.new_zeros(len(priors)), near.new_zeros(len(priors)), of_object
    overlaps = box_iou(boxes[near], priors)
    best, index = overlaps.max(dim=0)
    of_object[near] = overlaps.amax(dim=1)
    return best, near[index], of_object


def _taken_by_objects(priors: Tensor, boxes: Tensor, parts: list[slice], best: Tensor, least: float) -> Tensor:
    """The last object that takes each prior because none overlaps it more, (P,); -1 where none does.

    Args:
        priors: (P, 4) xyxy.
        boxes: (G, 4) xyxy.
        parts: K parts of the priors.
        best: (K, G) the highest IoU of each object in each part.
        least: the lowest IoU at which an object takes a prior.
    """
    of_object = best.amax(dim=0)  # (G,)
    reached = (best == of_object) & (of_object >= least)  # only there are IoU computed again
    last = torch.full((len(priors),), -1, dtype=torch.int64, device=priors.device)
    for part, row in zip(parts, reached):
        objects = row.nonzero()[:, 0]
        equal = box_iou(boxes[objects], priors[part]) == of_object[objects, None]
        last[part] = torch.where(equal, objects[:, None], -1).amax(dim=0) if len(objects) else -1
    return last


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
