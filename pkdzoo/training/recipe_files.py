"""Reads recipes: the published ones by name, from Python files, and from the ``recipe.json`` of a run.

A recipe file is Python code that defines ``RECIPE``, or ``RECIPES`` for several that are trained one after the other
and compared. The published recipes are the files of ``recipes/`` in a clone and of ``pkdzoo/recipes/`` in an installed
package (setup.py copies them).
"""

from __future__ import annotations

import json
import runpy
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pkdzoo.training.fields import UnknownField
from pkdzoo.training.published_files import published_files
from pkdzoo.training.recipe import Recipe, Unlabeled, override
from pkdzoo.utils.suggest import did_you_mean


def load_recipe(source: str | Path, assignments: Iterable[str] = ()) -> Recipe:
    """One recipe, by its name or from a file.

    Args:
        source: name of a published recipe, or a ``.py`` or ``.json`` file with one recipe.
        assignments: ``key=value`` overrides, see :func:`pkdzoo.training.override`.

    Raises:
        ValueError: for an unknown name or file, with the closest known ones, and for a file with several recipes.

    Example:
        >>> from pkdzoo.training import load_recipe
        >>> recipe = load_recipe("retina_r50_pkd_swin", ["optim.lr=0.02"])
        >>> recipe.model, recipe.distill.methods, recipe.optim.lr
        ('retina_r50', {'pkd': {'weight': 6.0}}, 0.02)
    """
    recipes = load_recipes(source, assignments)
    if len(recipes) > 1:
        names = ", ".join(recipe.name for recipe in recipes)
        raise ValueError(f"{source} holds {len(recipes)} recipes: {names}. Write load_recipes(), or one of the names")
    return recipes[0]


def load_recipes(
    source: str | Path, assignments: Iterable[str] = (), only: str | None = None, unlabeled: str | Path | None = None
) -> list[Recipe]:
    """The recipes of a file, or the published ones of a name.

    Args:
        source: a ``.py`` file that defines RECIPE or RECIPES (it is executed), the ``recipe.json`` of a run, or the
            name of a published recipe or of its file, without folder and ``.py``.
        assignments: ``key=value`` overrides of each recipe, see :func:`pkdzoo.training.override`.
        only: name of the one recipe to return; None returns all.
        unlabeled: folder of images without annotations for each recipe with a distillation method; see
            :class:`pkdzoo.training.Unlabeled`.

    Raises:
        ValueError: if the file or the name does not exist, or no recipe is in it, or none with the name ``only``; with
            ``unlabeled``, if none has a distillation method.

    Example:
        >>> import pathlib, tempfile
        >>> from pkdzoo.training import load_recipes
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "two.py"
        >>> text = "from pkdzoo.training import Recipe; RECIPES = [Recipe(name, 'retina_r50') for name in ('a', 'b')]"
        >>> _ = path.write_text(text)
        >>> [recipe.name for recipe in load_recipes(path)], load_recipes(path, only="b")[0].name
        (['a', 'b'], 'b')
    """
    path = Path(source)
    if not path.is_file() and len(path.parts) == 1 and path.suffix not in (".py", ".json"):
        path, name = find_published(str(source))
        only = only or name
    recipes = read_recipe_file(path)
    names = [recipe.name for recipe in recipes]
    if only is not None:
        recipes = [recipe for recipe in recipes if recipe.name == only]
        if not recipes:
            raise ValueError(f"{path} holds no recipe {only!r}. {did_you_mean(only, names)}")
    if unlabeled is not None:
        recipes = with_unlabeled(recipes, unlabeled)
    assignments = list(assignments)
    recipes = [override(recipe, assignments) for recipe in recipes]
    names = [recipe.name for recipe in recipes]
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: two recipes with the same name among {', '.join(names)}; name them differently")
    return recipes


