"""The ``config.json`` of a saved detector: writing it, and applying its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import torch

from pkdzoo.data.labels import coco_ids
from pkdzoo.hub.files import SETTINGS
from pkdzoo.models._interface import ZooModel
from pkdzoo.structures import Letterbox, PixelNorm, PostProcess
from pkdzoo.version import __version__


def describe(model: ZooModel) -> dict[str, Any]:
    """The content of ``config.json``: everything that is needed to build the detector again, except the tensors.

    Other libraries read ``id2label`` and, for COCO's classes, ``label_to_coco_id``.

    Raises:
        ValueError: for a detector after ``optimize()``.
    """
    if model.optimized:
        raise ValueError(f"{model.name} is optimized and has no norm layers any more: save it before optimize()")
    names, ids = model.label_names, coco_ids(model.label_names)
    return {
        "library_name": "pkdzoo",
        "pkdzoo_version": __version__,
        "architecture": model.name,
        "args": {key: to_json(value) for key, value in model.overrides.items()},
        "num_classes": model.num_classes,
        "label_names": list(names),
        "id2label": {str(i): name for i, name in enumerate(names)},
        **({} if ids is None else {"label_to_coco_id": {str(i): number for i, number in ids.items()}}),
        SETTINGS: {
            "pixel_mean": model.pixel_mean.tolist(),
            "pixel_std": model.pixel_std.tolist(),
            "channel_order": model.channel_order,
            "resize": list(model.resize),
            **({} if model.letterbox is None else {"letterbox": asdict(model.letterbox)}),
            "postprocess": asdict(model.postprocess_config),
        },
    }


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


def apply_settings(model: ZooModel, config: Mapping[str, Any]) -> None:
    """Set pixel statistics, image size and thresholds from a config.

    They are read from the file and not from the registry, because a later version may have other values for the
    architecture than the ones that these weights were trained with.

    Raises:
        ValueError: for an invalid value.
    """
    if len(config.get("pixel_mean", ())) == len(model.pixel_mean):
        model.pixel_mean.copy_(torch.tensor(config["pixel_mean"]))
        model.pixel_std.copy_(torch.tensor(config["pixel_std"]))
        if not bool((model.pixel_std > 0).all()):
            raise ValueError(f"pixel_std={config['pixel_std']}: write numbers above 0")
        if config["channel_order"] not in ("rgb", "bgr"):
            raise ValueError(f"channel_order={config['channel_order']!r} in config.json: write 'rgb' or 'bgr'")
        model.channel_order = config["channel_order"]
    if "resize" in config:
        short, long = (int(side) for side in config["resize"])
        if min(short, long) < 1:
            raise ValueError(f"resize={config['resize']}: write two lengths in pixels")
        model.resize = (short, long)
    if "letterbox" in config:
        model.letterbox = Letterbox(**config["letterbox"])
    if "postprocess" in config:
        model.postprocess_config = PostProcess(**config["postprocess"])


def set_labels(model: ZooModel, names: Sequence[str]) -> None:
    """Set the class names of a detector.

    Raises:
        ValueError: if their number is not the number of classes.
    """
    if len(names) != model.num_classes:
        raise ValueError(f"{len(names)} label names for {model.num_classes} classes: write one per class")
    model.label_names = tuple(names)
