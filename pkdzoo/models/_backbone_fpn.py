"""The part that the ``build`` functions of all families share: backbone, feature pyramid and the common settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypedDict

from pkdzoo.layers.norm import Norm
from pkdzoo.models.backbones import Backbone, build_backbone
from pkdzoo.models.necks.fpn import FPN, Extra
from pkdzoo.structures import PixelNorm

LEVELS = 5  # of the pyramid, in every published detector of the zoo


class FPNVariant(NamedTuple):
    """What differs between the feature pyramids of the families.

    Attributes:
        extra: source of the levels above the backbone's maps, see :class:`pkdzoo.models.necks.fpn.FPN`.
        start: index of the first backbone map in the pyramid: 1 is stride 8 (one-stage), 0 is stride 4 (two-stage).
        relu_before_extra: ReLU before the coarsest level (FCOS).
    """

    extra: Extra
    start: int = 1
    relu_before_extra: bool = False


class SharedArguments(TypedDict):
    """Keyword arguments of :class:`pkdzoo.models.detector.Detector` that every family sets in the same way."""

    backbone: Backbone
    neck: FPN
    num_classes: int
    pixel_norm: PixelNorm | None
    resize: tuple[int, int]


def build_backbone_fpn(
    variant: FPNVariant,
    backbone: str,
    num_classes: int,
    norm: Norm | None,
    frozen_stages: int | None,
    width: int,
    neck_norm: Norm | None,
    pixel_norm: PixelNorm | None,
    resize: tuple[int, int],
    backbone_args: Mapping[str, Any],
) -> SharedArguments:
    """A backbone with random weights, a pyramid of five levels on it, and the settings that all families share.

    Args:
        variant: of the feature pyramid.
        backbone: name of the backbone.
        num_classes: C.
        norm: norm of a ResNet; None means the backbone's default.
        frozen_stages: number of frozen stages; None means the backbone's default.
        width: channels of the pyramid.
        neck_norm: norm in the pyramid, or None.
        pixel_norm: pixel statistics of the input; None means ImageNet's in RGB.
        resize: (short, long) side in pixels that images are scaled to.
        backbone_args: further arguments of the backbone.

    Returns:
        Arguments for the constructor of a detector: ``RetinaNet(**shared, head=...)``.
    """
    network = build_backbone(backbone, norm=norm, frozen_stages=frozen_stages, **backbone_args)
    extra, start, relu_before_extra = variant
    neck = FPN(network.channels, network.strides, width, start, LEVELS, extra, relu_before_extra, norm=neck_norm)
    return SharedArguments(backbone=network, neck=neck, num_classes=num_classes, pixel_norm=pixel_norm, resize=resize)
