"""Faster R-CNN (Ren et al. 2015, arXiv:1506.01497) on a feature pyramid (Lin et al. 2017).

As mmdetection's faster-rcnn_r*_fpn_*_coco: the pyramid starts at stride 4 and its P6 is P5 subsampled by 2, three
anchors per location, two fully connected layers of 1024. ``two_stage.py`` lists the differences from the papers.
"""

from __future__ import annotations

from typing import Any

from pkdzoo.checkpoints.keymap import Rule
from pkdzoo.checkpoints.mmdet import BODY_RULES
from pkdzoo.hub.weights import Distilled, Weights
from pkdzoo.layers.norm import Norm
from pkdzoo.models._backbone_fpn import FPNVariant, build_backbone_fpn
from pkdzoo.models._published import (
    FBKD_README,
    FGD_README,
    MGD_README,
    PKD_README,
    PKD_TABLE_2,
    baidu,
    mmdetection,
    mmrazor,
)
from pkdzoo.models._registry import register_distilled, register_family
from pkdzoo.models._tiny import TINY_ARGS
from pkdzoo.models.rpn import RPN
from pkdzoo.models.two_stage import BoxHead, TwoStageDetector
from pkdzoo.structures import PixelNorm

KEY_RULES: list[Rule] = [
    (r"rpn_head\.rpn_conv\.(.*)", r"rpn.conv.\1"),
    (r"rpn_head\.rpn_cls\.(.*)", r"rpn.cls.\1"),
    (r"rpn_head\.rpn_reg\.(.*)", r"rpn.box.\1"),
    (r"roi_head\.bbox_head\.shared_fcs\.0\.(.*)", r"box_head.fc1.\1"),
    (r"roi_head\.bbox_head\.shared_fcs\.1\.(.*)", r"box_head.fc2.\1"),
    (r"roi_head\.bbox_head\.fc_cls\.(.*)", r"box_head.cls.\1"),
    (r"roi_head\.bbox_head\.fc_reg\.(.*)", r"box_head.box.\1"),
    *BODY_RULES,
]


class FasterRCNN(TwoStageDetector):
    """A two-stage, anchor-based detector without masks."""

    class_layers = ("box_head.cls", "box_head.box")
    key_rules = KEY_RULES


def build(
    backbone: str = "r50",
    num_classes: int = 80,
    norm: Norm | None = None,
    frozen_stages: int | None = None,
    width: int = 256,
    box_width: int = 1024,
    neck_norm: Norm | None = None,
    sample: bool = True,
    pixel_norm: PixelNorm | None = None,
    resize: tuple[int, int] = (800, 1333),
    **backbone_args: Any,
) -> FasterRCNN:
    """A Faster R-CNN with random weights.

    Args:
        backbone: name of the backbone, see :func:`pkdzoo.models.backbones.list_backbones`.
        num_classes: C.
        norm: norm of a ResNet; None means ``frozen_bn``, as published. Use ``gn`` or ``bn`` to train from scratch.
        frozen_stages: number of frozen backbone stages; None means as published: the stem and the first stage of a
            ResNet, nothing of a Swin.
        width: channels of the pyramid and the RPN.
        box_width: width of the box head's two layers.
        neck_norm: norm in the pyramid; None means none, as published.
        sample: compute losses on a random sample of anchors and proposals, as published; False: on all of them.
        pixel_norm: pixel statistics and channel order of the input; None means ImageNet's statistics in RGB.
        resize: (short, long) side in pixels that images are scaled to.
        backbone_args: further arguments of the backbone.
    """
    variant = FPNVariant("max_pool", start=0)
    shared = build_backbone_fpn(
        variant, backbone, num_classes, norm, frozen_stages, width, neck_norm, pixel_norm, resize, backbone_args
    )
    return FasterRCNN(**shared, rpn=RPN(width, width), box_head=BoxHead(width, num_classes, box_width), sample=sample)


