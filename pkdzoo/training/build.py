"""Builds what a training run needs from its recipe: data sets, student, teacher and task."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pkdzoo.data import (
    CocoDataset,
    Compose,
    MixTransform,
    RandomCrop,
    RandomFlip,
    RandomZoom,
    Resize,
    UnlabeledImages,
    eval_transform,
    find_split,
    make_shapes,
)
from pkdzoo.data.formats.read import splits_of
from pkdzoo.data.letterbox import LetterboxBorder, LetterboxResize
from pkdzoo.data.unlabeled import SplitFiles
from pkdzoo.distill import Distiller
from pkdzoo.distill.adapters import is_of_other_library, teacher_of_library
from pkdzoo.distill.adapters.students import student_of_library
from pkdzoo.distill.inherit import freeze, inherit
from pkdzoo.distill.task import Task
from pkdzoo.hub.card_licenses import stricter
from pkdzoo.hub.weights import InitialWeights
from pkdzoo.inference.predictor import DetectorLike, own_size
from pkdzoo.models._config import from_json
from pkdzoo.models._factory import create_detector
from pkdzoo.models._loading import is_saved, load_backbone, load_checkpoint, saved_labels, warn_of_other_classes
from pkdzoo.models._registry import find, folder_of
from pkdzoo.models.detector import Detector
from pkdzoo.structures import Letterbox
from pkdzoo.training.recipe import Data, Distill, Recipe
from pkdzoo.training.task import SupervisedTask
from pkdzoo.utils.files import sha256_of_file
from pkdzoo.utils.text import counted


@dataclass(frozen=True)
class DataPaths:
    """Annotation file and image folder of each split.

    Attributes:
        train: training split.
        val: validation split.
        test: of the data set's folder, if it has one; its images stay out of the training.
    """

    train: tuple[Path, Path]
    val: tuple[Path, Path]
    test: tuple[Path, Path] | None = None


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
    return DataPaths(train, find_split(folder, "val", val_json, images), None if folder is None else _find_test(folder))


def _find_test(folder: str | Path) -> tuple[Path, Path] | None:
    """The test split of a data set; None without one, or without its images."""
    with suppress(ValueError):
        return find_split(folder, "test") if "test" in splits_of(folder) else None
    return None


def _shape_arguments(generate: Any) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in generate.items()}


def train_transform(data: Data, epochs: int, letterbox: Letterbox | None = None) -> Compose | MixTransform:
    """Mosaic and mixup, or resize and flip with a random crop before (``zoom``) or after (``crop``) the resize.

    Args:
        data: of the recipe.
        epochs: of the schedule; the last ones are without mosaic and mixup.
        letterbox: of the student: images get the border that those of its evaluation have. Images with mosaic and
            mixup have one already.
    """
    if data.mix is not None:
        mix = data.mix
        return MixTransform(
            data.long, mix.scale, data.flip, mix.colors, mix.mosaic, mix.mixup, mix.mixup_ratio, mix.pool,
            stop_epoch=max(epochs - mix.last_epochs, 0),
        )  # fmt: skip
    steps: list[Any] = [RandomZoom(data.zoom)] if data.zoom else []
    steps += [Resize(data.short, data.long, data.mode), RandomFlip(data.flip)]
    steps += [RandomCrop(data.crop)] if data.crop else []
    return Compose(steps if letterbox is None else [*steps, LetterboxBorder(largest_side(data), letterbox)])


def largest_side(data: Data) -> int:
    """Pixels that no side of a training image of a recipe exceeds."""
    return data.long if data.mix is not None or data.crop is None else min(data.long, max(data.crop))


def fit_letterbox(
    recipe: Recipe, letterbox: Letterbox | None, train: CocoDataset, unlabeled: UnlabeledImages | None
) -> None:
    """Fit the augmentation to the letterbox of a student, which is known only when the classes of its images are.

    Args:
        recipe: of the run.
        letterbox: of the student; None for images without a border.
        train: training images, as :func:`build_datasets` made them.
        unlabeled: images without annotations; None without any.
    """
    if recipe.data.mix is not None:
        return
    for images in (train, unlabeled):
        if images is not None:
            steps = images.transform.transforms if isinstance(images.transform, Compose) else ()
            if letterbox is not None or any(isinstance(step, LetterboxBorder) for step in steps):
                images.transform = train_transform(recipe.data, recipe.schedule.epochs, letterbox)


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


def build_unlabeled(
    recipe: Recipe, train: CocoDataset, val: CocoDataset, test: tuple[Path, Path] | None = None, cache: int = 0
) -> UnlabeledImages | None:
    """The unlabeled images of a recipe, without those of the training, validation or test split; None without any.

    They are augmented as the labeled ones, but for mosaic and mixup.

    Args:
        recipe: of the run.
        train: training images.
        val: validation images.
        test: annotation file and image folder of the test split, if there is one.
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
        {"train": train, "val": val, **({} if test is None else {"test": SplitFiles(*test)})},
        min_image_size=data.min_image_size,
        transform=train_transform(alone, recipe.schedule.epochs),
        seed=recipe.seed,
        decode=data.decode,
        cache=cache,
    )


def val_dataset(
    paths: tuple[Path, Path],
    size: tuple[int, int] | None,
    label_names: Sequence[str],
    skip_other_classes: bool = False,
    letterbox: Letterbox | None = None,
    canvas: tuple[int, int] | None = None,
    cache: int = 0,
) -> CocoDataset:
    """Images to evaluate on, resized to (short, long) pixels, with the classes in the model's order.

    Args:
        paths: annotation file and image folder.
        size: (short, long) side in pixels; None: images keep their size, for a model that resizes them itself.
        label_names: the model's classes.
        skip_other_classes: leave out boxes of other classes instead of raising an error.
        letterbox: of the model; None means that images are only resized.
        canvas: (height, width) that images are scaled to fit, for an exported graph of fixed size.
        cache: bytes of shared memory for images that were read.
    """
    transform = val_transform(size, letterbox, canvas)
    return CocoDataset(
        *paths, transform=transform, label_names=label_names, skip_other_classes=skip_other_classes, cache=cache
    )


def val_transform(
    size: tuple[int, int] | None, letterbox: Letterbox | None = None, canvas: tuple[int, int] | None = None
) -> Compose | LetterboxResize:
    """How images are resized for an evaluation; arguments as of :func:`val_dataset`."""
    if size is None:
        return Compose([])
    return eval_transform(*size, canvas) if letterbox is None else LetterboxResize(size, letterbox)


def val_dataset_for(model: DetectorLike, dataset: CocoDataset) -> CocoDataset:
    """The images of a data set as a detector takes them, at its own size and with its own letterbox.

    Args:
        model: for example a teacher, whose images may be larger than those of its student.
        dataset: validation images, resized for another detector.
    """
    return dataset.with_transform(val_transform(own_size(model), model.letterbox, model.canvas))


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
