"""TOOD: task-aligned one-stage object detection (Feng et al. 2021, arXiv:2108.07755).

As mmdetection's tood_*_fpn_*_coco, anchor-free: six convolutions shared by both tasks, and for each task a layer
attention that mixes their maps. Class scores are the geometric mean of two probabilities. Each of the four sides of a
box is sampled at a learned offset from the location. Training starts with ATSS' assignment and focal loss and switches
to task-aligned assignment and loss at epoch 4: call ``set_epoch``. A new detector is in the late phase.

The head's class outputs are probabilities, its box outputs corners in strides. Boxes are clipped after NMS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pkdzoo.checkpoints.keymap import Rule
from pkdzoo.checkpoints.mmdet import BODY_RULES, tower_rules
from pkdzoo.hub.weights import Weights
from pkdzoo.layers.conv import ConvBlock, Scale, init_class_bias, init_convs
from pkdzoo.layers.deform import sampled_conv
from pkdzoo.layers.norm import Norm
from pkdzoo.layers.towers import Tower
from pkdzoo.losses import focal_of_probabilities, giou_loss, quality_focal_of_probabilities
from pkdzoo.models._backbone_fpn import FPNVariant, build_backbone_fpn
from pkdzoo.models._published import PKD_TABLE_2, mmdetection
from pkdzoo.models._registry import register_family
from pkdzoo.models._tiny import TINY_DENSE
from pkdzoo.models.assigners.atss import atss_targets
from pkdzoo.models.assigners.dense import targets_from
from pkdzoo.models.assigners.fcos import centerness
from pkdzoo.models.assigners.task_aligned import match_task_aligned
from pkdzoo.models.dense import DenseDetector
from pkdzoo.models.trace import Taps
from pkdzoo.ops.boxes import encode_distances
from pkdzoo.ops.priors import base_anchors
from pkdzoo.ops.reduce import mean_over_ranks
from pkdzoo.structures import DenseTargets, HeadOutputs, Instances, PixelNorm, PostProcess, Priors
from pkdzoo.utils.precision import float32_or_wider

KEY_RULES: list[Rule] = [
    *tower_rules("bbox_head.inter_convs", "head.shared"),
    (r"bbox_head\.(cls|reg)_decomp\.layer_attention\.(\d)\.(.*)", r"head.\1_mix.attention.\2.\3"),
    (r"bbox_head\.(cls|reg)_decomp\.reduction_conv\.conv\.(.*)", r"head.\1_mix.reduce.conv.\2"),
    (r"bbox_head\.(cls|reg)_decomp\.reduction_conv\.(?:gn|bn)\.(.*)", r"head.\1_mix.reduce.norm.\2"),
    (r"bbox_head\.cls_prob_module\.(.*)", r"head.agreement.\1"),
    (r"bbox_head\.reg_offset_module\.(.*)", r"head.aside.\1"),
    (r"bbox_head\.tood_cls\.(.*)", r"head.cls.\1"),
    (r"bbox_head\.tood_reg\.(.*)", r"head.box.\1"),
    (r"bbox_head\.scales\.(\d+)\.scale", r"head.scales.\1.scale"),
    *BODY_RULES,
]

EARLY_EPOCHS = 4


class TaskMix(nn.Module):
    """Task decomposition: a layer attention over the shared maps, which scales the weights of a 1x1 convolution.

    Args:
        width: channels of each shared map.
        layers: number of shared maps.
        norm: norm after the convolution.
    """

    def __init__(self, width: int, layers: int, norm: Norm | None) -> None:
        super().__init__()
        self.width, self.layers = width, layers
        squeezed = max(1, width // 8)
        self.attention = nn.Sequential(
            nn.Conv2d(width * layers, squeezed, 1), nn.ReLU(inplace=True), nn.Conv2d(squeezed, layers, 1)
        )
        self.reduce = ConvBlock(width * layers, width, kernel=1, norm=norm)
        init_convs(self.attention, std=0.001)
        init_convs(self.reduce)

    def forward(self, maps: Tensor, mean: Tensor) -> Tensor:
        """Maps (B, layers*width, h, w) and their mean over locations (B, layers*width, 1, 1) -> (B, width, h, w)."""
        share = self.attention(mean).sigmoid().view(-1, 1, self.layers, 1)
        # scaling the weights needs far less memory than scaling the maps
        weight = share * self.reduce.conv.weight.view(1, self.width, self.layers, self.width)
        mixed = torch.bmm(weight.flatten(2), maps.flatten(2)).view(-1, self.width, *maps.shape[-2:])
        if self.reduce.conv.bias is not None:
            mixed = mixed + self.reduce.conv.bias[:, None, None]
        return F.relu(self.reduce.norm(mixed), inplace=True)


class TOODHead(nn.Module):
    """Class probabilities and box corners in strides, for every location.

    Args:
        inputs: channels of the pyramid.
        num_classes: C.
        levels: number of pyramid levels.
        width: channels of the shared convolutions.
        depth: number of shared convolutions.
        norm: norm in the head.
    """

    def __init__(
        self, inputs: int, num_classes: int, levels: int, width: int = 256, depth: int = 6, norm: Norm | None = "gn"
    ) -> None:
        super().__init__()
        self.shared = Tower(inputs, width, depth, norm)
        self.cls_mix = TaskMix(width, depth, norm)
        self.reg_mix = TaskMix(width, depth, norm)
        self.cls = nn.Conv2d(width, num_classes, 3, padding=1)
        self.box = nn.Conv2d(width, 4, 3, padding=1)
        self.agreement = self._side_branch(width * depth, width // 4, 1)
        self.aside = self._side_branch(width * depth, width // 4, 2 * 4)
        self.scales = nn.ModuleList(Scale() for _ in range(levels))
        for part in (self.shared, self.cls, self.box, self.agreement):
            init_convs(part)
        init_convs(self.aside, std=0.001)
        init_class_bias(self.cls)
        init_class_bias(self.agreement[2])

    @staticmethod
    def _side_branch(inputs: int, width: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(inputs, width, 1), nn.ReLU(inplace=True), nn.Conv2d(width, outputs, 3, padding=1)
        )

    def forward(self, features: Sequence[Tensor], tap: int | None = None) -> tuple[HeadOutputs, Taps | None]:
        """The head's outputs for a pyramid; ``tap`` must be None."""
        if tap is not None:
            raise ValueError("TOOD's tasks share their convolutions: there are no towers to tap, write tap=None")
        levels = [self.level(x, scale) for x, scale in zip(features, self.scales, strict=True)]
        return HeadOutputs([cls for cls, _ in levels], [box for _, box in levels]), None

    def level(self, x: Tensor, scale: nn.Module) -> tuple[Tensor, Tensor]:
        """One level (B, inputs, h, w) -> (B, C, h, w) in 0..1 and (B, 4, h, w) corners in strides."""
        shared = []
        for block in self.shared.blocks:
            x = F.relu(block(x), inplace=True)
            shared.append(x)
        maps = torch.cat(shared, dim=1)
        mean = maps.mean(dim=(2, 3), keepdim=True)
        logits = float32_or_wider(self.cls(self.cls_mix(maps, mean)))
        agreement = float32_or_wider(self.agreement(maps))
        # the geometric mean of both probabilities, in log space: its gradient stays finite for tiny probabilities
        cls = ((F.logsigmoid(logits) + F.logsigmoid(agreement)) / 2).exp()
        undeformed = corners(scale(float32_or_wider(self.box(self.reg_mix(maps, mean))).exp()))
        box = sampled_conv(undeformed, self.aside(maps), undeformed.new_ones(4, 1, 1, 1))
        # where the corners are in the wrong order the offsets are ignored
        crossed = (box[:, :2] > box[:, 2:]).any(dim=1, keepdim=True)
        return cls, torch.where(crossed, undeformed, box)


