"""Networks of timm as backbones: ``timm:NAME`` or ``timm:NAME.TAG``, e.g. ``timm:convnext_atto.d2_in1k``.

timm is the extra ``[timm]`` and is imported only when such a backbone is built. A network is made by timm's
``features_only`` interface. Its maps of stride 4, 8, 16 and 32 are the backbone's maps; maps of other strides are left
out. A vision transformer with patches of 16 pixels has one map, from which :class:`SimplePyramid` makes the four.
A network that takes only images of one size, or has no such maps, is refused.

Pixel statistics are those of the tag. Its weights are read from its repository on the Hub, as safetensors alone, and
fitted to the network by timm's own loader.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pkdzoo.checkpoints import load_strictly
from pkdzoo.checkpoints.io import read_state_dict
from pkdzoo.hub.files import TENSORS, fetch_file
from pkdzoo.hub.weights import InitialWeights
from pkdzoo.models.backbones.base import Backbone
from pkdzoo.structures import PixelNorm
from pkdzoo.utils.files import sha256_of_file
from pkdzoo.utils.loggers import errors_only
from pkdzoo.utils.suggest import did_you_mean
from pkdzoo.utils.text import install_line

PREFIX = "timm:"
NAME = re.compile(r"([a-z0-9_]{1,100})(?:\.([a-z0-9_]{1,100}))?", re.ASCII)
STRIDES = (4, 8, 16, 32)
PROBE = (160, 224)  # height and width of a test image: no network's own size, nor a multiple of usual windows
NORMS = ("frozen_bn", "bn")
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


class SimplePyramid(nn.Module):
    """Four maps from the last one of a plain vision transformer: ViTDet's (Li et al. 2022, arXiv:2203.16527).

    Differs from ViTDet in what follows: its convolutions per level are here those of the detector's neck.

    Args:
        channels: of the map, of stride 16.

    Attributes:
        channels: of the maps of stride 4, 8, 16 and 32.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = [channels // 4, channels // 2, channels, channels]
        self.up8 = nn.ConvTranspose2d(channels, channels // 2, 2, stride=2)
        self.up4 = nn.ConvTranspose2d(channels, channels // 2, 2, stride=2)
        self.norm4 = nn.LayerNorm(channels // 2)
        self.last4 = nn.ConvTranspose2d(channels // 2, channels // 4, 2, stride=2)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, channels, h, w) -> maps of 4, 2, 1 and 1/2 times its size."""
        finest = self.norm4(self.up4(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return [self.last4(F.gelu(finest)), self.up8(x), x, F.max_pool2d(x, 2)]


class TimmBackbone(Backbone):
    """A network of timm.

    Args:
        name: ``timm:NAME`` or ``timm:NAME.TAG``.
        norm: of the network's batch norms: ``frozen_bn`` (fixed statistics, weight and bias, for fine-tuning) or
            ``bn``. Other norms train.
        frozen_stages: 0 trains everything, 1 freezes the stem and what leads to the first map, up to 4.
        drop_path: stochastic depth rate, 0..1, for networks that have it.
        outputs: indices of the maps that are returned, of stride 4, 8, 16 and 32.
        in_chans: channels of the images.

    Raises:
        ValueError: as :func:`describe_network`, and for an argument that the network does not have.
    """

    def __init__(
        self,
        name: str,
        norm: str = "frozen_bn",
        frozen_stages: int = 0,
        drop_path: float = 0.0,
        outputs: tuple[int, ...] = (0, 1, 2, 3),
        in_chans: int = 3,
    ) -> None:
        super().__init__()
        facts = describe_network(name)
        if norm not in NORMS:
            raise ValueError(f"norm={norm!r}: a network of timm has norms of its own; write 'frozen_bn' or 'bn'")
        if not outputs or tuple(sorted(set(outputs))) != tuple(outputs) or not set(outputs) <= {0, 1, 2, 3}:
            raise ValueError(f"outputs={outputs}: write maps from 0 to 3 in ascending order, e.g. (1, 2, 3)")
        self.facts, self.norm, self.frozen_stages, self.outputs = facts, norm, frozen_stages, tuple(outputs)
        self.arguments: dict[str, Any] = {**facts.options, "in_chans": in_chans, "out_indices": facts.indices}
        if drop_path:
            self.arguments["drop_path_rate"] = drop_path
        self.network = self._create()
        self.pyramid = SimplePyramid(facts.channels[0]) if len(facts.channels) == 1 else None
        channels = list(facts.channels) if self.pyramid is None else self.pyramid.channels
        self.channels = [channels[i] for i in self.outputs]
        self.strides = tuple(STRIDES[i] for i in self.outputs)
        self.frozen_modules = self._find_frozen_modules()
        for module in self.frozen_modules:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Normalized images (B, in_chans, H, W) -> a map of each of ``outputs``, sizes rounded up."""
        height, width = x.shape[-2:]
        padded = height % 32 or width % 32
        if padded:  # networks round up, round down, or fail
            x = F.pad(x, (0, -width % 32, 0, -height % 32))
        maps = self.network(x)
        if self.facts.tokens:
            height16, width16 = x.shape[-2] // 16, x.shape[-1] // 16
            maps = [m.transpose(1, 2).contiguous().view(x.shape[0], m.shape[-1], height16, width16) for m in maps]
        if self.facts.nhwc:
            maps = [level.permute(0, 3, 1, 2).contiguous() for level in maps]
        if self.pyramid is not None:
            maps = self.pyramid(maps[-1])
        maps = [maps[i] for i in self.outputs]
        if padded:
            maps = [m[..., : -(-height // s), : -(-width // s)] for m, s in zip(maps, self.strides)]
        return maps

    def train(self, mode: bool = True) -> TimmBackbone:
        """Set the mode; frozen parts stay in eval mode, so that their norms keep their statistics."""
        super().train(mode)
        for module in self.frozen_modules:
            module.training = False
        return self

    def set_grad_checkpointing(self) -> None:
        """Recompute activations in the backward pass, as far as the network can.

        Raises:
            ValueError: for a network that cannot.
        """
        for network in (self.network, getattr(self.network, "model", None)):
            switch: Any = getattr(network, "set_grad_checkpointing", None)
            if switch is not None:
                switch(True)
                return
        raise ValueError(
            f"--checkpoint-activations: timm's {self.facts.name} has no recomputation; leave the option out"
        )

    def sync_norms(self) -> None:
        """Make batch norms synchronized; timm's own conversion keeps the activations that are part of its norms."""
        self.network = import_timm().layers.convert_sync_batchnorm(self.network)

    def fuse(self) -> None:
        """Merge the branches of networks that are made for it (RepViT, MobileOne, FastViT, ...), for prediction."""
        timm, state = import_timm(), self.network.state_dict()
        self.norm = "bn"  # timm merges batch norms, no frozen ones
        with torch.random.fork_rng(devices=[]):
            network = self._create().eval()
        own = network.state_dict()
        load_strictly(network, {key: state.get(key, value) for key, value in own.items()})
        like = next(self.network.parameters())
        network = timm.utils.reparameterize_model(network.to(like.device, like.dtype), inplace=True)
        self.network = network.requires_grad_(False)

    def load_imagenet(self, cache_dir: str | Path | None = None) -> InitialWeights:
        """Load the weights of the tag, strictly.

        Args:
            cache_dir: cache folder of the Hub's client; None means its default.

        Returns:
            Repository, license and hash of the weights.

        Raises:
            ValueError: for a tag without weights, and a file that does not fit the network.
            FileNotFoundError: for a repository without safetensors.
            pkdzoo.hub.errors.DownloadError: if the file cannot be downloaded.
        """
        repository = self.facts.repository
        if not repository:
            raise ValueError(
                f"timm has no weights for {self.facts.name!r}: write another tag, as in 'timm:NAME.TAG', or init=None"
            )
        path = fetch_file(repository, repository, TENSORS, None, cache_dir, None, False)
        self.load_file(path)
        return InitialWeights(
            repository, self.facts.license, path.parent.name, sha256_of_file(path), self.facts.interpolation
        )

    def load_file(self, path: str | Path) -> None:
        """Load a file of weights in timm's layout, with or without its classifier, strictly.

        Raises:
            ValueError: for a file that does not fit the network.
        """
        load_strictly(self.network, self._fitted(read_state_dict(path)))

    # -- parts -------------------------------------------------------------------------------------------------------

    def _create(self, **more: Any) -> nn.Module:
        """The network, its batch norms frozen if they are to be."""
        timm = import_timm()
        try:
            network = timm.create_model(self.facts.name, features_only=True, **{**self.arguments, **more})
        except TypeError as error:
            raise ValueError(f"timm's {self.facts.name}: {error}; leave the argument out") from error
        if self.facts.tokens:
            network.output_fmt = timm.layers.Format.NLC
        if self.norm == "frozen_bn":
            network = timm.layers.freeze_batch_norm_2d(network)
        return cast(nn.Module, network)

    def _fitted(self, content: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a file in the layout of the network, by timm's loader.

        The loader does not report tensors that a file lacks. Those that stay the same after all values of the file were
        changed do not come from it.
        """
        changed = {key: value + 1 if value.is_floating_point() else value for key, value in content.items()}
        loaded = []
        for tensors in (dict(content), changed):
            with torch.random.fork_rng(devices=[]), errors_only("timm.models._builder"):
                torch.manual_seed(0)
                try:
                    network = self._create(pretrained=True, pretrained_cfg_overlay={"state_dict": tensors})
                except (RuntimeError, LookupError) as error:
                    reason = str(error).partition("\n")[0]
                    raise ValueError(f"the weights of timm's {self.facts.name} do not fit it: {reason}") from error
            loaded.append(network.state_dict())
        state, other = loaded
        missing = [key for key, value in state.items() if value.is_floating_point() and torch.equal(value, other[key])]
        if missing:
            raise ValueError(
                f"the weights of timm's {self.facts.name} lack {len(missing)} of its tensors, e.g. {missing[0]}"
            )
        return state

    def _find_frozen_modules(self) -> list[nn.Module]:
        """All modules up to the end of the last frozen stage; timm registers modules in the order in which they run."""
        count = self.frozen_stages
        if not 0 <= count <= len(STRIDES):
            raise ValueError(f"frozen_stages={count}: 0 trains everything, 4 freezes all four stages")
        if count == 0:
            return []
        modules = list(self.network.named_modules())
        if self.pyramid is not None:
            raise ValueError(f"frozen_stages={count}: timm's {self.facts.name} has no stages; write 0")
        end = self.facts.ends[count - 1]
        starts = (end, end.replace(".", "_"), f"model.{end}")
        last = [k for k, (name, _) in enumerate(modules) if any(f"{name}.".startswith(f"{s}.") for s in starts)]
        if not last:
            raise ValueError(f"frozen_stages={count}: the stages of timm's {self.facts.name} are not known; write 0")
        return [module for _, module in modules[: last[-1] + 1]]
