"""Detectors for images that have not three channels: statistics and stem weights for any number.

The rule for the stem is timm's: one channel gets the sum of the three weights, so that grey images give what their
RGB copies gave; more channels repeat the three in turn, scaled so that the sum over channels stays what it was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn

from pkdzoo.structures import PixelNorm

STEMS = ("backbone.conv1.", "backbone.patch_embed.")


def widen(pixel_norm: PixelNorm, channels: int) -> PixelNorm:
    """Statistics for another number of channels: their mean for one, else the given ones in turn.

    The result takes channels in the order they come in, also where the original takes BGR: turning four channels
    around would bring the fourth to the front.
    """
    if channels < 1:
        raise ValueError(f"in_chans={channels}: an image has at least one channel")
    turned = slice(None, None, -1 if pixel_norm.channel_order == "bgr" else 1)
    parts = [
        (sum(part) / len(part),) if channels == 1 else tuple(part[i % len(part)] for i in range(channels))
        for part in (pixel_norm.mean[turned], pixel_norm.std[turned])
    ]
    return PixelNorm(parts[0], parts[1], "rgb")


def adapt_stem(state: Mapping[str, Tensor], model: nn.Module, swap_channels: bool) -> dict[str, Tensor]:
    """A state dict whose first convolution fits the model's number of channels.

    Args:
        state: in our key layout.
        model: with a ``backbone``; it says how many channels are wanted.
        swap_channels: the given weights take BGR and the model does not.

    Returns:
        The same tensors but for the first convolution's.
    """
    own, adapted = model.state_dict(), dict(state)
    for key, weight in state.items():
        if not key.startswith(STEMS) or weight.ndim != 4 or key not in own or weight.shape[1] == own[key].shape[1]:
            continue
        given, wanted = weight.shape[1], own[key].shape[1]
        weight = weight.flip(1) if swap_channels else weight
        if wanted == 1:
            adapted[key] = weight.sum(dim=1, keepdim=True)
        else:
            adapted[key] = weight.repeat(1, math.ceil(wanted / given), 1, 1)[:, :wanted] * (given / wanted)
    return adapted
