"""The distilled students inside the package: their numbers are their runs', and they load without a network."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.scripts import ROOT

import pkdzoo
from pkdzoo.evaluation import METRICS
from pkdzoo.hub.fetch import PACKAGED
from pkdzoo.models._registry import find
from pkdzoo.training import load_recipes
from pkdzoo.training.intervals import paired
from pkdzoo.utils.files import sha256_of_file
from recipes.experiments import package_weights
from recipes.experiments import run as runner
from recipes.experiments.experiment_file import in_order, load_experiment
from recipes.experiments.generated_boards import defects, draw_board
from recipes.experiments.show_generated import DRAWINGS

RESULTS = ROOT / "recipes" / "experiments" / "results"


@dataclass(frozen=True)
class Student:
    """A packaged student: its name, the experiment that trained it, what a drawing of :data:`DRAWINGS` shows."""

    name: str
    student: str  # architecture
    teacher_arch: str
    method: str
    experiment: str
    teacher_run: str
    data: str
    seeds: tuple[int, ...]
    drawing: str
    drawn: dict[str, int]
    threshold: float
    slack: int  # how many objects of a class may be missed or found too often

    @property
    def teacher(self) -> str:
        return f"{self.teacher_arch}.{self.data}"

    def result(self, key: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((RESULTS / self.experiment / f"{key}.json").read_text())
        return found


DEFECTS = ("open", "short", "mousebite", "spur", "copper", "pin-hole")
CELLS = {"RBC": 14, "WBC": 2, "Platelets": 5}
RTMDET = ("rtmdet_w12", "rtmdet_tiny", "norm_cwd")
GFL = ("gfl_r10w16", "gfl_cspnext_tiny", "crosskd")
STUDENTS = [
    Student(
        "gfl_r10w16_crosskd_cspnext_tiny", *GFL, "gfl_bccd_120", "cspnext-0", "bccd", (0, 1, 2), "cells", CELLS,
        0.35, 0,
    ),
    Student(
        "rtmdet_w12_norm_cwd_tiny_640", *RTMDET, "rtmdet_deeppcb", "w24-0", "deeppcb", (0, 1, 2), "boards",
        dict.fromkeys(DEFECTS, 2), 0.45, 1,
    ),
]  # fmt: skip
each = pytest.mark.parametrize("student", STUDENTS, ids=lambda student: student.name)


def counted_off(seeds: tuple[int, ...]) -> str:
    """Seeds as a source names them."""
    *first, last = map(str, seeds)
    return f"seeds {', '.join(first)} and {last}" if first else f"seed {last}"


@each
def test_rows_say_what_their_runs_measured(student: Student) -> None:
    result = student.result
    entry, row = find(f"{student.name}.{student.data}")
    assert row is not None and entry.distilled is not None
    pair, teacher = entry.distilled, find(student.teacher)[1]
    assert teacher is not None and not teacher.has_source
    numbers, method = result(student.teacher_run)["metrics"], student.method
    assert teacher.source.endswith(f"{student.experiment}/{student.teacher_run}.json")
    assert f" --runs {student.teacher_run} " in teacher.launch
    assert teacher.metrics == {name: round(numbers[name], 1) for name in ("AP", "AP50", "AP75")}
    seeds = {name: [result(f"{name}-{seed}")["metrics"]["AP"] for seed in student.seeds] for name in ("plain", method)}
    aps = numbers["AP"], *(sum(found) / len(found) for found in seeds.values())
    assert pair.triple == tuple(round(ap, 1) for ap in aps)
    assert counted_off(student.seeds) in pair.source
    assert (pair.student, pair.teacher, pair.methods) == (student.student, student.teacher, (method,))
    # The run measured in bf16; the row, in float32, what a user loads. The slow test below measures it again.
    assert set(row.metrics) == {*METRICS, "per_class"} and f"evaluate.py {entry.name}.{row.tag}" in row.source
    assert row.metrics["AP"] == pytest.approx(result(f"{method}-0")["metrics"]["AP"], abs=0.2)
    assert f" --runs plain-0 {method}-0 " in row.launch
    keys = {"this student, seed 0": f"{method}-0", "plain student, seed 0": "plain-0", "teacher": student.teacher_run}
    for seed in student.seeds[1:]:
        keys |= {f"the same with seed {seed}": f"{method}-{seed}", f"plain student, seed {seed}": f"plain-{seed}"}
    curves = {name: result(key)["curve"] for name, key in keys.items()}
    epochs = tuple(point["epoch"] for point in curves["this student, seed 0"])
    expected = {name: tuple(round(point["AP"], 1) for point in curve) for name, curve in curves.items()}
    assert row.curves == {"epoch": epochs, **expected}


def test_what_a_remark_says_of_single_seeds() -> None:
    cells, boards = STUDENTS
    remarks = {student.name: find(student.name)[0].distilled.note for student in STUDENTS}
    longer = [
        student.result(f"plain_twice-{seed}")["metrics"]["AP"]
        for student, seed in ((boards, 0), (cells, 0), (cells, 1), (cells, 2))
    ]
    assert f"twice the epochs reached {longer[0]:.1f} AP (one seed)" in remarks[boards.name]
    assert (
        "twice the epochs reached {:.1f}, {:.1f} and {:.1f} AP (seeds 0, 1 and 2)".format(*longer[1:])
        in remarks[cells.name]
    )
    for student in (cells, boards):
        remark, names = remarks[student.name], (student.method, "plain")
        gain = paired(*({s: student.result(f"{name}-{s}")["metrics"]["AP"] for s in student.seeds} for name in names))
        assert gain is not None
        assert f"it is {gain.mean:+.1f} AP, with a 95 % interval from {gain.low:+.1f} to {gain.high:+.1f}" in remark
    curves = {
        name: {s: boards.result(f"{name}-{s}")["curve"][2] for s in boards.seeds} for name in (boards.method, "plain")
    }
    assert {point["epoch"] for curve in curves.values() for point in curve.values()} == {18}
    early = paired(*({s: point["AP"] for s, point in curve.items()} for curve in curves.values()))
    assert early is not None
    said = f"after 18 of the 24 epochs it is {early.mean:+.1f}, from {early.low:+.1f} to {early.high:+.1f}"
    assert said in remarks[boards.name]


@each
def test_its_card_shows_it_at_work(student: Student) -> None:
    """With a drawing, because the images of the data sets are not in this repository."""
    card = (ROOT / "hub_cards" / f"{student.name}.{student.data}.md").read_text()
    assert f"![Predictions](../recipes/assets/{student.drawing}.png)" in card
    assert (ROOT / "recipes" / "assets" / f"{student.drawing}.png").is_file()


def test_the_page_tells_the_means_of_the_seeds() -> None:
    page = " ".join((ROOT / "docs" / "zoo.md").read_text().split())
    means = [find(student.name)[0].distilled.triple[2] for student in STUDENTS]
    assert f"the means of the distilled students are {means[0]} (blood cells) and {means[1]} (circuit boards)" in page
    assert all(student.seeds == (0, 1, 2) for student in STUDENTS)


@each
def test_all_seeds_that_were_run_are_counted_and_no_gain_is_claimed_that_is_not_shown(student: Student) -> None:
    folder, names = RESULTS / student.experiment, (student.method, "plain")
    for name in names:
        assert student.seeds == tuple(sorted(int(path.stem[-1]) for path in folder.glob(f"{name}-[0-9].json")))
    aps = [{s: student.result(f"{name}-{s}")["metrics"]["AP"] for s in student.seeds} for name in names]
    gain, pair = paired(*aps), find(student.name)[0].distilled
    assert gain is not None and pair is not None
    assert pair.gain_shown == (gain.low > 0) and (pair.gap_closed is None) == (not pair.gain_shown)


@each
def test_the_architectures_are_those_of_the_runs(student: Student) -> None:
    """What is registered is what was trained: the same tensors, for images of the same size."""
    file = ROOT / "recipes" / "experiments" / f"{student.experiment}.py"
    recipes = {recipe.name: recipe for recipe in load_recipes(file)}
    distilled, teacher = (
        recipes[f"{student.experiment}_{run}"] for run in (student.method, student.teacher_run.removesuffix("-0"))
    )
    with torch.device("meta"):
        for name, recipe in ((student.name, distilled), (student.teacher_arch, teacher)):
            trained = pkdzoo.create_detector(recipe.model, num_classes=3, **recipe.model_args)
            ours = pkdzoo.create_detector(name, num_classes=3)
            shapes = [{key: value.shape for key, value in model.state_dict().items()} for model in (trained, ours)]
            assert shapes[0] == shapes[1]
    assert pkdzoo.create_detector(student.name).resize == distilled.data.eval_size
    words = pkdzoo.get_weights(student.name).launch.split()
    args = runner.parse_arguments(words[2:])
    assert (ROOT / words[1]).is_file() and (ROOT / args.experiment).is_file()
    keys = [run.key for run in in_order(load_experiment(ROOT / args.experiment), args.runs)]
    assert keys == [student.teacher_run, "plain-0", f"{student.method}-0"]
    assert student.result(f"{student.method}-0")["command"].endswith(" ".join(args.train))


@each
def test_it_loads_and_predicts_without_a_network(
    student: Student, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("it asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("PKDZOO_CACHE", str(tmp_path / "empty"))
    model = pkdzoo.create_detector(f"{student.name}.{student.data}", pretrained=True)
    row = pkdzoo.get_weights(student.name)
    assert row.tag == student.data and "package" in str(model.loaded_from)
    assert model.label_names == tuple(student.drawn) and not model.training
    assert {value.dtype for value in model.state_dict().values() if value.is_floating_point()} == {torch.float32}
    path = PACKAGED / str(row.file)
    assert path.stat().st_size <= 6e6 and sha256_of_file(path) == row.sha256
    assert not any((tmp_path / "empty").glob("*"))
    image = DRAWINGS[student.drawing]()
    found = model.predict(image, threshold=student.threshold)
    assert isinstance(found, pkdzoo.Result)
    assert all(abs(found.names.count(name) - count) <= student.slack for name, count in student.drawn.items())
    assert set(found.names) == set(student.drawn) and found.plot().size == image.size


def test_every_defect_is_found_where_it_is_drawn() -> None:
    student = STUDENTS[1]
    found = pkdzoo.create_detector(student.name, pretrained=True).predict(draw_board(), threshold=student.threshold)
    assert isinstance(found, pkdzoo.Result)
    for name, (x, y) in defects():
        x1, y1, x2, y2 = found.boxes.unbind(dim=1)
        inside = (x1 < x) & (x < x2) & (y1 < y) & (y < y2)
        assert [found.names[i] for i in inside.nonzero().flatten().tolist()] == [name], (name, x, y)


def test_the_gallery_says_how_many_boxes_call_a_wire_a_short() -> None:
    """Of the packaged student, the last number of each; the other two detectors are not in the package."""
    page = " ".join((ROOT / "docs" / "gallery.md").read_text().split())
    found = pkdzoo.create_detector(STUDENTS[1].name, pretrained=True).predict(draw_board(), threshold=0.3)
    assert isinstance(found, pkdzoo.Result)
    scores = [score for name, score in zip(found.names, found.scores.tolist(), strict=True) if name == "short"]
    boxes = {limit: sum(score >= limit for score in scores) - 2 for limit in (0.45, 0.4, 0.3)}
    assert boxes == {0.45: 1, 0.4: 5, 0.3: 13}
    assert "the distilled student with one. Scores of 0.45 and more" in page
    assert "with 0.4 there are five, seven and five such boxes, with 0.3 six, eleven and thirteen." in page


@each
def test_the_pair_distills_again(student: Student) -> None:
    pupil, teacher = pkdzoo.create_pair(student.name, pretrained=False)
    assert pupil.num_classes == teacher.num_classes == len(student.drawn)
    target = pkdzoo.Instances(torch.tensor([[10.0, 10.0, 60.0, 50.0]]), torch.tensor([2]))
    batch = pkdzoo.Batch(torch.rand(1, 3, 64, 96) * 255, [(64, 96)], [target])
    options, own = {
        "norm_cwd": ({}, {"loss_norm_cwd"}),
        "crosskd": ({}, {"loss_dfl", "loss_crosskd_cls", "loss_crosskd_box"}),
    }[student.method]
    losses = pkdzoo.Distiller(pupil.train(), teacher, {student.method: options})(batch)
    assert set(losses) == {"loss_cls", "loss_box", *own}
    with pytest.raises(ValueError, match=rf"'{student.teacher}' are known but not published .*: train them"):
        pkdzoo.create_pair(student.name)


@each
@pytest.mark.slow
def test_it_is_as_good_as_its_row_says(student: Student) -> None:
    data = Path(os.environ.get("PKDZOO_TEST_DATA", "nowhere")) / student.data
    if not data.is_dir():
        pytest.skip(f"set PKDZOO_TEST_DATA to a folder with {student.data}")
    found = package_weights.measured(pkdzoo.create_detector(student.name, pretrained=True), data)
    row = pkdzoo.get_weights(student.name).metrics
    assert found["AP"] == pytest.approx(row["AP"], abs=0.1)
    for name, value in row["per_class"].items():
        assert found["per_class"][name] == pytest.approx(value, abs=0.3)