WEIGHTS: dict[str, list[Weights]] = {
    "faster_rcnn_r50": [
        mmdetection("coco_1x", "faster_rcnn/faster_rcnn_r50_fpn_1x_coco", "_20200130-047c8118", 37.4),
        mmdetection(
            "coco_2x",
            "faster_rcnn/faster_rcnn_r50_fpn_2x_coco",
            "_bbox_mAP-0.384_20200504_210434-a5d8aa15",
            (38.4, 59.0, 42.0, 21.5, 42.1, 50.3),
            finer=PKD_TABLE_2,
        ),
    ],
    "faster_rcnn_r101": [
        mmdetection("coco_1x", "faster_rcnn/faster_rcnn_r101_fpn_1x_coco", "_20200130-f513f705", 39.4),
        mmdetection(
            "coco_2x",
            "faster_rcnn/faster_rcnn_r101_fpn_2x_coco",
            "_bbox_mAP-0.398_20200504_210455-1d2dac9c",
            (39.8, 60.1, 43.3, 22.5, 43.6, 52.8),
            finer=PKD_TABLE_2,
        ),
    ],
}

register_family(
    "faster_rcnn",
    build,
    {
        "faster_rcnn_r18": {"backbone": "r18"},
        "faster_rcnn_r50": {"backbone": "r50"},
        "faster_rcnn_r101": {"backbone": "r101"},
        "faster_rcnn_r10w16": {**TINY_ARGS, "box_width": 128},
    },
    WEIGHTS,
)

register_distilled(
    "faster_rcnn_r50_pkd_r101",
    Distilled(
        "faster_rcnn_r50",
        "faster_rcnn_r101.coco_2x",
        ("pkd",),
        (39.8, 38.4, 40.4),
        PKD_README,
        "the distilled AP is 40.3 in a later readme of the same repository and 40.5 in the paper",
    ),
    [
        mmrazor(
            "coco_2x",
            "pkd/pkd_frcnn/pkd_fpn_faster-rcnn_r101_faster-rcnn_r50_2x_coco_20221014_103040-3efbd439",
            40.4,
            version="CAEQThiBgMDQr9C0oBgiIDMyZWE1Y2ZlMDA2ZDQ2ZGNhZmQ3NzMxODk3YzgzYWFl",
            note="40.3 in a later readme of the same repository",
        )
    ],
)
register_distilled(
    "faster_rcnn_r50_fbkd_r101",
    Distilled(
        "faster_rcnn_r50",
        "faster_rcnn_r101.coco_1x",
        ("fbkd",),
        (39.4, 37.4, 39.3),
        FBKD_README,
        "the config starts from the trained student, which the readme does not mention",
    ),
    [
        mmrazor(
            "coco_1x",
            "FBKD/fbkd_fpn_frcnn_resnet101_frcnn_resnet50_1x_coco_20220830_121522-8d7e11df",
            39.3,
            FBKD_README,
        )
    ],
)
CASCADE = "cascade_mask_rcnn_x101_32x4d_dcn.coco_1x"
OF_ZOO = "the teacher's AP is mmdetection's"
register_distilled(
    "faster_rcnn_r50_fgd_cascade",
    Distilled("faster_rcnn_r50", CASCADE, ("fgd",), (47.3, 38.4, 42.0), FGD_README, OF_ZOO),
    [baidu("coco_2x", "14WjoMqxILoPaKfY5QsCK8w?pwd=dgpf", FGD_README, {"AP": 42.0})],
)
register_distilled(
    "faster_rcnn_r50_mgd_cascade",
    Distilled("faster_rcnn_r50", CASCADE, ("mgd",), (47.3, 38.4, 42.1), MGD_README, OF_ZOO),
    [baidu("coco_2x", "1vuZuq06wg3X9SJPNWQSgrw?pwd=2x8z", MGD_README, {"AP": 42.1})],
)
