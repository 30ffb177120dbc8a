"""The scripts over two real CPU processes: the same losses, weights and numbers as one process; SIGKILL and resume."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file
from scripts import ROOT, launch, log_lines

from pkdzoo.data import make_shapes
from pkdzoo.evaluation import METRICS
from pkdzoo.training import state

pytestmark = pytest.mark.slow

ONE_SIZE = ["data.short=64", "data.flip=0.5", "watch.log=1", "schedule.epochs=1"]
PKD = """
from dataclasses import replace
teach = Distill("retina_r10w16", {"pkd": {"sync": True}}, teacher_args={"num_classes": 6}, teacher_weights="random")
RECIPE = replace(RECIPE, distill=teach)
"""


@pytest.fixture(scope="module")
def even(tmp_path_factory):
    """16 training and 5 validation pictures of one size: two processes can share every training batch."""
    return make_shapes(tmp_path_factory.mktemp("even") / "data", train=16, val=5, size=(64, 96))


def sets(*assignments: str) -> list[str]:
    return [word for assignment in assignments for word in ("--set", assignment)]


@pytest.mark.parametrize("more", ["", PKD], ids=["supervised", "pkd"])
@pytest.mark.parametrize("model", ["retina_r10w16", "fcos_r10w16", "faster_rcnn_r10w16"])
def test_two_processes_learn_what_one_learns(model, more, recipe, even, tmp_path) -> None:
    recipe.write_text(recipe.read_text() + more)
    options = sets(*ONE_SIZE, f"model={model}")
    options += sets("model_args.sample=false") if "rcnn" in model else []
    options += sets("distill.methods.pkd.levels=3") if more else []
    for processes in (1, 2):
        words = ["--data", even, "--output", tmp_path / str(processes), "--threads", 1, *options]
        launch(ROOT / "recipes" / "train.py", recipe, *words, processes=processes)
    counts = [json.loads((tmp_path / n / "run.json").read_text())["processes"] for n in "12"]
    assert counts == [1, 2]
    one, two = (log_lines(tmp_path / n) for n in "12")
    assert len(one) == len(two) == 5
    for step in range(4):
        for key in one[0]:
            if key.startswith("loss") or key == "grad_norm":
                assert two[step][key] == pytest.approx(one[step][key], rel=1e-5 if step == 0 else 1e-3), (step, key)
    first, second = (load_file(tmp_path / n / "last" / "model.safetensors") for n in "12")
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, rtol=1e-3, atol=1e-4)


def test_evaluation_does_not_depend_on_the_number_of_processes(recipe, even, tmp_path) -> None:
    launch(ROOT / "recipes" / "train.py", recipe, "--data", even, "--output", tmp_path / "run", *sets(*ONE_SIZE))
    for processes in (1, 2):
        launch(ROOT / "recipes" / "evaluate.py", tmp_path / "run" / "last", "--data", even, "--output",
               tmp_path / f"{processes}.json", "--batch-size", 2, "--threads", 1, processes=processes)  # fmt: skip
    one, two = (json.loads((tmp_path / f"{n}.json").read_text()) for n in (1, 2))
    assert two["processes"] == 2
    for key in (*METRICS, "per_class"):
        assert one[key] == two[key], key


def test_two_processes_resume_to_the_last_bit(recipe, shapes, tmp_path) -> None:
    recipe.write_text(recipe.read_text() + PKD)
    words = [ROOT / "recipes" / "train.py", recipe, "--data", shapes, "--threads", 1,
             *sets("watch.save=1", "watch.log=3", "distill.methods.pkd.sync=false")]  # fmt: skip
    launch(*words, "--output", tmp_path / "whole", processes=2)
    launch(*words, "--output", tmp_path / "cut", *sets("schedule.max_steps=3"), processes=2)
    # max_steps ended that run in its first epoch; forget the end, as if it had been killed after step 3
    checkpoint = state.list_checkpoints(tmp_path / "cut")[0]
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    assert manifest["progress"]["step"] == 3
    for path in state.list_checkpoints(tmp_path / "cut"):
        content = json.loads((path / "manifest.json").read_text())
        content["progress"] |= {"epoch": 0, "step_in_epoch": 3, "done": False, "best": None, "stale": 0}
        if content["progress"]["step"] == 3:
            (path / "manifest.json").write_text(json.dumps(content))
    launch(*words, "--output", tmp_path / "cut", "--resume", processes=2)
    first, second = (load_file(tmp_path / n / "last" / "model.safetensors") for n in ("whole", "cut"))
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    assert log_lines(tmp_path / "whole") == log_lines(tmp_path / "cut")


def test_killed_again_and_again_it_ends_as_if_nothing_had_happened(recipe, shapes, tmp_path) -> None:
    """SIGKILL at random moments, also within a save: at least 20 of them."""
    recipe.write_text(recipe.read_text() + PKD)
    words = [ROOT / "recipes" / "train.py", recipe, "--data", shapes, "--threads", "1", "--cpu",
             *sets("watch.save=1", "watch.log=3", "schedule.epochs=60", "watch.evaluate=20"),
             *sets("data.workers=1")]  # fmt: skip
    launch(*words, "--output", tmp_path / "whole")
    rng, kills = random.Random(0), 0
    around = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    output, log = tmp_path / "cut", tmp_path / "cut" / "log.jsonl"
    while True:
        resume = ["--resume"] if (output / "recipe.json").exists() else []
        command = [sys.executable, *map(str, words), "--output", str(output), *resume]
        process = subprocess.Popen(command, env=around, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                   start_new_session=True, text=True)  # fmt: skip
        before, goal = time.monotonic(), _size(log)
        while process.poll() is None and (_size(log) <= goal and time.monotonic() - before < 120):
            time.sleep(0.005)  # until it trains: killed while it starts it would get nowhere
        time.sleep(rng.uniform(0, 0.4))
        if process.poll() is not None:
            assert process.returncode == 0, process.stderr.read()
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
    print(f"survived {kills} kills")
    assert kills >= 20
    first, second = (load_file(tmp_path / n / "last" / "model.safetensors") for n in ("whole", "cut"))
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    assert log_lines(tmp_path / "whole") == log_lines(output)


def _size(path) -> int:
    return path.stat().st_size if path.exists() else 0
