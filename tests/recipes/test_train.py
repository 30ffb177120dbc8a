"""The training script on a tiny run: what it writes, and that a resumed run equals the uninterrupted one bit by bit."""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import signal
import time
from contextlib import contextmanager, nullcontext
from itertools import count
from pathlib import Path
from unittest import mock

import pytest
import torch
from accelerate import Accelerator, skip_first_batches
from helpers.processes import Run, happening
from helpers.scripts import assert_same_run, log_lines
from safetensors.torch import load_file

import pkdzoo
from pkdzoo.data.synthetic import CLASSES
from pkdzoo.evaluation import METRICS
from pkdzoo.training import checkpoint
from pkdzoo.utils.files import sha256_of_file

DISTILL = """
from dataclasses import replace
RECIPE = replace(RECIPE, distill=Distill("retina_r10w16", teacher_args={"num_classes": 6}, teacher_weights="random"))
"""


class Crash(Exception):
    """Stands for whatever ends a process."""


@pytest.fixture(scope="module")
def whole(shapes, recipe_text, tmp_path_factory) -> Path:
    """The tiny recipe from its beginning to its end, for whatever was interrupted to be compared with."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "tiny.py").write_text(recipe_text)
    words = [folder / "tiny.py", "--data", shapes, "--output", folder / "run", "--cpu", "--threads", 1]
    Run("train", *words, said=folder / "said").finish()
    return folder / "run"


@pytest.fixture
def crash(train):
    """Call the script and let it end with an exception at a place of ``happening``."""

    def now() -> None:
        raise Crash

    def run(place: int | str, *argv: object) -> None:
        with happening(place, now), pytest.raises(Crash):
            train(*argv)

    return run


def test_a_run_leaves_what_people_need(train, recipe, shapes, tmp_path, capsys) -> None:
    out = tmp_path / "run"
    train(recipe, "--data", shapes, "--output", out)
    last_lines = capsys.readouterr().out.splitlines()[-2:]
    assert [line.split("   ")[-1].strip() for line in last_lines] == [
        str(out),
        f"pkdzoo predict {out}/best IMAGE --output out",
    ]
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(METRICS) <= set(metrics) and set(metrics["per_class"]) == set(CLASSES)
    assert metrics["step"] == 8 and metrics["processes"] == 1 and metrics["command"]
    (annotations,) = (shapes / "annotations").glob("instances_val*.json")
    assert (metrics["images"], metrics["annotations_sha256"]) == (5, sha256_of_file(annotations))
    assert metrics["ms_per_image"] > 0
    lines = log_lines(out)
    assert [line["step"] for line in lines] == [3, 4, 6, 8]
    assert {"loss", "loss_cls", "loss_box", "grad_norm", "lr"} <= set(lines[0])
    assert all(METRICS[0] in lines[i] for i in (1, 3))
    assert json.loads((out / "recipe.json").read_text())["model"] == "retina_r10w16"
    for folder in ("best", "last"):
        model = pkdzoo.create_detector(f"local-dir:{out / folder}")
        assert model.label_names == tuple(metrics["per_class"]) and model.resize == (80, 120)
    trained = load_file(out / "last" / "model.safetensors")
    fresh = pkdzoo.create_detector("retina_r10w16", num_classes=6).state_dict()
    assert trained.keys() == fresh.keys()
    assert len(checkpoint.list_checkpoints(out)) == 2


def test_distilled_student_is_saved_without_its_teacher(train, recipe, shapes, tmp_path) -> None:
    recipe.write_text(recipe.read_text() + DISTILL)
    out = tmp_path / "run"
    train(recipe, "--data", shapes, "--output", out, "--set", "schedule.epochs=1")
    student = load_file(out / "last" / "model.safetensors")
    assert student.keys() == pkdzoo.create_detector("retina_r10w16", num_classes=6).state_dict().keys()
    newest = checkpoint.find_checkpoint(out)
    assert newest is not None
    tensors, _ = checkpoint.read_checkpoint(newest[0])
    assert {key.split(".")[1] for key in tensors} == {"student"}
    taught = json.loads((out / "run.json").read_text())["teacher"]
    assert taught["methods"]["pkd"]["weight"] in (6.0, 10.0)  # what the method chose by its teacher
    line = log_lines(out)[0]
    assert line["loss_pkd"] > 0 and all(-1 <= line[f"log/pkd/r{i}"] <= 1 for i in range(4))


TRAINED = ["--set", "model=fcos_r18w24", "--set", "init=fcos_r18w24", "--set", "optim.lr=1e-4"]
CASES = {
    "plain": (TRAINED, ""),
    "accumulated and averaged": (["--set", "optim.accumulate=2", "--set", "optim.ema=0.9"], ""),
    "distilled, with connectors": (["--set", 'distill.methods={"fbkd": {}}', "--set", "data.workers=1"], DISTILL),
    "prototypes": (["--set", 'distill.methods={"global_knowledge": {"smallest": 4, "prototypes": 2}}'], DISTILL),
    "sampled": (["--set", "model=faster_rcnn_r10w16", "--set", "schedule.epochs=1"], ""),
}


USUAL = "distilled, with connectors"  # of a plain one, the tests below have many


@pytest.mark.parametrize(
    "case", [name if name == USUAL else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_resumed_run_equals_the_uninterrupted_one(case, train, crash, recipe, shapes, tmp_path) -> None:
    """Images of several sizes, some mirrored; cut off within an epoch, and between its last step and evaluation."""
    words, more = CASES[case]
    recipe.write_text(recipe.read_text() + more)
    command = [recipe, "--data", shapes, "--set", "logging.save_every=2", *words]
    train(*command, "--output", tmp_path / "whole")
    for place in (3, "evaluation") if case == "sampled" else (1, 3, "evaluation", 7):  # the first before any checkpoint
        crash(place, *command, "--output", tmp_path / "cut", "--resume")
        if place == "evaluation":
            found = checkpoint.find_checkpoint(tmp_path / "cut")
            assert found is not None and (found[1].step, found[1].step_in_epoch, found[1].epoch) == (4, 4, 0)
    train(*command, "--output", tmp_path / "cut", "--resume")
    metrics = assert_same_run(tmp_path / "whole", tmp_path / "cut")
    assert case != "plain" or metrics["AP"] > 1  # else equal metrics would say little
    if case == "prototypes":
        tensors, _ = checkpoint.read_checkpoint(checkpoint.list_checkpoints(tmp_path / "cut")[0])
        assert tensors["task.methods.global_knowledge.known"].any()  # else there were none to come back to


def test_resume_at_the_end_of_an_epoch_and_of_the_run(train, crash, recipe, shapes, whole, tmp_path) -> None:
    command = [recipe, "--data", shapes]
    crash("evaluation", *command, "--output", tmp_path / "cut")
    found = checkpoint.find_checkpoint(
        tmp_path / "cut"
    )  # the epoch's steps are not lost, however long it would measure
    assert found is not None and (found[1].epoch, found[1].step_in_epoch) == (0, 4)
    crash(5, *command, "--output", tmp_path / "cut", "--resume")  # the only checkpoint is that of the first epoch's end
    train(*command, "--output", tmp_path / "cut", "--resume")
    assert_same_run(whole, tmp_path / "cut")
    before = (tmp_path / "cut" / "log.jsonl").read_text()
    train(*command, "--output", tmp_path / "cut", "--resume")  # nothing is left to do, and nothing is done
    assert (tmp_path / "cut" / "log.jsonl").read_text() == before


def test_a_finished_run_goes_on_when_its_recipe_asks_for_more(train, recipe, shapes, whole, tmp_path) -> None:
    command = [recipe, "--data", shapes, "--output", tmp_path / "run"]
    train(*command, "--set", "schedule.epochs=1")
    with pytest.warns(UserWarning, match=r"schedule\.epochs: 1 -> 2"):
        train(*command, "--resume")
    assert_same_run(whole, tmp_path / "run")


def test_a_second_run_in_the_same_folder_is_refused_until_the_first_is_gone(recipe, shapes, tmp_path) -> None:
    out = tmp_path / "run"
    words = [recipe, "--data", shapes, "--output", out, "--cpu", "--threads", 1]
    for more in ("data.workers=1", "schedule.epochs=999", "logging.eval_every=999", "logging.save_every=2"):
        words += ["--set", more]
    first = Run("train", *words, said=tmp_path / "first")
    while first.alive and not checkpoint.list_checkpoints(out):
        time.sleep(0.05)
    os.kill(first.processes[0].pid, signal.SIGSTOP)  # it holds the folder and takes no time from the others
    second = Run("train", *words, "--resume", said=tmp_path / "second")
    assert second.wait() == [1]
    assert second.text().startswith(f"error: another run is writing to {out}: ") and second.text().count("\n") == 1
    assert first.alive, first.text()
    os.kill(first.processes[0].pid, signal.SIGKILL)  # it alone: its loader process outlives it for a while
    first.processes[0].join()
    Run("train", *words, "--resume", "--set", "schedule.max_steps=1", said=tmp_path / "third").finish()
    assert "resumed from" in (tmp_path / "third").read_text()


def test_a_damaged_checkpoint_is_passed_over(train, crash, recipe, shapes, whole, tmp_path) -> None:
    command = [recipe, "--data", shapes, "--set", "logging.save_every=1", "--set", "logging.keep=3"]
    crash(6, *command, "--output", tmp_path / "cut")
    newest = checkpoint.list_checkpoints(tmp_path / "cut")[0] / "model.safetensors"
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(bytes(content))
    with pytest.warns(UserWarning, match=r"model\.safetensors is damaged"):
        train(*command, "--output", tmp_path / "cut", "--resume")
    assert_same_run(whole, tmp_path / "cut")


@pytest.mark.parametrize(
    ("number", "place", "said", "stands"),
    [
        (signal.SIGTERM, 5, "stopped on request at step 6 of 8", (6, 1, 2)),
        (
            signal.SIGINT,
            3,
            "stopped on request at step 4 of 8",
            (4, 0, 4),
        ),  # the epoch's last, before its evaluation
        (signal.SIGTERM, "evaluation", "stopped on request after epoch 1", (4, 1, 0)),
    ],
)
def test_asked_to_stop_it_saves_and_ends(
    number, place, said, stands, train, recipe, shapes, whole, tmp_path, capsys
) -> None:
    command = [recipe, "--data", shapes]
    with happening(place, lambda: os.kill(os.getpid(), number)), pytest.raises(SystemExit) as ended:
        train(*command, "--output", tmp_path / "cut")
    assert ended.value.code == 128 + number
    assert said in capsys.readouterr().out
    found = checkpoint.find_checkpoint(tmp_path / "cut")
    assert found is not None
    assert (found[1].step, found[1].epoch, found[1].step_in_epoch, found[1].done) == (*stands, False)
    train(*command, "--output", tmp_path / "cut", "--resume")
    assert_same_run(whole, tmp_path / "cut")


def test_resumes_within_a_later_epoch_with_the_oldest_accelerate(
    train, recipe, shapes, whole, tmp_path, monkeypatch
) -> None:
    """There a loader that skips batches begins with epoch 0, and so with other images."""

    def skip(loader, batches):
        skipping = skip_first_batches(loader, batches)
        skipping.iteration = 0
        return skipping

    command = [recipe, "--data", shapes, "--output", tmp_path / "cut"]
    with happening(5, lambda: os.kill(os.getpid(), signal.SIGTERM)), pytest.raises(SystemExit):
        train(*command)
    monkeypatch.setattr("pkdzoo.training.loop.skip_first_batches", skip)
    train(*command, "--resume")
    assert_same_run(whole, tmp_path / "cut")


def test_asked_to_stop_in_the_last_evaluation_the_next_recipe_waits(train, recipe, shapes, tmp_path) -> None:
    recipe.write_text(
        recipe.read_text() + DISTILL + 'RECIPES = [replace(RECIPE, name="plain", distill=None), RECIPE]\n'
    )
    words = [recipe, "--data", shapes, "--output", tmp_path, "--set", "schedule.max_steps=1"]
    with happening("evaluation", lambda: os.kill(os.getpid(), signal.SIGTERM)), pytest.raises(SystemExit) as ended:
        train(*words)
    assert ended.value.code == 143
    found = checkpoint.find_checkpoint(tmp_path / "plain")
    assert found is not None and found[1].done and not (tmp_path / "tiny").exists()


def test_a_full_disk_ends_a_run_that_can_go_on(train, recipe, shapes, whole, tmp_path) -> None:
    command = [recipe, "--data", shapes, "--set", "logging.save_every=2"]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    full = happening(5, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard)))
    try:
        with full, pytest.raises(SystemExit) as ended:
            train(*command, "--output", tmp_path / "cut")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "the checkpoint of step 6 could not be written: File too large" in str(ended.value.code)
    assert "step_00000004" in str(ended.value.code)
    train(*command, "--output", tmp_path / "cut", "--resume")
    assert_same_run(whole, tmp_path / "cut")


@contextmanager
def nan_in_the_gradient(of: int, scaler: bool = False):
    """One entry of one parameter's gradient is NaN in one step; ``scaler``: the run scales its losses as with fp16."""
    clip, init, steps = Accelerator.clip_grad_norm_, Accelerator.__init__, count(1)

    def poisoned(self, parameters, *args):
        parameters = list(parameters)
        if next(steps) == of:
            next(p.grad for p in parameters if p.grad is not None).view(-1)[0] = math.nan
        return clip(self, parameters, *args)

    def scaled(self, *args, **kwargs) -> None:
        init(self, *args, **kwargs)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    scaling = mock.patch.object(Accelerator, "__init__", scaled) if scaler else nullcontext()
    with mock.patch.object(Accelerator, "clip_grad_norm_", poisoned), scaling:
        yield


