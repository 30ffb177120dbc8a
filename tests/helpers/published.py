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


def shrunken(recipe: Recipe) -> list[str]:
    """Assignments for --set that leave of a recipe its method and its losses, for two steps on small images.

    Student and teacher become the narrowest detectors of their families, without weights; Mask and Cascade R-CNN, of
    which there is no narrow one, become Faster R-CNN. Optimizer, clipping, sizes drawn and what is inherited or frozen
    stay.
    """
    tiny = {"mask_rcnn": "faster_rcnn", "cascade_rcnn": "faster_rcnn"}
    neck = {key: value for key, value in recipe.model_args.items() if key in ("extra", "relu_before_extra")}
    short = "[64,80]" if isinstance(recipe.data.short, tuple) else "64"
    words = [
        f"model={tiny.get(family(recipe.model), family(recipe.model))}_r10w16",
        f"model_args={json.dumps(neck)}",
        "init=none",
        f"data.short={short}",
        "data.long=120",
        "data.batch_size=2",
        "data.workers=0",
        "data.min_image_size=0",
        "data.masks=false",
        "data.zoom=0",
        "schedule.max_steps=2",
        "logging.log_every=1",
    ]
    if recipe.distill is not None:
        teacher = family(recipe.distill.teacher)
        words += [
            f"distill.teacher={tiny.get(teacher, teacher)}_r10w16",
            'distill.teacher_args={"num_classes": 6}',
            "distill.teacher_weights=random",
        ]
    return [word for assignment in words for word in ("--set", assignment)]
