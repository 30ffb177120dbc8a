"""Cascade Mask R-CNN (Cai and Vasconcelos 2018, arXiv:1712.00726): three box heads, each on the boxes of the last.

As mmdetection's cascade-mask-rcnn_*_fpn_*_coco:

- A region is positive from IoU 0.5, 0.6 and 0.7 in the three stages, whose losses weigh 1, 0.5 and 0.25.
- A stage predicts one box for all classes, in finer units than the stage before.
- In training, the boxes of a stage are the regions of the next, without those of the objects' own boxes.
- For detections, class logits are the mean of the stages, boxes the last stage's, and masks the mean of three heads.
- Losses of boxes are smooth L1, also the RPN's, which is trained on anchors inside the image alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from pkdzoo.checkpoints.keymap import Rule
from pkdzoo.hub.weights import Weights
from pkdzoo.layers.norm import Norm
from pkdzoo.models import faster_rcnn
from pkdzoo.models._backbone_fpn import FPNVariant, build_backbone_fpn
from pkdzoo.models._published import mmdetection
from pkdzoo.models._registry import register_family
from pkdzoo.models.mask_rcnn import MaskHead, check_target_masks, mask_loss
from pkdzoo.models.rpn import RPN, ProposalConfig
from pkdzoo.models.trace import LossTrace, Trace
from pkdzoo.models.two_stage import BoxHead, RegionDetector, RoITargets
from pkdzoo.ops.boxes import clip_boxes, decode_deltas
from pkdzoo.structures import Batch, Detections, FeaturePyramid, Instances, PixelNorm, PostProcess

if TYPE_CHECKING:
    from typing_extensions import Self

KEY_RULES: list[Rule] = [
    (r"roi_head\.bbox_head\.(\d)\.shared_fcs\.0\.(.*)", r"box_head.\1.fc1.\2"),
    (r"roi_head\.bbox_head\.(\d)\.shared_fcs\.1\.(.*)", r"box_head.\1.fc2.\2"),
    (r"roi_head\.bbox_head\.(\d)\.fc_cls\.(.*)", r"box_head.\1.cls.\2"),
    (r"roi_head\.bbox_head\.(\d)\.fc_reg\.(.*)", r"box_head.\1.box.\2"),
    (r"roi_head\.mask_head\.(\d)\.convs\.(\d+)\.conv\.(.*)", r"mask_head.\1.tower.blocks.\2.conv.\3"),
    (r"roi_head\.mask_head\.(\d)\.upsample\.(.*)", r"mask_head.\1.upsample.\2"),
    (r"roi_head\.mask_head\.(\d)\.conv_logits\.(.*)", r"mask_head.\1.logits.\2"),
    *faster_rcnn.KEY_RULES,
]

STAGES = 3
POSITIVE = (0.5, 0.6, 0.7)  # IoU from which a region is positive
WEIGHTS_OF_STAGES = (1.0, 0.5, 0.25)
STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))


class CascadeMaskRCNN(RegionDetector):
    """A two-stage, anchor-based detector with a cascade of three box heads, and with masks.

    Args:
        box_head: a :class:`BoxHead` for each stage, in order.
        mask_head: a :class:`MaskHead` for each stage, in order.
        kwargs: as :class:`RegionDetector`.
    """

    class_layers = tuple(
        f"{part}.{i}{end}" for i in range(STAGES) for part, end in (("box_head", ".cls"), ("mask_head", ".logits"))
    )
    key_rules = KEY_RULES
    train_proposing = ProposalConfig(pre_nms_top_k=2000, max_proposals=2000)
    rpn_beta = 1 / 9
    anchors_inside = True

    def __init__(self, *, box_head: list[BoxHead], mask_head: list[MaskHead], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.box_head = nn.ModuleList(box_head)
        self.mask_head = nn.ModuleList(mask_head)

    @property
    def stages(self) -> list[tuple[BoxHead, MaskHead]]:
        """Box head and mask head of each stage."""
        return [(cast(BoxHead, box), cast(MaskHead, mask)) for box, mask in zip(self.box_head, self.mask_head)]

    def run_losses(
        self, features: FeaturePyramid, batch: Batch, instances: list[Instances], tap: int | None = None
    ) -> LossTrace[Self]:
        """The losses of Mask R-CNN for each stage; ``regions`` are the first stage's."""
        check_target_masks(self.name, batch, instances)
        return super().run_losses(features, batch, instances, tap)

    def region_losses(
        self, features: FeaturePyramid, batch: Batch, proposals: list[Tensor], instances: list[Instances]
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """``loss_cls_s0``, ``loss_box_s0``, ``loss_mask_s0`` of the first stage, and so on."""
        regions: list[Instances] = []
        losses: dict[str, Tensor] = {}
        for i, (head, mask_head) in enumerate(self.stages):
            sampled = [self.assign_regions(*pair, POSITIVE[i]) for pair in zip(proposals, instances)]
            regions = regions or self.positive_regions(sampled)
            cls, deltas = head(self.pool(features, [t.boxes for t in sampled], head.size))
            found = self.box_losses(head, cls, deltas, sampled, beta=1.0)
            found["loss_mask"] = mask_loss(self, mask_head, features, sampled, instances)
            losses |= {f"{key}_s{i}": WEIGHTS_OF_STAGES[i] * value for key, value in found.items()}
            proposals = self.refined(head, deltas, sampled, batch)
        return regions, losses

    @torch.no_grad()
    def refined(self, head: BoxHead, deltas: Tensor, sampled: list[RoITargets], batch: Batch) -> list[Tensor]:
        """The regions of the next stage: the boxes of this one, without those of the objects' own boxes."""
        boxes = []
        per_image = torch.split(deltas, [len(t.boxes) for t in sampled])
        for targets, delta, size in zip(sampled, per_image, batch.sizes):
            own = targets.is_object
            boxes.append(decode_clipped(head, delta[~own], targets.boxes[~own], size))
        return boxes

    def postprocess(self, trace: Trace[Self], batch: Batch, config: PostProcess | None = None) -> list[Detections]:
        """Boxes of the last stage with the mean of the stages' logits, then a mask for each."""
        regions, logits, deltas = self.proposals_for_detection(trace, batch), [], torch.empty(0)
        for i, (head, _) in enumerate(self.stages):
            if i:
                parts = torch.split(deltas, [len(boxes) for boxes in regions])
                before = self.stages[i - 1][0]
                regions = [decode_clipped(before, *each) for each in zip(parts, regions, batch.sizes)]
            cls, deltas = head(self.pool(trace.features, regions, head.size))
            logits.append(cls)
        last = self.stages[-1][0]
        detections = self.select_detections(last, torch.stack(logits).mean(dim=0), deltas, regions, batch, config)
        masks = self.predict_masks(trace.features, detections)
        return [replace(image, mask_probabilities=mask) for image, mask in zip(detections, masks)]

    def predict_masks(self, features: FeaturePyramid, detections: list[Detections]) -> list[Tensor]:
        """Mask probabilities of the detections of each image, the mean over the stages: (N, 28, 28) over each box."""
        boxes, labels = [image.boxes for image in detections], torch.cat([image.labels for image in detections])
        heads = [head for _, head in self.stages]
        pooled = self.pool(features, boxes, heads[0].size)
        probabilities = torch.stack([head(pooled, labels).sigmoid() for head in heads]).mean(dim=0)
        return list(torch.split(probabilities, [len(image) for image in detections]))


def decode_clipped(head: BoxHead, deltas: Tensor, regions: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes (N, 4) inside the image from the deltas (N, 1, 4) of one stage."""
    return clip_boxes(decode_deltas(deltas[:, 0], regions, head.stds), size)


def build(
    backbone: str = "r50",
    num_classes: int = 80,
    norm: Norm | None = None,
    frozen_stages: int | None = None,
    width: int = 256,
    box_width: int = 1024,
    mask_width: int = 256,
    neck_norm: Norm | None = None,
    sample: bool = True,
    pixel_norm: PixelNorm | None = None,
    resize: tuple[int, int] = (800, 1333),
    **backbone_args: Any,
) -> CascadeMaskRCNN:
    """A Cascade Mask R-CNN with random weights.

    Args:
        backbone: name of the backbone, see :func:`pkdzoo.models.backbones.list_backbones`.
        num_classes: C.
        norm: norm of a ResNet; None means ``frozen_bn``, as published. Use ``gn`` or ``bn`` to train from scratch.
        frozen_stages: number of frozen backbone stages; None means as published: the stem and the first stage of a
            ResNet, nothing of a Swin.
        width: channels of the pyramid and the RPN.
        box_width: width of the two layers of the box heads.
        mask_width: channels of the mask heads.
        neck_norm: norm in the pyramid; None means none, as published.
        sample: compute losses on a random sample of anchors and regions, as published; False: on all of them.
        pixel_norm: pixel statistics and channel order of the input; None means ImageNet's statistics in RGB.
        resize: (short, long) side in pixels that images are scaled to.
        backbone_args: further arguments of the backbone.
    """
    variant = FPNVariant("max_pool", start=0)
    parts = build_backbone_fpn(
        variant, backbone, num_classes, norm, frozen_stages, width, neck_norm, pixel_norm, resize, backbone_args
    )
    return CascadeMaskRCNN(
        **parts,
        rpn=RPN(width, width),
        box_head=[BoxHead(width, num_classes, box_width, stds=stds, class_specific=False) for stds in STDS],
        mask_head=[MaskHead(width, num_classes, mask_width) for _ in STDS],
        sample=sample,
    )


X101 = "dcn/cascade_mask_rcnn_x101_32x4d_fpn_dconv_c3-c5_1x_coco"
WEIGHTS: dict[str, list[Weights]] = {
    "cascade_mask_rcnn_x101_32x4d_dcn": [mmdetection("coco_1x", X101, "-e75f90c8", 47.3, mask_AP=41.1)]
}

register_family(
    "cascade_rcnn",
    build,
    {"cascade_mask_rcnn_x101_32x4d_dcn": {"backbone": "x101_32x4d", "deformable": (2, 3, 4)}},
    WEIGHTS,
)
