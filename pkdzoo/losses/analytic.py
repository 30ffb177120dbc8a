"""What losses that write their gradient down themselves have in common."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Parameter


def refuse_second_derivative(loss: str) -> None:
    """Called in an analytic backward: an error where its result is to be differentiated again.

    A gradient found by hand is a constant to autograd: a penalty on it, or a Hessian, would silently come out as
    nothing. ``once_differentiable`` refuses only where the loss is multiplied by something that has a gradient itself.

    Args:
        loss: what is differentiated, in words.

    Raises:
        RuntimeError: under ``create_graph=True``.
    """
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise RuntimeError(f"the gradient of {loss} cannot be differentiated again: leave create_graph=True out")


def traced(x: Tensor) -> bool:
    """Whether a program is made of what is computed, or only shapes are: values must not decide anything then."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call, unused-ignore]
        return True
    return type(x) not in (Tensor, Parameter)  # fake tensors and others that only stand for one
