"""GFL: generalized focal loss (Li et al. 2020, arXiv:2006.04388).

As mmdetection's gfl_r*_fpn_*_coco: one square anchor per location, used for the assignment by ATSS and as a point. The
class score is trained to predict the quality (IoU) of the box. Each side of a box is a distribution over 0..16 strides,
whose mean is the distance to the point.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pkdzoo.checkpoints.keymap import Rule
from pkdzoo.checkpoints.mmdet import BODY_RULES, tower_rules
from pkdzoo.hub.weights import Distilled, Weights
from pkdzoo.layers.conv import Scale, init_class_bias, init_convs
from pkdzoo.layers.norm import Norm
from pkdzoo.losses import distribution_focal, giou_loss, quality_focal
from pkdzoo.models._backbone_fpn import FPNVariant, NeckKind, build_backbone_fpn
from pkdzoo.models._measured_students import GFL_PAIR, GFL_STUDENT, GFL_TEACHER
from pkdzoo.models._published import CROSSKD_README, CWD_README, MMDET_ZOO, crosskd, mmdetection, mmrazor_0
from pkdzoo.models._registry import register_distilled, register_family
from pkdzoo.models._tiny import TINY_DENSE
from pkdzoo.models.assigners.atss import atss_targets
from pkdzoo.models.backbones.cspnext import BGR
from pkdzoo.models.dense import DenseDetector, TowerHead
from pkdzoo.ops.boxes import decode_distances, encode_distances, paired_iou
from pkdzoo.ops.priors import base_anchors
from pkdzoo.ops.reduce import mean_over_ranks
from pkdzoo.structures import DenseTargets, HeadOutputs, Instances, PixelNorm, PostProcess, Priors
from pkdzoo.utils.precision import float32_or_wider

KEY_RULES: list[Rule] = [
    *tower_rules("bbox_head.cls_convs", "head.cls_tower"),
    *tower_rules("bbox_head.reg_convs", "head.reg_tower"),
    (r"bbox_head\.gfl_cls\.(.*)", r"head.cls.\1"),
    (r"bbox_head\.gfl_reg\.(.*)", r"head.box.\1"),
    (r"bbox_head\.scales\.(\d+)\.scale", r"head.scales.\1.scale"),
    (r"bbox_head\.integral\.project", None),  # 0, 1, ..., 16
    *BODY_RULES,
]

BINS = 17  # 0 .. 16 strides


class GFLHead(TowerHead):
    """Class logits, and the logits of four distributions over distances in strides, for every anchor."""

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
        self.box = nn.Conv2d(width, 4 * BINS, 3, padding=1)
        self.scales = nn.ModuleList(Scale() for _ in range(levels))
        init_convs(self)
        init_class_bias(self.cls)

    def predict(self, cls: list[Tensor], reg: list[Tensor]) -> HeadOutputs:
        return HeadOutputs(
            [self.cls(x) for x in cls],
            [float32_or_wider(scale(self.box(x))) for scale, x in zip(self.scales, reg, strict=True)],
        )


class GFL(DenseDetector):
    """A one-stage detector with quality focal loss and a distribution for each side of a box."""

    class_layers = ("head.cls",)
    key_rules = KEY_RULES
    box_channels = 4 * BINS
    bins = BINS

    def assign(self, outputs: HeadOutputs, priors: Priors, instances: list[Instances], valid: Tensor) -> DenseTargets:
        return atss_targets(priors, instances, valid, self.num_classes)

    def loss(self, outputs: HeadOutputs, priors: Priors, targets: DenseTargets) -> dict[str, Tensor]:
        cls, box = self.flat(outputs)
        image, prior = self.positives(targets)
        logits, target_boxes, priors = box[image, prior], targets.boxes[image, prior], priors.take(prior)
        boxes = self.decode(logits, priors)
        quality = torch.zeros_like(targets.labels, dtype=cls.dtype)
        quality[image, prior] = paired_iou(boxes.detach(), target_boxes)
        weight = cls[image, prior].detach().sigmoid().amax(dim=-1)  # boxes are weighted by their score
        total = mean_over_ranks(weight.sum(), least=1)
        strides = encode_distances(target_boxes, priors.centers) / priors.strides[:, None]
        per_side = distribution_focal(logits.reshape(-1, 4, BINS), strides.clamp(0, BINS - 1 - 0.1))  # (K, 4)
        return {
            "loss_cls": quality_focal(cls, targets.labels, quality) / targets.num_pos,
            "loss_box": 2.0 * (giou_loss(boxes, target_boxes) * weight).sum() / total,
            "loss_dfl": 0.25 * (per_side.mean(dim=-1) * weight).sum() / total,
        }

    def decode(self, box: Tensor, priors: Priors) -> Tensor:
        probabilities = box.reshape(*box.shape[:-1], 4, BINS).softmax(dim=-1)
        # a sum instead of a matrix product, which autocast would compute in half precision
        distances = (probabilities * torch.arange(BINS, device=box.device, dtype=box.dtype)).sum(dim=-1)
        return decode_distances(distances * priors.strides[..., None], priors.centers)


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
) -> GFL:
    """A GFL with random weights.

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
    return GFL(
        **shared,
        head=GFLHead(width, num_classes, len(strides), width, depth, head_norm),
        base_anchors=[base_anchors(stride, (8.0,), (1.0,)) for stride in strides],
        offset=0.0,
        postprocess_config=PostProcess(nms_threshold=0.6),
    )


