"""FCOS: fully convolutional one-stage object detection (Tian et al. 2019, arXiv:1904.01355).

As mmdetection's fcos_* configs: points instead of anchors. Each level handles boxes of a range of sizes; the head
predicts the distances to the four sides, and a centerness that lowers the score of points near a side. There are three
published variants:

- plain (``fcos_r50_caffe``, ``fcos_x101_64x4d``): every point inside a box is positive, IoU loss, centerness predicted
  from the class tower;
- with the tricks that FGD and PKD use (``fcos_r50_tricks``): only points near the center are positive, distances in
  strides, GIoU loss, biases in the towers;
- with the tricks of mmdetection's zoo (``fcos_r50_caffe_tricks``): the same, but centerness from the box tower.

Priors on the padding count as background here; the anchor-based detectors ignore them.

One inconsistency of mmdetection is reproduced: its head with tricks gives strides in train mode and pixels in eval
mode, but its targets are always in strides. A loss computed in eval mode therefore compares pixels with strides. Ours
gives the same value in eval mode (the reference values were computed there); in train mode it compares equal units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pkdzoo.checkpoints.keymap import Rule
from pkdzoo.checkpoints.mmdet import BODY_RULES, tower_rules
from pkdzoo.hub.weights import Distilled, Weights
from pkdzoo.layers.conv import Scale, init_class_bias, init_convs
from pkdzoo.layers.norm import Norm
from pkdzoo.losses import giou_loss, iou_log_loss, sigmoid_focal
from pkdzoo.models._backbone_fpn import FPNVariant, build_backbone_fpn
from pkdzoo.models._published import CROSSKD_README, crosskd, mmdetection
from pkdzoo.models._registry import register_distilled, register_family
from pkdzoo.models._tiny import TINY_DENSE
from pkdzoo.models.assigners.fcos import RANGES, centerness, match_points
from pkdzoo.models.assigners.max_iou import labels_of
from pkdzoo.models.dense import DenseDetector, TowerHead
from pkdzoo.ops.boxes import decode_distances, encode_distances
from pkdzoo.ops.levels import flatten_levels
from pkdzoo.ops.priors import point_base_anchors
from pkdzoo.ops.reduce import mean_over_ranks
from pkdzoo.structures import DenseTargets, HeadOutputs, Instances, PixelNorm, PostProcess, Priors
from pkdzoo.utils.precision import float32_or_wider

# Both spellings of the predictors exist in files: mmdetection renamed them after the first releases of FCOS.
KEY_RULES: list[Rule] = [
    *tower_rules("bbox_head.cls_convs", "head.cls_tower"),
    *tower_rules("bbox_head.reg_convs", "head.reg_tower"),
    (r"bbox_head\.(?:conv|fcos)_cls\.(.*)", r"head.cls.\1"),
    (r"bbox_head\.(?:conv|fcos)_reg\.(.*)", r"head.box.\1"),
    (r"bbox_head\.(?:conv|fcos)_centerness\.(.*)", r"head.quality.\1"),
    (r"bbox_head\.scales\.(\d+)\.scale", r"head.scales.\1.scale"),
    *BODY_RULES,
]


class FCOSHead(TowerHead):
    """Class logits, distances in pixels and centerness logits of every point.

    Args:
        inputs: channels of the pyramid.
        num_classes: C.
        strides: strides of the pyramid's levels.
        width: channels of the towers.
        depth: blocks of each tower.
        norm: norm in the towers.
        in_strides: predict distances in strides, clipped at zero; False: their logarithm in pixels.
        centerness_from: the tower that centerness is predicted from, ``cls`` or ``reg``.
        bias: biases of the towers, see :class:`pkdzoo.layers.conv.ConvBlock`.
    """

    def __init__(
        self,
        inputs: int,
        num_classes: int,
        strides: Sequence[int],
        width: int = 256,
        depth: int = 4,
        norm: Norm | None = "gn",
        in_strides: bool = False,
        centerness_from: str = "cls",
        bias: bool | None = None,
    ) -> None:
        super().__init__(inputs, width, depth, norm, bias)
        if centerness_from not in ("cls", "reg"):
            raise ValueError(f"centerness_from={centerness_from!r}: write 'cls' or 'reg'")
        self.strides, self.in_strides, self.centerness_from = tuple(strides), in_strides, centerness_from
        self.cls = nn.Conv2d(width, num_classes, 3, padding=1)
        self.box = nn.Conv2d(width, 4, 3, padding=1)
        self.quality = nn.Conv2d(width, 1, 3, padding=1)
        self.scales = nn.ModuleList(Scale() for _ in strides)
        init_convs(self)
        init_class_bias(self.cls)

    def predict(self, cls: list[Tensor], reg: list[Tensor]) -> HeadOutputs:
        quality_tower = cls if self.centerness_from == "cls" else reg
        return HeadOutputs(
            [self.cls(x) for x in cls],
            [self.distances(x, level) for level, x in enumerate(reg)],
            [self.quality(x) for x in quality_tower],
        )

    def distances(self, x: Tensor, level: int) -> Tensor:
        """Map (B, width, h, w) of the box tower -> distances (B, 4, h, w) in pixels, not negative."""
        raw = float32_or_wider(self.scales[level](self.box(x)))  # half precision would overflow in the exponential
        return raw.clamp(min=0) * self.strides[level] if self.in_strides else raw.exp()


class FCOS(DenseDetector):
    """A one-stage, anchor-free detector with centerness.

    Args:
        box_loss: loss of pairs of boxes (K, 4), (K, 4) -> (K,).
        center_radius: points are positive within this many strides of a box's center; None means in the whole box.
        kwargs: as :class:`DenseDetector`.
    """

    class_layers = ("head.cls",)
    key_rules = KEY_RULES

    def __init__(
        self, *, box_loss: Callable[[Tensor, Tensor], Tensor], center_radius: float | None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.box_loss = box_loss
        self.center_radius = center_radius

    def assign(self, outputs: HeadOutputs, priors: Priors, instances: list[Instances], valid: Tensor) -> DenseTargets:
        """Match points by position and size; points on the padding are background, so ``valid`` is not used."""
        points = priors.centers
        ranges = torch.tensor(RANGES, device=points.device).repeat_interleave(
            torch.tensor(priors.counts, device=points.device), dim=0
        )
        labels, boxes, quality = [], [], []
        for objects in instances:
            matched = match_points(points, priors.strides, ranges, objects.boxes, self.center_radius)
            matched_boxes = objects.boxes[matched.clamp(min=0)] if len(objects) else points.new_zeros(len(points), 4)
            central = centerness(encode_distances(matched_boxes, points))
            labels.append(labels_of(matched, objects.labels, self.num_classes))
            boxes.append(matched_boxes)
            quality.append(torch.where(matched >= 0, central, 0.0))
        stacked = torch.stack(labels)
        num_pos = mean_over_ranks((stacked < self.num_classes).sum().float(), least=1)
        return DenseTargets(stacked, torch.stack(boxes), torch.stack(quality), num_pos)

    def loss(self, outputs: HeadOutputs, priors: Priors, targets: DenseTargets) -> dict[str, Tensor]:
        cls, distances = self.flat(outputs)
        quality = float32_or_wider(flatten_levels(outputs.quality, 1)[..., 0])
        image, prior = self.positives(targets)
        central = targets.quality[image, prior]
        boxes = decode_distances(distances[image, prior], priors.centers[prior])
        per_box = self.box_loss(boxes, self.target_boxes(targets.boxes[image, prior], priors.take(prior)))
        weight = mean_over_ranks(central.sum(), least=1e-6)
        per_point = F.binary_cross_entropy_with_logits(quality[image, prior], central, reduction="sum")
        return {
            "loss_cls": sigmoid_focal(cls, targets.labels) / targets.num_pos,
            "loss_box": (per_box * central).sum() / weight,
            "loss_centerness": per_point / targets.num_pos,
        }

    def target_boxes(self, boxes: Tensor, priors: Priors) -> Tensor:
        """The boxes that predictions are compared with: the objects; for eval mode see the module's docstring."""
        if self.training or not self.head.in_strides:
            return boxes
        return decode_distances(encode_distances(boxes, priors.centers) / priors.strides[:, None], priors.centers)

    def decode(self, box: Tensor, priors: Priors) -> Tensor:
        return decode_distances(box, priors.centers)


