"""Networks from pictures to maps of falling resolution, by name."""

from __future__ import annotations

import inspect
from typing import Any

from pkdzoo.backbones.base import Backbone
from pkdzoo.backbones.resnet import VARIANTS as RESNETS
from pkdzoo.backbones.resnet import ResNet

__all__ = ["Backbone", "ResNet", "backbone_arguments", "build_backbone", "list_backbones"]


def list_backbones() -> list[str]:
    """Names that :func:`build_backbone` knows."""
    return sorted(RESNETS)


def build_backbone(name: str, **overrides: Any) -> Backbone:
    """The backbone called ``name`` without weights; it says its ``channels`` and ``strides``.

    Args:
        name: ``r18``, ``r50``, ``x101_64x4d``, ...
        overrides: arguments of the backbone's class, e.g. ``norm="gn"``.

    Raises:
        ValueError: for a name that nobody has.
    """
    return type_of(name)(**{**RESNETS[name], **overrides})


def backbone_arguments(name: str) -> set[str]:
    """Names of the arguments that a backbone of this name takes."""
    kind = type_of(name)
    return set(inspect.signature(kind.__init__).parameters) - {"self"}


def type_of(name: str) -> type[Backbone]:
    """The class behind a backbone's name."""
    if name in RESNETS:
        return ResNet
    raise ValueError(f"no backbone {name!r}: there are {', '.join(list_backbones())}")
