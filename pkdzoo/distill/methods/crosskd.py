"""CrossKD: cross-head knowledge distillation for object detection (Wang et al. 2023, arXiv:2306.11369).

The student's tower maps are sent, from the middle on, through the teacher's remaining blocks and predictors; these
"reused" predictions learn from the teacher's own. The student's own predictions see the ground truth alone, so the
two targets do not compete for one output. Gradient passes the teacher's frozen convolutions and reaches the student's
first blocks, its pyramid and its backbone.

Facts of the released code that the paper does not show, and that are the defaults here:

- Maps are taken after their ReLU (``hold="post"``): the code stores them before it, but its ReLU works in place.
  ``"pre"`` is probably what the authors intended.
- They are aligned: each channel gets the teacher's mean and deviation over the batch.
- Which block, which losses, which normalizer differ by family, see ``PUBLISHED``. FCOS does not distill its centerness.
- Each prior is weighted with the teacher's best class score; ignored priors have weight 0.
- The normalizers are means over processes (there RetinaNet's and the distributions' are local to each process).

The published CrossKD + PKD is ``{"crosskd": {}, "pkd": {"weight": w, "levels": 5}}`` with w = 2 for RetinaNet and FCOS,
6 for GFL, 1 for ATSS. The published RetinaNet students take P6 from P5 (``extra="on_output"``), their teachers do not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from pkdzoo.distill.base import DistillMethod, by_family, priors_per_location, require_same_classes
from pkdzoo.distill.pairing import check_choice, shape_of
from pkdzoo.losses import distilled_quality_focal, giou_loss, iou_log_loss, kl_divergence
from pkdzoo.losses.correlation import center_channels, inverse_std
from pkdzoo.models.dense import DenseDetector, TowerHead
from pkdzoo.models.detector import Detector
from pkdzoo.models.trace import Depth, HeadTrace, LossTrace, Taps
from pkdzoo.ops.levels import flatten_levels
from pkdzoo.ops.reduce import mean_over_ranks
from pkdzoo.structures import IGNORE, Batch, HeadOutputs
from pkdzoo.utils.precision import float32_or_wider

BoxLoss = Literal["giou", "iou_log", "distribution"]
Hold = Literal["post", "pre"]
TINY = float(torch.finfo(torch.float32).eps)


@dataclass(frozen=True)
class Settings:
    """Published settings of one family.

    Attributes:
        block: the block, of the four of every published tower, whose maps the teacher's head continues.
        cls: weight of the class loss.
        box: weight of the box loss.
        quality: weight of the centerness loss; None: not distilled.
        box_loss: ``giou`` or ``iou_log`` of decoded boxes, or KL of the sides' ``distribution``.
        by_quality: divide by the sum of the quality targets, not by the number of positives.
    """

    block: int = 3
    cls: float = 1.0
    box: float = 1.0
    quality: float | None = None
    box_loss: BoxLoss = "giou"
    by_quality: bool = False


# Families that are not listed are treated as RetinaNet.
PUBLISHED: dict[str, Settings] = {
    "RetinaNet": Settings(),
    "GFL": Settings(box=4.0, box_loss="distribution"),
    "ATSS": Settings(quality=1.0),
    "FCOS": Settings(block=2, cls=0.4, box=0.75, box_loss="iou_log", by_quality=True),
}
UNSUPPORTED = {"RepPoints": "its class branch depends on its box branch, so the towers cannot be continued separately"}


class CrossKD(DistillMethod):
    """Distill through the teacher's own head.

    Args:
        student: one-stage detector with towers.
        teacher: of the same kind: equal strides, priors, classes and tower width.
        block: the block of the towers, counted from 1, whose maps the teacher's head continues; 0 means the pyramid.
            None: as published for the family, in proportion to the depth of the towers.
        cls_weight: None: as published for the family; likewise the next two.
        box_weight: likewise.
        quality_weight: 0 leaves it out.
        hold: take the maps after (``post``) or before (``pre``) their ReLU.
        sync: statistics of the alignment over all processes; in published runs they are local to each process.

    Raises:
        ValueError: for detectors without towers, and for pairs whose heads do not fit.
    """

    teacher_depth: Depth = "head"

    def __init__(
        self,
        student: Detector,
        teacher: Detector,
        block: int | None = None,
        cls_weight: float | None = None,
        box_weight: float | None = None,
        quality_weight: float | None = None,
        hold: Hold = "post",
        sync: bool = False,
    ) -> None:
        super().__init__()
        check_choice("hold", hold, ("post", "pre"))
        head = check_heads(student, teacher)
        settings = by_family(PUBLISHED, student, Settings())
        self.settings = replace(
            settings,
            cls=settings.cls if cls_weight is None else cls_weight,
            box=settings.box if box_weight is None else box_weight,
            quality=settings.quality if quality_weight is None else quality_weight,
        )
        if self.settings.quality and not hasattr(head, "quality"):
            raise ValueError(f"quality_weight={quality_weight}: {type(head).__name__} predicts no centerness")
        after = settings.block * head.depth // 4 if block is None else block
        if not 0 <= after <= head.depth:
            raise ValueError(f"block={block}: the towers have {head.depth} blocks, and 0 means the pyramid")
        self.tap = after
        self.hold, self.sync = hold, sync

    def forward(
        self, student: LossTrace[DenseDetector], teacher: HeadTrace[DenseDetector], batch: Batch
    ) -> dict[str, Tensor]:
        reused = tower_head(teacher.model, "teacher").resume(self.aligned_taps(student.taps, teacher.taps))
        valid = (student.targets.labels != IGNORE).float()  # (B, P)
        cls, box = student.model.flat(reused)
        teacher_cls, teacher_box = student.model.flat(teacher.outputs)
        weights = teacher_cls.sigmoid().amax(dim=-1) * valid  # the teacher's best score of each prior
        total = self.normalizer(student)
        cls_loss = distilled_quality_focal(cls, teacher_cls, valid)
        losses = {
            "loss_crosskd_cls": self.settings.cls * cls_loss / total,
            "loss_crosskd_box": self.settings.box * self.box_loss(student, box, teacher, teacher_box, weights, total),
        }
        if self.settings.quality:
            losses["loss_crosskd_centerness"] = self.settings.quality * _quality_loss(student, reused, teacher) / total
        return losses

    def aligned_taps(self, student: Taps, teacher: Taps) -> Taps:
        """The student's maps with the teacher's mean and deviation in every channel."""
        cls = [self.align(s, t) for s, t in zip(student.cls, teacher.cls, strict=True)]
        reg = [self.align(s, t) for s, t in zip(student.reg, teacher.reg, strict=True)]
        return Taps(cls, reg, student.after)

    def align(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The student's map (B, C, h, w) with the teacher's statistics; both come before their ReLU, as taps do."""
        if self.hold == "post" and self.tap:
            student, teacher = F.relu(student), F.relu(teacher)
        centered, _, std = center_channels(student, self.sync)
        _, teacher_mean, teacher_std = center_channels(teacher.detach(), self.sync)
        aligned = centered * inverse_std(std) * teacher_std + teacher_mean
        return aligned.to(student.dtype)

    def normalizer(self, student: LossTrace[DenseDetector]) -> Tensor:
        """The divisor of class and box losses."""
        if not self.settings.by_quality:
            return student.targets.num_pos + TINY
        return mean_over_ranks(student.targets.quality.sum(), least=1e-6) + TINY

    def box_loss(
        self,
        student: HeadTrace[DenseDetector],
        reused: Tensor,
        teacher: HeadTrace[DenseDetector],
        own: Tensor,
        weights: Tensor,
        total: Tensor,
    ) -> Tensor:
        """Loss between reused and own box outputs of the teacher's head.

        Args:
            student: the student's pass; boxes are decoded with its priors.
            reused: (B, P, D).
            teacher: the teacher's pass.
            own: (B, P, D).
            weights: (B, P).
            total: normalizer of decoded boxes.
        """
        if self.settings.box_loss == "distribution":
            reused, own = (x.reshape(*x.shape[:-1], 4, -1) for x in (reused, own))
            per_prior = kl_divergence(reused, own).mean(dim=-1)
            return (per_prior * weights).sum() / mean_over_ranks(weights.sum(), least=1e-12)
        function = giou_loss if self.settings.box_loss == "giou" else iou_log_loss
        boxes, own_boxes = (teacher.model.decode(x, student.priors) for x in (reused, own))
        return (function(boxes, own_boxes) * weights).sum() / total

    def extra_repr(self) -> str:
        return f"block={self.tap}, hold={self.hold}, {self.settings}"


