"""RTMDet: an empirical study of designing real-time object detectors (Lyu et al. 2022, arXiv:2212.07784).

CSPNeXt, a path aggregation pyramid of three levels, and two towers of two convolutions whose weights all levels share
while each level has its own norms. The prior of a location is its top left corner. A location predicts its distances
to the four sides of a box; the class score is trained to be the IoU of the predicted box. Targets depend on
predictions, see :mod:`pkdzoo.models.assigners.dynamic_soft_label`. Batch norms train.

There are two dialects of one network, and the same weights give other boxes in each; see "RTMDet's two dialects" in
docs/zoo.md. mmdetection's: exponential distances in m, l and x, and priors in the padding do not count. MMYOLO's: never
exponential, all priors count, at most 30,000 candidates of all levels together, boxes clipped after NMS.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pkdzoo.checkpoints.cspnext import MMYOLO_PREFIX, RTMDET_RULES
from pkdzoo.layers.conv import init_class_bias, init_convs
from pkdzoo.layers.csp import scaled_depth
from pkdzoo.layers.norm import Norm, make_norm
from pkdzoo.losses import giou_loss, quality_focal
from pkdzoo.models._measured_students import DEEPPCB_PAIR, DEEPPCB_STUDENT
from pkdzoo.models._registry import register_distilled, register_family
from pkdzoo.models._rtmdet_weights import PAIRS, WEIGHTS
from pkdzoo.models.assigners.dynamic_soft_label import DIALECTS, Dialect, match_dynamic_soft_label
from pkdzoo.models.backbones import build_backbone
from pkdzoo.models.backbones.cspnext import BGR
from pkdzoo.models.dense import DenseDetector
from pkdzoo.models.necks.pafpn import CSPNeXtPAFPN
from pkdzoo.models.trace import Taps
from pkdzoo.ops.boxes import decode_distances
from pkdzoo.ops.priors import point_base_anchors
from pkdzoo.ops.reduce import mean_over_ranks
from pkdzoo.structures import IGNORE, DenseTargets, HeadOutputs, Instances, Letterbox, PixelNorm, PostProcess, Priors
from pkdzoo.utils.precision import float32_or_wider

LETTERBOXES: dict[Dialect, Letterbox] = {
    "mmdetection": Letterbox(),
    "mmyolo": Letterbox(place="center", rounding="down", shrink="area", clip="image"),
}


class SharedConv(nn.Module):
    """A 3x3 convolution shared by all levels, with a norm per level and SiLU."""

    def __init__(self, inputs: int, outputs: int, levels: int, norm: Norm) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(make_norm(norm, outputs) for _ in range(levels))

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """One map of each level."""
        return [F.silu(norm(self.conv(x)), inplace=True) for norm, x in zip(self.norms, levels, strict=True)]


class RTMDetHead(nn.Module):
    """Class logits, and distances (left, top, right, bottom), for every location.

    Args:
        inputs: channels of the pyramid.
        num_classes: C.
        strides: of the levels, in pixels.
        width: channels of the towers.
        depth: convolutions of each tower.
        norm: norm of the towers.
        exponential: the last layer predicts logarithms of distances; False: the distances themselves, which may be
            negative.
        in_pixels: the distances are returned in pixels, as mmdetection's head does; False: in strides, as MMYOLO's.
    """

    def __init__(
        self,
        inputs: int,
        num_classes: int,
        strides: Sequence[int],
        width: int,
        depth: int = 2,
        norm: Norm = "bn",
        exponential: bool = False,
        in_pixels: bool = True,
    ) -> None:
        super().__init__()
        self.strides, self.exponential, self.in_pixels = tuple(strides), exponential, in_pixels
        count = len(self.strides)
        self.cls_tower = nn.ModuleList(SharedConv(width if i else inputs, width, count, norm) for i in range(depth))
        self.reg_tower = nn.ModuleList(SharedConv(width if i else inputs, width, count, norm) for i in range(depth))
        self.cls = nn.ModuleList(nn.Conv2d(width, num_classes, 1) for _ in range(count))
        self.box = nn.ModuleList(nn.Conv2d(width, 4, 1) for _ in range(count))
        init_convs(self)
        for layer in self.cls:
            init_class_bias(layer)

    def forward(self, features: Sequence[Tensor], tap: int | None = None) -> tuple[HeadOutputs, Taps | None]:
        """The head's outputs for a pyramid; ``tap`` must be None."""
        if tap is not None:
            raise ValueError("RTMDet's towers have norms of their own for each level: write tap=None")
        cls, reg = list(features), list(features)
        for cls_block, reg_block in zip(self.cls_tower, self.reg_tower, strict=True):
            cls, reg = cls_block(cls), reg_block(reg)
        raw = [float32_or_wider(layer(x)) for layer, x in zip(self.box, reg, strict=True)]
        units = self.strides if self.in_pixels else (1,) * len(raw)
        distances = [(x.exp() if self.exponential else x) * unit for x, unit in zip(raw, units)]
        return HeadOutputs([layer(x) for layer, x in zip(self.cls, cls, strict=True)], distances), None


