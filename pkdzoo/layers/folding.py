"""Folding of batch norms with fixed statistics into the preceding convolutions, for faster prediction."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from pkdzoo.layers.norm import FrozenBatchNorm2d


@torch.no_grad()
def fold_norms(module: nn.Module) -> int:
    """Fold every batch norm with fixed statistics in a module into the preceding convolution, in place.

    Fixed statistics are those of a :class:`FrozenBatchNorm2d` and of a batch norm in eval mode. A norm is folded into
    the convolution that directly precedes it among the children of its parent. Only modules of this package and
    ``nn.Sequential`` are known to run their children in that order, so norms inside other libraries' modules are kept.
    So are norms of a convolution that is used in several places, and subclasses of convolutions and norms, which may do
    more than their base class: timm's ``BatchNormAct2d`` also holds the activation. Factors are computed in float64;
    results differ by rounding, about 1e-6 of the largest value.

    Returns:
        Number of folded norms.

    Raises:
        ValueError: for a batch norm in train mode.

    Example:
        >>> from torch import nn
        >>> from pkdzoo.layers.folding import fold_norms
        >>> layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval()
        >>> fold_norms(layers), layers
        (1, Sequential(
          (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
          (1): Identity()
          (2): ReLU()
        ))
    """
    folded = 0
    uses = Counter(id(part) for parent in module.modules() for part in parent._modules.values())
    for parent in list(module.modules()):
        if not _runs_in_order(parent):
            continue
        for (_, conv), (name, norm) in pairwise(list(parent._modules.items())):  # named_children leaves out repeats
            if conv is None or norm is None or uses[id(conv)] > 1:
                continue
            if type(conv) is nn.Conv2d and _is_foldable(norm) and not _has_hooks(conv) and not _has_hooks(norm):
                if norm.training and isinstance(norm, nn.BatchNorm2d):
                    raise ValueError("a batch norm in train mode cannot be folded: call eval() first")
                _fold(conv, cast("FrozenBatchNorm2d | nn.BatchNorm2d", norm))
                setattr(parent, name, nn.Identity())
                folded += 1
    return folded


def _runs_in_order(parent: nn.Module) -> bool:
    """Whether a module is known to run its children one after the other, in the order in which it holds them."""
    return type(parent) is nn.Sequential or type(parent).__module__.partition(".")[0] == "pkdzoo"


def _is_foldable(norm: nn.Module) -> bool:
    """Whether a module is exactly a batch norm, with running statistics."""
    return type(norm) in (FrozenBatchNorm2d, nn.BatchNorm2d) and norm.running_mean is not None


def _has_hooks(module: nn.Module) -> bool:
    """Whether something else happens when a module is called, e.g. torch's weight norm."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _fold(conv: nn.Conv2d, norm: FrozenBatchNorm2d | nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None and norm.running_var is not None
    factor = 1 / (norm.running_var.double() + norm.eps).sqrt()
    shift: Tensor | float = 0.0
    if norm.weight is not None:  # a batch norm with affine=False has neither
        factor, shift = norm.weight.double() * factor, norm.bias.double()
    old_bias = 0.0 if conv.bias is None else conv.bias.double()
    bias = shift + (old_bias - norm.running_mean.double()) * factor
    # New parameters instead of new values: other modules may share the old ones.
    requires_grad = conv.weight.requires_grad
    weight = (conv.weight.double() * factor[:, None, None, None]).to(conv.weight)
    conv.weight = nn.Parameter(weight, requires_grad=requires_grad)
    conv.bias = nn.Parameter(bias.to(weight), requires_grad=requires_grad)
