"""A stack of convolutions whose intermediate maps can be tapped and resumed from."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from pkdzoo.layers.conv import ConvBlock
from pkdzoo.layers.norm import Norm


class Tower(nn.Module):
    """Equal blocks of 3x3 convolution, norm and ReLU, shared by all pyramid levels.

    Args:
        inputs: channels of the pyramid.
        width: channels of every block.
        depth: number of blocks.
        norm: norm of each block, or None; ``bn`` is refused.
        bias: as in :class:`pkdzoo.layers.conv.ConvBlock`.

    Raises:
        ValueError: for ``bn``, whose running statistics would be a mixture of all levels. Training normalizes each
            level by its own, so a detector that trains well would fail in eval mode.
    """

    def __init__(self, inputs: int, width: int, depth: int, norm: Norm | None = None, bias: bool | None = None) -> None:
        super().__init__()
        if norm == "bn":
            raise ValueError(
                "head_norm='bn': all levels share the head, and running statistics of several levels fit none of them; "
                "write 'gn', or None"
            )
        self.blocks = nn.ModuleList(
            ConvBlock(width if i else inputs, width, norm=norm, bias=bias) for i in range(depth)
        )

    def forward(self, x: Tensor, tap: int | None = None) -> tuple[Tensor, Tensor | None]:
        """Run the whole tower.

        Args:
            x: (B, inputs, h, w).
            tap: also return the output of block ``tap`` (counted from 1) before its ReLU; 0 returns ``x`` itself.

        Returns:
            The last map after its ReLU, and the tapped map (None without a tap).
        """
        tapped = x if tap == 0 else None
        for number, block in enumerate(self.blocks, start=1):
            x = block(x)
            if number == tap:
                tapped = x
            x = F.relu(x, inplace=number != tap)  # the tapped map must not be overwritten by the ReLU
        return x, tapped

    def resume(self, tapped: Tensor, tap: int) -> Tensor:
        """Continue from a tapped map: its ReLU (none for tap 0), then blocks ``tap + 1`` to the last."""
        x = F.relu(tapped) if tap else tapped
        for block in self.blocks[tap:]:
            x = F.relu(block(x), inplace=True)
        return x
