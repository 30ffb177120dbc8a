"""Reading the ``config.json`` of a saved detector, which can come from anybody: every value is checked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from pkdzoo.hub.files import SETTINGS
from pkdzoo.hub.weights import InitialWeights
from pkdzoo.models._channels import MAX_CHANNELS
from pkdzoo.models._interface import ZooModel
from pkdzoo.models.rpn import ProposalConfig
from pkdzoo.structures import Letterbox, PixelNorm, PostProcess
from pkdzoo.utils.text import counted
from pkdzoo.version import __version__

T = TypeVar("T")

MAX_CLASSES = 100_000
MAX_SIDE = 100_000  # pixels
MAX_ARGUMENT = 8192  # e.g. channels
MAX_DEPTH = 100  # layers of a tower, or the factor of a backbone's depth
MAX_TEXT = 1000  # characters of a class name


@dataclass(frozen=True)
class Saved:
    """The checked content of a config.

    Attributes:
        architecture: registered name.
        args: arguments of the build function, in JSON's types.
        classes: number of classes.
        labels: class names.
        settings: ``pixel_norm``, ``resize``, ``letterbox``, ``postprocess``, ``proposals`` and ``initial_weights``,
            those that the config has.
        license: of the weights, if they were published; else None.
        sha256: of the tensors, if they were published; else empty.
    """

    architecture: str
    args: Mapping[str, Any]
    classes: int
    labels: Sequence[str]
    settings: Mapping[str, Any]
    license: str | None = None
    sha256: str = ""


def read_saved(config: Mapping[str, Any]) -> Saved:
    """Check the content of a config.

    Args:
        config: as :func:`pkdzoo.hub.files.read_config` gives it.

    Raises:
        ValueError: for a missing, wrong or excessive value; the message names it and what to write.
    """
    missing = [key for key in ("architecture", "num_classes", "label_names") if key not in config]
    if missing:
        raise ValueError(f"config.json lacks {', '.join(missing)}: save the detector again by save_pretrained()")
    architecture, args, labels = config["architecture"], config.get("args", {}), config["label_names"]
    if not isinstance(architecture, str):
        raise ValueError(f"config.json: architecture={shorten(architecture)}: write a registered name")
    classes = whole("num_classes", config["num_classes"], 1, MAX_CLASSES)
    if not all(isinstance(label, str) and len(label) <= MAX_TEXT for label in labels) or len(labels) != classes:
        raise ValueError(
            f"config.json: label_names: write {classes} names, one per class, of at most {MAX_TEXT} characters"
        )
    for key, value in args.items():
        check_argument(key, value)
    own = config.get(SETTINGS, {})
    license, sha256 = own.get("license"), own.get("sha256", "")
    if license is not None and not (is_line(license) and license.strip()):
        raise ValueError(f"config.json: license={shorten(license)}: write one line, e.g. MIT")
    if not isinstance(sha256, str) or not re.fullmatch("([0-9a-f]{64})?", sha256):
        raise ValueError(f"config.json: sha256={shorten(sha256)}: write 64 digits")
    return Saved(architecture, args, classes, labels, read_settings({**config, **own}), license, sha256)


def is_line(value: Any) -> bool:
    """Whether a value is one line of text, of at most ``MAX_TEXT`` characters."""
    return isinstance(value, str) and value.isprintable() and len(value) <= MAX_TEXT


def start_of(place: str, saved: Saved) -> InitialWeights | None:
    """The weights whose license a detector inherits that starts as a saved one.

    Args:
        place: ``hf-hub:ORG/NAME@REVISION``, or ``local-dir:FOLDER`` or ``FOLDER``, of which the last part is kept.
        saved: its config.

    Returns:
        The saved weights if they were published; of others what they started from themselves, and None for none.
    """
    if saved.license is None:
        start: InitialWeights | None = saved.settings.get("initial_weights")
        return start
    if place.startswith("hf-hub:"):
        name, _, revision = place.removeprefix("hf-hub:").partition("@")
    else:
        name, revision = Path(place.removeprefix("local-dir:")).resolve().name, ""
    return InitialWeights(name or saved.architecture, saved.license, revision, saved.sha256)


def read_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Pixel statistics, image size and thresholds.

    Raises:
        ValueError: for a wrong value.
    """
    settings: dict[str, Any] = {}
    if any(key in config for key in ("pixel_mean", "pixel_std", "channel_order")):
        parts = (config.get(key) for key in ("pixel_mean", "pixel_std", "channel_order"))
        settings["pixel_norm"] = read_pixel_norm("", *parts)
    if "resize" in config:
        sides = config["resize"]
        if not isinstance(sides, list) or len(sides) != 2:
            raise ValueError(f"config.json: resize={shorten(sides)}: write two lengths in pixels")
        settings["resize"] = tuple(whole("resize", side, 1, MAX_SIDE) for side in sides)
    if "letterbox" in config:
        settings["letterbox"] = None if config["letterbox"] is None else read_letterbox(config["letterbox"])
    if "postprocess" in config:
        settings["postprocess"] = read_thresholds("postprocess", config["postprocess"], PostProcess)
    if "proposals" in config:
        settings["proposals"] = read_thresholds("proposals", config["proposals"], ProposalConfig)
    if "initial_weights" in config:
        settings["initial_weights"] = read_initial_weights(config["initial_weights"])
    return settings


