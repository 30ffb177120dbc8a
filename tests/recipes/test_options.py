"""Options of a run together: each combination that people use trains, and what must not change a run does not."""

from __future__ import annotations

import json
import math
import os
import signal
from itertools import pairwise
from pathlib import Path

import accelerate
import pytest
import torch
from accelerate.utils import AutocastKwargs
from helpers.processes import Run, happening
from helpers.scripts import ROOT, TIMING, assert_same_run, launch, log_lines
from safetensors.torch import load_file

from pkdzoo.data import make_shapes
from pkdzoo.evaluation import CocoEvaluator
from pkdzoo.training import checkpoint

DISTILL = """
from dataclasses import replace
RECIPE = replace(RECIPE, distill=Distill("retina_r10w16", teacher_args={"num_classes": 6}, teacher_weights="random"))
"""
# 20 steps at a rate that learns, a line for each four of them
LEARN = ["optim.kind=adamw", "optim.lr=0.002", "schedule.epochs=5", "schedule.milestones=4", "logging.log_every=4",
         "logging.eval_every=5"]  # fmt: skip
BF16, CHECKPOINT, NHWC, COMPILE = (
    ["--mixed-precision", "bf16"], ["--checkpoint-activations"], ["--channels-last"], ["--compile"]
)  # fmt: skip


def sets(*assignments: str) -> list[str]:
    return [word for assignment in assignments for word in ("--set", assignment)]


def weights(run: Path, folder: str = "last") -> dict[str, torch.Tensor]:
    return load_file(run / folder / "model.safetensors")


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        torch.testing.assert_close(other[key], value, rtol=tolerance, atol=tolerance, msg=lambda m, k=key: f"{k}: {m}")


def assert_learned(run: Path) -> None:
    """What the student says of the objects of its images is much better at the end than at the start."""
    lines = [line for line in log_lines(run) if "loss" in line]
    first, last = (line["loss_cls"] + line["loss_box"] for line in (lines[0], lines[-1]))
    assert last < 0.75 * first, (first, last)
    assert lines[-1]["loss"] < lines[0]["loss"]


TOGETHER = {
    "everything but compiled": (
        [*BF16, *CHECKPOINT, *NHWC, *sets("optim.accumulate=2", "optim.ema=0.9", "logging.patience=3")], DISTILL
    ),
    "bf16, accumulated, averaged": (BF16 + sets("optim.accumulate=2", "optim.ema=0.9"), ""),
    "recomputed, accumulated, distilled": (CHECKPOINT + sets("optim.accumulate=2"), DISTILL),
    "compiled, bf16, channels last, averaged": (COMPILE + BF16 + NHWC + sets("optim.ema=0.9"), ""),
}  # fmt: skip
FIRST, *REST = TOGETHER


@pytest.mark.parametrize("case", [FIRST, *(pytest.param(name, marks=pytest.mark.slow) for name in REST)])
def test_options_that_people_combine_train(case, train, recipe, shapes, tmp_path) -> None:
    words, more = TOGETHER[case]
    recipe.write_text(recipe.read_text() + more)
    train(recipe, "--data", shapes, "--output", tmp_path / "run", *sets(*LEARN), *words)
    assert_learned(tmp_path / "run")
    newest = checkpoint.find_checkpoint(tmp_path / "run")
    assert newest is not None
    tensors, _ = checkpoint.read_checkpoint(newest[0])
    assert all(value.dtype in (torch.float32, torch.int64) for value in tensors.values())  # masters are whole
    prefix = "average.module." if "optim.ema=0.9" in words else "task.student."
    found = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    assert_close(weights(tmp_path / "run"), found, 0)  # names as ever, whatever was wrapped around them


@pytest.mark.slow
def test_recomputing_activations_changes_nothing(train, recipe, shapes, tmp_path) -> None:
    recipe.write_text(recipe.read_text() + DISTILL)
    words = [recipe, "--data", shapes, *sets("optim.accumulate=2", "optim.ema=0.9")]
    train(*words, "--output", tmp_path / "kept")
    train(*words, "--output", tmp_path / "recomputed", *CHECKPOINT)
    assert_same_run(tmp_path / "kept", tmp_path / "recomputed")


