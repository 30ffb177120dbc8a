"""The interface of all backbones."""

from __future__ import annotations

from torch import nn


class Backbone(nn.Module):
    """Normalized images (B, channels, H, W) -> feature maps of decreasing resolution, finest first.

    Attributes:
        channels: channels of each map.
        strides: stride of each map in pixels.
        frozen_stages: number of stages that do not train, stem included; 0 trains everything.
    """

    channels: list[int]
    strides: tuple[int, ...]
    frozen_stages: int = 0
