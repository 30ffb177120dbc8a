"""Warnings of schedules that do not fit the length of a run: of the rate, of mosaic and mixup, and of methods."""

from __future__ import annotations

from typing import cast

from pkdzoo.distill import Distiller
from pkdzoo.distill.base import DistillMethod
from pkdzoo.distill.task import Task
from pkdzoo.training.recipe import Data, Recipe, Schedule
from pkdzoo.utils.text import counted


def schedule_warnings(recipe: Recipe, task: Task, steps: int, epochs: int) -> list[str]:
    """All warnings of this file; none for a run that max_steps cuts, which is a test of something else.

    Args:
        recipe: of the run.
        task: its methods have schedules of their own.
        steps: optimizer steps of the whole run.
        epochs: of the whole run.
    """
    if recipe.schedule.max_steps is not None:
        return []
    return [
        *rate_warnings(recipe.schedule, steps, epochs),
        *mix_warnings(recipe.data, epochs),
        *method_warnings(task, steps, epochs),
    ]


def rate_warnings(schedule: Schedule, steps: int, epochs: int) -> list[str]:
    """Of a warmup that takes much of the run, and of milestones after its end."""
    warnings, warmup = [], schedule.warmup
    if warmup is not None and warmup.steps > steps / 3:
        warnings.append(
            f"the warmup takes {warmup.steps} of {counted(steps, 'step')}"
            + (", so the learning rate is never reached" if warmup.steps > steps else "")
            + f": write --set schedule.warmup.steps={max(1, steps // 10)}"
        )
    late = [epoch for epoch in schedule.milestones if epoch >= epochs] if schedule.decay == "step" else []
    if late:
        warnings.append(
            f"the learning rate falls after {' and '.join(map(str, late))} epochs, and the run has {epochs}: write "
            f"--set schedule.milestones={epochs * 2 / 3:.3g},{epochs * 11 / 12:.3g}"
        )
    return warnings


def mix_warnings(data: Data, epochs: int) -> list[str]:
    """Of mosaic and mixup that are off in every epoch of the run."""
    mix = data.mix
    if mix is None or mix.last_epochs < epochs or not (mix.mosaic or mix.mixup):
        return []
    return [
        f"mosaic and mixup are off in the last {counted(mix.last_epochs, 'epoch')}, and the run has {epochs}: write "
        f"--set data.mix.last_epochs={epochs // 10}"
    ]


def method_warnings(task: Task, steps: int, epochs: int) -> list[str]:
    """Of methods that would end after the run does, and of weights that rise or begin late in it."""
    warnings = []
    for name, part in task.methods.items():
        method = cast(DistillMethod, part)
        if method.stop_epoch is not None and method.stop_epoch > epochs:
            warnings.append(
                f"{name} ends after {counted(method.stop_epoch, 'epoch')}, and the run has {epochs}, so it never ends: "
                f"write --set distill.methods.{name}.stop_epoch={max(1, epochs * 14 // 15)}, or none"
            )
        schedule = task.schedules[name] if isinstance(task, Distiller) else "constant"
        kind, _, number = schedule.partition(":")
        if kind not in ("warmup", "delay") or int(number) <= steps / 3:
            continue
        what = "begins after" if kind == "delay" else "reaches its full weight after"
        never = ", so the student is nearly the plain one" if int(number) >= steps else ""
        warnings.append(
            f"{name} {what} {number} of {counted(steps, 'step')}{never}: write "
            f"--set distill.methods.{name}.schedule={kind}:{max(1, steps // 10)}"
        )
    return warnings
