"""Importing the package and the simple verbs import no slow library, and lazy names are the same everywhere."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pkdzoo

ROOT = Path(__file__).parents[1]
SLOW = ("torch", "torchvision", "accelerate", "huggingface_hub", "numpy", "PIL", "pycocotools", "safetensors")
MAIN = "from pkdzoo.cli import main\ntry:\n    main({})\nexcept SystemExit:\n    pass"
SIMPLE = {
    "import": "import pkdzoo",
    "comparing": "import pkdzoo.cli.compare, pkdzoo.training.run_table",
    "listing": "import pkdzoo; pkdzoo.list_detectors(); pkdzoo.results(); pkdzoo.get_weights('retina_r50')",
    **{
        " ".join(argv): MAIN.format(argv)
        for argv in (
            ["--help"],
            ["--version"],
            ["list"],
            ["list", "--json"],
            ["list", "--pairs", "--pretrained"],
            ["info", "retina_r50"],
            ["info", "retina_r50_pkd_swin.coco_2x", "--json"],
            ["info", "retina_r5O"],
            ["train", "--help"],
            ["distill", "--help"],
            ["doctor", "--help"],
            ["predict", "--help"],
            ["eval", "--help"],
            ["data", "check", "--help"],
        )
    },
}


def run(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("code", SIMPLE.values(), ids=SIMPLE)
def test_simple_commands_import_no_slow_library(code: str) -> None:
    report = f"import sys; print(); print('imported:', *(name for name in {SLOW} if name in sys.modules))"
    assert run(f"{code}\n{report}").splitlines()[-1].split() == ["imported:"]


def test_a_module_that_uses_operators_of_torchvision_imports_it() -> None:
    """Otherwise it can be imported only after another module that does."""
    files = [p for p in (ROOT / "pkdzoo").rglob("*.py") if "torch.ops.torchvision" in p.read_text(encoding="utf-8")]
    assert files and all("import torchvision" in path.read_text(encoding="utf-8") for path in files), files
    assert run("from pkdzoo.training.cost_estimate import gray; print(gray.__name__)") == "gray\n"


ALONE = """
import os, pkgutil, sys, importlib
import accelerate, huggingface_hub, numpy, PIL.Image, safetensors.torch, torch
assert "torchvision" not in sys.modules and "pkdzoo" not in sys.modules
failed = []
for path, folders, files in os.walk("pkdzoo"):
    for file in sorted(files):
        name = os.path.join(path, file)[:-3].replace(os.sep, ".").removesuffix(".__init__")
        if not file.endswith(".py") or name.endswith("__main__"):
            continue
        text = open(os.path.join(path, file), encoding="utf-8").read()
        if file != "__init__.py" and "torch.ops" not in text and "torch.library" not in text:
            continue
        child = os.fork()
        if child == 0:
            try:
                importlib.import_module(name)
            except BaseException as error:
                print(name, repr(error), flush=True)
                os._exit(1)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            failed.append(name)
print("failed:", *failed)
"""


@pytest.mark.slow
def test_packages_and_users_of_operators_can_be_imported_first() -> None:
    """Each in a process of its own, forked from one that has imported torch but neither torchvision nor pkdzoo.

    Other modules have no reason to fail alone: tests/test_imports.py finds import cycles.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0 and done.stdout == "failed:\n", done.stdout + done.stderr


def imports_for_type_checkers() -> tuple[dict[str, str], set[str]]:
    """Modules by public name, and subpackages, from the ``if TYPE_CHECKING:`` block of the package."""
    tree = ast.parse((ROOT / "pkdzoo" / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and isinstance(node.test, ast.Name))
    names: dict[str, str] = {}
    subpackages = set()
    for node in block.body:
        assert isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names:
            if node.module == "pkdzoo":
                subpackages.add(alias.name)
            else:
                names[alias.name] = node.module
    return names, subpackages


def test_lazy_names_are_those_for_type_checkers() -> None:
    names, subpackages = imports_for_type_checkers()
    assert names == pkdzoo._MODULES
    assert subpackages == set(pkdzoo._SUBPACKAGES)
    assert {*names, "__version__"} == set(pkdzoo.__all__)
    assert {*pkdzoo.__all__, *subpackages} <= set(dir(pkdzoo))


def test_no_module_has_the_name_of_a_lazy_attribute() -> None:
    """The import of the module would replace the attribute."""
    modules = {path.stem for path in (ROOT / "pkdzoo").iterdir()}
    assert not modules & set(pkdzoo._MODULES)
    assert set(pkdzoo._SUBPACKAGES) <= modules


def test_every_lazy_name_is_found() -> None:
    for name in (*pkdzoo.__all__, *pkdzoo._SUBPACKAGES):
        assert getattr(pkdzoo, name) is not None
    assert callable(pkdzoo.results)
    with pytest.raises(AttributeError, match="has no attribute 'create_detecter'"):
        pkdzoo.create_detecter  # noqa: B018


def test_subpackages_and_families_are_imported_when_they_are_used() -> None:
    """In one process, because torch is what takes the time."""
    code = """
import sys, pkdzoo
print(pkdzoo.distill.list_methods.__name__)
def families():
    return sorted(name for name in ("retina", "gfl", "fcos") if f"pkdzoo.models.{name}" in sys.modules)
print(*families())
pkdzoo.create_detector("gfl_r10w16", num_classes=2)
print(*families())
student, teacher = pkdzoo.create_pair("retina_r50_pkd_fcos_x101", pretrained=False)
print(student.name, teacher.name, *families())
"""
    pair = "retina_r50_pkd_fcos_x101 fcos_x101_64x4d fcos gfl retina"
    assert run(code).splitlines() == ["list_methods", "", "gfl", pair]


def test_a_name_of_a_family_that_is_not_imported_cannot_be_taken() -> None:
    code = """
import sys
from pkdzoo.models import _registry
def build(): ...
try:
    _registry.register_family("mine", build, {"retina_r50": {}})
except ValueError as error:
    print(error)
print("pkdzoo.models.retina" in sys.modules)
"""
    assert run(code) == "'retina_r50' is registered already: choose another name\nFalse\n"
