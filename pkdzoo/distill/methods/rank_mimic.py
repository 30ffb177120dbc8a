"""RM and PFI: knowledge distillation for object detection via rank mimicking and prediction-guided feature imitation
(Li et al. 2022, arXiv:2112.04840).

- Rank mimicking: the positive priors of one object compete; the student learns how the teacher ranks them, by KL
  between the softmaxes of their logits of the object's class.
- Prediction-guided feature imitation: squared differences of the maps, each location weighted with the
  squared difference of its class logits.

After an unmerged draft in mmrazor; the paper's text was not available. From memory (unverified) the paper takes scores
where the draft takes logits, and squares the product. Gradient passes both factors here; the draft does not say
otherwise. An object's positives are the student's; both detectors share priors and assigner.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pkdzoo.distill.base import DistillMethod, require_same_heads
from pkdzoo.distill.imitation import squared_difference
from pkdzoo.distill.pairing import Adapter, PyramidPairs
from pkdzoo.models.dense import DenseDetector
from pkdzoo.models.detector import Detector
from pkdzoo.models.trace import Depth, HeadTrace, LossTrace
from pkdzoo.structures import Batch


class RankMimic(DistillMethod):
    """Rank mimicking and prediction-guided feature imitation.

    Args:
        student: one-stage detector.
        teacher: of the same classes, strides and priors.
        rank_weight: of rank mimicking; 0 leaves it out.
        feat_weight: of feature imitation; 0 leaves it out.
        levels: of feature imitation, counted from the finest.
        adapter: where numbers of channels differ: ``False`` refuses them, ``True`` projects the student's map by a
            trained 1x1 convolution; ``"conv"`` does so at every level, ``"conv_norm"`` with a norm after it.
    """

    teacher_depth: Depth = "head"

    def __init__(
        self,
        student: Detector,
        teacher: Detector,
        rank_weight: float = 4.0,
        feat_weight: float = 1.5,
        levels: int = 5,
        adapter: Adapter = False,
    ) -> None:
        super().__init__()
        require_same_heads(student, teacher, "rank_mimic")
        if student.two_stage:
            raise ValueError(f"rank_mimic ranks the priors of one-stage detectors, {student.name} has two stages")
        self.pairs = PyramidPairs(student, teacher, levels, adapter=adapter)
        self.rank_weight, self.feat_weight = float(rank_weight), float(feat_weight)

    def forward(
        self, student: LossTrace[DenseDetector], teacher: HeadTrace[DenseDetector], batch: Batch
    ) -> dict[str, Tensor]:
        losses = {}
        if self.rank_weight:
            losses["loss_rank_mimic"] = self.rank_weight * self.ranks(student, teacher)
        if self.feat_weight:
            terms = []
            for maps, (i, j) in zip(self.pairs(student.features, teacher.features), self.pairs.levels):
                outputs = student.outputs.cls[i], teacher.outputs.cls[j]
                logits = squared_difference(*outputs, normalize=False).mean(dim=1)
                features = squared_difference(maps.student, maps.teacher, normalize=False).mean(dim=1)
                terms.append((logits * features).mean())
            losses["loss_prediction_guided"] = self.feat_weight * torch.stack(terms).mean()
        return losses

    def ranks(self, student: LossTrace[DenseDetector], teacher: HeadTrace[DenseDetector]) -> Tensor:
        """KL between the rankings, summed over an object's priors, mean over objects, mean over images."""
        targets = student.targets
        at = student.model.positives(targets)
        labels = targets.labels[at]
        rows = (student.model.flat(student.outputs)[0], student.model.flat(teacher.outputs)[0])
        student_logits, teacher_logits = (x[at[0], at[1], labels] for x in rows)  # (K,) of the object's class
        # an object is identified by image, class and box: not every assigner stores which object a prior is matched to
        keys = torch.cat([at[0][:, None].double(), labels[:, None].double(), targets.boxes[at].double()], dim=1)
        objects, group = torch.unique(keys, dim=0, return_inverse=True)
        per_object = ranking_kl(student_logits, teacher_logits, group, len(objects))
        images = len(targets.labels)
        counts = torch.bincount(objects[:, 0].long(), minlength=images).clamp(min=1)
        per_image = per_object.new_zeros(images).index_add(0, objects[:, 0].long(), per_object) / counts
        return per_image.mean()


def ranking_kl(student: Tensor, teacher: Tensor, group: Tensor, count: int) -> Tensor:
    """KL(teacher || student) of the softmaxes inside groups.

    Args:
        student: (K,) logits.
        teacher: (K,) logits.
        group: (K,) int64 in ``0 .. count-1``.
        count: number of groups.

    Returns:
        (count,) sums over each group.
    """
    student_log, teacher_log = (_grouped_log_softmax(x, group, count) for x in (student, teacher.detach()))
    return student.new_zeros(count).index_add(0, group, teacher_log.exp() * (teacher_log - student_log))


def _grouped_log_softmax(x: Tensor, group: Tensor, count: int) -> Tensor:
    largest = x.detach().new_full((count,), -torch.inf).scatter_reduce(0, group, x.detach(), "amax")
    shifted = x - largest[group]
    total = x.new_zeros(count).index_add(0, group, shifted.exp())
    return shifted - total[group].log()