def corners(distances: Tensor) -> Tensor:
    """(B, 4, h, w) distances to left, top, right and bottom in strides -> corners x1, y1, x2, y2 in strides."""
    h, w = distances.shape[-2:]
    x = torch.arange(w, device=distances.device, dtype=distances.dtype).expand(h, w)
    y = torch.arange(h, device=distances.device, dtype=distances.dtype)[:, None].expand(h, w)
    location = torch.stack([x, y])
    return torch.cat([location - distances[:, :2], location + distances[:, 2:]], dim=1)


class TOOD(DenseDetector):
    """A one-stage detector with task-aligned assignment."""

    class_layers = ("head.cls",)
    class_logits = False
    key_rules = KEY_RULES
    clip_before_nms = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.early = False

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, counted from 0; the first four use ATSS' assignment."""
        self.early = epoch < EARLY_EPOCHS

    def assign(self, outputs: HeadOutputs, priors: Priors, instances: list[Instances], valid: Tensor) -> DenseTargets:
        """Early: ATSS with centerness as the quality; late: by alignment. ``num_pos`` is the sum of class targets."""
        if self.early:
            targets = atss_targets(priors, instances, valid, self.num_classes)
            image, prior = self.positives(targets)
            distances = encode_distances(targets.boxes[image, prior], priors.centers[prior])
            targets.quality = torch.zeros_like(targets.labels, dtype=targets.boxes.dtype)
            targets.quality[image, prior] = centerness(distances)
            count = torch.tensor(float(len(prior)), device=valid.device)
            return replace(targets, num_pos=mean_over_ranks(count, least=1))
        cls, box = (rows.detach() for rows in self.flat(outputs))
        predicted, points = self.decode(box, priors), priors.centers
        quality = cls.new_zeros(valid.shape)

        def match(image: int, valid_index: Tensor, objects: Instances) -> Tensor:
            matched, quality[image, valid_index] = match_task_aligned(
                points[valid_index],
                cls[image, valid_index],
                predicted[image, valid_index],
                objects.boxes,
                objects.labels,
            )
            return matched

        targets = targets_from(match, instances, valid, self.num_classes)
        return replace(targets, quality=quality, num_pos=mean_over_ranks(quality.sum(), least=1))

    def loss(self, outputs: HeadOutputs, priors: Priors, targets: DenseTargets) -> dict[str, Tensor]:
        cls, box = self.flat(outputs)
        image, prior = self.positives(targets)
        weight = targets.quality[image, prior]
        per_box = giou_loss(self.decode(box[image, prior], priors.take(prior)), targets.boxes[image, prior])
        cls_loss = (
            focal_of_probabilities(cls, targets.labels)
            if self.early
            else quality_focal_of_probabilities(cls, targets.labels, targets.quality)
        )
        return {
            "loss_cls": cls_loss / targets.num_pos,
            "loss_box": 2.0 * (per_box * weight).sum() / mean_over_ranks(weight.sum(), least=1),
        }

    def decode(self, box: Tensor, priors: Priors) -> Tensor:
        return box * priors.strides[..., None]


