"""The log's means, its lines after a resume, and the check for NaN."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from helpers.scripts import TIMING

from pkdzoo.structures import Batch
from pkdzoo.training.checkpoint import Progress
from pkdzoo.training.log import MAX_OVERFLOWS, Diverged, Monitor, duration


def batch(*names: str) -> Batch:
    return Batch(torch.zeros(len(names), 3, 8, 8), [(8, 8)] * len(names), meta=[{"file_name": n} for n in names])


def monitor(folder, every: int = 2, progress: Progress | None = None) -> Monitor:
    return Monitor(Accelerator(cpu=True), folder, every, 10, progress or Progress())


def feed(watch: Monitor, step: int, loss: float, norm: float = 1.0) -> None:
    losses = {"loss_a": torch.tensor(loss), "loss_b": torch.tensor(1.0)}
    watch.add_pass(batch("x.jpg"), losses, {"pkd/r0": torch.tensor(0.5)})
    watch.check_step(torch.tensor(norm), False, "somewhere")
    watch.end_step(Progress(step=step), 0.1, torch.tensor(norm))


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_line_holds_means_since_the_last(tmp_path) -> None:
    watch = monitor(tmp_path)
    for step, loss in enumerate((1.0, 2.0, 4.0, 8.0), 1):
        feed(watch, step, loss, norm=loss)
    first, second = lines(tmp_path)
    assert (first["loss_a"], first["loss_b"], first["loss"], first["grad_norm"]) == (1.5, 1.0, 2.5, 1.5)
    assert (second["loss_a"], second["step"], second["lr"], second["log/pkd/r0"]) == (6.0, 4, 0.1, 0.5)
    assert {"seconds", "cpu_seconds", "images_per_s", "data_wait"} <= set(first) & set(TIMING)


def test_without_a_terminal_lines_are_printed_at_times_and_at_the_end(tmp_path, monkeypatch, capsys) -> None:
    now = 0.0
    monkeypatch.setattr("pkdzoo.training.log.time.monotonic", lambda: now)
    watch = monitor(tmp_path, every=1)
    for step in range(1, 11):
        now += 10.0
        feed(watch, step, 1.0)
    shown = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert shown == ["1/10", "4/10", "7/10", "10/10"] and len(lines(tmp_path)) == 10


def test_slow_steps_are_shown_between_the_lines_of_the_log(tmp_path, monkeypatch, capsys) -> None:
    now = 0.0
    monkeypatch.setattr("pkdzoo.training.log.time.monotonic", lambda: now)
    watch = monitor(tmp_path, every=5)
    for step in range(1, 11):
        now += 31.0
        feed(watch, step, 1.0)
        if step == 5:
            watch.write_line({"step": 5, "epoch": 1, "AP": 12.34})
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert len(shown) == 10 and len(lines(tmp_path)) == 3
    assert "loss 2.000 a 1.000 b 1.000 pkd/r0 0.50" in shown[0] and "remaining" not in shown[0]
    assert "AP" not in shown[4] and "AP 12.3" in shown[5]


def test_the_time_left_is_told_after_measured_steps(tmp_path, monkeypatch, capsys) -> None:
    now = 0.0
    monkeypatch.setattr("pkdzoo.training.log.time.monotonic", lambda: now)
    monkeypatch.setattr("pkdzoo.training.log.time.perf_counter", lambda: now)
    watch = Monitor(Accelerator(cpu=True), tmp_path, 100, 40, Progress())
    for step in range(1, 41):
        now += 500.0 if step == 1 else 40.0  # the first step is never typical
        feed(watch, step, 1.0)
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert [("remaining" in line) for line in shown] == [False] * 10 + [True] * 30
    assert shown[10].endswith("19 min remaining") and shown[-1].endswith("0 s remaining")


def test_a_terminal_shows_everything_beside_the_bar(tmp_path, monkeypatch) -> None:
    watch = monitor(tmp_path, every=100)
    seen: list[dict] = []
    show = SimpleNamespace(
        disable=False, total=10, update=lambda count: None, set_postfix=lambda numbers, refresh: seen.append(numbers)
    )
    monkeypatch.setattr(watch, "bar", show)
    watch.write_line({"step": 1, "epoch": 1, "AP": 30.0})
    feed(watch, 1, 1.0)
    feed(watch, 2, 1.0)  # within a second: nothing new is shown
    (numbers,) = seen
    assert numbers == {"lr": "1.00e-01", "loss": "2.000", "a": "1.000", "b": "1.000", "pkd/r0": "0.50", "AP": "30.0"}


def test_an_unfinished_window_survives_json_to_the_last_bit(tmp_path) -> None:
    (tmp_path / "a").mkdir()
    watch = monitor(tmp_path / "a")
    feed(watch, 1, 1 / 3)
    kept = json.loads(json.dumps(watch.unfinished_sums()))
    feed(watch, 2, 0.1)
    (tmp_path / "b").mkdir()
    again = monitor(tmp_path / "b", progress=Progress(step=1, window=kept))
    feed(again, 2, 0.1)
    (one,), (other,) = lines(tmp_path / "a"), lines(tmp_path / "b")
    assert {k: v for k, v in one.items() if k not in TIMING} == {k: v for k, v in other.items() if k not in TIMING}


def test_resuming_removes_lines_that_will_be_written_again(tmp_path) -> None:
    records = [
        {"step": 2, "epoch": 0},
        {"step": 4, "epoch": 0},
        {"step": 4, "epoch": 1, "AP": 1.0},
        {"step": 6, "epoch": 1},
    ]
    text = "".join(json.dumps(line) + "\n" for line in records)
    (tmp_path / "log.jsonl").write_text(text + '{"step": 8, "ep')
    monitor(tmp_path, progress=Progress(step=4, epoch=1))
    assert lines(tmp_path) == records[:3]
    (tmp_path / "log.jsonl").write_text(text)
    monitor(tmp_path, progress=Progress(step=4, epoch=0, step_in_epoch=4))  # the evaluation is still to come
    assert lines(tmp_path) == records[:2]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_named_with_images_and_checkpoint(tmp_path, value) -> None:
    watch = monitor(tmp_path)
    losses = {"loss_a": torch.tensor(value, requires_grad=True), "loss_b": torch.tensor(1.0)}
    watch.add_pass(batch("a.jpg", "b.jpg"), losses, {})
    with pytest.raises(Diverged, match=rf"loss_a became {value} for images a\.jpg, b\.jpg.*runs/x/step_3"):
        watch.check_step(torch.tensor(value), False, "runs/x/step_3")


def test_a_gradient_that_is_not_finite_is_found_without_a_loss(tmp_path) -> None:
    watch = monitor(tmp_path)
    losses = {"loss_a": torch.tensor(1.0)}
    watch.add_pass(batch("a.jpg"), losses, {})
    watch.add_pass(batch("b.jpg"), losses, {})  # an accumulated pass: both are suspects
    with pytest.raises(Diverged, match=r"the gradient's norm became nan for images a\.jpg, b\.jpg"):
        watch.check_step(torch.tensor(math.nan), False, "x")


def test_every_accumulated_pass_is_checked(tmp_path) -> None:
    watch = monitor(tmp_path)
    watch.add_pass(batch("a.jpg"), {"loss_a": torch.tensor(math.nan)}, {})
    watch.add_pass(batch("b.jpg"), {"loss_a": torch.tensor(1.0)}, {})
    with pytest.raises(Diverged, match=r"^loss_a became nan for images a\.jpg\. "):
        watch.check_step(torch.tensor(1.0), False, "x")
    watch.add_pass(batch("c.jpg"), {"loss_a": torch.tensor(1.0)}, {})  # the next step is another one
    assert watch.check_step(torch.tensor(1.0), False, "x") is False


@pytest.fixture
def scaled(tmp_path):
    """A monitor whose steps a gradient scaler may skip."""
    watch = monitor(tmp_path)
    watch.accelerator.scaler = object()
    yield watch
    watch.accelerator.scaler = None


def test_an_overflow_under_a_scaler_is_not_an_error(scaled, tmp_path) -> None:
    for step, norm in enumerate((math.inf, 2.0, math.nan, math.inf), 1):
        feed(scaled, step, 1.0, norm)
    first, second = lines(tmp_path)
    assert (first["grad_norm"], first["skipped_steps"]) == (2.0, 1)
    assert (second["grad_norm"], second["skipped_steps"]) == (None, 2)
    scaled.add_pass(batch("a.jpg"), {"loss_a": torch.tensor(math.nan)}, {})
    with pytest.raises(Diverged, match="loss_a became nan"):
        scaled.check_step(torch.tensor(math.nan), False, "x")


def test_a_scaler_that_only_skips_ends_the_run(scaled) -> None:
    for step in range(1, MAX_OVERFLOWS + 1):
        feed(scaled, step, 1.0, math.inf)
    with pytest.raises(Diverged, match=f"norm became inf in {MAX_OVERFLOWS + 1} consecutive steps"):
        feed(scaled, MAX_OVERFLOWS + 1, 1.0, math.inf)


def test_a_stop_request_is_returned(tmp_path) -> None:
    watch = monitor(tmp_path)
    for stop in (True, False):
        watch.add_pass(batch("a.jpg"), {"loss_a": torch.tensor(1.0)}, {})
        assert watch.check_step(torch.tensor(1.0), stop, "x") is stop


def test_a_number_that_is_none_is_null_in_the_log(tmp_path) -> None:
    watch = monitor(tmp_path, every=1)
    losses = {"loss_a": torch.tensor(1.0)}
    watch.add_pass(batch("a.jpg"), losses, {"pkd/r0": torch.tensor(math.nan)})
    watch.end_step(Progress(step=1), 0.1, torch.tensor(1.0))
    (line,) = lines(tmp_path)
    assert line["log/pkd/r0"] is None and "NaN" not in (tmp_path / "log.jsonl").read_text()
    assert line["memory_gb"] > 0.05


def test_the_time_that_is_left_does_not_hang_on_the_last_interval(tmp_path, monkeypatch, capsys) -> None:
    """Steps of 2 s, a first one of 60 s, one hiccup of 500 s and an evaluation of 90 s in 30 steps."""
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    watch = Monitor(Accelerator(cpu=True), tmp_path, 2, 230, Progress())
    for step in range(1, 31):
        clock[0] += {1: 60.0, 30: 500.0}.get(step, 2.0)
        feed(watch, step, 1.0)
        if step == 15:
            with watch.paused():
                clock[0] += 90.0
    assert watch.remaining_seconds(30) == pytest.approx(200 * (2.0 + 90.0 / 30))
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("time")]
    assert said == ["time      7 min remaining: 219 steps of 2 s, measured over 10 steps; without evaluations"]
    assert [duration(s) for s in (90, 3600, 10000, 1e6)] == ["90 s", "60 min", "2.8 h", "11.6 days"]


def test_waiting_for_data_is_counted_and_pauses_are_not(tmp_path) -> None:
    watch = monitor(tmp_path)
    assert list(watch.time_loading([batch("a")] * 2)) and watch.loading_seconds >= 0
    before = watch.interval_start
    with watch.paused():
        sum(range(100_000))
    assert watch.interval_start > before


def test_a_worker_that_dies_while_it_sends_is_called_a_worker(tmp_path) -> None:
    def broken() -> Iterator[Batch]:
        yield batch("a.jpg")
        raise ConnectionResetError(104, "Connection reset by peer")

    loading = monitor(tmp_path).time_loading(broken())
    assert len(next(loading)) == 1
    with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid unknown\) died .* reset by peer"):
        next(loading)
