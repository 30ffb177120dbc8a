"""The training script on a GPU: half precision, resume, loaders with workers, memory, NCCL."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from helpers.processes import happening
from helpers.scripts import ROOT, log_lines, script

SMALL = {
    "schedule.epochs": 2,
    "logging.eval_every": 2,
    "logging.log_every": 5,
    "data.workers": 2,
    "data.generate": '{"train": 64, "val": 16, "size": [128, 160]}',
}


def words(output: Path, device: torch.device, precision: str = "no", **changes: Any) -> list[str]:
    """A command line for the training script: the demo's distilled student, shortened."""
    settings = [word for key, value in {**SMALL, **changes}.items() for word in ("--set", f"{key}={value}")]
    place = ["--cpu", "--threads", "1"] if device.type == "cpu" else []
    recipe = ROOT / "recipes" / "demo.py"
    line = [recipe, "--only", "distilled", "--output", output, "--mixed-precision", precision, *settings, *place]
    return [str(word) for word in line]


def train(line: list[str]) -> None:
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    with suppress(SystemExit):  # a stopped run exits with a status of its own
        script("train").main(line)


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_a_stopped_run_goes_on(precision: str, device: torch.device, record: Callable[..., None], tmp_path) -> None:
    if precision == "fp16" and device.type == "cpu":
        pytest.skip("Accelerate scales fp16 gradients on GPUs only")
    train(words(tmp_path / "whole", device, precision))
    with happening(9, lambda: os.kill(os.getpid(), signal.SIGTERM)):
        train(words(tmp_path / "parts", device, precision))
    stopped = [line["step"] for line in log_lines(tmp_path / "parts")]
    assert max(stopped) < 16
    train([*words(tmp_path / "parts", device, precision), "--resume"])
    whole, parts = ([line for line in log_lines(tmp_path / run) if "loss" in line] for run in ("whole", "parts"))
    assert [line["step"] for line in whole] == [line["step"] for line in parts]
    difference = max(abs(a["loss"] - b["loss"]) / a["loss"] for a, b in zip(whole, parts, strict=True))
    record(precision=precision, difference=difference)
    assert difference < (0.05 if device.type == "cuda" else 1e-6)  # sums on a GPU have no fixed order


def test_workers_keep_the_device_busy(device: torch.device, record: Callable[..., None], tmp_path) -> None:
    on_cpu = device.type == "cpu"
    images = '{"train": 512, "val": 16, "size": [480, 640]}'
    change = {"data.generate": images, "data.short": 480, "data.long": 640, "schedule.epochs": 1}
    change |= {"data.workers": 1 if on_cpu else 8, "logging.log_every": 1 if on_cpu else 16}
    change |= {"schedule.max_steps": 2} if on_cpu else {}
    train(words(tmp_path / "run", device, "bf16", **change))
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "data_wait" in line]
    assert steps
    last = steps[-1]
    record(images_per_s=last["images_per_s"], waiting_share=last["data_wait"], memory_gb=last["memory_gb"])
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["step"] == (2 if on_cpu else 64)


def test_one_process_of_a_group_trains(device: torch.device, record: Callable[..., None], tmp_path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "1", "--master_port", "29633"]
    command += [str(ROOT / "recipes" / "train.py"), *words(tmp_path / "run", device, "bf16")]
    around = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))}
    if device.type == "cpu":
        around["ACCELERATE_USE_CPU"] = "true"
    done = subprocess.run(command, env=around, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["processes"] == 1 and metrics["step"] == 16
    record(AP=metrics["AP"])
