"""The embedded default: what it is made of, and (slow) that its one line works with nothing at hand."""

from __future__ import annotations

import json
import multiprocessing
import resource
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.scripts import ROOT, launch

import pkdzoo
from pkdzoo import create_detector, get_weights
from pkdzoo.checkpoints import read_state_dict
from pkdzoo.data.synthetic import CLASSES
from pkdzoo.training import load_recipe, load_recipes
from pkdzoo.utils.files import sha256_of_file

DEMO = ROOT / "recipes" / "demo.py"
WEIGHTS = Path(pkdzoo.__file__).parent / "weights"


def test_the_arms_differ_in_the_teacher_alone() -> None:
    plain, distilled = load_recipes(DEMO)
    assert plain.distill is None and distilled.distill is not None
    assert replace(distilled, name=plain.name, distill=None) == plain
    assert plain.init is None and plain.model_args.get("frozen_stages", 0) == 0


def test_the_teacher_comes_with_the_package_and_knows_the_shapes() -> None:
    _, distilled = load_recipes(DEMO)
    assert distilled.distill is not None
    row = get_weights(distilled.distill.teacher)
    assert row.file is not None and row.hub_id is None and row.url is None
    path = WEIGHTS / row.file
    assert path.stat().st_size <= 4_000_000
    assert len(row.sha256) >= 8 and sha256_of_file(path).startswith(row.sha256)
    teacher = create_detector(distilled.distill.teacher, pretrained=True)
    assert teacher.label_names == CLASSES and "package" in str(teacher.loaded_from)
    assert teacher.resize == distilled.data.eval_size
    assert set(read_state_dict(path)) == set(teacher.state_dict())
    assert row.metrics["AP"] > 30 and "evaluate.py" in row.source
    assert row.recipe == "supervised/fcos_r18w24_shapes.py"
    recipe = load_recipe(ROOT / "recipes" / row.recipe)
    assert distilled.distill.teacher.startswith(recipe.model + ".")


def test_nothing_else_lies_among_the_weights() -> None:
    rows = [row for entry in pkdzoo.models._registry.entries() for row in entry.weights if row.file]
    assert {path.name for path in WEIGHTS.glob("*.safetensors")} == {row.file for row in rows}
    total = sum(path.stat().st_size for path in WEIGHTS.iterdir())
    assert total <= 9_000_000  # of a wheel; each file has at most 6 MB


def launch_and_weigh(*command: object) -> tuple[str, int]:
    """What the script said, and the kilobytes of the largest process that this one has waited for."""
    return launch(*command).stdout, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss


@pytest.mark.slow
def test_one_line_with_nothing_at_hand(tmp_path) -> None:
    """Shortened; the measured time and table of the whole stand in the README."""
    words = ["--output", tmp_path / "demo", "--set", "schedule.epochs=1", "--set", "data.generate.train=64"]
    # in a process that waits for nothing else: its largest child is the demo's
    command = [DEMO.parent / "train.py", DEMO, *words]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
        said, peak = alone.submit(launch_and_weigh, *command).result()
    rows = json.loads((tmp_path / "demo" / "comparison.json").read_text())
    assert [row["role"] for row in rows] == ["teacher", "plain", "distilled"]
    assert rows[0]["AP"] == pytest.approx(get_weights("fcos_r18w24.shapes").metrics["AP"], abs=0.3)
    assert "gap closed" in said and "predictions.png" in said
    assert (tmp_path / "demo" / "predictions.png").is_file()
    for name in ("plain", "distilled"):
        assert (tmp_path / "demo" / name / "best" / "model.safetensors").is_file()
    assert peak < 3_000_000  # kilobytes
