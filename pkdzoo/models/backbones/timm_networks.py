"""What is known about a network of timm without its weights: its maps, strides, channels and pixel statistics.

timm is the extra ``[timm]`` and is imported only when a network is described or built. A network is built on torch's
meta device by timm's ``features_only`` interface and run on an image without values, so this takes no memory.
"""

from __future__ import annotations

import functools
import re
from importlib import import_module
from typing import Any, NamedTuple

import torch

from pkdzoo.structures import PixelNorm
from pkdzoo.utils.suggest import did_you_mean
from pkdzoo.utils.text import install_line

PREFIX = "timm:"
NAME = re.compile(r"([a-z0-9_]{1,100})(?:\.([a-z0-9_]{1,100}))?", re.ASCII)
STRIDES = (4, 8, 16, 32)
PROBE = (160, 224)  # height and width of a test image: no network's own size, nor a multiple of usual windows
# Arguments with which networks of a fixed image size accept others, e.g. ViT and Swin.
SIZE_OPTIONS: tuple[dict[str, Any], ...] = ({}, {"dynamic_img_size": True}, {"strict_img_size": False})


class Network(NamedTuple):
    """What is known about a network without its tensors.

    Attributes:
        name: ``NAME.TAG``, or ``NAME`` for a network without tags.
        options: further arguments of ``timm.create_model``.
        indices: timm's index of each map that is used, finest first; one index for a single map.
        ends: module that each of them is the output of.
        channels: channels of each map.
        strides: stride of each map.
        nhwc: the network gives maps (B, h, w, C).
        tokens: the network is asked for its map as tokens (B, h * w, C), because torch's exporter takes timm's own
            conversion to a map for one that holds for batches of several images only.
        pixel_norm: pixel statistics of the tag.
        interpolation: with which images were resized when the weights of the tag were trained.
        repository: on the Hub, with the weights of the tag; None if it has none.
        license: of these weights; ``unknown`` if timm states none.
    """

    name: str
    options: dict[str, Any]
    indices: tuple[int, ...]
    ends: tuple[str, ...]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    nhwc: bool
    tokens: bool
    pixel_norm: PixelNorm
    interpolation: str
    repository: str | None
    license: str


def is_timm(backbone: Any) -> bool:
    """Whether a backbone is given as ``timm:NAME``."""
    return isinstance(backbone, str) and backbone.startswith(PREFIX)


def import_timm() -> Any:
    """The library.

    Raises:
        ValueError: if it is not installed; the message says how to install it.
    """
    try:
        return import_module("timm")
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        raise ValueError(
            f"backbones of timm need the extra [timm]: {install_line('timm')}, or `pip install timm`"
        ) from error


def full_name(backbone: str) -> str:
    """``timm:NAME.TAG`` of ``timm:NAME``: the default tag of the installed version is written out.

    Raises:
        ValueError: for an unknown name or tag, with the closest ones, and if timm is not installed.
    """
    timm, name = import_timm(), backbone.removeprefix(PREFIX)
    match = NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"backbone {backbone[:100]!r}: write 'timm:NAME' or 'timm:NAME.TAG', a name that timm lists")
    arch, tag = match.groups()
    if not timm.is_model(arch):
        raise ValueError(f"timm {timm.__version__} has no network {arch!r}. {did_you_mean(arch, timm.list_models())}")
    known = [full.partition(".")[2] for full in timm.models.get_arch_pretrained_cfgs(arch)]
    if tag is not None and tag not in known:
        raise ValueError(
            f"timm's {arch} has no weights {tag!r}. {did_you_mean(tag, known) if known else 'It has none'}"
        )
    tag = tag or getattr(timm.get_pretrained_cfg(arch), "tag", None)
    return f"{PREFIX}{arch}.{tag}" if tag in known and tag else f"{PREFIX}{arch}"