def test_a_nan_in_a_gradient_stops_the_run_before_it_spreads(train, recipe, shapes, tmp_path) -> None:
    with nan_in_the_gradient(6), pytest.raises(SystemExit) as ended:
        train(recipe, "--data", shapes, "--output", tmp_path / "run")
    assert "the gradient's norm became nan" in str(ended.value.code) and "step_00000004" in str(ended.value.code)
    found = checkpoint.find_checkpoint(tmp_path / "run")
    assert found is not None and found[1].step == 4
    assert all(value.isfinite().all() for value in checkpoint.read_checkpoint(found[0])[0].values())


def test_a_nan_in_a_gradient_under_a_scaler_skips_one_step(train, recipe, shapes, tmp_path) -> None:
    with nan_in_the_gradient(6, scaler=True):
        train(
            recipe,
            "--data",
            shapes,
            "--output",
            tmp_path / "run",
            "--set",
            "logging.save_every=1",
            "--set",
            "logging.keep=9",
        )
    before, after, later = (
        checkpoint.read_checkpoint(tmp_path / "run" / "checkpoints" / f"step_{step:08d}") for step in (5, 6, 7)
    )
    assert (before[1]["scaler"]["scale"], after[1]["scaler"]["scale"]) == (1024.0, 512.0)
    weights = [key for key in before[0] if key.endswith("weight")]
    assert all(torch.equal(before[0][key], after[0][key]) for key in weights)
    assert not all(torch.equal(after[0][key], later[0][key]) for key in weights)
    assert all(value.isfinite().all() for value in later[0].values())


