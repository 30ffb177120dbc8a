"""What is chosen for data, machine and time."""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import pkdzoo
from pkdzoo.training.arguments import MACHINE_OPTIONS, TrainArguments, add_machine_arguments
from pkdzoo.training.own_data import settings as choices
from pkdzoo.training.own_data import timer
from pkdzoo.training.own_data.arguments import DistillArguments, default_folder
from pkdzoo.training.own_data.budget import Job, fit_time, least_steps, planned_seconds
from pkdzoo.training.own_data.data import OwnData
from pkdzoo.training.own_data.plan import Plan
from pkdzoo.training.own_data.replan import say_if_late
from pkdzoo.training.own_data.settings import Machine, choose, parse_time
from pkdzoo.training.own_data.timer import Timer, halve
from pkdzoo.training.own_data.timing import Seconds
from pkdzoo.training.own_data.weights import Start, default_teacher, trainable_args
from pkdzoo.training.recipe import Distill, Recipe, override

DATA = OwnData("photos", None, None, None, ("cat", "dog"), 400, 100, (640, 480), 80.0, "0" * 16)
CPU, GPU = Machine("cpu", 2), Machine("gpu", 16)
SCRATCH, PRETRAINED = Start("retina_r18", {"norm": "gn"}, None, "retina"), Start("retina_r18", {}, "imagenet", "retina")
RTMDET = Start("rtmdet_tiny", {}, None, "rtmdet")


