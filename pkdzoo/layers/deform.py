"""Deformable convolution (Dai et al. 2017): the sampling positions of the kernel have an offset at every location.

The operation is torchvision's. It orders the offsets as mmdetection does, (y, x) for each position of the kernel row by
row, in locations, so that published weights can be used unchanged.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from pkdzoo.utils.precision import float32_or_wider


def sampled_conv(x: Tensor, offset: Tensor, weight: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    """Convolve at sampling positions with offsets: bilinear between locations, zero outside the map.

    Computed in float32 also under autocast: torchvision requires one dtype, and half precision is too coarse for
    coordinates. torchvision's CPU kernel reads outside its memory for NaN coordinates, which can crash the process;
    here a NaN among the offsets makes the whole result NaN instead, which a training run detects and reports.

    Args:
        x: (B, inputs, h, w).
        offset: (B, 2*n*kernel*kernel, h', w') in locations; n groups of channels have separate offsets.
        weight: (outputs, inputs / groups, kernel, kernel).
        stride: stride of the convolution.
        padding: zero padding on each side.

    Returns:
        (B, outputs, h', w') in the dtype of ``x``.
    """
    invalid = offset.isnan()
    wide = float32_or_wider(x).dtype
    offset = torch.where(invalid, 0.0, offset.to(wide))
    out: Tensor = deform_conv2d(x.to(wide), offset, weight.to(wide), stride=stride, padding=padding)
    return (out + torch.where(invalid.any(), torch.nan, 0.0)).to(x.dtype)


class SampledConv(nn.Module):
    """A convolution without bias whose offsets are an input.

    Args:
        inputs: input channels.
        outputs: output channels.
        kernel: size of the square kernel; the padding keeps the size of the map at stride 1.
        stride: stride of the convolution.
        groups: groups of the convolution; all share the offsets.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.stride, self.padding = stride, kernel // 2
        self.weight = nn.Parameter(torch.empty(outputs, inputs // groups, kernel, kernel))
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        """Map (B, inputs, h, w) and offsets (B, 2*kernel*kernel, h', w') -> (B, outputs, h', w')."""
        return sampled_conv(x, offset, self.weight, self.stride, self.padding)


class DeformConv(nn.Module):
    """A deformable convolution without bias: a second convolution predicts the offsets from the same map.

    The second convolution is initialized to zero, so that the module starts as an ordinary convolution. Arguments as
    in :class:`SampledConv`.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.stride, self.padding = stride, kernel // 2
        self.weight = nn.Parameter(torch.empty(outputs, inputs // groups, kernel, kernel))
        self.offset = nn.Conv2d(inputs, 2 * kernel * kernel, kernel, stride, kernel // 2)
        self.reset()

    def reset(self) -> None:
        """Initialize as an ordinary convolution that is followed by a ReLU."""
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        for parameter in self.offset.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, outputs, h / stride, w / stride)."""
        return sampled_conv(x, self.offset(x), self.weight, self.stride, self.padding)
