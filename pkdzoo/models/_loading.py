"""Weights into a detector that is built already: files and state dicts in whatever layout, always strictly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from pkdzoo.checkpoints import fitting, load_strictly, read_state_dict, to_our_keys
from pkdzoo.checkpoints.mmdet import unwrap
from pkdzoo.hub.fetch import find_weights
from pkdzoo.models._channels import adapt_stem
from pkdzoo.models._interface import ZooModel
from pkdzoo.models._registry import find
from pkdzoo.models.backbones.weights import completed, imagenet_weights, to_backbone
from pkdzoo.structures import PixelNorm

M = TypeVar("M", bound=ZooModel)


def load_checkpoint(model: M, source: str | Path | Mapping[str, Any]) -> M:
    """Load weights from a file or a state dict, strictly.

    Args:
        model: a detector of the same architecture and number of classes.
        source: a path (safetensors or ``.pth``) or a state dict; in our own key layout, or in mmdetection's,
            mmrazor's (the student is taken) or CrossKD's.

    Returns:
        The same model.

    Raises:
        ValueError: listing every key that is missing, left over or of another shape; the model is untouched then.
        FileNotFoundError: when the path does not exist.

    Example:
        >>> import pkdzoo
        >>> source = pkdzoo.create_detector("retina_r10w16").state_dict()
        >>> pkdzoo.load_checkpoint(pkdzoo.create_detector("retina_r10w16"), source).loaded_from
        'a state dict'
    """
    refuse_optimized(model)
    content = source if isinstance(source, Mapping) else read_state_dict(source)
    load_strictly(model, in_our_layout(model, content))
    model.loaded_from = "a state dict" if isinstance(source, Mapping) else str(source)
    return model


def load_backbone(model: M, source: str = "imagenet", cache_dir: str | Path | None = None) -> M:
    """Give a detector's backbone ImageNet weights, strictly; what detection adds to it stays as it is.

    Args:
        model: of a registered architecture.
        source: ``imagenet`` for the file that was trained on the pixels this detector takes, or one file's own tag
            (``imagenet_caffe``, ``imagenet_msra``).
        cache_dir: see :func:`create_detector`.

    Returns:
        The same model.

    Raises:
        ValueError: when there are no such weights, or the backbone has another norm than they.
        pkdzoo.hub.download.DownloadError: when they could not be had.

    Example:
        >>> import pkdzoo
        >>> model = pkdzoo.create_detector("retina_r50", num_classes=3)
        >>> model = pkdzoo.load_backbone(model)  # doctest: +SKIP
    """
    refuse_optimized(model)
    entry, _ = find(model.name)
    args = {**entry.args, **model.overrides}
    name, pixel_norm = args.get("backbone", "r50"), entry.args.get("pixel_norm") or PixelNorm()
    row = imagenet_weights(name, pixel_norm.mean, source)
    swap_channels = pixel_norm.channel_order != model.channel_order

    def ready(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        prefixed = {f"backbone.{key}": value for key, value in state.items()}
        fitted = adapt_stem(prefixed, model, swap_channels)
        return completed({key.removeprefix("backbone."): value for key, value in fitted.items()}, model.backbone)

    def convert(content: dict[str, Any]) -> dict[str, Tensor]:
        state = to_backbone(content)
        fitting(model.backbone, ready(state))
        return state

    state, _ = find_weights(f"{name}.{row.tag}", row, convert, cache_dir)
    load_strictly(model.backbone, ready(state))
    return model


def refuse_optimized(model: ZooModel) -> None:
    """Weights belong in a detector that still has its norms."""
    if model.optimized:
        raise ValueError(f"{model.name} is optimised for prediction, its norms are gone: load before optimize()")


def in_our_layout(model: ZooModel, content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of whatever a file holds, by our names."""
    state = unwrap(content)
    return state if is_our_layout(model, state) else to_our_keys(state, model.key_rules)


def is_our_layout(model: ZooModel, state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict goes by our names. Backbones are called alike everywhere, so the rest decides, by majority:
    one stray tensor must not send a whole file through the wrong renaming.
    """
    own = model.state_dict()
    foreign = ("bbox_head.", "rpn_head.", "roi_head.", "neck.lateral_convs.", "neck.fpn_convs.")
    theirs = sum(key.startswith(foreign) for key in state)
    ours = sum(key in own for key in state if not key.startswith("backbone."))
    return ours > theirs or (not theirs and any(key in own for key in state))


def adapted(model: ZooModel, state: Mapping[str, Tensor], classes: int, swap_channels: bool) -> dict[str, Tensor]:
    """A state dict made to fit a model of other classes or channels than the weights were trained for.

    Args:
        model: gives its own, random, tensors where its classes are others.
        state: in our key layout.
        classes: number of classes of the weights.
        swap_channels: the weights take BGR and the model does not.
    """
    fitted = adapt_stem(state, model, swap_channels)
    if model.num_classes != classes:
        own = model.state_dict()
        fitted.update((key, own[key]) for key in model.class_parameters() if key in fitted)
    return fitted
