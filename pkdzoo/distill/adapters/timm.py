"""Bare backbones of timm as teachers: ``timm:NAME`` or ``timm:NAME.TAG``, e.g. ``timm:convnext_base.fb_in22k_ft_in1k``.

Their maps of stride 4, 8, 16 and 32 are compared with the student's pyramid, or with the student's backbone maps by
``where="backbone"``. A vision transformer gives its one map of stride 16. Pixel statistics are those of the tag. The
network, its weights and what is refused are those of pkdzoo's timm backbones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from pkdzoo.distill.teacher import Teacher
from pkdzoo.models._channels import widen
from pkdzoo.models.backbones.timm import TimmBackbone
from pkdzoo.models.backbones.timm_networks import PREFIX, describe_network, full_name


def teacher(name: str, pretrained: bool, cache_dir: str | Path | None, args: dict[str, Any]) -> Teacher:
    """A network of timm as a teacher, see :func:`pkdzoo.distill.adapters.teacher_of_library`."""
    full, channels = full_name(PREFIX + name), args.get("in_chans", 3)
    norm = describe_network(full).pixel_norm
    norm = norm if channels == 3 else widen(norm, channels)
    try:
        network = TimmBackbone(full, **args)
    except TypeError as error:
        raise ValueError(f"{PREFIX}{name}: {error}; correct distill.teacher_args") from error
    origin = network.load_imagenet(cache_dir) if pretrained else None
    if network.pyramid is not None:  # its layers are of pkdzoo and have no weights
        network.pyramid, network.outputs = None, (0,)
        network.channels, network.strides = list(network.facts.channels), network.facts.strides
    made = Teacher(network, maps, norm.mean, norm.std, norm.channel_order, strides=network.strides, is_backbone=True)
    made.origin = origin
    return made


def maps(network: nn.Module, images: Tensor) -> list[Tensor]:
    """The maps of a network, finest first."""
    return list(network(images))


def load_file(made: Teacher, path: str | Path) -> None:
    """Load a file of weights in timm's layout."""
    cast(TimmBackbone, made.backbone).load_file(path)
