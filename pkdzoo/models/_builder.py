"""Builds a detector from a registry entry or a saved folder: arguments, initialization, weights."""

from __future__ import annotations

import inspect
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pkdzoo.checkpoints import load_strictly, select_matching
from pkdzoo.data.labels import check_names
from pkdzoo.data.labels import label_names as names_of
from pkdzoo.hub.fetch import find_weights
from pkdzoo.hub.files import fetch_repository, read_folder
from pkdzoo.hub.saved_folder import NoSavedDetector, find_saved_folder
from pkdzoo.hub.weights import InitialWeights
from pkdzoo.layers.init import DeferredInit
from pkdzoo.models._channels import widen
from pkdzoo.models._config import from_json, layers_of, set_labels
from pkdzoo.models._interface import ZooModel
from pkdzoo.models._loading import adapt_state, is_generic, to_our_layout
from pkdzoo.models._registry import PREFIXES, Entry, find, folder_of, list_detectors, no_such_prefix
from pkdzoo.models._saved_config import Saved, apply_settings, newer_version, read_saved, start_of
from pkdzoo.models.backbones import backbone_arguments
from pkdzoo.models.backbones.timm_networks import describe_network, full_name, is_timm
from pkdzoo.structures import PixelNorm
from pkdzoo.utils.suggest import did_you_mean
from pkdzoo.utils.text import counted, quote_some

ON_THE_HUB = re.compile(r"[\w-][\w.-]*/[\w.-]+(@[^@]+)?", re.ASCII)
# Arguments of create_detector itself, for suggestions.
OWN_ARGUMENTS = frozenset({"pretrained", "num_classes", "in_chans", "label_names", "cache_dir", "features_only"})


def build(entry: Entry, overrides: Mapping[str, Any], num_classes: int | None, loaded: int | None = None) -> ZooModel:
    """Build the detector of an entry.

    Args:
        entry: of the registry.
        overrides: arguments that replace the entry's.
        num_classes: number of classes; None means the entry's.
        loaded: number of classes of the weights that the caller loads next; None if it loads none.

    Returns:
        The detector, without the weights.

    Raises:
        ValueError: for an unknown argument or an invalid number of classes.
    """
    changes = check_overrides(entry, overrides)
    if num_classes is not None:
        if not isinstance(num_classes, int) or isinstance(num_classes, bool) or num_classes < 1:
            raise ValueError(f"num_classes={num_classes!r}: write a whole number of classes, at least 1")
        changes["num_classes"] = num_classes
    check_preprocessing(changes)
    if is_timm(changes.get("backbone")):
        changes["backbone"] = full_name(changes["backbone"])  # saved with its tag, whose default can change
    if "pixel_norm" not in changes:
        changes |= default_pixel_norm(entry, changes.get("backbone"), changes.get("in_chans", 3))
    defaults: dict[str, Any] = dict(entry.args)
    if "backbone" in changes:  # another backbone may not have all arguments of the entry's
        known = arguments_of(entry, changes["backbone"])
        defaults = {key: value for key, value in defaults.items() if key in known}
    args = {**defaults, **changes}
    loads_all = loaded is not None and num_classes == loaded
    with DeferredInit(weights_follow=loads_all):
        model: ZooModel = entry.build(**args)
    model.name = entry.name
    model.overrides = changes
    model.built_layers = layers_of(model)
    return model


def check_preprocessing(changes: Mapping[str, Any]) -> None:
    """Check pixel statistics and image size: their types, and one mean per channel of the images.

    Raises:
        ValueError: for a value of another type, or statistics of another number of channels.
    """
    norm, resize = changes.get("pixel_norm"), changes.get("resize", (1, 1))
    if norm is not None and not isinstance(norm, PixelNorm):
        raise ValueError(f"pixel_norm={norm!r}: write pkdzoo.structures.PixelNorm(mean, std, channel_order)")
    channels = changes.get("in_chans", 3)
    if norm is not None and len(norm.mean) != channels:
        raise ValueError(
            f"pixel_norm is for {counted(len(norm.mean), 'channel')}, and the images have {channels}: write as many "
            "means, or in_chans=... for images of another number of channels than 3"
        )
    if not isinstance(resize, (tuple, list)) or len(resize) != 2 or not all(type(s) is int and s > 0 for s in resize):
        raise ValueError(f"resize={resize!r}: write two whole numbers of pixels, e.g. (800, 1333)")


def default_pixel_norm(entry: Entry, backbone: str | None, channels: int) -> dict[str, PixelNorm]:
    """``pixel_norm`` if it differs from the entry's, for a network of timm or another number of channels.

    Args:
        entry: of the registry.
        backbone: that replaces the entry's; None means the entry's.
        channels: of the images.
    """
    own = entry.args.get("pixel_norm") or PixelNorm()
    backbone = backbone or entry.args.get("backbone")
    pixel_norm = describe_network(backbone).pixel_norm if backbone is not None and is_timm(backbone) else own
    if channels != 3:
        pixel_norm = widen(pixel_norm, channels)
    return {} if pixel_norm == own else {"pixel_norm": pixel_norm}


