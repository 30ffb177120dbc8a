"""RetinaNet: focal loss for dense object detection (Lin et al. 2017, arXiv:1708.02002).

As mmdetection's retinanet_*_fpn_*_coco: nine anchors a cell, two towers of four convolutions without norm, focal and
L1 loss over max(positives, 1) summed over pictures. Differs from the paper in L1 for smooth L1 and in taking the
pyramid's P6 from the backbone's last map (``extra="on_input"``); CrossKD's students take it from P5 (``on_output``).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pkdzoo.assigners.dense import targets_from
from pkdzoo.assigners.max_iou import match_by_iou
from pkdzoo.backbones import build_backbone
from pkdzoo.checkpoints.keymap import Rule
from pkdzoo.checkpoints.mmdet import BODY_RULES, tower_rules
from pkdzoo.layers.conv import init_class_bias, init_convs
from pkdzoo.layers.norm import Norm
from pkdzoo.losses.focal import sigmoid_focal
from pkdzoo.models.base import Inference, Pixels
from pkdzoo.models.dense import DenseDetector, TowerHead
from pkdzoo.models.tiny import TINY_DENSE
from pkdzoo.necks.fpn import FPN, Extra
from pkdzoo.ops.boxes import decode_deltas, encode_deltas
from pkdzoo.ops.priors import cell_anchors
from pkdzoo.registry import register_family
from pkdzoo.structures import DenseTargets, HeadOutputs, Instances, Priors

KEY_RULES: list[Rule] = [
    *tower_rules("bbox_head.cls_convs", "head.cls_tower"),
    *tower_rules("bbox_head.reg_convs", "head.reg_tower"),
    (r"bbox_head\.retina_cls\.(.*)", r"head.cls.\1"),
    (r"bbox_head\.retina_reg\.(.*)", r"head.box.\1"),
    *BODY_RULES,
]

SCALES = (4.0, 4.0 * 2 ** (1 / 3), 4.0 * 2 ** (2 / 3))  # of the stride
RATIOS = (0.5, 1.0, 2.0)


class RetinaHead(TowerHead):
    """Class logits and box deltas of every anchor."""

    def __init__(
        self,
        inputs: int,
        num_classes: int,
        anchors: int = 9,
        width: int = 256,
        depth: int = 4,
        norm: Norm | None = None,
    ) -> None:
        super().__init__(inputs, width, depth, norm)
        self.cls = nn.Conv2d(width, anchors * num_classes, 3, padding=1)
        self.box = nn.Conv2d(width, anchors * 4, 3, padding=1)
        init_convs(self)
        init_class_bias(self.cls)

    def predict(self, cls: list[Tensor], reg: list[Tensor]) -> HeadOutputs:
        return HeadOutputs([self.cls(x) for x in cls], [self.box(x) for x in reg])


class RetinaNet(DenseDetector):
    """One-stage, anchor-based, focal loss."""

    class_layers = ("head.cls",)
    key_rules = KEY_RULES

    def assign(self, outputs: HeadOutputs, priors: Priors, instances: list[Instances], valid: Tensor) -> DenseTargets:
        """Positive from IoU 0.5, background below 0.4, and every object gets its best anchors."""

        def match(picture: int, inside: Tensor, objects: Instances) -> Tensor:
            return match_by_iou(priors.boxes[inside], objects.boxes, 0.5, 0.4, low_quality=0.0)

        return targets_from(match, instances, valid, self.num_classes)

    def loss(self, outputs: HeadOutputs, priors: Priors, targets: DenseTargets) -> dict[str, Tensor]:
        cls, deltas = self.flat(outputs)
        picture, prior = self.positives(targets)
        wanted = encode_deltas(targets.boxes[picture, prior], priors.boxes[prior])
        return {
            "loss_cls": sigmoid_focal(cls, targets.labels) / targets.num_pos,
            "loss_box": (deltas[picture, prior] - wanted).abs().sum() / targets.num_pos,
        }

    def decode(self, box: Tensor, priors: Priors) -> Tensor:
        return decode_deltas(box, priors.boxes)


def build(
    backbone: str = "r50",
    num_classes: int = 80,
    norm: Norm | None = None,
    frozen_stages: int | None = None,
    width: int = 256,
    depth: int = 4,
    start: int = 1,
    extra: Extra = "on_input",
    neck_norm: Norm | None = None,
    head_norm: Norm | None = None,
    pixels: Pixels | None = None,
    resize: tuple[int, int] = (800, 1333),
    **backbone_args: Any,
) -> RetinaNet:
    """A RetinaNet with random weights.

    Args:
        backbone: name of the backbone.
        num_classes: C.
        norm: norm of a ResNet, None as published (``frozen_bn``); ``gn`` or ``bn`` when it is to learn from scratch.
        frozen_stages: frozen part of the backbone, None as published (stem and first stage; nothing of a Swin).
        width: channels of pyramid and towers.
        depth: convolutions a tower.
        start: first backbone map of the pyramid.
        extra: source of the pyramid's coarse levels.
        neck_norm: norm in the pyramid, None as published.
        head_norm: norm in the towers, None as published.
        pixels: statistics of the input.
        resize: (short, long) side pictures are scaled to.
        backbone_args: further arguments of the backbone.
    """
    body = build_backbone(backbone, norm=norm, frozen_stages=frozen_stages, **backbone_args)
    neck = FPN(body.channels, body.strides, width, start, 5, extra, norm=neck_norm)
    return RetinaNet(
        backbone=body,
        neck=neck,
        head=RetinaHead(width, num_classes, len(SCALES) * len(RATIOS), width, depth, head_norm),
        cells=[cell_anchors(stride, SCALES, RATIOS) for stride in neck.strides],
        offset=0.0,
        num_classes=num_classes,
        pixels=pixels,
        inference=Inference(score=0.05, candidates=1000, iou=0.5, top=100),
        resize=resize,
    )


register_family(
    "retina",
    build,
    {
        "retina_r18": {"backbone": "r18"},
        "retina_r18_on_output": {"backbone": "r18", "extra": "on_output"},
        "retina_r50": {"backbone": "r50"},
        "retina_r50_on_output": {"backbone": "r50", "extra": "on_output"},
        "retina_r101": {"backbone": "r101"},
        "retina_swin_t": {"backbone": "swin_t", "outputs": (1, 2, 3), "start": 0},
        "retina_x101_64x4d": {"backbone": "x101_64x4d"},
        "retina_r10w16": TINY_DENSE,
    },
)
