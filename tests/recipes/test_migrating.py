"""recipes/MIGRATING.md: the names and options in it exist, and its code runs."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from helpers.scripts import ROOT

import pkdzoo
from pkdzoo import training
from pkdzoo.distill.registry import method_options
from pkdzoo.inference import PredictOptions
from pkdzoo.training import Recipe, build

PAGE = (ROOT / "recipes" / "MIGRATING.md").read_text()
CONSTRUCTORS = ("Data", "Distill", "Optim", "Recipe", "Schedule", "Warmup", "Logging")


def right_column() -> list[str]:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| there")]
    return [row.rsplit(" | ", 1)[1] for row in rows]


def code_of(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


CELLS = [code for cell in right_column() for code in code_of(cell) if code.split("(")[0] in CONSTRUCTORS]


def test_the_page_has_its_tables() -> None:
    assert len(right_column()) > 45 and len(CELLS) > 35


@pytest.mark.parametrize("code", CELLS)
def test_fields_of_recipes_exist(code: str) -> None:
    made = eval(code, {name: getattr(training, name) for name in CONSTRUCTORS})
    recipe = made if isinstance(made, Recipe) else None
    distill = made if isinstance(made, training.Distill) else recipe.distill if recipe else None
    if distill is not None and not distill.teacher.startswith("local-dir:"):
        assert pkdzoo.is_detector(distill.teacher)
        for name, options in distill.methods.items():
            assert set(options) <= set(method_options(name))
    if recipe is not None and recipe.model_args:
        build.build_student(Recipe.from_dict({**recipe.to_dict(), "init": None}), ["cat"])
    if recipe is not None and recipe.init not in (None, "imagenet"):
        assert pkdzoo.get_weights(recipe.init).has_source


def test_functions_and_their_arguments_exist() -> None:
    """``pkdzoo.name(...)`` and ``model.name(...)`` with their keywords, without running them."""
    calls = [code for cell in right_column() for code in code_of(cell) if re.match(r"(pkdzoo|model)\.[\w.]+\(", code)]
    assert len(calls) > 8
    for call in calls:
        head, arguments = call.split("(", 1)
        thing: Any = pkdzoo.Detector if head.startswith("model.") else pkdzoo
        for name in head.split(".")[1:]:
            thing = getattr(thing, name)
        known = inspect.signature(thing).parameters
        takes_any = any(p.kind is p.VAR_KEYWORD for p in known.values())
        if head == "model.predict":
            known, takes_any = {**known, **PredictOptions.__annotations__}, False
        assert all(word in known or takes_any for word in re.findall(r"(\w+)=", arguments)), call


def test_options_of_the_script_exist() -> None:
    text = (ROOT / "pkdzoo" / "training" / "arguments.py").read_text()
    lines = [code for cell in right_column() for code in code_of(cell) if "recipes/train.py" in code]
    options = {option for line in lines for option in re.findall(r" (--[\w-]+)", line)}
    assert {"--resume", "--set"} <= options
    assert all(f'"{option}"' in text for option in options - {"--nproc_per_node"})


def test_code_runs() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        found: dict[str, Any] = {}
        exec(block, found)
    published = training.load_recipe(ROOT / "recipes" / "pkd" / "retina_r50_pkd_swin.py")
    first: dict[str, Any] = {}
    exec(blocks[0], first)
    mine: Recipe = first["RECIPE"]
    for part in ("model", "init", "data", "optim", "schedule"):
        assert getattr(mine, part) == getattr(published, part), part
    assert mine.distill is not None and published.distill is not None
    assert mine.distill.teacher == published.distill.teacher


def test_links_exist() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", PAGE):
        assert (Path(ROOT / "recipes") / target).exists(), target
