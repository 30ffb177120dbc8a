"""Loads weights into an existing detector, strictly, from files and state dicts in several key layouts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from pkdzoo.checkpoints import load_strictly, read_state_dict, select_matching, to_our_keys
from pkdzoo.checkpoints.wrappers import class_names, unwrap
from pkdzoo.data.labels import COCO_NAMES
from pkdzoo.hub.fetch import find_weights
from pkdzoo.hub.files import TENSORS, read_config
from pkdzoo.hub.saved_folder import CONFIG
from pkdzoo.hub.weights import InitialWeights, Weights
from pkdzoo.models._channels import adapt_stem
from pkdzoo.models._interface import ZooModel
from pkdzoo.models._registry import find
from pkdzoo.models._saved_config import Saved, apply_image_settings, newer_version, read_saved, start_of
from pkdzoo.models.backbones.timm import TimmBackbone
from pkdzoo.models.backbones.weights import (
    add_missing_tensors,
    check_strides,
    describe_norm,
    imagenet_weights,
    is_same_norm,
    to_backbone,
)
from pkdzoo.structures import PixelNorm
from pkdzoo.utils.text import quote_some

M = TypeVar("M", bound=ZooModel)


def load_checkpoint(model: M, source: str | Path | Mapping[str, Any]) -> M:
    """Load weights from a file or a state dict, strictly.

    Args:
        model: a detector with the architecture and number of classes of the weights.
        source: the path of a ``.safetensors`` or ``.pth`` file, of a folder with ``model.safetensors`` (a saved
            detector, or a checkpoint of pkdzoo's training), or a state dict. Its keys are those of pkdzoo,
            mmdetection, mmrazor or CrossKD. From a checkpoint or state dict of a distillation, the student is loaded.
            A saved detector brings its image size, letterbox and thresholds, unless the model was created with others.

    Returns:
        The same model.

    Raises:
        ValueError: if keys are missing, unexpected or have another shape; lists them all, and the model is unchanged.
            Also for weights of another dialect of the architecture, as far as their keys tell it, and for a saved
            detector of another architecture or with other pixel statistics.
        FileNotFoundError: if the file does not exist.

    Example:
        >>> import pkdzoo
        >>> source = pkdzoo.create_detector("retina_r10w16").state_dict()
        >>> pkdzoo.load_checkpoint(pkdzoo.create_detector("retina_r10w16"), source).loaded_from
        'a state dict'
    """
    check_not_optimized(model)
    if isinstance(source, Mapping):
        load_strictly(model, to_our_layout(model, source))
        model.loaded_from = "a state dict"
        return model
    file = file_of(source)
    saved = saved_beside(file) if is_saved(file) else None
    if saved is not None:
        check_same_detector(model, saved, file.parent)
    load_strictly(model, to_our_layout(model, read_state_dict(file)))
    if saved is not None:
        model.initial_weights = start_of(str(file.parent), saved)
        apply_image_settings(model, {key: saved.settings[key] for key in saved.settings if key not in model.overrides})
    model.loaded_from = str(source)
    return model


def is_saved(file: Path) -> bool:
    """Whether a file holds the tensors of a saved detector, whose config lies beside it."""
    return file.name == TENSORS and file.with_name(CONFIG).is_file()


def saved_beside(file: Path) -> Saved:
    """The checked config of the saved detector whose tensors a file holds.

    Raises:
        ValueError: for a wrong config; it says so if a newer version wrote it.
    """
    config = read_config(file.with_name(CONFIG))
    try:
        return read_saved(config)
    except ValueError as error:
        raise ValueError(f"{file.parent}: {error}{newer_version(config)}") from error


def check_same_detector(model: ZooModel, saved: Saved, folder: Path) -> None:
    """Check that a detector is the saved one, as far as the tensors do not tell it. Other class names are a warning.

    Raises:
        ValueError: for another architecture or other pixel statistics.
    """
    help = f"write pkdzoo.from_pretrained({str(folder)!r}), which builds what was saved"
    if saved.architecture != model.name:
        raise ValueError(f"{folder} holds a {saved.architecture}, and this is a {model.name}: {help}")
    norm = saved.settings.get("pixel_norm")
    if norm is not None and not is_same_norm(norm, model.pixel_norm):
        raise ValueError(
            f"{folder} takes pixels normalized with {describe_norm(norm)}, and this detector normalizes with "
            f"{describe_norm(model.pixel_norm)}: {help}"
        )
    warn_of_other_classes(str(folder), saved.labels, model.label_names)


def warn_of_other_classes(source: str, theirs: Sequence[str], own: Sequence[str]) -> None:
    """Warn if weights were trained with as many classes of other names, or in another order.

    Args:
        source: of the weights, for the message.
        theirs: class names of the weights.
        own: class names of the detector that has them now.
    """
    if tuple(theirs) != tuple(own) and len(theirs) == len(own) and not is_generic(theirs) and not is_generic(own):
        warnings.warn(
            f"{source} was trained to detect {quote_some(theirs)}, and this detector calls its classes "
            f"{quote_some(own)}",
            stacklevel=4,
        )


def saved_labels(source: str | Path) -> tuple[str, ...] | None:
    """The class names of a file or folder of weights; None if it has none.

    Args:
        source: see :func:`load_checkpoint`. The names are in the config of a saved detector, or in the file itself.
    """
    file = file_of(source)
    if is_saved(file):
        labels = tuple(saved_beside(file).labels)
    else:
        labels = class_names(read_state_dict(file)) or ()
    if tuple(name.replace("_", " ") for name in labels) == COCO_NAMES:  # mmdetection 1 wrote "traffic_light"
        return COCO_NAMES
    return None if is_generic(labels) else labels


def is_generic(names: Sequence[str]) -> bool:
    """Whether class names are those that a detector has before it is given any."""
    return tuple(names) == tuple(f"class_{i}" for i in range(len(names)))


def load_backbone(model: M, source: str = "imagenet", cache_dir: str | Path | None = None) -> M:
    """Load ImageNet weights into the backbone of a detector, strictly.

    Layers that the detector adds to the classification network keep their weights. A network of timm gets the weights
    of its tag; their origin and license are kept in ``model.initial_weights``, its config and its card.

    Args:
        model: a detector of a registered architecture.
        source: ``imagenet`` for the weights with the pixel statistics of this detector, or the tag of one file:
            ``imagenet_caffe``, ``imagenet_msra``.
        cache_dir: see :func:`pkdzoo.create_detector`.

    Returns:
        The same model.

    Raises:
        ValueError: if there are no such weights, or they are for another norm layer.
        pkdzoo.hub.errors.DownloadError: if they cannot be downloaded.

    Example:
        >>> import pkdzoo
        >>> model = pkdzoo.create_detector("retina_r50", num_classes=3)
        >>> model = pkdzoo.load_backbone(model)  # doctest: +SKIP
    """
    check_not_optimized(model)
    if isinstance(model.backbone, TimmBackbone):
        model.initial_weights = load_timm(model, model.backbone, source, cache_dir)
        return model
    entry, _ = find(model.name)
    name = {**entry.args, **model.overrides}.get("backbone", "r50")
    norm, row = weights_for(model, name, entry.args.get("pixel_norm") or PixelNorm(), source)
    check_strides(model.backbone, norm, row)
    swap_channels = norm.channel_order != model.channel_order

    def prepare(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        prefixed = {f"backbone.{key}": value for key, value in state.items()}
        fitted = adapt_stem(prefixed, model, swap_channels)
        return add_missing_tensors(
            {key.removeprefix("backbone."): value for key, value in fitted.items()}, model.backbone
        )

    def convert(content: dict[str, Any]) -> dict[str, Tensor]:
        state = to_backbone(content)
        select_matching(model.backbone, prepare(state))
        return state

    state, _ = find_weights(f"{name}.{row.tag}", row, convert, cache_dir)
    load_strictly(model.backbone, prepare(state))
    return model


def weights_for(model: ZooModel, backbone: str, published: PixelNorm, source: str) -> tuple[PixelNorm, Weights]:
    """The file for the pixel statistics of a detector, and the statistics that the file was trained with.

    Args:
        model: the detector.
        backbone: its name.
        published: statistics of the registered detector; they decide for statistics of the user's own.
        source: see :func:`load_backbone`.
    """
    own = model.pixel_norm
    if source != "imagenet" or len(own.mean) != 3:
        return imagenet_weights(backbone, published, source)
    try:
        return imagenet_weights(backbone, own)
    except ValueError:
        norm, row = imagenet_weights(backbone, published)
    warnings.warn(
        f"{model.name} normalizes pixels with {describe_norm(own)}, and its ImageNet weights were trained with "
        f"{describe_norm(norm)}: they start from other values than they know. Leave pixel_norm out to use theirs",
        stacklevel=3,
    )
    return norm, row


def load_timm(model: ZooModel, backbone: TimmBackbone, source: str, cache_dir: str | Path | None) -> InitialWeights:
    """Load the weights of the backbone's tag, see :func:`load_backbone`."""
    if source != "imagenet":
        raise ValueError(
            f"weights {source!r}: a network of timm has those of its tag: write 'imagenet', and the tag in the name of "
            "the backbone, as in 'timm:NAME.TAG'"
        )
    if model.channel_order != "rgb":
        raise ValueError("timm's weights take RGB, and pixel_norm says BGR: write channel_order='rgb' in it")
    return backbone.load_imagenet(cache_dir)


def file_of(source: str | Path) -> Path:
    """The file of a path: the path itself, or the tensors of a folder."""
    path = Path(source)
    if not path.is_dir():
        return path
    if not (path / TENSORS).is_file():
        raise FileNotFoundError(
            f"{path} is a folder without {TENSORS}: write the path of a file, of a saved detector, or of one "
            "checkpoint of a run, e.g. runs/NAME/checkpoints/step_00001000"
        )
    return path / TENSORS


def check_not_optimized(model: ZooModel) -> None:
    """Raise ValueError for a detector whose norm layers were folded by ``optimize()``."""
    if model.optimized:
        raise ValueError(f"{model.name} is optimized and has no norm layers any more: load weights before optimize()")


def to_our_layout(model: ZooModel, content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a checkpoint's content, by pkdzoo's names."""
    state = unwrap(content)
    model.check_layout(state)
    return state if is_our_layout(model, state) else to_our_keys(state, model.key_rules)


def is_our_layout(model: ZooModel, state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has pkdzoo's names.

    The backbone has the same names in all layouts, so the majority of the other tensors decides: one unexpected tensor
    must not change the layout of the whole file.
    """
    own = model.state_dict()
    mmdet_prefixes = ("bbox_head.", "rpn_head.", "roi_head.", "neck.lateral_convs.", "neck.fpn_convs.")
    theirs = sum(key.startswith(mmdet_prefixes) for key in state)
    ours = sum(key in own for key in state if not key.startswith("backbone."))
    return ours > theirs or (not theirs and any(key in own for key in state))


def adapt_state(model: ZooModel, state: Mapping[str, Tensor], classes: int, swap_channels: bool) -> dict[str, Tensor]:
    """Adapt a state dict to a model with another number of classes or channels.

    Args:
        model: its tensors replace those that depend on the number of classes, if this number differs.
        state: in pkdzoo's key layout.
        classes: number of classes of the weights.
        swap_channels: the weights expect BGR and the model RGB.
    """
    fitted = adapt_stem(state, model, swap_channels)
    if model.num_classes != classes:
        own = model.state_dict()
        fitted.update((key, own[key]) for key in model.class_parameters() if key in fitted)
    return fitted
