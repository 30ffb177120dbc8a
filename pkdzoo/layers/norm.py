"""Normalization layers by name, and batch norm with frozen statistics."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = Literal["frozen_bn", "bn", "gn"]
NORMS: tuple[Norm, ...] = ("frozen_bn", "bn", "gn")


class FrozenBatchNorm2d(nn.Module):
    """Batch norm with frozen statistics and, unlike torchvision's, a trainable affine part.

    Published detectors keep ImageNet's running statistics in every stage, but train weight and bias of stages 2 to 4.
    Parameters and buffers have the names of nn.BatchNorm2d, except that there is no ``num_batches_tracked``.

    Args:
        channels: channels of the map.
        eps: is added to the variance.
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


def has_fixed_statistics(layer: nn.Module) -> bool:
    """Whether a layer normalizes by running statistics that training does not change, of this package or another."""
    return hasattr(layer, "running_mean") and not isinstance(layer, nn.modules.batchnorm._NormBase)


def make_norm(kind: Norm, channels: int) -> nn.Module:
    """Create a norm by name.

    Args:
        kind: ``frozen_bn``, ``bn`` or ``gn`` (32 groups; fewer in narrow layers, with at least 4 channels each).
        channels: channels of the map.

    Raises:
        ValueError: for an unknown name.
    """
    if kind == "frozen_bn":
        return FrozenBatchNorm2d(channels)
    if kind == "bn":
        return nn.BatchNorm2d(channels)
    if kind == "gn":
        return nn.GroupNorm(min(32, max(1, channels // 4)), channels)
    raise ValueError(f"norm={kind!r}: write one of {', '.join(map(repr, NORMS))}")
