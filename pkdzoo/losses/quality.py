"""Losses whose class target is a quality, and the loss of a distribution (Li et al. 2020, arXiv:2006.04388)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pkdzoo.losses.focal import cross_entropy_of
from pkdzoo.structures import IGNORE


def one_hot_quality(labels: Tensor, quality: Tensor, classes: int) -> Tensor:
    """``quality`` at each prior's own class and 0 elsewhere: (...) and (...) -> (..., C); background is all 0."""
    own = labels[..., None] == torch.arange(classes, device=labels.device)
    return torch.where(own, quality[..., None], 0.0)


def quality_focal(logits: Tensor, labels: Tensor, quality: Tensor, beta: float = 2.0) -> Tensor:
    """Sum of the quality focal loss: cross entropy with a soft target, weighted by the distance to it.

    Args:
        logits: (..., C).
        labels: (...) int64: ``0 .. C-1`` a class, ``C`` background, ``-1`` counts for nothing.
        quality: (...) in 0..1, wanted score of the prior's class; of no meaning where there is none.
        beta: how fast good answers lose weight; 0 gives cross entropy.

    Returns:
        () scalar, to be divided by the caller's normaliser.
    """
    target = one_hot_quality(labels, quality, logits.shape[-1])
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    loss = loss * (target - logits.sigmoid()).abs().pow(beta)
    return torch.where(labels[..., None] == IGNORE, 0.0, loss).sum()


def quality_focal_of(probabilities: Tensor, labels: Tensor, quality: Tensor, beta: float = 2.0) -> Tensor:
    """:func:`quality_focal` for a head that gives probabilities (TOOD); arguments and result are the same."""
    target = one_hot_quality(labels, quality, probabilities.shape[-1])
    loss = cross_entropy_of(probabilities, target) * (target - probabilities).abs().pow(beta)
    return torch.where(labels[..., None] == IGNORE, 0.0, loss).sum()


def distribution_focal(logits: Tensor, value: Tensor) -> Tensor:
    """Cross entropy of a distribution over 0, 1, ..., n with the two whole numbers around a value.

    Args:
        logits: (..., n + 1).
        value: (...) in 0 .. n, less than n.

    Returns:
        (...) loss of each distribution.
    """
    left = value.floor()
    share = value - left  # of the number to the right
    chances = logits.log_softmax(dim=-1)
    near = left.long()[..., None]
    pair = torch.cat([chances.gather(-1, near), chances.gather(-1, near + 1)], dim=-1)
    return -(pair[..., 0] * (1 - share) + pair[..., 1] * share)
