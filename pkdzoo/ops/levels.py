"""The only layout changes of dense outputs: maps of levels to rows of priors, and back to levels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def flatten_level(level: Tensor, channels: int) -> Tensor:
    """(B, A*channels, h, w) -> (B, h*w*A, channels), cells row by row, the A priors of a cell together."""
    return level.permute(0, 2, 3, 1).reshape(level.shape[0], -1, channels)


def flatten_levels(levels: Sequence[Tensor], channels: int) -> Tensor:
    """L maps (B, A*channels, h, w) -> (B, P, channels), in the order of :func:`pkdzoo.ops.priors.grid_priors`."""
    return torch.cat([flatten_level(level, channels) for level in levels], dim=1)


def unflatten_levels(rows: Tensor, sizes: Sequence[tuple[int, int]], priors_a_cell: int = 1) -> list[Tensor]:
    """(B, P, channels) -> L maps (B, A*channels, h, w); undoes :func:`flatten_levels`."""
    batch, _, channels = rows.shape
    parts = torch.split(rows, [h * w * priors_a_cell for h, w in sizes], dim=1)
    return [p.reshape(batch, h, w, priors_a_cell * channels).permute(0, 3, 1, 2) for p, (h, w) in zip(parts, sizes)]