@pytest.mark.parametrize(
    ("text", "seconds"), [("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("90s", 90), ("5min", 300)]
)
def test_times(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "m", "-5m", "0s", "soon", "1d"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match=r"write e\.g\. 30m"):
        parse_time(text)


def test_images_are_as_large_as_their_objects_need() -> None:
    assert choices.choose_sides(DATA, "cpu", False) == (192, 256)
    assert choices.choose_sides(replace(DATA, box_side=20.0), "cpu", False) == (480, 640)
    assert choices.choose_sides(DATA, "cpu", True) == (256, 256)
    assert choices.choose_sides(DATA, "gpu", False) == (480, 640)
    assert choices.choose_sides(replace(DATA, size=(4000, 3000)), "gpu", False) == (1024, 1333)
    assert choices.choose_sides(replace(DATA, size=(100, 60)), "cpu", False) == (96, 128)


def test_a_batch_is_shared_evenly_and_leaves_several_steps_per_epoch() -> None:
    assert choices.choose_batch(400, CPU) == 4
    assert choices.choose_batch(400, GPU) == 16
    assert choices.choose_batch(1, CPU) == 1
    assert choices.choose_batch(400, Machine("gpu", 16, 3)) == 15
    assert choices.choose_batch(10, Machine("cpu", 2, 2)) == 2


def test_pretrained_weights_get_published_rates_and_fewer_epochs() -> None:
    scratch, pretrained = choose(DATA, SCRATCH, CPU), choose(DATA, PRETRAINED, CPU)
    assert pretrained.optim.lr == 0.01 * 4 / 16 and scratch.optim.lr == 0.01
    assert scratch.schedule.epochs > pretrained.schedule.epochs >= choices.EPOCHS[0]
    assert choose(DATA, PRETRAINED, GPU).optim.lr == 0.01


def test_rtmdet_gets_squares_adamw_an_average_and_mosaic_in_long_runs() -> None:
    short = choose(replace(DATA, train_images=4000), RTMDET, CPU)
    assert short.data.short == short.data.long and short.optim.kind == "adamw" and short.optim.ema is not None
    assert short.data.mix is not None and short.data.mix.mosaic == 0
    long = choose(replace(DATA, train_images=50), RTMDET, CPU)
    assert long.data.mix is not None and long.data.mix.mosaic == 1 and long.schedule.epochs >= choices.MOSAIC_EPOCHS


@pytest.mark.parametrize("images", [1, 2, 13, 400, 100_000])
@pytest.mark.parametrize("start", [SCRATCH, PRETRAINED, RTMDET], ids=["scratch", "pretrained", "rtmdet"])
def test_every_choice_is_a_valid_recipe(images: int, start: Start) -> None:
    for machine in (CPU, GPU, Machine("gpu", 4, 8)):
        settings = choose(replace(DATA, train_images=images), start, machine)
        recipe = Job("a", start, settings).recipe()
        assert override(recipe, []) == recipe
        warmup = recipe.schedule.warmup
        steps = recipe.schedule.epochs * math.ceil(images / recipe.data.batch_size)
        assert warmup is not None and warmup.steps <= max(1, steps // 8)


def timed(names: tuple[str, ...] = ("plain", "distilled"), step: float = 0.5) -> list[Job]:
    return [Job(name, SCRATCH, choose(DATA, SCRATCH, CPU), Seconds(step, 0.05, 0.01), 5.0) for name in names]


@pytest.mark.parametrize("minutes", [5, 20, 120])
def test_a_time_is_kept_by_equal_budgets(minutes: float) -> None:
    said: list[str] = []
    jobs = timed()
    fit_time(jobs, DATA, CPU, 60 * minutes, 10.0, said.append)
    seconds = sum(planned_seconds(job, DATA, CPU) for job in jobs)
    assert seconds <= 0.9 * 60 * minutes
    assert jobs[0].settings == jobs[1].settings and jobs[0].settings.schedule.max_steps is None
    epoch = sum(planned_seconds(job, DATA, CPU) for job in timed()) / timed()[0].settings.schedule.epochs
    assert seconds > 0.9 * 60 * minutes - 2 * epoch - 20
    assert "about" in said[-1] and "plain" in said[-1]


def test_a_time_too_short_for_an_epoch_trains_fewer_steps_and_says_so() -> None:
    said: list[str] = []
    jobs = timed()
    fit_time(jobs, DATA, CPU, 90.0, 0.0, said.append)
    schedule = jobs[0].settings.schedule
    assert schedule.epochs == 1 and schedule.max_steps is not None and 1 <= schedule.max_steps < 100
    assert (
        f"too short for an epoch of everything, which takes 2 min: {schedule.max_steps} steps each instead" in said[0]
    )
    fit_time(jobs, DATA, CPU, 1.0, 0.0, said.append)
    assert jobs[0].settings.schedule.max_steps == 1
    assert "LONGER than --time 1 s" in said[-1]


def test_students_keep_a_third_of_their_steps_when_the_time_is_used_up() -> None:
    said: list[str] = []
    jobs = timed()
    fit_time(jobs, DATA, CPU, 1200.0, 10.0, said.append)
    planned = jobs[1].settings.schedule.epochs
    fewest = least_steps(jobs[1].recipe(), DATA)
    fit_time(jobs, DATA, CPU, 1200.0, 1190.0, said.append, fewest)
    assert [job.settings.schedule.epochs for job in jobs] == [math.ceil(planned / 3)] * 2
    assert "LONGER than --time 20 min" in said[-1] and jobs[0].settings.schedule.max_steps is None
    jobs[0].settings = choices.with_epochs(jobs[0].settings, DATA, SCRATCH, CPU, 1)
    fit_time(jobs, DATA, CPU, 1200.0, 1190.0, said.append, least_steps(jobs[0].recipe(), DATA))
    assert [job.settings.schedule.max_steps for job in jobs] == [34, 34]
    assert "10 s of 20 min are too short for an epoch of everything" in said[-3]


def test_a_late_plain_student_is_told() -> None:
    said: list[str] = []
    plan = Plan(DATA, None, {}, seconds=600.0, planned={"plain": 100.0, "distilled": 150.0})
    say_if_late(plan, 300.0, 190.0, said.append)
    assert not said
    say_if_late(plan, 400.0, 200.0, said.append)
    (line,) = said
    assert "200 s of --time are left" in line or "3 min of --time are left" in line
    assert "needs about 5 min" in line and "only equal budgets can be compared" in line


def test_the_machine_options_of_a_run_are_options_here() -> None:
    args = DistillArguments(Path("photos"), "retina_r50")
    parser = argparse.ArgumentParser(add_help=False)
    add_machine_arguments(parser)
    assert vars(parser.parse_args([])).keys() == set(MACHINE_OPTIONS)
    for name in MACHINE_OPTIONS:
        assert getattr(args, name) == getattr(TrainArguments(Path("recipe.py")), name)


def test_loaders_where_loading_takes_long() -> None:
    job = timed()[0]
    fit_time([job], DATA, CPU, None, 0.0, print)
    assert job.settings.data.workers == 0
    job.seconds = Seconds(0.1, 0.01, 0.1)
    fit_time([job], DATA, GPU, None, 0.0, print)
    assert job.settings.data.workers == 8


def test_a_smaller_batch_has_a_smaller_rate() -> None:
    jobs = timed()
    halve(jobs, CPU)
    assert jobs[1].settings.data.batch_size == 2 and jobs[1].settings.optim.lr == 0.005
    halve(jobs, CPU)
    with pytest.raises(ValueError, match="one image per step does not fit"):
        halve(jobs, CPU)


def test_everything_is_measured_again_with_half_the_batch_when_memory_runs_out(monkeypatch) -> None:
    measured: list[tuple[str, int]] = []

    def measure(recipe: Recipe, *_: object) -> Seconds:
        measured.append((recipe.name, recipe.data.batch_size))
        if measured[-1] == ("distilled", 4):
            raise torch.OutOfMemoryError
        return Seconds(1.0, 0.1, 0.1)

    monkeypatch.setattr(timer, "measure", measure)
    monkeypatch.setattr(timer, "training_images", lambda *_: None)
    monkeypatch.setattr(timer.build, "build_student", lambda *_: None)
    monkeypatch.setattr(timer.build, "build_task", lambda *_: None)
    jobs = [Job(name, SCRATCH, choose(DATA, SCRATCH, CPU)) for name in ("plain", "distilled")]
    teacher = pkdzoo.create_detector("retina_r10w16")
    Timer(DATA, CPU, torch.device("cpu")).measure_all(jobs, teacher, Distill("retina_r101", {"pkd": {}}))
    assert measured == [("plain", 4), ("distilled", 4), ("plain", 2), ("distilled", 2)]
    assert [job.seconds for job in jobs] == [Seconds(1.0, 0.1, 0.1)] * 2


def test_teachers_are_larger_detectors_of_the_family() -> None:
    assert default_teacher("rtmdet_tiny_yolo") == "rtmdet_s_yolo"
    assert default_teacher("retina_r50_pkd_swin") == default_teacher("retina_r50.coco_2x") == "retina_r101"
    with pytest.raises(ValueError, match="write --teacher NAME"):
        default_teacher("rtmdet_x")
    assert default_teacher("gfl_r18w64") == "gfl_r50"  # the tiny detectors' teacher is not its own


def test_norms_learn_from_scratch() -> None:
    assert trainable_args("faster_rcnn_r18") == {"norm": "gn", "frozen_stages": 0}
    assert trainable_args("retina_r10w16") == {}


@pytest.mark.parametrize(
    ("max_steps", "said"),
    [
        (None, "3 epochs of 400 images, evaluated after every 2 of them and at the end"),
        (999, "3 epochs of 400 images, evaluated after every 2 of them and at the end"),  # the epochs end first
        (150, "150 steps of 400 images, evaluated after every 2 epochs and at the end"),
        (99, "99 steps, less than an epoch of 400 images, evaluated at the end"),
    ],
)
def test_the_length_is_told_as_it_is(max_steps: int | None, said: str) -> None:
    """``--set schedule.max_steps=N`` may be more than an epoch."""
    settings = choose(DATA, SCRATCH, CPU)
    own = replace(settings.schedule, epochs=3, max_steps=max_steps), replace(settings.logging, eval_every=2)
    recipe = Recipe("plain", "retina_r18", {}, None, settings.data, settings.optim, own[0], None, own[1])
    assert choices.describe(recipe, DATA, CPU)[-1] == f"schedule  {said}"


def test_a_run_is_named_after_folders_even_when_they_are_given_as_a_dot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine" / "photos").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "mine")
    assert default_folder(".", "photos") == Path("runs/mine-photos")
    assert default_folder("photos/..", Path("photos/.")) == Path("runs/mine-photos")
    assert default_folder("rtmdet_tiny.coco_300e", "data.yaml") == Path("runs/rtmdet_tiny.coco_300e-data")
