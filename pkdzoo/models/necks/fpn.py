"""Feature pyramid network (Lin et al. 2017) with the variants that the published detectors use.

Differs from torchvision's FPN in the choice of the coarse levels' source and in ``start``, and in giving strides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from pkdzoo.layers.conv import ConvBlock
from pkdzoo.layers.norm import Norm
from pkdzoo.structures import FeaturePyramid

Extra = Literal["max_pool", "on_input", "on_output"]
EXTRAS = ("max_pool", "on_input", "on_output")


class FPN(nn.Module):
    """Laterals from the backbone, top-down addition, one 3x3 convolution a level, and coarser levels on top.

    Args:
        channels: channels of the backbone's maps, finest first.
        strides: their strides.
        width: channels of the pyramid.
        start: first backbone map that is used (0: from stride 4, two-stage; 1: from stride 8, one-stage).
        levels: levels of the pyramid.
        extra: where levels above the backbone's come from: ``max_pool`` (every second cell of the level below),
            ``on_input`` (a strided convolution on the backbone's last map) or ``on_output`` (on the level below).
        relu_before_extra: ReLU before the second strided convolution and later ones (FCOS).
        norm: normalisation of laterals and outputs, or None.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        width: int = 256,
        start: int = 1,
        levels: int = 5,
        extra: Extra = "on_input",
        relu_before_extra: bool = False,
        norm: Norm | None = None,
    ) -> None:
        super().__init__()
        if extra not in EXTRAS:
            raise ValueError(f"extra={extra!r}: write one of {', '.join(map(repr, EXTRAS))}")
        self.start, self.extra, self.relu_before_extra = start, extra, relu_before_extra
        self.width = width
        used = list(channels[start:])
        more = levels - len(used)
        self.strides = (*strides[start:], *(strides[-1] * 2 ** (i + 1) for i in range(more)))
        self.lateral = nn.ModuleList(ConvBlock(c, width, kernel=1, norm=norm) for c in used)
        self.output = nn.ModuleList(ConvBlock(width, width, norm=norm) for _ in used)
        if extra != "max_pool":
            for i in range(more):
                source = used[-1] if extra == "on_input" and i == 0 else width
                self.output.append(ConvBlock(source, width, stride=2, norm=norm))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, maps: Sequence[Tensor]) -> FeaturePyramid:
        """The backbone's maps, finest first -> the pyramid."""
        used = list(maps[self.start :])
        laterals = [lateral(x) for lateral, x in zip(self.lateral, used)]
        for i in range(len(used) - 1, 0, -1):
            laterals[i - 1] = laterals[i - 1] + F.interpolate(laterals[i], size=laterals[i - 1].shape[-2:])
        levels = [output(x) for output, x in zip(self.output, laterals)]
        for i in range(len(used), len(self.strides)):
            if self.extra == "max_pool":
                levels.append(F.max_pool2d(levels[-1], 1, stride=2))
                continue
            source = used[-1] if self.extra == "on_input" and i == len(used) else levels[-1]
            if self.relu_before_extra and i > len(used):
                source = F.relu(source)
            levels.append(self.output[i](source))
        return FeaturePyramid(levels, self.strides)