class RTMDet(DenseDetector):
    """A one-stage detector with one prior per location, and targets by the cost of the predictions.

    Args:
        dialect: ``mmdetection`` or ``mmyolo``.
        published_exponential: whether mmdetection's weights of this size hold logarithms of distances.
        kwargs: see :class:`pkdzoo.models.dense.DenseDetector`.

    Attributes:
        dialect: the rules of assignment and post-processing.
    """

    key_rules = RTMDET_RULES

    head: RTMDetHead

    def __init__(self, *, dialect: Dialect = "mmdetection", published_exponential: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if dialect not in DIALECTS:
            raise ValueError(f"dialect={dialect!r}: write one of {', '.join(map(repr, DIALECTS))}")
        self.dialect: Dialect = dialect
        self.published_exponential = published_exponential
        self.clip_before_nms = dialect == "mmdetection"
        self.top_k_of_all_levels = self.keeps_empty_boxes = dialect == "mmyolo"
        self.class_layers = tuple(f"head.cls.{i}" for i in range(len(self.base_anchors)))

    def assign(self, outputs: HeadOutputs, priors: Priors, instances: list[Instances], valid: Tensor) -> DenseTargets:
        """Targets whose ``quality`` is the IoU with the matched object; ``num_pos`` is the sum of these IoUs."""
        cls, box = self.flat(outputs)
        cls, predicted = cls.detach(), self.decode(box.detach(), priors)
        labels = torch.full(valid.shape, IGNORE, device=valid.device)
        matched = torch.full(valid.shape, -1, device=valid.device)
        boxes, quality = torch.zeros_like(predicted), torch.zeros_like(predicted[..., 0])
        for i, objects in enumerate(instances):
            counted = valid[i] if self.dialect == "mmdetection" else torch.ones_like(valid[i])
            index = counted.nonzero().squeeze(1)
            own = priors.take(index)
            match, overlap = match_dynamic_soft_label(
                own.centers,
                own.strides,
                cls[i, index],
                predicted[i, index],
                objects.boxes.to(predicted.dtype),
                objects.labels,
                self.dialect,
            )
            matched[i, index], quality[i, index], labels[i, index] = match, overlap, self.num_classes
            if len(objects):
                positive = match >= 0
                labels[i, index[positive]] = objects.labels[match[positive]]
                boxes[i, index[positive]] = objects.boxes[match[positive]].to(boxes.dtype)
        return DenseTargets(labels, boxes, quality, mean_over_ranks(quality.sum(), least=1), matched)

    def loss(self, outputs: HeadOutputs, priors: Priors, targets: DenseTargets) -> dict[str, Tensor]:
        cls, box = self.flat(outputs)
        image, prior = self.positives(targets)
        boxes = self.decode(box[image, prior], priors.take(prior))
        per_box = giou_loss(boxes, targets.boxes[image, prior]) * targets.quality[image, prior]
        return {
            "loss_cls": quality_focal(cls, targets.labels, targets.quality) / targets.num_pos,
            "loss_box": 2.0 * per_box.sum() / targets.num_pos,
        }

    def check_layout(self, state: Mapping[str, Tensor]) -> None:
        """Check that weights are of this dialect, as far as their keys tell it.

        With weights of the other dialect m, l and x would give wrong boxes without an error. Keys of pkdzoo do not
        tell the dialect.

        Raises:
            ValueError: for MMYOLO's keys in a detector with exponential distances.
        """
        from_mmyolo = any(key.startswith(MMYOLO_PREFIX) for key in state)
        if from_mmyolo and self.head.exponential:
            raise ValueError(
                f"these weights have MMYOLO's keys, and {self.name} decodes distances as mmdetection does, which gives "
                f"wrong boxes with them: write create_detector({self.name.removesuffix('_yolo') + '_yolo'!r}), or "
                "dialect='mmyolo'"
            )
        from_mmdetection = any(key.startswith("bbox_head.") for key in state) and not from_mmyolo
        if from_mmdetection and self.published_exponential and self.dialect == "mmyolo":
            warnings.warn(
                f"these weights have mmdetection's keys. If mmdetection trained them, {self.name} gives wrong boxes "
                "with them, because only mmdetection's dialect predicts logarithms of distances in this size: write "
                f"create_detector({self.name.removesuffix('_yolo')!r}), or dialect='mmdetection'",
                stacklevel=4,
            )

    def decode(self, box: Tensor, priors: Priors) -> Tensor:
        distances = box if self.dialect == "mmdetection" else box * priors.strides[..., None]
        return decode_distances(distances, priors.centers)


def check_factors(dialect: str, width: float, depth: float) -> None:
    """Raise ValueError for an unknown dialect and for numbers that are no factors."""
    if dialect not in DIALECTS:
        raise ValueError(f"dialect={dialect!r}: write one of {', '.join(map(repr, DIALECTS))}")
    if width <= 0 or depth <= 0 or width > 8:
        raise ValueError(f"width={width}, depth={depth}: these are factors, e.g. width=0.5 for 128 channels")


def build(
    backbone: str = "cspnext_s",
    num_classes: int = 80,
    width: float = 0.5,
    depth: float = 0.33,
    dialect: Dialect = "mmdetection",
    exponential: bool = False,
    norm: Norm | None = None,
    frozen_stages: int | None = None,
    letterbox: Letterbox | None = None,
    pixel_norm: PixelNorm | None = None,
    resize: tuple[int, int] = (640, 640),
    **backbone_args: Any,
) -> RTMDet:
    """An RTMDet with random weights.

    Args:
        backbone: name of the backbone, see :func:`pkdzoo.models.backbones.list_backbones`; of a backbone other than
            CSPNeXt the maps of stride 8 to 32 are used.
        num_classes: C.
        width: factor of all channels: 256 in pyramid and head, 64 to 1024 in CSPNeXt. 0.125 makes a tiny detector.
        depth: factor of the numbers of blocks: 3 in each layer of the pyramid, 3, 6, 6, 3 in CSPNeXt.
        dialect: ``mmdetection`` or ``mmyolo``; decides assignment, post-processing and the default letterbox.
        exponential: mmdetection's m, l and x: the head predicts logarithms of distances. Without effect in MMYOLO's
            dialect, which never does.
        norm: norm of backbone, pyramid and head; None means ``bn``, as published (in a ResNet ``frozen_bn``). Use
            ``gn`` to train with few images per step.
        frozen_stages: number of frozen backbone stages; None means none in CSPNeXt, as published.
        letterbox: how images are fitted onto a square canvas; None means as published in the dialect.
        pixel_norm: pixel statistics and channel order of the input; None means ImageNet's statistics in BGR.
        resize: two times the side of the canvas in pixels, a multiple of 32.
        backbone_args: further arguments of the backbone.
    """
    check_factors(dialect, width, depth)
    if backbone.startswith("cspnext"):
        backbone_args = {"widen_factor": width, "deepen_factor": depth, **backbone_args}
    network = build_backbone(backbone, norm=norm, frozen_stages=frozen_stages, **backbone_args)
    channels, norm = int(256 * width), norm or "bn"
    neck = CSPNeXtPAFPN(network.channels, network.strides, channels, 1, scaled_depth(3, depth), norm)
    theirs = dialect == "mmdetection"
    head = RTMDetHead(channels, num_classes, neck.strides, channels, 2, norm, exponential and theirs, theirs)
    return RTMDet(
        backbone=network,
        neck=neck,
        head=head,
        dialect=dialect,
        published_exponential=exponential,
        base_anchors=point_base_anchors(neck.strides),
        offset=0.0,
        num_classes=num_classes,
        pixel_norm=pixel_norm or BGR,
        postprocess_config=PostProcess(0.001, 30_000, 0.65, 300),
        resize=resize,
        letterbox=letterbox or LETTERBOXES[dialect],
    )


# w12 is half as wide as tiny: its stem has 12 channels. It has no published weights; recipes/experiments/ trains it.
SIZES: dict[str, dict[str, Any]] = {
    "w12": {"backbone": "cspnext_tiny", "width": 0.1875, "depth": 0.167, "pixel_norm": BGR},
    "tiny": {"backbone": "cspnext_tiny", "width": 0.375, "depth": 0.167, "pixel_norm": BGR},
    "s": {"backbone": "cspnext_s", "width": 0.5, "depth": 0.33, "pixel_norm": BGR},
    "m": {"backbone": "cspnext_m", "width": 0.75, "depth": 0.67, "exponential": True, "pixel_norm": BGR},
    "l": {"backbone": "cspnext_l", "width": 1.0, "depth": 1.0, "exponential": True, "pixel_norm": BGR},
    "x": {"backbone": "cspnext_x", "width": 1.25, "depth": 1.33, "exponential": True, "pixel_norm": BGR},
}

register_family(
    "rtmdet",
    build,
    {
        **{f"rtmdet_{size}": args for size, args in SIZES.items()},
        **{f"rtmdet_{size}_yolo": {**args, "dialect": "mmyolo"} for size, args in SIZES.items() if size != "w12"},
    },
    WEIGHTS,
)

for name, (pair, row) in PAIRS.items():
    register_distilled(name, pair, [row])

register_distilled("rtmdet_w12_norm_cwd_tiny_640", DEEPPCB_PAIR, [DEEPPCB_STUDENT], resize=(640, 640), num_classes=6)
