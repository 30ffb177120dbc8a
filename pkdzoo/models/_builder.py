"""From a registry entry or a saved folder to a detector: arguments, initialisation, weights."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from pkdzoo.checkpoints import fitting, load_strictly
from pkdzoo.data.labels import label_names as names_of
from pkdzoo.hub.fetch import find_weights
from pkdzoo.hub.files import SETTINGS, fetch_repository, read_folder
from pkdzoo.layers.init import DeferredInit
from pkdzoo.models._channels import widen
from pkdzoo.models._config import from_json, set_labels, set_up
from pkdzoo.models._interface import ZooModel
from pkdzoo.models._loading import adapted, in_our_layout
from pkdzoo.models._registry import Entry, find, list_detectors
from pkdzoo.models.backbones import backbone_arguments
from pkdzoo.structures import PixelNorm
from pkdzoo.utils.suggest import did_you_mean

PREFIXES = ("hf-hub:", "local-dir:")
# Arguments of create_detector itself, which a mistyped keyword is compared with as well.
OWN_ARGUMENTS = frozenset({"pretrained", "num_classes", "in_chans", "label_names", "cache_dir", "features_only"})


def build(entry: Entry, overrides: Mapping[str, Any], num_classes: int | None, loaded: int | None = None) -> ZooModel:
    """A detector of an entry.

    Args:
        entry: what to build.
        overrides: arguments that differ from the entry's.
        num_classes: None means the entry's.
        loaded: number of classes of the weights that follow at once, or None when none do.
    """
    changes = check_overrides(entry, overrides)
    if num_classes is not None:
        if not isinstance(num_classes, int) or num_classes < 1:
            raise ValueError(f"num_classes={num_classes!r}: write a whole number of classes, at least 1")
        changes["num_classes"] = num_classes
    channels = changes.get("in_chans", 3)
    if channels != 3 and "pixel_norm" not in changes:
        changes["pixel_norm"] = widen(entry.args.get("pixel_norm") or PixelNorm(), channels)
    fixed: dict[str, Any] = dict(entry.args)
    if "backbone" in changes:  # another backbone does not take all that the entry says of its own
        known = arguments_of(entry, changes["backbone"])
        fixed = {key: value for key, value in fixed.items() if key in known}
    args = {**fixed, **changes}
    everything_follows = loaded is not None and num_classes == loaded
    with DeferredInit(weights_follow=everything_follows):
        model: ZooModel = entry.build(**args)
    model.name = entry.name
    model.overrides = changes
    return model


def check_overrides(entry: Entry, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides that are not None, after making sure that each is an argument somewhere."""
    given = {key: value for key, value in overrides.items() if value is not None}
    known = arguments_of(entry, given.get("backbone", entry.args.get("backbone", "r50")))
    for key in given:
        if key not in known:
            raise ValueError(f"{entry.name} has no argument {key!r}. {did_you_mean(key, known | OWN_ARGUMENTS)}")
    return given


def arguments_of(entry: Entry, backbone: str) -> set[str]:
    """Names of what an entry can be built with on a backbone."""
    own = set(inspect.signature(entry.build).parameters) - {"backbone_args"}
    return own | backbone_arguments(backbone)


def from_registry(
    name: str, pretrained: bool, num_classes: int | None, cache_dir: str | Path | None, overrides: Mapping[str, Any]
) -> ZooModel:
    """A detector by its registered name, see :func:`create_detector`."""
    entry, row = find(name)
    if not pretrained:
        return build(entry, overrides, num_classes)
    row = row or entry.default
    if row is None or not row.has_source:
        raise ValueError(no_weights(entry))
    names = names_of(row.labels)
    model = build(entry, overrides, num_classes or len(names), loaded=len(names))
    swap_channels = (entry.args.get("pixel_norm") or PixelNorm()).channel_order != model.channel_order

    def convert(content: dict[str, Any]) -> dict[str, Tensor]:
        """A foreign file in our layout, after making sure that it fits."""
        state = in_our_layout(model, content)
        fitting(model, adapted(model, state, len(names), swap_channels))
        return state

    state, origin = find_weights(f"{entry.name}.{row.tag}", row, convert, cache_dir)
    load_strictly(model, adapted(model, state, len(names), swap_channels))
    model.loaded_from = f"{entry.name}.{row.tag} ({origin})"
    if model.num_classes == len(names):
        set_labels(model, names)
    return model


def no_weights(entry: Entry) -> str:
    """The sentence for somebody who wants weights that nobody has."""
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
    """A saved detector, see :func:`create_detector`; ``name`` has one of the prefixes."""
    prefix, _, place = name.partition(":")
    folder = place if prefix == "local-dir" else fetch_repository(place, cache_dir, token, local_files_only)
    config, state = read_folder(folder)
    config = {**config, **config.get(SETTINGS, {})}
    lacking = [key for key in ("architecture", "num_classes", "label_names") if key not in config]
    if lacking:
        raise ValueError(
            f"{name}: its config.json does not say {', '.join(lacking)}; save_pretrained() writes all of it"
        )
    entry, _ = find(str(config["architecture"]))
    saved = {key: from_json(value) for key, value in config.get("args", {}).items() if key != "num_classes"}
    if "in_chans" in overrides:  # statistics for another number of channels are made anew
        saved.pop("pixel_norm", None)
    classes = int(config["num_classes"])
    model = build(entry, {**saved, **overrides}, num_classes or classes, loaded=classes)
    before = config.get("channel_order", model.channel_order)
    given = {*overrides, *(("pixel_mean",) if "pixel_norm" in overrides else ())}
    try:
        set_up(model, {key: value for key, value in config.items() if key not in given})
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"{name}: its config.json is not one that this pkdzoo can read: {error}") from error
    load_strictly(model, adapted(model, state, classes, swap_channels=before != model.channel_order))
    if model.num_classes == classes:
        set_labels(model, config["label_names"])
    model.loaded_from = name
    return model


def open_saved(
    place: str | Path,
    revision: str | None,
    num_classes: int | None,
    label_names: str | Sequence[str] | None,
    cache_dir: str | Path | None,
    token: str | None,
    local_files_only: bool,
    overrides: Mapping[str, Any],
) -> ZooModel:
    """A saved detector in eval mode, see :func:`pkdzoo.from_pretrained`."""
    name = str(place)
    if not name.startswith(PREFIXES):
        name = f"local-dir:{name}" if Path(name).is_dir() else f"hf-hub:{name}"
    if revision is not None:
        if name.startswith("local-dir:") or "@" in name:
            raise ValueError(f"revision={revision!r}: {place} has no revisions, or names one already")
        name = f"{name}@{revision}"
    if label_names is not None:
        label_names = names_of(label_names if isinstance(label_names, str) else tuple(label_names))
        num_classes = len(label_names) if num_classes is None else num_classes
    model = from_folder(name, num_classes, cache_dir, overrides, token, local_files_only)
    if label_names is not None:
        set_labels(model, label_names)
    return model.eval()
