"""CrossKD: cross-head knowledge distillation for object detection (Wang et al. 2023, arXiv:2306.11369).

The student's tower maps are sent, from the middle on, through the teacher's remaining blocks and predictors; these
"re-used" predictions learn from the teacher's own. The student's own predictions see the ground truth alone, so the
two targets do not pull at one output. Gradient passes the teacher's frozen convolutions and reaches the student's
first blocks, its pyramid and its backbone.

Facts of the released code that the paper does not show, and that are the defaults here:

- Maps are taken after their ReLU (``hold="post"``): the code keeps them before, but its ReLU works in place. ``"pre"``
  is what seems to have been meant.
- They are aligned: each channel gets the teacher's mean and deviation over the batch.
- Which block, which losses, which normaliser differ by family, see ``PUBLISHED``. FCOS does not distil its centerness.
- Each prior counts by the teacher's best class score; ignored priors count for nothing.
- The normalisers are means over processes (RetinaNet's and the distributions' are each process's own there).

The published CrossKD + PKD is ``{"crosskd": {}, "pkd": {"weight": w, "levels": 5}}`` with w = 2 for RetinaNet and FCOS,
6 for GFL, 1 for ATSS. The published RetinaNet students take P6 from P5 (``extra="on_output"``), their teachers do not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from pkdzoo.distill.base import DistillMethod, by_family, require_same_classes
from pkdzoo.distill.pairing import check_choice, shape_of
from pkdzoo.losses.boxes import giou_loss, iou_log_loss
from pkdzoo.losses.distillation import centre, distilled_distribution, distilled_quality_focal, inverse
from pkdzoo.models.dense import DenseDetector, TowerHead
from pkdzoo.models.detector import Detector
from pkdzoo.models.trace import Depth, Taps, Trace
from pkdzoo.ops.levels import flatten_levels
from pkdzoo.ops.reduce import mean_over_ranks
from pkdzoo.structures import IGNORE, Batch, HeadOutputs

BoxLoss = Literal["giou", "iou_log", "distribution"]
Hold = Literal["post", "pre"]
TINY = float(torch.finfo(torch.float32).eps)


@dataclass(frozen=True)
class Settings:
    """What the authors chose for one family.

    Attributes:
        block: of the four that every published tower has, whose maps are handed over.
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


# Families of one's own are treated as RetinaNet.
PUBLISHED: dict[str, Settings] = {
    "RetinaNet": Settings(),
    "GFL": Settings(box=4.0, box_loss="distribution"),
    "ATSS": Settings(quality=1.0),
    "FCOS": Settings(block=2, cls=0.4, box=0.75, box_loss="iou_log", by_quality=True),
}
TANGLED = {"RepPoints": "its class branch samples where its box branch says, so the towers can't be continued apart"}


