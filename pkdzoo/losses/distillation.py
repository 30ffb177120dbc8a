"""Losses that make one feature map imitate another: PKD's Pearson loss and its relatives.

PKD (Cao et al. 2022, arXiv:2207.02039) normalises every channel of both maps to mean 0 and deviation 1 over the batch
and takes half the mean squared difference, which is 1 minus the Pearson correlation. As mmrazor's PKDLoss: unbiased
deviation, ``EPS`` added to it, mean over channels (the paper's equation 2 writes one channel only).

The formula stands here twice. ``normalize`` is the plain form, which autograd differentiates and other methods share.
``pearson`` never stores a normalised map: per channel the gradient is an affine function of the two raw maps,

    dL/ds = (P * (s - mean_s) - Q * (t - mean_t)) / (C * M),   Q = 1 / (a * b),   a = std_s + EPS,   b = std_t + EPS,
    P = EPS / a**3 + cov(s, t) / (std_s * a**2 * b),           M = N * H * W

so nothing but a few numbers a channel has to be kept between forward and backward.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pkdzoo.losses.analytic import refuse_second_derivative, traced
from pkdzoo.ops.reduce import sum_over_ranks, world_size

EPS = 1e-6
CLOSE = 0.05  # 1 - r below which the loss is not computed from moments: float32 sums leave it 1e-7 / CLOSE
_DIMS = (0, 2, 3)  # every dimension but the channels
_BLOCK = 1 << 19  # values of one map that a CPU works on at a time: they stay in its cache


def pearson(student: Tensor, teacher: Tensor, sync: bool = False) -> Tensor:
    """PKD's loss between two maps: half the mean squared difference after normalising each channel.

    Equal to ``mean over channels of (M - 1) / M * (1 - r)`` up to ``EPS``, with r the Pearson correlation and M the
    values of a channel. Statistics are float32 (float64 for float64 maps) whatever the autocast, and are taken
    relative to a value of the channel, so a large mean costs no precision. A channel without variation in the student
    gets gradient exactly 0 and still counts ``(M - 1) / (2 M)``; without variation in both maps, or with a single
    value a channel, it counts 0.

    Args:
        student: (N, C, H, W).
        teacher: (N, C, H, W); gets no gradient.
        sync: take the statistics over all processes. The mean of the processes' losses is then the loss of their
            joint batch, and averaged gradients are its gradients. The published recipes don't.

    Returns:
        () in 0..2, unweighted.
    """
    return pearson_correlation(student, teacher, sync)[0]


def pearson_correlation(student: Tensor, teacher: Tensor, sync: bool = False) -> tuple[Tensor, Tensor]:
    """The loss of :func:`pearson` and, to watch, the Pearson r it stands for.

    Returns:
        The loss and the mean of r over channels (-1..1, 0 for a channel without variation), which has no gradient.
    """
    check_maps(student, teacher)
    loss, correlation = _Pearson.apply(student, teacher.detach(), sync)
    return loss, correlation


def normalize(maps: Tensor, sync: bool = False) -> Tensor:
    """Every channel to mean 0 and deviation 1 over N, H and W, with gradient through both; in float32.

    Args:
        maps: (N, C, H, W).
        sync: statistics over all processes.

    Returns:
        (N, C, H, W). Channels without variation give 0, with gradient 0.
    """
    centred, _, std = centre(maps, sync)
    return centred * inverse(std)


def inverse(std: Tensor) -> Tensor:
    """``1 / (std + EPS)``, and 0 where nothing varies: there a gradient of ``1 / EPS`` would pass."""
    return (std > 0) / (std + EPS)


def centre(maps: Tensor, sync: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Maps minus the mean of each channel, that mean, and the unbiased deviation, over N, H and W.

    Args:
        maps: (N, C, H, W).
        sync: statistics over all processes.

    Returns:
        (N, C, H, W), (1, C, 1, 1) and (1, C, 1, 1) in float32, with gradient.
    """
    maps = _widen(maps)
    anchor = _anchor(maps)
    centred = maps - anchor  # a channel without variation becomes exactly 0
    count = float(maps.numel() // maps.shape[1])
    shift = centred.sum(_DIMS, keepdim=True)
    if sync:
        own = anchor.double() * count + shift.double()  # sums of this process
        total = sum_over_ranks(torch.cat([own.flatten(), own.new_tensor([count])]))
        count = float(total[-1].detach())
        shift_mean = (total[:-1].view_as(own) / count - anchor).to(maps.dtype)
    else:
        shift_mean = shift / count
    centred = centred - shift_mean
    squares = centred.square().sum(_DIMS, keepdim=True)
    if sync:
        squares = sum_over_ranks(squares)
    variance = squares / max(count - 1, 1)
    alive = variance > 0
    std = torch.where(alive, variance, 1).sqrt() * alive  # sqrt(0) has no slope: keep it out of the graph
    return centred, anchor + shift_mean, std


def cwd(student: Tensor, teacher: Tensor, tau: float = 1.0) -> Tensor:
    """Channel-wise distillation (Shu et al. 2021): KL between the channels as distributions over places.

    As mmrazor's ChannelWiseDivergence without its weight.

    Args:
        student: (N, C, H, W).
        teacher: (N, C, H, W); gets no gradient.
        tau: temperature of the softmax over H*W.

    Returns:
        () ``tau**2`` times the mean over N and C of ``KL(teacher || student)``.
    """
    check_maps(student, teacher)
    return tau**2 * _kl(_widen(student).flatten(2) / tau, _widen(teacher.detach()).flatten(2) / tau).mean()


def norm_kl(student: Tensor, teacher: Tensor, temperature: float = 50.0) -> Tensor:
    """PKD in its KL form (paper section 3.4): softmax of the normalised channels over all N*H*W places.

    No code of it was released and the reduction over channels is not printed; with the mean over channels value and
    gradient go to those of :func:`pearson` as the temperature grows, which is what the paper states.

    Args:
        student: (N, C, H, W).
        teacher: (N, C, H, W); gets no gradient.
        temperature: T.

    Returns:
        () ``T**2`` times the mean over channels of ``KL(teacher || student)``.
    """
    check_maps(student, teacher)
    rows = [normalize(x).transpose(0, 1).flatten(1) / temperature for x in (student, teacher.detach())]
    return temperature**2 * _kl(*rows).mean()


def check_maps(student: Tensor, teacher: Tensor) -> None:
    """Both must be (N, C, H, W) and equal in shape."""
    if student.ndim != 4 or student.shape != teacher.shape:
        raise ValueError(
            f"two maps (N, C, H, W) of one shape are compared, got {tuple(student.shape)} and {tuple(teacher.shape)}; "
            "pkdzoo.distill.pairing resizes and refuses pyramids"
        )


def _kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of logits along the last dimension."""
    return F.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), reduction="none", log_target=True).sum(-1)


def _widen(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _anchor(x: Tensor) -> Tensor:
    """A value near the mean of each channel that the channel really has, (1, C, 1, 1).

    Moments relative to it don't cancel when the mean is large, and a channel without variation becomes exactly 0,
    which no computed mean guarantees. The median of a few places, so that an outlier is not taken.
    """
    x = x.detach()
    rows, columns = (-(-side // 4) for side in x.shape[-2:])
    few = x[:4, :, rows // 2 :: rows, columns // 2 :: columns].transpose(0, 1).flatten(1)
    return _widen(few.median(dim=1).values)[None, :, None, None]


Block = tuple[tuple[slice, ...], slice]  # places in a map, and the channels they have


def _layout(x: Tensor) -> torch.memory_format:
    """How a map lies in memory."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def _blocks(x: Tensor) -> Iterator[Block]:
    """A map in parts: a CPU computes several times faster on what fits its cache; others take the map at once.

    Some channels at a time, or some rows where the channels of a cell lie together.
    """
    whole = slice(None)
    if x.device.type != "cpu" or traced(x):
        return iter([((whole,), whole)])
    images, channels, height, _ = x.shape
    if _layout(x) == torch.channels_last:
        rows = max(1, _BLOCK * images * height // max(x.numel(), 1))
        starts = ((n, row) for n in range(images) for row in range(0, height, rows))
        return (((slice(n, n + 1), whole, slice(row, row + rows)), whole) for n, row in starts)
    step = max(1, _BLOCK * channels // max(x.numel(), 1))
    parts = (slice(start, start + step) for start in range(0, channels, step))
    return (((whole, part), part) for part in parts)


def _moments(student: Tensor, teacher: Tensor) -> Tensor:
    """Of two maps relative to their anchors: sums of s, t, s*s, t*t and s*t, (5, C)."""
    products = (student, teacher, student * student, teacher * teacher, student * teacher)
    return torch.stack([p.sum(_DIMS) for p in products])


class _Pearson(torch.autograd.Function):
    """Loss and correlation with the analytic gradient; see the top of the file."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, sync: bool) -> tuple[Tensor, Tensor]:
        teacher = teacher.contiguous(memory_format=_layout(student))
        anchor_s, anchor_t = _anchor(student), _anchor(teacher)
        # the C-sized rest in float64: it costs nothing (MPS has none)
        wide = torch.float32 if student.device.type == "mps" else torch.float64
        moments = torch.zeros(5, student.shape[1], dtype=wide, device=student.device)
        for places, c in _blocks(student):
            moments[:, c] += _moments(
                _widen(student[places]) - anchor_s[:, c], _widen(teacher[places]) - anchor_t[:, c]
            )
        count = student.numel() // student.shape[1]
        mean_s, mean_t, (square_s, square_t, product), total = _centre(moments, anchor_s, anchor_t, count, sync)
        free = max(total - 1, 1)
        std_s, std_t, cov = (square_s / free).sqrt(), (square_t / free).sqrt(), product / free
        a, b = std_s + EPS, std_t + EPS
        scale = float(world_size() if sync else 1) / (total * student.shape[1])
        alive = std_s > 0
        safe = torch.where(alive, std_s, 1.0)
        p = torch.where(alive, EPS / a**3 + cov / (safe * a * a * b), 0.0) * scale
        q = torch.where(alive, 1 / (a * b), 0.0) * scale
        dtype = anchor_s.dtype
        narrow = [x.to(dtype)[None, :, None, None] for x in (p, q, q * mean_t - p * mean_s)]
        ctx.save_for_backward(student, teacher, anchor_s, anchor_t, *narrow)

        lines = [x.to(dtype)[None, :, None, None] for x in (1 / a, 1 / b, mean_t / b - mean_s / a)]
        ends = square_s / a**2 + square_t / b**2
        squares = ends - 2 * product / (a * b)
        # where the two nearly agree that difference has few digits left: there it is summed up. One process's share of
        # joint statistics is not known from them either, and asking a GPU whether it is needed would take longer.
        always = sync or student.device.type != "cpu" or traced(student)
        unsure, summed = squares < CLOSE * ends, torch.zeros_like(squares)
        for block in _blocks(student):
            c = block[1]
            if always or bool(unsure[c].any()):
                mixed = _affine(student, teacher, anchor_s, anchor_t, lines[0], lines[1], lines[2], block)
                summed[c] += mixed.square_().sum(_DIMS)
                squares[c] = summed[c]
        loss = 0.5 * scale * squares.sum()
        both = safe * torch.where(std_t > 0, std_t, 1.0)
        correlation = (cov / both).mean().to(dtype)
        ctx.mark_non_differentiable(correlation)
        return loss.to(dtype), correlation

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None]:
        refuse_second_derivative("PKD's loss")
        student, teacher, anchor_s, anchor_t, p, q, offset = ctx.saved_tensors
        p, q, offset = (x * grads[0] for x in (p, q, offset))
        out = torch.empty_like(student)
        for block in _blocks(student):
            out[block[0]] = _affine(student, teacher, anchor_s, anchor_t, p, q, offset, block)
        return out, None, None


def _affine(
    student: Tensor, teacher: Tensor, anchor_s: Tensor, anchor_t: Tensor, p: Tensor, q: Tensor, offset: Tensor, b: Block
) -> Tensor:
    """``p * (s - anchor_s) - q * (t - anchor_t) + offset`` on a part of the maps."""
    places, c = b
    s = (_widen(student[places]) - anchor_s[:, c]).mul_(p[:, c]).add_(offset[:, c])
    return s.sub_((_widen(teacher[places]) - anchor_t[:, c]).mul_(q[:, c]))


def _centre(
    moments: Tensor, anchor_s: Tensor, anchor_t: Tensor, count: int, sync: bool
) -> tuple[Tensor, Tensor, Tensor, float]:
    """From sums relative to the anchors to means relative to them and central sums.

    Returns:
        Means of student and teacher minus their anchors, (C,) each; central sums of s*s, t*t, s*t, (3, C); values a
        channel. Over all processes with ``sync``, the means still relative to this process's anchors.
    """
    mean_s, mean_t = moments[0] / count, moments[1] / count
    pairs = torch.stack([mean_s * mean_s, mean_t * mean_t, mean_s * mean_t])
    central = moments[2:] - count * pairs
    central[:2].clamp_(min=0)
    if not sync or world_size() == 1:
        return mean_s, mean_t, central, float(count)
    own = torch.stack([mean_s + anchor_s.flatten(), mean_t + anchor_t.flatten()])  # true means of this process
    reduced = sum_over_ranks(torch.cat([(own * count).flatten(), own.new_tensor([float(count)])]))
    total = float(reduced[-1])
    shift = own - (reduced[:-1] / total).view_as(own)  # this process's means minus the joint ones
    between = count * torch.stack([shift[0] * shift[0], shift[1] * shift[1], shift[0] * shift[1]])
    return mean_s - shift[0], mean_t - shift[1], sum_over_ranks(central + between), total


def distilled_quality_focal(student: Tensor, teacher: Tensor, weight: Tensor, beta: float = 1.0) -> Tensor:
    """CrossKD's class loss: cross entropy with the teacher's scores, weighted by the distance to them.

    Args:
        student: (..., C) logits.
        teacher: (..., C) logits; gets no gradient.
        weight: (...) of each prior.
        beta: how fast scores that agree lose weight; the weighting itself passes gradient.

    Returns:
        () sum over priors and classes, to be divided by the caller's normaliser.
    """
    target = teacher.detach().sigmoid()
    loss = F.binary_cross_entropy_with_logits(student, target, reduction="none")
    loss = loss * (student.sigmoid() - target).abs().pow(beta)
    return (loss * weight[..., None]).sum()


def distilled_distribution(student: Tensor, teacher: Tensor) -> Tensor:
    """``KL(teacher || student)`` of logits along the last dimension, (..., n) -> (...); no gradient to the teacher."""
    return _kl(student, teacher.detach())
