"""Normalisation layers by name, and batch norm whose statistics never move."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = Literal["frozen_bn", "bn", "gn"]
NORMS: tuple[Norm, ...] = ("frozen_bn", "bn", "gn")


class FrozenBatchNorm2d(nn.Module):
    """Batch norm with fixed statistics and, unlike torchvision's, an affine part that may learn.

    Published detectors keep ImageNet's running statistics in every stage but train gain and bias of stages 2 to 4.
    The buffers have nn.BatchNorm2d's names, so its files load here; ``num_batches_tracked`` has no use and no place.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, eps={self.eps}"


def make_norm(kind: Norm, channels: int) -> nn.Module:
    """The normalisation called ``kind`` for ``channels`` channels.

    Args:
        kind: ``frozen_bn``, ``bn`` or ``gn`` (32 groups, or groups of at least 4 channels in narrow layers).
        channels: channels of the map.

    Raises:
        ValueError: for another name.
    """
    if kind == "frozen_bn":
        return FrozenBatchNorm2d(channels)
    if kind == "bn":
        return nn.BatchNorm2d(channels)
    if kind == "gn":
        return nn.GroupNorm(min(32, max(1, channels // 4)), channels)
    raise ValueError(f"norm={kind!r}: write one of {', '.join(map(repr, NORMS))}")
