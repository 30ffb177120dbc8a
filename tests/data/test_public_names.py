"""Public names that are imported at first use are the objects themselves, whatever was imported before."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

PACKAGES = ("pkdzoo.data", "pkdzoo.inference")


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_hides_a_public_name(package: str) -> None:
    module = importlib.import_module(package)
    submodules = [info.name for info in pkgutil.iter_modules(module.__path__)]
    assert not set(submodules) & set(module.__all__)
    for name in submodules:
        importlib.import_module(f"{package}.{name}")
    for name in module.__all__:
        assert getattr(module, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = module.nothing


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_can_be_imported_first(package: str) -> None:
    code = (
        f"import importlib, sys\nmodule = importlib.import_module('{package}')\n"
        "for name in reversed(module.__all__): getattr(module, name)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
