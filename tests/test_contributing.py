"""CONTRIBUTING's examples run, and do what the text around them says."""

from __future__ import annotations

import os
import re
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.scripts import ROOT

import pkdzoo
from pkdzoo.distill import METHODS, register_method
from pkdzoo.maintain.__main__ import VERBS
from pkdzoo.models import _registry
from pkdzoo.training import Distill, Recipe, build, load_recipe

LAYERS: dict[str, int] = runpy.run_path(str(ROOT / "tests" / "test_imports.py"))["LAYERS"]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


def block(part: str) -> str:
    """The example that contains some text."""
    return next(text for text in BLOCKS if part in text)


def run(part: str, folder: Path) -> dict[str, Any]:
    """Names that the example with some text defines."""
    (folder / "example.py").write_text(block(part))
    return runpy.run_path(str(folder / "example.py"))


@pytest.fixture
def batch() -> pkdzoo.Batch:
    target = pkdzoo.Instances(torch.tensor([[10.0, 10.0, 60.0, 50.0], [30.0, 5.0, 90.0, 60.0]]), torch.tensor([0, 2]))
    return pkdzoo.Batch(torch.rand(1, 3, 64, 96) * 255, [(64, 96)], [target])


def test_every_example_is_tested() -> None:
    assert len(BLOCKS) == 4


def test_the_table_of_layers_is_the_one_that_is_tested() -> None:
    rows = re.findall(r"^\| (\d) \| `(\w+)(?:/|\.py)` \|", PAGE, flags=re.MULTILINE)
    folders = {name: layer for name, layer in LAYERS.items() if name != "version" and not name.startswith("__")}
    assert {name: int(layer) for layer, name in rows} == folders


def test_every_generator_is_listed() -> None:
    table = PAGE.partition("## Generated files")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE) == list(VERBS)


def test_a_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: pkdzoo.Batch) -> None:
    example = run("class Finest", tmp_path)
    monkeypatch.setattr("pkdzoo.distill.registry.METHODS", dict(METHODS))
    register_method("finest", example["Finest"])
    options = re.search(r'Distill\(".*?", (\{"finest": .*?\}\})\)', PAGE)
    assert options is not None
    student, teacher = (pkdzoo.create_detector("retina_r10w16", num_classes=3) for _ in range(2))
    losses = pkdzoo.Distiller(student, teacher, eval(options[1]))(batch)
    difference = student.extract_features(batch).levels[0] - teacher.extract_features(batch).levels[0]
    assert losses["loss_finest"].item() == pytest.approx(2 * difference.square().mean().item(), rel=1e-4)
    losses["loss_finest"].backward()
    assert next(student.backbone.parameters()).grad is not None


def test_a_detector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: pkdzoo.Batch) -> None:
    monkeypatch.setattr(_registry, "_ENTRIES", dict(_registry._ENTRIES))
    run("class PlainATSS", tmp_path)
    assert pkdzoo.list_detectors(family="plain_atss") == ["plain_atss_r10w16", "plain_atss_r50"]
    model = pkdzoo.create_detector("plain_atss_r10w16", num_classes=3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    totals = []
    for _ in range(8):
        total = torch.stack(list(model(batch).values())).sum()
        totals.append(total.item())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert totals[-1] < 0.8 * totals[0]
    result = model.predict(np.zeros((64, 96, 3), np.uint8), threshold=0.0)
    again = pkdzoo.from_pretrained(model.save_pretrained(tmp_path / "saved"))
    assert not isinstance(result, list) and len(result) > 0
    assert torch.equal(again.predict(np.zeros((64, 96, 3), np.uint8), threshold=0.0).boxes, result.boxes)
    teacher = pkdzoo.create_detector("gfl_r10w16")
    assert "loss_pkd" in pkdzoo.Distiller(model, teacher, {"pkd": {}})(batch)


def test_a_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    row = re.search(r'`"(\w+)": (\{.*?\})`', PAGE)
    assert row is not None and row[1] not in pkdzoo.list_detectors()
    entry, _ = _registry.find("atss_r50")
    monkeypatch.setattr(_registry, "_ENTRIES", dict(_registry._ENTRIES))
    _registry.register_family("atss", entry.build, {row[1]: eval(row[2])})
    assert pkdzoo.create_detector(row[1], num_classes=2).num_classes == 2


def test_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "pkd.py"
    path.write_text(block("RECIPE = Recipe("))
    recipe = load_recipe(path)
    assert recipe.distill is not None and pkdzoo.get_weights(recipe.distill.teacher).has_source
    small = {"model": "retina_r10w16", "init": None, "distill": None}
    assert build.build_student(Recipe.from_dict({**recipe.to_dict(), **small}), ["cat"]).num_classes == 1
    assert isinstance(recipe.distill, Distill)


def test_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = run("ROW = Weights(", tmp_path)["ROW"]
    monkeypatch.setattr(_registry, "_ENTRIES", dict(_registry._ENTRIES))
    entry, _ = _registry.find("retina_r50")
    _registry.register_family("retina", entry.build, {"retina_mine": entry.args}, {"retina_mine": [row]})
    assert pkdzoo.get_weights("retina_mine.blood").metrics["AP"] == 61.2
    assert "retina_mine.blood" in pkdzoo.list_detectors("*mine*", pretrained=True)


DEFAULT = {"markexpr": "not slow and not gpu"}


@pytest.mark.parametrize(
    ("given", "processes"),
    [
        ({}, 2), ({"file_or_dir": ["tests/hub"]}, 2), (DEFAULT, 2), ({**DEFAULT, "file_or_dir": ["tests/hub"]}, None),
        ({**DEFAULT, "keyword": "card"}, None), ({**DEFAULT, "capture": "no"}, None),
        ({**DEFAULT, "numprocesses": 0}, 0), ({"markexpr": "gpu"}, None), ({"capture": "no"}, None),
        ({"usepdb": True}, None), ({"collectonly": True}, None), ({"numprocesses": 0}, 0), ({"numprocesses": 4}, 4),
    ],
)  # fmt: skip
def test_long_runs_share_two_processes_unless_told_otherwise(
    given: dict[str, Any], processes: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    usual = {"markexpr": "slow", "capture": "fd", "usepdb": False, "collectonly": False, "numprocesses": None}
    usual |= {"file_or_dir": [], "keyword": ""}
    config = SimpleNamespace(option=SimpleNamespace(**{**usual, "dist": "no", "tx": [], **given}))
    configure = runpy.run_path(str(ROOT / "tests" / "conftest.py"))["pytest_configure"]
    configure(config)
    assert config.option.numprocesses == processes
    shared = processes == 2
    assert (config.option.dist, len(config.option.tx)) == (("loadfile", 2) if shared else ("no", 0))
    assert os.environ["OMP_NUM_THREADS"] == ("1" if shared else "4")
    worker = SimpleNamespace(option=SimpleNamespace(**usual, dist="no", tx=[]), workerinput={})
    configure(worker)
    assert worker.option.dist == "no"
    del config.option.numprocesses  # pytest-xdist is not installed
    configure(config)
    assert not hasattr(config.option, "numprocesses")
