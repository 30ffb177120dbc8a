"""Networks from images to maps of falling resolution, by name."""

from __future__ import annotations

import inspect
from typing import Any

from pkdzoo.models.backbones.base import Backbone
from pkdzoo.models.backbones.resnet import VARIANTS as RESNETS
from pkdzoo.models.backbones.resnet import ResNet
from pkdzoo.models.backbones.swin import VARIANTS as SWINS
from pkdzoo.models.backbones.swin import Swin

__all__ = ["Backbone", "ResNet", "Swin", "backbone_arguments", "build_backbone", "list_backbones"]


KINDS: dict[str, type[Backbone]] = {**dict.fromkeys(RESNETS, ResNet), **dict.fromkeys(SWINS, Swin)}


def list_backbones() -> list[str]:
    """Names that :func:`build_backbone` knows."""
    return sorted(KINDS)


def build_backbone(name: str, **overrides: Any) -> Backbone:
    """The backbone called ``name`` without weights; it says its ``channels`` and ``strides``.

    Args:
        name: ``r18``, ``r50``, ``x101_64x4d``, ``swin_t``, ...
        overrides: arguments of the backbone's class, e.g. ``norm="gn"``; None means the backbone's own.

    Raises:
        ValueError: for a name that nobody has, or an argument that this backbone does not take.
    """
    kind, known = type_of(name), backbone_arguments(name)
    given = {key: value for key, value in overrides.items() if value is not None}
    for key in given:
        if key not in known:
            raise ValueError(f"backbone {name!r} has no argument {key!r}; it takes {', '.join(sorted(known))}")
    return kind(**{**(RESNETS | SWINS)[name], **given})


def backbone_arguments(name: str) -> set[str]:
    """Names of the arguments that a backbone of this name takes."""
    kind = type_of(name)
    return set(inspect.signature(kind.__init__).parameters) - {"self"}


def type_of(name: str) -> type[Backbone]:
    """The class behind a backbone's name."""
    if name not in KINDS:
        raise ValueError(f"no backbone {name!r}: there are {', '.join(list_backbones())}")
    return KINDS[name]
