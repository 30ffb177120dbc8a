"""``pkdzoo distill``: what a run leaves, what the next one reuses, and what bad input is told."""

from __future__ import annotations

import errno
import json
import os
import runpy
import shlex
import shutil
import signal
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.commands import fails, run
from helpers.processes import happening
from helpers.scripts import launch

import pkdzoo
from pkdzoo.data import make_shapes
from pkdzoo.data.synthetic import CLASSES
from pkdzoo.training import checkpoint
from pkdzoo.training.own_data import timer
from pkdzoo.training.own_data.arguments import DistillArguments
from pkdzoo.training.own_data.distill import command_to_go_on
from pkdzoo.training.own_data.plan import Plan, describe_trained
from pkdzoo.training.own_data.recipe_text import recipe_file
from pkdzoo.training.own_data.result import Run
from pkdzoo.training.own_data.timing import Seconds
from pkdzoo.utils.files import write_json
from pkdzoo.utils.text import counted

ONE_STEP = ("--set", "schedule.max_steps=1")
SHORT = ("--set", "schedule.max_steps=2", "--cpu", "--threads", 1)
TINY = ("--student", "retina_r10w16", "--teacher", "fcos_r10w16", "--init", "none")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("own") / "photos", train=8, val=3, size=(64, 96))


@pytest.fixture(scope="module")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder of a run with a baseline, and what it printed.

    A step is said to take 4 s before the teacher is trained, and a minute afterward; it takes much less.
    """
    import contextlib
    import io

    from pkdzoo.cli import main

    out = io.StringIO()
    folder = tmp_path_factory.mktemp("runs") / "mine"
    words = ["distill", "--data", photos, *TINY, "--baseline", "--output", folder, "--cpu", "--threads", 1]
    words += ["--time", "60s", "--set", "data.batch_size=8", "--set", "logging.eval_every=100"]  # one step per epoch
    calls = count(1)
    with contextlib.redirect_stdout(out), pytest.MonkeyPatch.context() as patch:
        patch.setattr(timer, "measure", lambda *_: Seconds(4.0 if next(calls) <= 3 else 60.0, 0.0, 0.0))
        assert main([str(word) for word in words]) == 0
    return folder, out.getvalue()


def test_the_folder_stands_for_the_distilled_student(finished, tmp_path, capsys) -> None:
    folder, said = finished
    own, student = (pkdzoo.create_detector(str(place)).state_dict() for place in (folder, folder / "distilled"))
    assert all(torch.equal(value, student[key]) for key, value in own.items())
    assert "The distilled student reaches AP" in said.splitlines()[-3]
    (tmp_path / "distill.json").write_text((folder / "distill.json").read_text())
    with pytest.raises(ValueError, match="has not begun to train its student: continue it with --resume"):
        pkdzoo.create_detector(str(tmp_path))


def test_a_teacher_that_was_trained_briefly_is_told(finished) -> None:
    (teacher,) = (finished[0].parent / "teachers").iterdir()
    epochs = json.loads((teacher / "recipe.json").read_text())["schedule"]["epochs"]
    ap = json.loads((teacher / "metrics.json").read_text())["AP"]
    said = f"used again from {teacher} ({epochs} epochs, AP {ap:.1f})."
    assert describe_trained(teacher, None) == describe_trained(teacher, epochs)
    assert describe_trained(teacher, epochs) == f"{said} To train it again, delete this folder"
    assert describe_trained(teacher, 100 * epochs) == (
        f"{said} It would be trained for {100 * epochs} epochs now. To train it again, delete this folder, which is "
        "worth it"
    )


def test_what_was_chosen_is_printed(finished: tuple[Path, str]) -> None:
    _, said = finished
    for line in (
        "data      train: 8 images",
        "student   retina_r10w16 from scratch, as --init none says",
        "teacher   fcos_r10w16 from scratch, as --init none says",
        "time      about",
        "batch     8 images on one CPU",
        "schedule  4 epochs of 8 images",
    ):
        assert line in said


def test_the_students_are_planned_again_when_the_teacher_is_trained(finished: tuple[Path, str]) -> None:
    folder, said = finished
    for line in (
        "time      the teacher took ",
        "LONGER than --time 60 s",
        "schedule  2 epochs for each student, in place of 4 epochs",
    ):
        assert line in said
    (teacher,) = (folder.parent / "teachers").iterdir()
    epochs = [
        json.loads((place / "recipe.json").read_text())["schedule"]["epochs"]
        for place in (teacher, folder / "plain", folder / "distilled")
    ]
    assert epochs == [4, 2, 2]  # at least a third for the students, and equally many


def test_a_run_leaves_three_detectors_and_a_comparison(finished: tuple[Path, str]) -> None:
    folder, said = finished
    rows = json.loads((folder / "comparison.json").read_text())
    assert [row["role"] for row in rows] == ["teacher", "plain", "distilled"]
    (teacher,) = (folder.parent / "teachers").iterdir()
    for place in (teacher, folder / "plain", folder / "distilled"):
        assert pkdzoo.create_detector(str(place)).label_names == CLASSES
    plain, distilled = (json.loads((folder / name / "recipe.json").read_text()) for name in ("plain", "distilled"))
    differing = {key for key in plain if plain[key] != distilled[key]}
    assert differing == {"name", "distill"}  # equal budgets
    assert "gap closed" in said and (folder / "predictions.png").is_file()
    page = (folder / "report.html").read_text()
    assert "Validation images" in page and page.count("data:image/jpeg") == 3
    assert f"report    {folder / 'report.html'}" in said


def test_the_recipe_file_says_how_it_is_trained_and_holds_what_was_trained(capsys, finished, tmp_path) -> None:
    folder, _ = finished
    namespace = runpy.run_path(str(folder / "recipe.py"))
    recipes = {recipe.name: recipe.to_dict() for recipe in namespace["RECIPES"]}
    assert list(recipes) == ["teacher", "plain", "distilled"]
    for name in ("plain", "distilled"):
        assert recipes[name] == json.loads((folder / name / "recipe.json").read_text())
    assert recipe_file(namespace["RECIPES"], namespace["__doc__"]) == (folder / "recipe.py").read_text()
    (line,) = [line for line in namespace["__doc__"].splitlines() if "--only plain" in line]
    program, *words = shlex.split(line)
    assert program == "pkdzoo"
    words[words.index("--output") + 1] = str(tmp_path / "again")
    code, _, err = run(capsys, *words, "--cpu", "--threads", 1)
    assert code == 0, err
    assert (tmp_path / "again" / "metrics.json").is_file()


def test_a_folder_of_the_right_classes_teaches_as_it_is(capsys, finished, photos, tmp_path) -> None:
    folder, _ = finished
    (teacher,) = (folder.parent / "teachers").iterdir()
    result = pkdzoo.distill(
        photos, "retina_r10w16", teacher, init="none", output=tmp_path / "runs" / "mine",
        set=["schedule.max_steps=1"], cpu=True, threads=1,
    )  # fmt: skip
    assert list(result.plan.recipes) == ["distilled"] and not (tmp_path / "runs" / "teachers").exists()
    first, *more = [line for line in capsys.readouterr().out.splitlines() if line.startswith("teacher ")]
    assert first == f"teacher   fcos_r10w16 in {teacher}, has the classes of the data"
    assert len(more) == 1 and "by pkd" in more[0]  # of the run's own summary; none on a run of the teacher's
    assert result.teacher.name == "fcos_r10w16" and result.plain is None
    assert result.student.label_names == CLASSES
    assert result.report(tmp_path / "again.html", pictures=False).stat().st_size > 10_000
    assert result.metrics["AP"] == json.loads((result.folder / "distilled" / "metrics.json").read_text())["AP"]


def test_a_second_run_into_the_folder_and_other_folders(capsys, finished, photos, tmp_path) -> None:
    folder, _ = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    said = fails(capsys, "distill", "--data", photos, *TINY, "--output", folder, *SHORT)
    assert "holds a run of pkdzoo distill already: continue it with --resume, or choose another --output" in said
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    (tmp_path / "thesis.tex").write_text("years of work")
    said = fails(capsys, "distill", "--data", photos, *TINY, "--output", tmp_path, *SHORT)
    assert "is not empty and holds no run of pkdzoo distill" in said
    assert "is a file" in fails(capsys, "distill", "--data", photos, *TINY, "--output", tmp_path / "thesis.tex", *SHORT)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "distilled").symlink_to(tmp_path)
    said = fails(capsys, "distill", "--data", photos, *TINY, "--output", tmp_path / "linked", *SHORT)
    assert "is a symbolic link" in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--student", "rtmdet_tinny"], "Did you mean rtmdet_tiny"),
        (["--student", "retina_r10w16", "--teacher", "gfl_r5O"], "Did you mean gfl_r50"),
        (["--student", "retina_r10w16", "--teacher", "runs/nothing"], "runs/nothing"),
        (["--student", "torchvision:fcos_resnet50_fpn"], "students of other libraries are trained by a recipe"),
        (["--student", "retina_r10w16", "--method", "pdk"], "Did you mean pkd"),
        (["--student", "retina_r10w16", "--time", "soon"], "write e.g. 30m"),
        (["--student", "retina_r10w16", "--data", "nowhere"], "nowhere does not exist"),
        (["--student", "retina_r10w16", "--set", "optim.lrate=1"], "Did you mean lr"),
        (["--student", "retina_r10w16", "--set", "distill.methods.pkd"], "write a field, an equals sign"),
    ],
)
def test_what_cannot_be_meant(capsys, photos, tmp_path, monkeypatch, words, sentence) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["distill", "--data", photos, "--cpu", "--threads", 1, *words]
    code, _, err = run(capsys, *given)
    assert code == 1 and sentence in err and "Traceback" not in err
    assert not list(tmp_path.rglob("recipe.json"))


def test_the_teacher_is_reused_and_a_stop_says_how_to_go_on(capsys, finished, photos) -> None:
    (teacher,) = (finished[0].parent / "teachers").iterdir()
    before = {path: path.stat().st_mtime_ns for path in teacher.rglob("*")}
    folder = finished[0].with_name("second")
    words = ("distill", "--data", photos, *TINY, "--output", folder, *SHORT, "--set", "distill.methods.pkd.weight=4")
    with happening(1, lambda: os.kill(os.getpid(), signal.SIGINT)):
        code, out, _ = run(capsys, *words)
    assert f"used again from {teacher} (" in out
    assert code == 130 and f"kept in {folder}: distilled begun. Go on with: pkdzoo distill --data {photos} " in out
    (line,) = [line for line in out.splitlines() if "Go on with" in line]
    code, out, err = run(capsys, *shlex.split(line.partition("Go on with: pkdzoo ")[2]), "--json")
    assert code == 0 and "resumed from" in err, err
    assert json.loads(out)["output"] == str(folder)
    assert (folder / "comparison.json").is_file() and not (folder / "plain").exists()
    assert json.loads((folder / "distilled" / "recipe.json").read_text())["distill"]["methods"]["pkd"]["weight"] == 4
    assert {path: path.stat().st_mtime_ns for path in teacher.rglob("*")} == before


def test_a_teacher_that_a_trial_cut_short_serves_no_longer_run(capsys, photos, tmp_path) -> None:
    words = ("distill", "--data", photos, *TINY, "--cpu", "--threads", 1, "--set", "schedule.epochs=3")
    steps = ("--set", "data.batch_size=8", "--set")  # one step per epoch

    def said(name: str, limit: object) -> str:
        more = (*steps, f"schedule.max_steps={limit}", "--output", tmp_path / name)
        code, out, err = run(capsys, *words, *more)
        assert code == 0, err
        return "".join(line for line in out.splitlines() if line.startswith("teacher ") and "used again" in line)

    assert said("trial", 1) == ""
    (trial,) = (tmp_path / "teachers").iterdir()
    assert f"used again from {trial} (1 step, AP " in said("second_trial", 1)
    assert said("real", "none") == ""
    (whole,) = set((tmp_path / "teachers").iterdir()) - {trial}
    found = checkpoint.find_checkpoint(whole)
    assert found is not None and (found[1].step, found[1].epoch) == (3, 3)
    assert f"used again from {whole} (3 epochs, AP " in said("second", "none")


def test_data_that_changed_before_a_student_began_is_refused(capsys, finished, photos) -> None:
    """The teacher is trained on the former boxes, and would teach a student of others."""
    folder = finished[0].with_name("changed")
    folder.mkdir()
    shutil.copy(finished[0] / "distill.json", folder)
    file = photos / "annotations" / "instances_train2017.json"
    before = file.read_text()
    content = json.loads(before)
    content["annotations"].pop()
    file.write_text(json.dumps(content))
    try:
        message = fails(capsys, "distill", "--data", photos, *TINY, "--output", folder, "--resume", *SHORT)
    finally:
        file.write_text(before)
    assert f"the images, classes or boxes of {photos} changed since {folder} began" in message
    assert [path.name for path in folder.iterdir()] == ["distill.json"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "states"),
    [
        (1, "teacher begun, plain not begun, distilled not begun"),
        (2, "teacher finished, plain begun, distilled not begun"),
        (3, "teacher finished, plain finished, distilled begun"),
    ],
)
def test_a_stop_in_each_training(capsys, photos, tmp_path, number: int, states: str) -> None:
    folder, firsts = tmp_path / "runs" / "mine", count(1)
    words = ("distill", "--data", photos, *TINY, "--baseline", "--output", folder, *SHORT)
    with happening(1, lambda: next(firsts) == number and os.kill(os.getpid(), signal.SIGTERM)):
        code, out, _ = run(capsys, *words)
    assert code == 143
    assert f"kept in {folder}: {states}. Go on with: " in out
    code, out, err = run(capsys, *words, "--resume")
    assert code == 0, err
    assert "resumed from" in out and (folder / "comparison.json").is_file()
    code, out, _ = run(capsys, *words, "--resume")  # nothing is left to do
    assert code == 0 and "step 1/" not in out


def test_a_full_disk(capsys, finished, photos, tmp_path, monkeypatch) -> None:
    def full(of: Any, *names: str) -> Any:
        def write(*args: Any, **kwargs: Any) -> Any:
            if any(name in str(arg) for arg in args for name in names):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return of(*args, **kwargs)

        return write

    folder = finished[0].with_name("full")
    words = ("distill", "--data", photos, *TINY, "--output", folder, *SHORT)
    with monkeypatch.context() as patch:
        patch.setattr("pkdzoo.training.own_data.plan.write_json", full(write_json, "distill.json"))
        code, _, err = run(capsys, *words)
    assert code == 1 and not (folder / "recipe.py").exists()
    assert f"{folder} could not be written: No space left on device. Nothing is trained yet: free some space" in err
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_safetensors", full(checkpoint.save_safetensors, "distilled/checkpoints"))
        code, out, err = run(capsys, *words)
    assert code == 1 and "checkpoint of step 2 could not be written: No space left on device" in err
    assert f"kept in {folder}: distilled begun. Free some space first. Go on with: pkdzoo distill " in out
    (line,) = [line for line in out.splitlines() if "Go on with" in line]
    assert line.endswith(f" --output {folder} --resume --cpu --threads 1")
    code, _, err = run(capsys, *shlex.split(line.partition("Go on with: pkdzoo ")[2]))
    assert code == 0 and (folder / "comparison.json").is_file(), err


@pytest.mark.slow
@pytest.mark.parametrize("classes", [1, 2000])
def test_one_class_and_many(capsys, photos, tmp_path, classes: int) -> None:
    data = tmp_path / "photos"
    shutil.copytree(photos, data)
    for file in (data / "annotations").iterdir():
        content = json.loads(file.read_text())
        content["categories"] = [{"id": k + 1, "name": f"kind {k}"} for k in range(classes)]
        for box in content["annotations"]:
            box["category_id"] = 1 + box["id"] % classes
        file.write_text(json.dumps(content))
    folder = tmp_path / "run"
    words = ("--student", "fcos_r10w16", "--teacher", "fcos_r10w16", "--init", "none", "--output", folder)
    code, out, err = run(capsys, "distill", "--data", data, *words, "--cpu", "--threads", 1, *ONE_STEP)
    assert code == 0, err
    assert f"{counted(classes, 'class')} ('kind 0'" in out and len(out) < 8000
    assert pkdzoo.create_detector(str(folder / "distilled")).num_classes == classes
    assert (folder / "report.html").stat().st_size < 2_000_000


@pytest.mark.slow
def test_a_teacher_of_another_library(capsys, photos, tmp_path) -> None:
    folder = tmp_path / "run"
    library = ("--teacher", "torchvision:ssdlite320_mobilenet_v3_large", "--set", "distill.teacher_weights=random")
    words = ("distill", "--data", photos, "--student", "retina_r10w16", "--init", "none", "--output", folder)
    code, out, err = run(capsys, *words, *library, "--cpu", "--threads", 1, *ONE_STEP)
    assert code == 0, err
    assert "of another library: teaches by its features as it is, whatever its classes are; it is not trained" in out
    result = Run(folder)
    assert list(result.plan.recipes) == ["distilled"] and "torchvision" in result.teacher.name
    assert [row["role"] for row in json.loads((folder / "comparison.json").read_text())] == ["distilled"]
    assert "torchvision:ssdlite320_mobilenet_v3_large" in (folder / "report.html").read_text()
    words = (*words[:-1], tmp_path / "another")
    code, _, err = run(capsys, *words, "--teacher", "torchvision:ssdlite321")
    assert code == 1 and "ssdlite320_mobilenet_v3_large" in err


def test_unlabeled_images_are_for_the_distilled_student_alone(capsys, finished, photos, tmp_path) -> None:
    (teacher,) = (finished[0].parent / "teachers").iterdir()
    more = make_shapes(tmp_path / "more", train=4, val=1, size=(64, 80), seed=9) / "train2017"
    words = ["distill", "--data", photos, "--student", "retina_r10w16", "--teacher", teacher, "--init", "none"]
    words += ["--cpu", "--threads", 1, *ONE_STEP, "--output", tmp_path / "run"]
    assert "nowhere is no folder" in fails(capsys, *words, "--unlabeled", tmp_path / "nowhere")
    words += ["--baseline", "--set", "distill.unlabeled.ratio=0.5", "--unlabeled", more]
    code, said, err = run(capsys, *words)
    assert code == 0, err
    assert f"unlabeled {more}: 4 images without labels" in said and said.count("images without labels") == 1
    plain, distilled = (json.loads((tmp_path / "run" / n / "recipe.json").read_text()) for n in ("plain", "distilled"))
    assert plain["distill"] is None
    assert distilled["distill"]["unlabeled"] == {"folder": str(more), "ratio": 0.5, "weight": 1.0}
    kept = {recipe.name: recipe for recipe in runpy.run_path(str(tmp_path / "run" / "recipe.py"))["RECIPES"]}
    assert kept["distilled"].to_dict() == distilled


def test_time_and_a_number_of_epochs_exclude_each_other(capsys, photos, tmp_path) -> None:
    said = fails(capsys, "distill", "--data", photos, *TINY, "--output", tmp_path / "run", *SHORT, "--time", "5m")
    assert "--time chooses the number of epochs and steps: leave out --time, or --set schedule.max_steps=2" in said


def test_the_command_that_goes_on_has_the_options_of_the_machine() -> None:
    args = DistillArguments(Path("my photos"), "retina_r50", output=Path("runs/a"), threads=4, mixed_precision="bf16")
    assert command_to_go_on(args, 2) == (
        "accelerate launch --num_processes 2 -m pkdzoo distill --data 'my photos' --student retina_r50 --output runs/a "
        "--resume --threads 4 --mixed-precision bf16"
    )
    args.cpu_processes = 2
    assert command_to_go_on(args, 2).startswith("pkdzoo distill ") and "--cpu-processes 2" in command_to_go_on(args, 2)


def test_an_interruption_before_the_plan_leaves_nothing(capsys, photos, tmp_path, monkeypatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pkdzoo.training.own_data.data.check", interrupted)
    code, out, err = run(capsys, "distill", "--data", photos, *TINY, "--output", tmp_path / "run", *SHORT)
    assert code == 130 and "nothing is trained yet, and the same command begins anew" in out
    assert err == "pkdzoo: interrupted\n" and not (tmp_path / "run").exists()


def test_a_plan_that_was_changed_by_hand_is_an_error(finished, tmp_path) -> None:
    content = json.loads((finished[0] / "distill.json").read_text())
    for change in ({"data": {}}, {"recipes": {"distilled": {"modle": 1}}}, {"recipes": []}):
        (tmp_path / "distill.json").write_text(json.dumps({**content, **change}))
        with pytest.raises(ValueError, match=r"distill\.json|modle"):
            Plan.read(tmp_path)


def test_an_unfinished_teacher_of_the_same_settings_is_continued(capsys, photos, tmp_path) -> None:
    words = ("distill", "--data", photos, *TINY, *SHORT, "--set", "data.batch_size=4")
    with happening(1, lambda: os.kill(os.getpid(), signal.SIGINT)):
        code, out, _ = run(capsys, *words, "--output", tmp_path / "first")
    assert code == 130 and "teacher begun, distilled not begun" in out
    code, out, err = run(capsys, *words, "--output", tmp_path / "second")
    (teacher,) = (tmp_path / "teachers").iterdir()
    assert code == 0 and f"resumed from {teacher}" in out, err
    code, _, err = run(capsys, *words, "--output", tmp_path / "first", "--resume")
    assert code == 0 and (tmp_path / "first" / "distilled" / "best").is_dir(), err


def test_an_unfinished_teacher_of_other_settings_is_not_continued(capsys, finished, photos, tmp_path) -> None:
    (teacher,) = (finished[0].parent / "teachers").iterdir()
    place = tmp_path / "teachers" / teacher.name
    shutil.copytree(teacher, place)
    for manifest in place.glob("checkpoints/*/manifest.json"):
        shutil.rmtree(manifest.parent)
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    words = ("distill", "--data", photos, *TINY, "--output", tmp_path / "mine", *SHORT, "--set", "optim.lr=0.003")
    code, _, err = run(capsys, *words)
    assert code == 0, err
    (other,) = [path for path in (tmp_path / "teachers").iterdir() if path != place]
    assert other.name.startswith(f"{place.name}-")
    assert json.loads((other / "recipe.json").read_text())["optim"]["lr"] == 0.003
    distill = json.loads((tmp_path / "mine" / "distilled" / "recipe.json").read_text())["distill"]
    assert distill["teacher"] == f"local-dir:{other / 'best'}"
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before
    again = ("distill", "--data", photos, *TINY, "--output", tmp_path / "second", *SHORT)
    code, out, err = run(capsys, *again)
    assert code == 0 and f"used again from {other} (" in out, err  # it is finished


@pytest.mark.slow
def test_two_processes_through_the_launcher(photos, tmp_path) -> None:
    words = ("-m", "pkdzoo", "distill", "--data", photos, *TINY, "--baseline", "--output", tmp_path / "a" / "b")
    done = launch(*words, "--threads", 1, "--time", "1s", processes=2)
    assert done.stdout.count("data      train: 8 images") == done.stdout.count("time      the teacher took ") == 1
    assert "1 s are too short for an epoch of everything" in done.stdout
    assert "batch     2 = processes 2 x passes 1 x images 1" in done.stdout
    assert json.loads((tmp_path / "a" / "b" / "distilled" / "metrics.json").read_text())["processes"] == 2
    failed = launch(*words, processes=2, check=False)
    assert failed.returncode and "continue it with --resume" in failed.stderr
    shutil.rmtree(tmp_path / "a")
