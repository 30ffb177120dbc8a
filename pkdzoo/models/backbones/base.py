"""What necks may know of a backbone."""

from __future__ import annotations

from torch import nn


class Backbone(nn.Module):
    """Normalised images in, maps of falling resolution out, finest first.

    Attributes:
        channels: of each map.
        strides: pixels a cell of each map.
    """

    channels: list[int]
    strides: tuple[int, ...]
    frozen_stages: int = 0
