"""Deferred initialization: every parameter is initialized at most once, or not at all if weights are loaded next.

A layer of torch initializes its parameters in its constructor, and the detectors then initialize nearly all of them
again by the rules of their papers. The first random numbers are thrown away, although drawing numbers takes most of the
time of building a detector.

Torch's meta device is the alternative for the case where weights are loaded next. It is slower (RetinaNet-R50: 40 ms
instead of 15 ms to build), and it leaves all tensors without values that are no part of the checkpoint: pixel
statistics, position tables, anchors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class DeferredInit(TorchFunctionMode):
    """Context manager in which only the last initialization of each parameter runs, or none if weights follow.

    An initialization (a function of ``torch.nn.init``, or a method such as ``normal_``) is postponed until the
    parameter is used, or until the end of the context; another initialization of the same parameter replaces it.
    Reading the shape or other metadata does not count as use. Every parameter is therefore initialized by the same rule
    as without this context; only the random numbers differ.

    The context applies to the thread that entered it. It recognizes parameters by identity: changes through another
    tensor that shares the memory, created before the context, are overwritten by the postponed initialization.

    Args:
        weights_follow: skip all initializations, because the caller overwrites every parameter afterward. Until then
            the values are undefined.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from pkdzoo.layers.init import DeferredInit
        >>> with DeferredInit():
        ...     layer = nn.Linear(3, 2)  # postponed
        ...     _ = nn.init.ones_(layer.weight)  # replaces torch's rule for the weight, but not for the bias
        >>> layer.weight.sum().item(), 0 < layer.bias.abs().max().item() < 3**-0.5
        (6.0, True)
    """

    # Methods that overwrite a whole tensor; the functions of torch.nn.init are recognized by their module.
    INITIALIZERS = frozenset({Tensor.normal_, Tensor.uniform_, Tensor.zero_, Tensor.fill_})
    # Functions that read or change metadata only.
    METADATA = frozenset(
        {Tensor.dim, Tensor.ndimension, Tensor.size, Tensor.numel, Tensor.new_empty, Tensor.new_tensor}
        | {Tensor.is_contiguous, Tensor.requires_grad_}
        | {getattr(Tensor, name).__get__ for name in ("shape", "is_meta", "requires_grad", "grad_fn")}
    )

    def __init__(self, weights_follow: bool = False) -> None:
        super().__init__()
        self.weights_follow = weights_follow
        # By the id of the parameter, which the arguments keep alive.
        self.pending: dict[int, tuple[Callable[..., Any], Any, dict[str, Any]]] = {}
        # Parameters that were used: views of them may exist, so that later initializations must run immediately.
        self.used: dict[int, nn.Parameter] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        first = args[0] if args else kwargs.get("tensor")
        initializes = func in self.INITIALIZERS or getattr(func, "__module__", None) == "torch.nn.init"
        # a tensor among the other arguments could change before the end
        can_wait = not any(isinstance(value, Tensor) for value in (*args[1:], *kwargs.values()) if value is not first)
        if (
            initializes
            and can_wait
            and isinstance(first, nn.Parameter)
            and (self.weights_follow or id(first) not in self.used)
        ):
            self.pending.pop(id(first), None)  # also moves it to the end of the order
            self.pending[id(first)] = (func, args, kwargs)
            return first
        if func not in self.METADATA:
            for parameter in parameters_in((*args, *kwargs.values())):
                self.used[id(parameter)] = parameter
                self.run_pending(id(parameter))
        return func(*args, **kwargs)

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        super().__exit__(kind, error, traceback)  # type: ignore[no-untyped-call, unused-ignore]
        for parameter_id in list(self.pending):  # also after an error: the caller may use the modules built so far
            self.run_pending(parameter_id)

    def run_pending(self, parameter_id: int) -> None:
        """Run the postponed initialization of a parameter, if there is one."""
        func, args, kwargs = self.pending.pop(parameter_id, (None, (), {}))
        if func is not None and not self.weights_follow:
            with torch.no_grad():  # callers initialize under no_grad, but may have left it by now
                func(*args, **kwargs)


def parameters_in(values: Iterable[Any]) -> Iterator[nn.Parameter]:
    """The parameters among arguments, also in nested lists and tuples."""
    for value in values:
        if isinstance(value, nn.Parameter):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from parameters_in(value)
