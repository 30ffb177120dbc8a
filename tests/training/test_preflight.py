"""What is looked at before the first step."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

import pkdzoo
from pkdzoo.data import make_shapes
from pkdzoo.data.shapes import CLASSES
from pkdzoo.structures import Detections
from pkdzoo.training import build
from pkdzoo.training.preflight import Report, check_run, check_teacher, dry_pass, warn_of_frozen_random_layers
from pkdzoo.training.recipe import Data, Distill, Optim, Recipe, Schedule

RECIPE = Recipe(
    "tiny",
    "retina_r10w16",
    data=Data(short=64, long=96, batch=4, workers=0, min_size=0),
    optim=Optim(batch=16),
    schedule=Schedule(epochs=3),
    expect={"AP": 12.5, "source": "table 1"},
)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = make_shapes(tmp_path_factory.mktemp("shapes") / "data", train=6, val=3, size=(64, 96))
    return build.build_datasets(RECIPE, build.find_data(RECIPE.data, folder))


def test_the_summary_says_what_matters(sets) -> None:
    distill = Distill("fcos_r10w16", teacher_args={"num_classes": 6}, teacher_weights="random")
    recipe = replace(RECIPE, distill=distill)
    student = build.build_student(recipe, CLASSES)
    task = build.build_task(recipe, student, build.build_teacher(distill, CLASSES))
    text = str(check_run(recipe, task, *sets, processes=2, steps_per_epoch=5))
    for words in (
        "retina_r10w16, 0.75 M parameters", "fcos_r10w16, 0.66 M parameters", "AP 12.5 (table 1)", "by pkd",
        "4 = 2 processes x 1 passes x 2 pictures", "15 = 3 epochs of 5", "of 6 classes, 6 images",
        "warning: the teacher has random weights", "published for a batch of 16, this run has 4",
    ):  # fmt: skip
        assert words in text
    assert student.training is False  # as it was


def test_scaled_rate_is_not_warned_about(sets) -> None:
    recipe = replace(RECIPE, optim=Optim(lr=0.01, batch=16, scale_lr=True))
    task = build.build_student(recipe, CLASSES)
    text = str(check_run(recipe, task, *sets, processes=1, steps_per_epoch=5))
    assert "sgd at 0.0025 (0.01 x 4/16)" in text and "published for" not in text


@pytest.mark.parametrize(("args", "warned"), [
    ({"norm": "gn", "frozen_stages": 0}, False),
    ({"norm": "bn", "frozen_stages": 0}, False),
    ({"norm": "gn", "frozen_stages": 1}, True),
    ({"norm": "frozen_bn", "frozen_stages": 0}, True),
])  # fmt: skip
def test_frozen_layers_that_were_never_loaded(args, warned) -> None:
    model = pkdzoo.create_detector("retina_r10w16", **args)
    report = Report()
    warn_of_frozen_random_layers(report, model)
    assert bool(report.warnings) is warned
    model.loaded_from = "somewhere"
    report = Report()
    warn_of_frozen_random_layers(report, model)
    assert not report.warnings


def test_the_dry_pass_changes_nothing() -> None:
    model = pkdzoo.create_detector("retina_r10w16", num_classes=2, norm="bn").train()
    model.backbone.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    dry_pass(model)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_the_dry_pass_sees_broken_weights() -> None:
    model = pkdzoo.create_detector("retina_r10w16", num_classes=2)
    torch.nn.init.constant_(model.head.cls.bias, math.nan)
    with pytest.raises(ValueError, match="loss_cls is not finite"):
        dry_pass(model)


def test_a_teacher_is_measured_against_its_row(sets, monkeypatch) -> None:
    torch.manual_seed(0)
    teacher = pkdzoo.create_detector("fcos_r10w16", num_classes=6, label_names=CLASSES)
    truth = {int(number): sets[1].load_instances(i) for i, number in enumerate(sets[1].image_ids)}

    def perfect(batch, inference=None):
        found = [truth[m["image_id"]] for m in batch.meta]
        return [Detections(i.boxes, torch.ones(len(i)), i.labels) for i in found]

    accelerator = Accelerator(cpu=True)
    monkeypatch.setattr(teacher, "detect", perfect)
    line = check_teacher("local-dir:x", teacher, sets[1], 2, 0, accelerator)
    assert line == "teacher   AP 100.0 on 2 pictures"
    monkeypatch.setattr(
        teacher, "detect", lambda batch: [Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0))]
    )
    with pytest.raises(ValueError, match="finds nothing in 3 pictures"):
        check_teacher("local-dir:x", teacher, sets[1], 99, 0, accelerator)
    stranger = pkdzoo.create_detector("fcos_r10w16", num_classes=6)
    with pytest.raises(ValueError, match="knows other classes"):
        check_teacher("local-dir:x", stranger, sets[1], 2, 0, accelerator)
