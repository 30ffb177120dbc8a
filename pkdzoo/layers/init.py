"""Parameters are initialised once, and not at all where weights follow.

A layer of torch draws its parameters when it is made, and nearly all of ours are then drawn anew by the rule of their
paper. Drawing numbers takes most of the time of building a detector, and half of them were thrown away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class DeferredInit(TorchFunctionMode):
    """While this is on, the last of a parameter's initialisations alone is carried out, or none where weights follow.

    An initialisation waits: until another one replaces it, until anything but the parameter's shape is asked for, or
    until the end. So every parameter starts by the same rule as without this, torch's own where nobody has another;
    only the random numbers are others. It holds for parameters in the thread that entered it, and knows a parameter as
    an object: whoever changes one through another tensor on the same memory does so before the initialisation.

    Args:
        weights_follow: every parameter is overwritten afterwards: until then they hold whatever their memory held.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from pkdzoo.layers.init import DeferredInit
        >>> with DeferredInit():
        ...     layer = nn.Linear(3, 2)  # waits
        ...     _ = nn.init.ones_(layer.weight)  # instead of torch's own rule, which stays for the bias
        >>> layer.weight.sum().item(), 0 < layer.bias.abs().max().item() < 3**-0.5
        (6.0, True)
    """

    WHOLE = frozenset({Tensor.normal_, Tensor.uniform_, Tensor.zero_, Tensor.fill_})
    LOOKS = frozenset(
        {Tensor.dim, Tensor.ndimension, Tensor.size, Tensor.numel, Tensor.new_empty, Tensor.new_tensor}
        | {Tensor.is_contiguous, Tensor.requires_grad_}
        | {getattr(Tensor, name).__get__ for name in ("shape", "is_meta", "requires_grad", "grad_fn")}
    )

    def __init__(self, weights_follow: bool = False) -> None:
        super().__init__()
        self.weights_follow = weights_follow
        self.waiting: dict[int, tuple[Callable[..., Any], Any, dict[str, Any]]] = {}  # by id; the arguments hold it
        self.used: dict[int, nn.Parameter] = {}  # there may be views of them, which see every change at once

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        first = args[0] if args else kwargs.get("tensor")
        initialises = func in self.WHOLE or getattr(func, "__module__", None) == "torch.nn.init"
        # what a value is drawn from may change before the end: only numbers wait
        plain = not any(isinstance(value, Tensor) for value in (*args[1:], *kwargs.values()) if value is not first)
        if (
            initialises
            and plain
            and isinstance(first, nn.Parameter)
            and (self.weights_follow or id(first) not in self.used)
        ):
            self.waiting.pop(id(first), None)  # the new one goes to the end
            self.waiting[id(first)] = (func, args, kwargs)
            return first
        if func not in self.LOOKS:
            for parameter in parameters_in((*args, *kwargs.values())):
                self.used[id(parameter)] = parameter
                self.carry_out(id(parameter))
        return func(*args, **kwargs)

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        super().__exit__(kind, error, traceback)  # type: ignore[no-untyped-call, unused-ignore]
        for number in list(self.waiting):  # after an error too: who catches it may go on with a part of the model
            self.carry_out(number)

    def carry_out(self, number: int) -> None:
        """What waits for a parameter, if anything does."""
        func, args, kwargs = self.waiting.pop(number, (None, (), {}))
        if func is not None and not self.weights_follow:
            with torch.no_grad():  # as all callers have it, who may have left it by now
                func(*args, **kwargs)


def parameters_in(values: Iterable[Any]) -> Iterator[nn.Parameter]:
    """Those among arguments, in lists too."""
    for value in values:
        if isinstance(value, nn.Parameter):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from parameters_in(value)
