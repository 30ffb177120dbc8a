"""Pixel statistics and stem weights for images with other than three channels.

The stem follows timm's rule. For one channel, the weights of the three channels are summed, so that a gray image gives
the same result as its RGB copy. For more channels, the three are repeated in order and scaled, so that the sum over the
channels does not change.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn

from pkdzoo.structures import PixelNorm

MAX_CHANNELS = 1024  # of images; hyperspectral cameras have some hundred
STEMS = ("backbone.conv1.", "backbone.patch_embed.", "backbone.stem.0.")
NETWORK = "backbone.network."  # of timm, whose stems have names of their own


def widen(pixel_norm: PixelNorm, channels: int) -> PixelNorm:
    """Pixel statistics for another number of channels: the mean for one channel, else the given ones repeated.

    The result never reorders channels, even if the original takes BGR: reversing four channels would move the fourth
    to the front.
    """
    if not isinstance(channels, int) or isinstance(channels, bool) or not 1 <= channels <= MAX_CHANNELS:
        raise ValueError(f"in_chans={channels!r}: write a whole number of channels from 1 to {MAX_CHANNELS}")
    to_rgb = slice(None, None, -1 if pixel_norm.channel_order == "bgr" else 1)
    parts = [
        (sum(part) / len(part),) if channels == 1 else tuple(part[i % len(part)] for i in range(channels))
        for part in (pixel_norm.mean[to_rgb], pixel_norm.std[to_rgb])
    ]
    return PixelNorm(parts[0], parts[1], "rgb")


def adapt_stem(state: Mapping[str, Tensor], model: nn.Module, swap_channels: bool) -> dict[str, Tensor]:
    """Adapt the first convolution of a state dict to the model's number and order of channels.

    Args:
        state: tensors in our key layout.
        model: a detector with a ``backbone``, whose stem gives the number of channels.
        swap_channels: whether the weights take another channel order than the model, BGR or RGB.

    Returns:
        The same tensors, except for the weight of the first convolution.
    """
    expected, adapted = model.state_dict(), dict(state)
    channels = len(getattr(model, "pixel_mean", ()))
    to_bgr = swap_channels and getattr(model, "channel_order", "rgb") == "bgr"
    for key, weight in state.items():
        if not key.startswith((*STEMS, NETWORK)) or weight.ndim != 4 or key not in expected:
            continue
        new = expected[key].shape[1]
        if key.startswith(NETWORK) and new != channels:
            continue
        weight = weight.flip(1) if swap_channels and not to_bgr and weight.shape[1] == 3 else weight
        weight = repeat_channels(weight, new)
        adapted[key] = weight.flip(1) if to_bgr and new == 3 else weight
    return adapted


def repeat_channels(weight: Tensor, channels: int) -> Tensor:
    """The weight of a convolution for another number of channels, see the top of this file."""
    old = weight.shape[1]
    if old == channels:
        return weight
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    return weight.repeat(1, math.ceil(channels / old), 1, 1)[:, :channels] * (old / channels)
