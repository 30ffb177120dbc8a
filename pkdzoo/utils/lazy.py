"""Names that are imported at first use: public ones of a package (PEP 562), and functions of higher layers.

Some doors of the public API lead upward: ``Detector.fit`` trains, ``pkdzoo.distill(...)`` is the name of a package.
They call a function by its dotted name, and ``tests/test_imports.py`` lists them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from types import ModuleType
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


def call_by_name(function: str, *args: Any, **kwargs: Any) -> Any:
    """Import a function by ``module:name`` and call it.

    Example:
        >>> from pkdzoo.utils.lazy import call_by_name
        >>> call_by_name("math:hypot", 3, 4)
        5.0
    """
    module, _, name = function.partition(":")
    return getattr(import_module(module), name)(*args, **kwargs)


def make_callable(package: str, function: str) -> None:
    """Let a package be called like a function that has its name.

    Args:
        package: full name of the package, its ``__name__``; it is being imported.
        function: ``module:name`` of the function.
    """
    calling = type("CallablePackage", (ModuleType,), {"__call__": staticmethod(partial(call_by_name, function))})
    sys.modules[package].__class__ = calling
