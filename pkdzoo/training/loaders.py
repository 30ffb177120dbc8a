"""The loaders of a training run: batches of labeled and unlabeled images, and of validation images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from pkdzoo.data import AspectBatchSampler, CocoDataset, UnlabeledImages, collate
from pkdzoo.data.image_dataset import ImageDataset
from pkdzoo.data.sampler import PairedBatchSampler
from pkdzoo.data.unlabeled import PairedDataset, collate_both
from pkdzoo.structures import Batch
from pkdzoo.training.recipe import Recipe
from pkdzoo.training.signals import LoaderSignals, loader_context
from pkdzoo.utils.text import counted


def batch_per_process(recipe: Recipe, processes: int) -> int:
    """Images per forward pass of one process.

    Raises:
        ValueError: if the recipe's total batch cannot be divided evenly.
    """
    parts = processes * recipe.optim.accumulate
    if recipe.data.batch_size % parts:
        raise ValueError(
            f"a batch of {recipe.data.batch_size} cannot be divided by {counted(processes, 'process')} x "
            f"{counted(recipe.optim.accumulate, 'accumulated pass')}: write e.g. --set data.batch_size="
            f"{-(-recipe.data.batch_size // parts) * parts}"
        )
    return recipe.data.batch_size // parts


def unlabeled_per_pass(recipe: Recipe, processes: int) -> int:
    """Unlabeled images per forward pass of one process; 0 without any, else at least one."""
    unlabeled = recipe.distill.unlabeled if recipe.distill is not None else None
    if unlabeled is None:
        return 0
    return max(1, math.floor(unlabeled.ratio * batch_per_process(recipe, processes) + 0.5))


def train_loader(
    recipe: Recipe, dataset: CocoDataset, processes: int, unlabeled: UnlabeledImages | None = None
) -> tuple[DataLoader[Batch], AspectBatchSampler | PairedBatchSampler]:
    """Batches in the order of (seed, epoch), and their sampler, on which the epoch has to be set.

    Args:
        recipe: of the run.
        dataset: training images.
        processes: number of training processes.
        unlabeled: images without annotations, which then come with each batch.
    """
    sampler = AspectBatchSampler(_groups(recipe, dataset), batch_per_process(recipe, processes), seed=recipe.seed)
    if unlabeled is None:
        return _loader(dataset, recipe.data.workers, batch_sampler=sampler), sampler
    paired = PairedBatchSampler(sampler, _groups(recipe, unlabeled), unlabeled_per_pass(recipe, processes))
    both = PairedDataset(dataset, unlabeled)
    return _loader(both, recipe.data.workers, collate_both, batch_sampler=paired), paired


def _groups(recipe: Recipe, dataset: ImageDataset) -> torch.Tensor:
    """The aspect group of each image; with mosaic and mixup all images become squares."""
    return dataset.aspect_groups() if recipe.data.mix is None else torch.zeros(len(dataset))


def set_epoch(epoch: int, loader: Any, datasets: Sequence[ImageDataset], sampler: Any) -> None:
    """Set the epoch of a loader prepared by Accelerate, of its data sets and of its sampler.

    All are needed: Accelerate's loader counts epochs itself, from 0 after a resume, and does not pass its count to the
    sampler.
    """
    loader.set_epoch(epoch)
    for dataset in datasets:
        dataset.set_epoch(epoch)
    sampler.set_epoch(epoch)


def val_loader(dataset: CocoDataset, batch: int, workers: int) -> DataLoader[Batch]:
    """Batches in the order of the annotation file, the same for any number of processes."""
    return _loader(dataset, workers, batch_size=batch)


def _loader(dataset: Any, workers: int, collate_fn: Any = collate, **kwargs: Any) -> DataLoader[Batch]:
    # Without its own generator, each epoch's start would draw from the global one, and a run resumed within an epoch
    # would draw once more than an uninterrupted run.
    generator = torch.Generator().manual_seed(0)
    return DataLoader(
        dataset,
        collate_fn=collate_fn,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=LoaderSignals() if workers else None,
        multiprocessing_context=loader_context() if workers else None,
        generator=generator,
        pin_memory=torch.cuda.is_available(),
        **kwargs,
    )
