"""Students on networks of timm train through the script, alone and from a teacher."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.scripts import log_lines

import pkdzoo
from pkdzoo.training import load_recipe

pytest.importorskip("timm")

READY = ("fcos_repvit_m0_9", "gfl_mnv4_small", "retina_convnext_atto")


@pytest.mark.parametrize(
    "student", [s if s == "gfl_mnv4_small" else pytest.param(s, marks=pytest.mark.slow) for s in READY]
)
def test_a_ready_student_learns_from_its_teacher(student: str, train, shapes: Path, tmp_path: Path) -> None:
    recipe = load_recipe(f"{student}_pkd_gfl_r101")
    assert (recipe.model, recipe.init, recipe.distill.teacher) == (student, "imagenet", "gfl_r101.coco_ms2x")
    settings = {
        "model_args": json.dumps({"width": 64}), "init": "none", "distill.teacher": "gfl_r10w16",
        "distill.teacher_weights": "random", "data.short": 64, "data.long": 96, "data.batch_size": 4,
        "data.workers": 0, "data.min_image_size": 0, "logging.log_every": 1,
        "schedule.epochs": 1, "schedule.milestones": "[]",
    }  # fmt: skip
    assignments = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    train(recipe.name, "--data", shapes, "--output", tmp_path / "run", *assignments)
    losses = [line for line in log_lines(tmp_path / "run") if "loss" in line]
    assert losses and any("pkd" in key for key in losses[0])
    model = pkdzoo.create_detector(str(tmp_path / "run"))
    assert model.backbone.facts.name in str(pkdzoo.models._registry.find(student)[0].args["backbone"])
