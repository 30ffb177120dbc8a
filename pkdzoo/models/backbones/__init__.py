"""Backbones by name: networks from images to feature maps of decreasing resolution."""

from __future__ import annotations

import inspect
from typing import Any

from pkdzoo.models.backbones.base import Backbone
from pkdzoo.models.backbones.cspnext import VARIANTS as CSPNEXTS
from pkdzoo.models.backbones.cspnext import CSPNeXt
from pkdzoo.models.backbones.resnet import VARIANTS as RESNETS
from pkdzoo.models.backbones.resnet import ResNet
from pkdzoo.models.backbones.swin import VARIANTS as SWINS
from pkdzoo.models.backbones.swin import Swin
from pkdzoo.models.backbones.timm import TimmBackbone
from pkdzoo.models.backbones.timm_networks import is_timm

__all__ = [
    "Backbone",
    "CSPNeXt",
    "ResNet",
    "Swin",
    "TimmBackbone",
    "backbone_arguments",
    "build_backbone",
    "list_backbones",
]


KINDS: dict[str, type[Backbone]] = {
    **dict.fromkeys(RESNETS, ResNet),
    **dict.fromkeys(SWINS, Swin),
    **dict.fromkeys(CSPNEXTS, CSPNeXt),
}


def list_backbones() -> list[str]:
    """Names that :func:`build_backbone` accepts besides ``timm:NAME``, sorted."""
    return sorted(KINDS)


def build_backbone(name: str, **overrides: Any) -> Backbone:
    """Build a backbone with random weights.

    Args:
        name: ``r18``, ``r50``, ``x101_64x4d``, ``swin_t``, ..., or ``timm:NAME.TAG`` (needs the extra ``timm``).
        overrides: arguments of the backbone's class, e.g. ``norm="gn"``; None means its default.

    Raises:
        ValueError: for an unknown name, or an argument that this backbone does not have.
    """
    kind, known = type_of(name), backbone_arguments(name)
    changes = {key: value for key, value in overrides.items() if value is not None}
    for key in changes:
        if key not in known:
            raise ValueError(f"backbone {name!r} has no argument {key!r}; its arguments are {', '.join(sorted(known))}")
    variant = {"name": name} if is_timm(name) else (RESNETS | SWINS | CSPNEXTS)[name]
    return kind(**{**variant, **changes})


def backbone_arguments(name: str) -> set[str]:
    """Names of the arguments of the backbone with this name."""
    kind = type_of(name)
    return set(inspect.signature(kind.__init__).parameters) - {"self", "name"}


def type_of(name: str) -> type[Backbone]:
    """The class of the backbone with this name."""
    if is_timm(name):
        return TimmBackbone
    if name not in KINDS:
        raise ValueError(
            f"unknown backbone {name!r}: write one of {', '.join(list_backbones())}, or 'timm:NAME' for one of timm"
        )
    return KINDS[name]
