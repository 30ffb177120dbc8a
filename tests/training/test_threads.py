"""The number of threads of a run without a GPU."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn

import pkdzoo
from pkdzoo.data import make_shapes
from pkdzoo.training import Data, Distill, Recipe, build, threads
from pkdzoo.training.own_data.settings import Machine
from pkdzoo.training.threads import choose_threads, limit_threads, set_fastest

RECIPE = Recipe(
    "tiny",
    "retina_r10w16",
    model_args={"norm": "bn"},
    data=Data(short=64, long=96, batch_size=2, workers=0, min_image_size=0),
    distill=Distill("fcos_r10w16", {"mgd": {}}, teacher_weights="random", teacher_args={"num_classes": 6}),
)


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("shapes") / "data", train=4, val=2, size=(64, 96))


def slow_with(*counts: int) -> Callable[[], None]:
    """A step that is slow with these numbers of threads."""
    return lambda: time.sleep(0.02 if torch.get_num_threads() in counts else 0.001)


def parts_of(recipe: Recipe, shapes: Path) -> tuple[Any, Any]:
    dataset, _ = build.build_datasets(recipe, build.find_data(recipe.data, shapes))
    student = build.build_student(recipe, dataset.label_names)
    teacher = build.build_teacher(recipe.distill, dataset.label_names) if recipe.distill else None
    return build.build_task(recipe, student, teacher), dataset


def choose(recipe: Recipe, shapes: Path, steps: int, given: int | None = None, folder: Path | None = None) -> Any:
    task, dataset = parts_of(recipe, shapes)
    return choose_threads(recipe, task, dataset, steps, Accelerator(cpu=True), given, folder)


@pytest.mark.parametrize(("slow", "best"), [((1,), 2), ((2,), 1), ((), 1)])
def test_the_fastest_number_is_set_and_one_thread_where_they_are_equal(slow, best) -> None:
    seconds = set_fastest(slow_with(*slow), [2, 1])
    assert torch.get_num_threads() == best and set(seconds) == {1, 2}


def test_a_very_slow_step_takes_all_threads_without_more_measurements(monkeypatch) -> None:
    monkeypatch.setattr(threads, "SLOW_STEP", 0.0)
    calls: list[int] = []
    assert set_fastest(lambda: calls.append(torch.get_num_threads()), [2, 1]) == {}
    assert calls == [2] and torch.get_num_threads() == 2


def test_a_measurement_changes_nothing_that_the_run_computes_with(shapes, monkeypatch) -> None:
    """Parameters, gradients, running statistics, modes, and the random states of torch."""
    task, dataset = parts_of(RECIPE, shapes)
    task.eval()
    state, random = {key: value.clone() for key, value in task.state_dict().items()}, torch.get_rng_state()
    modes = [module.training for module in task.modules()]
    steps: list[nn.Module] = []
    original = threads.train_step

    def watched(copied: nn.Module, *rest: Any) -> Any:
        steps.append(copied)
        return original(copied, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(threads, "train_step", watched)
    torch.set_num_threads(1)  # on a busy machine steps of two threads take seconds: two are only said to be there
    tried: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", tried.append)
    note = choose_threads(RECIPE, task, dataset, 100, Accelerator(cpu=True), None)
    monkeypatch.undo()
    assert "a step was measured" in str(note) and tried[:3] == [2, 2, 1] and tried[3] in (1, 2)
    moved = steps[0].state_dict()
    assert any(not torch.equal(value, moved[key]) for key, value in state.items())  # running statistics of the copy
    assert all(torch.equal(value, task.state_dict()[key]) for key, value in state.items())
    assert all(parameter.grad is None for parameter in task.parameters())
    assert torch.equal(random, torch.get_rng_state())
    assert modes == [module.training for module in task.modules()] and dataset.skipped == 0


def test_what_is_not_measured(shapes, tmp_path, monkeypatch) -> None:
    """A given number, a short run, a resumed run, and a method that first has to see all images."""
    monkeypatch.setattr(threads, "train_step", lambda *_: pytest.fail("a step was measured"))
    monkeypatch.setattr(threads, "TINY_PIXELS", 0)
    assert choose(RECIPE, shapes, 1000, given=2) is None
    assert choose(RECIPE, shapes, 99) is None and torch.get_num_threads() == 2
    twin = Distill("retina_r10w16", {"global_knowledge": {"smallest": 4, "prototypes": 2}}, teacher_weights="random")
    prepared = replace(RECIPE, distill=replace(twin, teacher_args={"num_classes": 6}))
    assert choose(prepared, shapes, 1000) is None
    (tmp_path / "run.json").write_text(json.dumps({"threads": 1}))
    assert "as the run began" in choose(RECIPE, shapes, 1000, folder=tmp_path)
    assert torch.get_num_threads() == 1


def test_pkdzoo_distill_measures_one_cpu_process_without_a_given_number() -> None:
    assert Machine("cpu", 8).thread_counts == [8, 4, 1]
    assert Machine("cpu", 8, processes=2).thread_counts == Machine("gpu", 8).thread_counts == []
    assert Machine("cpu", 8, threads=8).thread_counts == []


@pytest.mark.parametrize(
    ("name", "pixels", "expected"),
    [("fcos_r10w16", 8 * 128 * 160, 1), ("fcos_r18w24", 8 * 128 * 160, 2), ("fcos_r10w16", 2 * 800 * 1344, 2)],
)
def test_without_a_measurement_a_tiny_detector_on_small_images_is_limited(name, pixels, expected) -> None:
    note = limit_threads(pkdzoo.create_detector(name), pixels)
    assert torch.get_num_threads() == expected
    assert (note is not None) == (expected == 1)