def build(
    backbone: str = "r50",
    num_classes: int = 80,
    norm: Norm | None = None,
    frozen_stages: int | None = None,
    width: int = 256,
    depth: int = 4,
    tricks: bool = False,
    centerness_from: str = "cls",
    relu_before_extra: bool = True,
    neck_norm: Norm | None = None,
    head_norm: Norm | None = "gn",
    pixel_norm: PixelNorm | None = None,
    resize: tuple[int, int] = (800, 1333),
    **backbone_args: Any,
) -> FCOS:
    """An FCOS with random weights.

    Args:
        backbone: name of the backbone, see :func:`pkdzoo.models.backbones.list_backbones`.
        num_classes: C.
        norm: norm of a ResNet; None means ``frozen_bn``, as published. Use ``gn`` or ``bn`` to train from scratch.
        frozen_stages: number of frozen backbone stages; None means as published: the stem and the first stage of a
            ResNet, nothing of a Swin.
        width: channels of the pyramid and the towers.
        depth: convolutions per tower.
        tricks: center sampling within 1.5 strides, distances in strides, GIoU loss, biases in the towers, and an NMS
            threshold of 0.6 instead of 0.5.
        centerness_from: the tower that centerness is predicted from, ``cls`` or ``reg``.
        relu_before_extra: ReLU before the pyramid's coarsest level, as published; False gives GFL's and ATSS' pyramid.
        neck_norm: norm in the pyramid; None means none, as published.
        head_norm: norm in the towers.
        pixel_norm: pixel statistics and channel order of the input; None means ImageNet's statistics in RGB.
        resize: (short, long) side in pixels that images are scaled to.
        backbone_args: further arguments of the backbone.
    """
    variant = FPNVariant("on_output", relu_before_extra=relu_before_extra)
    shared = build_backbone_fpn(
        variant, backbone, num_classes, norm, frozen_stages, width, neck_norm, pixel_norm, resize, backbone_args
    )
    strides, bias = shared["neck"].strides, True if tricks else None
    return FCOS(
        **shared,
        head=FCOSHead(width, num_classes, strides, width, depth, head_norm, tricks, centerness_from, bias),
        base_anchors=point_base_anchors(strides),
        offset=0.5,
        box_loss=giou_loss if tricks else iou_log_loss,
        center_radius=1.5 if tricks else None,
        postprocess_config=PostProcess(nms_threshold=0.6 if tricks else 0.5),
    )


