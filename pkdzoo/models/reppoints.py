"""RepPoints: point set representation for object detection (Yang et al. 2019, arXiv:1904.11490).

As mmdetection's reppoints-moment_*_fpn-gn_head-gn_*_coco: each location predicts nine points and refines them once; the
mean and the spread of the points give the box. Class and refinement are predicted by deformable convolutions that
sample at the first nine points. The pyramid has group norm too. The first points are assigned by distance to the
objects' centers, the refined points and the classes by the IoU of the first boxes.

Box outputs are corners relative to the location, in strides; ``extra["first"]`` holds those of the first points.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pkdzoo.checkpoints.keymap import Rule
from pkdzoo.checkpoints.mmdet import BODY_RULES, tower_rules
from pkdzoo.hub.weights import Distilled, Weights
from pkdzoo.layers.conv import init_class_bias, init_convs
from pkdzoo.layers.deform import SampledConv
from pkdzoo.layers.norm import Norm
from pkdzoo.losses import sigmoid_focal
from pkdzoo.models._backbone_fpn import FPNVariant, build_backbone_fpn
from pkdzoo.models._published import MGD_README, PKD_README, PKD_TABLE_2, baidu, mmdetection, mmrazor
from pkdzoo.models._registry import register_distilled, register_family
from pkdzoo.models._tiny import TINY_DENSE
from pkdzoo.models.assigners.dense import targets_from
from pkdzoo.models.assigners.max_iou import match_by_iou
from pkdzoo.models.assigners.points import match_nearest
from pkdzoo.models.dense import DenseDetector, TowerHead
from pkdzoo.ops.levels import flatten_levels
from pkdzoo.ops.priors import point_base_anchors
from pkdzoo.structures import DenseTargets, HeadOutputs, Instances, PixelNorm, Priors
from pkdzoo.utils.precision import float32_or_wider

KEY_RULES: list[Rule] = [
    *tower_rules("bbox_head.cls_convs", "head.cls_tower"),
    *tower_rules("bbox_head.reg_convs", "head.reg_tower"),
    (r"bbox_head\.reppoints_cls_conv\.(.*)", r"head.cls_conv.\1"),
    (r"bbox_head\.reppoints_cls_out\.(.*)", r"head.cls.\1"),
    (r"bbox_head\.reppoints_pts_init_conv\.(.*)", r"head.first_conv.\1"),
    (r"bbox_head\.reppoints_pts_init_out\.(.*)", r"head.first.\1"),
    (r"bbox_head\.reppoints_pts_refine_conv\.(.*)", r"head.refined_conv.\1"),
    (r"bbox_head\.reppoints_pts_refine_out\.(.*)", r"head.refined.\1"),
    (r"bbox_head\.moment_transfer", r"head.moment"),
    *BODY_RULES,
]

POINTS = 9  # the positions of a 3x3 kernel
SCALE = 4.0  # side of a typical object, in strides of its level
BETA = 0.11  # of smooth L1
POINTS_GRADIENT = 0.1  # factor of the gradient that the sampling passes to the first points
MOMENT_GRADIENT = 0.01  # factor of the gradient of the moment parameter


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """Return ``x`` unchanged; its gradient is multiplied by ``factor``, 0..1."""
    return x * factor + x.detach() * (1 - factor)


class RepPointsHead(TowerHead):
    """Class logits and the boxes of two point sets, for every location.

    Args:
        inputs: channels of the pyramid.
        num_classes: C.
        width: channels of the towers.
        depth: blocks of each tower.
        norm: norm in the towers.
    """

    kernel: Tensor

    def __init__(
        self, inputs: int, num_classes: int, width: int = 256, depth: int = 3, norm: Norm | None = "gn"
    ) -> None:
        super().__init__(inputs, width, depth, norm)
        self.first_conv = nn.Conv2d(width, width, 3, padding=1)
        self.first = nn.Conv2d(width, 2 * POINTS, 1)
        self.cls_conv = SampledConv(width, width)
        self.cls = nn.Conv2d(width, num_classes, 1)
        self.refined_conv = SampledConv(width, width)
        self.refined = nn.Conv2d(width, 2 * POINTS, 1)
        self.moment = nn.Parameter(torch.zeros(2))  # log(half side / spread) of a box, x then y
        positions = torch.tensor([[y, x] for y in (-1.0, 0.0, 1.0) for x in (-1.0, 0.0, 1.0)])
        self.register_buffer("kernel", positions.flatten()[:, None, None], persistent=False)
        init_convs(self)
        init_class_bias(self.cls)

    def predict(self, cls: list[Tensor], reg: list[Tensor]) -> HeadOutputs:
        levels = [self.level(c, r) for c, r in zip(cls, reg, strict=True)]
        logits, first, refined = (list(part) for part in zip(*levels))
        return HeadOutputs(logits, refined, extra={"first": first})

    def level(self, cls: Tensor, reg: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tower maps (B, width, h, w) -> class logits (B, C, h, w), first and refined boxes (B, 4, h, w)."""
        # (B, 18, h, w): y, x of each point, in strides
        first = float32_or_wider(self.first(F.relu(self.first_conv(reg))))
        shift = scale_gradient(first, POINTS_GRADIENT) - self.kernel  # offsets from the positions of a regular kernel
        logits: Tensor = self.cls(F.relu(self.cls_conv(cls, shift)))
        refined = float32_or_wider(self.refined(F.relu(self.refined_conv(reg, shift)))) + first.detach()
        return logits, self.box_of(first), self.box_of(refined)

    def box_of(self, points: Tensor) -> Tensor:
        """Box of a point set: its mean is the center, and its spread times a learned factor is half a side.

        Args:
            points: (B, 18, h, w), y and x of each point.

        Returns:
            (B, 4, h, w) xyxy in the points' unit.
        """
        yx = points.reshape(points.shape[0], POINTS, 2, *points.shape[-2:])
        # at a spread of zero the gradient of sqrt would be infinite
        center, spread = yx.mean(dim=1), yx.var(dim=1).clamp(min=1e-12).sqrt()  # (B, 2, h, w)
        half = spread.flip(1) * scale_gradient(self.moment, MOMENT_GRADIENT).exp()[:, None, None]
        return torch.cat([center.flip(1) - half, center.flip(1) + half], dim=1)


