"""Blocks with a global receptive field: the global context block of FGD and the non-local block of FBKD.

Both are initialized as the identity, so that a distillation method starts as plain feature imitation.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GlobalContext(nn.Module):
    """GcBlock (Cao et al. 2019, arXiv:1904.11492): a pooled context, transformed and added to every location.

    Args:
        channels: channels of the map, an even number.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 2
        self.attention = nn.Conv2d(channels, 1, 1)
        self.reduce = nn.Conv2d(channels, inner, 1)
        self.norm = nn.LayerNorm([inner, 1, 1])
        self.expand = nn.Conv2d(inner, channels, 1)
        nn.init.kaiming_normal_(self.attention.weight, mode="fan_in")
        for zero in (self.attention.bias, self.expand.weight, self.expand.bias):
            assert zero is not None
            nn.init.zeros_(zero)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) -> the same shape."""
        weights = self.attention(x).flatten(2).softmax(dim=-1)  # (B, 1, h*w)
        context = (x.flatten(2) * weights).sum(dim=-1)[..., None, None]  # (B, channels, 1, 1)
        out: Tensor = x + self.expand(F.relu(self.norm(self.reduce(context))))
        return out


class NonLocal(nn.Module):
    """Non-local block (Wang et al. 2018, arXiv:1711.07971), with dot products divided by the number of keys.

    There is no softmax. As mmcv's NonLocal2d with ``sub_sample`` and a variable pool size: keys and values are
    max-pooled after their convolutions.

    Args:
        channels: channels of the map.
        inner: channels of queries, keys and values.
        pool: size of the pooling window, in locations.
        std: standard deviation of the initial weights of query, key and value; their biases start at 0.
    """

    def __init__(self, channels: int, inner: int, pool: int, std: float = 0.01) -> None:
        super().__init__()
        self.pool = pool
        self.query = nn.Conv2d(channels, inner, 1)
        self.key = nn.Conv2d(channels, inner, 1)
        self.value = nn.Conv2d(channels, inner, 1)
        self.out = nn.Conv2d(inner, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        for conv in (self.query, self.key, self.value):
            nn.init.normal_(conv.weight, std=std)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)
        nn.init.zeros_(self.norm.weight)  # its bias is 0 too, so the block starts as the identity

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) -> the same shape."""
        batch, _, h, w = x.shape
        pool = (min(self.pool, h), min(self.pool, w))  # maps smaller than the window give one key
        key, value = (F.max_pool2d(conv(x), pool).flatten(2) for conv in (self.key, self.value))  # (B, inner, keys)
        # (query^T key / n) value = query^T (key value^T) / n: the second form avoids the (h*w, keys) matrix
        mixed = torch.matmul(key, value.transpose(1, 2)) / key.shape[-1]  # (B, inner, inner)
        query = self.query(x).flatten(2)  # (B, inner, h*w)
        y = torch.matmul(mixed.transpose(1, 2), query).view(batch, -1, h, w)
        out: Tensor = x + self.norm(self.out(y))
        return out
