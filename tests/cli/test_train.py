"""``pkdzoo train`` is recipes/train.py: the same options, the same loop, the same sentences."""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
from pathlib import Path

import pytest
from helpers.commands import fails, run
from helpers.processes import happening
from helpers.scripts import assert_same_run, launch, script

from pkdzoo.cli import VERBS, build_parser
from pkdzoo.training.arguments import add_train_arguments, parse_train_arguments

RECIPE = """
from pkdzoo.training import Data, Optim, Recipe, Schedule, Logging

RECIPE = Recipe(
    "tiny",
    "retina_r10w16",
    data=Data(short=64, long=96, batch_size=2, workers=0, min_image_size=0),
    optim=Optim(base_batch_size=2),
    schedule=Schedule(epochs=1, max_steps=2, warmup=None),
    logging=Logging(log_every=1),
)
"""
MACHINE = ("--cpu", "--threads", 1)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.py"
    path.write_text(RECIPE)
    return path


def options(parser: argparse.ArgumentParser) -> dict[str, object]:
    return {action.dest: action.default for action in parser._actions if action.dest != "help"}


def test_the_options_are_those_of_the_script() -> None:
    own, verb = argparse.ArgumentParser(), argparse.ArgumentParser()
    add_train_arguments(own)
    VERBS["train"].arguments(verb)  # type: ignore[union-attr]
    assert options(own) == options(verb)
    words = ["mine.py", "--data", "d", "--set", "optim.lr=1", "--threads", "2", "--tracker", "tensorboard"]
    parsed = vars(build_parser().parse_args(["train", *words]))
    assert {key: parsed[key] for key in vars(parse_train_arguments(words))} == vars(parse_train_arguments(words))


def test_the_run_is_that_of_the_script(capsys, recipe, shapes, tmp_path) -> None:
    code, out, err = run(capsys, "train", recipe, "--data", shapes, "--output", tmp_path / "verb", *MACHINE)
    assert code == 0, err
    assert "student   retina_r10w16" in out
    script("train").main([str(w) for w in (recipe, "--data", shapes, "--output", tmp_path / "script", *MACHINE)])
    assert_same_run(tmp_path / "verb", tmp_path / "script")


def test_a_teacher_that_is_not_there_cannot_be_checked(capsys, recipe, shapes, tmp_path) -> None:
    words = ("--data", shapes, "--output", tmp_path / "run", "--check-teacher", 3, *MACHINE)
    assert "--check-teacher: no teacher in" in fails(capsys, "train", recipe, *words)
    assert not (tmp_path / "run").exists()


def test_json_is_all_that_stdout_has(capsys, recipe, shapes, tmp_path) -> None:
    code, out, _ = run(capsys, "train", recipe, "--data", shapes, "--output", tmp_path / "a", "--json", *MACHINE)
    (row,) = json.loads(out)
    assert code == 0 and row["name"] == "tiny" and row["output"] == str(tmp_path / "a")
    assert row["metrics"]["AP50"] == json.loads((tmp_path / "a" / "metrics.json").read_text())["AP50"]


def test_what_the_script_refuses_gets_the_same_sentence(capsys, recipe, shapes, tmp_path, monkeypatch) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    for words in (
        ["retina_r50_pkd_swim"],
        [recipe],
        [recipe, "--data", tmp_path / "nowhere"],
        [recipe, "--data", shapes, "--set", "optim.lrate=1"],
        [recipe, "--data", shapes, "--output", tmp_path / "full"],
        [recipe, "--data", shapes, "--set", "optim.lr=1e30", "--set", "schedule.max_steps=none"],
    ):
        monkeypatch.chdir(tempfile.mkdtemp(dir=tmp_path))
        with pytest.raises(SystemExit) as ended:
            script("train").main([str(word) for word in (*words, *MACHINE)])
        expected = " ".join(str(ended.value.code).removeprefix("error: ").split())
        monkeypatch.chdir(tempfile.mkdtemp(dir=tmp_path))
        code, _, err = run(capsys, "train", *words, *MACHINE)
        assert code == 1 and err.splitlines()[-1] == f"pkdzoo: {expected}"


@pytest.mark.slow
def test_a_stopped_run_ends_with_the_code_of_its_signal(capsys, recipe, shapes, tmp_path) -> None:
    words = ["train", recipe, "--data", shapes, "--output", tmp_path / "run", *MACHINE]
    words += ["--set", "schedule.max_steps=3", "--set", "schedule.epochs=2"]
    with happening(1, lambda: os.kill(os.getpid(), signal.SIGTERM)):
        code, out, _ = run(capsys, *words)
    assert code == 128 + signal.SIGTERM and "stopped on request at step 2 of 3; continue with --resume" in out
    code, out, _ = run(capsys, *words, "--resume")
    assert code == 0 and "resumed from" in out


def test_no_recipe_is_a_mistake_of_usage(capsys) -> None:
    code, _, err = run(capsys, "train")
    assert code == 2 and "required: recipe" in err
    assert "no recipe 'x'" in fails(capsys, "train", "x")


@pytest.mark.slow
def test_two_processes_through_the_launcher(recipe, shapes, tmp_path) -> None:
    words = ("-m", "pkdzoo", "train", recipe, "--data", shapes, "--output", tmp_path / "run", "--threads", 1)
    done = launch(*words, processes=2)
    assert "batch     2 = processes 2 x passes 1 x images 1" in done.stdout
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["processes"] == 2
