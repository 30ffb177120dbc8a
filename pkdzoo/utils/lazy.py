"""Public names of a package that are imported at first use (PEP 562), so that importing the package is fast."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_attributes(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Make the ``__getattr__`` of a package.

    No submodule may have the name of a public attribute: importing the submodule would set that attribute.

    Args:
        package: full name of the package, its ``__name__``.
        modules: the full name of the module that defines each public name.

    Returns:
        A function that imports the module of a name, keeps the attribute in the package and returns it. For other
        names it raises AttributeError.

    Example:
        >>> from pkdzoo.utils.lazy import lazy_attributes
        >>> lazy_attributes("pkdzoo.utils", {"did_you_mean": "pkdzoo.utils.suggest"})("did_you_mean").__name__
        'did_you_mean'
    """

    def load(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(modules[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return load
