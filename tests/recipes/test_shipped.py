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
from PIL import Image, ImageDraw

import pkdzoo
from pkdzoo.evaluation import METRICS
from pkdzoo.hub.fetch import PACKAGED
from pkdzoo.models._registry import find
from pkdzoo.training import load_recipes
from pkdzoo.utils.files import sha256_of_file
from recipes.experiments import package_weights
from recipes.experiments import run as runner

NAME = "retina_r10w16_pkd_gfl_r18"
RESULTS = ROOT / "recipes" / "experiments" / "results" / "bccd"


def result(key: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{key}.json").read_text())
    return found


def test_rows_say_what_their_runs_measured() -> None:
    entry, row = find(f"{NAME}.bccd")
    assert row is not None and entry.distilled is not None
    pair, teacher = entry.distilled, pkdzoo.models._registry.find("gfl_r18w64.bccd")[1]
    assert teacher is not None and not teacher.has_source
    for published, key in ((row, "pkd-0"), (teacher, "gfl_r18w64-0")):
        numbers = result(key)["metrics"]
        assert set(published.metrics) <= {*METRICS, "per_class"} and published.source.endswith(f"bccd/{key}.json")
        for name, value in published.metrics.items():
            if name != "per_class":
                assert value == round(numbers[name], 1), name
        assert f" --runs {'plain-0 ' if published is row else ''}{key} " in published.launch
    assert row.metrics["per_class"] == {k: round(v, 1) for k, v in result("pkd-0")["metrics"]["per_class"].items()}
    assert set(METRICS) <= set(row.metrics)
    aps = tuple(round(result(key)["metrics"]["AP"], 1) for key in ("gfl_r18w64-0", "plain-0", "pkd-0"))
    assert pair.triple == aps and (pair.student, pair.teacher, pair.methods) == (
        *("retina_r10w16", "gfl_r18w64.bccd", ("pkd",)),
    )


def test_the_architectures_are_those_of_the_cells() -> None:
    """What is registered is what was trained: the same tensors, for images of the same size."""
    recipes = {recipe.name: recipe for recipe in load_recipes(ROOT / "recipes" / "experiments" / "bccd.py")}
    with torch.device("meta"):
        for name, recipe in ((NAME, recipes["bccd_pkd"]), ("gfl_r18w64", recipes["bccd_gfl_r18w64"])):
            trained = pkdzoo.create_detector(recipe.model, num_classes=3, **recipe.model_args)
            ours = pkdzoo.create_detector(name, num_classes=3)
            shapes = [{key: value.shape for key, value in model.state_dict().items()} for model in (trained, ours)]
            assert shapes[0] == shapes[1]
    assert pkdzoo.create_detector(NAME).resize == recipes["bccd_pkd"].data.eval_size
    words = pkdzoo.get_weights(NAME).launch.split()
    args = runner.parse_arguments(words[2:])
    assert (ROOT / words[1]).is_file() and (ROOT / args.experiment).is_file()
    keys = [each.key for each in runner.in_order(runner.load_experiment(ROOT / args.experiment), args.runs)]
    assert keys == ["gfl_r18w64-0", "plain-0", "pkd-0"]
    assert result("pkd-0")["command"].endswith(" ".join(args.train))


def test_it_loads_and_predicts_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("it asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("PKDZOO_CACHE", str(tmp_path / "empty"))
    model = pkdzoo.create_detector(f"{NAME}.bccd", pretrained=True)
    assert pkdzoo.get_weights(NAME).tag == "bccd" and "package" in str(model.loaded_from)
    assert model.label_names == ("RBC", "WBC", "Platelets") and model.resize == (192, 256) and not model.training
    assert {value.dtype for value in model.state_dict().values() if value.is_floating_point()} == {torch.float32}
    row = pkdzoo.get_weights(NAME)
    path = PACKAGED / str(row.file)
    assert path.stat().st_size <= package_weights.LIMIT and sha256_of_file(path) == row.sha256
    assert not any((tmp_path / "empty").glob("*"))
    found = model.predict(smear(), threshold=0.3)
    assert isinstance(found, pkdzoo.Result)
    assert found.names.count("RBC") >= 3 and found.plot().size == (640, 480)


def smear() -> Image.Image:
    """A drawing of a blood smear: twelve pale red discs on a paler ground, 640 x 480 like BCCD's images."""
    image = Image.new("RGB", (640, 480), (226, 217, 212))
    draw = ImageDraw.Draw(image)
    for k in range(12):
        x, y = 90 + 152 * (k % 4), 80 + 155 * (k // 4)
        draw.ellipse((x - 52, y - 50, x + 52, y + 50), fill=(205, 150, 150), outline=(185, 130, 135), width=6)
        draw.ellipse((x - 18, y - 16, x + 18, y + 16), fill=(218, 178, 176))
    return image


def test_the_pair_distills_again() -> None:
    student, teacher = pkdzoo.create_pair(NAME, pretrained=False)
    target = pkdzoo.Instances(torch.tensor([[10.0, 10.0, 60.0, 50.0]]), torch.tensor([2]))
    batch = pkdzoo.Batch(torch.rand(1, 3, 64, 96) * 255, [(64, 96)], [target])
    losses = pkdzoo.Distiller(student.train(), teacher, {"pkd": {}})(batch)
    assert set(losses) == {"loss_cls", "loss_box", "loss_pkd"}
    with pytest.raises(ValueError, match="there are no weights for 'gfl_r18w64'"):
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