WEIGHTS: dict[str, list[Weights]] = {
    "gfl_cspnext_tiny": [GFL_TEACHER],
    "gfl_r50": [mmdetection("coco_1x", "gfl/gfl_r50_fpn_1x_coco", "_20200629_121244-25944287", 40.2)],
    "gfl_r101": [
        mmdetection(
            "coco_ms2x",
            "gfl/gfl_r101_fpn_mstrain_2x_coco",
            "_20200629_200126-dd12f847",
            44.7,
            note="44.7 in mmdetection's zoo and PKD's table 4; 44.9 in PKD's tables 3 and 7 and CrossKD's readme",
        )
    ],
    "gfl_r101_dcn": [
        mmdetection("coco_ms2x", "gfl/gfl_r101_fpn_dconv_c3-c5_mstrain_2x_coco", "_20200630_102002-134b07df", 47.1)
    ],
    "gfl_x101_32x4d_dcn": [
        mmdetection(
            "coco_ms2x", "gfl/gfl_x101_32x4d_fpn_dconv_c4-c5_mstrain_2x_coco", "_20200630_102002-14a2bf25", 48.1
        )
    ],
}

register_family(
    "gfl",
    build,
    {
        "gfl_r18": {"backbone": "r18"},
        "gfl_r34": {"backbone": "r34"},
        "gfl_r50": {"backbone": "r50"},
        "gfl_r101": {"backbone": "r101"},
        "gfl_cspnext_s": {"backbone": "cspnext_s", "neck": "pafpn", "width": 128, "pixel_norm": BGR},
        "gfl_cspnext_tiny": {"backbone": "cspnext_tiny", "width": 52, "depth": 2, "pixel_norm": BGR},
        "gfl_mnv4_small": {"backbone": "timm:mobilenetv4_conv_small.e2400_r224_in1k", "depth": 2},
        "gfl_r101_dcn": {"backbone": "r101", "deformable": (2, 3, 4)},
        "gfl_x101_32x4d_dcn": {"backbone": "x101_32x4d", "deformable": (3, 4)},
        "gfl_r10w16": TINY_DENSE,
        "gfl_r18w64": {**TINY_DENSE, "backbone": "r18"},
    },
    WEIGHTS,
)

TEACHER_AP = "mmdetection's zoo prints 44.7 for the teacher"
register_distilled(
    "gfl_r50_crosskd_r101",
    Distilled("gfl_r50", "gfl_r101.coco_ms2x", ("crosskd",), (44.9, 40.2, 43.7), CROSSKD_README, TEACHER_AP),
    [crosskd("coco_1x", "1S7fyDkFSAauJry0ZGS-ZW-P3CJb7RlsO", 43.7)],
)
register_distilled(
    "gfl_r50_crosskd_pkd_r101",
    Distilled("gfl_r50", "gfl_r101.coco_ms2x", ("crosskd", "pkd"), (44.9, 40.2, 43.9), CROSSKD_README, TEACHER_AP),
    [crosskd("coco_1x", "1LJZ27al2omdXb3cUty-RX37pMLp8L-4B", 43.9)],
)
register_distilled(
    "gfl_r50_cwd_r101",
    Distilled(
        "gfl_r50",
        "gfl_r101.coco_ms2x",
        ("cwd",),
        (44.7, 40.2, 41.9),
        CWD_README,
        "of the class logits, as the file's date implies; mmrazor's later file of that name distills the pyramid",
    ),
    [mmrazor_0("coco_1x", "cwd/cwd_cls_head_gfl_r101_fpn_gfl_r50_fpn_1x_coco", "_20211222-c134bb21", 41.9, CWD_README)],
)
for student, teacher, triple, tag, end in (
    ("gfl_r18", "gfl_r101", (44.7, 35.8, 36.5), "1x", "_20220702_062206-330e6332"),
    ("gfl_r34", "gfl_r101", (44.7, 38.9, 39.9), "1x", "_20220630_134007-9bc69413"),
    ("gfl_r50", "gfl_r101", (44.7, 40.1, 41.0), "1x", "_20220629_145355-8dc5bad8"),
    ("gfl_r101", "gfl_r101_dcn", (47.1, 44.6, 45.5), "2x", "_20220629_185920-9e658426"),
):
    depths = [name.removeprefix("gfl_") for name in (student, teacher)]
    config = f"ld/ld_{depths[0]}_gflv1_{depths[1].replace('_', '')}_fpn_coco_{tag}"
    register_distilled(
        f"{student}_ld_{depths[1]}",
        Distilled(student, f"{teacher}.coco_ms2x", ("ld",), triple, MMDET_ZOO),
        [mmdetection("coco_1x" if tag == "1x" else "coco_ms2x", config, end, triple[2])],
    )
register_distilled(
    "gfl_r10w16_crosskd_cspnext_tiny", GFL_PAIR, [GFL_STUDENT], norm="bn", width=52, resize=(320, 320), num_classes=3
)
