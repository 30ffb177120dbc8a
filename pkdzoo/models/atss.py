"""ATSS: adaptive training sample selection (Zhang et al. 2020, arXiv:1912.02424).

As mmdetection's atss_r*_fpn_1x_coco: RetinaNet's deltas on one square anchor per location, FCOS' centerness (from the
box tower), positives selected by the statistics of each object's candidates, GIoU loss on decoded boxes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pkdzoo.checkpoints.keymap import Rule
from pkdzoo.checkpoints.mmdet import BODY_RULES, tower_rules
from pkdzoo.hub.weights import Distilled, Weights
from pkdzoo.layers.conv import Scale, init_class_bias, init_convs
from pkdzoo.layers.norm import Norm
from pkdzoo.losses import giou_loss, sigmoid_focal
from pkdzoo.models._backbone_fpn import FPNVariant, NeckKind, build_backbone_fpn
from pkdzoo.models._published import CROSSKD_README, crosskd, mmdetection
from pkdzoo.models._registry import register_distilled, register_family
from pkdzoo.models._tiny import TINY_DENSE
from pkdzoo.models.assigners.atss import atss_targets
from pkdzoo.models.assigners.fcos import centerness
from pkdzoo.models.dense import DenseDetector, TowerHead
from pkdzoo.ops.boxes import decode_deltas, encode_distances
from pkdzoo.ops.levels import flatten_levels
from pkdzoo.ops.priors import base_anchors
from pkdzoo.ops.reduce import mean_over_ranks
from pkdzoo.structures import DenseTargets, HeadOutputs, Instances, PixelNorm, PostProcess, Priors
from pkdzoo.utils.precision import float32_or_wider

KEY_RULES: list[Rule] = [
    *tower_rules("bbox_head.cls_convs", "head.cls_tower"),
    *tower_rules("bbox_head.reg_convs", "head.reg_tower"),
    (r"bbox_head\.atss_cls\.(.*)", r"head.cls.\1"),
    (r"bbox_head\.atss_reg\.(.*)", r"head.box.\1"),
    (r"bbox_head\.atss_centerness\.(.*)", r"head.quality.\1"),
    (r"bbox_head\.scales\.(\d+)\.scale", r"head.scales.\1.scale"),
    *BODY_RULES,
]

STDS = (0.1, 0.1, 0.2, 0.2)


class ATSSHead(TowerHead):
    """Class logits, box deltas and centerness logits of every anchor."""

    def __init__(
        self,
        inputs: int,
        num_classes: int,
        levels: int,
        width: int = 256,
        depth: int = 4,
        norm: Norm | None = "gn",
    ) -> None:
        super().__init__(inputs, width, depth, norm)
        self.cls = nn.Conv2d(width, num_classes, 3, padding=1)
        self.box = nn.Conv2d(width, 4, 3, padding=1)
        self.quality = nn.Conv2d(width, 1, 3, padding=1)
        self.scales = nn.ModuleList(Scale() for _ in range(levels))
        init_convs(self)
        init_class_bias(self.cls)

    def predict(self, cls: list[Tensor], reg: list[Tensor]) -> HeadOutputs:
        return HeadOutputs(
            [self.cls(x) for x in cls],
            [float32_or_wider(scale(self.box(x))) for scale, x in zip(self.scales, reg, strict=True)],
            [self.quality(x) for x in reg],
        )


class ATSS(DenseDetector):
    """A one-stage detector with one anchor per location and centerness."""

    class_layers = ("head.cls",)
    key_rules = KEY_RULES

    def assign(self, outputs: HeadOutputs, priors: Priors, instances: list[Instances], valid: Tensor) -> DenseTargets:
        targets = atss_targets(priors, instances, valid, self.num_classes)
        image, prior = self.positives(targets)
        targets.quality = torch.zeros_like(targets.labels, dtype=targets.boxes.dtype)
        distances = encode_distances(targets.boxes[image, prior], priors.centers[prior])
        targets.quality[image, prior] = centerness(distances)
        return targets

    def loss(self, outputs: HeadOutputs, priors: Priors, targets: DenseTargets) -> dict[str, Tensor]:
        cls, box = self.flat(outputs)
        quality = float32_or_wider(flatten_levels(outputs.quality, 1)[..., 0])
        image, prior = self.positives(targets)
        target_centerness = targets.quality[image, prior]
        boxes = self.decode(box[image, prior], priors.take(prior))
        per_box = giou_loss(boxes, targets.boxes[image, prior])
        per_prior = F.binary_cross_entropy_with_logits(quality[image, prior], target_centerness, reduction="sum")
        return {
            "loss_cls": sigmoid_focal(cls, targets.labels) / targets.num_pos,
            "loss_box": 2.0 * (per_box * target_centerness).sum() / mean_over_ranks(target_centerness.sum(), least=1),
            "loss_centerness": per_prior / targets.num_pos,
        }

    def decode(self, box: Tensor, priors: Priors) -> Tensor:
        return decode_deltas(box, priors.boxes, STDS)


def build(
    backbone: str = "r50",
    num_classes: int = 80,
    norm: Norm | None = None,
    frozen_stages: int | None = None,
    width: int = 256,
    depth: int = 4,
    neck_norm: Norm | None = None,
    head_norm: Norm | None = "gn",
    neck: NeckKind = "fpn",
    pixel_norm: PixelNorm | None = None,
    resize: tuple[int, int] = (800, 1333),
    **backbone_args: Any,
) -> ATSS:
    """An ATSS with random weights.

    Args:
        backbone: name of the backbone, see :func:`pkdzoo.models.backbones.list_backbones`.
        num_classes: C.
        norm: norm of a ResNet; None means ``frozen_bn``, as published. Use ``gn`` or ``bn`` to train from scratch.
        frozen_stages: number of frozen backbone stages; None means as published: the stem and the first stage of a
            ResNet, nothing of a Swin.
        width: channels of the pyramid and the towers.
        depth: convolutions per tower.
        neck_norm: norm in the pyramid; None means none, as published.
        head_norm: norm in the towers.
        neck: ``fpn``; or ``pafpn``, RTMDet's pyramid of strides 8 to 32.
        pixel_norm: pixel statistics and channel order of the input; None means ImageNet's statistics in RGB.
        resize: (short, long) side in pixels that images are scaled to.
        backbone_args: further arguments of the backbone.
    """
    variant = FPNVariant("on_output", neck=neck)
    shared = build_backbone_fpn(
        variant, backbone, num_classes, norm, frozen_stages, width, neck_norm, pixel_norm, resize, backbone_args
    )
    strides = shared["neck"].strides
    return ATSS(
        **shared,
        head=ATSSHead(width, num_classes, len(strides), width, depth, head_norm),
        base_anchors=[base_anchors(stride, (8.0,), (1.0,)) for stride in strides],
        offset=0.0,
        postprocess_config=PostProcess(nms_threshold=0.6),
    )


WEIGHTS: dict[str, list[Weights]] = {
    "atss_r50": [mmdetection("coco_1x", "atss/atss_r50_fpn_1x_coco", "_20200209-985f7bd0", 39.4)],
    "atss_r101": [mmdetection("coco_1x", "atss/atss_r101_fpn_1x_coco", "atss_r101_fpn_1x_20200825-dfcadd6f", 41.5)],
}

register_family(
    "atss",
    build,
    {
        "atss_r50": {"backbone": "r50"},
        "atss_r101": {"backbone": "r101"},
        "atss_r10w16": TINY_DENSE,
    },
    WEIGHTS,
)

register_distilled(
    "atss_r50_crosskd_r101",
    Distilled("atss_r50", "atss_r101.coco_1x", ("crosskd",), (41.5, 39.4, 41.8), CROSSKD_README),
    [crosskd("coco_1x", "1qyxOMaxQrwJ20tEgIwU8pi31O8A1hsEG", 41.8)],
)
register_distilled(
    "atss_r50_crosskd_pkd_r101",
    Distilled("atss_r50", "atss_r101.coco_1x", ("crosskd", "pkd"), (41.5, 39.4, 41.8), CROSSKD_README),
    [crosskd("coco_1x", "1LkuKau1Na843ZPSNz77DqV8v8111b2_y", 41.8)],
)
