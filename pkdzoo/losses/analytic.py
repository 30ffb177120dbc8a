"""Helpers of the losses that compute their own gradient."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Parameter


def refuse_second_derivative(loss: str) -> None:
    """Raise in an analytic backward if its result is to be differentiated again.

    To autograd an analytic gradient is a constant: a penalty on it, or a Hessian, would silently be 0.
    ``once_differentiable`` raises only if the loss is multiplied by something that has a gradient itself.

    Args:
        loss: description of the loss for the message.

    Raises:
        RuntimeError: under ``create_graph=True``.
    """
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise RuntimeError(f"the gradient of {loss} cannot be differentiated again: leave create_graph=True out")


def is_traced(x: Tensor) -> bool:
    """True while a program is recorded or only shapes are computed; values must not control the flow then."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call, unused-ignore]
        return True
    return type(x) not in (Tensor, Parameter)  # fake tensors and the like