@pytest.fixture(scope="module")
def twins(tmp_path_factory) -> Path:
    """Eight times the same image: the number of objects, which losses are divided by, is that of every pass."""
    data = make_shapes(tmp_path_factory.mktemp("twins") / "data", train=1, val=2, size=(64, 96))
    path = data / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    (image,), boxes = content["images"], content["annotations"]
    content["images"] = [{**image, "id": number} for number in range(1, 9)]
    content["annotations"] = [
        {**box, "image_id": number, "id": 100 * number + k} for number in range(1, 9) for k, box in enumerate(boxes)
    ]
    path.write_text(json.dumps(content))
    return data


def test_accumulated_passes_are_one_large_batch(train, recipe, twins, tmp_path) -> None:
    words = [recipe, "--data", twins, *sets("data.short=64", "data.flip=0", "logging.log_every=1")]
    for passes in (1, 2, 4):
        train(*words, "--output", tmp_path / str(passes), *sets(f"optim.accumulate={passes}"))
    one = log_lines(tmp_path / "1")
    assert [line["step"] for line in one if "loss" in line] == [1, 2, 3, 4]
    for passes in ("2", "4"):
        for line, other in zip(one, log_lines(tmp_path / passes)):
            if "loss" in line:
                assert other["loss"] == pytest.approx(line["loss"], rel=1e-5)
                assert other["grad_norm"] == pytest.approx(line["grad_norm"], rel=1e-4)
        assert_close(weights(tmp_path / "1"), weights(tmp_path / passes), 1e-5)


def test_the_last_step_of_an_epoch_may_have_fewer_passes(train, recipe, twins, tmp_path) -> None:
    """Eight equal images, two a pass and three passes a step: the second step of an epoch has one pass."""
    more = sets("data.short=64", "data.flip=0", "logging.log_every=1", "optim.lr=1e-9", "data.batch_size=6")
    train(recipe, "--data", twins, "--output", tmp_path / "run", *more, *sets("optim.accumulate=3"))
    norms = [line["grad_norm"] for line in log_lines(tmp_path / "run") if "loss" in line]
    assert len(norms) >= 4 and norms == pytest.approx([norms[0]] * len(norms), rel=1e-4)


def test_the_average_is_of_all_steps_and_what_is_exported(train, recipe, shapes, tmp_path) -> None:
    run = tmp_path / "run"
    train(recipe, "--data", shapes, "--output", run, *sets("optim.ema=0.8", "logging.save_every=1", "logging.keep=99"))
    average: dict[str, torch.Tensor] = {}
    for path in reversed(checkpoint.list_checkpoints(run)):
        saved = checkpoint.read_checkpoint(path)[0]
        tensors = {k.removeprefix("task.student."): v for k, v in saved.items() if k.startswith("task.")}
        average = {k: 0.8 * average[k] + 0.2 * v for k, v in tensors.items()} if average else tensors
    assert_close(average, weights(run), 1e-5)
    with pytest.raises(AssertionError):
        assert_close(tensors, weights(run), 1e-5)  # the last step's own


def test_the_best_by_another_metric_is_kept_and_patience_ends(train, recipe, shapes, tmp_path, monkeypatch) -> None:
    run, compute = tmp_path / "run", CocoEvaluator.compute
    scores = iter([1.0, 3.0, 2.0, 2.5, 99.0])
    monkeypatch.setattr(CocoEvaluator, "compute", lambda self, *a: {**compute(self, *a), "AP75": next(scores)})
    train(recipe, "--data", shapes, "--output", run,
          *sets("schedule.epochs=9", "logging.best=AP75", "logging.patience=2", "optim.ema=0.9", "logging.keep=9"),
          )  # fmt: skip
    best, last = (json.loads((run / folder / "metrics.json").read_text()) for folder in ("best", "last"))
    assert (best["epoch"], best["AP75"]) == (2, 3.0) and (last["epoch"], last["AP75"]) == (4, 2.5)
    for folder, step in (("best", 8), ("last", 16)):
        place = next(path for path in checkpoint.list_checkpoints(run) if path.name.startswith(f"step_{step:08d}"))
        tensors = checkpoint.read_checkpoint(place)[0]
        average = {k.removeprefix("average.module."): v for k, v in tensors.items() if "average.module." in k}
        assert_close(average, weights(run, folder), 0)


