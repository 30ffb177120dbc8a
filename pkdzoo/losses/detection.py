"""Losses of detectors on class scores, on boxes, and on distributions of box sides.

- Focal loss (Lin et al. 2017, arXiv:1708.02002): the target is one label per prior.
- Quality focal loss and distribution focal loss (Li et al. 2020, arXiv:2006.04388): the class target is a quality.
- ``1 - GIoU`` (Rezatofighi et al. 2019) and ``-ln IoU`` (UnitBox, FCOS) of pairs of boxes.

The value of ``sigmoid_focal`` equals torchvision's ``sigmoid_focal_loss`` on one-hot targets. Nearly every logit of a
dense detector is background, so the loss is computed as if all were background and corrected at the few logits of a
class: neither a (P, C) target nor a mask is made. The gradient is computed together with the loss, block by block in a
CPU's cache, instead of storing what autograd needs to compute it later: at most a quarter of the time and memory.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pkdzoo.losses.analytic import is_traced, refuse_second_derivative
from pkdzoo.ops.boxes import paired_giou, paired_iou
from pkdzoo.structures import IGNORE

_BLOCK = 1 << 18  # logits that a CPU processes at a time


def sigmoid_focal(logits: Tensor, labels: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sum of the focal loss over priors and classes; its gradient cannot be differentiated again.

    Args:
        logits: (..., C).
        labels: (...) int64: ``0 .. C-1`` a class, ``C`` background, ``-1`` ignored.
        alpha: weight of positives; that of negatives is ``1 - alpha``.
        gamma: how fast easy examples lose weight; 0 gives alpha-balanced cross entropy.

    Returns:
        () to be divided by the caller's normalizer; float32 where logits have fewer bits.

    Raises:
        RuntimeError: when its gradient is differentiated again.

    Example:
        >>> import torch
        >>> from pkdzoo.losses import sigmoid_focal
        >>> labels = torch.tensor([0, 2, 3, -1])  # two classes, background, ignored
        >>> print(f"{sigmoid_focal(torch.zeros(4, 3), labels):.3f}")
        0.996
    """
    total: Tensor = _SigmoidFocal.apply(logits, labels, alpha, gamma)
    return total


class _SigmoidFocal(torch.autograd.Function):
    """The loss, and its gradient computed in the forward pass."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, alpha: float, gamma: float) -> Tensor:
        rows, targets = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
        wide = torch.promote_types(logits.dtype, torch.float32)
        grad, total = torch.empty_like(rows, dtype=wide), torch.zeros((), dtype=wide, device=logits.device)
        whole = logits.device.type != "cpu" or is_traced(logits)
        step = max(1, len(rows) if whole else _BLOCK // rows.shape[1])
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            loss, grad[part] = _focal_of_rows(rows[part].to(wide), targets[part], alpha, gamma)
            total = total + loss
        ctx.save_for_backward(grad.view_as(logits))
        ctx.dtype = logits.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        refuse_second_derivative("the focal loss")
        (grad,) = ctx.saved_tensors
        # rounded to the logits' type after scaling: values that a loss scaler lifts above float16's smallest are kept
        return (grad * grads[0]).to(ctx.dtype), None, None, None


def _focal_of_rows(logits: Tensor, labels: Tensor, alpha: float, gamma: float) -> tuple[Tensor, Tensor]:
    """Loss () of (P, C) logits and (P,) labels, and its gradient (P, C)."""
    loss, grad = _as_background(logits, gamma)
    weight = torch.where(labels == IGNORE, 0.0, 1 - alpha).to(logits.dtype)
    grad.mul_(weight[:, None])
    at = labels.clamp(0, logits.shape[1] - 1)[:, None]
    positive = labels[:, None] == at
    own, slope = _as_background(-logits.gather(1, at), gamma)  # the loss of a class at x is that of background at -x
    loss.scatter_(1, at, torch.where(positive, 0.0, loss.gather(1, at)))
    grad.scatter_(1, at, torch.where(positive, -alpha * slope, grad.gather(1, at)))
    # sums, not a product of vectors: autocast would compute that in float16, where values above 65,504 are infinite
    return (loss.sum(1) * weight).sum() + alpha * torch.where(positive, own, 0.0).sum(), grad


def _as_background(logits: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """``p^gamma * -log(1 - p)`` and its derivative by the logit, unweighted; of the logits' shape."""
    p = logits.sigmoid()
    power = p * p if gamma == 2.0 else p**gamma
    loss = power * F.softplus(logits)
    return loss, power.mul_(p).addcmul_(loss, 1 - p, value=gamma)


