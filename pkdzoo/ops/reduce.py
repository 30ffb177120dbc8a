"""Reductions over the processes (ranks) of a distributed run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

_alone = False


def world_size() -> int:
    """Number of processes in the default process group; 1 without a process group, and inside :func:`alone`."""
    if _alone:
        return 1
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@contextmanager
def alone() -> Iterator[None]:
    """Inside the context this process reduces nothing over others, e.g. to time a step while they wait for it.

    It holds for all threads: backward passes on a GPU run in threads of their own.
    """
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def mean_over_ranks(value: Tensor, least: float | None = None) -> Tensor:
    """The mean of a tensor over processes, without gradient.

    For the normalizers of losses: gradients are averaged over processes, so a loss must be divided by the mean count
    per process. With local counts, objects on processes with few of them would have a higher weight.

    Args:
        value: tensor of this process.
        least: lower limit of the sum over processes. mmdetection limits the mean instead; with less than one object
            per process, the loss then depends on the number of processes.
    """
    processes = world_size()
    if processes > 1:
        value = value.detach().clone()
        dist.all_reduce(value)
        value = value / processes
    return value if least is None else value.clamp(min=least / processes)


def max_over_ranks(value: Tensor) -> Tensor:
    """The largest value of each element over processes, without gradient."""
    if world_size() > 1:
        value = value.detach().clone()
        dist.all_reduce(value, dist.ReduceOp.MAX)
    return value


class _SumOverRanks(torch.autograd.Function):
    """All-reduce whose gradient is all-reduced too, because every rank's sum depends on every rank's input."""

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
