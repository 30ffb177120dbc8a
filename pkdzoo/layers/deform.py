"""Deformable convolution (Dai et al. 2017): a kernel whose sampling places are shifted cell by cell.

The sampling is torchvision's; its shifts are ordered as mmdetection's, (y, x) for each place of the kernel row by row,
in cells, so published weights mean the same here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d


def sampled_conv(x: Tensor, shift: Tensor, weight: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    """Convolve with each place of the kernel shifted, between cells by bilinear interpolation, zero off the map.

    Computed in float32 whatever the autocast: torchvision's kernels want one type, and coordinates in half precision
    are coarse. Its kernel on the CPU leaves its memory for a coordinate that is NaN and ends the process; here a NaN
    among the shifts makes the whole result NaN, which a training run notices and reports.

    Args:
        x: (B, inputs, h, w).
        shift: (B, 2 * n * kernel * kernel, h', w') in cells; n sets of shifts, each for its part of the channels.
        weight: (outputs, inputs / groups, kernel, kernel).
        stride: step.
        padding: of zeros on each side.

    Returns:
        (B, outputs, h', w') in the type of ``x``.
    """
    lost = shift.isnan()
    shift = torch.where(lost, 0.0, shift.float())
    out: Tensor = deform_conv2d(x.float(), shift, weight.float(), stride=stride, padding=padding)
    return (out + torch.where(lost.any(), torch.nan, 0.0)).to(x.dtype)


class SampledConv(nn.Module):
    """A convolution without bias that is told where to sample.

    Args:
        inputs: channels in.
        outputs: channels out.
        kernel: side of the square kernel; padding keeps the size at stride 1.
        stride: step.
        groups: groups of channels that are convolved apart; the shifts are common to all.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.stride, self.padding = stride, kernel // 2
        self.weight = nn.Parameter(torch.empty(outputs, inputs // groups, kernel, kernel))
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        """(B, inputs, h, w) and (B, 2 * kernel * kernel, h', w') -> (B, outputs, h', w')."""
        return sampled_conv(x, shift, self.weight, self.stride, self.padding)


class DeformConv(nn.Module):
    """A convolution without bias that reads its shifts off the same map by a second convolution.

    The second one starts at zero, so that the whole starts as an ordinary convolution. Arguments as
    :class:`SampledConv`.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.stride, self.padding = stride, kernel // 2
        self.weight = nn.Parameter(torch.empty(outputs, inputs // groups, kernel, kernel))
        self.offset = nn.Conv2d(inputs, 2 * kernel * kernel, kernel, stride, kernel // 2)
        self.reset()

    def reset(self) -> None:
        """Start as an ordinary convolution followed by a ReLU would."""
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        for parameter in self.offset.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, outputs, h / stride, w / stride)."""
        return sampled_conv(x, self.offset(x), self.weight, self.stride, self.padding)
