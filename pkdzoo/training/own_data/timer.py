"""Measures the steps of a teacher and its students on their data, with batches that fit into the GPU's memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from pkdzoo.data import CocoDataset, UnlabeledImages
from pkdzoo.distill.task import Task
from pkdzoo.models.detector import Detector
from pkdzoo.training import build
from pkdzoo.training.own_data.budget import DISTILLED, TEACHER, Job
from pkdzoo.training.own_data.data import OwnData, data_places
from pkdzoo.training.own_data.settings import Machine
from pkdzoo.training.own_data.timing import Seconds, measure
from pkdzoo.training.recipe import Distill, Recipe

MEASURED_SHARE, MEASURED_SECONDS = 0.01, 3.0  # of --time, and at most, for the measured steps of one detector


@dataclass(frozen=True)
class Timer:
    """Measures the steps of several detectors on one data set.

    Attributes:
        data: of the run.
        machine: that trains.
        device: of the training.
        autocast: of forward passes; None for full precision.
        budget: seconds of ``--time``; more of it, more steps are measured.
    """

    data: OwnData
    machine: Machine
    device: torch.device
    autocast: Any = None
    budget: float | None = None

    def measure_all(self, jobs: Sequence[Job], teacher: Detector, distill: Distill) -> None:
        """Set ``seconds``, ``fixed`` and ``threads`` of each job; a smaller batch where a GPU's memory is too small.

        Args:
            jobs: their settings are changed.
            teacher: of the distilled student; the job ``teacher`` trains it.
            distill: of the distilled student's recipe.
        """
        dataset = training_images(jobs[-1].recipe(), self.data)
        unlabeled = unlabeled_images(jobs[-1].recipe(distill), self.data)
        for job in jobs:
            begin = time.monotonic()
            task: Task
            if job.name == TEACHER:
                own = job.recipe()
                task = build.build_task(own, teacher, None)
            else:
                own = job.recipe(distill if job.name == DISTILLED else None)
                student = build.build_student(own, self.data.classes)
                task = build.build_task(own, student, teacher.to(self.device))
            try:
                job.seconds = self.measure(own, task, dataset, unlabeled if job.name == DISTILLED else None)
                job.threads = torch.get_num_threads() if self.machine.thread_counts else None
            except torch.OutOfMemoryError:
                halve(jobs, self.machine)
                self.measure_all(jobs, teacher, distill)
                return
            job.fixed = time.monotonic() - begin

    def measure(
        self, recipe: Recipe, task: Task, dataset: CocoDataset, unlabeled: UnlabeledImages | None = None
    ) -> Seconds:
        """Time one task, see :func:`pkdzoo.training.own_data.timing.measure`."""
        least = 0.0 if self.budget is None else min(MEASURED_SHARE * self.budget, MEASURED_SECONDS)
        machine = self.machine
        return measure(
            recipe, task, dataset, machine.processes, self.device, self.autocast, least, unlabeled,
            machine.thread_counts,
        )  # fmt: skip


def halve(jobs: Sequence[Job], machine: Machine) -> None:
    """Halve the batch of all jobs, and their learning rates with it.

    Raises:
        ValueError: if a process has one image only.
    """
    for job in jobs:
        batch = job.settings.data.batch_size
        if batch <= machine.processes:
            raise ValueError(
                "one image per step does not fit into the GPU's memory: write --set data.short=..., --set "
                "data.long=... with smaller sides, --checkpoint-activations, or a smaller detector"
            )
        smaller = batch // 2 // machine.processes * machine.processes or machine.processes
        optim = replace(job.settings.optim, base_batch_size=smaller, lr=job.settings.optim.lr * smaller / batch)
        job.settings = replace(job.settings, data=replace(job.settings.data, batch_size=smaller), optim=optim)


def training_images(recipe: Recipe, data: OwnData) -> CocoDataset:
    """The training images as a recipe augments them."""
    paths = build.find_data(recipe.data, *data_places(data))
    return build.build_datasets(recipe, paths)[0]


def unlabeled_images(recipe: Recipe, data: OwnData) -> UnlabeledImages | None:
    """The unlabeled images of a recipe, if it has any."""
    if recipe.distill is None or recipe.distill.unlabeled is None:
        return None
    paths = build.find_data(recipe.data, *data_places(data))
    return build.build_unlabeled(recipe, *build.build_datasets(recipe, paths), paths.test)
