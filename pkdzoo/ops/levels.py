"""Conversion of dense outputs between maps (one per level) and rows (one per prior)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def flatten_level(level: Tensor, channels: int) -> Tensor:
    """(B, A*channels, h, w) -> (B, h*w*A, channels): locations row by row, the A priors of a location together."""
    return level.permute(0, 2, 3, 1).reshape(level.shape[0], -1, channels)


def flatten_levels(levels: Sequence[Tensor], channels: int) -> Tensor:
    """L maps (B, A*channels, h, w) -> (B, P, channels), in the order of :func:`pkdzoo.ops.priors.grid_priors`."""
    return torch.cat([flatten_level(level, channels) for level in levels], dim=1)


def unflatten_levels(rows: Tensor, sizes: Sequence[tuple[int, int]], priors_per_location: int = 1) -> list[Tensor]:
    """(B, P, channels) -> L maps (B, A*channels, h, w); the inverse of :func:`flatten_levels`."""
    batch, _, channels = rows.shape
    parts = torch.split(rows, [h * w * priors_per_location for h, w in sizes], dim=1)
    return [
        part.reshape(batch, h, w, priors_per_location * channels).permute(0, 3, 1, 2)
        for part, (h, w) in zip(parts, sizes)
    ]