def check_overrides(entry: Entry, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides that are not None.

    Raises:
        ValueError: for an argument that neither the entry nor its backbone has.
    """
    changes = {key: value for key, value in overrides.items() if value is not None}
    known = arguments_of(entry, changes.get("backbone", entry.args.get("backbone", "r50")))
    for key in changes:
        if key not in known:
            raise ValueError(f"{entry.name} has no argument {key!r}. {did_you_mean(key, known | OWN_ARGUMENTS)}")
    return changes


def arguments_of(entry: Entry, backbone: str) -> set[str]:
    """Names of the arguments of an entry with this backbone."""
    own = set(inspect.signature(entry.build).parameters) - {"backbone_args"}
    return own | backbone_arguments(backbone)


def from_name(
    name: str | Path,
    pretrained: bool,
    num_classes: int | None,
    label_names: str | Sequence[str] | None,
    cache_dir: str | Path | None,
    overrides: Mapping[str, Any],
) -> ZooModel:
    """Build a registered detector or load a saved one, in eval mode, see :func:`pkdzoo.create_detector`."""
    labels, num_classes = resolve_classes(label_names, num_classes)
    name = as_name(name)
    folder = folder_of(name)
    if folder is not None and not name.startswith(PREFIXES) and not folder.is_dir():
        raise NoSavedDetector(
            f"there is no such folder: {name}, and no detector is registered under this name: write 'local-dir:FOLDER' "
            "or 'hf-hub:ORGANIZATION/NAME'"
        )
    if folder is not None or name.startswith(PREFIXES):
        model = from_folder(name if folder is None else f"local-dir:{folder}", num_classes, cache_dir, overrides)
    elif ":" in name:
        raise ValueError(no_such_prefix(name))
    else:
        model = from_registry(name, pretrained, num_classes, cache_dir, overrides)
    if labels is not None:
        rename_classes(model, labels)
    return model.eval()


def as_name(name: str | Path) -> str:
    """A name as text; that of a path is ``local-dir:PATH``.

    Raises:
        ValueError: for what is neither a text nor a path.
    """
    if isinstance(name, str):
        return name
    if isinstance(name, os.PathLike):
        return f"local-dir:{os.fspath(name)}"
    raise ValueError(f"{name!r} is no name: write that of a detector, or the path of a saved one")


def rename_classes(model: ZooModel, labels: tuple[str, ...]) -> None:
    """Set the class names that a user gave; a warning if weights were trained with as many other ones."""
    if model.loaded_from is not None and model.label_names != labels and not is_generic(model.label_names):
        warnings.warn(
            f"{model.name} was trained to detect {quote_some(model.label_names)}: label_names gives its classes other "
            "names, and what it detects stays the same",
            stacklevel=4,
        )
    set_labels(model, labels)


def resolve_classes(
    label_names: str | Sequence[str] | None, num_classes: int | None
) -> tuple[tuple[str, ...] | None, int | None]:
    """Class names as a tuple, and the number of classes: theirs where only names are given."""
    if label_names is None:
        return None, num_classes
    if isinstance(label_names, Mapping):
        raise ValueError("label_names is a mapping: write its names in the order of the labels, list(NAMES.values())")
    if not isinstance(label_names, (str, Sequence)):
        raise ValueError(f"label_names={label_names!r} has no order: write a list of names")
    if not all(isinstance(label, str) for label in label_names):
        raise ValueError(f"label_names={label_names!r}: write a list of texts, one per class")
    labels = names_of(label_names if isinstance(label_names, str) else tuple(label_names))
    check_names(labels)
    return labels, len(labels) if num_classes is None else num_classes


def from_registry(
    name: str, pretrained: bool, num_classes: int | None, cache_dir: str | Path | None, overrides: Mapping[str, Any]
) -> ZooModel:
    """Build a registered detector, see :func:`pkdzoo.create_detector`."""
    entry, row = find(name)
    if not pretrained:
        return build(entry, overrides, num_classes)
    row = row or entry.default
    if row is not None and not row.has_source and row.launch:
        raise ValueError(
            f"the weights '{entry.name}.{row.tag}' are known but not published ({row.note}): train them with "
            f"{row.launch}; or write pretrained=False for random ones"
        )
    if row is None or not row.has_source:
        raise ValueError(no_weights_message(entry))
    names = names_of(row.labels)
    if row.resize is not None and overrides.get("resize") is None:
        overrides = {**overrides, "resize": row.resize}
    model = build(entry, overrides, len(names) if num_classes is None else num_classes, loaded=len(names))
    swap_channels = (entry.args.get("pixel_norm") or PixelNorm()).channel_order != model.channel_order

    def convert(content: dict[str, Any]) -> dict[str, Tensor]:
        """The tensors of a downloaded file in our layout, after a check that they fit."""
        state = to_our_layout(model, content)
        select_matching(model, adapt_state(model, state, len(names), swap_channels))
        return state

    state, origin = find_weights(f"{entry.name}.{row.tag}", row, convert, cache_dir)
    try:
        load_strictly(model, adapt_state(model, state, len(names), swap_channels))
    except ValueError as error:
        raise ValueError(f"{name}: {error}. Its weights are from {origin}") from error
    model.loaded_from = f"{entry.name}.{row.tag} ({origin})"
    model.initial_weights = InitialWeights(f"{entry.name}.{row.tag}", row.license, sha256=row.sha256)
    if model.num_classes == len(names):
        set_labels(model, names)
    return model


def no_weights_message(entry: Entry) -> str:
    """The error message for an entry without weights, with names that have some."""
    tags = [w.tag for w in entry.weights if w.has_source]
    others = list_detectors(pretrained=True, family=entry.family)
    return (
        f"there are no weights for {entry.name!r} (its tags: {', '.join(tags) or 'none'}); "
        f"{entry.family} detectors with weights: {', '.join(others) or 'none'}"
    )


def from_folder(
    name: str,
    num_classes: int | None,
    cache_dir: str | Path | None,
    overrides: Mapping[str, Any],
    token: str | None = None,
    local_files_only: bool = False,
) -> ZooModel:
    """Load a saved detector, see :func:`pkdzoo.create_detector`; ``name`` has one of the prefixes."""
    prefix, _, location = name.partition(":")
    if prefix == "local-dir":
        folder = find_saved_folder(location)
        name = f"local-dir:{folder}"
    else:
        folder = fetch_repository(location, cache_dir, token, local_files_only)
    config, state = read_folder(folder)
    try:
        return from_saved(name, read_saved(config), state, num_classes, overrides)
    except ValueError as error:
        raise ValueError(f"{name}: {error}{newer_version(config)}") from error


def from_saved(
    name: str, saved: Saved, state: Mapping[str, Tensor], num_classes: int | None, overrides: Mapping[str, Any]
) -> ZooModel:
    """Build the detector of a config and load its tensors.

    Args:
        name: place of the saved detector.
        saved: its checked config.
        state: its tensors.
        num_classes: see :func:`pkdzoo.create_detector`.
        overrides: arguments that replace the saved ones.

    Raises:
        ValueError: if the config, the tensors and the arguments do not fit together.
    """
    entry, _ = find(saved.architecture)
    overrides = {key: value for key, value in overrides.items() if value is not None}
    with config_errors():
        args = {key: from_json(value) for key, value in saved.args.items() if key != "num_classes"}
    if args or saved.classes > entry.args.get("num_classes", 80):
        check_size(entry, args, saved.classes, state)
    norm = saved.settings.get("pixel_norm") or {**entry.args, **args}.get("pixel_norm") or PixelNorm()
    channels = args.get("in_chans", 3)
    if overrides.get("in_chans", channels) != channels:
        overrides.setdefault("pixel_norm", widen(norm, overrides["in_chans"]))
    settings = {key: value for key, value in saved.settings.items() if key not in overrides}
    with config_errors(active=not overrides):
        classes = saved.classes if num_classes is None else num_classes
        model = build(entry, {**args, **overrides}, classes, loaded=saved.classes)
    apply_settings(model, settings)
    model.initial_weights = start_of(name, saved)
    load_strictly(model, adapt_state(model, state, saved.classes, norm.channel_order != model.channel_order))
    if model.num_classes == saved.classes:
        set_labels(model, saved.labels)
    model.loaded_from = name
    return model


def check_size(entry: Entry, args: Mapping[str, Any], classes: int, state: Mapping[str, Tensor]) -> None:
    """Check that the arguments of a config give the tensors of its file, before memory is reserved for them."""
    with config_errors(), torch.device("meta"):
        expected = build(entry, args, classes)
    select_matching(expected, state)


@contextmanager
def config_errors(active: bool = True) -> Iterator[None]:
    """Report what arguments of a wrong type raise as an error of the config.

    Args:
        active: False if the arguments are not the config's alone.
    """
    try:
        yield
    except (TypeError, RuntimeError, LookupError, AttributeError, ArithmeticError, AssertionError) as error:
        if not active:
            raise
        raise ValueError(f"its config.json has arguments that cannot be used: {error}") from error


def open_saved(
    location: str | Path,
    revision: str | None,
    num_classes: int | None,
    label_names: str | Sequence[str] | None,
    cache_dir: str | Path | None,
    token: str | None,
    local_files_only: bool,
    overrides: Mapping[str, Any],
) -> ZooModel:
    """Load a saved detector in eval mode, see :func:`pkdzoo.from_pretrained`."""
    name = str(location)
    if not name.startswith(PREFIXES):
        if not Path(name).is_dir() and not ON_THE_HUB.fullmatch(name):
            raise NoSavedDetector(f"there is no such folder: {name}; on the Hub a name is ORGANIZATION/NAME")
        name = f"local-dir:{name}" if Path(name).is_dir() else f"hf-hub:{name}"
    if revision is not None:
        if name.startswith("local-dir:") or "@" in name:
            raise ValueError(f"revision={revision!r}: leave it out, {location} is a folder or contains a revision")
        name = f"{name}@{revision}"
    labels, num_classes = resolve_classes(label_names, num_classes)
    model = from_folder(name, num_classes, cache_dir, overrides, token, local_files_only)
    if labels is not None:
        rename_classes(model, labels)
    return model.eval()