def read_pixel_norm(place: str, mean: Any, std: Any, order: Any) -> PixelNorm:
    """Pixel statistics; ValueError for wrong ones. ``place`` is a prefix of names in messages."""
    means, stds = numbers(f"{place}pixel_mean", mean, -1e6, 1e6), numbers(f"{place}pixel_std", std, -1e6, 1e6)
    if len(means) != len(stds):
        raise ValueError(f"config.json: {len(means)} pixel_mean and {len(stds)} pixel_std: write one per channel")
    if min(stds) <= 0:
        raise ValueError(f"config.json: {place}pixel_std={shorten(stds)}: write numbers above 0")
    if order not in ("rgb", "bgr"):
        raise ValueError(f"config.json: {place}channel_order={shorten(order)}: write 'rgb' or 'bgr'")
    return PixelNorm(tuple(means), tuple(stds), order)


def read_thresholds(name: str, values: Any, kind: type[T]) -> T:
    """Thresholds, 0..1, and largest numbers of boxes; ValueError for a wrong one."""
    check_keys(name, values, kind)
    read: dict[str, Any] = {}
    for key, value in values.items():
        if key.endswith("_threshold"):
            (read[key],) = numbers(key, [value], 0.0, 1.0)
        else:
            read[key] = whole(key, value, 1, 1_000_000)
    return kind(**read)


def read_letterbox(values: Any) -> Letterbox:
    """How images are fitted onto a canvas; ValueError for a wrong value."""
    check_keys("letterbox", values, Letterbox)
    hints = get_type_hints(Letterbox)
    for key, value in values.items():
        choices = get_args(hints[key])
        if choices and value not in choices:
            raise ValueError(f"config.json: letterbox.{key}={shorten(value)}: write one of {', '.join(choices)}")
        if not choices:
            numbers(f"letterbox.{key}", [value], 0.0, 255.0)
    return Letterbox(**values)


def read_initial_weights(values: Any) -> InitialWeights:
    """Origin and license of the weights that a detector started from; ValueError for a wrong value."""
    check_keys("initial_weights", values, InitialWeights)
    for key, value in values.items():
        if not is_line(value):
            raise ValueError(
                f"config.json: initial_weights.{key}={shorten(value)}: write one line of at most {MAX_TEXT} characters"
            )
    missing = [key for key in ("name", "license") if not values.get(key)]
    if missing:
        raise ValueError(f"config.json: initial_weights lacks {', '.join(missing)}")
    return InitialWeights(**values)


def apply_settings(model: ZooModel, settings: Mapping[str, Any]) -> None:
    """Set pixel statistics, image size and thresholds of a detector.

    They are read from the file and not from the registry, because a later version may have other values for the
    architecture than the ones that these weights were trained with.

    Args:
        model: the detector.
        settings: those of :class:`Saved` that nothing replaces.

    Raises:
        ValueError: for statistics of another number of channels.
    """
    norm = settings.get("pixel_norm")
    if norm is not None:
        if len(norm.mean) != len(model.pixel_mean):
            raise ValueError(
                f"config.json: {len(norm.mean)} pixel_mean for "
                f"{counted(len(model.pixel_mean), 'channel')}: write one per channel"
            )
        model.set_pixel_norm(norm)
    apply_image_settings(model, settings)
    model.initial_weights = settings.get("initial_weights")