class Crash(Exception):
    """Stands for whatever ends a process."""


def crash() -> None:
    raise Crash


@pytest.mark.slow
def test_options_together_are_resumed_to_the_last_bit(train, recipe, shapes, tmp_path) -> None:
    recipe.write_text(recipe.read_text() + DISTILL)
    words = [recipe, "--data", shapes, *BF16, *CHECKPOINT, *NHWC, *sets("optim.accumulate=2", "optim.ema=0.9")]
    words += sets("logging.save_every=2", "optim.kind=adamw", "logging.patience=5")
    train(*words, "--output", tmp_path / "whole")
    with happening(5, crash), pytest.raises(Crash):
        train(*words, "--output", tmp_path / "cut")
    train(*words, "--output", tmp_path / "cut", "--resume")
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.slow
def test_options_together_on_two_processes(recipe, shapes, tmp_path) -> None:
    recipe.write_text(recipe.read_text() + DISTILL)
    words = [recipe, "--data", shapes, *BF16, *CHECKPOINT, *NHWC, *sets(*LEARN, "optim.accumulate=2", "optim.ema=0.9")]
    run = Run("train", *words, "--output", tmp_path / "run", said=tmp_path / "said", processes=2)
    run.finish()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["processes"] == 2
    assert_learned(tmp_path / "run")
    one, two = run.students()
    assert_close(one, two, 0)


# -- what goes wrong in sixteen bits ---------------------------------------------------------------------------------


class Injecting(accelerate.Accelerator):
    """Puts a NaN into one gradient after the given backward pass."""

    poisoned_pass = 0

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.passes = 0

    def backward(self, loss, **kwargs) -> None:
        super().backward(loss, **kwargs)
        self.passes += 1
        if self.passes == self.poisoned_pass:
            next(p for p in self._models[0].parameters() if p.grad is not None).grad.view(-1)[0] = math.nan


class Half(Injecting):
    """Accelerate's fp16, which it leaves out on a CPU: the same autocast, and torch's own scaler for CPUs."""

    autocast_too = True

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if self.mixed_precision == "fp16":
            self.native_amp, self.scaler = True, torch.amp.GradScaler("cpu", init_scale=2.0**10)
            self.autocast_handler = AutocastKwargs(enabled=self.autocast_too)


class Scaled(Half):
    """The scaler alone: convolutions in fp16 take a hundred times as long on a CPU."""

    autocast_too = False


@pytest.fixture
def put(monkeypatch):
    """Put a class in Accelerate's place; the script has to be loaded after that."""
    return lambda kind: monkeypatch.setattr(accelerate, "Accelerator", kind)


@pytest.fixture
def injecting(put):
    put(Injecting)


@pytest.fixture
def scaled(put):
    put(Scaled)


@pytest.fixture
def half(put):
    put(Half)


def test_a_nan_in_a_gradient_stops_full_precision(injecting, train, recipe, shapes, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Injecting, "poisoned_pass", 6)  # the second pass of the third step
    run = tmp_path / "run"
    with pytest.raises(SystemExit, match=r"^error: the gradient's norm became nan for images .*\.jpg.*step_00000002\."):
        train(recipe, "--data", shapes, "--output", run, *sets("logging.save_every=1", "optim.accumulate=2"))
    found = checkpoint.find_checkpoint(run)
    assert found is not None and found[1].step == 2
    assert all(bool(value.isfinite().all()) for value in checkpoint.read_checkpoint(found[0])[0].values())


