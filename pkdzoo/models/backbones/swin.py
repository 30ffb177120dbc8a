"""Swin Transformer (Liu et al. 2021, arXiv:2103.14030) for detection, on images of any size.

As mmdetection's SwinTransformer: each returned map has a separate layer norm; maps are padded with zeros to whole
windows after the block's first norm, and the padding takes part in attention, as in the training of the published
weights; windows are also shifted on maps smaller than a window. Patches are merged in mmdetection's channel order,
which differs from the original's; ``pkdzoo.checkpoints.swin`` converts files of either.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import stochastic_depth

from pkdzoo.models.backbones.base import Backbone

VARIANTS: dict[str, dict[str, Any]] = {
    "swin_t": {"depths": (2, 2, 6, 2)},
    "swin_s": {"depths": (2, 2, 18, 2)},
}
MASKED = -100.0  # added to the attention between locations that must not attend to each other; mmdetection's value


def next_multiple(side: int, of: int) -> int:
    """The smallest multiple of ``of`` that is at least ``side``; torch.compile can handle this formula."""
    return (side + of - 1) // of * of


def pad_to(x: Tensor, multiple: int) -> Tensor:
    """Pad (B, h, w, C) with zeros at the right and the bottom until h and w are multiples of ``multiple``."""
    bottom, right = (next_multiple(side, multiple) - side for side in x.shape[1:3])
    # During export the sides are symbols; a condition on their value would make the size a constant of the graph.
    unpadded = isinstance(bottom, int) and isinstance(right, int) and not bottom and not right
    return x if unpadded else F.pad(x, (0, 0, 0, right, 0, bottom))


def to_windows(x: Tensor, size: int) -> Tensor:
    """(B, h, w, C), h and w multiples of ``size`` -> (B * windows, size**2, C), windows and locations row by row."""
    batch, h, w, channels = x.shape
    x = x.reshape(batch, h // size, size, w // size, size, channels)
    return x.transpose(2, 3).reshape(-1, size * size, channels)


def from_windows(windows: Tensor, size: int, h: int, w: int) -> Tensor:
    """The inverse of :func:`to_windows` for maps of ``h`` x ``w``."""
    x = windows.reshape(-1, h // size, w // size, size, size, windows.shape[-1])
    return x.transpose(2, 3).reshape(-1, h, w, windows.shape[-1])


def relative_positions(size: int) -> Tensor:
    """Index into the bias table for every pair of locations of a window, by their relative position.

    Returns:
        (size**4,) int64 in ``0 .. (2*size - 1)**2 - 1``, query-major.
    """
    yx = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")).flatten(1)
    y, x = (yx[:, :, None] - yx[:, None, :] + size - 1).unbind(0)  # (size**2, size**2) each
    return (y * (2 * size - 1) + x).flatten()


def shift_mask(h: int, w: int, size: int, shift: int, device: torch.device | None = None) -> Tensor:
    """Attention mask for shifted windows: locations that share a window only by wrap-around are masked.

    Args:
        h: height of the map, a multiple of ``size``.
        w: width of the map, a multiple of ``size``.
        size: height and width of a window, in locations.
        shift: number of locations that the map was rolled up and left by, less than ``size``.
        device: device of the result.

    Returns:
        (windows, size**2, size**2): 0 for two locations of one region, ``MASKED`` for others.
    """
    # the last `shift` rows were rolled in from the top; only the last row of windows holds both regions
    rows, columns = ((torch.arange(side, device=device) >= side - shift).int() for side in (h, w))
    region = (rows[:, None] * 2 + columns)[None, :, :, None]
    windows = to_windows(region, size)[..., 0]
    return (windows[:, :, None] != windows[:, None, :]) * MASKED


class WindowAttention(nn.Module):
    """Attention between all locations of a window, with a learned bias for every relative position.

    Args:
        channels: channels of the map.
        heads: number of heads.
        window: height and width of a window, in locations.
    """

    positions: Tensor

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("positions", relative_positions(window), persistent=False)
        self.qkv = nn.Linear(channels, channels * 3)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Apply attention within each window.

        Args:
            x: (B * windows, window**2, channels), image-major.
            mask: (windows, window**2, window**2), is added to the attention of every image; or None.
        """
        count, locations, channels = x.shape
        q, k, v = self.qkv(x).reshape(count, locations, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        bias = self.bias_table[self.positions].reshape(1, locations, locations, self.heads).permute(0, 3, 1, 2)
        if mask is not None:
            bias = (bias + mask[:, None]).repeat(count // mask.shape[0], 1, 1, 1)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        out: Tensor = self.proj(x.transpose(1, 2).reshape(count, locations, channels))
        return out


class SwinBlock(nn.Module):
    """Window attention and two linear layers, each branch with a norm and a shortcut.

    Args:
        channels: channels of the map.
        heads: number of attention heads.
        window: height and width of a window, in locations.
        shift: shift of the windows to the right and down, in locations.
        mlp_ratio: width of the inner linear layer, as a multiple of ``channels``.
        drop_path: probability per image of skipping a branch in train mode, 0..1.
    """

    def __init__(
        self, channels: int, heads: int, window: int, shift: int, mlp_ratio: float = 4.0, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.window, self.shift, self.drop_path = window, shift, drop_path
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, heads, window)
        self.norm2 = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, int(channels * mlp_ratio))
        self.fc2 = nn.Linear(int(channels * mlp_ratio), channels)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, h, w, C) -> the same shape; ``mask`` is the :func:`shift_mask` of the padded map."""
        x = x + self._drop(self._attend(self.norm1(x), mask))
        return x + self._drop(self.fc2(F.gelu(self.fc1(self.norm2(x)))))

    def _attend(self, x: Tensor, mask: Tensor) -> Tensor:
        _, h, w, _ = x.shape
        x = pad_to(x, self.window)
        padded = x.shape[1:3]
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
        windows = self.attn(to_windows(x, self.window), mask if self.shift else None)
        x = from_windows(windows, self.window, *padded)
        if self.shift:
            x = x.roll((self.shift, self.shift), (1, 2))
        return x[:, :h, :w]

    def _drop(self, x: Tensor) -> Tensor:
        out: Tensor = stochastic_depth(x, self.drop_path, "row", self.training)
        return out


class PatchMerging(nn.Module):
    """Merge 2x2 neighboring locations into one with twice the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C) -> (B, h/2, w/2, 2C), sizes rounded up."""
        x = pad_to(x, 2)
        batch, h, w, channels = x.shape
        # mmdetection's order: channel by channel, and for each channel the four locations row by row
        x = x.reshape(batch, h // 2, 2, w // 2, 2, channels).permute(0, 1, 3, 5, 2, 4).flatten(3)
        out: Tensor = self.reduction(self.norm(x))
        return out


class SwinStage(nn.Module):
    """Blocks on maps of one size, every second one with shifted windows, and the patch merging after them."""

    def __init__(
        self, channels: int, heads: int, window: int, mlp_ratio: float, drop_paths: Sequence[float], merge: bool
    ) -> None:
        super().__init__()
        self.window = window
        self.blocks = nn.ModuleList(
            SwinBlock(channels, heads, window, window // 2 * (i % 2), mlp_ratio, drop)
            for i, drop in enumerate(drop_paths)
        )
        self.merge = PatchMerging(channels) if merge else nn.Identity()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, h, w, C) -> the stage's map in the same shape, and the merged map for the next stage."""
        h, w = (next_multiple(side, self.window) for side in x.shape[1:3])
        mask = shift_mask(h, w, self.window, self.window // 2, x.device)  # shared by all blocks
        for block in self.blocks:
            x = block(x, mask)
        return x, self.merge(x)


class PatchEmbedding(nn.Module):
    """The stem: embeds every patch of 4x4 pixels as one location."""

    def __init__(self, inputs: int, channels: int, patch: int = 4) -> None:
        super().__init__()
        self.patch = patch
        self.conv = nn.Conv2d(inputs, channels, patch, stride=patch)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, H/4, W/4, channels), sizes rounded up."""
        bottom, right = (next_multiple(side, self.patch) - side for side in x.shape[2:])
        out: Tensor = self.norm(self.conv(F.pad(x, (0, right, 0, bottom))).permute(0, 2, 3, 1))
        return out


class Swin(Backbone):
    """Four stages of window attention.

    Args:
        depths: number of blocks of each stage.
        width: channels of the first stage; doubled in each further stage.
        heads: number of attention heads of each stage.
        window: height and width of a window, in locations.
        mlp_ratio: width of the inner linear layers, as a multiple of the channels.
        drop_path: stochastic depth rate of the last block, 0..1; it increases linearly from 0 at the first block.
        outputs: indices of the stages whose maps are returned, each after a separate norm; later stages are not built.
        frozen_stages: 0 trains everything, 1 freezes the stem and the first stage, up to 4.
        in_chans: channels of the images.
    """

    def __init__(
        self,
        depths: tuple[int, int, int, int],
        width: int = 96,
        heads: tuple[int, int, int, int] = (3, 6, 12, 24),
        window: int = 7,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.2,
        outputs: tuple[int, ...] = (0, 1, 2, 3),
        frozen_stages: int = 0,
        in_chans: int = 3,
    ) -> None:
        super().__init__()
        if not 0 <= frozen_stages <= 4:
            raise ValueError(f"frozen_stages={frozen_stages}: 0 trains everything, 4 freezes all four stages")
        if not outputs or tuple(sorted(set(outputs))) != tuple(outputs) or not set(outputs) <= {0, 1, 2, 3}:
            raise ValueError(f"outputs={outputs}: write stages from 0 to 3 in ascending order, e.g. (1, 2, 3)")
        self.frozen_stages, self.outputs = frozen_stages, tuple(outputs)
        self.patch_embed = PatchEmbedding(in_chans, width)
        drops = torch.linspace(0, drop_path, sum(depths), device="cpu").tolist()
        self.stages = nn.ModuleList()
        for i in range(outputs[-1] + 1):
            rates = drops[sum(depths[:i]) : sum(depths[: i + 1])]
            self.stages.append(SwinStage(width * 2**i, heads[i], window, mlp_ratio, rates, merge=i < outputs[-1]))
        for i in outputs:
            self.add_module(f"norm{i}", nn.LayerNorm(width * 2**i))
        self.channels = [width * 2**i for i in outputs]
        self.strides = tuple(4 * 2**i for i in outputs)
        self._init_weights()
        for part in self.frozen_parts:
            part.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Normalized images (B, in_chans, H, W) -> a map of each stage in ``outputs``, sizes rounded up."""
        x = self.patch_embed(x)
        maps = []
        for i, stage in enumerate(self.stages):
            level, x = stage(x)
            if i in self.outputs:
                maps.append(self.get_submodule(f"norm{i}")(level).permute(0, 3, 1, 2).contiguous())
        return maps

    @property
    def frozen_parts(self) -> list[nn.Module]:
        """The modules that ``frozen_stages`` freezes."""
        if not self.frozen_stages:
            return []
        norms = [self.get_submodule(f"norm{i}") for i in self.outputs if i < self.frozen_stages]
        return [self.patch_embed, *self.stages[: self.frozen_stages], *norms]

    def train(self, mode: bool = True) -> Swin:
        """Set the mode; frozen parts stay in eval mode, without stochastic depth."""
        super().train(mode)
        for part in self.frozen_parts:
            part.eval()
        return self

    def _init_weights(self) -> None:
        # the original truncates at -2 and 2: at a std of 0.02 this is an ordinary normal distribution
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
            elif isinstance(layer, WindowAttention):
                nn.init.normal_(layer.bias_table, std=0.02)
