"""Plans the students again when the teacher is trained and the rest of ``--time`` is known.

Plain and distilled student get equal budgets, so both are decided before the first one starts. Later nothing is
shortened: what takes longer is said in a line.
"""

from __future__ import annotations

from typing import Any

import torch

from pkdzoo.models._registry import find
from pkdzoo.training import build
from pkdzoo.training.log import duration
from pkdzoo.training.own_data.budget import DISTILLED, PLAIN, TEACHER, Job, fit_time, least_steps
from pkdzoo.training.own_data.data import Say
from pkdzoo.training.own_data.plan import Plan
from pkdzoo.training.own_data.settings import Machine, Settings
from pkdzoo.training.own_data.timer import Timer
from pkdzoo.training.own_data.timing import Seconds
from pkdzoo.training.own_data.weights import Start
from pkdzoo.training.recipe import Recipe
from pkdzoo.utils.text import counted


def replan(
    plan: Plan, elapsed: float, took: float | None, machine: Machine, device: torch.device, say: Say,
    autocast: Any = None,
) -> Plan:  # fmt: skip
    """Measure the students again and choose as many epochs for all of them as fit into what is left of ``--time``.

    Args:
        plan: with ``seconds``; its teacher is trained, none of its students is begun.
        elapsed: seconds of ``--time`` that are over.
        took: seconds that the teacher took; None if it was not trained as a whole in this process.
        machine: that trains.
        device: of the training.
        say: is called with each line for the user.
        autocast: of forward passes that are timed; None for full precision.
    """
    factor = 0.0 if took is None else took / max(plan.planned[TEACHER], 1e-9)
    jobs, data = [job_of(plan, name) for name in plan.students], plan.data
    earlier = [job.seconds for job in jobs]
    teacher = build.build_teacher(plan.distill, data.classes)
    Timer(data, machine, device, autocast, plan.seconds).measure_all(jobs, teacher, plan.distill)
    for job, before in zip(jobs, earlier):
        assert job.seconds is not None and before is not None
        job.seconds = job.seconds.slower_of(before, factor)
    if took is not None:
        say(f"time      the teacher took {duration(took)}, planned were {duration(plan.planned[TEACHER])}")
    old = plan.recipes[DISTILLED]
    fit_time(jobs, data, machine, plan.seconds, elapsed, say, least_steps(old, data))
    new = plan.with_jobs(jobs, plan.distill, machine)
    length = _length(new.recipes[DISTILLED])
    if length != _length(old):
        say(f"schedule  {length} for each student, in place of {_length(old)}")
    return new


def job_of(plan: Plan, name: str) -> Job:
    """A recipe of a plan as a job that was measured."""
    recipe, measured = plan.recipes[name], dict(plan.measured[name])
    start = Start(recipe.model, recipe.model_args, recipe.init, find(recipe.model)[0].family)
    settings = Settings(recipe.data, recipe.optim, recipe.schedule, recipe.logging)
    fixed = measured.pop("fixed")
    return Job(name, start, settings, Seconds(**measured), fixed, plan.assignments)


def say_if_late(plan: Plan, elapsed: float, plain_took: float, say: Say) -> None:
    """Say it when the distilled student, with the epochs of the plain one, does not fit into the rest of ``--time``."""
    if plan.seconds is None or PLAIN not in plan.planned:
        return
    needed = plan.planned[DISTILLED] * plain_took / max(plan.planned[PLAIN], 1e-9)
    left = plan.seconds - elapsed
    if needed > left:
        say(
            f"time      {duration(max(left, 0.0))} of --time are left, and the distilled student needs about "
            f"{duration(needed)}: the plain one took {duration(plain_took)}, planned were "
            f"{duration(plan.planned[PLAIN])}. It keeps the steps of the plain one, because only equal budgets can be "
            "compared"
        )


def _length(recipe: Recipe) -> str:
    steps, epochs = recipe.schedule.max_steps, recipe.schedule.epochs
    return counted(steps, "step") if steps is not None else counted(epochs, "epoch")
