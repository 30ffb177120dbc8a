"""Folding of batch norms with fixed statistics into the preceding convolutions, for faster prediction."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from pkdzoo.layers.norm import FrozenBatchNorm2d


@torch.no_grad()
def fold_norms(module: nn.Module) -> int:
    """Fold every batch norm with fixed statistics in a module into the preceding convolution, in place.

    Fixed statistics are those of a :class:`FrozenBatchNorm2d` and of a batch norm in eval mode. A norm is folded into
    the convolution that directly precedes it among the children of its parent: modules of this package hold their
    children in execution order, other modules must too. Norms after deformable convolutions are kept. Factors are
    computed in float64; results differ by rounding, about 1e-6 of the largest value.

    Returns:
        Number of folded norms.

    Raises:
        ValueError: for a batch norm in train mode.
    """
    folded = 0
    for parent in list(module.modules()):
        for (_, conv), (name, norm) in pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, (FrozenBatchNorm2d, nn.BatchNorm2d)):
                if norm.training and isinstance(norm, nn.BatchNorm2d):
                    raise ValueError("a batch norm in train mode cannot be folded: call eval() first")
                _fold(conv, norm)
                setattr(parent, name, nn.Identity())
                folded += 1
    return folded


def _fold(conv: nn.Conv2d, norm: FrozenBatchNorm2d | nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None and norm.running_var is not None
    factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    old_bias = 0.0 if conv.bias is None else conv.bias.double()
    bias = norm.bias.double() + (old_bias - norm.running_mean.double()) * factor
    # New parameters instead of new values: other modules may share the old ones.
    requires_grad = conv.weight.requires_grad
    weight = (conv.weight.double() * factor[:, None, None, None]).to(conv.weight)
    conv.weight = nn.Parameter(weight, requires_grad=requires_grad)
    conv.bias = nn.Parameter(bias.to(weight), requires_grad=requires_grad)