def cross_entropy_of_probabilities(probabilities: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy of probabilities, element by element; finite, with finite gradient, at 0 and 1 too.

    torch's ``binary_cross_entropy`` has the same values but refuses to run under autocast.

    Args:
        probabilities: any shape, in 0..1.
        target: of the same shape, in 0..1.

    Returns:
        The loss, of the same shape.

    Example:
        >>> import torch
        >>> from pkdzoo.losses import cross_entropy_of_probabilities
        >>> print(f"{cross_entropy_of_probabilities(torch.tensor(0.5), torch.tensor(1.0)):.3f}")
        0.693
    """
    least = torch.finfo(probabilities.dtype).tiny
    yes, no = probabilities.clamp(min=least).log(), (1 - probabilities).clamp(min=least).log()
    return -(target * yes + (1 - target) * no)


def focal_of_probabilities(probabilities: Tensor, labels: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """:func:`sigmoid_focal` for a head that gives probabilities (TOOD).

    Args:
        probabilities: (..., C) in 0..1.
        labels: as of :func:`sigmoid_focal`; likewise the other arguments and the result.
        alpha: weight of positives.
        gamma: how fast easy examples lose weight.

    Example:
        >>> import torch
        >>> from pkdzoo.losses import focal_of_probabilities
        >>> labels = torch.tensor([0, 2, 3, -1])
        >>> print(f"{focal_of_probabilities(torch.full((4, 3), 0.5), labels):.3f}")
        0.996
    """
    classes = probabilities.shape[-1]
    target = labels[..., None] == torch.arange(classes, device=labels.device)
    miss = torch.where(target, 1 - probabilities, probabilities)
    loss = cross_entropy_of_probabilities(probabilities, target.to(probabilities.dtype)) * torch.where(
        target, alpha, 1 - alpha
    )
    return torch.where(labels[..., None] == IGNORE, 0.0, loss * miss.pow(gamma)).sum()


def one_hot_quality(labels: Tensor, quality: Tensor, classes: int) -> Tensor:
    """Class targets with a quality instead of 1.

    Args:
        labels: (...) int64: ``0 .. C-1`` a class, other values no class.
        quality: (...).
        classes: C.

    Returns:
        (..., C) ``quality`` at each prior's own class and 0 elsewhere.

    Example:
        >>> import torch
        >>> from pkdzoo.losses import one_hot_quality
        >>> one_hot_quality(torch.tensor([1, 2]), torch.tensor([0.5, 0.0]), 2).tolist()  # the second is background
        [[0.0, 0.5], [0.0, 0.0]]
    """
    own = labels[..., None] == torch.arange(classes, device=labels.device)
    return torch.where(own, quality[..., None], 0.0)


def quality_focal(logits: Tensor, labels: Tensor, quality: Tensor, beta: float = 2.0) -> Tensor:
    """Sum of the quality focal loss: cross entropy with a soft target, weighted by the distance to it.

    Args:
        logits: (..., C).
        labels: (...) int64: ``0 .. C-1`` a class, ``C`` background, ``-1`` ignored.
        quality: (...) in 0..1, target score of the prior's class; without effect where there is none.
        beta: how fast scores near their target lose weight; 0 gives cross entropy.

    Returns:
        () to be divided by the caller's normalizer.

    Example:
        >>> import torch
        >>> from pkdzoo.losses import quality_focal
        >>> print(f"{quality_focal(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([0.5])):.3f}")
        0.173
    """
    target = one_hot_quality(labels, quality, logits.shape[-1])
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    loss = loss * (target - logits.sigmoid()).abs().pow(beta)
    return torch.where(labels[..., None] == IGNORE, 0.0, loss).sum()


def quality_focal_of_probabilities(probabilities: Tensor, labels: Tensor, quality: Tensor, beta: float = 2.0) -> Tensor:
    """:func:`quality_focal` for a head that gives probabilities (TOOD).

    Args:
        probabilities: (..., C) in 0..1.
        labels: as of :func:`quality_focal`; likewise the other arguments and the result.
        quality: (...) in 0..1.
        beta: how fast scores near their target lose weight.

    Example:
        >>> import torch
        >>> from pkdzoo.losses import quality_focal_of_probabilities
        >>> loss = quality_focal_of_probabilities(torch.full((1, 2), 0.5), torch.tensor([0]), torch.tensor([0.5]))
        >>> print(f"{loss:.3f}")
        0.173
    """
    target = one_hot_quality(labels, quality, probabilities.shape[-1])
    loss = cross_entropy_of_probabilities(probabilities, target) * (target - probabilities).abs().pow(beta)
    return torch.where(labels[..., None] == IGNORE, 0.0, loss).sum()


def distribution_focal(logits: Tensor, value: Tensor) -> Tensor:
    """Cross entropy of a distribution over 0, 1, ..., n with the two integers around a value.

    Args:
        logits: (..., n + 1).
        value: (...) in 0 .. n, less than n.

    Returns:
        (...) loss of each distribution.

    Example:
        >>> import torch
        >>> from pkdzoo.losses import distribution_focal
        >>> print(f"{distribution_focal(torch.zeros(4), torch.tensor(1.5)):.3f}")
        1.386
    """
    left = value.floor()
    share = value - left  # of the integer above
    log_probabilities = logits.log_softmax(dim=-1)
    below = left.long()[..., None]
    pair = torch.cat([log_probabilities.gather(-1, below), log_probabilities.gather(-1, below + 1)], dim=-1)
    return -(pair[..., 0] * (1 - share) + pair[..., 1] * share)


def giou_loss(predicted: Tensor, target: Tensor, eps: float = 1e-6) -> Tensor:
    """``1 - GIoU`` of each pair of boxes.

    Args:
        predicted: (..., 4) xyxy.
        target: (..., 4) xyxy.
        eps: lower limit of denominators.

    Returns:
        (...) in 0..2.

    Example:
        >>> import torch
        >>> from pkdzoo.losses import giou_loss
        >>> box = torch.tensor([0.0, 0.0, 10.0, 10.0])
        >>> print(f"{giou_loss(box, box):.3f} {giou_loss(box, box + 10):.3f}")
        0.000 1.500
    """
    return 1 - paired_giou(predicted, target, eps)


def iou_log_loss(predicted: Tensor, target: Tensor, eps: float = 1e-6) -> Tensor:
    """``-ln IoU`` of each pair of boxes (UnitBox, FCOS).

    Args:
        predicted: (..., 4) xyxy.
        target: (..., 4) xyxy.
        eps: lower limit of IoU and of denominators.

    Returns:
        (...) at least 0.

    Example:
        >>> import torch
        >>> from pkdzoo.losses import iou_log_loss
        >>> box = torch.tensor([0.0, 0.0, 10.0, 10.0])
        >>> print(f"{iou_log_loss(box, box / 2):.3f}")
        1.386
    """
    return -paired_iou(predicted, target, eps).clamp(min=eps).log()
