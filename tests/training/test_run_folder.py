"""Folders of other runs are left alone."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest

from pkdzoo.training import resume, run_folder
from pkdzoo.training.recipe import Data, Distill, Optim, Recipe

RECIPE = Recipe("run", "retina_r18")


@pytest.fixture
def output(tmp_path):
    run_folder.open_output(tmp_path / "run", RECIPE, {"command": "train"})
    return tmp_path / "run"


@pytest.mark.parametrize("left", [".recipe.ab12cd34.json", "checkpoints", "data", ".lock"])
def test_a_run_that_was_killed_before_it_began_can_begin_again(tmp_path, left) -> None:
    run = tmp_path / "run"
    (run / left).mkdir(parents=True)
    run_folder.check_output(run, RECIPE, resume=False)
    run_folder.check_output(run, RECIPE, resume=True)
    (run / left / "something").write_text("")
    (run / "notes.txt").write_text("")
    with pytest.raises(ValueError, match="is not empty and holds no run"):
        run_folder.check_output(run, RECIPE, resume=True)


def test_whose_folder_it_is(output, tmp_path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_folder.check_output(output, RECIPE, resume=True)
        run_folder.check_output(tmp_path / "new", RECIPE, resume=False)
        run_folder.check_output(tmp_path / "new", RECIPE, resume=True)
    with pytest.raises(ValueError, match="continue it with --resume"):
        run_folder.check_output(output, RECIPE, resume=False)
    with pytest.raises(ValueError, match='model: "retina_r18" -> "retina_r50"'):
        run_folder.check_output(output, replace(RECIPE, model="retina_r50"), resume=True)
    with pytest.raises(ValueError, match=r"distill: null -> \{"):
        run_folder.check_output(output, replace(RECIPE, distill=Distill("retina_r50")), resume=True)
    with pytest.warns(UserWarning, match=r"optim\.lr: 0\.01 -> 0\.02"):
        run_folder.check_output(output, replace(RECIPE, optim=Optim(lr=0.02)), resume=True)
    for data in (Data(test=(640, 640)), Data(short=640)):
        with pytest.raises(ValueError, match=r"size of the val images: \(800, 1333\) -> .*--set data\.test=800,1333"):
            run_folder.check_output(output, replace(RECIPE, data=data), resume=True)
    with pytest.warns(UserWarning, match="data"):
        run_folder.check_output(output, replace(RECIPE, data=Data(short=640, test=(800, 1333))), resume=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        run_folder.check_output(tmp_path / "file", RECIPE, resume=False)


def test_a_teacher_may_lie_elsewhere_but_must_be_the_same(output, tmp_path) -> None:
    def taught(teacher: str, **more) -> Recipe:
        return replace(RECIPE, distill=Distill(teacher, **more))

    run = tmp_path / "taught"
    run_folder.open_output(run, taught("local-dir:/here/best"), {"teacher": {"teacher_sha256": "ab" * 32}})
    with pytest.warns(UserWarning, match=r"distill\.teacher: .*here/best.*there/best"):
        run_folder.check_output(run, taught("local-dir:/there/best"), resume=True)
    with pytest.warns(UserWarning, match=r"distill\.teacher: .*here/best.*there"):
        run_folder.check_output(run, taught("/there"), resume=True)  # a folder without a prefix
    for other in ("retina_r101.coco_2x", "local-dir:/there/best"):
        more = {"methods": {"fgd": {}}} if other.startswith("local") else {}
        with pytest.raises(ValueError, match="holds another run"):
            run_folder.check_output(run, taught(other, **more), resume=True)
    for same in ({"teacher": {"teacher_sha256": "ab" * 32}}, {"teacher": {"teacher_sha256": "abababab"}}, {}):
        resume.check_same_facts(run, same)
    with pytest.raises(ValueError, match="teacher weights of sha256 abababab, these have cdcdcdcd"):
        resume.check_same_facts(run, {"teacher": {"teacher_sha256": "cd" * 32}})
    (run / "recipe.json").write_text('{"name": 3')
    with pytest.raises(ValueError, match=r"recipe\.json is not JSON"):
        run_folder.check_output(run, RECIPE, resume=True)


def test_differences_names_fields_with_dots() -> None:
    old = {"a": {"b": 1, "c": [1, 2]}, "gone": None, "x": 1}
    assert resume.differences(old, {"a": {"b": 2, "c": [1, 2]}, "x": 1, "new": "w"}) == [
        "a.b: 1 -> 2",
        'new: null -> "w"',
    ]


def test_another_number_of_threads_is_said_because_it_may_change_the_last_digits(output) -> None:
    run_folder.open_output(output, RECIPE, {"threads": 1})
    with pytest.warns(UserWarning, match="--threads changed from 1 to 2: losses differ in their last digits"):
        resume.check_same_facts(output, {"threads": 2})
