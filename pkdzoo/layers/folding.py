"""Norms with fixed statistics disappear into the convolutions before them: the same function in fewer passes."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from pkdzoo.layers.norm import FrozenBatchNorm2d


@torch.no_grad()
def fold_norms(module: nn.Module) -> int:
    """Fold every frozen batch norm below a module of this package into its convolution, in place.

    A norm belongs to the convolution that its parent holds right before it: in this package modules stand in the order
    in which they run. A batch norm in eval mode has fixed statistics too. Norms after deformable convolutions stay.
    Factors are computed in float64; results differ by rounding, about 1e-6 of the largest value.

    Returns:
        How many were folded.
    """
    folded = 0
    for parent in list(module.modules()):
        for (_, conv), (name, norm) in pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, (FrozenBatchNorm2d, nn.BatchNorm2d)):
                if norm.training and isinstance(norm, nn.BatchNorm2d):
                    raise ValueError(
                        "a batch norm that still learns its statistics cannot be folded: call eval() first"
                    )
                _fold(conv, norm)
                setattr(parent, name, nn.Identity())
                folded += 1
    return folded


def _fold(conv: nn.Conv2d, norm: FrozenBatchNorm2d | nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None and norm.running_var is not None
    factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    before = 0.0 if conv.bias is None else conv.bias.double()
    bias = norm.bias.double() + (before - norm.running_mean.double()) * factor
    # New parameters, not new values in the old ones: whoever shares them keeps what they had.
    learns = conv.weight.requires_grad
    weight = (conv.weight.double() * factor[:, None, None, None]).to(conv.weight)
    conv.weight = nn.Parameter(weight, requires_grad=learns)
    conv.bias = nn.Parameter(bias.to(weight), requires_grad=learns)
