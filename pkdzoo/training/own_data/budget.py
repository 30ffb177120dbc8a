"""Fits the training of several detectors into a time, all for equally many epochs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pkdzoo.training.log import duration
from pkdzoo.training.own_data import settings as choices
from pkdzoo.training.own_data.data import OwnData, Say
from pkdzoo.training.own_data.settings import Machine, Settings
from pkdzoo.training.own_data.timing import Seconds
from pkdzoo.training.own_data.weights import Start
from pkdzoo.training.recipe import Distill, Recipe, override
from pkdzoo.utils.text import counted

TEACHER, PLAIN, DISTILLED = "teacher", "plain", "distilled"  # names of the recipes
USED_TIME = 0.9  # share of --time that is planned; the rest is for building, checking and saving
MOST_EPOCHS = 300  # with --time
FEWEST = 1 / 3  # share of the planned steps that a student gets at least, after a teacher that took too long


@dataclass
class Job:
    """A detector that is to be trained: its start and settings, and what a step of it takes.

    Attributes:
        name: of its recipe.
        start: the detector and its initial weights.
        settings: without ``assignments``.
        seconds: measured; None before it is measured.
        fixed: seconds of building and checking it.
        assignments: ``--set`` options.
        threads: CPU threads with which a step was fastest; None where they were not measured.
    """

    name: str
    start: Start
    settings: Settings
    seconds: Seconds | None = None
    fixed: float = 0.0
    assignments: Sequence[str] = field(default_factory=tuple)
    threads: int | None = None

    def recipe(self, distill: Distill | None = None) -> Recipe:
        """Its recipe; only the distilled student takes assignments to fields of ``distill``."""
        own = self.settings
        recipe = Recipe(
            self.name, self.start.model, dict(self.start.model_args), self.start.init, own.data, own.optim,
            own.schedule, distill, own.logging,
        )  # fmt: skip
        own_fields = [text for text in self.assignments if distill or not text.strip().startswith("distill.")]
        return override(recipe, own_fields)


def planned_seconds(job: Job, data: OwnData, machine: Machine) -> float:
    """Seconds that a job takes, from what was measured."""
    assert job.seconds is not None
    recipe = job.recipe()
    fields, schedule, logging = recipe.data, recipe.schedule, recipe.logging
    images = schedule.epochs * data.train_images
    if schedule.max_steps is not None:
        images = min(images, schedule.max_steps * fields.batch_size)
    each = max(1, fields.batch_size // machine.processes)
    evaluations = math.ceil(math.ceil(images / data.train_images) / logging.eval_every)
    training = job.seconds.training(math.ceil(images / machine.processes), each, fields.workers)
    return (
        job.fixed + training + evaluations * job.seconds.evaluation(math.ceil(data.val_images / machine.processes), 0)
    )


def fit_time(
    jobs: Sequence[Job], data: OwnData, machine: Machine, seconds: float | None, spent: float, say: Say, fewest: int = 1
) -> None:
    """Choose loader processes, and with a time budget the number of epochs, the same for all jobs.

    Args:
        jobs: measured; their settings are changed.
        data: of the run.
        machine: that trains.
        seconds: of ``--time``; None keeps the epochs.
        spent: seconds of it that are over already.
        say: is called with each line for the user.
        fewest: steps that each job gets, even if they take longer.
    """
    for job in jobs:
        job.settings = replace(job.settings, data=replace(job.settings.data, workers=loaders(job, machine)))
    if seconds is not None:
        _choose_length(jobs, data, machine, seconds, spent, say, fewest)
    planned = [planned_seconds(job, data, machine) for job in jobs]
    parts = ", ".join(f"{job.name} {duration(part)}" for job, part in zip(jobs, planned))
    say(f"time      about {duration(sum(planned))} ({parts}), from the measured time of a step")
    if seconds is not None and sum(planned) + spent > seconds:
        say(
            f"time      that is {duration(sum(planned) + spent)} in all, LONGER than --time {duration(seconds)}: with "
            "fewer steps nothing would be learned"
        )


def _choose_length(
    jobs: Sequence[Job], data: OwnData, machine: Machine, seconds: float, spent: float, say: Say, fewest: int
) -> None:
    """As many epochs as fit, or fewer steps than one; at least ``fewest`` steps."""

    def total(epochs: int, max_steps: int | None = None) -> float:
        for job in jobs:
            job.settings = choices.with_epochs(job.settings, data, job.start, machine, epochs, max_steps)
        return sum(planned_seconds(job, data, machine) for job in jobs)

    per_epoch = math.ceil(data.train_images / jobs[0].settings.data.batch_size)
    budget, least = USED_TIME * seconds - spent, total(1)
    if least > budget and fewest < per_epoch:
        steps = max(shorter_than_an_epoch(jobs, data, machine, budget), fewest)
        total(1, steps)
        left = duration(seconds) if not spent else f"{duration(max(0.0, seconds - spent))} of {duration(seconds)}"
        say(
            f"time      {left} are too short for an epoch of everything, which takes {duration(least)}: "
            f"{counted(steps, 'step')} "
            "each instead, so that a part of the images is never seen"
        )
        return
    at_least = max(1, math.ceil(fewest / per_epoch))
    fitting = (count for count in range(MOST_EPOCHS, at_least, -1) if total(count) <= budget)
    total(next(fitting, at_least))


def loaders(job: Job, machine: Machine) -> int:
    """Loader processes: none where loading is a small part of a step, else the cores that are left."""
    assert job.seconds is not None
    each = max(1, job.settings.data.batch_size // machine.processes)
    if job.seconds.load * each < 0.1 * job.seconds.step or machine.cores < 2:
        return 0
    return min(8 if machine.kind == "gpu" else 2, machine.cores - 1)


def shorter_than_an_epoch(jobs: Sequence[Job], data: OwnData, machine: Machine, budget: float) -> int:
    """Steps of each job that fit into a budget of less than an epoch, beside one evaluation each; at least one."""
    per_epoch = math.ceil(data.train_images / jobs[0].settings.data.batch_size)
    whole = sum(planned_seconds(job, data, machine) for job in jobs)
    images = math.ceil(data.val_images / machine.processes)
    fixed = sum(job.fixed + job.seconds.evaluation(images, 0) for job in jobs if job.seconds)
    step = (whole - fixed) / per_epoch
    return max(1, min(per_epoch, int((budget - fixed) / step))) if step > 0 else 1


def least_steps(recipe: Recipe, data: OwnData) -> int:
    """The fewest steps that a student gets when its time becomes short, of those that its recipe plans."""
    per_epoch = math.ceil(data.train_images / recipe.data.batch_size)
    return max(1, math.ceil(FEWEST * (recipe.schedule.max_steps or recipe.schedule.epochs * per_epoch)))
