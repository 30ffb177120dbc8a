"""What happens to runs that people leave alone: they are killed, the disk is full, a loader process dies."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.processes import Run
from helpers.scripts import ROOT, assert_same_run

pytestmark = pytest.mark.slow

PKD = """
from dataclasses import replace
RECIPE = replace(RECIPE, distill=Distill("retina_r10w16", teacher_args={"num_classes": 6}, teacher_weights="random"))
"""


def words(recipe: Path, data: Path, output: Path, *assignments: str) -> list[object]:
    sets = [word for assignment in assignments for word in ("--set", assignment)]
    return [recipe, "--data", data, "--output", output, "--cpu", "--threads", 1, *sets]


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@pytest.mark.parametrize(("processes", "kills"), [(1, 12), (2, 6)])
def test_killed_again_and_again_it_ends_as_if_nothing_had_happened(processes, kills, recipe, shapes, tmp_path) -> None:
    """SIGKILL to all processes at random moments, every second one while a checkpoint is being written."""
    recipe.write_text(recipe.read_text() + PKD)
    output, log = tmp_path / "cut", tmp_path / "cut" / "log.jsonl"
    epochs = 2 * kills
    how = [
        "logging.save_every=1",
        "logging.log_every=2",
        f"schedule.epochs={epochs}",
        "logging.eval_every=6",
        "data.workers=1",
    ]
    rng, done, within = random.Random(0), 0, 0
    while done < kills:
        run = Run(
            "train", *words(recipe, shapes, output, *how), "--resume", said=tmp_path / "said", processes=processes
        )
        late, before = time.monotonic() + 120, size(log)
        while run.alive and size(log) <= before and time.monotonic() < late:
            time.sleep(0.002)  # until it trains: killed while it starts it would get nowhere
        if done % 2:
            while run.alive and not any((output / "checkpoints").glob(".building_*")) and time.monotonic() < late:
                pass
            time.sleep(rng.uniform(0, 0.01))
        else:
            time.sleep(rng.uniform(0, 0.2))
        assert run.alive, f"it ended after {done} kills\n{run.text()}"
        run.kill()
        done += 1
        within += any((output / "checkpoints").glob(".*"))
    for place, more in ((output, ["--resume"]), (tmp_path / "whole", [])):
        Run("train", *words(recipe, shapes, place, *how), *more, said=tmp_path / "said", processes=processes).finish()
    print(f"{processes} processes survived {done} kills, {within} of them within a save")
    assert within >= kills // 4
    assert_same_run(tmp_path / "whole", output)


def children(process: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for the loader's processes in /proc")
def test_a_loader_process_that_dies_ends_the_run_with_a_sentence(recipe, shapes, tmp_path) -> None:
    how = [
        "data.workers=1",
        "logging.save_every=2",
        "schedule.epochs=100",
        "logging.eval_every=100",
        "schedule.max_steps=60",
    ]
    run = Run("train", *words(recipe, shapes, tmp_path / "cut", *how, "logging.log_every=1"), said=tmp_path / "said")
    while run.alive and size(tmp_path / "cut" / "log.jsonl") < 1000:
        time.sleep(0.005)
    workers = children(run.processes[0].pid)
    assert len(workers) == 1
    os.kill(workers[0], signal.SIGKILL)
    assert run.wait() == [1]
    assert "error: DataLoader worker (pid" in run.text() and "--resume" in run.text() and "Traceback" not in run.text()
    for place, more in (("cut", ["--resume"]), ("whole", [])):
        argv = words(recipe, shapes, tmp_path / place, *how, "logging.log_every=1")
        Run("train", *argv, *more, said=tmp_path / "said").finish()
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def private_disks() -> bool:
    """Whether a file system can be mounted that only its own processes see; nobody has to be root for it."""
    if not shutil.which("unshare"):
        return False
    return subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "t", "/mnt"], capture_output=True).returncode == 0


@pytest.mark.skipif(not private_disks(), reason="this system lets nobody mount a disk of their own")
def test_a_disk_that_is_really_full(recipe, shapes, tmp_path) -> None:
    """40 MB hold what a run keeps; with 24 MB in the way its third checkpoint does not fit."""
    disk = tmp_path / "disk"
    disk.mkdir()
    how = ["logging.save_every=1", "schedule.epochs=1"]
    Run("train", *words(recipe, shapes, tmp_path / "whole", *how), said=tmp_path / "said").finish()
    train = " ".join(
        map(str, [sys.executable, ROOT / "recipes" / "train.py", *words(recipe, shapes, disk / "run", *how)])
    )
    script = f"""
        mount -t tmpfs -o size=40m full {disk} && head -c 24M /dev/zero > {disk}/other
        {train}; echo "ended with $?"; ls -A {disk}/run/checkpoints
        rm {disk}/other && {train} --resume && cp -r {disk}/run {tmp_path}/cut
    """
    around = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, env=around, timeout=300
    )
    said = done.stdout + done.stderr
    assert "error: " in said and "the checkpoint of step 3 could not be written: No space left on device" in said, said
    assert "ended with 1\nstep_00000001\nstep_00000002\n" in said and "Traceback" not in said
    assert done.returncode == 0 and "resumed from" in said, said
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
