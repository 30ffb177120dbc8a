"""CSPNeXt (RTMDet, Lyu et al. 2022, arXiv:2212.07784): the P5 backbone of RTMDet.

Keys are mmdetection's. The published backbones have SyncBN with eps 1e-5 and momentum 0.1, torch's defaults, and all
batch norms train; unlike the ResNets here, no stage is frozen.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pkdzoo.layers.csp import SPP, ConvNormSiLU, CSPLayer, scaled_depth
from pkdzoo.layers.norm import Norm
from pkdzoo.models.backbones.base import Backbone
from pkdzoo.structures import PixelNorm

BGR = PixelNorm((103.53, 116.28, 123.675), (57.375, 57.12, 58.395), "bgr")  # of its ImageNet weights

WIDTHS, BLOCKS = (64, 128, 256, 512, 1024), (3, 6, 6, 3)  # of stem and stages at factor 1

# depth and width factors of the published sizes
VARIANTS: dict[str, dict[str, Any]] = {
    "cspnext_tiny": {"deepen_factor": 0.167, "widen_factor": 0.375},
    "cspnext_s": {"deepen_factor": 0.33, "widen_factor": 0.5},
    "cspnext_m": {"deepen_factor": 0.67, "widen_factor": 0.75},
    "cspnext_l": {"deepen_factor": 1.0, "widen_factor": 1.0},
    "cspnext_x": {"deepen_factor": 1.33, "widen_factor": 1.25},
}


class CSPNeXt(Backbone):
    """A stem of three convolutions and four stages of a strided convolution and a CSP layer with channel attention.

    Args:
        deepen_factor: the blocks of the stages are 3, 6, 6, 3 times this.
        widen_factor: the channels of stem and stages are 64, 128, 256, 512, 1024 times this.
        norm: ``bn`` as published, ``gn`` or ``frozen_bn``.
        frozen_stages: 0 trains everything, 1 freezes the stem and the first stage, up to 4.
        in_chans: channels of the images.
    """

    def __init__(
        self,
        deepen_factor: float = 1.0,
        widen_factor: float = 1.0,
        norm: Norm = "bn",
        frozen_stages: int = 0,
        in_chans: int = 3,
    ) -> None:
        super().__init__()
        if not 0 <= frozen_stages <= 4:
            raise ValueError(f"frozen_stages={frozen_stages}: 0 trains everything, 4 freezes all four stages")
        if deepen_factor <= 0 or int(64 * widen_factor) < 4:
            raise ValueError(
                f"deepen_factor={deepen_factor}, widen_factor={widen_factor}: write a depth above 0 and a width of at "
                "least 0.0625, e.g. 0.167 and 0.125"
            )
        self.frozen_stages = frozen_stages
        widths = [int(width * widen_factor) for width in WIDTHS]
        first = int(WIDTHS[0] * widen_factor // 2)
        self.stem = nn.Sequential(
            ConvNormSiLU(in_chans, first, stride=2, norm=norm),
            ConvNormSiLU(first, first, norm=norm),
            ConvNormSiLU(first, widths[0], norm=norm),
        )
        for stage, blocks in enumerate(BLOCKS):
            inputs, outputs, last = widths[stage], widths[stage + 1], stage == 3
            pooling = [SPP(outputs, norm=norm)] if last else []
            csp = CSPLayer(outputs, outputs, scaled_depth(blocks, deepen_factor), not last, attention=True, norm=norm)
            layers = [ConvNormSiLU(inputs, outputs, stride=2, norm=norm), *pooling, csp]
            self.add_module(f"stage{stage + 1}", nn.Sequential(*layers))
        self.channels = widths[1:]
        self.strides = (4, 8, 16, 32)
        for part in self.frozen_parts:
            part.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Normalized images (B, in_chans, H, W) -> four maps of stride 4, 8, 16 and 32."""
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    @property
    def stages(self) -> list[nn.Module]:
        """The four stages, finest first."""
        return [self.get_submodule(f"stage{i}") for i in (1, 2, 3, 4)]

    @property
    def frozen_parts(self) -> list[nn.Module]:
        """The modules that ``frozen_stages`` freezes."""
        return [self.stem, *self.stages[: self.frozen_stages]] if self.frozen_stages else []

    def train(self, mode: bool = True) -> CSPNeXt:
        """Set the mode; frozen parts stay in eval mode, so that their batch norms keep their statistics."""
        super().train(mode)
        for part in self.frozen_parts:
            part.eval()
        return self
