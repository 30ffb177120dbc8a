"""Mask R-CNN (He et al. 2017, arXiv:1703.06870): Faster R-CNN with masks.

As mmdetection's mask-rcnn_*_fpn_*_coco: four convolutions on the 14x14 features of a region, a transposed convolution
that doubles the resolution, and one mask per class. The assignment of boxes differs from ``faster_rcnn``: an object
also takes the proposals that overlap it most (``low_quality``).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pkdzoo.checkpoints.keymap import Rule
from pkdzoo.checkpoints.mmdet import tower_rules
from pkdzoo.hub.weights import Distilled, Weights
from pkdzoo.layers.norm import Norm
from pkdzoo.layers.towers import Tower
from pkdzoo.models import faster_rcnn
from pkdzoo.models._backbone_fpn import FPNVariant, build_backbone_fpn
from pkdzoo.models._published import FGD_README, MGD_README, PKD_TABLE_3, baidu, mmdetection
from pkdzoo.models._registry import register_distilled, register_family
from pkdzoo.models.rpn import RPN
from pkdzoo.models.trace import LossTrace, Trace
from pkdzoo.models.two_stage import BoxHead, RegionDetector, RoITargets, TwoStageDetector
from pkdzoo.ops.masks import crop_masks
from pkdzoo.ops.reduce import mean_over_ranks
from pkdzoo.structures import Batch, Detections, FeaturePyramid, Instances, PixelNorm, PostProcess
from pkdzoo.utils.precision import float32_or_wider
from pkdzoo.utils.text import counted

if TYPE_CHECKING:
    from typing_extensions import Self

KEY_RULES: list[Rule] = [
    *tower_rules("roi_head.mask_head.convs", "mask_head.tower"),
    (r"roi_head\.mask_head\.upsample\.(.*)", r"mask_head.upsample.\1"),
    (r"roi_head\.mask_head\.conv_logits\.(.*)", r"mask_head.logits.\1"),
    *faster_rcnn.KEY_RULES,
]


class MaskHead(nn.Module):
    """A tower on the pooled features of a region, a transposed convolution that upsamples them by 2, and class logits.

    Args:
        inputs: channels of the pyramid.
        num_classes: C.
        width: channels of the tower.
        depth: convolutions of the tower.
        size: height and width of the pooled features of a region.
    """

    def __init__(self, inputs: int, num_classes: int, width: int = 256, depth: int = 4, size: int = 14) -> None:
        super().__init__()
        self.size = size
        self.tower = Tower(inputs, width, depth)
        self.upsample = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.logits = nn.Conv2d(width, num_classes, 1)
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Features (N, inputs, size, size) and labels (N,) -> float32 logits (N, 2*size, 2*size) of these classes."""
        x, _ = self.tower(x.to(self.logits.weight.dtype))  # pooled in float32 also by a half detector
        logits = self.logits(F.relu(self.upsample(x), inplace=True))
        selected: Tensor = logits[torch.arange(labels.shape[0], device=labels.device), labels]
        return float32_or_wider(selected)


