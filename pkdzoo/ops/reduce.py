"""Numbers that all processes must agree on."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Processes that train together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def mean_over_ranks(value: Tensor, least: float | None = None) -> Tensor:
    """The mean of a tensor over processes, without gradient.

    Normalisers of losses go through here: gradients of processes are averaged, so a loss must be divided by the
    mean count a process, or images with few objects would weigh more than others.

    Args:
        value: of this process.
        least: of the sum over processes, not of the mean as in mmdetection: where there is less than one object a
            process, the loss would depend on how many processes share the batch.
    """
    processes = world_size()
    if processes > 1:
        value = value.detach().clone()
        dist.all_reduce(value)
        value = value / processes
    return value if least is None else value.clamp(min=least / processes)


class _SumOverRanks(torch.autograd.Function):
    """All-reduce whose gradient is all-reduced too (the sum every rank sees depends on every rank's input)."""

    @staticmethod
    def forward(ctx: object, value: Tensor) -> Tensor:
        value = value.clone()
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        grad = grads[0].clone()
        dist.all_reduce(grad)
        return grad


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum of a tensor over processes, with gradient."""
    if world_size() == 1:
        return value
    summed: Tensor = _SumOverRanks.apply(value)
    return summed
