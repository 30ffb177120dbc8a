"""Old names that keep working for a while, with a ``FutureWarning`` that names the new one.

CONTRIBUTING.md, "Public API", says how long. Every use is listed in ``DEPRECATIONS``, and a test fails in the version
that should no longer have it.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import NamedTuple, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Deprecation(NamedTuple):
    """An old name.

    Attributes:
        old: what a program has written so far.
        new: what to write instead.
        removal: the version that no longer has the old name.
    """

    old: str
    new: str
    removal: str

    def warn(self, stacklevel: int = 3) -> None:
        """Warn the caller's caller: ``stacklevel`` counts as in :func:`warnings.warn`, from here."""
        text = f"{self.old} will be removed in pkdzoo {self.removal}: write {self.new}"
        warnings.warn(text, FutureWarning, stacklevel=stacklevel)


DEPRECATIONS: list[Deprecation] = []


def renamed_function(old: str, new: Callable[P, R], removal: str) -> Callable[P, R]:
    """A function or class under its old name.

    Args:
        old: the old name, with its module.
        new: the function or class that replaces it.
        removal: the version that no longer has the old name.

    Returns:
        A function that warns and then calls ``new``.

    Example:
        >>> import warnings
        >>> from pkdzoo.utils.deprecation import DEPRECATIONS, renamed_function
        >>> total = renamed_function("pkdzoo.total", sum, "0.9")
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     total([1, 2])
        3
        >>> print(caught[0].message)
        pkdzoo.total will be removed in pkdzoo 0.9: write builtins.sum
        >>> _ = DEPRECATIONS.pop()  # so that this example is not counted
    """
    deprecation = Deprecation(old, f"{new.__module__}.{new.__qualname__}", removal)
    DEPRECATIONS.append(deprecation)

    @functools.wraps(new)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        deprecation.warn()
        return new(*args, **kwargs)

    return call


def renamed_arguments(removal: str, **names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator of a function whose keyword arguments have new names.

    Args:
        removal: the version that no longer takes the old ones.
        names: the new name by the old one, which may not be an argument of the function any more.

    Raises:
        TypeError: when it is called with an old and its new name at once.

    Example:
        >>> import warnings
        >>> from pkdzoo.utils.deprecation import DEPRECATIONS, renamed_arguments
        >>> @renamed_arguments("0.9", thr="threshold")
        ... def keep(threshold=0.3):
        ...     return threshold
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     keep(thr=0.5)
        0.5
        >>> print(caught[0].message)
        keep(thr=...) will be removed in pkdzoo 0.9: write threshold=...
        >>> _ = DEPRECATIONS.pop()  # so that this example is not counted
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        name = function.__qualname__
        rows = {old: Deprecation(f"{name}({old}=...)", f"{new}=...", removal) for old, new in names.items()}
        DEPRECATIONS.extend(rows.values())

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for old in rows.keys() & kwargs.keys():
                if names[old] in kwargs:
                    raise TypeError(f"{name}() got {old}= and {names[old]}=, which are the same: write {names[old]}=")
                rows[old].warn()
                kwargs[names[old]] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate
