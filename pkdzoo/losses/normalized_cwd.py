"""CWD of normalized maps, the loss of the published RTMDet students, with an analytic gradient.

Each channel is normalized as batch norm does it in training, ``z = (x - mean) * k`` with ``k = 1 / sqrt(var + EPS)``,
and CWD compares the distributions ``p = softmax(z / T)`` of student and teacher over the locations of each image.
``normalize_by_batch`` and :func:`pkdzoo.losses.cwd` are the plain form, which autograd differentiates; it stores
normalized maps and distributions until the backward pass. ``norm_cwd`` keeps the two raw maps, which exist anyway, and
a few numbers per channel:

    dL/dx = T * k / (N * C) * (p_s - p_t - e * z / M),   e = sum over N, H, W of (p_s - p_t) * z,   M = N * H * W
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pkdzoo.losses.analytic import is_traced, refuse_second_derivative
from pkdzoo.losses.correlation import BLOCK, check_maps
from pkdzoo.utils.precision import float32_or_wider

EPS = 1e-5  # is added to the variance, as in batch norm


def norm_cwd(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """CWD between maps whose channels are normalized by the statistics of the batch, without trained scale or offset.

    Statistics and distributions are float32 (float64 for float64 maps) under any autocast.

    Args:
        student: (N, C, H, W).
        teacher: (N, C, H, W); gets no gradient.
        temperature: of the softmax over H*W.

    Returns:
        () ``temperature**2`` times the mean over N and C of ``KL(teacher || student)``.

    Raises:
        ValueError: for maps of different shapes.
        RuntimeError: when its gradient is differentiated again.

    Example:
        >>> import torch
        >>> from pkdzoo.losses import norm_cwd
        >>> student = torch.randn(2, 8, 16, 16)
        >>> print(f"{norm_cwd(student, 3 * student + 5).abs():.3f}")  # gain and offset of a channel do not matter
        0.000
    """
    check_maps(student, teacher)
    loss: Tensor = _NormCWD.apply(student, teacher.detach(), float(temperature))
    return loss


def normalize_by_batch(maps: Tensor) -> Tensor:
    """Batch norm with the batch's own statistics: (N, C, H, W) -> the same shape, in float32.

    Unlike torch's ``batch_norm`` it accepts one value per channel, which becomes zero.

    Args:
        maps: (N, C, H, W).

    Example:
        >>> import torch
        >>> from pkdzoo.losses.normalized_cwd import normalize_by_batch
        >>> print(f"{normalize_by_batch(torch.rand(2, 3, 8, 8)).square().mean():.2f}")
        1.00
    """
    maps = float32_or_wider(maps)
    variance, mean = torch.var_mean(maps, dim=(0, 2, 3), correction=0, keepdim=True)
    return (maps - mean) * (variance + EPS).rsqrt()


def _channels(x: Tensor) -> Iterator[slice]:
    """A map in parts of some channels: a CPU is faster on parts that fit its cache. Other devices take it at once."""
    if x.device.type != "cpu" or is_traced(x):
        return iter([slice(None)])
    step = max(1, BLOCK * x.shape[1] // max(x.numel(), 1))
    return (slice(start, start + step) for start in range(0, x.shape[1], step))


def _rows(x: Tensor, part: slice) -> Tensor:
    """A copy of some channels as (N, c, H*W) in float32."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return x[:, part].to(wide, copy=True, memory_format=torch.contiguous_format).flatten(2)


class _NormCWD(torch.autograd.Function):
    """The loss with its analytic gradient; the formula is at the top of the file."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        numbers, losses = [], []
        for part in _channels(student):
            (z, *own), (theirs, *other) = (_normalized(x, part) for x in (student, teacher))
            shift = (z.div(temperature).logsumexp(-1, True), theirs.div(temperature).logsumexp(-1, True))
            log_t = theirs.div_(temperature).sub_(shift[1])
            log_s = z / temperature - shift[0]
            p_t = log_t.exp()
            losses.append((p_t * log_t.sub_(log_s)).sum(-1))
            error = (log_s.exp_().sub_(p_t).mul_(z)).sum((0, 2), keepdim=True)
            numbers.append((*own, shift[0], *other, shift[1], error))
        ctx.save_for_backward(student, teacher, *(torch.cat(each, dim=1) for each in zip(*numbers)))
        ctx.temperature = temperature
        return temperature**2 * torch.cat(losses, dim=1).mean()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None]:
        refuse_second_derivative("normalized CWD")
        student, teacher, *numbers = ctx.saved_tensors
        images, channels, height, width = student.shape
        scale = grads[0] * ctx.temperature / (images * channels)
        out = torch.empty_like(student)
        for part in _channels(student):
            mean_s, k_s, shift_s, mean_t, k_t, shift_t, error = (each[:, part] for each in numbers)
            p_t = _rows(teacher, part).sub_(mean_t).mul_(k_t / ctx.temperature).sub_(shift_t).exp_()
            z = _rows(student, part).sub_(mean_s).mul_(k_s)
            p_s = z.div(ctx.temperature).sub_(shift_s).exp_()
            slope = p_s.sub_(p_t).sub_(z.mul_(error / (images * height * width))).mul_(k_s * scale)
            out[:, part] = slope.view(images, -1, height, width)
        return out, None, None


def _normalized(x: Tensor, part: slice) -> tuple[Tensor, Tensor, Tensor]:
    """Some channels normalized, (N, c, H*W), with their mean and factor, (1, c, 1) each."""
    rows = _rows(x, part)
    variance, mean = torch.var_mean(rows, dim=(0, 2), correction=0, keepdim=True)
    factor = (variance + EPS).rsqrt()
    return rows.sub_(mean).mul_(factor), mean, factor
