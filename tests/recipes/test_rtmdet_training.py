"""RTMDet trains as published, in small: mosaic and mixup, a second stage without them, a moving average, resume."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from helpers.processes import happening
from helpers.scripts import assert_same_run, log_lines

from pkdzoo.data import make_shapes
from pkdzoo.training import Mix, checkpoint, load_recipe

SMALL = {"width": 0.0625, "depth": 0.167, "backbone": "cspnext_tiny"}


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("rtmdet") / "data", train=9, val=3, size=(64, 96))


def words(data: Path, output: Path, recipe: str = "rtmdet_tiny_300e", **changes: object) -> list[object]:
    settings = {
        "model_args": json.dumps(SMALL), "init": "none", "data.short": 96, "data.long": 96, "data.batch_size": 4,
        "data.workers": 0, "data.mix.last_epochs": 1, "schedule.epochs": 3, "logging.log_every": 1,
        "logging.eval_every": 3, "optim.lr": 1e-3, **changes,
    }  # fmt: skip
    assignments = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    return [recipe, "--data", data, "--output", output, *assignments]


def test_a_small_rtmdet_trains_and_resumes(train, squares, tmp_path) -> None:
    train(*words(squares, tmp_path / "whole"))
    with happening(5, lambda: os.kill(os.getpid(), signal.SIGTERM)), suppress(SystemExit):
        train(*words(squares, tmp_path / "parts"))
    assert checkpoint.find_checkpoint(tmp_path / "parts") is not None
    train(*words(squares, tmp_path / "parts"), "--resume")
    metrics = assert_same_run(tmp_path / "whole", tmp_path / "parts")
    assert metrics["step"] == 9
    lines = [line for line in log_lines(tmp_path / "whole") if "loss" in line]
    assert {"loss_cls", "loss_box"} <= set(lines[0])
    assert all(torch.isfinite(torch.tensor(line["loss"])) for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, 4], ids=["while it distills", "after the stop"])
def test_a_method_that_ends_before_the_run_resumes(step, train, squares, tmp_path) -> None:
    """Stopped before and after the epoch from which ``stop_epoch`` ends the distillation."""
    changes = {
        "distill.teacher": "rtmdet_tiny_yolo", "distill.teacher_weights": "random", "distill.teacher_args":
        json.dumps({**SMALL, "num_classes": 6}), "distill.methods": json.dumps({"norm_cwd": {"stop_epoch": 1}}),
        "schedule.epochs": 2,
    }  # fmt: skip
    parts = words(squares, tmp_path / "parts", "rtmdet_tiny_kd_s", **changes)
    with happening(step, lambda: os.kill(os.getpid(), signal.SIGTERM)), suppress(SystemExit):
        train(*parts)
    train(*parts, "--resume")
    lines = [line for line in log_lines(tmp_path / "parts") if "loss" in line]
    assert [line["loss_norm_cwd"] > 0 for line in lines] == [line["epoch"] == 0 for line in lines]
    train(*words(squares, tmp_path / "whole", "rtmdet_tiny_kd_s", **changes))
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("size", ["tiny", "s", "m", "l", "x"])
def test_the_published_settings(size: str) -> None:
    recipe = load_recipe(f"rtmdet_{size}_300e")
    assert recipe.data.mix == {
        "tiny": Mix(scale=(0.5, 2.0), mixup=0.5),
        "s": Mix(scale=(0.5, 2.0)),
    }.get(size, Mix(scale=(0.1, 2.0)))
    assert recipe.init == ("imagenet" if size in ("tiny", "s") else None)
    assert (recipe.data.batch_size, recipe.schedule.epochs, recipe.data.mix.last_epochs) == (256, 300, 20)
    assert (recipe.optim.lr, recipe.optim.ema, recipe.optim.ema_warmup) == (0.004, 0.9998, 2000)
