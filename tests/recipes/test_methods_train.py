"""Two steps of shrunk published recipes through the real script: each method by default, each recipe when slow."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.processes import Run
from helpers.published import every_recipe, family, is_published, named, recipes_of, shrunken
from helpers.scripts import log_lines

import pkdzoo
from pkdzoo.training import Recipe

ALL = [(path, recipe) for path, recipe in every_recipe() if is_published(recipe)]
PREFIX = {"global_knowledge": "loss_gk"}  # of a method's losses, where it is not its name


def words_for(path: Path, recipe: Recipe, data: Path, output: Path) -> list[object]:
    several = ["--only", recipe.name] if len(recipes_of(path)) > 1 else []
    return [path, *several, "--data", data, "--output", output, *shrunken(recipe)]


def check_run(recipe: Recipe, output: Path, processes: int = 1) -> None:
    """Two steps were made, with losses of every method of the recipe as it stands, and a student came out."""
    metrics = json.loads((output / "metrics.json").read_text())
    assert (metrics["step"], metrics["processes"]) == (2, processes)
    steps = [line for line in log_lines(output) if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2]
    assert all(math.isfinite(value) for line in steps for key, value in line.items() if key.startswith("loss"))
    said = json.loads((output / "recipe.json").read_text())
    if recipe.distill is not None:
        assert said["distill"]["methods"] == recipe.to_dict()["distill"]["methods"]
        for method in recipe.distill.methods:
            prefix = PREFIX.get(method, f"loss_{method}")
            # in the second step, because a weight may rise from zero in the first
            assert any(value > 0 for key, value in steps[1].items() if key.startswith(prefix)), (method, steps[1])
    assert said["optim"] == recipe.to_dict()["optim"]
    student = pkdzoo.create_detector(f"local-dir:{output / 'last'}")
    assert student.num_classes == 6
    assert not any(key.startswith(("teacher", "frozen", "methods")) for key in student.state_dict())


# Of features, of predictions, with layers of its own, with prototypes drawn from the loader, with boxes of the targets.
# All methods are in test_every_recipe_trains, and test_published.py asserts that each has a recipe.
USUAL = ("pkd", "crosskd", "fbkd", "global_knowledge", "fgd")


@pytest.mark.parametrize("method", USUAL)
def test_every_method_trains(method, train, shapes, tmp_path) -> None:
    path, recipe = next((p, r) for p, r in ALL if r.distill and method in r.distill.methods)
    train(*words_for(path, recipe, shapes, tmp_path / "run"))
    check_run(recipe, tmp_path / "run")


def test_a_frozen_backbone_stays_as_it_was_inherited(train, shapes, tmp_path) -> None:
    path, recipe = next((p, r) for p, r in ALL if r.name == "fcos_on_gfl_r50")
    source = pkdzoo.create_detector("gfl_r10w16", num_classes=6)
    source.save_pretrained(tmp_path / "source")
    train(
        *words_for(path, recipe, shapes, tmp_path / "run"),
        "--set", f"distill.teacher=local-dir:{tmp_path / 'source'}", "--set", "distill.teacher_weights=none",
        "--set", "distill.teacher_args={}", "--set", "optim.lr=1.0",
    )  # fmt: skip
    run = json.loads((tmp_path / "run" / "recipe.json").read_text())["distill"]
    assert (run["methods"], run["inherit"], run["freeze"]) == ({}, ["backbone", "neck"], ["backbone", "neck"])
    trained = pkdzoo.create_detector(f"local-dir:{tmp_path / 'run' / 'last'}").state_dict()
    before = source.state_dict()
    kept = [key for key in trained if key.startswith(("backbone.", "neck."))]
    assert kept and all(torch.equal(trained[key], before[key]) for key in kept)
    start = -math.log(99)  # every class bias
    assert float((trained["head.cls.bias"] - start).abs().max()) > 1e-3


def without_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_numbers(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_numbers(item) for item in value]
    return None if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def alike(pair: tuple[Path, Recipe]) -> str:
    """Recipes that shrink to the same run share this; they may differ in weights, rates and counts."""
    _, recipe = pair
    content = recipe.to_dict()
    distill = content["distill"] and {**content["distill"], "teacher": family(recipe.distill.teacher)}  # type: ignore[union-attr]
    parts = (family(recipe.model), distill, content["optim"], content["schedule"]["warmup"], content["data"]["mode"])
    return json.dumps(without_numbers(list(parts)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "recipe"),
    [pytest.param(*pair, id=named(*pair)) for pair in {alike(pair): pair for pair in reversed(ALL)}.values()],
)
def test_every_recipe_trains(path, recipe, train, shapes, tmp_path) -> None:
    train(*words_for(path, recipe, shapes, tmp_path / "run"))
    check_run(recipe, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("method", [*USUAL, "mgd"])  # whose masks are drawn
def test_two_processes_end_with_the_same_weights(method, shapes, tmp_path) -> None:
    """Also where statistics are each process's own, as published."""
    path, recipe = next((p, r) for p, r in ALL if r.distill and method in r.distill.methods)
    run = Run("train", *words_for(path, recipe, shapes, tmp_path / "run"), "--cpu", said=tmp_path / "said", processes=2)
    run.finish()
    check_run(recipe, tmp_path / "run", processes=2)
    first, second = run.students()
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[key]) for key, value in first.items())
