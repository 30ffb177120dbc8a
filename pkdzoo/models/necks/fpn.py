"""Feature pyramid network (Lin et al. 2017) in the variants of the published detectors.

Unlike torchvision's FPN, it has a choice of the source of the extra levels and of the first backbone map, and it has
strides.
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
    """Lateral convolutions, top-down addition, one 3x3 convolution per level, and extra coarse levels.

    Args:
        channels: channels of the backbone's maps, finest first.
        strides: strides of the backbone's maps in pixels.
        width: channels of the pyramid.
        start: index of the first backbone map that is used: 0 is stride 4 (two-stage), 1 is stride 8 (one-stage).
        levels: number of levels of the pyramid.
        extra: source of the levels above the backbone's: ``max_pool`` (the level below, subsampled by 2), ``on_input``
            (a strided convolution on the backbone's last map) or ``on_output`` (one on the level below).
        relu_before_extra: ReLU before the second strided convolution and later ones (FCOS).
        norm: norm of lateral and output convolutions, or None.
    """

    gives_before_norm = True  # FeaturePyramid.before_norm is filled

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
        extra_levels = levels - len(used)
        self.strides = (*strides[start:], *(strides[-1] * 2 ** (i + 1) for i in range(extra_levels)))
        self.lateral = nn.ModuleList(ConvBlock(c, width, kernel=1, norm=norm) for c in used)
        self.output = nn.ModuleList(ConvBlock(width, width, norm=norm) for _ in used)
        if extra != "max_pool":
            for i in range(extra_levels):
                source = used[-1] if extra == "on_input" and i == 0 else width
                self.output.append(ConvBlock(source, width, stride=2, norm=norm))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, maps: Sequence[Tensor]) -> FeaturePyramid:
        """Maps of the backbone, finest first -> the pyramid."""
        used = list(maps[self.start :])
        laterals = [lateral(x) for lateral, x in zip(self.lateral, used)]
        for i in range(len(used) - 1, 0, -1):
            laterals[i - 1] = laterals[i - 1] + F.interpolate(laterals[i], size=laterals[i - 1].shape[-2:])
        raw = [output.conv(x) for output, x in zip(self.output, laterals)]  # type: ignore[operator]
        levels = [output.norm(x) for output, x in zip(self.output, raw)]  # type: ignore[operator]
        for i in range(len(used), len(self.strides)):
            if self.extra == "max_pool":
                levels.append(F.max_pool2d(levels[-1], 1, stride=2))
                raw.append(levels[-1])
                continue
            source = used[-1] if self.extra == "on_input" and i == len(used) else levels[-1]
            if self.relu_before_extra and i > len(used):
                source = F.relu(source)
            raw.append(self.output[i].conv(source))  # type: ignore[operator]
            levels.append(self.output[i].norm(raw[-1]))  # type: ignore[operator]
        return FeaturePyramid(levels, self.strides, raw)
