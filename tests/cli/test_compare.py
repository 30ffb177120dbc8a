"""``pkdzoo compare``: seeds side by side, and a gain only over the plain student of the same recipe."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import fails, run

from pkdzoo.evaluation import METRICS

RECIPE: dict[str, Any] = {
    "name": "plain", "model": "retina_r18", "model_args": {}, "init": None, "data": {"short": 64, "workers": 2},
    "optim": {"lr": 0.01}, "schedule": {"epochs": 1}, "distill": None, "seed": 0,
}  # fmt: skip


def write(folder: Path, ap: float, sha256: str = "a", **changed: Any) -> Path:
    """The files of a finished run."""
    for name in (folder, folder / "best"):
        name.mkdir(parents=True)
        metrics = dict.fromkeys(METRICS, ap) | {"annotations_sha256": sha256}
        (name / "metrics.json").write_text(json.dumps(metrics))
    (folder / "recipe.json").write_text(json.dumps({**RECIPE, "name": folder.name.rpartition("-")[0], **changed}))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A teacher, and two seeds of a plain and of a distilled student: 30, 20 and 22, 24 and 27 AP."""
    root = tmp_path / "runs"
    write(root / "teacher-0", 30.0, model="gfl_r18")
    distill = {"teacher": f"local-dir:{root / 'teacher-0' / 'best'}", "methods": {"pkd": {}}}
    for seed, (plain, pkd) in enumerate(((20.0, 24.0), (22.0, 27.0))):
        write(root / f"plain-{seed}", plain, seed=seed)
        write(root / f"pkd-{seed}", pkd, seed=seed, distill=distill)
    return root


def rows_of(capsys: pytest.CaptureFixture[str], *folders: object) -> tuple[dict[str, Any], list[str]]:
    code, out, _ = run(capsys, "compare", *folders, "--json")
    assert code == 0
    content = json.loads(out)
    return {row["name"]: row for row in content["rows"]}, content["warnings"]


def test_seeds_are_side_by_side_and_the_teacher_is_no_plain_student(runs, capsys) -> None:
    rows, warnings = rows_of(capsys, *sorted(runs.iterdir()))
    assert {name: row["role"] for name, row in rows.items()} == {
        "teacher": "teacher", "plain": "plain", "pkd": "distilled",
    }  # fmt: skip
    assert rows["plain"]["AP"] == 21.0 and rows["pkd"]["AP_by_seed"] == {"0": 24.0, "1": 27.0}
    assert rows["pkd"]["gain"] == 4.5 and rows["pkd"]["gap_closed"] == pytest.approx(4.5 / 9.0)
    half = 12.706 * 0.5  # Student's t of one degree of freedom, deviation over the root of two seeds
    assert rows["pkd"]["gain_interval"] == pytest.approx([4.5 - half, 4.5 + half])
    assert rows["plain"]["gain_interval"] is None
    (warning,) = warnings
    assert warning.startswith("pkd and its plain student differ by +4.5 [-1.9, +10.9] AP over 2 seeds: the interval of")
    code, out, _ = run(capsys, "compare", runs)  # a folder of runs
    assert code == 0 and "0: 24.0 1: 27.0" in out and "+4.5 [-1.9, +10.9]" in out and "50%" in out


def test_whether_seeds_show_a_gain_depends_on_their_paired_differences(runs, capsys) -> None:
    """The range of the plain seeds used to decide: it has nothing to do with differences of common seeds."""
    distill = json.loads((runs / "pkd-0" / "recipe.json").read_text())["distill"]
    for seed, (plain, pkd) in enumerate(((30.0, 34.2), (12.0, 16.1)), 2):  # plain seeds differ by 18 AP
        write(runs / f"plain-{seed}", plain, seed=seed)
        write(runs / f"pkd-{seed}", pkd, seed=seed, distill=distill)
    write(runs / "plain-9", 99.0, seed=9)  # of no distilled student
    rows, warnings = rows_of(capsys, runs)
    low, high = rows["pkd"]["gain_interval"]
    assert 0 < low < rows["pkd"]["gain"] < high and warnings == []
    path = runs / "pkd-3" / "metrics.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "AP": 8.0}))
    rows, warnings = rows_of(capsys, runs)
    low, high = rows["pkd"]["gain_interval"]
    assert low < 0 < high and "over 4 seeds: the interval of 95 % contains 0" in warnings[0]


