"""Builds what a training run needs from its recipe: data sets, loaders, student, teacher and task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from pkdzoo.data import (
    AspectBatchSampler,
    CocoDataset,
    Compose,
    MixTransform,
    RandomCrop,
    RandomFlip,
    RandomZoom,
    Resize,
    UnlabeledImages,
    collate,
    eval_transform,
    find_split,
    make_shapes,
)
from pkdzoo.data.image_dataset import ImageDataset
from pkdzoo.data.letterbox import LetterboxResize
from pkdzoo.data.sampler import PairedBatchSampler
from pkdzoo.data.unlabeled import PairedDataset, collate_both
from pkdzoo.distill import Distiller
from pkdzoo.distill.adapters import is_of_other_library, teacher_of_library
from pkdzoo.distill.adapters.students import student_of_library
from pkdzoo.distill.inherit import freeze, inherit
from pkdzoo.distill.task import Task
from pkdzoo.hub.card_licenses import stricter
from pkdzoo.hub.weights import InitialWeights
from pkdzoo.models._config import from_json
from pkdzoo.models._factory import create_detector
from pkdzoo.models._loading import is_saved, load_backbone, load_checkpoint, saved_labels, warn_of_other_classes
from pkdzoo.models._registry import find, folder_of
from pkdzoo.models.detector import Detector
from pkdzoo.structures import Batch, Letterbox
from pkdzoo.training.recipe import Data, Distill, Recipe
from pkdzoo.training.signals import LoaderSignals, loader_context
from pkdzoo.training.task import SupervisedTask
from pkdzoo.utils.files import sha256_of_file
from pkdzoo.utils.text import counted


@dataclass(frozen=True)
class DataPaths:
    """Annotation file and image folder of the training and the validation split."""

    train: tuple[Path, Path]
    val: tuple[Path, Path]


def find_data(
    data: Data,
    folder: str | Path | None = None,
    train_json: str | Path | None = None,
    val_json: str | Path | None = None,
    images: str | Path | None = None,
    cache: str | Path = "runs",
) -> DataPaths:
    """Find the annotation files and the image folders.

    Args:
        data: of the recipe; with ``generate`` a data set is generated if no path is given.
        folder: in one of the layouts of :func:`pkdzoo.data.find_split`.
        train_json: annotation file of the training split, if it is not in ``folder``.
        val_json: annotation file of the validation split, if it is not in ``folder``.
        images: image folder of both splits, if it is not in ``folder``.
        cache: folder that a generated data set is written to.

    Raises:
        ValueError: if a file or folder is missing; the message lists the paths that were tried.
    """
    if folder is None and train_json is None and val_json is None and images is None:
        if data.generate is None:
            raise ValueError(
                "no data: write --data and a folder in COCO's layout, or --train-json, --val-json and --images"
            )
        folder = make_shapes(Path(cache) / "shapes", **_shape_arguments(data.generate))
    train = find_split(folder, "train", train_json, images)
    return DataPaths(train, find_split(folder, "val", val_json, images))


def _shape_arguments(generate: Any) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in generate.items()}


def train_transform(data: Data, epochs: int) -> Compose | MixTransform:
    """Mosaic and mixup, or resize and flip with a random crop before (``zoom``) or after (``crop``) the resize.

    Args:
        data: of the recipe.
        epochs: of the schedule; the last ones are without mosaic and mixup.
    """
    if data.mix is not None:
        mix = data.mix
        return MixTransform(
            data.long, mix.scale, data.flip, mix.colors, mix.mosaic, mix.mixup, mix.mixup_ratio, mix.pool,
            stop_epoch=max(epochs - mix.last_epochs, 0),
        )  # fmt: skip
    steps: list[Any] = [RandomZoom(data.zoom)] if data.zoom else []
    steps += [Resize(data.short, data.long, data.mode), RandomFlip(data.flip)]
    return Compose([*steps, RandomCrop(data.crop)] if data.crop else steps)


def build_datasets(recipe: Recipe, paths: DataPaths, cache: int = 0) -> tuple[CocoDataset, CocoDataset]:
    """Training and validation images: unreadable training images are skipped and counted, others raise an error.

    Args:
        recipe: of the run.
        paths: of the data.
        cache: bytes of shared memory for training images that were read, and what is left for validation images.
    """
    data = recipe.data
    train = CocoDataset(
        *paths.train,
        transform=train_transform(data, recipe.schedule.epochs),
        with_masks=data.masks,
        drop_empty=data.drop_empty,
        min_image_size=data.min_image_size,
        seed=recipe.seed,
        on_error="skip",
        decode=data.decode,
        cache=cache,
    )
    left = cache - train.reader.cache.nbytes
    return train, val_dataset(paths.val, data.eval_size, train.label_names, cache=left)


def build_unlabeled(recipe: Recipe, train: CocoDataset, val: CocoDataset, cache: int = 0) -> UnlabeledImages | None:
    """The unlabeled images of a recipe, without those that are in the training or validation split; None without any.

    They are augmented as the labeled ones, but for mosaic and mixup.

    Args:
        recipe: of the run.
        train: training images.
        val: validation images.
        cache: bytes of shared memory for images that were read.

    Raises:
        ValueError: for a folder without usable images.
    """
    unlabeled = recipe.distill.unlabeled if recipe.distill is not None else None
    if unlabeled is None:
        return None
    data = recipe.data
    alone = data if data.mix is None else replace(data, mix=replace(data.mix, mosaic=0.0, mixup=0.0))
    return UnlabeledImages(
        unlabeled.folder,
        {"train": train, "val": val},
        min_image_size=data.min_image_size,
        transform=train_transform(alone, recipe.schedule.epochs),
        seed=recipe.seed,
        decode=data.decode,
        cache=cache,
    )


def unlabeled_per_pass(recipe: Recipe, processes: int) -> int:
    """Unlabeled images per forward pass of one process; 0 without any, else at least one."""
    unlabeled = recipe.distill.unlabeled if recipe.distill is not None else None
    if unlabeled is None:
        return 0
    return max(1, math.floor(unlabeled.ratio * batch_per_process(recipe, processes) + 0.5))


def val_dataset(
    paths: tuple[Path, Path],
    size: tuple[int, int],
    label_names: Sequence[str],
    skip_other_classes: bool = False,
    letterbox: Letterbox | None = None,
    canvas: tuple[int, int] | None = None,
    cache: int = 0,
) -> CocoDataset:
    """Images to evaluate on, resized to (short, long) pixels, with the classes in the model's order.

    Args:
        paths: annotation file and image folder.
        size: (short, long) side in pixels.
        label_names: the model's classes.
        skip_other_classes: leave out boxes of other classes instead of raising an error.
        letterbox: of the model; None means that images are only resized.
        canvas: (height, width) that images are scaled to fit, for an exported graph of fixed size.
        cache: bytes of shared memory for images that were read.
    """
    transform = eval_transform(*size, canvas) if letterbox is None else LetterboxResize(size, letterbox)
    return CocoDataset(
        *paths, transform=transform, label_names=label_names, skip_other_classes=skip_other_classes, cache=cache
    )


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


# -- models ----------------------------------------------------------------------------------------------------------


def _detector(name: str, pretrained: bool = False, **args: Any) -> Detector:
    # recipes hold JSON values: a list stands for a tuple, a dict of pixel statistics for PixelNorm
    return create_detector(name, pretrained, **{key: from_json(value) for key, value in args.items()})


def build_student(recipe: Recipe, label_names: Sequence[str]) -> Detector:
    """The detector that learns, for the classes of the data.

    Raises:
        ValueError: if the recipe sets another number of classes than the data has, or its weights are not available.
    """
    num_classes = recipe.model_args.get("num_classes", len(label_names))
    if num_classes != len(label_names):
        raise ValueError(
            f"model_args.num_classes={num_classes}, but the data has {counted(len(label_names), 'class')} "
            f"({', '.join(label_names[:10])}): leave it out; it is read from the annotation file"
        )
    torch.manual_seed(recipe.seed)  # random weights depend on the recipe alone
    if is_of_other_library(recipe.model):
        if recipe.init is not None:
            raise ValueError(f"init={recipe.init!r}: {recipe.model} starts from random weights, leave init out")
        own = {key: value for key, value in recipe.model_args.items() if key != "num_classes"}
        return student_of_library(recipe.model, label_names, own, recipe.data.eval_size)
    args: dict[str, Any] = {**recipe.model_args, "num_classes": len(label_names), "resize": recipe.data.eval_size}
    model = _detector(recipe.model, **args)
    model.label_names = tuple(label_names)  # before the weights, which may be of other classes
    if recipe.init is not None:
        model = _with_weights(model, recipe.init, args)
    model.label_names = tuple(label_names)
    return model


def _with_weights(model: Detector, init: str, args: dict[str, Any]) -> Detector:
    """The model with the weights that ``init`` refers to."""
    if init.startswith("imagenet"):
        load_backbone(model, init)
        model.loaded_from = f"{init} weights of the backbone"
        return model
    if Path(init).is_file():
        load_checkpoint(model, init)
        if not is_saved(Path(init)):  # a file alone states no license
            model.initial_weights = InitialWeights(Path(init).name, "unknown", sha256=sha256_of_file(init))
        return model
    if ":" not in init and folder_of(init) is None:
        try:
            find(init)
        except ValueError as error:
            raise ValueError(
                f"init={init!r}: write 'imagenet', a file, or the name of published weights, or leave it out for "
                f"random weights; {error}"
            ) from error
    loaded = _detector(init, pretrained=True, **args)
    if loaded.name != model.name:
        raise ValueError(f"init={init!r} are weights of {loaded.name}, but the model is {model.name}")
    warn_of_other_classes(f"init={init!r}", loaded.label_names, model.label_names)
    return loaded


def build_teacher(distill: Distill, label_names: Sequence[str]) -> Detector:
    """The teacher, with its weights.

    A teacher loaded from the file of a saved detector, or from a file with class names, has those classes. For other
    files of weights it is built for the classes of the data, unless ``teacher_args`` sets its number of classes.

    Raises:
        ValueError: if no weights are available and the recipe does not set ``teacher_weights="random"``.
    """
    args = dict(distill.teacher_args)
    if is_of_other_library(distill.teacher):
        file = None if distill.teacher_weights == "random" else distill.teacher_weights
        return teacher_of_library(distill.teacher, distill.teacher_weights is None, file, args=args)
    if distill.teacher_weights == "random":
        return _detector(distill.teacher, **args)
    if distill.teacher_weights is not None:
        saved = saved_labels(distill.teacher_weights)
        names = tuple(label_names) if saved is None else saved
        args.setdefault("num_classes", len(names))
        teacher = load_checkpoint(_detector(distill.teacher, **args), distill.teacher_weights)
        if len(names) == teacher.num_classes and (saved is not None or "num_classes" not in distill.teacher_args):
            teacher.label_names = names
        return teacher
    try:
        return _detector(distill.teacher, pretrained=True, **args)
    except ValueError as error:
        if folder_of(distill.teacher) is not None:
            raise ValueError(
                f"the teacher {distill.teacher!r} cannot be loaded: {error}. Train the teacher first, its run writes "
                "this folder; or name another one with --set distill.teacher=FOLDER"
            ) from error
        raise ValueError(
            f"the teacher {distill.teacher!r} cannot be loaded: {error}. Give a file of weights with "
            "--set distill.teacher_weights=FILE, or write distill.teacher_weights=random for an untrained teacher"
        ) from error


def build_task(recipe: Recipe, student: Detector, teacher: Detector | None) -> Task:
    """The module that the loop calls: a SupervisedTask, or a Distiller if the recipe has distillation methods.

    With a teacher and no methods, the student only inherits the teacher's parts; the task then has no teacher.
    """
    if recipe.distill is None or teacher is None:
        return SupervisedTask(student)
    inherited = recipe.distill.inherit
    inherit(student, teacher, inherited)
    if inherited and (student.loaded_from or "backbone" in inherited):
        sources = [student.loaded_from] if student.loaded_from else []
        student.loaded_from = " and ".join([*sources, f"{', '.join(inherited)} of {teacher.name}"])
    origin = (
        getattr(teacher, "origin", None) or teacher.initial_weights
    )  # of a teacher of another library, or its start
    if inherited:
        student.initial_weights = stricter(student.initial_weights, origin)
    freeze(student, recipe.distill.freeze)
    unlabeled = recipe.distill.unlabeled
    if not recipe.distill.methods:
        if unlabeled is not None:
            raise ValueError(
                "distill.unlabeled: without a method nothing is learned from unlabeled images: write methods, e.g. "
                '{"pkd": {}}, or leave unlabeled out'
            )
        return SupervisedTask(student)
    if unlabeled is None:
        return Distiller(student, teacher, recipe.distill.methods)
    distiller = Distiller(student, teacher, recipe.distill.methods, unlabeled_weight=unlabeled.weight)
    distiller.check_unlabeled()
    return distiller


def train_mode(task: Task, recipe: Recipe) -> None:
    """Switch to training mode; frozen parts stay in eval mode, so that their batch norms keep their statistics."""
    task.train()
    freeze(task.student, recipe.distill.freeze if recipe.distill else ())