@dataclass
class RepPointsTargets(DenseTargets):
    """Targets of the classes and the refined points; ``first`` holds those of the first points."""

    first: DenseTargets = field(kw_only=True)


class RepPoints(DenseDetector):
    """A one-stage detector with point sets."""

    class_layers = ("head.cls",)
    key_rules = KEY_RULES

    def assign(
        self, outputs: HeadOutputs, priors: Priors, instances: list[Instances], valid: Tensor
    ) -> RepPointsTargets:
        """First points by position and size, refined points by the IoU of their first boxes."""
        points = priors.centers
        first_boxes = self.decode(float32_or_wider(flatten_levels(outputs.extra["first"], 4).detach()), priors)

        def by_distance(image: int, valid_index: Tensor, objects: Instances) -> Tensor:
            return match_nearest(points[valid_index], priors.strides[valid_index], objects.boxes, SCALE)

        def by_overlap(image: int, valid_index: Tensor, objects: Instances) -> Tensor:
            return match_by_iou(first_boxes[image, valid_index], objects.boxes, 0.5, 0.4, low_quality=0.0)

        first = targets_from(by_distance, instances, valid, self.num_classes)
        refined = targets_from(by_overlap, instances, valid, self.num_classes)
        return RepPointsTargets(**{f.name: getattr(refined, f.name) for f in fields(refined)}, first=first)

    def loss(self, outputs: HeadOutputs, priors: Priors, targets: DenseTargets) -> dict[str, Tensor]:
        assert isinstance(targets, RepPointsTargets)
        cls, refined = self.flat(outputs)
        first = float32_or_wider(flatten_levels(outputs.extra["first"], 4))
        return {
            "loss_cls": sigmoid_focal(cls, targets.labels) / targets.num_pos,
            "loss_box_first": 0.5 * self.box_loss(first, priors, targets.first),
            "loss_box": self.box_loss(refined, priors, targets),
        }

    def box_loss(self, box: Tensor, priors: Priors, targets: DenseTargets) -> Tensor:
        """Smooth L1 of the positive rows of (B, P, 4), in units of the typical object of the level."""
        image, prior = self.positives(targets)
        boxes = self.decode(box[image, prior], priors.take(prior))
        unit = SCALE * priors.strides[prior, None]
        target_boxes = targets.boxes[image, prior]
        return F.smooth_l1_loss(boxes / unit, target_boxes / unit, beta=BETA, reduction="sum") / targets.num_pos

    def decode(self, box: Tensor, priors: Priors) -> Tensor:
        return box * priors.strides[..., None] + priors.centers.repeat(1, 2)