def test_only_the_same_recipe_is_a_plain_student(runs, capsys) -> None:
    for seed in (0, 1):
        path = runs / f"plain-{seed}" / "recipe.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "schedule": {"epochs": 2}}))
    rows, warnings = rows_of(capsys, runs)
    assert rows["pkd"]["gain"] is None and any("has no plain student among these runs" in line for line in warnings)


def test_other_data_and_other_seeds_are_said(runs, capsys) -> None:
    write(runs / "more-9", 9.0, sha256="b", seed=9, model="fcos_r18")
    _, warnings = rows_of(capsys, runs / "plain-0", runs / "pkd-1", runs / "more-9")
    assert any("different annotations" in line for line in warnings)
    assert any("share no seed" in line for line in warnings)


def test_one_recipe_on_two_data_sets_is_no_repeat(runs, capsys) -> None:
    write(runs / "other-0", 50.0, sha256="b")
    rows, warnings = rows_of(capsys, runs)
    assert rows["plain"]["AP"] == 21.0 and rows["other"]["AP"] == 50.0 and rows["pkd"]["gain"] == 4.5
    assert not any("repeats" in line for line in warnings)
    assert any("different annotations" in line for line in warnings)
    rows, warnings = rows_of(capsys, runs / "pkd-0", runs / "other-0")
    assert rows["pkd"]["gain"] is None and any("has no plain student" in line for line in warnings)


def test_an_unfinished_run_gives_no_gain(runs, capsys) -> None:
    def mark(name: str, done: bool, step: int = 6) -> None:
        folder = runs / name / "checkpoints" / f"step_{step:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "manifest.json").write_text(json.dumps({"progress": {"step": step, "done": done}, "sha256": {}}))

    for name in ("plain-0", "plain-1", "pkd-0"):
        mark(name, True)
    mark("pkd-1", False)
    rows, warnings = rows_of(capsys, runs)
    assert rows["pkd"]["gain"] == 4.0
    assert any(line.startswith(f"{runs / 'pkd-1'} is not finished: its AP is that of epoch ") for line in warnings)
    mark("pkd-0", False, step=8)  # a finished run that goes on with more epochs
    assert rows_of(capsys, runs)[0]["pkd"]["gain"] is None


def test_a_comparison_of_another_teacher_gives_no_gap(runs, tmp_path, capsys) -> None:
    """``comparison.json`` lies beside all runs of a folder, whether they were part of it or not."""
    rows = [
        {"name": name, "role": role, "AP": ap} for name, role, ap in (("x", "teacher", 90.0), ("y", "distilled", 8.0))
    ]
    (runs / "comparison.json").write_text(json.dumps(rows))
    found, _ = rows_of(capsys, runs)
    assert found["pkd"]["gap_closed"] == pytest.approx(4.5 / 9.0)
    (runs / "teacher-0" / "best" / "metrics.json").unlink()
    assert rows_of(capsys, runs)[0]["pkd"]["gap_closed"] is None


