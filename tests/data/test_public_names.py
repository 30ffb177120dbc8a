"""Public names that are imported at first use are the objects themselves, whatever was imported before."""

from __future__ import annotations

import importlib
import os
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
def test_every_public_name_can_be_imported_first() -> None:
    """Each package in a process that has imported nothing of this project, but torch, which takes the time."""
    code = f"""
import importlib, os, sys
import torch, torchvision
for package in {PACKAGES}:
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0, package
        continue
    assert not any(name.startswith("pkdzoo") for name in sys.modules)
    module = importlib.import_module(package)
    for name in reversed(module.__all__):
        getattr(module, name)
    break
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
