"""The scripts of recipes/, inside this process or launched like a user launches them."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file

from pkdzoo.evaluation import METRICS
from pkdzoo.training import checkpoint

ROOT = Path(__file__).parents[2]
# keys of a log line that depend on the clock
TIMING = ("seconds", "cpu_seconds", "images_per_s", "data_wait", "memory_gb")


def script(name: str) -> ModuleType:
    """recipes/NAME.py as a module."""
    spec = importlib.util.spec_from_file_location(f"recipe_script_{name}", ROOT / "recipes" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def launch(*argv: object, processes: int = 1, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
    """A script in processes of its own, by Accelerate's launcher."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(processes)]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += ["--multi_gpu"] if processes > 1 else []
    command += [str(word) for word in argv]
    around = {**os.environ, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", **env}
    done = subprocess.run(command, capture_output=True, text=True, env=around, timeout=600)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    return done


def log_lines(output: Path) -> list[dict[str, Any]]:
    """A run's log without what depends on the clock."""
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMING} for line in lines]


def assert_same_run(one: Path, other: Path) -> dict[str, Any]:
    """Weights, optimizer, log and numbers of two finished runs are equal to the last bit; returns the numbers."""
    first, second = checkpoint.find_checkpoint(one), checkpoint.find_checkpoint(other)
    assert first is not None and second is not None
    assert first[1] == second[1]
    (tensors, rest), (tensors2, rest2) = checkpoint.read_checkpoint(first[0]), checkpoint.read_checkpoint(second[0])
    assert tensors.keys() == tensors2.keys()
    for key, value in tensors.items():
        assert torch.equal(value, tensors2[key]), key
    assert rest.keys() == rest2.keys() and rest["scheduler"] == rest2["scheduler"]
    assert rest["optimizer"]["param_groups"] == rest2["optimizer"]["param_groups"]
    for number, entry in rest["optimizer"]["state"].items():
        for key, value in entry.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(rest2["optimizer"]["state"][number][key]))
    assert log_lines(one) == log_lines(other)
    metrics, metrics2 = (json.loads((run / "metrics.json").read_text()) for run in (one, other))
    for key in (*METRICS, "per_class"):
        assert metrics[key] == metrics2[key]
    for folder in ("last", "best"):
        student, student2 = (load_file(run / folder / "model.safetensors") for run in (one, other))
        assert all(torch.equal(value, student2[key]) for key, value in student.items()), folder
    return dict(metrics)
