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

from pkdzoo.training.monitor import TIMING

ROOT = Path(__file__).parent.parent


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