@pytest.mark.parametrize("size", [None, [800, 1333]])
def test_a_teacher_of_an_earlier_comparison_may_have_been_evaluated_at_the_students_size(
    size, tmp_path, capsys
) -> None:
    write(tmp_path / "plain", 20.0, name="plain")
    write(tmp_path / "pkd", 24.0, name="pkd", distill={"teacher": "gfl_r101.coco_ms2x", "methods": {"pkd": {}}})
    teacher = {"name": "gfl_r101", "role": "teacher", "AP": 30.0} | ({} if size is None else {"image_size": size})
    own = {"name": "pkd", "role": "distilled", "AP": 24.0, "teacher": "gfl_r101"}
    (tmp_path / "comparison.json").write_text(json.dumps([teacher, own]))
    rows, warnings = rows_of(capsys, tmp_path)
    assert rows["pkd"]["gap_closed"] == pytest.approx(0.4)
    said = [line for line in warnings if "comparison.json is of an earlier version" in line]
    assert len(said) == (size is None)


def test_folders_without_a_run_are_named(runs, tmp_path, capsys) -> None:
    (tmp_path / "notes").mkdir()
    assert "no evaluated run to compare" in fails(capsys, "compare", tmp_path / "notes")
    (tmp_path / "file.json").write_text("{}")
    code, _, err = run(capsys, "compare", runs, tmp_path / "notes", tmp_path / "gone", tmp_path / "file.json")
    assert code == 0 and "notes holds no run" in err and f"there is no folder {tmp_path / 'gone'}" in err
    assert "file.json" not in err and "no evaluated run to compare" in fails(capsys, "compare", tmp_path / "file.json")


def update(path: Path, **values: Any) -> None:
    """Replace fields of a JSON file, or write it; None deletes a field."""
    content = {**(json.loads(path.read_text()) if path.is_file() else {}), **values}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


@pytest.mark.parametrize("name", ["teacher-0", "local-dir:teacher-0", "teacher-0/best", "own"])
def test_the_gap_is_that_to_the_detector_that_taught(name, runs, capsys) -> None:
    """The folder of a run stands for its best student; its own ``metrics.json`` is of the last epoch."""
    (runs / "teacher-0" / "best" / "config.json").write_text("{}")
    update(runs / "teacher-0" / "best" / "metrics.json", AP=51.0)
    (runs / "own").mkdir()  # as pkdzoo distill leaves it: the student of its folder is a teacher, too
    (runs / "own" / "distill.json").write_text("{}")
    shutil.copytree(runs / "teacher-0", runs / "own" / "distilled")
    prefix, _, folder = name.rpartition(":")
    teacher = f"{prefix}:{runs / folder}" if prefix else str(runs / folder)
    for seed in (0, 1):
        update(runs / f"pkd-{seed}" / "recipe.json", distill={"teacher": teacher, "methods": {"pkd": {}}})
    rows, _ = rows_of(capsys, *(runs / f"{role}-{seed}" for role in ("plain", "pkd") for seed in (0, 1)))
    assert rows["pkd"]["gap_closed"] == pytest.approx(4.5 / 30.0)
    run_of_teacher = runs / "own" / "distilled" if name == "own" else runs / "teacher-0"
    assert rows_of(capsys, run_of_teacher, runs / "pkd-0")[0]["teacher"]["role"] == "teacher"
    (runs / "teacher-0" / "best" / "config.json").unlink()  # the AP of a detector that is gone is not that of its run
    if name == "teacher-0":
        assert rows_of(capsys, runs / "plain-0", runs / "pkd-0")[0]["pkd"]["gap_closed"] is None


