"""The convolution block that necks and heads are made of."""

from __future__ import annotations

from math import log

import torch
from torch import Tensor, nn

from pkdzoo.layers.norm import Norm, make_norm


class ConvBlock(nn.Module):
    """Convolution and, if asked for, normalisation; the activation is the caller's, who may want to look before it.

    Args:
        inputs: channels in.
        outputs: channels out.
        kernel: side of the square kernel; padding keeps the size.
        stride: step of the convolution.
        norm: name of a normalisation, or None.
        bias: None means a bias exactly where no normalisation follows.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        stride: int = 1,
        norm: Norm | None = None,
        bias: bool | None = None,
    ) -> None:
        super().__init__()
        with_bias = norm is None if bias is None else bias
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=with_bias)
        self.norm = nn.Identity() if norm is None else make_norm(norm, outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.conv(x))
        return out


class Scale(nn.Module):
    """One learnable factor (FCOS, GFL and ATSS have one a level)."""

    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(value))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def init_convs(module: nn.Module, std: float = 0.01) -> None:
    """Normal weights and zero biases for every convolution below ``module`` (the start of all dense heads)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def init_class_bias(layer: nn.Module, prior: float = 0.01) -> None:
    """Let a sigmoid class layer start at probability ``prior``, so that background does not drown the first steps."""
    bias = layer.bias
    assert isinstance(bias, Tensor)
    nn.init.constant_(bias, -log((1 - prior) / prior))
