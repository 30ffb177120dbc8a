"""RetinaNet: focal loss for dense object detection (Lin et al. 2017, arXiv:1708.02002).

As mmdetection's retinanet_*_fpn_*_coco: nine anchors per location, two towers of four convolutions without norm, focal
and L1 loss. Both losses are normalized by the number of positives, at least 1 per image. Differs from the paper in L1
instead of smooth L1, and in computing the pyramid's P6 from the backbone's last map (``extra="on_input"``); CrossKD's
students compute it from P5 (``on_output``).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pkdzoo.checkpoints.keymap import Rule
from pkdzoo.checkpoints.mmdet import BODY_RULES, tower_rules
from pkdzoo.hub.weights import Distilled, Weights
from pkdzoo.layers.conv import init_class_bias, init_convs
from pkdzoo.layers.norm import Norm
from pkdzoo.losses import sigmoid_focal
from pkdzoo.models._backbone_fpn import FPNVariant, NeckKind, build_backbone_fpn
from pkdzoo.models._published import (
    CROSSKD_README,
    GLOBAL_README,
    MGD_RAZOR,
    PKD_README,
    PKD_TABLE_2,
    crosskd,
    mmdetection,
    mmrazor,
)
from pkdzoo.models._registry import register_distilled, register_family
from pkdzoo.models._tiny import TINY_DENSE
from pkdzoo.models.assigners.dense import targets_from
from pkdzoo.models.assigners.max_iou import match_by_iou
from pkdzoo.models.dense import DenseDetector, TowerHead
from pkdzoo.models.necks.fpn import Extra
from pkdzoo.ops.boxes import decode_deltas, encode_deltas
from pkdzoo.ops.priors import base_anchors
from pkdzoo.structures import DenseTargets, HeadOutputs, Instances, PixelNorm, Priors

KEY_RULES: list[Rule] = [
    *tower_rules("bbox_head.cls_convs", "head.cls_tower"),
    *tower_rules("bbox_head.reg_convs", "head.reg_tower"),
    (r"bbox_head\.retina_cls\.(.*)", r"head.cls.\1"),
    (r"bbox_head\.retina_reg\.(.*)", r"head.box.\1"),
    *BODY_RULES,
]

SCALES = (4.0, 4.0 * 2 ** (1 / 3), 4.0 * 2 ** (2 / 3))  # in strides
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
    """A one-stage, anchor-based detector with focal loss."""

    class_layers = ("head.cls",)
    key_rules = KEY_RULES

    def assign(self, outputs: HeadOutputs, priors: Priors, instances: list[Instances], valid: Tensor) -> DenseTargets:
        """Anchors are positive from IoU 0.5 and background below 0.4; each object also takes its best anchors."""

        def match(image: int, valid_index: Tensor, objects: Instances) -> Tensor:
            return match_by_iou(priors.boxes[valid_index], objects.boxes, 0.5, 0.4, low_quality=0.0)

        return targets_from(match, instances, valid, self.num_classes)

    def loss(self, outputs: HeadOutputs, priors: Priors, targets: DenseTargets) -> dict[str, Tensor]:
        cls, deltas = self.flat(outputs)
        image, prior = self.positives(targets)
        target_deltas = encode_deltas(targets.boxes[image, prior], priors.boxes[prior])
        return {
            "loss_cls": sigmoid_focal(cls, targets.labels) / targets.num_pos,
            "loss_box": (deltas[image, prior] - target_deltas).abs().sum() / targets.num_pos,
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
    relu_before_extra: bool = False,
    neck_norm: Norm | None = None,
    head_norm: Norm | None = None,
    neck: NeckKind = "fpn",
    pixel_norm: PixelNorm | None = None,
    resize: tuple[int, int] = (800, 1333),
    **backbone_args: Any,
) -> RetinaNet:
    """A RetinaNet with random weights.

    Args:
        backbone: name of the backbone, see :func:`pkdzoo.models.backbones.list_backbones`.
        num_classes: C.
        norm: norm of a ResNet; None means ``frozen_bn``, as published. Use ``gn`` or ``bn`` to train from scratch.
        frozen_stages: number of frozen backbone stages; None means as published: the stem and the first stage of a
            ResNet, nothing of a Swin.
        width: channels of the pyramid and the towers.
        depth: convolutions per tower.
        start: index of the first backbone map in the pyramid.
        extra: source of the pyramid's extra levels, see :class:`pkdzoo.models.necks.fpn.FPN`.
        relu_before_extra: ReLU before the coarsest level, as in FCOS.
        neck_norm: norm in the pyramid; None means none, as published.
        head_norm: norm in the towers; None means none, as published.
        neck: ``fpn``; or ``pafpn``, RTMDet's pyramid of strides 8 to 32.
        pixel_norm: pixel statistics and channel order of the input; None means ImageNet's statistics in RGB.
        resize: (short, long) side in pixels that images are scaled to.
        backbone_args: further arguments of the backbone.
    """
    variant = FPNVariant(extra, start, relu_before_extra, neck=neck)
    shared = build_backbone_fpn(
        variant, backbone, num_classes, norm, frozen_stages, width, neck_norm, pixel_norm, resize, backbone_args
    )
    strides = shared["neck"].strides
    return RetinaNet(
        **shared,
        head=RetinaHead(width, num_classes, len(SCALES) * len(RATIOS), width, depth, head_norm),
        base_anchors=[base_anchors(stride, SCALES, RATIOS) for stride in strides],
        offset=0.0,
    )


WEIGHTS: dict[str, list[Weights]] = {
    "retina_r18": [mmdetection("coco_1x", "retinanet/retinanet_r18_fpn_1x_coco", "_20220407_171055-614fd399", 31.7)],
    "retina_r50": [
        mmdetection("coco_1x", "retinanet/retinanet_r50_fpn_1x_coco", "_20200130-c2398f9e", 36.5),
        mmdetection(
            "coco_2x",
            "retinanet/retinanet_r50_fpn_2x_coco",
            "_20200131-fdb43119",
            (37.4, 56.7, 39.6, 20.0, 40.7, 49.7),
            finer=PKD_TABLE_2,
        ),
    ],
    "retina_r101": [
        mmdetection("coco_1x", "retinanet/retinanet_r101_fpn_1x_coco", "_20200130-7a93545f", 38.5),
        mmdetection(
            "coco_2x", "retinanet/retinanet_r101_fpn_2x_coco", "_20200131-5560aee8", (38.9, 58.0, 41.5), GLOBAL_README
        ),
    ],
    "retina_x101_64x4d": [
        mmdetection("coco_1x", "retinanet/retinanet_x101_64x4d_fpn_1x_coco", "_20200130-366f5af1", 41.0),
        mmdetection(
            "coco_2x",
            "retinanet/retinanet_x101_64x4d_fpn_2x_coco",
            "_20200131-bca068ab",
            (40.8, 60.5, 43.7, 22.9, 44.5, 54.6),
            finer=PKD_TABLE_2,
            note="longer training did not help: the 1x file has 41.0. PKD's paper uses this one as the teacher",
        ),
    ],
    "retina_swin_t": [crosskd("coco_1x", "1W2KGR77XfQ5SRomgIyxCjqUNGJichcgh", 37.3, note="its hash is not published")],
}

register_family(
    "retina",
    build,
    {
        "retina_r18": {"backbone": "r18"},
        "retina_r18_on_output": {"backbone": "r18", "extra": "on_output"},
        "retina_r50": {"backbone": "r50"},
        "retina_r50_on_output": {"backbone": "r50", "extra": "on_output"},
        "retina_r101": {"backbone": "r101"},
        "retina_convnext_atto": {"backbone": "timm:convnext_atto.d2_in1k", "depth": 2},
        "retina_swin_t": {"backbone": "swin_t", "outputs": (1, 2, 3), "start": 0},
        "retina_x101_64x4d": {"backbone": "x101_64x4d"},
        "retina_r10w16": TINY_DENSE,
    },
    WEIGHTS,
)

register_distilled(
    "retina_r50_pkd_fcos_x101",
    Distilled("retina_r50", "fcos_x101_64x4d.coco_ms2x", ("pkd",), (42.6, 36.5, 40.3), PKD_README),
    [
        mmrazor(
            "coco_1x",
            "pkd/pkd_fcos_retina/pkd_fpn_fcos_x101_retina_r50_1x_coco_20220925_181547-9cac5059",
            40.3,
            version="CAEQThiBgMCLyNC0oBgiIDBjY2FkY2JlNGFiYzRmM2RiZGUyYzM1NjQxYzQxODA4",
        )
    ],
)
register_distilled(
    "retina_r50_pkd_swin",
    Distilled(
        "retina_r50",
        "mask_rcnn_swin_s.coco_3x",
        ("pkd",),
        (48.2, 37.4, 41.5),
        PKD_README,
        "the readme links mask_rcnn_swin_t.coco_1x as the teacher, but its config and the 48.2 are Swin-S's; an older "
        "readme prints 36.5 for the plain student, which is the 1x file's",
    ),
    [
        mmrazor(
            "coco_2x",
            "pkd/pkd_swin_retina/pkd_fpn_mask_rcnn_swin_retina_r50_2x_coco_20220925_142555-edec7433",
            41.5,
            version="CAEQThiBgIDWqNC0oBgiIDViOGE0ZDU4ODgxNzQ5YmE5OGU3MzRkMjFiZGRjZmRm",
        )
    ],
)
register_distilled(
    "retina_r50_pkd_x101",
    Distilled(
        "retina_r50",
        "retina_x101_64x4d.coco_1x",
        ("pkd",),
        (41.0, 37.4, 40.8),
        PKD_README,
        "the paper prints the same 40.8 with the 2x teacher, which has 40.8",
    ),
    [
        mmrazor(
            "coco_2x",
            "pkd/pkd_retinax_retina/pkd_fpn_retina_x101_retina_r50_2x_coco_20221014_232526-4c0f8d96",
            40.8,
            version="CAEQThiBgIDQqdC0oBgiIGFmZjNmZmE4NDFiMDQ4MzhiMzdjOGI2NzI4MTQxMjFi",
        )
    ],
)

register_distilled(
    "retina_r50_mgd_x101",
    Distilled(
        "retina_r50",
        "retina_x101_64x4d.coco_1x",
        ("mgd",),
        (41.0, 37.4, 41.0),
        MGD_RAZOR,
        "MGD's authors print 41.0, too, with weights of the teacher that were trained three times as long",
    ),
    [mmrazor("coco_2x", "mgd/mgd_fpn_retina_x101_retina_r50_2x_coco_20221209_191847-87141529", 41.0, MGD_RAZOR)],
)

OTHER_NECK = "37.4 is the plain student's with P6 from the backbone's last map; the distilled one takes it from P5"
register_distilled(
    "retina_r50_on_output_crosskd_r101",
    Distilled(
        "retina_r50_on_output", "retina_r101.coco_2x", ("crosskd",), (38.9, 37.4, 39.7), CROSSKD_README, OTHER_NECK
    ),
    [crosskd("coco_2x", "1fjwtuoKd4a_b5CHf6X0tKDmSNlwzYfWb", 39.7)],
)
register_distilled(
    "retina_r50_on_output_crosskd_pkd_r101",
    Distilled(
        "retina_r50_on_output",
        "retina_r101.coco_2x",
        ("crosskd", "pkd"),
        (38.9, 37.4, 39.8),
        CROSSKD_README,
        OTHER_NECK,
    ),
    [crosskd("coco_2x", "1Ha9r5DrzaZ_9tz8x9PVxOkGaKAApIBGd", 39.8)],
)
register_distilled(
    "retina_r50_on_output_crosskd_swin_t",
    Distilled(
        "retina_r50_on_output",
        "retina_swin_t.coco_1x",
        ("crosskd",),
        (37.3, 36.5, 38.0),
        CROSSKD_README,
        OTHER_NECK.replace("37.4", "36.5"),
    ),
    [crosskd("coco_1x", "17rbkcXgqKfVUweRgzK7NtqFcLC-PohKX", 38.0)],
)
