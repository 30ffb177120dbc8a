"""From matches of single images to the targets of a batch, for most dense detectors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pkdzoo.models.assigners.max_iou import NEGATIVE, labels_of
from pkdzoo.ops.reduce import mean_over_ranks
from pkdzoo.structures import IGNORE, DenseTargets, Instances
from pkdzoo.utils.precision import float32_or_wider

Match = Callable[[int, Tensor, Instances], Tensor]


@torch.no_grad()
def targets_from(match: Match, instances: list[Instances], valid: Tensor, background: int) -> DenseTargets:
    """Match the valid priors of each image, and collect the targets of the batch.

    Args:
        match: called with the index of an image, the indices (p,) of its valid priors, and its objects; returns (p,)
            int64, for each of these priors the index of the matched object, ``NEGATIVE`` or ``SKIPPED``.
        instances: objects of each image.
        valid: (B, P) bool; all other priors get the label ``IGNORE``.
        background: label of background, the number of classes.

    Returns:
        Targets. ``quality`` is 1 for positives, ``num_pos`` their number, at least 1 per image, as a mean over ranks.
    """
    labels = torch.full(valid.shape, IGNORE, device=valid.device)
    matched = torch.full(valid.shape, NEGATIVE, device=valid.device)
    boxes = torch.zeros(*valid.shape, 4, device=valid.device, dtype=box_dtype(instances))
    for i, objects in enumerate(instances):
        index = valid[i].nonzero().squeeze(1)
        matches = match(i, index, objects)
        labels[i, index] = labels_of(matches, objects.labels, background)
        matched[i, index] = matches.clamp(min=NEGATIVE)
        if len(objects):
            boxes[i, index] = objects.boxes[matches.clamp(min=0)].to(boxes.dtype)
    positive = (labels >= 0) & (labels < background)
    num_pos = mean_over_ranks(positive.sum(dim=1).clamp(min=1).sum().float())
    return DenseTargets(labels, boxes, positive.float(), num_pos, matched)


def box_dtype(instances: list[Instances]) -> torch.dtype:
    """In which type boxes of targets are stored: float64 for objects whose boxes are float64, otherwise float32."""
    return float32_or_wider(instances[0].boxes).dtype if instances else torch.float32
