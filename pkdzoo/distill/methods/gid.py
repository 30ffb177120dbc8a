"""GID: general instance distillation (Dai et al. 2021, arXiv:2103.02340).

No annotated boxes are used. A general instance is a prior at which the best class scores of student and teacher differ
most; its box is that of the more confident detector. On these instances three things are distilled: their
features (RoIAlign), the distances between them (relation), and the predictions of the priors near them (response).

After the authors' re-implementation for RetinaNet ("for reference only"). Weights are those of its configuration file
(its code has other defaults: 5e-3 for features, 0.1 for boxes). Its 3x3 projection is configured but never applied;
here it is on, as the paper describes, and ``adapter=False`` is that code. Read from the code and not from the paper's
text, which was not available. Inferred: instances of all images of a process form one set for the relation, and the
pyramid level of an instance follows the strides (stride 16 at a side of 224).

Of two-stage detectors, for which no code was released, the priors are the RPN's anchors: their scores, boxes and
responses are the RPN's, and features are pooled from the levels that it uses. This is inferred, too; the RoI heads are
not distilled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou, nms

from pkdzoo.distill.base import DistillMethod, require_same_heads
from pkdzoo.distill.pairing import PyramidPairs
from pkdzoo.models.dense import DenseDetector
from pkdzoo.models.detector import Detector
from pkdzoo.models.trace import Depth, HeadTrace
from pkdzoo.models.two_stage import RegionDetector
from pkdzoo.ops.boxes import clip_boxes
from pkdzoo.ops.reduce import mean_over_ranks
from pkdzoo.ops.rois import pool_rois, to_rois
from pkdzoo.structures import Batch

Predicting = DenseDetector | RegionDetector  # what predicts classes and boxes at priors
CANDIDATES = 3000  # priors of the largest differences that are considered
MIN_SIDE = 10.0  # of an instance, in pixels
MAX_OVERLAP = 0.3  # IoU of two instances
POOLED_SIZE = 10  # of the map that RoIAlign gives for an instance
NEAR = 0.5  # IoU from which a prior takes part in an instance's response loss


def general_instances(
    student_scores: Tensor, teacher_scores: Tensor, student_boxes: Tensor, teacher_boxes: Tensor, count: int = 10
) -> Tensor:
    """The boxes of one image on which two detectors disagree most.

    Args:
        student_scores: (P,) best class score of each prior.
        teacher_scores: (P,) likewise.
        student_boxes: (P, 4) xyxy, inside the image.
        teacher_boxes: (P, 4) likewise.
        count: maximum number of instances.

    Returns:
        (N, 4) xyxy, largest difference first; of two that overlap by more than 0.3 only the first.
    """
    difference, index = (teacher_scores - student_scores).abs().topk(min(CANDIDATES, len(student_scores)))
    boxes = torch.where((teacher_scores > student_scores)[index, None], teacher_boxes[index], student_boxes[index])
    large = ((boxes[:, 2:] - boxes[:, :2]) >= MIN_SIDE).all(dim=1)
    difference, boxes = difference[large], boxes[large]
    return boxes[nms(boxes, difference, MAX_OVERLAP)[:count]]


class GID(DistillMethod):
    """General instance distillation between detectors of one kind.

    Args:
        student: detector that learns.
        teacher: one-stage: of the same family, classes, strides and priors; two-stage: with an RPN of the same strides
            and anchors.
        feat_weight: of the instances' features.
        relation_weight: of the distances between them.
        cls_weight: of the class response.
        box_weight: of the box response (raw box outputs: published for RetinaNet's deltas, inferred for others).
        instances: maximum number per image.
        adapter: project the student's features with a 3x3 convolution per level.
        levels: from which features of instances are pooled, counted from the finest; None means those that both have,
            at most five.
    """

    teacher_depth: Depth = "head"

    def __init__(
        self,
        student: Detector,
        teacher: Detector,
        feat_weight: float = 5e-4,
        relation_weight: float = 40.0,
        cls_weight: float = 0.1,
        box_weight: float = 1.0,
        instances: int = 10,
        adapter: bool = True,
        levels: int | None = None,
    ) -> None:
        super().__init__()
        require_same_heads(student, teacher, "gid")
        if not student.two_stage and type(student) is not type(teacher):  # all RPNs predict the same deltas
            raise ValueError(
                f"gid compares the boxes of priors one by one: {student.name} and {teacher.name} must be of one family"
            )
        project: Literal["always", "refuse"] = "always" if adapter else "refuse"
        self.pairs = PyramidPairs(student, teacher, levels, project=project, kernel=3, most=5)
        self.weights = tuple(map(float, (feat_weight, relation_weight, cls_weight, box_weight)))
        self.instances = instances

    def forward(
        self, student: HeadTrace[Predicting], teacher: HeadTrace[Predicting], batch: Batch
    ) -> dict[str, Tensor]:
        cls, box = student.model.flat(student.outputs)
        teacher_cls, teacher_box = teacher.model.flat(teacher.outputs)
        boxes = self.find_instances(student, teacher, batch)
        feat, relation = self.feature_losses(student, teacher, boxes)
        near = torch.stack([(box_iou(student.priors.boxes, b) >= NEAR).any(dim=1) for b in boxes])  # (B, P)
        count = mean_over_ranks(near.sum().float(), least=1)
        entropy = F.binary_cross_entropy_with_logits(cls[near], teacher_cls[near].sigmoid(), reduction="sum")
        difference = (box[near] - teacher_box[near]).abs().sum()
        terms = (feat, relation, entropy / count, difference / count)
        names = ("feat", "relation", "cls", "box")
        return {f"loss_gid_{name}": weight * term for name, weight, term in zip(names, self.weights, terms)}

    @torch.no_grad()
    def find_instances(
        self, student: HeadTrace[Predicting], teacher: HeadTrace[Predicting], batch: Batch
    ) -> list[Tensor]:
        """The general instances of each image, (N_i, 4)."""
        cls, box = student.model.flat(student.outputs)
        teacher_cls, teacher_box = teacher.model.flat(teacher.outputs)
        instances = []
        for i, size in enumerate(batch.sizes):
            boxes = clip_boxes(student.model.decode(box[i], student.priors), size)
            teacher_boxes = clip_boxes(teacher.model.decode(teacher_box[i], student.priors), size)
            scores, teacher_scores = (rows[i].amax(dim=-1).sigmoid() for rows in (cls, teacher_cls))
            instances.append(general_instances(scores, teacher_scores, boxes, teacher_boxes, self.instances))
        return instances

    def feature_losses(
        self, student: HeadTrace[Predicting], teacher: HeadTrace[Predicting], boxes: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Feature and relation term over all instances."""
        maps = self.pairs(student.features, teacher.features)
        strides = [pair.stride for pair in maps]
        features = pool_instances([pair.student for pair in maps], strides, boxes)
        teacher_features = pool_instances([pair.teacher for pair in maps], strides, boxes).detach()
        count = len(features)
        mean_count = mean_over_ranks(features.new_tensor(float(count)), least=1)
        feat = (features - teacher_features).square().sum() / (mean_count * POOLED_SIZE * POOLED_SIZE)
        if count < 3:
            return feat, feat * 0.0
        difference = F.smooth_l1_loss(relations(features), relations(teacher_features), reduction="sum")
        return feat, difference / (count * count - count)


def pool_instances(levels: Sequence[Tensor], strides: Sequence[int], boxes: Sequence[Tensor]) -> Tensor:
    """RoIAlign of each box at the level of its size: (N, channels, 10, 10) in float32."""
    finest = 14.0 * strides[0]  # stride 16 at a side of 224
    return pool_rois(levels, strides, to_rois(boxes), POOLED_SIZE, finest, sampling_ratio=2)


def relations(features: Tensor) -> Tensor:
    """Distances between instances over their mean: (N, ...) -> (N, N)."""
    flat = features.flatten(1)
    # not by matrix products: they lose small distances, and the gradient of a distance of zero would be infinite
    distances = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
    apart = distances[distances > 0]
    return distances / apart.mean() if len(apart) else distances
