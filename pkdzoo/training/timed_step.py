"""A training step that can be timed: forward and backward pass of one batch of training images, without an update."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

import torch

from pkdzoo.data import CocoDataset, UnlabeledImages
from pkdzoo.distill.task import Task
from pkdzoo.structures import Batch
from pkdzoo.training import loaders
from pkdzoo.training.recipe import Recipe
from pkdzoo.training.task import losses_of


def first_batch(
    recipe: Recipe, dataset: CocoDataset, processes: int, unlabeled: UnlabeledImages | None = None
) -> Batch:
    """The first batch of a run on one of its processes, loaded in this process.

    Args:
        recipe: of the run.
        dataset: training images.
        processes: of the run.
        unlabeled: images without annotations beside each batch.
    """
    without_workers = replace(recipe, data=replace(recipe.data, workers=0))
    batch: Batch = next(iter(loaders.train_loader(without_workers, dataset, processes, unlabeled)[0]))
    return batch


def train_step(task: Task, batch: Batch, autocast: Callable[[], AbstractContextManager[object]]) -> Callable[[], None]:
    """A function that computes all gradients of a task and drops them; running statistics of norms move.

    Args:
        task: in training mode.
        batch: on the device of the task.
        autocast: gives the context of the forward pass.
    """

    def step() -> None:
        with autocast():
            losses = losses_of(task, batch)
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        task.zero_grad(set_to_none=True)

    return step
