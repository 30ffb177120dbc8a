"""Focal loss on class logits whose target is one label a prior (Lin et al. 2017).

The number equals torchvision's ``sigmoid_focal_loss`` on one-hot targets. Nearly every logit of a dense detector is
background, so all are taken for it and the few that are a class put right: neither a (P, C) target nor a mask is made.
The gradient is written down with the loss, block by block in a CPU's cache, instead of keeping what autograd needs to
find it again: a quarter of the time and of the memory, or less.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pkdzoo.losses.analytic import refuse_second_derivative, traced
from pkdzoo.structures import IGNORE

_BLOCK = 1 << 18  # logits a CPU takes at once


def sigmoid_focal(logits: Tensor, labels: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sum of the focal loss over priors and classes; its gradient cannot be differentiated again.

    Args:
        logits: (..., C).
        labels: (...) int64: ``0 .. C-1`` a class, ``C`` background, ``-1`` counts for nothing.
        alpha: weight of positives; negatives weigh ``1 - alpha``.
        gamma: how fast easy examples lose weight; 0 gives alpha-balanced cross entropy.

    Returns:
        () scalar, to be divided by the caller's normaliser; float32 where logits have fewer bits.
    """
    total: Tensor = _SigmoidFocal.apply(logits, labels, alpha, gamma)
    return total


class _SigmoidFocal(torch.autograd.Function):
    """The loss, and its gradient found on the way."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, alpha: float, gamma: float) -> Tensor:
        rows, wanted = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
        wide = torch.promote_types(logits.dtype, torch.float32)
        grad, total = torch.empty_like(rows, dtype=wide), torch.zeros((), dtype=wide, device=logits.device)
        whole = logits.device.type != "cpu" or traced(logits)
        step = max(1, len(rows) if whole else _BLOCK // rows.shape[1])
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            loss, grad[part] = _focal_of_rows(rows[part].to(wide), wanted[part], alpha, gamma)
            total = total + loss
        ctx.save_for_backward(grad.view_as(logits))
        ctx.dtype = logits.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        refuse_second_derivative("the focal loss")
        (grad,) = ctx.saved_tensors
        # rounded to the logits' type once it is scaled: what a scaler of losses lifts above float16's smallest stays
        return (grad * grads[0]).to(ctx.dtype), None, None, None


def _focal_of_rows(logits: Tensor, labels: Tensor, alpha: float, gamma: float) -> tuple[Tensor, Tensor]:
    """Loss () of (P, C) logits and (P,) labels, and its gradient (P, C)."""
    loss, grad = _as_background(logits, gamma)
    weight = torch.where(labels == IGNORE, 0.0, 1 - alpha).to(logits.dtype)
    grad.mul_(weight[:, None])
    at = labels.clamp(0, logits.shape[1] - 1)[:, None]
    positive = labels[:, None] == at
    own, slope = _as_background(-logits.gather(1, at), gamma)  # a class is missed as background is hit
    loss.scatter_(1, at, torch.where(positive, 0.0, loss.gather(1, at)))
    grad.scatter_(1, at, torch.where(positive, -alpha * slope, grad.gather(1, at)))
    # sums, not a product of vectors, which autocast would compute in half precision: over 65,504 infinite in float16
    return (loss.sum(1) * weight).sum() + alpha * torch.where(positive, own, 0.0).sum(), grad


def _as_background(logits: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """``p^gamma * -log(1 - p)`` and its derivative by the logit, unweighted; of the logits' shape."""
    p = logits.sigmoid()
    power = p * p if gamma == 2.0 else p**gamma
    loss = power * F.softplus(logits)
    return loss, power.mul_(p).addcmul_(loss, 1 - p, value=gamma)


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
