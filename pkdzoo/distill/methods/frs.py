"""FRS: feature richness score (Du et al. 2021, arXiv:2111.00674): imitate where the teacher sees something, box or not.

The mask is the teacher's best class score in each cell (of the RPN in two-stage detectors). Under it the student's
pyramid, through a 3x3 convolution a level, imitates the teacher's, and its class logits the teacher's scores. As the
released code: the normaliser of the feature term is the sum of the mask without the channels (the paper's equation 1
divides by them too, which is 256 times less), weights by family, both terms rise over 500 steps, no centerness term.
Differs in that the teacher is in eval mode (there train mode with its norms frozen).

``normalize=True`` is table 4 of the PKD paper: the feature term alone with PKD's normalisation, half and weight, mean
over channels and no adapter; how weights were combined there is not printed, so this is inferred.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pkdzoo.distill.base import DistillMethod, by_family, require_same_heads
from pkdzoo.distill.methods.imitation import squared_difference
from pkdzoo.distill.methods.pkd import published_weight
from pkdzoo.distill.pairing import match_levels, shape_of
from pkdzoo.distill.projector import adapters
from pkdzoo.models.detector import Detector
from pkdzoo.models.trace import Depth, Trace
from pkdzoo.ops.reduce import mean_over_ranks
from pkdzoo.structures import Batch

# weights of features and class scores; families that were not published get GFL's
PUBLISHED = {"RetinaNet": (0.005, 0.02), "GFL": (0.1, 0.05), "FCOS": (0.01, 0.05), "two_stage": (0.002, 0.1)}


class FRS(DistillMethod):
    """Imitation weighed by the teacher's scores.

    Args:
        student: detector that learns.
        teacher: of the same kind, classes and strides.
        feat_weight: None: as published for the family, or PKD's with ``normalize``.
        cls_weight: None: as published for the family, or 0 with ``normalize``.
        levels: pairs of levels, counted from the finest.
        normalize: PKD's normalisation first.
    """

    teacher_depth: Depth = "head"
    default_schedule = "warmup:500"

    def __init__(
        self,
        student: Detector,
        teacher: Detector,
        feat_weight: float | None = None,
        cls_weight: float | None = None,
        levels: int = 5,
        normalize: bool = False,
    ) -> None:
        super().__init__()
        require_same_heads(student, teacher, "frs")
        shapes = shape_of(student), shape_of(teacher)
        self.pairs = match_levels(*shapes, levels, same_channels=normalize)
        self.adapters = adapters(*shapes, self.pairs, kernel=3, always=not normalize)
        feat, cls = by_family(PUBLISHED, student, PUBLISHED["GFL"])
        if normalize:
            feat, cls = published_weight(teacher), 0.0
            self.default_schedule = "constant"
        self.feat_weight = feat if feat_weight is None else float(feat_weight)
        self.cls_weight = cls if cls_weight is None else float(cls_weight)
        self.normalize = normalize

    def forward(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        assert student.outputs is not None and teacher.outputs is not None
        feats, scores = [], []
        for adapt, (i, j) in zip(self.adapters, self.pairs):
            logits, wanted = student.outputs.cls[i].float(), teacher.outputs.cls[j].float().sigmoid()
            mask = wanted.amax(dim=1, keepdim=True)  # (B, 1, h, w)
            total = mean_over_ranks(mask.sum(), least=1e-6)
            difference = squared_difference(
                adapt(student.features.levels[i]), teacher.features.levels[j], self.normalize
            )
            over_channels = difference.mean(dim=1) if self.normalize else difference.sum(dim=1)
            feats.append((mask[:, 0] * over_channels).sum() / total)
            entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
            scores.append((mask * entropy).sum() / total)
        losses = {"loss_frs_feat": self.feat_weight * torch.stack(feats).sum()}
        if self.cls_weight:
            losses["loss_frs_cls"] = self.cls_weight * torch.stack(scores).sum()
        return losses