def _quality_loss(student: LossTrace[DenseDetector], reused: HeadOutputs, teacher: HeadTrace[DenseDetector]) -> Tensor:
    """Cross entropy of the reused centerness with the teacher's own, summed over the positives."""
    at = student.model.positives(student.targets)
    if not teacher.outputs.quality:
        raise ValueError("crosskd distills centerness, and the teacher predicts none: write quality_weight=0")
    maps = reused.quality, teacher.outputs.quality
    logits, teacher_logits = (float32_or_wider(flatten_levels(x, 1)[..., 0])[at] for x in maps)
    return F.binary_cross_entropy_with_logits(logits, teacher_logits.sigmoid(), reduction="sum")


def tower_head(model: Detector, role: str) -> TowerHead:
    """The head of a detector.

    Args:
        model: the detector.
        role: ``student`` or ``teacher``, for the error message.

    Raises:
        ValueError: when it has no towers whose maps another head could continue.
    """
    if not isinstance(model, DenseDetector) or not isinstance(model.head, TowerHead):
        raise ValueError(
            f"crosskd continues maps inside two towers of blocks, and the {role} {model.name} has none: it works "
            "between two detectors of one of the families retina, fcos, gfl and atss"
        )
    reason = by_family(UNSUPPORTED, model, "")
    if reason:
        raise ValueError(f"crosskd cannot continue maps inside {model.name}: {reason}")
    return model.head


def check_heads(student: Detector, teacher: Detector) -> TowerHead:
    """The student's head, after refusing heads that cannot continue each other's maps."""
    head, teacher_head = tower_head(student, "student"), tower_head(teacher, "teacher")
    require_same_classes(student, teacher, "crosskd")
    facts = (
        ("head", type(head).__name__, type(teacher_head).__name__),
        ("strides", shape_of(student).strides, shape_of(teacher).strides),
        ("blocks per tower", head.depth, teacher_head.depth),
        ("tower width", _width(head), _width(teacher_head)),
        ("priors per location", priors_per_location(student), priors_per_location(teacher)),
    )
    for name, of_student, of_teacher in facts:
        if of_student != of_teacher:
            raise ValueError(
                f"crosskd continues the student's maps in the teacher's head, which must be built alike; {name}: "
                f"{of_student} and {of_teacher}"
            )
    return head


def _width(head: TowerHead) -> int:
    return int(cast(Any, head.cls_tower.blocks[0]).conv.out_channels)
