"""From the match of each prior to the targets of a whole batch: what most dense detectors share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pkdzoo.models.assigners.max_iou import NEGATIVE, labels_of
from pkdzoo.ops.reduce import mean_over_ranks
from pkdzoo.structures import IGNORE, DenseTargets, Instances

Match = Callable[[int, Tensor, Instances], Tensor]


@torch.no_grad()
def targets_from(match: Match, instances: list[Instances], valid: Tensor, background: int) -> DenseTargets:
    """Ask for the match of each image's valid priors and write it out for all priors.

    Args:
        match: called with the image's index, the (p,) indices of its valid priors and its objects; answers with the
            object of each of these priors, ``NEGATIVE`` or ``SKIPPED``, (p,) int64.
        instances: objects of each image.
        valid: (B, P) bool; other priors are ignored.
        background: the number of classes.

    Returns:
        Targets without quality. ``num_pos`` counts at least one positive an image, and is the mean over ranks.
    """
    labels = torch.full(valid.shape, IGNORE, device=valid.device)
    matched = torch.full(valid.shape, NEGATIVE, device=valid.device)
    boxes = torch.zeros(*valid.shape, 4, device=valid.device)
    for i, objects in enumerate(instances):
        inside = valid[i].nonzero().squeeze(1)
        found = match(i, inside, objects)
        labels[i, inside] = labels_of(found, objects.labels, background)
        matched[i, inside] = found.clamp(min=NEGATIVE)
        if len(objects):
            boxes[i, inside] = objects.boxes[found.clamp(min=0)].to(boxes.dtype)
    positives = ((labels >= 0) & (labels < background)).sum(dim=1)
    return DenseTargets(labels, boxes, None, mean_over_ranks(positives.clamp(min=1).sum().float()), matched)
