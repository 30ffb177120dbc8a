"""From a recipe and the places of its data to what the loop needs: data sets, loaders, student, teacher, task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import DataLoader

from pkdzoo.data import (
    AspectBatchSampler,
    CocoDataset,
    Compose,
    RandomCrop,
    RandomFlip,
    RandomZoom,
    Resize,
    collate,
    find_split,
    make_shapes,
    test_transform,
)
from pkdzoo.distill import Distiller
from pkdzoo.distill.inherit import freeze, inherit
from pkdzoo.models._config import from_json
from pkdzoo.models._factory import create_detector
from pkdzoo.models._loading import load_backbone, load_checkpoint
from pkdzoo.models.detector import Detector
from pkdzoo.structures import Batch
from pkdzoo.training.recipe import Data, Distill, Recipe


@dataclass(frozen=True)
class Places:
    """Annotation file and image folder of the two splits."""

    train: tuple[Path, Path]
    val: tuple[Path, Path]


def find_data(
    data: Data,
    folder: str | Path | None = None,
    train_json: str | Path | None = None,
    val_json: str | Path | None = None,
    images: str | Path | None = None,
    cache: str | Path = "runs",
) -> Places:
    """Where the data is.

    Args:
        data: of the recipe; its ``generate`` makes a data set when nothing else is given.
        folder: in one of the layouts of :func:`pkdzoo.data.find_split`.
        train_json: annotation file, if it is elsewhere.
        val_json: likewise.
        images: image folder of both splits, if it is elsewhere.
        cache: folder that a generated data set goes to.

    Raises:
        ValueError: when something is missing, saying what was looked for.
    """
    if folder is None and train_json is None and val_json is None and images is None:
        if data.generate is None:
            raise ValueError(
                "no data: write --data and a folder in COCO's layout, or --train-json, --val-json and --images"
            )
        folder = make_shapes(Path(cache) / "shapes", **_shape_arguments(data.generate))
    train = find_split(folder, "train", train_json, images)
    return Places(train, find_split(folder, "val", val_json, images))


def _shape_arguments(given: Any) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}


def train_transform(data: Data) -> Compose:
    """Resize, flip and, where the recipe says so, a random window before the resize or after it."""
    steps: list[Any] = [RandomZoom(data.zoom)] if data.zoom else []
    steps += [Resize(data.short, data.long, data.mode), RandomFlip(data.flip)]
    return Compose([*steps, RandomCrop(data.crop)] if data.crop else steps)


def build_datasets(recipe: Recipe, places: Places) -> tuple[CocoDataset, CocoDataset]:
    """Training images (unreadable ones are skipped and counted) and validation images (they are an error)."""
    data = recipe.data
    train = CocoDataset(
        *places.train,
        transform=train_transform(data),
        with_masks=data.masks,
        drop_empty=data.drop_empty,
        min_image_size=data.min_image_size,
        seed=recipe.seed,
        on_error="skip",
    )
    return train, val_dataset(places.val, data.test_size, train.label_names)


def val_dataset(
    place: tuple[Path, Path], size: tuple[int, int], label_names: Sequence[str], skip_other_classes: bool = False
) -> CocoDataset:
    """Images to measure on, at (short, long) pixels, with the model's own order of classes."""
    transform = test_transform(*size)
    return CocoDataset(*place, transform=transform, label_names=label_names, skip_other_classes=skip_other_classes)


def batch_per_process(recipe: Recipe, processes: int) -> int:
    """Images of one pass of one process.

    Raises:
        ValueError: when the recipe's total batch cannot be divided evenly.
    """
    parts = processes * recipe.optim.accumulate
    if recipe.data.batch_size % parts:
        raise ValueError(
            f"a batch of {recipe.data.batch_size} cannot be shared by {processes} processes x "
            f"{recipe.optim.accumulate} accumulated passes: write e.g. --set data.batch_size="
            f"{-(-recipe.data.batch_size // parts) * parts}"
        )
    return recipe.data.batch_size // parts


def train_loader(recipe: Recipe, dataset: CocoDataset, processes: int) -> tuple[DataLoader[Batch], AspectBatchSampler]:
    """Batches of one process in the order of (seed, epoch), and the sampler that has to be told the epoch."""
    sampler = AspectBatchSampler(dataset.aspect_groups(), batch_per_process(recipe, processes), seed=recipe.seed)
    return _loader(dataset, recipe.data.workers, batch_sampler=sampler), sampler


def set_epoch(epoch: int, loader: Any, dataset: CocoDataset, sampler: AspectBatchSampler) -> None:
    """Tell the epoch to a loader that Accelerate prepared, its data set and its sampler.

    All three: Accelerate's loader counts epochs itself, from 0 after a resume, and does not reach the sampler in it.
    """
    loader.set_epoch(epoch)
    dataset.set_epoch(epoch)
    sampler.set_epoch(epoch)


