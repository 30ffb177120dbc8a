"""In which precision numbers are computed: at least float32, whatever the type of the maps."""

from __future__ import annotations

import torch
from torch import Tensor


def float32_or_wider(x: Tensor) -> Tensor:
    """``x`` in float32, or unchanged where its type has more bits.

    Args:
        x: any shape.

    Returns:
        The same shape. Half precision, as under autocast, becomes float32; float64 stays float64.

    Example:
        >>> import torch
        >>> from pkdzoo.utils.precision import float32_or_wider
        >>> [float32_or_wider(torch.zeros(1, dtype=t)).dtype for t in (torch.bfloat16, torch.float64)]
        [torch.float32, torch.float64]
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))
