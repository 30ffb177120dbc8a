"""CSPNeXtPAFPN: the path aggregation pyramid of RTMDet (Lyu et al. 2022, arXiv:2212.07784), of CSP layers.

Top-down, then bottom-up: at every step the neighboring map is resized, concatenated and fused by a CSP layer. A last
3x3 convolution per level gives all levels one width. Maps are enlarged to the size of the finer one instead of by two,
so that images of any size work; for multiples of 32 both are the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pkdzoo.layers.csp import ConvNormSiLU, CSPLayer
from pkdzoo.layers.norm import Norm
from pkdzoo.structures import FeaturePyramid


class CSPNeXtPAFPN(nn.Module):
    """One level for each backbone map, none beyond.

    Args:
        channels: channels of the backbone's maps, finest first.
        strides: strides of the backbone's maps in pixels.
        width: channels of the pyramid.
        start: index of the first backbone map that is used: 1 is stride 8.
        blocks: blocks of each CSP layer.
        norm: norm of all convolutions.
    """

    gives_before_norm = True  # FeaturePyramid.before_norm is filled

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        width: int = 256,
        start: int = 1,
        blocks: int = 3,
        norm: Norm = "bn",
    ) -> None:
        super().__init__()
        used = list(channels[start:])
        self.start, self.width, self.strides = start, width, tuple(strides[start:])
        steps = range(len(used) - 1)
        # entry i of reduce and top_down fuses level i + 1 into level i, of down and bottom_up level i into level i + 1
        self.reduce = nn.ModuleList(ConvNormSiLU(used[i + 1], used[i], 1, norm=norm) for i in steps)
        self.top_down = nn.ModuleList(CSPLayer(2 * used[i], used[i], blocks, False, False, norm) for i in steps)
        self.down = nn.ModuleList(ConvNormSiLU(used[i], used[i], stride=2, norm=norm) for i in steps)
        self.bottom_up = nn.ModuleList(CSPLayer(2 * used[i], used[i + 1], blocks, False, False, norm) for i in steps)
        self.output = nn.ModuleList(ConvNormSiLU(c, width, norm=norm) for c in used)

    def forward(self, maps: Sequence[Tensor]) -> FeaturePyramid:
        """Maps of the backbone, finest first -> the pyramid, with the maps before its last norms."""
        levels = list(maps[self.start :])
        for i in reversed(range(len(levels) - 1)):
            levels[i + 1] = self.reduce[i](levels[i + 1])
            up = F.interpolate(levels[i + 1], size=levels[i].shape[-2:], mode="nearest")
            levels[i] = self.top_down[i](torch.cat([up, levels[i]], dim=1))
        for i in range(len(levels) - 1):
            down = self.down[i](levels[i])
            levels[i + 1] = self.bottom_up[i](torch.cat([down, levels[i + 1]], dim=1))
        pairs = [output.with_raw(x) for output, x in zip(self.output, levels)]  # type: ignore[operator]
        return FeaturePyramid([x for x, _ in pairs], self.strides, [raw for _, raw in pairs])