CAFFE: dict[str, Any] = {"style": "caffe", "frozen_affine": True}
DETECTRON = PixelNorm((102.9801, 115.9465, 122.7717), (1.0, 1.0, 1.0), "bgr")
DETECTRON2 = PixelNorm((103.53, 116.28, 123.675), (1.0, 1.0, 1.0), "bgr")
TRICKS: dict[str, Any] = {**CAFFE, "tricks": True, "pixel_norm": DETECTRON2}

CENTER = "fcos_center-normbbox-centeronreg-giou_r50_caffe_fpn_gn-head_1x_coco"
WEIGHTS: dict[str, list[Weights]] = {
    "fcos_r50_caffe": [
        mmdetection("coco_1x", "fcos/fcos_r50_caffe_fpn_gn-head_1x_coco", "-821213aa", 36.6),
        mmdetection("coco_ms2x", "fcos/fcos_r50_caffe_fpn_gn-head_mstrain_640-800_2x_coco", "-d92ceeea", 38.5),
    ],
    "fcos_r101_caffe": [
        mmdetection("coco_ms2x", "fcos/fcos_r101_caffe_fpn_gn-head_mstrain_640-800_2x_coco", "-511424d6", 40.8)
    ],
    "fcos_x101_64x4d": [
        mmdetection("coco_ms2x", "fcos/fcos_x101_64x4d_fpn_gn-head_mstrain_640-800_2x_coco", "-ede514a8", 42.6)
    ],
    "fcos_r50_caffe_tricks": [mmdetection("coco_1x", f"fcos/{CENTER}", "-0a0d75a8", 38.7)],
    "fcos_r18w24": [
        Weights(
            "shapes",
            file="fcos_r18w24_shapes.safetensors",
            sha256="75df0e4b29b024223fff6ef2878e42bf3386e057770253ac01327de7c07a0a2c",
            metrics={"AP": 57.0, "AP50": 78.3, "AP75": 65.8, "APs": 54.9, "APm": 64.8},
            source="measured: python recipes/evaluate.py fcos_r18w24.shapes --data runs/demo/data/shapes",
            license="Apache-2.0",
            labels="shapes",
            recipe="supervised/fcos_r18w24_shapes.py",
            note="the demo's teacher, float16",
        )
    ],
}

register_family(
    "fcos",
    build,
    {
        "fcos_r50_caffe": {"backbone": "r50", **CAFFE, "pixel_norm": DETECTRON},
        "fcos_r101_caffe": {"backbone": "r101", **CAFFE, "pixel_norm": DETECTRON},
        "fcos_x101_64x4d": {"backbone": "x101_64x4d"},
        "fcos_r50_tricks": {"backbone": "r50", **TRICKS},
        "fcos_r101_tricks": {"backbone": "r101", **TRICKS},
        "fcos_r50_caffe_tricks": {"backbone": "r50", **TRICKS, "centerness_from": "reg"},
        "fcos_repvit_m0_9": {"backbone": "timm:repvit_m0_9.dist_450e_in1k", "tricks": True, "depth": 2},
        "fcos_r10w16": TINY_DENSE,
        "fcos_r18w24": {**TINY_DENSE, "backbone": "r18w24", "tricks": True, "resize": (128, 160)},
    },
    WEIGHTS,
)

register_distilled(
    "fcos_r50_caffe_crosskd_r101",
    Distilled("fcos_r50_caffe", "fcos_r101_caffe.coco_ms2x", ("crosskd",), (40.8, 38.5, 41.1), CROSSKD_README),
    [crosskd("coco_ms2x", "1ll5vOGFMEfOsNCkgbPuqh0uMNFnfICbE", 41.1)],
)
register_distilled(
    "fcos_r50_caffe_crosskd_pkd_r101",
    Distilled("fcos_r50_caffe", "fcos_r101_caffe.coco_ms2x", ("crosskd", "pkd"), (40.8, 38.5, 41.3), CROSSKD_README),
    [crosskd("coco_ms2x", "1r-UzxAOYOfPJFIV5e7Rd3P3uC9gXP09v", 41.3)],
)