@functools.lru_cache
def describe_network(backbone: str) -> Network:
    """Build a network on torch's meta device, run it on an image, and read what it gives.

    Args:
        backbone: ``timm:NAME`` or ``timm:NAME.TAG``.

    Raises:
        ValueError: for an unknown name, and for a network without the maps that a pyramid needs, or of one image size.
    """
    timm, name = import_timm(), full_name(backbone).removeprefix(PREFIX)
    config = timm.get_pretrained_cfg(name)
    network, options, shapes = _probe(timm, name)
    info = network.feature_info
    strides, channels, indices = info.reduction(), info.channels(), info.out_indices
    single = len(set(strides)) == 1
    wanted = {16} if single else set(STRIDES)
    # of several maps of one stride, the last one is the deepest
    used = sorted({stride: k for k, stride in enumerate(strides) if stride in wanted}.values())
    if len(used) != len(wanted):
        found = f"one map, of stride {strides[0]}" if single else f"maps of stride {', '.join(map(str, strides))}"
        raise ValueError(
            f"backbone {backbone!r} gives {found}, and a pyramid needs maps of stride 4, 8, 16 and 32, or the one map "
            "of a vision transformer with patches of 16 pixels: choose another network, e.g. one named 'patch16'"
        )
    nhwc = str(getattr(network, "output_fmt", "NCHW")).rpartition(".")[2] == "NHWC"
    for k in used:
        size = [side // strides[k] for side in PROBE]
        if shapes[k] != ([*size, channels[k]] if nhwc else [channels[k], *size]):
            raise ValueError(
                f"backbone {backbone!r} gives maps of other sizes than image size / stride (of stride {strides[k]}: "
                f"{shapes[k]} for an image of {PROBE[0]} x {PROBE[1]}): choose another network"
            )
    if config.fixed_input_size and not options:
        _check_larger_images(timm, name, tuple(config.input_size))
    mean, std = (tuple(round(255 * value, 6) for value in part) for part in (config.mean, config.std))
    return Network(
        name,
        options,
        tuple(indices[k] for k in used),
        tuple(info.module_name()[k] for k in used),
        tuple(channels[k] for k in used),
        tuple(strides[k] for k in used),
        nhwc,
        single and _gives_tokens(network, channels[-1]),
        PixelNorm(mean, std),
        config.interpolation or "bilinear",
        config.hf_hub_id,
        config.license or "unknown",
    )


def _probe(timm: Any, name: str) -> tuple[Any, dict[str, Any], list[list[int]]]:
    """The network on the meta device, the options with which it takes images of any size, and shapes of its maps."""
    reasons = []
    for options in SIZE_OPTIONS:
        try:
            with torch.random.fork_rng(devices=[]), torch.device("meta"), torch.no_grad():
                network = timm.create_model(name, features_only=True, **options).eval()
                maps = network(torch.empty(1, 3, *PROBE))
        except Exception as error:  # every network fails in its own way
            if not isinstance(error, TypeError):  # it has no such argument
                reasons.append(str(error).partition("\n")[0])
            continue
        return network, options, [list(level.shape[1:]) for level in maps]
    raise ValueError(f"backbone 'timm:{name}' {_one_size(reasons[-1] if reasons else 'it has no feature maps')}")


def _gives_tokens(network: Any, channels: int) -> bool:
    """Whether a network on the meta device, of one map, gives it as tokens when it is asked to."""
    if not hasattr(network, "output_fmt"):
        return False
    before, network.output_fmt = network.output_fmt, import_timm().layers.Format.NLC
    try:
        with torch.no_grad():
            tokens = network(torch.empty(1, 3, *PROBE, device="meta"))[-1]
    except Exception:  # every network refuses in its own way
        return False
    finally:
        network.output_fmt = before
    return tuple(tokens.shape) == (1, PROBE[0] // 16 * (PROBE[1] // 16), channels)


def _check_larger_images(timm: Any, name: str, own: tuple[int, ...]) -> None:
    """Refuse a network that fails for images larger than its own, of which the meta device notices nothing."""
    try:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.no_grad():
            torch.manual_seed(0)
            network = timm.create_model(name, features_only=True).eval()
            network(torch.zeros(1, own[0], own[1] + 64, own[2]))
    except (RuntimeError, LookupError, AssertionError, ValueError) as error:
        raise ValueError(f"backbone 'timm:{name}' {_one_size(str(error).partition(chr(10))[0])}") from error


def _one_size(reason: str) -> str:
    return f"cannot be used, because it does not take images of any size ({reason[:100]}): choose another network"
