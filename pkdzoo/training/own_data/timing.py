"""Measures how long a training step, an evaluated image and a loaded image take on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from pkdzoo.data import CocoDataset, UnlabeledImages
from pkdzoo.distill.task import Task
from pkdzoo.ops.reduce import alone
from pkdzoo.training import build, threads
from pkdzoo.training.recipe import Recipe
from pkdzoo.training.timed_step import first_batch, train_step

STEPS, MOST_STEPS = 2, 20  # measured steps, after one that is not


@dataclass(frozen=True)
class Seconds:
    """Measured seconds.

    Attributes:
        step: forward and backward pass of one batch of one process, without loading it.
        evaluate: detection in one image.
        load: loading and augmenting one image, with the unlabeled ones that go with it.
    """

    step: float
    evaluate: float
    load: float

    def training(self, images: int, batch: int, workers: int) -> float:
        """Seconds to train on a number of images.

        Args:
            images: of one process.
            batch: images per step of one process.
            workers: loader processes; without any, a step waits for its images.
        """
        load = self.load * batch
        return images / batch * (max(self.step, load / workers) if workers else self.step + load)

    def evaluation(self, images: int, workers: int) -> float:
        """Seconds to evaluate a number of images."""
        return images * (max(self.evaluate, self.load / workers) if workers else self.evaluate + self.load)

    def slower_of(self, other: Seconds, factor: float) -> Seconds:
        """The larger of these seconds and ``factor`` times the other ones, for each of them."""
        return Seconds(
            max(self.step, factor * other.step), max(self.evaluate, factor * other.evaluate),
            max(self.load, factor * other.load),
        )  # fmt: skip


def measure(
    recipe: Recipe, task: Task, dataset: CocoDataset, processes: int, device: torch.device, autocast: Any = None,
    least: float = 0.0, unlabeled: UnlabeledImages | None = None, counts: Sequence[int] = (),
) -> Seconds:  # fmt: skip
    """Time a task on a batch of training images. The task is not to be trained afterward: its batch norms have moved.

    Args:
        recipe: its batch and augmentation.
        task: not wrapped; it is moved to ``device``.
        dataset: training images; their augmentation is fitted to the letterbox of the student.
        processes: of the training.
        device: of the training.
        autocast: of the forward pass; None for full precision.
        least: seconds for which steps are measured, after the first ones.
        unlabeled: images without annotations beside each batch.
        counts: numbers of CPU threads to choose from, most of them first; the best one is set, see
            :func:`pkdzoo.training.threads.set_fastest`. None of them leaves the number as it is.
    """
    build.fit_letterbox(recipe, task.student.letterbox, dataset, unlabeled)
    start = time.perf_counter()
    batch = first_batch(recipe, dataset, processes, unlabeled)
    load = (time.perf_counter() - start) / len(batch)
    task.to(device).train()
    batch = batch.to(device)
    step = train_step(task, batch, lambda: autocast or nullcontext())

    def detect() -> None:
        with autocast or nullcontext():
            task.student.detect(batch)

    with alone():  # other processes wait meanwhile, and take no part in reductions
        if counts:
            threads.set_fastest(step, counts)
        return Seconds(_seconds(step, device, STEPS, least), _seconds(detect, device, 1) / len(batch), load)


def _seconds(call: Callable[[], None], device: torch.device, times: int, least: float = 0.0) -> float:
    """Mean seconds of a call, after one that warms up: at least ``times`` calls and ``least`` seconds."""
    call()
    _wait(device)
    start, calls, passed = time.perf_counter(), 0, 0.0
    while calls < times or (passed < least and calls < MOST_STEPS):
        call()
        _wait(device)
        calls, passed = calls + 1, time.perf_counter() - start
    return passed / calls


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
