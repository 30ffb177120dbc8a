"""Writes recipes as a Python file for people to edit: only the fields that differ from the defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from pkdzoo.training.recipe import Recipe

WIDTH = 110  # columns up to which a call stays on one line


def recipe_file(recipes: Sequence[Recipe], head: str) -> str:
    """A file that ``pkdzoo train`` reads.

    Args:
        recipes: with different names.
        head: docstring of the file.

    Returns:
        Python code; executing it gives equal recipes.

    Example:
        >>> from pkdzoo.training import Optim, Recipe
        >>> from pkdzoo.training.own_data.recipe_text import recipe_file
        >>> print(recipe_file([Recipe("a", "retina_r50", optim=Optim(lr=0.02))], "Mine.").splitlines()[-1])
        RECIPES = [Recipe(name="a", model="retina_r50", optim=Optim(lr=0.02))]
    """
    text = head.replace("\\", "\\\\").replace('"""', "'''").strip()
    rows = [write(recipe, 1) for recipe in recipes]
    listed = f"RECIPES = [{rows[0]}]"
    if len(rows) > 1 or "\n" in listed or len(listed) > WIDTH:
        listed = "RECIPES = [\n" + "".join(f"    {row},\n" for row in rows) + "]"
    used = sorted({name for name in ("Data", "Distill", "Logging", "Mix", "Optim", "Recipe", "Schedule", "Unlabeled",
                               "Warmup")
                   if f"{name}(" in listed})  # fmt: skip
    return f'"""{text}\n"""\n\nfrom pkdzoo.training import {", ".join(used)}\n\n{listed}\n'


def write(value: Any, depth: int = 0) -> str:
    """A value of a recipe as Python code; ``depth`` is its indentation in steps of four spaces."""
    if is_dataclass(value) and not isinstance(value, type):
        changed = {f.name: getattr(value, f.name) for f in fields(value) if getattr(value, f.name) != _default(f)}
        parts = [f"{name}={write(item, depth + 1)}" for name, item in changed.items()]
        return _joined(f"{type(value).__name__}(", parts, ")", depth)
    if isinstance(value, Mapping):
        parts = [f"{write(str(key))}: {write(item, depth + 1)}" for key, item in value.items()]
        return _joined("{", parts, "}", depth)
    if isinstance(value, str):
        quoted = repr(value)
        return f'"{quoted[1:-1]}"' if quoted[0] == "'" and '"' not in quoted else quoted
    return repr(value)


def _joined(start: str, parts: Sequence[str], end: str, depth: int) -> str:
    line = f"{start}{', '.join(parts)}{end}"
    if len(line) + 4 * depth <= WIDTH and "\n" not in line:
        return line
    inner, outer = "    " * (depth + 1), "    " * depth
    return f"{start}\n" + "".join(f"{inner}{part},\n" for part in parts) + f"{outer}{end}"


def _default(entry: Any) -> Any:
    if entry.default_factory is not MISSING:
        return entry.default_factory()
    return entry.default
