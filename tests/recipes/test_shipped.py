"""The distilled student inside the package: its numbers are its run's, and it loads without a network."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.scripts import ROOT

import pkdzoo
from pkdzoo.evaluation import METRICS
from pkdzoo.hub.fetch import PACKAGED
from pkdzoo.models._registry import find
from pkdzoo.training import load_recipes
from pkdzoo.utils.files import sha256_of_file
from recipes.experiments import package_weights
from recipes.experiments import run as runner
from recipes.experiments.generated_cells import draw_cells

NAME, TEACHER = "rtmdet_w12_pkd_tiny", "rtmdet_tiny.bccd"
RESULTS = ROOT / "recipes" / "experiments" / "results" / "rtmdet_bccd"


def result(key: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{key}.json").read_text())
    return found


def test_rows_say_what_their_runs_measured() -> None:
    entry, row = find(f"{NAME}.bccd")
    assert row is not None and entry.distilled is not None
    pair, teacher = entry.distilled, find(TEACHER)[1]
    assert teacher is not None and not teacher.has_source
    numbers = result("w24-0")["metrics"]
    assert teacher.source.endswith("rtmdet_bccd/w24-0.json") and " --runs w24-0 " in teacher.launch
    assert teacher.metrics == {name: round(numbers[name], 1) for name in ("AP", "AP50", "AP75")}
    seeds = {name: [result(f"{name}-{seed}")["metrics"]["AP"] for seed in (0, 1)] for name in ("plain", "pkd")}
    aps = numbers["AP"], *(sum(found) / 2 for found in seeds.values())
    assert pair.triple == tuple(round(ap, 1) for ap in aps) and "seeds 0 and 1" in pair.source
    assert all(f"{ap:.1f}" in pair.note for ap in seeds["plain"])
    assert (pair.student, pair.teacher, pair.methods) == ("rtmdet_w12", TEACHER, ("pkd",))
    # The run measured in bf16; the row, in float32, what a user loads. The slow test below measures it again.
    assert set(row.metrics) == {*METRICS, "per_class"} and f"evaluate.py {NAME}.bccd" in row.source
    assert row.metrics["AP"] == pytest.approx(result("pkd-0")["metrics"]["AP"], abs=0.2)
    assert " --runs plain-0 pkd-0 " in row.launch
    keys = {"this student, seed 0": "pkd-0", "the same with seed 1": "pkd-1", "plain student, seed 0": "plain-0"}
    keys |= {"plain student, seed 1": "plain-1", "teacher": "w24-0"}
    assert list(row.curves) == ["epoch", *keys]
    for name, key in keys.items():
        curve = result(key)["curve"]
        assert row.curves["epoch"] == tuple(point["epoch"] for point in curve)
        assert row.curves[name] == tuple(round(point["AP"], 1) for point in curve), name


def test_the_architectures_are_those_of_the_cells() -> None:
    """What is registered is what was trained: the same tensors, for images of the same size."""
    recipes = {recipe.name: recipe for recipe in load_recipes(ROOT / "recipes" / "experiments" / "rtmdet_bccd.py")}
    with torch.device("meta"):
        for name, recipe in ((NAME, recipes["rtmdet_bccd_pkd"]), ("rtmdet_tiny", recipes["rtmdet_bccd_w24"])):
            trained = pkdzoo.create_detector(recipe.model, num_classes=3, **recipe.model_args)
            ours = pkdzoo.create_detector(name, num_classes=3)
            shapes = [{key: value.shape for key, value in model.state_dict().items()} for model in (trained, ours)]
            assert shapes[0] == shapes[1]
    assert pkdzoo.create_detector(NAME).resize == recipes["rtmdet_bccd_pkd"].data.eval_size
    words = pkdzoo.get_weights(NAME).launch.split()
    args = runner.parse_arguments(words[2:])
    assert (ROOT / words[1]).is_file() and (ROOT / args.experiment).is_file()
    keys = [each.key for each in runner.in_order(runner.load_experiment(ROOT / args.experiment), args.runs)]
    assert keys == ["w24-0", "plain-0", "pkd-0"]
    assert result("pkd-0")["command"].endswith(" ".join(args.train))


def test_it_loads_and_predicts_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("it asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("PKDZOO_CACHE", str(tmp_path / "empty"))
    model = pkdzoo.create_detector(f"{NAME}.bccd", pretrained=True)
    assert pkdzoo.get_weights(NAME).tag == "bccd" and "package" in str(model.loaded_from)
    assert model.label_names == ("RBC", "WBC", "Platelets") and model.resize == (320, 320) and not model.training
    assert {value.dtype for value in model.state_dict().values() if value.is_floating_point()} == {torch.float32}
    row = pkdzoo.get_weights(NAME)
    path = PACKAGED / str(row.file)
    assert path.stat().st_size <= package_weights.LIMIT and sha256_of_file(path) == row.sha256
    assert not any((tmp_path / "empty").glob("*"))
    found = model.predict(draw_cells(), threshold=0.4)
    assert isinstance(found, pkdzoo.Result)
    drawn = {"RBC": 14, "WBC": 2, "Platelets": 5}
    assert all(abs(found.names.count(name) - count) <= 2 for name, count in drawn.items())
    assert set(found.names) == set(drawn) and found.plot().size == (640, 480)


def test_the_pair_distills_again() -> None:
    student, teacher = pkdzoo.create_pair(NAME, pretrained=False)
    target = pkdzoo.Instances(torch.tensor([[10.0, 10.0, 60.0, 50.0]]), torch.tensor([2]))
    batch = pkdzoo.Batch(torch.rand(1, 3, 64, 96) * 255, [(64, 96)], [target])
    losses = pkdzoo.Distiller(student.train(), teacher, {"pkd": {"adapter": True}})(batch)
    assert set(losses) == {"loss_cls", "loss_box", "loss_pkd"}
    with pytest.raises(ValueError, match=r"there are no weights for 'rtmdet_tiny' \(its tags: coco_300e\)"):
        pkdzoo.create_pair(NAME)


@pytest.mark.slow
def test_it_is_as_good_as_its_row_says() -> None:
    data = Path(os.environ.get("PKDZOO_TEST_DATA", "nowhere")) / "bccd"
    if not data.is_dir():
        pytest.skip("set PKDZOO_TEST_DATA to a folder with bccd")
    found = package_weights.measured(pkdzoo.create_detector(NAME, pretrained=True), data)
    row = pkdzoo.get_weights(NAME).metrics
    assert found["AP"] == pytest.approx(row["AP"], abs=0.1)
    for name, value in row["per_class"].items():
        assert found["per_class"][name] == pytest.approx(value, abs=0.3)