def build(
    backbone: str = "r50",
    num_classes: int = 80,
    norm: Norm | None = None,
    frozen_stages: int | None = None,
    width: int = 256,
    depth: int = 6,
    neck_norm: Norm | None = None,
    head_norm: Norm | None = "gn",
    pixel_norm: PixelNorm | None = None,
    resize: tuple[int, int] = (800, 1333),
    **backbone_args: Any,
) -> TOOD:
    """A TOOD with random weights.

    Args:
        backbone: name of the backbone, see :func:`pkdzoo.models.backbones.list_backbones`.
        num_classes: C.
        norm: norm of a ResNet; None means ``frozen_bn``, as published. Use ``gn`` or ``bn`` to train from scratch.
        frozen_stages: number of frozen backbone stages; None means as published: the stem and the first stage of a
            ResNet, nothing of a Swin.
        width: channels of the pyramid and the head.
        depth: number of shared convolutions.
        neck_norm: norm in the pyramid; None means none, as published.
        head_norm: norm in the head.
        pixel_norm: pixel statistics and channel order of the input; None means ImageNet's statistics in RGB.
        resize: (short, long) side in pixels that images are scaled to.
        backbone_args: further arguments of the backbone.
    """
    variant = FPNVariant("on_output")
    shared = build_backbone_fpn(
        variant, backbone, num_classes, norm, frozen_stages, width, neck_norm, pixel_norm, resize, backbone_args
    )
    strides = shared["neck"].strides
    return TOOD(
        **shared,
        head=TOODHead(width, num_classes, len(strides), width, depth, head_norm),
        base_anchors=[base_anchors(stride, (8.0,), (1.0,)) for stride in strides],
        offset=0.0,
        postprocess_config=PostProcess(nms_threshold=0.6),
    )


WEIGHTS: dict[str, list[Weights]] = {
    "tood_r50": [
        mmdetection(
            "coco_1x",
            "tood/tood_r50_fpn_1x_coco",
            "_20211210_103425-20e20746",
            (42.4, 59.7, 46.2, 25.4, 45.5, 55.7),
            finer=PKD_TABLE_2,
        )
    ],
    "tood_x101_64x4d": [
        mmdetection(
            "coco_ms2x",
            "tood/tood_x101_64x4d_fpn_mstrain_2x_coco",
            "_20211211_003519-a4f36113",
            (47.6, 68.5, 51.6, 30.6, 51.4, 59.7),
            finer=PKD_TABLE_2,
        )
    ],
}

register_family(
    "tood",
    build,
    {
        "tood_r50": {"backbone": "r50"},
        "tood_x101_64x4d": {"backbone": "x101_64x4d"},
        "tood_r10w16": TINY_DENSE,
    },
    WEIGHTS,
)
