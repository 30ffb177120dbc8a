"""Students of other libraries by name, and saved ones from their folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pkdzoo.checkpoints import load_strictly
from pkdzoo.checkpoints.io import read_state_dict
from pkdzoo.distill.adapters import import_library, torchvision, transformers
from pkdzoo.distill.adapters.torchvision_student import TorchvisionStudent
from pkdzoo.distill.adapters.transformers_student import TransformersStudent
from pkdzoo.distill.student_base import ModuleStudent
from pkdzoo.hub.files import TENSORS
from pkdzoo.hub.saved_folder import CONFIG
from pkdzoo.utils.strict_json import read_strict_json


def student_of_library(
    name: str, label_names: Sequence[str], args: Mapping[str, Any], resize: tuple[int, int] = (800, 1333)
) -> ModuleStudent:
    """A model of another library with random weights, for the classes of the data.

    Args:
        name: ``torchvision:NAME``, or ``transformers:ORG/NAME`` or ``transformers:FOLDER``, whose config alone is read.
        label_names: class names.
        args: arguments of torchvision's function, or ``input_size`` for transformers.
        resize: (short, long) side of the images in evaluation.

    Raises:
        ValueError: for an unknown name or argument, and a model that cannot be a student.
    """
    library, _, own = name.partition(":")
    if library == "torchvision":
        student = _of_torchvision(own, len(label_names), args)
    elif library == "transformers":
        student = _of_transformers(own, len(label_names), dict(args))
    else:
        raise ValueError(
            f"{name!r} is a bare backbone, which has no losses: write a detector as model and the backbone in "
            f"model_args, e.g. 'gfl_r50' and {{'backbone': {name!r}}}"
        )
    student.resize, student.name, student.resizes_itself = (int(resize[0]), int(resize[1])), name, False
    return student.with_labels(label_names)


def _of_torchvision(arch: str, classes: int, args: Mapping[str, Any]) -> ModuleStudent:
    background = int("rcnn" in arch)  # their class 0
    net, _ = torchvision.build(arch, None, False, None, {**args, "num_classes": classes + background})
    return TorchvisionStudent(net, arch, args)


def _of_transformers(name: str, classes: int | None, args: dict[str, Any]) -> TransformersStudent:
    """The model with random weights for so many classes; None: with its own weights, for its own classes."""
    library = import_library("transformers")
    transformers.check_arguments(name, args)
    files = transformers.find_files(name, classes is None, None)
    content = read_strict_json(files.folder / CONFIG)
    family = transformers.family_of(name, content)
    config = transformers.config_of(name, library, family, content)
    if classes is not None:
        config.num_labels = classes
    prepared = transformers.prepare_input(name, files, args.get("input_size"), family, config, "model_args")
    net = transformers.build(name, library, family, config, files if classes is None else None)
    student = TransformersStudent(net, prepared.size, prepared.mean, prepared.std)
    student.resizes_itself = prepared.resize is None  # as its library does; those trained here have seen resized images
    student.resize = prepared.resize or student.resize
    return student


def is_saved_student(folder: Path) -> bool:
    """Whether a folder holds a student of another library."""
    if not (folder / CONFIG).is_file():
        return False
    content = read_strict_json(folder / CONFIG)
    if not isinstance(content, dict):
        return False
    row = transformers.FAMILIES.get(str(content.get("model_type")))
    return content.get("library_name") == "torchvision" or (row is not None and row.learns)


def saved_student(folder: Path) -> ModuleStudent:
    """The student that ``save_pretrained`` wrote, in eval mode.

    Raises:
        ValueError: for a folder without the name that the model is built by, and files that do not fit.
    """
    content = read_strict_json(folder / CONFIG)
    student: ModuleStudent
    if content.get("library_name") != "torchvision":
        student = _of_transformers(str(folder), None, {})
        config: Any = student.backbone.config
        labels = [str(config.id2label[i]) for i in range(config.num_labels)]  # those that are not saved are made
    else:
        labels = list(content["label_names"])
        if not content.get("architecture"):
            raise ValueError(
                f"{folder} does not say which of torchvision's detectors it is: build it yourself and load "
                f"{TENSORS} by load_state_dict()"
            )
        student = _of_torchvision(str(content["architecture"]), len(labels), content.get("args") or {})
        short, long = content["resize"]
        student.resize = (int(short), int(long))
        load_strictly(student.backbone, read_state_dict(folder / TENSORS))
    student.loaded_from = f"local-dir:{folder}"
    student.with_labels(labels).eval()
    return student