def test_annotations_in_several_files_are_told_apart_by_the_hash_of_the_run(runs, capsys) -> None:
    """YOLO, labelme and XML folders have no annotation file, whose hash ``metrics.json`` would hold."""
    folders = [runs / "plain-0", runs / "pkd-0"]
    for folder in (*folders, runs / "teacher-0" / "best"):
        update(folder / "metrics.json", annotations_sha256=None)
    for folder in (*folders, runs / "teacher-0"):
        update(folder / "run.json", data={"train_sha256": "t", "val_sha256": "v", "val_truth_sha256": "w"})
    rows, warnings = rows_of(capsys, *folders)
    assert rows["pkd"]["gain"] == 4.0 and rows["pkd"]["gap_closed"] == pytest.approx(0.4)
    assert len(warnings) == 1 and "one seed" in warnings[0]
    update(runs / "teacher-0" / "run.json", data={"val_sha256": "other"})
    assert rows_of(capsys, *folders)[0]["pkd"]["gap_closed"] is None
    for changed in ({"val_sha256": "x"}, {"val_truth_sha256": "x"}):
        data = {"train_sha256": "t", "val_sha256": "v", "val_truth_sha256": "w", **changed}
        update(runs / "plain-0" / "run.json", data=data)
        rows, warnings = rows_of(capsys, *folders)
        assert rows["pkd"]["gain"] is None and "distill=None and the same --data" in warnings[-1]
        assert any("different annotations" in line for line in warnings)
        shutil.copytree(runs / "plain-0", runs / "again")
        update(runs / "again" / "run.json", data=json.loads((runs / "pkd-0" / "run.json").read_text())["data"])
        assert not any("repeats" in line for line in rows_of(capsys, *folders, runs / "again")[1])
        assert rows_of(capsys, *folders, runs / "again")[0]["pkd"]["gain"] == 4.0
        shutil.rmtree(runs / "again")


def test_a_pair_that_was_trained_on_different_data_is_said(runs, capsys) -> None:
    for name in ("plain-0", "pkd-0", "plain-1"):
        update(runs / name / "run.json", data={"train_sha256": name})
    rows, warnings = rows_of(capsys, runs)
    assert rows["plain"]["AP_by_seed"] == {"0": 20.0, "1": 22.0}  # each seed may have a training set of its own
    (warning,) = (line for line in warnings if "trained on different" in line)
    assert warning.startswith("pkd and its plain student (seed 0) were trained on different images or boxes")


def test_a_teacher_in_a_published_folder_has_its_own_ap(runs, capsys) -> None:
    """It holds the recipe of its run, too, but is no run."""
    folder = runs / "teacher-0" / "best"
    (folder / "config.json").write_text("{}")
    shutil.copy(runs / "teacher-0" / "recipe.json", folder)
    assert rows_of(capsys, runs / "plain-0", runs / "pkd-0")[0]["pkd"]["gap_closed"] == pytest.approx(0.4)


def test_a_pair_whose_data_is_not_known_is_said(runs, capsys) -> None:
    for folder in (runs / "plain-0", runs / "pkd-0", runs / "teacher-0" / "best"):
        update(folder / "metrics.json", annotations_sha256=None)
    rows, warnings = rows_of(capsys, runs / "plain-0", runs / "pkd-0")
    assert rows["pkd"]["gain"] == 4.0
    assert any("pkd and its plain student (seed 0) may have been evaluated on different images" in w for w in warnings)
    assert any("pkd-0 and its teacher may have been evaluated on different images" in w for w in warnings)


def test_a_run_that_patience_ended_is_no_equal_budget(runs, capsys) -> None:
    update(runs / "plain-0" / "metrics.json", step=300)
    update(runs / "pkd-0" / "metrics.json", step=1200)
    _, warnings = rows_of(capsys, runs)
    (warning,) = (line for line in warnings if "steps" in line)
    assert warning.startswith("pkd was trained for 1200 steps and its plain student for 300 (seed 0): ")
    update(runs / "plain-0" / "metrics.json", step=1200)
    assert not any("steps" in line for line in rows_of(capsys, runs)[1])


def test_synchronized_norms_are_part_of_the_student(runs, capsys) -> None:
    update(runs / "plain-0" / "recipe.json", sync_norms=False)  # earlier versions did not write it
    assert rows_of(capsys, runs)[0]["pkd"]["gain"] == 4.5
    update(runs / "plain-0" / "recipe.json", sync_norms=True)
    rows, warnings = rows_of(capsys, runs / "plain-0", runs / "pkd-0")
    assert rows["pkd"]["gain"] is None and any("has no plain student" in line for line in warnings)
