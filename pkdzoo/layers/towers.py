"""A stack of convolutions that can stop half-way and go on from there."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from pkdzoo.layers.conv import ConvBlock
from pkdzoo.layers.norm import Norm


class Tower(nn.Module):
    """Equal 3x3 blocks, each convolution -> norm -> ReLU, shared by all pyramid levels.

    Args:
        inputs: channels of the pyramid.
        width: channels of every block.
        depth: number of blocks.
        norm: normalisation of each block, or None.
        bias: as in :class:`ConvBlock`.
    """

    def __init__(self, inputs: int, width: int, depth: int, norm: Norm | None = None, bias: bool | None = None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ConvBlock(width if i else inputs, width, norm=norm, bias=bias) for i in range(depth)
        )

    def forward(self, x: Tensor, tap: int | None = None) -> tuple[Tensor, Tensor | None]:
        """Run the whole tower.

        Args:
            x: (B, inputs, h, w).
            tap: keep what block ``tap`` (counted from 1) gives before its ReLU; 0 keeps ``x`` itself.

        Returns:
            The last map after its ReLU, and the kept map (None without a tap).
        """
        kept = x if tap == 0 else None
        for number, block in enumerate(self.blocks, start=1):
            x = block(x)
            if number == tap:
                kept = x
            x = F.relu(x, inplace=number != tap)  # a kept map must stay as it was before the ReLU
        return x, kept

    def resume(self, kept: Tensor, tap: int) -> Tensor:
        """Go on from a map that :meth:`forward` kept: its ReLU (none for 0), then blocks ``tap + 1`` to the end."""
        x = F.relu(kept) if tap else kept
        for block in self.blocks[tap:]:
            x = F.relu(block(x), inplace=True)
        return x
