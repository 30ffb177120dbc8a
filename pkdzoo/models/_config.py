"""A detector as a folder: what ``config.json`` beside its tensors says, and a detector set up by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from pkdzoo.data.labels import coco_ids
from pkdzoo.hub.files import SETTINGS
from pkdzoo.models._interface import ZooModel
from pkdzoo.structures import PixelNorm, PostProcess
from pkdzoo.version import __version__


def describe(model: ZooModel) -> dict[str, Any]:
    """Everything but the tensors: enough to build the detector again, in JSON's types.

    ``id2label`` and ``label_to_coco_id`` (where the classes are COCO's) are for readers of other libraries.

    Raises:
        ValueError: for a detector that was optimised for prediction.
    """
    if model.optimized:
        raise ValueError(f"{model.name} is optimised for prediction, its norms are gone: save it before optimize()")
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
            "postprocess": asdict(model.postprocess_config),
        },
    }


def to_json(value: Any) -> Any:
    """An argument of a build function in JSON's types."""
    if isinstance(value, PixelNorm):
        return {"mean": list(value.mean), "std": list(value.std), "channel_order": value.channel_order}
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    return value


def from_json(value: Any) -> Any:
    """Undo :func:`to_json`."""
    if isinstance(value, Mapping) and set(value) == {"mean", "std", "channel_order"}:
        return PixelNorm(tuple(value["mean"]), tuple(value["std"]), value["channel_order"])
    return tuple(from_json(item) for item in value) if isinstance(value, list) else value


def set_up(model: ZooModel, config: Mapping[str, Any]) -> None:
    """Give a detector the pixels, sizes and thresholds of the one that was saved.

    They come from the file and not from the registry: whatever a later version thinks of an architecture, these
    weights were trained on these pixels.
    """
    if len(config.get("pixel_mean", ())) == len(model.pixel_mean):
        model.pixel_mean.copy_(torch.tensor(config["pixel_mean"]))
        model.pixel_std.copy_(torch.tensor(config["pixel_std"]))
        if not bool((model.pixel_std > 0).all()):
            raise ValueError(f"pixel_std={config['pixel_std']}: numbers above 0 belong there")
        if config["channel_order"] not in ("rgb", "bgr"):
            raise ValueError(f"channel_order={config['channel_order']!r} in config.json: 'rgb' or 'bgr' belongs there")
        model.channel_order = config["channel_order"]
    if "resize" in config:
        short, long = (int(side) for side in config["resize"])
        if min(short, long) < 1:
            raise ValueError(f"resize={config['resize']}: two lengths in pixels belong there")
        model.resize = (short, long)
    if "postprocess" in config:
        model.postprocess_config = PostProcess(**config["postprocess"])


def set_labels(model: ZooModel, names: Sequence[str]) -> None:
    """Give a detector the names of its classes.

    Raises:
        ValueError: when there are more or fewer than it has classes.
    """
    if len(names) != model.num_classes:
        raise ValueError(f"{len(names)} label names for {model.num_classes} classes: write one a class")
    model.label_names = tuple(names)
