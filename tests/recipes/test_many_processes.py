"""The training script over two real CPU processes: what one process learns and measures, and exact resume."""

from __future__ import annotations

import json
import shutil
import signal
from typing import Any

import pytest
import torch
from filelock import FileLock
from helpers.processes import Run
from helpers.scripts import ROOT, assert_same_run, launch, log_lines
from safetensors.torch import load_file

from pkdzoo.data import make_shapes
from pkdzoo.evaluation import METRICS
from pkdzoo.training import checkpoint, run_folder

pytestmark = pytest.mark.slow

ONE_SIZE = ["data.short=64", "data.flip=0.5", "logging.log_every=1", "schedule.epochs=1"]
TEACHER = """
from dataclasses import replace
teach = Distill("retina_r10w16", METHODS, teacher_args={"num_classes": 6}, teacher_weights="random")
RECIPE = replace(RECIPE, distill=teach)
"""


def taught_by(**methods: dict[str, Any]) -> str:
    return TEACHER.replace("METHODS", repr(methods))


@pytest.fixture(scope="module")
def even(tmp_path_factory):
    """16 training and 5 validation images of one size: two processes can share every training batch."""
    return make_shapes(tmp_path_factory.mktemp("even") / "data", train=16, val=5, size=(64, 96))


def sets(*assignments: str) -> list[str]:
    return [word for assignment in assignments for word in ("--set", assignment)]


def run(processes: int, recipe, data, output, *words: object, **options: Any) -> Run:
    """The script, started."""
    argv = [recipe, "--data", data, "--output", output, "--cpu", "--threads", 1, *words]
    return Run("train", *argv, said=output.parent / f"{output.name}.said", processes=processes, **options)


CASES = {
    "supervised": ("", []),
    "pkd": (taught_by(pkd={"sync": True, "levels": 3}), []),
    "crosskd": (taught_by(crosskd={"sync": True}), []),
    "faster_rcnn": ("", sets("model=faster_rcnn_r10w16", "model_args.sample=false")),
    "gfl": ("", sets("model=gfl_r10w16")),
}


@pytest.mark.parametrize("case", CASES)
def test_two_processes_learn_what_one_learns(case, recipe, even, tmp_path) -> None:
    """Step by step; every family and its gradients are compared in tests/models/test_processes.py."""
    more, words = CASES[case]
    recipe.write_text(recipe.read_text() + more)
    for processes in (1, 2):
        run(processes, recipe, even, tmp_path / str(processes), *sets(*ONE_SIZE), *words).finish()
    counts = [json.loads((tmp_path / n / "run.json").read_text())["processes"] for n in "12"]
    assert counts == [1, 2]
    one, two = (log_lines(tmp_path / n) for n in "12")
    assert len(one) == len(two) == 5
    worst = 0.0
    for step in range(4):
        for key in one[0]:
            if key.startswith("loss") or key == "grad_norm":
                assert two[step][key] == pytest.approx(one[step][key], rel=1e-5 if step == 0 else 1e-3), (step, key)
                worst = max(worst, abs(two[step][key] / one[step][key] - 1) if step == 0 else 0)
    print(f"{case}: losses and gradient norm of the first step differ by {worst:.1e}")
    first, second = (load_file(tmp_path / n / "last" / "model.safetensors") for n in "12")
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, rtol=1e-3, atol=1e-4)


def test_arms_follow_each_other_and_are_compared(recipe, shapes, tmp_path) -> None:
    recipes = 'RECIPES = [replace(RECIPE, name="plain", distill=None), replace(RECIPE, name="taught")]\n'
    recipe.write_text(recipe.read_text() + taught_by(pkd={}) + recipes)
    run(2, recipe, shapes, tmp_path / "run", *sets("schedule.epochs=1")).finish()
    rows = json.loads((tmp_path / "run" / "comparison.json").read_text())
    assert [row["name"] for row in rows] == ["plain", "taught"]
    abouts = [json.loads((tmp_path / "run" / name / "run.json").read_text()) for name in ("plain", "taught")]
    assert [about["processes"] for about in abouts] == [2, 2]


