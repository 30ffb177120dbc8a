"""Warns when a method is called through ``torch.compile(model)``, whose wrapper compiles ``forward`` alone."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from functools import update_wrapper
from typing import Any, cast


class Uncompiled:
    """A method that runs uncompiled behind the wrapper of ``torch.compile``; looking it up there gives a warning.

    The wrapper hands out the methods of the model inside, which cannot see it. It is recognized by the lookup itself,
    which happens in its ``__getattr__``.

    Args:
        function: the method.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        update_wrapper(cast(Any, self), function)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        caller = sys._getframe(1)
        if instance is not None and caller.f_code.co_name == "__getattr__":
            wrapper = caller.f_locals.get("self")
            if type(wrapper).__name__ == "OptimizedModule":
                name = self.function.__name__
                warnings.warn(
                    f"torch.compile(model).{name} runs uncompiled: the wrapper compiles losses only. Write "
                    f"model.compile(), then model.{name}(...)",
                    stacklevel=3,
                )
        return self.function.__get__(instance, owner)
