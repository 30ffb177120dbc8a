"""What ``--resume`` applies, what it refuses, and that it deletes nothing that is not its own."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from helpers.processes import Run
from helpers.scripts import log_lines

from pkdzoo.training import checkpoint

TAUGHT = """
from dataclasses import replace
RECIPE = replace(RECIPE, distill=Distill("local-dir:{}", {{"pkd": {{}}}}))
"""


@pytest.fixture(scope="module")
def half(shapes, recipe_text, tmp_path_factory) -> Path:
    """A run of the tiny recipe that has trained one of two epochs: four of eight steps."""
    folder = tmp_path_factory.mktemp("half")
    (folder / "tiny.py").write_text(recipe_text)
    words = [folder / "tiny.py", "--data", shapes, "--output", folder / "run", "--cpu", "--threads", 1]
    Run("train", *words, "--set", "schedule.epochs=1", said=folder / "said").finish()
    return folder / "run"


@pytest.fixture
def go_on(half, shapes, recipe, train, tmp_path):
    """Resume a copy of ``half``; returns its folder."""
    run = Path(shutil.copytree(half, tmp_path / "run"))

    def call(*argv: object, data: Path = shapes) -> Path:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            train(recipe, "--data", data, "--output", run, "--resume", *argv)
        (tmp_path / "warned").write_text("\n".join(str(each.message) for each in caught))
        return run

    return call


def refusal(go_on, *argv: object, **more: object) -> str:
    with pytest.raises(SystemExit) as ended:
        go_on(*argv, **more)
    assert isinstance(ended.value.code, str)
    return ended.value.code


def sets(*assignments: str) -> list[str]:
    return [word for each in assignments for word in ("--set", each)]


# -- settings that apply ---------------------------------------------------------------------------------------------


def test_rate_decay_momentum_and_schedule_apply_from_the_next_step(go_on, tmp_path) -> None:
    run = go_on(*sets("optim.lr=0.004", "optim.weight_decay=0.5", "optim.momentum=0.5", "schedule.gamma=0.5"),
                *sets("logging.log_every=1"))  # fmt: skip
    rates = [line["lr"] for line in log_lines(run) if "lr" in line]
    assert rates[:1] == [0.01] and rates[1:] == [0.002] * 4  # after the milestone; the first line is of before
    newest = checkpoint.find_checkpoint(run)
    assert newest is not None
    (group,) = checkpoint.read_checkpoint(newest[0])[1]["optimizer"]["param_groups"]
    assert (group["lr"], group["weight_decay"], group["momentum"]) == (0.002, 0.5, 0.5)
    assert "optim.lr: 0.01 -> 0.004" in (tmp_path / "warned").read_text()
    changes = json.loads((run / "run.json").read_text())["changes"]
    assert "step 4: optim.lr: 0.01 -> 0.004" in changes and len(changes) == 6


def test_a_resumed_rate_of_nothing_leaves_the_weights(half, go_on) -> None:
    before = checkpoint.find_checkpoint(half)
    run = go_on(*sets("optim.lr=1e-30"))
    after = checkpoint.find_checkpoint(run)
    assert before is not None and after is not None and after[1].step == 8
    old, new = (checkpoint.read_checkpoint(found[0])[0] for found in (before, after))
    trained = [key for key in old if key.endswith("weight")]
    assert all(torch.equal(old[key], new[key]) for key in trained)


# -- settings that are refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("data.batch_size=2", "the steps so far and the schedule count batches of the first size"),
        ("optim.kind=adamw", "the checkpoint holds the state of the first optimizer"),
        ("optim.ema=0.9", "an average has to begin with the run"),
        ("seed=3", "it decides the order of the images"),
        ("init=imagenet", "the weights come from the checkpoint"),
        ("logging.best=AP50", "the best value so far is of the first metric"),
        ("data.min_image_size=70", "the training images would be others"),
    ],
)
def test_what_cannot_change_is_refused_with_the_reason(go_on, tmp_path, change, reason) -> None:
    said = refusal(go_on, *sets(change))
    assert change.partition("=")[0] in said and reason in said and "another --output" in said
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["schedule"]["epochs"] == 1  # nothing was written


# -- the data --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("split", "field", "said"),
    [
        ("train", "bbox", "the train images or their boxes"),
        ("val", "bbox", "the val images or their boxes"),
        ("val", "area", "areas, crowd regions or objects marked 'ignore' of the val images"),
        ("train", "name", "the classes (square, circle"),
    ],
)
def test_data_that_changed_is_refused(go_on, shapes, tmp_path, split, field, said) -> None:
    data = Path(shutil.copytree(shapes, tmp_path / "data"))
    for each in (split,) if field != "name" else ("train", "val"):
        path = data / "annotations" / f"instances_{each}2017.json"
        content = json.loads(path.read_text())
        if field == "bbox":
            content["annotations"][0]["bbox"][0] += 1
        elif field == "area":
            content["annotations"][0]["area"] *= 2
        else:
            one, other = content["categories"][:2]
            one["name"], other["name"] = other["name"], one["name"]
        path.write_text(json.dumps(content))
    message = refusal(go_on, data=data)
    assert "the data changed since" in message and (said in message or "the classes" in message)


def test_runs_of_earlier_versions_are_continued(go_on, tmp_path) -> None:
    file = tmp_path / "run" / "run.json"
    content = json.loads(file.read_text())
    assert set(content["data"]) == {"classes", "train_sha256", "val_sha256", "val_truth_sha256"}
    del content["data"]["val_truth_sha256"]
    file.write_text(json.dumps(content))
    (manifest,) = (tmp_path / "run" / "checkpoints").glob("*/manifest.json")
    content = json.loads(manifest.read_text())
    content = {"progress": {**content["progress"], "batch": 4}, "sha256": content["sha256"]}  # had no hash of its own
    manifest.write_text(json.dumps(content))
    go_on(*sets("schedule.max_steps=5"))
    assert "val_truth_sha256" in json.loads(file.read_text())["data"]  # from now on it is compared


def test_another_precision_or_process_count_is_said(go_on, tmp_path) -> None:
    file = tmp_path / "run" / "run.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "processes": 2}))
    go_on("--mixed-precision", "bf16", *sets("schedule.max_steps=5"))
    warned = (tmp_path / "warned").read_text()
    assert "--mixed-precision changed from no to bf16: losses differ in their last digits from now on" in warned
    assert "the number of processes changed from 2 to 1: if the run stopped within an epoch" in warned
    assert json.loads(file.read_text())["precision"] == "bf16"


def test_another_accumulation_is_said(go_on, tmp_path) -> None:
    go_on(*sets("optim.accumulate=2", "schedule.max_steps=5"))
    assert "optim.accumulate changed: if the run stopped within an epoch" in (tmp_path / "warned").read_text()


def test_more_steps_go_on_within_the_epoch_that_was_cut_short(train, recipe, shapes, tmp_path) -> None:
    for name, *steps in (("whole",), ("parts", "2"), ("parts", "7"), ("parts",)):
        resume = ["--resume"] if (tmp_path / name).exists() else []
        limit = sets(*(f"schedule.max_steps={step}" for step in steps))
        with pytest.warns(UserWarning, match=r"schedule\.max_steps") if resume else nullcontext():
            train(recipe, "--data", shapes, "--output", tmp_path / name, *resume, *limit)
    whole, parts = (checkpoint.find_checkpoint(tmp_path / name) for name in ("whole", "parts"))
    assert (whole[1].epoch, whole[1].step) == (parts[1].epoch, parts[1].step) == (2, 8)
    tensors, others = (checkpoint.read_checkpoint(found[0])[0] for found in (whole, parts))
    assert all(torch.equal(value, others[key]) for key, value in tensors.items())
    evaluated = {name: [x["step"] for x in log_lines(tmp_path / name) if "AP" in x] for name in ("whole", "parts")}
    assert evaluated == {"whole": [4, 8], "parts": [2, 4, 7, 8]}  # those of a cut epoch stay, as nothing repeats them
    train(recipe, "--data", shapes, "--output", tmp_path / "cut", *sets("schedule.max_steps=2"))
    before = log_lines(tmp_path / "cut")
    train(recipe, "--data", shapes, "--output", tmp_path / "cut", "--resume", *sets("schedule.max_steps=2"))
    assert log_lines(tmp_path / "cut") == before  # nothing is left to train


def test_a_schedule_that_is_shorter_than_the_steps_so_far(go_on, tmp_path, capsys) -> None:
    run = go_on(*sets("schedule.max_steps=2"))
    said = capsys.readouterr().out
    assert "which has 4 steps; the schedule ends after 2: nothing is left to train. Raise schedule.epochs or" in said
    found = checkpoint.find_checkpoint(run)
    assert "4 of 2" not in said and found is not None and found[1].step == 4


def test_the_same_data_elsewhere_is_the_same(go_on, shapes, tmp_path) -> None:
    run = go_on(data=Path(shutil.copytree(shapes, tmp_path / "moved")))
    assert checkpoint.find_checkpoint(run)[1].step == 8  # type: ignore[index]


def test_a_teacher_with_another_config_is_refused(half, train, recipe, shapes, tmp_path) -> None:
    teacher = Path(shutil.copytree(half / "last", tmp_path / "teacher"))
    recipe.write_text(recipe.read_text() + TAUGHT.format(teacher))
    words = [recipe, "--data", shapes, "--output", tmp_path / "taught", *sets("schedule.max_steps=1")]
    train(*words)
    config = json.loads((teacher / "config.json").read_text())
    config["pkdzoo_cfg"]["pixel_mean"] = [0.0, 0.0, 0.0]
    (teacher / "config.json").write_text(json.dumps(config))
    with pytest.raises(SystemExit) as ended:
        train(*words, "--resume")
    assert "teacher a config.json of sha256" in str(ended.value.code)


# -- checkpoints -----------------------------------------------------------------------------------------------------


def test_a_run_without_its_checkpoints_does_not_start_again(go_on, tmp_path) -> None:
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    log = (tmp_path / "run" / "log.jsonl").read_text()
    assert "no usable checkpoint" in refusal(go_on)
    assert (tmp_path / "run" / "log.jsonl").read_text() == log


def test_a_run_that_was_stopped_before_its_first_checkpoint_keeps_its_log(go_on, tmp_path, capsys) -> None:
    run = tmp_path / "run"
    for name in ("checkpoints", "last", "best"):
        shutil.rmtree(run / name)
    log = (run / "log.jsonl").read_text()
    go_on(*sets("schedule.max_steps=1"))
    assert "has no checkpoint to resume from: training starts at step 0" in capsys.readouterr().out
    assert (run / "log.1.jsonl").read_text() == log


@pytest.mark.parametrize("name", ["checkpoints", "last", "best", "data", "log.jsonl", ".lock"])
def test_a_link_in_the_run_is_refused_and_nothing_is_deleted_behind_it(go_on, tmp_path, name) -> None:
    run, home = tmp_path / "run", tmp_path / "home"
    for folder in ("thesis", "step_00000001", ".old_step_00000001", ".building_00000009", ".config"):
        (home / folder).mkdir(parents=True)
        (home / folder / "manifest.json").write_text("{}")
        (home / folder / "years of work").write_text("")
    before = sorted(home.rglob("*"))
    if (run / name).is_dir():
        shutil.rmtree(run / name)
    else:
        (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(home, target_is_directory=True)
    assert re.search(rf"{re.escape(str(run / name))} is a symbolic link", refusal(go_on))
    assert sorted(home.rglob("*")) == before


def test_only_its_own_folders_are_deleted(go_on, tmp_path) -> None:
    checkpoints = tmp_path / "run" / "checkpoints"
    others = []
    for name in ("step_notes", "step_00000001", "step_00000002", ".old_step_00000003", ".building_00000004", ".git"):
        (checkpoints / name).mkdir()
        if name != "step_00000002":
            others.append(checkpoints / name / "mine.txt")
        else:  # nothing but our names, but behind a link
            (checkpoints / name).rmdir()
            (tmp_path / "elsewhere").mkdir()
            others.append(tmp_path / "elsewhere" / "model.safetensors")
            (tmp_path / "elsewhere" / "manifest.json").write_text("{}")
            (checkpoints / name).symlink_to(tmp_path / "elsewhere")
        others[-1].write_text("")
        (others[-1].parent / "manifest.json").write_text('{"progress": {}}')
    go_on()
    assert "cannot be read" in (tmp_path / "warned").read_text()
    assert all(path.is_file() for path in others)


# -- starts that fail --------------------------------------------------------------------------------------------------


def test_a_start_that_fails_leaves_no_folder(train, recipe, shapes, tmp_path) -> None:
    for change in ("model=no_such_detector", "optim.accumulate=3"):
        with pytest.raises(SystemExit):
            train(recipe, "--data", shapes, "--output", tmp_path / "deep" / "run", *sets(change))
        assert not (tmp_path / "deep").exists()