def test_every_process_ends_when_the_folder_is_another_runs(recipe, shapes, tmp_path) -> None:
    recipes = 'RECIPES = [RECIPE, replace(RECIPE, name="other")]\n'
    recipe.write_text(recipe.read_text() + "from dataclasses import replace\n" + recipes)
    (tmp_path / "run" / "tiny").mkdir(parents=True)
    with FileLock(tmp_path / "run" / "tiny" / run_folder.LOCK):
        refused = run(2, recipe, shapes, tmp_path / "run")
        assert refused.wait() == [1, 1], refused.text()
    assert refused.text().count("error: another run is writing to") == 2 and "Traceback" not in refused.text()
    run(2, recipe, shapes, tmp_path / "run", *sets("schedule.max_steps=1")).finish()
    assert (tmp_path / "run" / "comparison.json").is_file()


@pytest.mark.parametrize("change", [("--data", "nosuch"), ("--data", "DATA", "--train-json", "nosuch.json")])
def test_missing_data_ends_every_process_with_one_line(change, recipe, even, tmp_path) -> None:
    """The last line used to be that of a process that lost the other one."""
    words = [recipe, *(str(even) if word == "DATA" else word for word in change), "--output", tmp_path / "run"]
    refused = Run("train", *words, "--cpu", "--threads", 1, said=tmp_path / "said", processes=2)
    assert refused.wait() == [1, 1], refused.text()
    assert "Traceback" not in refused.text() and refused.text().count("error: ") == 2 and "nosuch" in refused.text()
    assert refused.text().splitlines()[-1].startswith(("error: ", "  ")), refused.text()


def test_weights_that_cannot_be_written_end_every_process_with_one_line(recipe, even, tmp_path) -> None:
    """The other process used to end with a traceback of its own, about the connection that it lost."""
    run(2, recipe, even, tmp_path / "run", *sets("schedule.max_steps=1")).finish()
    shutil.rmtree(tmp_path / "run" / "last")
    (tmp_path / "run" / "last").write_text("a file in the place of a folder")
    refused = run(2, recipe, even, tmp_path / "run", *sets("schedule.max_steps=2"), "--resume")
    assert refused.wait() == [1, 1], refused.text()
    assert "Traceback" not in refused.text() and refused.text().count("error: ") == 2, refused.text()
    assert "run/last" in refused.text().splitlines()[-1], refused.text()


def test_images_that_any_process_cannot_read_are_counted(recipe, tmp_path) -> None:
    """The main process meets one of the two at most."""
    data = make_shapes(tmp_path / "data", train=200, val=2, size=(64, 64))
    for image in sorted((data / "train2017").iterdir())[5:200:99]:
        image.write_bytes(b"\xff\xd8 broken")
    words = sets("data.short=64", "data.long=64", "data.batch_size=50", "schedule.epochs=1", "data.drop_empty=false")
    started = run(2, recipe, data, tmp_path / "run", *words)
    started.finish()
    assert "skipped 2 of 200 images that cannot be read" in started.text(), started.text()


def test_machines_without_a_shared_disk_cannot_resume(recipe, even, tmp_path) -> None:
    """One process would train from the first step beside others that go on."""
    places = [tmp_path / name for name in ("with", "without", "older")]
    for place in places:
        place.mkdir()
    words = [recipe, "--data", even, "--output", "run", "--cpu", "--threads", 1, *sets(*ONE_SIZE)]
    words += sets("logging.save_every=1", "logging.eval_every=9")
    begun = sets("schedule.max_steps=2")
    Run("train", *words, *begun, said=tmp_path / "begun", processes=2, places=[places[0]] * 2).finish()
    shutil.copytree(places[0] / "run", places[2] / "run")
    for newest in (places[2] / "run" / "checkpoints").glob("step_00000002*"):
        shutil.rmtree(newest)
    saved = [path.name for path in checkpoint.list_checkpoints(places[0] / "run")]
    for number, pair in enumerate([(0, 1), (1, 0), (0, 2)]):
        said = tmp_path / f"said{number}"
        refused = Run("train", *words, "--resume", said=said, processes=2, places=[places[k] for k in pair])
        assert refused.wait() == [1, 1], refused.text()
        process = 0 if pair[0] else 1
        error = f"error: process {process} does not see run/checkpoints/{saved[0]}: --resume on several machines needs"
        assert refused.text().count(error) == 2 and "Traceback" not in refused.text(), refused.text()
        assert [path.name for path in checkpoint.list_checkpoints(places[0] / "run")] == saved
    again = Run("train", *words, "--resume", said=tmp_path / "again", processes=2, places=[places[0]] * 2)
    again.finish()
    assert "resumed from run/checkpoints" in again.text()


