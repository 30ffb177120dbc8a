"""Losses between distributions of student and teacher: CWD, PKD in its KL form, and CrossKD's two losses."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from pkdzoo.losses.correlation import check_maps, normalize_channels
from pkdzoo.utils.precision import float32_or_wider


def cwd(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Channel-wise distillation (Shu et al. 2021): KL between channels as distributions over the locations of an image.

    As mmrazor's ChannelWiseDivergence without its weight.

    Args:
        student: (N, C, H, W).
        teacher: (N, C, H, W); gets no gradient.
        temperature: of the softmax over H*W; mmrazor calls it ``tau``.

    Returns:
        () ``temperature**2`` times the mean over N and C of ``KL(teacher || student)``.

    Raises:
        ValueError: for maps of different shapes.

    Example:
        >>> import torch
        >>> from pkdzoo.losses import cwd
        >>> student = torch.randn(2, 8, 16, 16)
        >>> print(f"{cwd(student, student + 5).abs():.3f}")  # the offset of a channel does not matter
        0.000
    """
    check_maps(student, teacher)
    rows = [float32_or_wider(x).flatten(2) / temperature for x in (student, teacher)]
    return temperature**2 * kl_divergence(*rows).mean()


def norm_kl(student: Tensor, teacher: Tensor, temperature: float = 50.0) -> Tensor:
    """PKD in its KL form (paper section 3.4): softmax of the normalized channels over all N*H*W locations.

    No code of it was released and the reduction over channels is not printed. With the mean over channels, value and
    gradient converge to those of :func:`pearson` as the temperature grows, which is what the paper states.

    Args:
        student: (N, C, H, W).
        teacher: (N, C, H, W); gets no gradient.
        temperature: T.

    Returns:
        () ``T**2`` times the mean over channels of ``KL(teacher || student)``.

    Raises:
        ValueError: for maps of different shapes.

    Example:
        >>> import torch
        >>> from pkdzoo.losses import norm_kl
        >>> student = torch.randn(2, 8, 16, 16)
        >>> print(f"{norm_kl(student, 3 * student + 5).abs():.2f}")  # gain and offset of a channel do not matter
        0.00
    """
    check_maps(student, teacher)
    rows = [normalize_channels(x).transpose(0, 1).flatten(1) / temperature for x in (student, teacher.detach())]
    return temperature**2 * kl_divergence(*rows).mean()


def distilled_quality_focal(student: Tensor, teacher: Tensor, weight: Tensor, beta: float = 1.0) -> Tensor:
    """CrossKD's class loss: cross entropy with the teacher's scores, weighted by the distance to them.

    Args:
        student: (..., C) logits.
        teacher: (..., C) logits; gets no gradient.
        weight: (...) of each prior.
        beta: how fast scores that agree lose weight; the weighting itself passes gradient.

    Returns:
        () sum over priors and classes, to be divided by the caller's normalizer.

    Example:
        >>> import torch
        >>> from pkdzoo.losses import distilled_quality_focal
        >>> logits = torch.randn(100, 80)
        >>> float(distilled_quality_focal(logits, logits, torch.ones(100)))
        0.0
    """
    target = teacher.detach().sigmoid()
    loss = F.binary_cross_entropy_with_logits(student, target, reduction="none")
    loss = loss * (student.sigmoid() - target).abs().pow(beta)
    return (loss * weight[..., None]).sum()


def kl_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """``KL(teacher || student)`` of logits along the last dimension.

    Args:
        student: (..., n) logits.
        teacher: (..., n) logits; gets no gradient.

    Returns:
        (...).

    Example:
        >>> import torch
        >>> from pkdzoo.losses import kl_divergence
        >>> logits = torch.tensor([[1.0, 2.0, 3.0]])
        >>> kl_divergence(logits, logits + 5).tolist()  # softmax does not depend on an offset
        [0.0]
    """
    teacher = teacher.detach()
    return F.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), reduction="none", log_target=True).sum(-1)