def test_the_scaler_skips_a_nan_and_training_goes_on(scaled, train, recipe, shapes, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Injecting, "poisoned_pass", 6)
    recipe.write_text(recipe.read_text() + DISTILL)
    words = [recipe, "--data", shapes, "--mixed-precision", "fp16",
             *sets("logging.save_every=1", "logging.log_every=1", "logging.keep=99"),
             *sets("optim.accumulate=2", "optim.ema=0.9")]  # fmt: skip
    run = tmp_path / "run"
    train(*words, "--output", run)
    saved = [checkpoint.read_checkpoint(path) for path in reversed(checkpoint.list_checkpoints(run))]
    students = [{k: v for k, v in tensors.items() if k.startswith("task.")} for tensors, _ in saved]
    same = [all(torch.equal(v, after[k]) for k, v in before.items()) for before, after in pairwise(students)]
    assert same == [False, True, False, False, False, False, False]  # of eight steps the third one was not made
    assert [rest["scaler"]["scale"] for _, rest in saved] == [1024.0] * 2 + [512.0] * 6
    lines = [line for line in log_lines(run) if "loss" in line]
    assert [line["skipped_steps"] for line in lines] == [0, 0, 1, 0, 0, 0, 0, 0]
    assert [line["grad_norm"] is None for line in lines] == [False] * 2 + [True] + [False] * 5


@pytest.mark.slow
def test_a_scaler_is_resumed(scaled, train, recipe, shapes, tmp_path) -> None:
    words = [recipe, "--data", shapes, "--mixed-precision", "fp16", *sets(*LEARN, "optim.accumulate=2"), *CHECKPOINT]
    train(*words, "--output", tmp_path / "whole")
    assert_learned(tmp_path / "whole")
    with happening(6, crash), pytest.raises(Crash):
        train(*words, "--output", tmp_path / "cut")
    train(*words, "--output", tmp_path / "cut", "--resume")
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.slow
def test_half_precision_learns_what_full_precision_learns(half, train, recipe, shapes, tmp_path) -> None:
    recipe.write_text(recipe.read_text() + DISTILL)
    words = [recipe, "--data", shapes, *sets("schedule.max_steps=2", "logging.log_every=1")]
    train(*words, "--output", tmp_path / "half", "--mixed-precision", "fp16")
    train(*words, "--output", tmp_path / "full")
    for line, other in zip(log_lines(tmp_path / "half")[:2], log_lines(tmp_path / "full")):
        assert line["skipped_steps"] == 0 and line["loss"] != other["loss"]
        assert line["loss"] == pytest.approx(other["loss"], rel=0.01)
        assert line["grad_norm"] == pytest.approx(other["grad_norm"], rel=0.05)


def test_half_precision_on_a_cpu_is_refused(train, recipe, shapes, tmp_path) -> None:
    with pytest.raises(SystemExit, match="fp16: on cpu Accelerate would train in full precision silently"):
        train(recipe, "--data", shapes, "--output", tmp_path / "run", "--mixed-precision", "fp16")


# -- what is written -------------------------------------------------------------------------------------------------


