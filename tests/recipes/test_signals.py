"""A signal to the launcher, or to everything at once as SLURM does, ends in a checkpoint that the run goes on from."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.scripts import ROOT, log_lines

from pkdzoo.training import checkpoint

pytestmark = pytest.mark.slow

SCRIPT = ROOT / "recipes" / "train.py"
ACCELERATE = ["-m", "accelerate.commands.launch", "--num_machines", "1", "--mixed_precision", "no",
              "--dynamo_backend", "no", "--num_processes"]  # fmt: skip
LAUNCHERS = {
    "python": [],
    "accelerate, one process": [*ACCELERATE, "1"],
    "accelerate, two processes": [*ACCELERATE, "2", "--multi_gpu"],
    "torchrun, two processes": ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29617"],
}


def family(process: int) -> list[int]:
    """A process and all that it started, directly or not."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    return [process, *(name for child in children.get(process, []) for name in family(child))]


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def start(command: list[object], output: Path, **env: str) -> tuple[subprocess.Popen[str], list[int]]:
    """A process that trains for ever, once it does, and its family."""
    around = {**os.environ, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", **env}
    process = subprocess.Popen(list(map(str, command)), env=around, cwd=ROOT, text=True, start_new_session=True,
                               stdout=(output.parent / "out").open("w"), stderr=subprocess.STDOUT)  # fmt: skip
    log, late = output / "log.jsonl", time.monotonic() + 120
    while not log.is_file() or not log.stat().st_size:
        assert process.poll() is None and time.monotonic() < late, (output.parent / "out").read_text()
        time.sleep(0.05)
    return process, family(process.pid)


def wait_for_the_end(process: subprocess.Popen[str], members: list[int]) -> int:
    code, late = process.wait(60), time.monotonic() + 60
    while any(map(alive, members)):
        assert time.monotonic() < late, "the launcher has ended and its children go on"
        time.sleep(0.1)
    return code


def words(recipe: Path, shapes: Path, output: Path) -> list[object]:
    return [recipe, "--data", shapes, "--output", output, "--threads", 1,
            *("--set", "schedule.epochs=9999", "--set", "logging.eval_every=9999",
            "--set", "logging.log_every=1")]  # fmt: skip


@pytest.mark.parametrize(("launcher", "whom"), [
    ("python", "launcher"),
    ("accelerate, one process", "launcher"),
    ("accelerate, one process", "everyone twice"),
    ("accelerate, two processes", "launcher"),
    ("torchrun, two processes", "everyone twice"),
])  # fmt: skip
def test_sigterm_ends_in_a_checkpoint(launcher, whom, recipe, shapes, tmp_path) -> None:
    output = tmp_path / "run"
    command = [sys.executable, *LAUNCHERS[launcher], SCRIPT, *words(recipe, shapes, output)]
    process, members = start(command, output)
    for process_id in members[:1] if whom == "launcher" else members * 2:
        if alive(process_id):
            os.kill(process_id, signal.SIGTERM)
        time.sleep(0.05)
    code = wait_for_the_end(process, members)
    if launcher == "python":
        assert code == 128 + signal.SIGTERM  # a launcher reports the signal, with its own code
    found = checkpoint.find_checkpoint(output)
    assert found is not None and "stopped on request" in (tmp_path / "out").read_text()
    assert found[1].step == log_lines(output)[-1]["step"]


def test_the_slurm_script_trains_on_two_machines_and_goes_on(recipe, shapes, tmp_path) -> None:
    """With stand-ins for srun and scontrol: two agents of one CPU process, each given its own machine's number."""
    tools, output = tmp_path / "bin", tmp_path / "run"
    tools.mkdir()
    for name, text in {
        "srun": 'for node in 0 1; do SLURM_NODEID=$node "$@" & done; wait',
        "scontrol": "echo localhost; echo localhost",
        "torchrun": f'exec {sys.executable} -m torch.distributed.run "$@"',
    }.items():
        (tools / name).write_text(f"#!/bin/bash\n{text}\n")
        (tools / name).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "a,b", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "1", "SLURM_JOB_ID": "7"}
    slurm |= {"PATH": f"{tools}:{os.environ['PATH']}", "PORT": "29619"}
    command = ["bash", "recipes/train.sbatch", *words(recipe, shapes, output)]
    process, members = start(command, output, **slurm)
    assert json.loads((output / "run.json").read_text())["processes"] == 2
    for process_id in members:  # what --signal=TERM@120 does; the shell that sbatch runs is not in the step
        if process_id != process.pid and alive(process_id) and b"srun" not in cmdline(process_id):
            os.kill(process_id, signal.SIGTERM)
    wait_for_the_end(process, members)
    stopped = checkpoint.find_checkpoint(output)
    assert stopped is not None and not stopped[1].done
    more = ["--set", f"schedule.max_steps={stopped[1].step + 2}"]
    process, members = start([*command, *more], output, **slurm)
    wait_for_the_end(process, members)
    found = checkpoint.find_checkpoint(output)
    assert found is not None and found[1].done and found[1].step == stopped[1].step + 2


def cmdline(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""