def build(
    backbone: str = "r50",
    num_classes: int = 80,
    norm: Norm | None = None,
    frozen_stages: int | None = None,
    width: int = 256,
    depth: int = 3,
    neck_norm: Norm | None = "gn",
    head_norm: Norm | None = "gn",
    pixel_norm: PixelNorm | None = None,
    resize: tuple[int, int] = (800, 1333),
    **backbone_args: Any,
) -> RepPoints:
    """A RepPoints detector with random weights.

    Args:
        backbone: name of the backbone, see :func:`pkdzoo.models.backbones.list_backbones`.
        num_classes: C.
        norm: norm of a ResNet; None means ``frozen_bn``, as published. Use ``gn`` or ``bn`` to train from scratch.
        frozen_stages: number of frozen backbone stages; None means as published: the stem and the first stage of a
            ResNet, nothing of a Swin.
        width: channels of the pyramid and the towers.
        depth: convolutions per tower.
        neck_norm: norm in the pyramid.
        head_norm: norm in the towers.
        pixel_norm: pixel statistics and channel order of the input; None means ImageNet's statistics in RGB.
        resize: (short, long) side in pixels that images are scaled to.
        backbone_args: further arguments of the backbone.
    """
    variant = FPNVariant("on_input")
    shared = build_backbone_fpn(
        variant, backbone, num_classes, norm, frozen_stages, width, neck_norm, pixel_norm, resize, backbone_args
    )
    strides = shared["neck"].strides
    return RepPoints(
        **shared,
        head=RepPointsHead(width, num_classes, width, depth, head_norm),
        base_anchors=point_base_anchors(strides),
        offset=0.0,
    )


X101 = "reppoints_moment_x101_fpn_dconv_c3-c5_gn-neck%2Bhead_2x_coco"
R50 = "reppoints_moment_r50_fpn_gn-neck%2Bhead_2x_coco"
WEIGHTS: dict[str, list[Weights]] = {
    "reppoints_r50": [
        mmdetection(
            "coco_2x", f"reppoints/{R50}", "_20200329-91babaa2", (38.6, 59.6, 41.6, 22.5, 42.2, 50.4), finer=PKD_TABLE_2
        )
    ],
    "reppoints_x101_dcn": [
        mmdetection(
            "coco_2x",
            f"reppoints/{X101}",
            "_20200329-f87da1ea",
            (44.2, 65.5, 47.8, 26.2, 48.4, 58.5),
            finer=PKD_TABLE_2,
        )
    ],
}

register_family(
    "reppoints",
    build,
    {
        "reppoints_r50": {"backbone": "r50"},
        "reppoints_x101_dcn": {"backbone": "x101_32x4d", "deformable": (2, 3, 4)},
        "reppoints_r10w16": TINY_DENSE,
    },
    WEIGHTS,
)

register_distilled(
    "reppoints_r50_pkd_x101",
    Distilled("reppoints_r50", "reppoints_x101_dcn.coco_2x", ("pkd",), (44.2, 38.6, 42.3), PKD_README),
    [
        mmrazor(
            "coco_2x",
            "pkd/pkd_reppoints/pkd_fpn_reppoints_x101_dcn_reppoints_r50_2x_coco_20220926_145818-f8932e12",
            42.3,
            version="CAEQThiBgIC8rNC0oBgiIGU2N2IxM2NkMjNlMjQyN2E4YmVlNmViNGI2MDY3OTE5",
        )
    ],
)
register_distilled(
    "reppoints_r50_mgd_x101",
    Distilled(
        "reppoints_r50",
        "reppoints_x101_dcn.coco_2x",
        ("mgd",),
        (44.2, 38.6, 42.3),
        MGD_README,
        "the teacher's AP is mmdetection's",
    ),
    [baidu("coco_2x", "1HfqvLoMU57y9NXPq5TNhow?pwd=g79p", MGD_README, {"AP": 42.3})],
)
