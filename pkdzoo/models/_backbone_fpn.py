"""The part that the ``build`` functions of all families share: backbone, feature pyramid and the common settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypedDict

from pkdzoo.layers.norm import Norm
from pkdzoo.models.backbones import Backbone, build_backbone
from pkdzoo.models.necks.fpn import FPN, Extra
from pkdzoo.models.necks.pafpn import CSPNeXtPAFPN
from pkdzoo.structures import PixelNorm

NeckKind = Literal["fpn", "pafpn"]
NECKS: tuple[NeckKind, ...] = ("fpn", "pafpn")
LEVELS = 5  # of an FPN, in every published detector that has one


class FPNVariant(NamedTuple):
    """What differs between the feature pyramids of the families.

    Attributes:
        extra: source of the levels above the backbone's maps, see :class:`pkdzoo.models.necks.fpn.FPN`.
        start: index of the first backbone map in the pyramid: 1 is stride 8 (one-stage), 0 is stride 4 (two-stage).
        relu_before_extra: ReLU before the coarsest level (FCOS).
        neck: ``fpn``, with five levels; or ``pafpn``, RTMDet's, with one level for each backbone map and none beyond.
    """

    extra: Extra
    start: int = 1
    relu_before_extra: bool = False
    neck: NeckKind = "fpn"


class SharedArguments(TypedDict):
    """Keyword arguments of :class:`pkdzoo.models.detector.Detector` that every family sets in the same way."""

    backbone: Backbone
    neck: FPN | CSPNeXtPAFPN
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
        norm: norm of a ResNet, or kind of a timm network's batch norms; None means the backbone's default.
        frozen_stages: number of frozen stages; None means the backbone's default.
        width: channels of the pyramid.
        neck_norm: norm in the pyramid, or None; None means ``bn`` in RTMDet's.
        pixel_norm: pixel statistics of the input; None means ImageNet's in RGB.
        resize: (short, long) side in pixels that images are scaled to.
        backbone_args: further arguments of the backbone.

    Returns:
        Arguments for the constructor of a detector: ``RetinaNet(**shared, head=...)``.
    """
    network = build_backbone(backbone, norm=norm, frozen_stages=frozen_stages, **backbone_args)
    extra, start, relu_before_extra, kind = variant
    if kind not in NECKS:
        raise ValueError(f"neck={kind!r}: write one of {', '.join(map(repr, NECKS))}")
    neck: FPN | CSPNeXtPAFPN
    if kind == "pafpn":
        neck = CSPNeXtPAFPN(network.channels, network.strides, width, start, blocks=1, norm=neck_norm or "bn")
    else:
        neck = FPN(network.channels, network.strides, width, start, LEVELS, extra, relu_before_extra, norm=neck_norm)
    return SharedArguments(backbone=network, neck=neck, num_classes=num_classes, pixel_norm=pixel_norm, resize=resize)
