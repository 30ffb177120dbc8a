"""No file imports a higher floor, and no two folders import each other in a circle (CONTRIBUTING.md, Architecture)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "pkdzoo"

FLOORS: dict[str, int] = {
    "structures": 0, "version": 0, "labels": 0, "costs": 0,
    "registry": 1, "drawing": 1, "download": 1, "patience": 1,
    "saved": 1, "hub": 1, "card_facts": 1, "cards": 1, "repository": 1, "ops": 1, "checkpoints": 1,
    "losses": 2, "assigners": 2, "layers": 2, "data": 2, "evaluation": 2,
    "backbones": 3, "necks": 3, "results": 3,
    "models": 4,
    "loading": 5, "factory": 5, "export": 5, "distill": 5, "results_table": 5,
    "training": 6, "figures": 6,
    "cli": 7, "__init__": 7, "__main__": 7,
}  # fmt: skip
# Folders of one floor that may import each other, in this direction only.
SAME_FLOOR = {
    ("saved", "checkpoints"), ("saved", "download"), ("saved", "patience"),
    ("hub", "registry"), ("hub", "checkpoints"), ("hub", "saved"), ("hub", "download"), ("hub", "patience"),
    ("card_facts", "registry"), ("cards", "registry"), ("cards", "card_facts"), ("repository", "card_facts"),
    ("repository", "cards"), ("repository", "saved"), ("repository", "patience"), ("factory", "loading"),
    ("evaluation", "data"), ("distill", "factory"),
    ("results_table", "factory"),
    ("__main__", "cli"),
}  # fmt: skip


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def imports_of(path: Path) -> set[str]:
    """Rooms that a file imports at run time; imports for type checkers only do not count."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write the whole module path"
            if node.module == "pkdzoo":
                found |= {alias.name for alias in node.names if alias.name in FLOORS} or {"__init__"}
            elif node.module and node.module.startswith("pkdzoo."):
                found.add(room_of(node.module))
        elif isinstance(node, ast.Import):
            found |= {room_of(alias.name) for alias in node.names if alias.name.split(".")[0] == "pkdzoo"}
    return found


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_only_lower_floors(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    assert room in FLOORS, f"{room} has no floor: give it one here and in CONTRIBUTING.md"
    for other in imports_of(path) - {room}:
        allowed = FLOORS[other] < FLOORS[room] or (room, other) in SAME_FLOOR
        assert allowed, f"{path.name} (floor {FLOORS[room]}) imports {other} (floor {FLOORS[other]})"


def test_an_upward_import_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "ops.py"
    file.write_text("from pkdzoo.models.base import Detector\nimport pkdzoo.training\n")
    assert imports_of(file) == {"models", "training"}
