"""The ``config.json`` of a saved detector: writing it; ``_saved_config.py`` reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from torch import nn

from pkdzoo.data.labels import coco_ids
from pkdzoo.hub.files import SETTINGS
from pkdzoo.models._interface import ZooModel
from pkdzoo.models._saved_config import read_saved
from pkdzoo.structures import Letterbox, PixelNorm
from pkdzoo.utils.text import counted
from pkdzoo.version import __version__


def describe(model: ZooModel) -> dict[str, Any]:
    """The content of ``config.json``: everything that is needed to build the detector again, except the tensors.

    Other libraries read ``id2label`` and, for COCO's classes, ``label_to_coco_id``.

    Raises:
        ValueError: for a detector after ``optimize()``, for one with other layers than its name and arguments give, and
            for one with settings that could not be read again.
    """
    if model.optimized:
        raise ValueError(f"{model.name} is optimized and has no norm layers any more: save it before optimize()")
    check_layers(model)
    norm = model.pixel_norm
    names, ids = model.label_names, coco_ids(model.label_names)
    config = {
        "library_name": "pkdzoo",
        "pkdzoo_version": __version__,
        "architecture": model.name,
        "args": {key: to_json(value) for key, value in model.overrides.items()},
        "num_classes": model.num_classes,
        "label_names": list(names),
        "id2label": {str(i): name for i, name in enumerate(names)},
        **({} if ids is None else {"label_to_coco_id": {str(i): number for i, number in ids.items()}}),
        SETTINGS: {
            "pixel_mean": list(norm.mean),
            "pixel_std": list(norm.std),
            "channel_order": norm.channel_order,
            "resize": list(model.resize),
            "letterbox": None if model.letterbox is None else asdict(model.letterbox),
            "postprocess": asdict(model.postprocess_config),
            **({} if model.test_proposing is None else {"proposals": asdict(model.test_proposing)}),
            **({} if model.initial_weights is None else {"initial_weights": asdict(model.initial_weights)}),
        },
    }
    check_readable(model.name, config)
    return config


def check_readable(name: str, config: Mapping[str, Any]) -> None:
    """Raise ValueError for a config that could not be read again, before anything is written."""
    try:
        read_saved(json.loads(json.dumps(config)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} cannot be saved, because it could not be loaded again: {error}") from error


def layers_of(model: ZooModel) -> dict[str, tuple[Any, ...]]:
    """Shapes and geometry of a detector's layers, which have to equal those of the saved one.

    Two ResNets can have the same tensors and other strides, so the shapes alone do not describe a detector.
    """
    layers: dict[str, tuple[Any, ...]] = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            layers[name] = (module.stride, module.padding, module.dilation, module.groups)
    return layers


def check_layers(model: ZooModel) -> None:
    """Raise ValueError for a detector of which a part was replaced after it was built: it could not be built again."""
    if model.built_layers is None:
        return
    layers = layers_of(model)
    names = {key for key in {*layers, *model.built_layers} if layers.get(key) != model.built_layers.get(key)}
    if names:
        parts = sorted({name.partition(".")[0] for name in names})
        raise ValueError(
            f"{model.name} cannot be saved, because {' and '.join(parts)} was replaced or changed after the detector "
            f"was built, and loading would build the original "
            f"({counted(len(names), 'layer differs', 'layers differ')}, e.g. {min(names)}). Write "
            "create_detector(name, backbone=..., width=...) to choose other layers, or torch.save(model.state_dict(), "
            "path) to keep the tensors alone"
        )


def to_json(value: Any) -> Any:
    """An argument of a build function as a JSON value."""
    if isinstance(value, PixelNorm):
        return {"mean": list(value.mean), "std": list(value.std), "channel_order": value.channel_order}
    if isinstance(value, Letterbox):
        return asdict(value)
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    return value


def from_json(value: Any) -> Any:
    """The inverse of :func:`to_json`."""
    if isinstance(value, Mapping) and set(value) == {"mean", "std", "channel_order"}:
        return PixelNorm(tuple(value["mean"]), tuple(value["std"]), value["channel_order"])
    if isinstance(value, Mapping) and set(value) == {field.name for field in fields(Letterbox)}:
        return Letterbox(**value)
    return tuple(from_json(item) for item in value) if isinstance(value, list) else value


def set_labels(model: ZooModel, names: Sequence[str]) -> None:
    """Set the class names of a detector.

    Raises:
        ValueError: if their number is not the number of classes.
    """
    if len(names) != model.num_classes:
        raise ValueError(
            f"{counted(len(names), 'label name')} for {counted(model.num_classes, 'class')}: write one per class"
        )
    model.label_names = tuple(names)