def with_unlabeled(recipes: list[Recipe], folder: str | Path) -> list[Recipe]:
    """The recipes, those with a distillation method with a folder of unlabeled images; ratio and weight stay.

    Raises:
        ValueError: if no recipe has a distillation method.
    """
    changed = []
    for recipe in recipes:
        distill = recipe.distill
        if distill is not None and distill.methods:
            old = distill.unlabeled or Unlabeled(str(folder))
            recipe = replace(recipe, distill=replace(distill, unlabeled=replace(old, folder=str(folder))))
        changed.append(recipe)
    if not any(recipe.distill and recipe.distill.methods for recipe in recipes):
        names = ", ".join(recipe.name for recipe in recipes)
        raise ValueError(
            f"unlabeled images are for a distillation, and {names} has none: write distill=Distill(TEACHER, "
            '{"pkd": {}}) in the recipe, or pkdzoo distill --data DIR --student NAME --unlabeled DIR, or leave '
            "--unlabeled out"
        )
    return changed


def read_recipe_file(path: Path) -> list[Recipe]:
    """All recipes of a ``.py`` or ``.json`` file.

    Raises:
        ValueError: if the file does not exist, with the closest file names, or holds no recipe.
    """
    if not path.is_file():
        files = sorted(file.name for file in path.parent.glob("*.py")) if path.parent.is_dir() else []
        hint = did_you_mean(path.name, files) if files else f"the folder {path.parent} does not exist"
        raise ValueError(f"no recipe file {path}. {hint}")
    if path.suffix == ".json":
        try:
            return [Recipe.from_dict(json.loads(path.read_text()))]
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is not JSON: {error}") from error
    with _importable(path):
        try:
            namespace = runpy.run_path(str(path))
        except UnknownField as error:
            raise ValueError(f"{_place(path, error)}: {error}") from error
    content: Any = namespace.get("RECIPES", namespace.get("RECIPE"))
    recipes = [content] if isinstance(content, Recipe) else list(content or ())
    if not recipes or not all(isinstance(recipe, Recipe) for recipe in recipes):
        raise ValueError(f"{path} defines no RECIPE (one pkdzoo.training.Recipe) and no RECIPES (several)")
    return recipes


def find_published(name: str) -> tuple[Path, str | None]:
    """The file of a published recipe, and which of its recipes the name stands for; None means all.

    Args:
        name: of a file, without ``.py``, or of one of the recipes of a table.

    Raises:
        ValueError: for an unknown name, with the closest known ones.

    Example:
        >>> from pkdzoo.training.recipe_files import find_published
        >>> path, name = find_published("retina_on_fcos_r50")
        >>> path.name, name
        ('table_1_frozen_pyramid.py', 'retina_on_fcos_r50')
    """
    files = published_files()
    if name in files:
        return files[name], None
    tables = [file for file in files.values() if "RECIPES" in file.read_text(encoding="utf-8")]
    names = {recipe.name: file for file in tables for recipe in read_recipe_file(file)}
    if name in names:
        return names[name], name
    raise ValueError(f"no recipe {name!r} (a file needs its ending .py). {did_you_mean(name, [*files, *names])}")


def _place(path: Path, error: BaseException) -> str:
    """The file and line of a recipe at which an error arose."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
    return f"{path}, line {frames[-1].lineno}" if frames else str(path)


@contextmanager
def _importable(path: Path) -> Iterator[None]:
    """Lets a recipe import the files beside it and, in a ``recipes`` folder, from that folder (``recipes.shared``).

    What it imports from its own folder is forgotten afterward: another folder may have a file of the same name.
    """
    folder = path.resolve().parent
    roots = [str(parent.parent) for parent in path.resolve().parents if parent.name == "recipes"][:1]
    before = set(sys.modules)
    sys.path.insert(0, str(folder))  # first, as for a script
    sys.path.extend(roots)
    try:
        yield
    finally:
        for root in [str(folder), *roots]:
            sys.path.remove(root)
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if file is not None and "." not in name and folder in Path(file).resolve().parents:
                del sys.modules[name]
