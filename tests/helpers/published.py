"""The recipe files, and what tests of them share."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from helpers import reference
from helpers.scripts import ROOT
from pkdzoo.models._registry import find
from pkdzoo.training import Recipe, load_recipes

RECIPES = ROOT / "recipes"
INSTEAD = {"mask_rcnn": "faster_rcnn", "cascade_rcnn": "faster_rcnn"}  # there is no narrow one of these families
GOLDEN: dict[str, Any] = reference.load("recipes")


@cache
def files() -> list[Path]:
    """Every file below recipes/, at whatever depth, that defines a recipe."""
    return [p for p in sorted(RECIPES.rglob("*.py")) if re.search(r"^RECIPES? = ", p.read_text(), re.MULTILINE)]


@cache
def recipes_of(path: Path) -> tuple[Recipe, ...]:
    return tuple(load_recipes(path))


def every_recipe() -> Iterator[tuple[Path, Recipe]]:
    for path in files():
        for recipe in recipes_of(path):
            yield path, recipe


def named(path: Path, recipe: Recipe) -> str:
    """For test ids."""
    return f"{path.parent.name}/{recipe.name}"


def is_published(recipe: Recipe) -> bool:
    """Whether a recipe repeats something that was printed; others are of data sets that this project trained on."""
    return "source" in recipe.expect


def family(name: str) -> str:
    """The family of a detector's name, with or without a tag."""
    return find(name)[0].family


def narrowest(name: str) -> tuple[str, dict[str, Any]]:
    """The narrowest detector of a family, and its arguments; of an RTMDet in the same dialect."""
    kind = family(name)
    if kind == "rtmdet":
        dialect = "_yolo" if "_yolo" in name else ""
        return f"rtmdet_tiny{dialect}", {"width": 0.0625, "depth": 0.167}
    return f"{INSTEAD.get(kind, kind)}_r10w16", {}


def shrunken(recipe: Recipe) -> list[str]:
    """Assignments for --set that leave of a recipe its method and its losses, for two steps on small images.

    Student and teacher become the narrowest detectors of their families, without weights. Optimizer, clipping, sizes
    drawn and what is inherited or frozen stay.
    """
    neck = {key: value for key, value in recipe.model_args.items() if key in ("extra", "relu_before_extra")}
    model, arguments = narrowest(recipe.model)
    short, long = "[64,80]" if isinstance(recipe.data.short, tuple) else "64", 120
    if recipe.data.mix is not None:
        short, long = "96", 96  # squares
    words = [
        f"model={model}",
        f"model_args={json.dumps({**arguments, **neck})}",
        "init=none",
        f"data.short={short}",
        f"data.long={long}",
        "data.batch_size=2",
        "data.workers=0",
        "data.min_image_size=0",
        "data.masks=false",
        "data.zoom=0",
        "schedule.max_steps=2",
        "logging.log_every=1",
    ]
    if recipe.distill is not None:
        teacher, arguments = narrowest(recipe.distill.teacher)
        words += [
            f"distill.teacher={teacher}",
            f"distill.teacher_args={json.dumps({**arguments, 'num_classes': 6})}",
            "distill.teacher_weights=random",
        ]
    return [word for assignment in words for word in ("--set", assignment)]