def test_lines_and_trackers_hold_what_people_watch(train, recipe, shapes, tmp_path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe.write_text(recipe.read_text() + DISTILL)
    run = tmp_path / "run"
    words = [recipe, "--data", shapes, "--output", run, "--tracker", "tensorboard", *sets("logging.log_every=2")]
    with happening(6, crash), pytest.raises(Crash):
        train(*words)
    train(*words, "--resume")  # trackers go on, too
    text = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    lines, measured = [line for line in text if "loss" in line], [line for line in text if "AP" in line]
    assert [line["step"] for line in lines] == [2, 4, 6, 8] and [line["step"] for line in measured] == [4, 8]
    levels = {f"log/pkd/r{level}" for level in range(4)}
    names = {"loss", "loss_cls", "loss_box", "loss_pkd", "lr", "grad_norm", *levels, *TIMING}
    for line in lines:
        assert names <= set(line)
        assert line["loss"] == pytest.approx(line["loss_cls"] + line["loss_box"] + line["loss_pkd"], rel=1e-6)
        assert all(-1 <= line[level] <= 1 for level in levels)
        assert line["grad_norm"] > 0 and 0.1 < line["memory_gb"] < 100 and 0 <= line["data_wait"] <= 1
    images = [line["images_per_s"] * line["seconds"] for line in lines]
    assert images == pytest.approx([8, 5, 8, 5], rel=0.02)  # of 13, by four
    rates = [0.01 * (1 - 0.999 * (1 - 1 / 2)), 0.01, 0.001, 0.001]  # warm-up of three steps; the rate of step 2, 4, ...
    assert [line["lr"] for line in lines] == pytest.approx(rates)
    events = EventAccumulator(str(run / "pkdzoo"))
    events.Reload()
    for name in names - {"seconds"}:
        seen = {event.step: event.value for event in events.Scalars(name)}
        assert seen == pytest.approx({line["step"]: line[name] for line in lines}, rel=1e-4), name
    assert {event.step for event in events.Scalars("AP")} == {4, 8}


@pytest.mark.slow
def test_trackio_writes_without_a_network(recipe, shapes, tmp_path) -> None:
    pytest.importorskip("trackio")
    import sqlite3

    words = ("--data", shapes, "--output", tmp_path / "run", "--tracker", "trackio", *sets("logging.log_every=2"))
    launch(
        ROOT / "recipes" / "train.py", recipe, *words, TRACKIO_DIR=str(tmp_path / "trackio"), HF_HUB_OFFLINE="1",
        PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    )  # fmt: skip
    text = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    with sqlite3.connect(tmp_path / "trackio" / "pkdzoo.db") as base:
        rows = [json.loads(row[0]) for row in base.execute("SELECT metrics FROM metrics ORDER BY id")]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses == pytest.approx([line["loss"] for line in text if "loss" in line])


def test_a_run_that_is_asked_to_stop_lets_its_trackers_write(train, recipe, shapes, tmp_path, monkeypatch) -> None:
    from accelerate.tracking import TensorBoardTracker

    ended = []
    monkeypatch.setattr(TensorBoardTracker, "finish", lambda self: ended.append(self.writer.close()))
    with happening(2, lambda: os.kill(os.getpid(), signal.SIGTERM)), pytest.raises(SystemExit) as stop:
        train(recipe, "--data", shapes, "--output", tmp_path / "run", "--tracker", "tensorboard")
    assert stop.value.code == 143 and len(ended) == 1


@pytest.mark.filterwarnings("ignore:.log_with=")  # Accelerate warns and goes on
def test_trackers_that_are_not_there(train, recipe, shapes, tmp_path, monkeypatch) -> None:
    words = [recipe, "--data", shapes, "--output", tmp_path / "run", "--tracker"]
    with pytest.raises(SystemExit, match="Unsupported logging capability: tensorbord"):
        train(*words, "tensorbord")
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: [])
    with pytest.raises(SystemExit, match=r"--tracker tensorboard: .* not installed, pip install tensorboard"):
        train(*words, "tensorboard")
    with pytest.raises(SystemExit, match="--tracker wandb: its package is not installed, pip install wandb"):
        train(*words, "wandb")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_teacher_is_measured_against_its_row(train, tmp_path, capsys) -> None:
    """The demo's own teacher, weights from the package, on the images it was measured on."""
    train(ROOT / "recipes" / "demo.py", "--only", "distilled", "--output", tmp_path / "run", "--check-teacher", 40,
          *sets("schedule.max_steps=1"))  # fmt: skip
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("teacher   AP")]
    assert line.endswith("on 40 images, published 57.0 on all")
    assert float(line.split()[2]) == pytest.approx(57.0, abs=6)


@pytest.mark.slow
def test_images_kept_in_memory_do_not_change_a_run(train, recipe, shapes, tmp_path, capsys) -> None:
    """Two loader processes fill the cache in the first epoch; the second one and the evaluations read from it."""
    words = (recipe, "--data", shapes, *sets("data.workers=2"))
    train(*words, "--output", tmp_path / "plain")
    train(*words, "--output", tmp_path / "kept", "--cache-images", "0.05")
    assert "images kept in" in capsys.readouterr().out
    assert_same_run(tmp_path / "plain", tmp_path / "kept")
