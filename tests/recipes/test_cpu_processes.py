"""``--cpu-processes N``: one command trains on several CPU processes, as one process does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.commands import fails
from helpers.scripts import ROOT, log_lines

from pkdzoo.data import make_shapes
from pkdzoo.training import checkpoint, cpu_processes
from pkdzoo.training.arguments import TrainArguments
from pkdzoo.training.command import TrainingFailed, train_command

SCRIPT = [sys.executable, str(ROOT / "recipes" / "train.py")]
PROGRAM = [sys.executable, "-m", "pkdzoo", "train"]


def environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key not in cpu_processes.LAUNCHERS} | {
        "PYTHONPATH": str(ROOT)
    }


def run(*command: object) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    return subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=300)


def sets(*assignments: str) -> list[str]:
    return [word for each in assignments for word in ("--set", each)]


@pytest.mark.parametrize("launcher", ["LOCAL_RANK", "ACCELERATE_MIXED_PRECISION"])
def test_inside_another_launcher_it_is_refused(launcher, capsys, recipe, shapes, monkeypatch) -> None:
    monkeypatch.setenv(launcher, "0")
    said = fails(capsys, "train", recipe, "--data", shapes, "--cpu", "--cpu-processes", 2)
    assert f"another launcher already ({launcher} is set)" in said


def test_a_gpu_and_batches_that_cannot_be_shared_are_refused(
    capsys, recipe, shapes, tmp_path, train, monkeypatch
) -> None:
    for name in cpu_processes.LAUNCHERS:
        monkeypatch.delenv(name, raising=False)
    words = (recipe, "--data", shapes, "--output", tmp_path / "run")
    with pytest.raises(SystemExit) as ended:
        train(*words, "--cpu-processes", 3)
    assert "a batch of 4 cannot be divided by 3 processes" in str(ended.value.code)
    monkeypatch.setattr(cpu_processes, "open_processes", lambda cpu: type("State", (), {"device": Device()}))
    assert "write --cpu too" in fails(capsys, "train", *words, "--cpu-processes", 2)
    assert not (tmp_path / "run").exists()


class Device:
    type = "cuda"


def test_from_python_it_is_refused_instead_of_ignored(recipe, shapes, tmp_path) -> None:
    args = TrainArguments(recipe, data=shapes, output=tmp_path / "run", cpu=True, cpu_processes=2)
    with pytest.raises(TrainingFailed, match="train from the command line"):
        train_command(args)
    assert not (tmp_path / "run").exists()


def test_one_process_that_fails_ends_the_others_with_its_code() -> None:
    """The processes see their rank; one that ends by a signal counts as shells count it."""
    words = "import os, sys, time; rank = int(os.environ['RANK'])\nif rank: {}\ntime.sleep(0.2)"
    for end, code in (("sys.exit(7)", 7), ("os.kill(os.getpid(), 9)", 137), ("pass", 0)):
        assert cpu_processes.run_processes([sys.executable, "-c", words.format(end)], 2) == code


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(recipe, tmp_path) -> None:
    data = make_shapes(tmp_path / "data", train=16, val=5, size=(64, 96))
    words = (recipe, "--data", data, *sets("data.short=64", "logging.log_every=1", "schedule.epochs=1"), "--output")
    one = run(*SCRIPT, *words, tmp_path / "one", "--cpu", "--threads", 1)
    assert one.returncode == 0, one.stderr
    for name, program in (("two", SCRIPT), ("verb", PROGRAM)):
        two = run(*program, *words, tmp_path / name, "--cpu", "--cpu-processes", 2)
        assert two.returncode == 0, two.stderr
        about = json.loads((tmp_path / name / "run.json").read_text())
        assert (about["processes"], about["threads"]) == (2, 1) and "cpu-processes 2" in about["command"]
        assert two.stdout.count("weights and metrics") == 1
        first, second = log_lines(tmp_path / "one"), log_lines(tmp_path / name)
        assert len(first) == len(second) == 5
        for step, (expected, found) in enumerate(zip(first[:4], second[:4], strict=True)):
            for key in expected:
                if key.startswith("loss") or key == "grad_norm":
                    assert found[key] == pytest.approx(expected[key], rel=1e-5 if step == 0 else 1e-3), (step, key)
    assert log_lines(tmp_path / "two") == log_lines(tmp_path / "verb")


@pytest.mark.slow
def test_pkdzoo_distill_trains_everything_on_two_processes(tmp_path) -> None:
    data, folder = make_shapes(tmp_path / "data", train=8, val=4, size=(64, 96)), tmp_path / "a" / "b"
    done = run(
        *(sys.executable, "-m", "pkdzoo", "distill", "--json", "--data", data, "--student", "retina_r10w16"),
        *("--teacher", "fcos_r10w16", "--init", "none", "--output", folder, "--cpu", "--cpu-processes", 2),
        *sets("schedule.max_steps=1", "data.batch_size=2", "data.short=64", "data.long=96"),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["output"] == str(folder)
    assert done.stderr.count("batch     2 = processes 2 x passes 1 x images 1") == 2  # the teacher's and the student's
    assert json.loads((folder / "distilled" / "run.json").read_text())["processes"] == 2


@pytest.mark.slow
@pytest.mark.parametrize(("number", "whom"), [(signal.SIGTERM, "the command"), (signal.SIGINT, "everyone")])
def test_a_stop_signal_saves_and_ends_and_the_run_goes_on(number, whom, recipe, shapes, tmp_path) -> None:
    output, said = tmp_path / "run", tmp_path / "said"
    words = [recipe, "--data", shapes, "--output", output, "--cpu", "--cpu-processes", 2]
    long = sets("schedule.epochs=999", "logging.eval_every=999", "logging.log_every=1")
    process = subprocess.Popen([*SCRIPT, *map(str, [*words, *long])], env=environment(), start_new_session=True,
                               stdout=said.open("w"), stderr=subprocess.STDOUT)  # fmt: skip
    wait_for_steps(output / "log.jsonl", process, said)
    os.killpg(process.pid, number) if whom == "everyone" else process.send_signal(number)
    assert process.wait(60) == 128 + number, said.read_text()
    found = checkpoint.find_checkpoint(output)
    assert found is not None and found[1].step == log_lines(output)[-1]["step"] > 0
    assert "stopped on request" in said.read_text() and "Traceback" not in said.read_text()
    more = sets(f"schedule.max_steps={found[1].step + 1}", "schedule.epochs=999", "logging.eval_every=999")
    again = run(*SCRIPT, *words, *more, *sets("logging.log_every=1"), "--resume")
    assert again.returncode == 0 and f"step {found[1].step}" in again.stdout, again.stderr


@pytest.mark.slow
def test_the_processes_end_when_the_command_is_killed(recipe, shapes, tmp_path) -> None:
    output, said = tmp_path / "run", tmp_path / "said"
    words = [recipe, "--data", shapes, "--output", output, "--cpu", "--cpu-processes", 2, *sets("schedule.epochs=999")]
    process = subprocess.Popen([*SCRIPT, *map(str, words), *sets("logging.log_every=1", "logging.eval_every=999")],
                               env=environment(), stdout=said.open("w"), stderr=subprocess.STDOUT)  # fmt: skip
    wait_for_steps(output / "log.jsonl", process, said)
    process.kill()
    late = time.monotonic() + 60
    while "stopped on request" not in said.read_text():
        assert time.monotonic() < late, said.read_text()
        time.sleep(0.1)
    assert checkpoint.find_checkpoint(output) is not None


def wait_for_steps(log: Path, process: subprocess.Popen[bytes], said: Path) -> None:
    late = time.monotonic() + 120
    while not log.is_file() or log.stat().st_size < 500:
        assert process.poll() is None and time.monotonic() < late, said.read_text()
        time.sleep(0.05)
