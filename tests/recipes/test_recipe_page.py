"""Recipe files are short and found, and the page lists them."""

from __future__ import annotations

import re

import pytest
from helpers.published import RECIPES, every_recipe, files, is_published, recipes_of

import pkdzoo
from pkdzoo.maintain.recipes_page import EQUAL_METHODS, FOLDERS, page, reference_detectors

ALL = list(every_recipe())


def test_folders_are_searched_at_every_depth() -> None:
    assert {p.parent.name for p, recipe in ALL if is_published(recipe)} == set(FOLDERS)
    scripts = [p for p in (RECIPES / "experiments").glob("*.py") if "\nWAVES = " not in p.read_text()]
    folders = (RECIPES, RECIPES / "benchmarks")
    inside = [p for p in RECIPES.rglob("*.py") if p.parent not in folders and p not in scripts]
    assert [p for p in inside if p not in files()] == []
    names = [recipe.name for _, recipe in ALL]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("path", [p for p in files() if p.parent != RECIPES], ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_a_file_is_short_and_says_how_to_launch_it(path) -> None:
    text = path.read_text()
    recipes = recipes_of(path)
    assert 5 <= len(text.splitlines()) <= (25 if len(recipes) == 1 else 60)
    head = text.partition('"""\n\n')[0]
    assert f"accelerate launch recipes/train.py recipes/{path.parent.name}/{path.name}" in head
    if len(recipes) == 1 and is_published(recipes[0]):
        (recipe,) = recipes
        assert recipe.name == path.stem and path.stem.startswith(recipe.model.removesuffix("_yolo"))
    for name in re.findall(r"^accelerate launch .*(?:\\\n +)?--only (\S+)", head, re.MULTILINE):
        assert name in [recipe.name for recipe in recipes]


def test_the_page_of_recipes_is_generated() -> None:
    text = (RECIPES / "README.md").read_text()
    assert text == page(RECIPES), "python -m pkdzoo.maintain recipes writes it anew"
    shown = re.findall(r"^\| \[.*?\]\((.*?)\)", text, re.MULTILINE)
    assert shown.count("pkd/table_6_weights.py") == 5 and all((RECIPES / path).is_file() for path in shown)
    assert len(shown) == sum(is_published(recipe) for _, recipe in ALL)
    launches = re.findall(r"^accelerate launch recipes/train.py (\S+\.py)", text, re.MULTILINE)
    assert launches and all((RECIPES.parent / path).is_file() for path in launches)


def test_what_is_called_checked_has_figures() -> None:
    golden = RECIPES.parent / "tests" / "golden"
    equal = reference_detectors(RECIPES.parent)
    assert {"retina_r50", "rtmdet_tiny_yolo"} <= equal and equal <= set(pkdzoo.list_detectors())
    without = re.search(r"(?s)Without one are (.*?),\nand the", (RECIPES.parent / "docs" / "measured.md").read_text())
    named = set(re.findall(r"`(\w+)`", without[1]))
    assert named and not named & equal and named <= set(pkdzoo.list_detectors())
    figures = {re.sub("_loss|_prototypes|__.*", "", path.stem) for path in (golden / "kd").glob("*.json")}
    assert figures - {"crosskd_pkd", "ld_authors"} == set(EQUAL_METHODS)


def test_every_method_has_a_recipe() -> None:
    used = {method for _, recipe in ALL if recipe.distill for method in recipe.distill.methods}
    assert used == set(pkdzoo.list_methods())