TRAINED = sets("model=fcos_r18w24", "init=fcos_r18w24", "optim.lr=1e-4")  # weights that find something


def test_launched_by_accelerate_evaluation_does_not_depend_on_the_number_of_processes(recipe, even, tmp_path) -> None:
    """Five images in batches of two: the last batch of the second process is a repetition."""
    launch(ROOT / "recipes" / "train.py", recipe, "--data", even, "--output", tmp_path / "run", *sets(*ONE_SIZE),
           *TRAINED, processes=2)  # fmt: skip
    words = [tmp_path / "run" / "last", "--data", even, "--batch-size", 2, "--threads", 1, "--cpu"]
    for processes in (1, 2):
        said = tmp_path / f"said{processes}"
        Run("evaluate", *words, "--output", tmp_path / f"{processes}.json", said=said, processes=processes).finish()
    trained = json.loads((tmp_path / "run" / "metrics.json").read_text())
    one, two = (json.loads((tmp_path / f"{n}.json").read_text()) for n in (1, 2))
    assert (trained["processes"], one["processes"], two["processes"]) == (2, 1, 2)
    assert one["AP"] > 1 and one["AR100"] > 1
    for key in (*METRICS, "per_class"):
        assert one[key] == two[key] == trained[key], key


RESUMED = {
    "several sizes, mirrored": ("", TRAINED),
    "accumulated, averaged, adamw": ("", sets("optim.accumulate=2", "optim.ema=0.9", "optim.kind=adamw")),
    "running statistics": ("", sets("model_args.norm=bn", "optim.ema=0.9")),
    "connectors, two loader processes": (taught_by(fbkd={}), sets("data.workers=2")),
    "prototypes": (taught_by(global_knowledge={"smallest": 4, "prototypes": 2}), []),
    "sampled regions": ("", sets("model=faster_rcnn_r10w16")),
}


@pytest.mark.parametrize("case", RESUMED)
def test_two_processes_resume_to_the_last_bit(case, recipe, shapes, tmp_path) -> None:
    """Killed within an epoch, between its last step and its evaluation, and asked to stop between two saves."""
    more, words = RESUMED[case]
    recipe.write_text(recipe.read_text() + more)
    words = [*words, *sets("logging.save_every=2")]
    whole = run(2, recipe, shapes, tmp_path / "whole", *words)
    cut = tmp_path / "cut"
    for place, number in ((3, signal.SIGKILL), ("evaluation", signal.SIGKILL), (6, signal.SIGTERM)):
        part = run(
            2, recipe, shapes, cut, *words, "--resume", signal_at=(0 if number == signal.SIGKILL else 1, place, number)
        )
        codes = part.wait()
        if number == signal.SIGKILL:
            assert codes[0] == -signal.SIGKILL, part.text()
        else:
            assert codes == [143, 143] and "stopped on request at step 7 of 8" in part.text(), part.text()
        found = checkpoint.find_checkpoint(cut)
        assert found is not None
        assert (found[1].step, found[1].epoch, found[1].step_in_epoch) == {3: (2, 0, 2), 6: (7, 1, 3)}.get(
            place, (4, 0, 4)
        )
    last = run(2, recipe, shapes, cut, *words, "--resume")
    for one in (whole, last):
        one.finish()
    assert json.loads((cut / "run.json").read_text())["processes"] == 2
    metrics = assert_same_run(tmp_path / "whole", cut)
    assert words[: len(TRAINED)] != TRAINED or metrics["AP"] > 1  # else equal metrics would say little
    first, second = whole.students()
    assert all(torch.equal(value, second[key]) for key, value in first.items())