def apply_image_settings(model: ZooModel, settings: Mapping[str, Any]) -> None:
    """Set image size, letterbox and thresholds of a detector; the arguments are those of :func:`apply_settings`."""
    model.resize = settings.get("resize", model.resize)
    model.letterbox = settings.get("letterbox", model.letterbox)
    model.postprocess_config = settings.get("postprocess", model.postprocess_config)
    if model.test_proposing is not None:
        model.test_proposing = settings.get("proposals", model.test_proposing)


def newer_version(config: Mapping[str, Any]) -> str:
    """A sentence for an error if a newer version than this one wrote a config, else nothing."""
    saved = config.get("pkdzoo_version")
    if not isinstance(saved, str) or version_numbers(saved) <= version_numbers(__version__):
        return ""
    return f". It was saved by pkdzoo {saved[:20]}, and this is {__version__}: pip install --upgrade pkdzoo"


def version_numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, e.g. (0, 2, 0) of ``0.2.0.dev1``; none of a text that is no version."""
    match = re.match(r"\d{1,6}(\.\d{1,6}){0,2}", version, re.ASCII)
    numbers = [int(part) for part in match[0].split(".")] if match else []
    return tuple(numbers + [0] * (3 - len(numbers))) if numbers else ()


# -- checks of values ------------------------------------------------------------------------------------------------


def check_argument(key: str, value: Any) -> None:
    """Check an argument of a build function; how it fits the architecture is checked when it is built."""
    limit = MAX_DEPTH if "depth" in key else MAX_SIDE if key == "resize" else MAX_ARGUMENT
    limit = MAX_CHANNELS if key == "in_chans" else limit
    if key == "pixel_norm" and value is not None:
        if not isinstance(value, dict) or set(value) != {"mean", "std", "channel_order"}:
            raise ValueError(f"config.json: args.pixel_norm={shorten(value)}: write mean, std and channel_order")
        read_pixel_norm("args.", value["mean"], value["std"], value["channel_order"])
    values = [value]
    while values:
        item = values.pop()
        if isinstance(item, (list, dict)):
            values += item.values() if isinstance(item, dict) else item
        elif isinstance(item, (int, float)) and not -limit <= item <= limit:
            raise ValueError(f"config.json: args.{key[:50]}={shorten(item)}: write at most {limit}")
        elif isinstance(item, str) and len(item) > MAX_TEXT:
            raise ValueError(f"config.json: args.{key[:50]} is a text of more than {MAX_TEXT} characters")


def whole(key: str, value: Any, low: int, high: int) -> int:
    """A whole number in a range; ValueError for anything else."""
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"config.json: {key}={shorten(value)}: write a whole number from {low} to {high}")
    return value


def numbers(key: str, values: Any, low: float, high: float) -> list[float]:
    """Numbers in a range, at least one; ValueError for anything else."""
    valid = isinstance(values, (list, tuple)) and 0 < len(values) <= MAX_CHANNELS
    if not valid or not all(type(value) in (int, float) and low <= value <= high for value in values):
        shown = values[0] if valid and len(values) == 1 else values
        raise ValueError(f"config.json: {key}={shorten(shown)}: write numbers from {low:g} to {high:g}")
    return [float(value) for value in values]


def check_keys(key: str, values: Any, kind: type[Any]) -> None:
    """Raise ValueError if ``values`` is no dictionary with fields of a dataclass."""
    known = [field.name for field in fields(kind)]
    if not isinstance(values, dict):
        raise ValueError(f"config.json: {key}={shorten(values)}: write an object with {', '.join(known)}")
    unknown = [name for name in values if name not in known]
    if unknown:
        raise ValueError(
            f"this version of pkdzoo cannot read its config.json: {key} has {shorten(unknown[0])}; it knows "
            f"{', '.join(known)}"
        )


def shorten(value: Any) -> str:
    """A value for a message, at most 60 characters long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