def val_loader(dataset: CocoDataset, batch: int, workers: int) -> DataLoader[Batch]:
    """Batches in the order of the file, the same ones however many processes share them."""
    return _loader(dataset, workers, batch_size=batch)


def _loader(dataset: CocoDataset, workers: int, **kwargs: Any) -> DataLoader[Batch]:
    # A generator of its own: otherwise each epoch's start would draw from the global one, and a run that is resumed
    # within an epoch would draw once more than the uninterrupted one.
    generator = torch.Generator().manual_seed(0)
    return DataLoader(
        cast(Any, dataset),
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        generator=generator,
        pin_memory=torch.cuda.is_available(),
        **kwargs,
    )


# -- models ----------------------------------------------------------------------------------------------------------


def _detector(name: str, pretrained: bool = False, **args: Any) -> Detector:
    # what a recipe writes down is JSON: lists stand for tuples, a dict of statistics for PixelNorm
    return create_detector(name, pretrained, **{key: from_json(value) for key, value in args.items()})


def build_student(recipe: Recipe, label_names: Sequence[str]) -> Detector:
    """The detector that learns, for the classes of the data.

    Raises:
        ValueError: for a recipe whose own number of classes is another, or whose weights cannot be had.
    """
    asked = recipe.model_args.get("num_classes", len(label_names))
    if asked != len(label_names):
        raise ValueError(
            f"model_args.num_classes={asked}, but the data has {len(label_names)} classes "
            f"({', '.join(label_names[:10])}): leave it out, it is read from the annotation file"
        )
    torch.manual_seed(recipe.seed)  # random weights depend on the recipe alone
    args: dict[str, Any] = {**recipe.model_args, "num_classes": len(label_names), "resize": recipe.data.test_size}
    model = _detector(recipe.model, **args)
    if recipe.init is not None:
        model = _with_weights(model, recipe.init, args)
    model.label_names = tuple(label_names)
    return model


def _with_weights(model: Detector, init: str, args: dict[str, Any]) -> Detector:
    """The model with the weights that ``init`` names."""
    if init.startswith("imagenet"):
        load_backbone(model, init)
        model.loaded_from = f"{init} weights of the backbone"
        return model
    if Path(init).is_file():
        return load_checkpoint(model, init)
    loaded = _detector(init, pretrained=True, **args)
    if loaded.name != model.name:
        raise ValueError(f"init={init!r} are weights of {loaded.name}, but the model is {model.name}")
    return loaded


def build_teacher(distill: Distill, label_names: Sequence[str]) -> Detector:
    """The detector that teaches.

    A teacher loaded from a file of one's own is built for the classes of the data, unless ``teacher_args`` says how
    many it has.

    Raises:
        ValueError: when it has no weights and the recipe does not say ``teacher_weights="random"``.
    """
    args = dict(distill.teacher_args)
    if distill.teacher_weights == "random":
        return _detector(distill.teacher, **args)
    if distill.teacher_weights is not None:
        args.setdefault("num_classes", len(label_names))
        teacher = load_checkpoint(_detector(distill.teacher, **args), distill.teacher_weights)
        if "num_classes" not in distill.teacher_args:
            teacher.label_names = tuple(label_names)
        return teacher
    try:
        return _detector(distill.teacher, pretrained=True, **args)
    except ValueError as error:
        raise ValueError(
            f"the teacher {distill.teacher!r} cannot be had: {error}. Name a file of weights with "
            "--set distill.teacher_weights=FILE, or write 'random' there if that is what you want"
        ) from error


def build_task(recipe: Recipe, student: Detector, teacher: Detector | None) -> nn.Module:
    """What the loop calls with a batch and gets losses from: the student itself, or a Distiller around it.

    A teacher without methods gives what is inherited and is not needed any more.
    """
    if recipe.distill is None or teacher is None:
        return student
    inherited = recipe.distill.inherit
    inherit(student, teacher, inherited)
    if inherited and (student.loaded_from or "backbone" in inherited):
        before = [student.loaded_from] if student.loaded_from else []
        student.loaded_from = " and ".join([*before, f"{', '.join(inherited)} of {teacher.name}"])
    freeze(student, recipe.distill.freeze)
    return Distiller(student, teacher, recipe.distill.methods) if recipe.distill.methods else student


def student_of(task: nn.Module) -> Detector:
    """The detector inside a task."""
    student = task.student if isinstance(task, Distiller) else task
    assert isinstance(student, Detector)
    return student


def train_mode(task: nn.Module, recipe: Recipe) -> None:
    """Switch to training; frozen parts stay in eval mode, so that their batch norms keep their statistics."""
    task.train()
    freeze(student_of(task), recipe.distill.freeze if recipe.distill else ())
