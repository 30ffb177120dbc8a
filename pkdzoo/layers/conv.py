"""The convolution block of necks and heads, and the initialization of heads."""

from __future__ import annotations

from math import log

import torch
from torch import Tensor, nn

from pkdzoo.layers.norm import Norm, make_norm


class ConvBlock(nn.Module):
    """A convolution with an optional norm and without activation, so that callers can use its output before the ReLU.

    Args:
        inputs: input channels.
        outputs: output channels.
        kernel: size of the square kernel; the padding keeps the size of the map at stride 1.
        stride: stride of the convolution.
        norm: name of a norm, see :func:`pkdzoo.layers.norm.make_norm`; or None.
        bias: whether the convolution has a bias; None means only without a norm.
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
    """One learnable factor (FCOS, GFL, ATSS and TOOD have one per level)."""

    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(value))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def init_convs(module: nn.Module, std: float = 0.01) -> None:
    """Initialize every convolution in ``module`` with normal weights and zero biases, as all dense heads do."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def init_class_bias(layer: nn.Module, probability: float = 0.01) -> None:
    """Initialize the bias of a sigmoid class layer so that it predicts ``probability``.

    Nearly all priors are background: a start at 0.5 would make the first losses huge (Lin et al. 2017, section 4.1).
    """
    bias = layer.bias
    assert isinstance(bias, Tensor)
    nn.init.constant_(bias, -log((1 - probability) / probability))
