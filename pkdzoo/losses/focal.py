"""Focal loss on class logits whose target is one label a prior (Lin et al. 2017).

The number equals torchvision's ``sigmoid_focal_loss`` on one-hot targets; taking labels saves the (P, C) target
tensor and lets ignored priors (label -1) drop out without a mask tensor of their own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pkdzoo.structures import IGNORE


def sigmoid_focal(logits: Tensor, labels: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sum of the focal loss over priors and classes.

    Args:
        logits: (..., C).
        labels: (...) int64: ``0 .. C-1`` a class, ``C`` background, ``-1`` counts for nothing.
        alpha: weight of positives; negatives weigh ``1 - alpha``.
        gamma: how fast easy examples lose weight; 0 gives alpha-balanced cross entropy.

    Returns:
        () scalar, to be divided by the caller's normaliser.
    """
    classes = logits.shape[-1]
    target = labels[..., None] == torch.arange(classes, device=labels.device)  # (..., C) bool
    probability = logits.sigmoid()
    miss = torch.where(target, 1 - probability, probability)
    balance = torch.where(target, alpha, 1 - alpha)
    loss = F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none") * balance
    loss = loss * (miss * miss if gamma == 2.0 else miss**gamma)
    return torch.where(labels[..., None] == IGNORE, 0.0, loss).sum()


def cross_entropy_of(probabilities: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy of probabilities, one value each; finite, with finite gradient, at 0 and 1 too.

    torch's ``binary_cross_entropy`` is the same number but refuses to run under autocast.

    Args:
        probabilities: any shape, in 0..1.
        target: of the same shape, in 0..1.
    """
    least = torch.finfo(probabilities.dtype).tiny
    yes, no = probabilities.clamp(min=least).log(), (1 - probabilities).clamp(min=least).log()
    return -(target * yes + (1 - target) * no)


def focal_of(probabilities: Tensor, labels: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """:func:`sigmoid_focal` for a head that gives probabilities (TOOD); arguments and result are the same."""
    classes = probabilities.shape[-1]
    target = labels[..., None] == torch.arange(classes, device=labels.device)
    miss = torch.where(target, 1 - probabilities, probabilities)
    loss = cross_entropy_of(probabilities, target.to(probabilities.dtype)) * torch.where(target, alpha, 1 - alpha)
    return torch.where(labels[..., None] == IGNORE, 0.0, loss * miss.pow(gamma)).sum()
