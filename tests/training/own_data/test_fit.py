"""``model.fit`` and ``model.evaluate``: what they leave, and what they leave alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

import pkdzoo
from pkdzoo.data import make_shapes
from pkdzoo.data.synthetic import CLASSES
from pkdzoo.dataset_tools.convert import convert
from pkdzoo.training import evaluate as evaluation
from pkdzoo.training.command import TrainingFailed


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("own") / "photos", train=8, val=3, size=(64, 96))


def test_a_detector_trains_evaluates_and_exports_itself(photos, tmp_path) -> None:
    model = pkdzoo.create_detector("retina_r10w16", num_classes=2)
    before = model.backbone.state_dict()["conv1.weight"].clone()
    assert model.fit(photos, output=tmp_path / "fit", set=["schedule.max_steps=1"], cpu=True, threads=1) is model
    assert model.label_names == CLASSES and not model.training
    assert not torch.equal(before, model.backbone.state_dict()["conv1.weight"])
    metrics = model.evaluate(photos, cpu=True)
    saved = json.loads((tmp_path / "fit" / "metrics.json").read_text())
    assert metrics["AP"] == pytest.approx(saved["AP"], abs=1e-6) and "best_f1" in metrics
    with pytest.raises(ValueError, match="holds a run already"):
        model.fit(photos, output=tmp_path / "fit", cpu=True)
    with pytest.raises(TypeError, match="save_pretrained"):
        pkdzoo.distill(photos, model)


def test_fit_overwrites_no_detector(photos, tmp_path) -> None:
    kept = pkdzoo.create_detector("retina_r10w16", num_classes=2).save_pretrained(tmp_path / "mine-start")
    before = (kept / "model.safetensors").read_bytes()
    with pytest.raises(TrainingFailed, match="mine-start, which exists already: delete it, or choose another output"):
        pkdzoo.create_detector("retina_r10w16").fit(photos, output=tmp_path / "mine", cpu=True, threads=1)
    assert (kept / "model.safetensors").read_bytes() == before


def test_fit_can_be_tried_again_after_a_mistake(photos, tmp_path) -> None:
    model = pkdzoo.create_detector("retina_r10w16", num_classes=2)
    words = {"output": tmp_path / "mine", "cpu": True, "threads": 1}
    with pytest.raises(TrainingFailed, match="lrr"):
        model.fit(photos, set=["optim.lrr=0.1", "schedule.max_steps=1"], **words)
    assert model.fit(photos, set=["optim.lr=0.001", "schedule.max_steps=1"], **words).label_names == CLASSES


def test_an_accelerator_of_the_user_survives(photos) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)  # that of other tests of this process
    net = torch.nn.Linear(2, 1)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2, mixed_precision="bf16")
    net, optimizer = accelerator.prepare(net, torch.optim.SGD(net.parameters(), 0.1))
    pkdzoo.create_detector("fcos_r18w24", pretrained=True).evaluate(photos, cpu=True)
    assert accelerator.mixed_precision == "bf16" and accelerator.gradient_accumulation_steps == 2
    for _ in range(2):
        with accelerator.accumulate(net):
            accelerator.backward(net(torch.ones(1, 2)).sum())
            optimizer.step()
    assert accelerator.sync_gradients


def test_the_precision_of_a_training_stays_its_own(photos, tmp_path, monkeypatch) -> None:
    seen: list[str] = []
    evaluate = evaluation.evaluate

    def noted(model: Any, loader: Any, dataset: Any, accelerator: Any, **more: Any) -> Any:
        seen.append(accelerator.mixed_precision)
        return evaluate(model, loader, dataset, accelerator, **more)

    monkeypatch.setattr(evaluation, "evaluate", noted)
    model = pkdzoo.create_detector("fcos_r18w24", pretrained=True)
    model.evaluate(photos, cpu=True)
    words = {"init": "none", "set": ["schedule.max_steps=1"], "cpu": True, "threads": 1, "mixed_precision": "bf16"}
    pkdzoo.distill(
        photos, "retina_r10w16", model.save_pretrained(tmp_path / "teacher"), output=tmp_path / "run", **words
    )
    del seen[:]
    model.evaluate(photos, cpu=True)
    assert seen == ["no"]


def test_without_a_validation_split_what_fit_holds_out_is_evaluated(photos, tmp_path) -> None:
    convert(photos, tmp_path / "undivided", "yolo")
    shutil.rmtree(tmp_path / "undivided" / "images" / "val")
    shutil.rmtree(tmp_path / "undivided" / "labels" / "val")
    description = tmp_path / "undivided" / "data.yaml"
    description.write_text("\n".join(x for x in description.read_text().splitlines() if not x.startswith("val")))
    model = pkdzoo.create_detector("retina_r10w16", num_classes=2)
    words = {"set": ["schedule.max_steps=1"], "cpu": True, "threads": 1}
    metrics = model.fit(tmp_path / "undivided", output=tmp_path / "fit", **words).evaluate(description.parent, cpu=True)
    saved = json.loads((tmp_path / "fit" / "metrics.json").read_text())
    assert saved["AR100"] == pytest.approx(metrics["AR100"], abs=1e-6)
    assert json.loads((tmp_path / "fit" / "run.json").read_text())["data"]
