"""PKD's loss: the Pearson correlation between the channels of two feature maps, with an analytic gradient.

PKD (Cao et al. 2022, arXiv:2207.02039) normalizes every channel of both maps to mean 0 and deviation 1 over the batch
and takes half the mean squared difference, which is 1 minus the Pearson correlation. As mmrazor's PKDLoss: unbiased
deviation, ``EPS`` added to it, mean over channels (the paper's equation 2 writes one channel only).

The formula is implemented twice. ``normalize_channels`` is the plain form, which autograd differentiates and which
other methods share. ``pearson`` never stores a normalized map: per channel the gradient is an affine function of the
two raw maps,

    dL/ds = (P * (s - mean_s) - Q * (t - mean_t)) / (C * M),   Q = 1 / (a * b),   a = std_s + EPS,   b = std_t + EPS,
    P = EPS / a**3 + cov(s, t) / (std_s * a**2 * b),           M = N * H * W

so only a few numbers per channel have to be kept between forward and backward.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pkdzoo.losses.analytic import is_traced, refuse_second_derivative
from pkdzoo.ops.reduce import sum_over_ranks, world_size
from pkdzoo.utils.precision import float32_or_wider

EPS = 1e-6
CLOSE = 0.05  # 1 - r below which the loss is not computed from moments, whose relative error is 1e-7 / CLOSE there
_DIMS = (0, 2, 3)  # every dimension but the channels
BLOCK = 1 << 19  # values of one map that a CPU processes at a time: they stay in its cache


def pearson(student: Tensor, teacher: Tensor, sync: bool = False) -> Tensor:
    """PKD's loss between two maps: half the mean squared difference after normalizing each channel.

    Equal to ``mean over channels of (M - 1) / M * (1 - r)`` up to ``EPS``, with r the Pearson correlation and M the
    number of values of a channel. Statistics are float32 (float64 for float64 maps) under any autocast, and are taken
    relative to a value of the channel, so a large mean costs no precision. A channel without variation in the student
    gets gradient exactly 0 and still counts ``(M - 1) / (2 M)``; without variation in both maps, or with a single
    value per channel, it counts 0.

    Args:
        student: (N, C, H, W).
        teacher: (N, C, H, W); gets no gradient.
        sync: take the statistics over all processes. The mean of the processes' losses is then the loss of their
            joint batch, and averaged gradients are its gradients. The published recipes do not.

    Returns:
        () in 0..2, unweighted.

    Raises:
        ValueError: for maps of different shapes.
        RuntimeError: when its gradient is differentiated again.

    Example:
        >>> import torch
        >>> from pkdzoo.losses import pearson
        >>> student = torch.randn(2, 8, 16, 16)
        >>> print(f"{pearson(student, 3 * student + 5).abs():.3f}")  # gain and offset of a channel do not matter
        0.000
    """
    return pearson_correlation(student, teacher, sync)[0]


def pearson_correlation(student: Tensor, teacher: Tensor, sync: bool = False) -> tuple[Tensor, Tensor]:
    """The loss of :func:`pearson` and the Pearson correlation it is computed from, for logging.

    Args:
        student: (N, C, H, W).
        teacher: (N, C, H, W); gets no gradient.
        sync: take the statistics over all processes.

    Returns:
        The loss and the mean of r over channels (-1..1, 0 for a channel without variation), which has no gradient.

    Example:
        >>> import torch
        >>> from pkdzoo.losses import pearson_correlation
        >>> student = torch.randn(2, 8, 16, 16)
        >>> print(f"{pearson_correlation(student, -student)[1]:.3f}")
        -1.000
    """
    check_maps(student, teacher)
    loss, correlation = _Pearson.apply(student, teacher.detach(), sync)
    return loss, correlation


def normalize_channels(maps: Tensor, sync: bool = False) -> Tensor:
    """Shift and scale each channel to mean 0 and deviation 1 over N, H and W, in float32; gradient passes both steps.

    Args:
        maps: (N, C, H, W).
        sync: statistics over all processes.

    Returns:
        (N, C, H, W). Channels without variation give 0, with gradient 0.

    Example:
        >>> import torch
        >>> from pkdzoo.losses import normalize_channels
        >>> maps = normalize_channels(torch.rand(2, 3, 8, 8))
        >>> [f"{channel.std():.3f}" for channel in maps.transpose(0, 1)]
        ['1.000', '1.000', '1.000']
    """
    centered, _, std = center_channels(maps, sync)
    return centered * inverse_std(std)


def inverse_std(std: Tensor) -> Tensor:
    """``1 / (std + EPS)``, and 0 where ``std`` is 0: there the gradient would be multiplied with ``1 / EPS``."""
    return (std > 0) / (std + EPS)


def center_channels(maps: Tensor, sync: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Maps minus the mean of each channel, that mean, and the unbiased deviation, over N, H and W.

    Args:
        maps: (N, C, H, W).
        sync: statistics over all processes.

    Returns:
        (N, C, H, W), (1, C, 1, 1) and (1, C, 1, 1) in float32, with gradient.
    """
    maps = float32_or_wider(maps)
    anchor = _anchor(maps)
    centered = maps - anchor  # a channel without variation becomes exactly 0
    count = float(maps.numel() // maps.shape[1])
    shift = centered.sum(_DIMS, keepdim=True)
    if sync:
        own = anchor.double() * count + shift.double()  # sums of this process
        total = sum_over_ranks(torch.cat([own.flatten(), own.new_tensor([count])]))
        count = float(total[-1].detach())
        shift_mean = (total[:-1].view_as(own) / count - anchor).to(maps.dtype)
    else:
        shift_mean = shift / count
    centered = centered - shift_mean
    squares = centered.square().sum(_DIMS, keepdim=True)
    if sync:
        squares = sum_over_ranks(squares)
    variance = squares / max(count - 1, 1)
    varies = variance > 0
    # the gradient of sqrt(0) is infinite: keep it out of the graph
    std = torch.where(varies, variance, 1).sqrt() * varies
    return centered, anchor + shift_mean, std


def check_maps(student: Tensor, teacher: Tensor) -> None:
    """Raises ValueError unless both are (N, C, H, W) and of equal shape."""
    if student.ndim != 4 or student.shape != teacher.shape:
        raise ValueError(
            f"this loss compares two maps (N, C, H, W) of one shape, got {tuple(student.shape)} and "
            f"{tuple(teacher.shape)}; pkdzoo.distill.PyramidPairs resizes and projects maps"
        )


def _anchor(x: Tensor) -> Tensor:
    """A value of each channel that is near its mean, (1, C, 1, 1).

    Moments relative to it do not cancel when the mean is large, and a channel without variation becomes exactly 0,
    which a computed mean does not guarantee. It is the median at a few locations, so that it is no outlier.
    """
    x = x.detach()
    rows, columns = (-(-side // 4) for side in x.shape[-2:])
    samples = x[:4, :, rows // 2 :: rows, columns // 2 :: columns].transpose(0, 1).flatten(1)
    return float32_or_wider(samples.median(dim=1).values)[None, :, None, None]


Block = tuple[tuple[slice, ...], slice]  # index of a part of a map, and the channels of that part


def _layout(x: Tensor) -> torch.memory_format:
    """Memory format of a map."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def _blocks(x: Tensor) -> Iterator[Block]:
    """A map in parts: a CPU is several times faster on parts that fit its cache. Other devices take the map at once.

    Some channels at a time, or some rows where the channels of a location are adjacent in memory.
    """
    whole = slice(None)
    if x.device.type != "cpu" or is_traced(x):
        return iter([((whole,), whole)])
    images, channels, height, _ = x.shape
    if _layout(x) == torch.channels_last:
        rows = max(1, BLOCK * images * height // max(x.numel(), 1))
        starts = ((n, row) for n in range(images) for row in range(0, height, rows))
        return (((slice(n, n + 1), whole, slice(row, row + rows)), whole) for n, row in starts)
    step = max(1, BLOCK * channels // max(x.numel(), 1))
    parts = (slice(start, start + step) for start in range(0, channels, step))
    return (((whole, part), part) for part in parts)


def _moments(student: Tensor, teacher: Tensor) -> Tensor:
    """Sums of s, t, s*s, t*t and s*t per channel, (5, C), where s and t are maps relative to their anchors."""
    products = (student, teacher, student * student, teacher * teacher, student * teacher)
    return torch.stack([p.sum(_DIMS) for p in products])


class _Pearson(torch.autograd.Function):
    """Loss and correlation with the analytic gradient; the formula is at the top of the file."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, sync: bool) -> tuple[Tensor, Tensor]:
        teacher = teacher.contiguous(memory_format=_layout(student))
        anchor_s, anchor_t = _anchor(student), _anchor(teacher)
        # tensors of C values are float64, which costs nothing here (MPS has no float64)
        wide = torch.float32 if student.device.type == "mps" else torch.float64
        moments = torch.zeros(5, student.shape[1], dtype=wide, device=student.device)
        for part, c in _blocks(student):
            moments[:, c] += _moments(
                float32_or_wider(student[part]) - anchor_s[:, c], float32_or_wider(teacher[part]) - anchor_t[:, c]
            )
        count = student.numel() // student.shape[1]
        mean_s, mean_t, (square_s, square_t, product), total = _center(moments, anchor_s, anchor_t, count, sync)
        free = max(total - 1, 1)
        std_s, std_t, cov = (square_s / free).sqrt(), (square_t / free).sqrt(), product / free
        a, b = std_s + EPS, std_t + EPS
        scale = float(world_size() if sync else 1) / (total * student.shape[1])
        varies = std_s > 0
        safe = torch.where(varies, std_s, 1.0)
        p = torch.where(varies, EPS / a**3 + cov / (safe * a * a * b), 0.0) * scale
        q = torch.where(varies, 1 / (a * b), 0.0) * scale
        dtype = anchor_s.dtype
        narrow = [x.to(dtype)[None, :, None, None] for x in (p, q, q * mean_t - p * mean_s)]
        ctx.save_for_backward(student, teacher, anchor_s, anchor_t, *narrow)

        lines = [x.to(dtype)[None, :, None, None] for x in (1 / a, 1 / b, mean_t / b - mean_s / a)]
        ends = square_s / a**2 + square_t / b**2
        squares = ends - 2 * product / (a * b)
        # Where both maps nearly agree, this difference has few correct digits: there it is summed element by element.
        # So is one process's part of joint statistics. On a GPU a check whether it is needed would take longer.
        always = sync or student.device.type != "cpu" or is_traced(student)
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
    part, c = b
    s = (float32_or_wider(student[part]) - anchor_s[:, c]).mul_(p[:, c]).add_(offset[:, c])
    return s.sub_((float32_or_wider(teacher[part]) - anchor_t[:, c]).mul_(q[:, c]))


def _center(
    moments: Tensor, anchor_s: Tensor, anchor_t: Tensor, count: int, sync: bool
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Convert sums relative to the anchors to means relative to them and central sums.

    Returns:
        Means of student and teacher minus their anchors, (C,) each; central sums of s*s, t*t, s*t, (3, C); number of
        values per channel. Over all processes with ``sync``, the means still relative to this process's anchors.
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
