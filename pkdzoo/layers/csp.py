"""Cross-stage partial layers of CSPNeXt (RTMDet, Lyu et al. 2022, arXiv:2212.07784), for its backbone and its neck.

Modules and parameters have mmdetection's names (``main_conv.conv.weight``, ``main_conv.bn.weight``), so that the keys
of published files need no renaming. Convolutions have no bias; each is followed by a norm and SiLU.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pkdzoo.layers.norm import Norm, make_norm
from pkdzoo.utils.precision import float32_or_wider


class ConvNormSiLU(nn.Module):
    """Convolution without bias, norm, SiLU.

    Args:
        inputs: input channels.
        outputs: output channels.
        kernel: side of the square kernel; the padding keeps the size of the map at stride 1.
        stride: stride of the convolution.
        groups: groups of the convolution.
        norm: name of the norm.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1, norm: Norm = "bn"
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = make_norm(norm, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.bn(self.conv(x)), inplace=True)

    def with_raw(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output, and the convolution's output before norm and SiLU."""
        raw = self.conv(x)
        return F.silu(self.bn(raw)), raw


class DepthwiseSeparable(nn.Module):
    """A depthwise 5x5 and a pointwise convolution, each with its own norm and SiLU."""

    def __init__(self, width: int, norm: Norm = "bn", kernel: int = 5) -> None:
        super().__init__()
        self.depthwise_conv = ConvNormSiLU(width, width, kernel, groups=width, norm=norm)
        self.pointwise_conv = ConvNormSiLU(width, width, 1, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.pointwise_conv(self.depthwise_conv(x))
        return out


class CSPNeXtBlock(nn.Module):
    """A 3x3 convolution and a depthwise separable 5x5 one; with ``identity`` the input is added to their output."""

    def __init__(self, width: int, identity: bool, norm: Norm = "bn") -> None:
        super().__init__()
        self.identity = identity
        self.conv1 = ConvNormSiLU(width, width, norm=norm)
        self.conv2 = DepthwiseSeparable(width, norm)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv2(self.conv1(x))
        return out + x if self.identity else out


class ChannelAttention(nn.Module):
    """Scales each channel by the hard sigmoid of a linear function of all channels' means."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(width, width, 1)
        assert self.fc.bias is not None
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        # in float32 also under autocast: half precision sums of large maps lose digits
        mean = float32_or_wider(x).mean((2, 3), keepdim=True).to(x.dtype)
        return x * F.hardsigmoid(self.fc(mean))


class CSPLayer(nn.Module):
    """Two 1x1 convolutions to half the width, blocks after one of them, and a 1x1 convolution of both branches.

    Args:
        inputs: input channels.
        outputs: output channels.
        blocks: number of blocks on the main branch.
        identity: whether the blocks add their input.
        attention: whether channel attention follows the concatenation (in the backbone).
        norm: name of the norm.
    """

    def __init__(
        self, inputs: int, outputs: int, blocks: int, identity: bool, attention: bool, norm: Norm = "bn"
    ) -> None:
        super().__init__()
        half = int(outputs * 0.5)
        self.main_conv = ConvNormSiLU(inputs, half, 1, norm=norm)
        self.short_conv = ConvNormSiLU(inputs, half, 1, norm=norm)
        self.final_conv = ConvNormSiLU(2 * half, outputs, 1, norm=norm)
        self.blocks = nn.Sequential(*(CSPNeXtBlock(half, identity, norm) for _ in range(blocks)))
        self.attention = ChannelAttention(2 * half) if attention else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([self.blocks(self.main_conv(x)), self.short_conv(x)], dim=1)  # the main branch comes first
        out: Tensor = self.final_conv(self.attention(both))
        return out


class SPP(nn.Module):
    """Spatial pyramid pooling: a 1x1 convolution to half the width, and one of its output and of its max pools."""

    def __init__(self, width: int, kernels: Sequence[int] = (5, 9, 13), norm: Norm = "bn") -> None:
        super().__init__()
        self.kernels = tuple(kernels)
        half = width // 2
        self.conv1 = ConvNormSiLU(width, half, 1, norm=norm)
        self.conv2 = ConvNormSiLU(half * (len(self.kernels) + 1), width, 1, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        pooled = [F.max_pool2d(x, kernel, stride=1, padding=kernel // 2) for kernel in self.kernels]
        out: Tensor = self.conv2(torch.cat([x, *pooled], dim=1))
        return out


def scaled_depth(blocks: int, factor: float) -> int:
    """A number of blocks times a depth factor: Python's round, at least 1."""
    return max(round(blocks * factor), 1)