def test_patience_ends_a_run_early(train, recipe, shapes, tmp_path, capsys) -> None:
    out = tmp_path / "run"
    # At a rate of almost nothing no evaluation is better than the first.
    train(recipe, "--data", shapes, "--output", out, "--set", "schedule.epochs=9", "--set", "logging.patience=2",
          "--set", "optim.lr=1e-12")  # fmt: skip
    newest = checkpoint.find_checkpoint(out)
    assert newest is not None and newest[1].done and newest[1].epoch == 3
    assert "stopped after epoch 3 of 9: 2 evaluations without a better AP than" in capsys.readouterr().out


def test_several_recipes_are_compared(train, recipe, tmp_path, capsys) -> None:
    recipe.write_text(
        recipe.read_text() + DISTILL + 'RECIPES = [replace(RECIPE, name="plain", distill=None), RECIPE]\n'
    )
    out = tmp_path / "pair"
    words = [recipe, "--output", out, "--set", "schedule.epochs=1"]
    words += ["--set", 'data.generate={"train": 5, "val": 2, "size": [64, 96]}']  # no data: it draws its own
    train(*words)
    assert len(list((out / "data" / "shapes" / "train2017").iterdir())) == 5
    rows = json.loads((out / "comparison.json").read_text())
    assert [row["role"] for row in rows] == ["plain", "distilled"]  # a teacher of other class names is not measured
    assert (out / "predictions.png").stat().st_size > 1000
    assert "gap closed" in capsys.readouterr().out
    shutil.rmtree(out / "tiny")
    train(*words, "--resume")
    assert json.loads((out / "comparison.json").read_text()) == rows


def test_precision_layout_and_recomputed_activations_work_together(train, recipe, shapes, tmp_path) -> None:
    recipe.write_text(recipe.read_text() + DISTILL)
    once = [recipe, "--data", shapes, "--set", "schedule.epochs=1"]
    train(*once, "--output", tmp_path / "plain")
    train(*once, "--output", tmp_path / "memory", "--channels-last", "--checkpoint-activations")
    train(*once, "--output", tmp_path / "bf16", "--mixed-precision", "bf16", "--checkpoint-activations")
    losses = {name: log_lines(tmp_path / name)[0]["loss"] for name in ("plain", "memory", "bf16")}
    assert losses["memory"] == pytest.approx(losses["plain"], rel=1e-3)
    assert losses["bf16"] == pytest.approx(losses["plain"], rel=0.05)
    assert losses["bf16"] != losses["plain"]
