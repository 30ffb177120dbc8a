"""Networks of timm as backbones: ``timm:NAME`` or ``timm:NAME.TAG``, e.g. ``timm:convnext_atto.d2_in1k``.

timm is the extra ``[timm]``. A network is made by timm's ``features_only`` interface. Its maps of stride 4, 8, 16 and
32 are the backbone's maps; maps of other strides are left out. A vision transformer with patches of 16 pixels has one
map, from which :class:`SimplePyramid` makes the four. A network that takes only images of one size, or has no such
maps, is refused.

Pixel statistics are those of the tag. Its weights are read from its repository on the Hub, as safetensors alone, and
fitted to the network by timm's own loader.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pkdzoo.checkpoints import load_strictly
from pkdzoo.checkpoints.io import read_state_dict
from pkdzoo.hub.files import TENSORS, fetch_file
from pkdzoo.hub.weights import InitialWeights
from pkdzoo.models.backbones.base import Backbone
from pkdzoo.models.backbones.timm_networks import STRIDES, describe_network, import_timm
from pkdzoo.utils.files import sha256_of_file
from pkdzoo.utils.loggers import errors_only

NORMS = ("frozen_bn", "bn")


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
        self.fused = False  # True after fuse()
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
        """Merge the branches of networks that are made for it (RepViT, MobileOne, FastViT, ...), for prediction.

        A merged network stays as it is: the network that is built here would not find its weights in it.
        """
        if self.fused:
            return
        timm, state = import_timm(), self.network.state_dict()
        self.norm = "bn"  # timm merges batch norms, no frozen ones
        with torch.random.fork_rng(devices=[]):
            network = self._create().eval()
        counters = {k: v for k, v in network.state_dict().items() if k.endswith(".num_batches_tracked")}
        load_strictly(network, {**counters, **state})  # frozen norms count no batches
        like = next(self.network.parameters())
        network = timm.utils.reparameterize_model(network.to(like.device, like.dtype), inplace=True)
        self.network, self.fused = network.requires_grad_(False), True

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
