"""The log's means, its lines after a resume, and the guard against NaN."""

from __future__ import annotations

import json
import math

import pytest
import torch
from accelerate import Accelerator

from pkdzoo.structures import Batch
from pkdzoo.training.monitor import TIMING, Diverged, Monitor
from pkdzoo.training.state import Progress


def batch(*names: str) -> Batch:
    return Batch(torch.zeros(len(names), 3, 8, 8), [(8, 8)] * len(names), meta=[{"file_name": n} for n in names])


def monitor(folder, every: int = 2, progress: Progress | None = None) -> Monitor:
    return Monitor(Accelerator(cpu=True), folder, every, 10, progress or Progress())


def feed(watch: Monitor, step: int, loss: float, norm: float = 1.0) -> None:
    losses = {"loss_a": torch.tensor(loss), "loss_b": torch.tensor(1.0)}
    watch.add(batch("x.jpg"), losses, {"pkd/r0": torch.tensor(0.5)})
    watch.guard(losses, torch.tensor(norm), False, "somewhere")
    watch.step(Progress(step=step), 0.1, torch.tensor(norm))


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_line_holds_means_since_the_last(tmp_path) -> None:
    watch = monitor(tmp_path)
    for step, loss in enumerate((1.0, 2.0, 4.0, 8.0), 1):
        feed(watch, step, loss, norm=loss)
    first, second = lines(tmp_path)
    assert (first["loss_a"], first["loss_b"], first["loss"], first["grad_norm"]) == (1.5, 1.0, 2.5, 1.5)
    assert (second["loss_a"], second["step"], second["lr"], second["log/pkd/r0"]) == (6.0, 4, 0.1, 0.5)
    assert {"seconds", "images_per_s", "data_wait"} <= set(first) & set(TIMING)


def test_an_unfinished_window_survives_json_to_the_last_bit(tmp_path) -> None:
    (tmp_path / "a").mkdir()
    watch = monitor(tmp_path / "a")
    feed(watch, 1, 1 / 3)
    kept = json.loads(json.dumps(watch.window()))
    feed(watch, 2, 0.1)
    (tmp_path / "b").mkdir()
    again = monitor(tmp_path / "b", progress=Progress(step=1, window=kept))
    feed(again, 2, 0.1)
    (one,), (other,) = lines(tmp_path / "a"), lines(tmp_path / "b")
    assert {k: v for k, v in one.items() if k not in TIMING} == {k: v for k, v in other.items() if k not in TIMING}


def test_resuming_drops_what_is_going_to_be_said_again(tmp_path) -> None:
    told = [
        {"step": 2, "epoch": 0},
        {"step": 4, "epoch": 0},
        {"step": 4, "epoch": 1, "AP": 1.0},
        {"step": 6, "epoch": 1},
    ]
    text = "".join(json.dumps(line) + "\n" for line in told)
    (tmp_path / "log.jsonl").write_text(text + '{"step": 8, "ep')
    monitor(tmp_path, progress=Progress(step=4, epoch=1))
    assert lines(tmp_path) == told[:3]
    (tmp_path / "log.jsonl").write_text(text)
    monitor(tmp_path, progress=Progress(step=4, epoch=0, step_in_epoch=4))  # the evaluation is still to come
    assert lines(tmp_path) == told[:2]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_guard_names_loss_pictures_and_checkpoint(tmp_path, value) -> None:
    watch = monitor(tmp_path)
    losses = {"loss_a": torch.tensor(value, requires_grad=True), "loss_b": torch.tensor(1.0)}
    watch.add(batch("a.jpg", "b.jpg"), losses, {})
    with pytest.raises(Diverged, match=rf"loss_a became {value} for pictures a\.jpg, b\.jpg.*runs/x/step_3"):
        watch.guard(losses, torch.tensor(value), False, "runs/x/step_3")


def test_the_guard_sees_a_gradient_without_a_loss(tmp_path) -> None:
    watch = monitor(tmp_path)
    losses = {"loss_a": torch.tensor(1.0)}
    watch.add(batch("a.jpg"), losses, {})
    watch.add(batch("b.jpg"), losses, {})  # an accumulated pass: both are suspects
    with pytest.raises(Diverged, match=r"the gradient's norm became nan for pictures a\.jpg, b\.jpg"):
        watch.guard(losses, torch.tensor(math.nan), False, "x")


def test_an_overflow_under_a_scaler_is_the_scalers_business(tmp_path) -> None:
    watch = monitor(tmp_path)
    watch.accelerator.scaler = object()
    try:
        assert watch.guard({"loss": torch.tensor(1.0)}, torch.tensor(math.inf), False, "x") is False
        with pytest.raises(Diverged):
            watch.guard({"loss": torch.tensor(math.nan)}, torch.tensor(math.nan), False, "x")
    finally:
        watch.accelerator.scaler = None


def test_the_guard_passes_the_wish_to_stop_on(tmp_path) -> None:
    watch = monitor(tmp_path)
    assert watch.guard({"loss": torch.tensor(1.0)}, torch.tensor(1.0), True, "x") is True
    assert watch.guard({"loss": torch.tensor(1.0)}, torch.tensor(1.0), False, "x") is False


def test_waiting_for_data_is_counted_and_pauses_are_not(tmp_path) -> None:
    watch = monitor(tmp_path)
    assert list(watch.timed([batch("a")] * 2)) and watch.waited >= 0
    before = watch.started
    with watch.paused():
        sum(range(100_000))
    assert watch.started > before
