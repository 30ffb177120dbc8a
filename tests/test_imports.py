"""Every file imports only lower layers and its own folder, and there is no import cycle.

The layers are those of CONTRIBUTING.md, "Architecture". Imports inside functions and for type checkers count as well.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "pkdzoo"

LAYERS: dict[str, int] = {
    "structures": 0, "utils": 0, "version": 0,
    "layers": 1, "ops": 1, "checkpoints": 1,
    "losses": 2, "data": 2,
    "evaluation": 3, "hub": 3, "inference": 3,
    "models": 4,
    "distill": 5, "export": 5,
    "training": 6, "app": 6, "dataset_tools": 5, "figures": 6,
    "cli": 7, "maintain": 8, "__init__": 9, "__main__": 9,
}  # fmt: skip
MAX_ROOT_FILES = 5

FILES = sorted(ROOT.rglob("*.py"))


def name_of(path: Path, root: Path = ROOT) -> str:
    """Dotted name of a file's module below the package, ``__init__`` for the package itself."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {name_of(path) for path in FILES}


def imports_of(path: Path, modules: set[str] = MODULES) -> set[str]:
    """Modules of the package that a file imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write the whole module path"
            if (node.module or "").split(".")[0] == "pkdzoo":
                parent = (node.module or "").partition(".")[2]
                for alias in node.names:
                    child = f"{parent}.{alias.name}".lstrip(".")
                    found.add(child if child in modules else parent or "__init__")
        elif isinstance(node, ast.Import):
            names = [alias.name.partition(".") for alias in node.names]
            found |= {module or "__init__" for package, _, module in names if package == "pkdzoo"}
    return found


def find_cycle(graph: dict[str, set[str]]) -> list[str]:
    """One import cycle, as the list of its modules; empty if there is none."""
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for other in sorted(graph.get(module, ())):
            if found := walk(other, [*path, module]):
                return found
        done.add(module)
        return []

    for module in sorted(graph):
        if found := walk(module, []):
            return found
    return []


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_only_lower_layers(path: Path) -> None:
    folder = name_of(path).split(".")[0]
    assert folder in LAYERS, f"{folder} has no layer: give it one here and in CONTRIBUTING.md"
    for module in imports_of(path):
        other = module.split(".")[0]
        assert other == folder or LAYERS[other] < LAYERS[folder], f"layer {LAYERS[folder]} imports {module}"


def test_calls_by_name_are_the_doors_that_lead_upward() -> None:
    """A call by name is not seen as an import; each is listed here, and in CONTRIBUTING.md."""
    users = {name_of(path) for path in FILES if re.search(r"(call_by_name|make_callable)\(", path.read_text())}
    assert users == {"utils.lazy", "models._training_methods", "distill"}


def test_there_is_no_import_cycle() -> None:
    assert find_cycle({name_of(path): imports_of(path) for path in FILES}) == []


def test_every_layer_is_used_and_the_root_has_few_files() -> None:
    assert {name_of(path).split(".")[0] for path in FILES} == set(LAYERS)
    files = [path.name for path in ROOT.iterdir() if path.is_file()]
    assert len(files) <= MAX_ROOT_FILES, files


def test_an_upward_import_is_found_wherever_it_is(tmp_path: Path) -> None:
    file = tmp_path / "ops.py"
    file.write_text(
        "from typing import TYPE_CHECKING\nimport pkdzoo.training\n"
        "if TYPE_CHECKING:\n    from pkdzoo.models.detector import Detector\n"
        "def late():\n    from pkdzoo import cli\n"
    )
    assert imports_of(file) == {"models.detector", "training", "cli"}


def test_a_cycle_inside_a_folder_is_found() -> None:
    assert find_cycle({"a.x": {"a.y"}, "a.y": {"b"}, "b": set()}) == []
    assert find_cycle({"a.x": {"a.y"}, "a.y": {"a.x"}}) == ["a.x", "a.y", "a.x"]
