"""FRS: feature richness score (Du et al. 2021, arXiv:2111.00674): imitate where the teacher has
high class scores, inside and outside of objects.

The mask is the teacher's best class score at each location (of the RPN in two-stage detectors). Under it the student's
pyramid, through a 3x3 convolution per level, imitates the teacher's, and its class logits the teacher's scores. As the
released code: the normalizer of the feature term is the sum of the mask without the channels (the paper's equation 1
divides by them too, which is 256 times less), weights by family, both terms rise over 500 steps, no centerness term.
Differs in that the teacher is in eval mode (there train mode with its norms frozen).

``normalize=True`` is table 4 of the PKD paper: the feature term alone with PKD's normalization, half and weight, mean
over channels and no projection; how weights were combined there is not printed, so this is inferred.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pkdzoo.distill.base import DistillMethod, by_family, require_same_heads
from pkdzoo.distill.imitation import published_pkd_weight, squared_difference
from pkdzoo.distill.pairing import Adapter, PyramidPairs
from pkdzoo.models.detector import Detector
from pkdzoo.models.trace import Depth, HeadTrace
from pkdzoo.ops.reduce import mean_over_ranks
from pkdzoo.structures import Batch
from pkdzoo.utils.precision import float32_or_wider

# weights of features and class scores; families that were not published get GFL's
PUBLISHED = {"RetinaNet": (0.005, 0.02), "GFL": (0.1, 0.05), "FCOS": (0.01, 0.05), "two_stage": (0.002, 0.1)}


class FRS(DistillMethod):
    """Imitation weighed by the teacher's scores.

    Args:
        student: detector that learns.
        teacher: of the same kind, classes and strides.
        feat_weight: None: as published for the family, or PKD's with ``normalize``.
        cls_weight: None: as published for the family, or 0 with ``normalize``.
        levels: pairs of levels, counted from the finest; None means those that both have, at most five.
        normalize: PKD's normalization first.
        adapter: with ``normalize``, where numbers of channels differ: see ``pkd``. Without it every level has a 3x3
            convolution, as published.
    """

    teacher_depth: Depth = "head"
    default_schedule = "warmup:500"

    def __init__(
        self,
        student: Detector,
        teacher: Detector,
        feat_weight: float | None = None,
        cls_weight: float | None = None,
        levels: int | None = None,
        normalize: bool = False,
        adapter: Adapter = False,
    ) -> None:
        super().__init__()
        require_same_heads(student, teacher, "frs")
        if normalize:
            self.pairs = PyramidPairs(student, teacher, levels, most=5, adapter=adapter)
        elif adapter:
            raise ValueError("frs has a 3x3 convolution at every level already: write adapter with normalize=True only")
        else:
            self.pairs = PyramidPairs(student, teacher, levels, project="always", kernel=3, most=5)
        feat, cls = by_family(PUBLISHED, student, PUBLISHED["GFL"])
        if normalize:
            feat, cls = published_pkd_weight(teacher), 0.0
            self.default_schedule = "constant"
        self.feat_weight = feat if feat_weight is None else float(feat_weight)
        self.cls_weight = cls if cls_weight is None else float(cls_weight)
        self.normalize = normalize

    def forward(self, student: HeadTrace[Detector], teacher: HeadTrace[Detector], batch: Batch) -> dict[str, Tensor]:
        feats, scores = [], []
        for maps, (i, j) in zip(self.pairs(student.features, teacher.features), self.pairs.levels):
            logits, teacher_logits = (float32_or_wider(x) for x in (student.outputs.cls[i], teacher.outputs.cls[j]))
            teacher_scores = teacher_logits.sigmoid()
            mask = teacher_scores.amax(dim=1, keepdim=True)  # (B, 1, h, w)
            total = mean_over_ranks(mask.sum(), least=1e-6)
            difference = squared_difference(maps.student, maps.teacher, self.normalize)
            over_channels = difference.mean(dim=1) if self.normalize else difference.sum(dim=1)
            feats.append((mask[:, 0] * over_channels).sum() / total)
            entropy = F.binary_cross_entropy_with_logits(logits, teacher_scores, reduction="none")
            scores.append((mask * entropy).sum() / total)
        losses = {"loss_frs_feat": self.feat_weight * torch.stack(feats).sum()}
        if self.cls_weight:
            losses["loss_frs_cls"] = self.cls_weight * torch.stack(scores).sum()
        return losses