class CrossKD(DistillMethod):
    """Distil through the teacher's own head.

    Args:
        student: one-stage detector with towers.
        teacher: of the same kind: equal strides, priors, classes and tower width.
        block: of the towers, counted from 1, whose maps are handed over; 0 hands over the pyramid. None: as published
            for the family, in proportion to the depth of the towers.
        cls_weight: None: as published for the family; likewise the next two.
        box_weight: likewise.
        quality_weight: 0 leaves it out.
        hold: hand over maps after (``post``) or before (``pre``) their ReLU.
        sync: statistics of the alignment over all processes; published runs took each process's own.

    Raises:
        ValueError: for detectors without towers, and for pairs whose heads don't fit.
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
            raise ValueError(f"block={block}: the towers have {head.depth} blocks, 0 hands over the pyramid")
        self.tap = after
        self.hold, self.sync = hold, sync

    def forward(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        assert isinstance(student.model, DenseDetector) and isinstance(teacher.model, DenseDetector)
        assert student.targets is not None and student.priors is not None and teacher.outputs is not None
        reused = cast(TowerHead, teacher.model.head).resume(self.handed_over(student, teacher))
        labels = student.targets.labels
        counts = (labels != IGNORE).float()  # (B, P)
        cls, box = student.model.flat(reused)
        own_cls, own_box = student.model.flat(teacher.outputs)
        promise = own_cls.sigmoid().amax(dim=-1) * counts  # the teacher's best score
        total = self.normalizer(student)
        losses = {
            "loss_crosskd_cls": self.settings.cls * distilled_quality_focal(cls, own_cls, counts) / total,
            "loss_crosskd_box": self.settings.box * self.box_loss(student, box, teacher, own_box, promise, total),
        }
        if self.settings.quality:
            losses["loss_crosskd_centerness"] = self.settings.quality * _quality_loss(student, reused, teacher) / total
        return losses

    def handed_over(self, student: Trace, teacher: Trace) -> Taps:
        """The student's maps with the teacher's mean and deviation in every channel."""
        ours, theirs = student.taps, teacher.taps
        assert ours is not None and theirs is not None and ours.after == theirs.after
        cls = [self.align(s, t) for s, t in zip(ours.cls, theirs.cls, strict=True)]
        reg = [self.align(s, t) for s, t in zip(ours.reg, theirs.reg, strict=True)]
        return Taps(cls, reg, ours.after)

    def align(self, student: Tensor, teacher: Tensor) -> Tensor:
        """One map (B, C, h, w); teacher's and student's are taken before their ReLU, as traces keep them."""
        if self.hold == "post" and self.tap:
            student, teacher = F.relu(student), F.relu(teacher)
        centred, _, std = centre(student, self.sync)
        _, wanted_mean, wanted_std = centre(teacher.detach(), self.sync)
        aligned = centred * inverse(std) * wanted_std + wanted_mean
        return aligned.to(student.dtype)

    def normalizer(self, student: Trace) -> Tensor:
        """What class and box losses are divided by."""
        targets = student.targets
        assert targets is not None
        if not self.settings.by_quality:
            return targets.num_pos + TINY
        assert targets.quality is not None
        return mean_over_ranks(targets.quality.sum(), least=1e-6) + TINY

    def box_loss(
        self, student: Trace, reused: Tensor, teacher: Trace, own: Tensor, promise: Tensor, total: Tensor
    ) -> Tensor:
        """Between re-used and own box outputs of the teacher's head, (B, P, D) each."""
        assert isinstance(teacher.model, DenseDetector) and student.priors is not None
        if self.settings.box_loss == "distribution":
            ours, theirs = (x.reshape(*x.shape[:-1], 4, -1) for x in (reused, own))
            per_prior = distilled_distribution(ours, theirs).mean(dim=-1)
            return (per_prior * promise).sum() / mean_over_ranks(promise.sum(), least=1e-12)
        function = giou_loss if self.settings.box_loss == "giou" else iou_log_loss
        boxes, wanted = (teacher.model.decode(x, student.priors) for x in (reused, own))
        return (function(boxes, wanted) * promise).sum() / total

    def extra_repr(self) -> str:
        return f"block={self.tap}, hold={self.hold}, {self.settings}"


def _quality_loss(student: Trace, reused: HeadOutputs, teacher: Trace) -> Tensor:
    """Cross entropy of centerness with the teacher's, summed over the positives."""
    assert isinstance(student.model, DenseDetector)
    assert student.targets is not None and teacher.outputs is not None
    assert reused.quality is not None and teacher.outputs.quality is not None
    at = student.model.positives(student.targets)
    ours, theirs = (flatten_levels(x, 1)[..., 0].float()[at] for x in (reused.quality, teacher.outputs.quality))
    return F.binary_cross_entropy_with_logits(ours, theirs.sigmoid(), reduction="sum")


def check_heads(student: Detector, teacher: Detector) -> TowerHead:
    """The student's head, after refusing heads that can't continue each other's maps."""
    for who, model in (("student", student), ("teacher", teacher)):
        if not isinstance(model, DenseDetector) or not isinstance(model.head, TowerHead):
            raise ValueError(
                f"crosskd hands maps over inside two towers of blocks, and the {who} {model.name} has none: it works "
                "between two detectors of one of the families retina, fcos, gfl and atss"
            )
        reason = by_family(TANGLED, model, "")
        if reason:
            raise ValueError(f"crosskd can't hand maps over inside {model.name}: {reason}")
    assert isinstance(student, DenseDetector) and isinstance(teacher, DenseDetector)
    assert isinstance(student.head, TowerHead) and isinstance(teacher.head, TowerHead)
    require_same_classes(student, teacher, "crosskd")
    facts: dict[str, tuple[Any, Any]] = {
        "head": (type(student.head).__name__, type(teacher.head).__name__),
        "strides": (shape_of(student).strides, shape_of(teacher).strides),
        "blocks a tower": (student.head.depth, teacher.head.depth),
        "tower width": (_width(student.head), _width(teacher.head)),
        "priors a cell": (len(student.base_anchors[0]), len(teacher.base_anchors[0])),
    }
    for what, (a, b) in facts.items():
        if a != b:
            raise ValueError(
                f"crosskd continues the student's maps in the teacher's head, which must be built alike; {what}: "
                f"{a} and {b}"
            )
    return student.head


def _width(head: TowerHead) -> int:
    return int(cast(Any, head.cls_tower.blocks[0]).conv.out_channels)