class MaskRCNN(TwoStageDetector):
    """A two-stage, anchor-based detector with masks.

    Args:
        mask_head: predicts the masks.
        kwargs: as :class:`TwoStageDetector`.
    """

    class_layers = ("box_head.cls", "box_head.box", "mask_head.logits")
    key_rules = KEY_RULES

    def __init__(self, *, mask_head: MaskHead, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mask_head = mask_head

    def run_losses(
        self, features: FeaturePyramid, batch: Batch, instances: list[Instances], tap: int | None = None
    ) -> LossTrace[Self]:
        """The losses of Faster R-CNN, after a check of the target masks."""
        check_target_masks(self.name, batch, instances)
        return super().run_losses(features, batch, instances, tap)

    def roi_losses(
        self, features: FeaturePyramid, targets: list[RoITargets], instances: list[Instances]
    ) -> dict[str, Tensor]:
        """Losses of Faster R-CNN, and the mean binary cross entropy of the masks of positive regions."""
        losses = super().roi_losses(features, targets, instances)
        return {**losses, "loss_mask": mask_loss(self, self.mask_head, features, targets, instances)}

    def postprocess(self, trace: Trace[Self], batch: Batch, config: PostProcess | None = None) -> list[Detections]:
        """Boxes as in Faster R-CNN, then a mask for each: ``mask_probabilities`` (N, 28, 28)."""
        detections = super().postprocess(trace, batch, config)
        masks = self.predict_masks(trace.features, detections)
        return [replace(image, mask_probabilities=mask) for image, mask in zip(detections, masks)]

    def predict_masks(self, features: FeaturePyramid, detections: list[Detections]) -> list[Tensor]:
        """Mask probabilities of the detections of each image: (N, 28, 28) on a grid over each box."""
        pooled = self.pool(features, [image.boxes for image in detections], self.mask_head.size)
        logits = self.mask_head(pooled, torch.cat([image.labels for image in detections]))
        return list(torch.split(logits.sigmoid(), [len(image) for image in detections]))


def check_target_masks(name: str, batch: Batch, instances: list[Instances]) -> None:
    """Refuse objects without masks, and masks of another size than their image.

    Args:
        name: of the detector, for the message.
        batch: the images.
        instances: objects of each image.
    """
    for objects, size in zip(instances, batch.sizes):
        if len(objects) and objects.masks is None:
            raise ValueError(
                f"{name} needs target masks: write Instances(boxes, labels, masks=...), "
                "or use a faster_rcnn_* detector for boxes alone"
            )
        if objects.masks is not None and objects.masks.shape != (len(objects), *size):
            raise ValueError(
                f"masks of shape {tuple(objects.masks.shape)} for {counted(len(objects), 'object')} of an image of "
                f"{size[0]} x {size[1]}: write masks as (G, height, width) of the image without padding"
            )


def mask_loss(
    model: RegionDetector,
    head: MaskHead,
    features: FeaturePyramid,
    targets: list[RoITargets],
    instances: list[Instances],
) -> Tensor:
    """The mean binary cross entropy of the masks of positive regions.

    Args:
        model: pools the features.
        head: predicts the masks.
        features: the pyramid.
        targets: sampled regions of each image.
        instances: objects of each image.
    """
    positives = [(t.matched >= 0).nonzero().squeeze(1) for t in targets]
    boxes = [t.boxes[index] for t, index in zip(targets, positives)]
    labels = torch.cat([t.labels[index] for t, index in zip(targets, positives)])
    logits = head(model.pool(features, boxes, head.size), labels)
    target_masks = [
        torch.zeros(0, *logits.shape[1:], dtype=torch.bool, device=logits.device)
        if objects.masks is None
        else crop_masks(objects.masks, b, t.matched[index], logits.shape[-1])
        for objects, b, t, index in zip(instances, boxes, targets, positives)
    ]
    count = mean_over_ranks(logits.new_tensor(float(logits.numel())), least=1)
    return F.binary_cross_entropy_with_logits(logits, torch.cat(target_masks).float(), reduction="sum") / count


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
) -> MaskRCNN:
    """A Mask R-CNN with random weights.

    Args:
        backbone: name of the backbone, see :func:`pkdzoo.models.backbones.list_backbones`.
        num_classes: C.
        norm: norm of a ResNet; None means ``frozen_bn``, as published. Use ``gn`` or ``bn`` to train from scratch.
        frozen_stages: number of frozen backbone stages; None means as published: the stem and the first stage of a
            ResNet, nothing of a Swin.
        width: channels of the pyramid and the RPN.
        box_width: width of the box head's two layers.
        mask_width: channels of the mask head.
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
    return MaskRCNN(
        **shared,
        rpn=RPN(width, width),
        box_head=BoxHead(width, num_classes, box_width),
        mask_head=MaskHead(width, num_classes, mask_width),
        low_quality=0.5,
        sample=sample,
    )


SWIN_S = "mask_rcnn_swin-s-p4-w7_fpn_fp16_ms-crop-3x_coco"
SWIN_T = "mask_rcnn_swin-t-p4-w7_fpn_1x_coco"
WEIGHTS: dict[str, list[Weights]] = {
    "mask_rcnn_r50": [
        mmdetection(
            "coco_2x",
            "mask_rcnn/mask_rcnn_r50_fpn_2x_coco",
            "_bbox_mAP-0.392__segm_mAP-0.354_20200505_003907-3e542a40",
            39.2,
            mask_AP=35.4,
        )
    ],
    "mask_rcnn_swin_t": [
        mmdetection(
            "coco_1x",
            f"swin/{SWIN_T}",
            "_20210902_120937-9d6b7cfa",
            42.7,
            mask_AP=39.3,
            note="PKD's readme links this file as the teacher of its Swin row; the row's numbers are Swin-S's",
        )
    ],
    "mask_rcnn_swin_s": [
        mmdetection(
            "coco_3x",
            f"swin/{SWIN_S}",
            "_20210903_104808-b92c91f1",
            (48.2, 69.8, 52.8, 32.1, 51.8, 62.7),
            finer=PKD_TABLE_3,
            mask_AP=43.2,
        )
    ],
}

register_family(
    "mask_rcnn",
    build,
    {
        "mask_rcnn_r50": {"backbone": "r50"},
        "mask_rcnn_swin_t": {"backbone": "swin_t"},
        "mask_rcnn_swin_s": {"backbone": "swin_s"},
    },
    WEIGHTS,
)

CASCADE = "cascade_mask_rcnn_x101_32x4d_dcn.coco_1x"
register_distilled(
    "mask_rcnn_r50_fgd_cascade",
    Distilled(
        "mask_rcnn_r50",
        CASCADE,
        ("fgd",),
        (47.3, 39.2, 42.1),
        FGD_README,
        "the teacher's AP is mmdetection's; mask AP 41.1, 35.4 and 37.8",
    ),
    [baidu("coco_2x", "101eOFcD8JDwqrFuYcxcBIA?pwd=sv8m", FGD_README, {"AP": 42.1, "mask_AP": 37.8})],
)
register_distilled(
    "mask_rcnn_r50_mgd_cascade",
    Distilled(
        "mask_rcnn_r50",
        CASCADE,
        ("mgd",),
        source=MGD_README,
        note="only mask AP is printed: 35.4 alone, 38.1 distilled; the teacher has 41.1 in mmdetection's zoo",
    ),
    [baidu("coco_2x", "1B4Bcw6S_sy882SMK2bp7uw?pwd=a7xf", MGD_README, {"mask_AP": 38.1})],
)
