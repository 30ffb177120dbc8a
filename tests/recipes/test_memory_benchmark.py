"""The measurement of a step's memory, through the door of a user, in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys

from helpers.scripts import ROOT


def test_a_step_is_estimated_and_measured() -> None:
    words = (
        "--student retina_r10w16 --teacher retina_r10w16 --height 256 --width 320 --images 4 --checkpoint-activations"
    )
    command = [sys.executable, "-m", "recipes.benchmarks.memory", *words.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    estimated, measured, before = map(float, re.findall(r"([\d.]+) GB", done.stdout))
    assert before <= measured and 0.8 * measured < estimated < 1.25 * measured
    assert {"loss_cls", "loss_box", "loss_pkd"} == set(re.findall(r"loss_\w+", done.stdout))
