"""FBKD: improve object detection with feature-based knowledge distillation (Zhang and Ma 2021, ICLR).

As mmrazor's ``fbkd_fpn_faster-rcnn_r101_faster-rcnn_r50`` (no official code is in the open). Four terms per level:

- ``feat``: difference of the maps under a mask, the mean of both spatial attentions;
- ``channel`` and ``spatial``: differences of the pooled maps, the student's through a small connector;
- ``non_local``: difference of the outputs of a non-local block on either side, the student's through a connector.

Each term is the 2-norm over the whole batch tensor, divided by nothing, and the terms are summed over levels. The
teacher's block is trained too. The channel attention that the paper multiplies in is computed and then left unused in
every code that could be read; it is left out here.

Where sources disagree: pooling 8/4/2/2 (the paper's code) is the default; mmrazor pools twice by accident, which makes
``pooling=(16, 8, 4, 4)``. Four levels as mmrazor; a copy of the original code has five. Temperature 0.5 as in both
codes; the paper's text has 0.1 for two-stage detectors, and for one-stage ones 4e-4, 2e-2 and 4e-4 as weights (from
memory of the paper, unverified). The published row starts from a trained student, which the recipe configures.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pkdzoo.distill.base import DistillMethod
from pkdzoo.distill.masks import spatial_attention
from pkdzoo.distill.pairing import PairBy, PyramidPairs, Resize
from pkdzoo.layers.non_local import NonLocal
from pkdzoo.models.detector import Detector
from pkdzoo.models.trace import Trace
from pkdzoo.structures import Batch

TERMS = ("feat", "channel", "spatial", "non_local")


class Level(nn.Module):
    """The connectors of one level.

    Args:
        student: channels of the student's map.
        teacher: channels of the teacher's.
        reduction: the non-local blocks work on the channels over this.
        pool: side of the square of locations that becomes one key of the non-local blocks.
        temperature: of the attention.
    """

    def __init__(self, student: int, teacher: int, reduction: int, pool: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.feat = nn.Conv2d(student, teacher, 1)
        self.channel = nn.Linear(student, teacher)
        self.spatial = nn.Conv2d(1, 1, 3, padding=1)
        self.student_non_local = NonLocal(student, max(student // reduction, 1), pool)
        self.teacher_non_local = NonLocal(teacher, max(teacher // reduction, 1), pool)
        self.non_local = nn.Conv2d(student, teacher, 1)

    def forward(self, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        """The four terms, unweighted."""
        attention = [spatial_attention(x, self.temperature) for x in (student.detach(), teacher)]
        mask = (attention[0] + attention[1]) / 2
        pairs = {
            "feat": (mask.sqrt() * self.feat(student), mask.sqrt() * teacher),
            "channel": (self.channel(student.mean(dim=(2, 3))), teacher.mean(dim=(2, 3))),
            "spatial": (self.spatial(student.mean(dim=1, keepdim=True)), teacher.mean(dim=1, keepdim=True)),
            "non_local": (self.non_local(self.student_non_local(student)), self.teacher_non_local(teacher)),
        }
        # vector_norm has gradient 0 where its argument is 0, which the square root alone has not
        return {name: torch.linalg.vector_norm(a.float() - b.float()) for name, (a, b) in pairs.items()}


class FBKD(DistillMethod):
    """Attention-guided and non-local distillation.

    Args:
        student: detector that learns.
        teacher: any detector.
        feat_weight: of the masked difference.
        channel_weight: of the pooled channels.
        spatial_weight: of the pooled map.
        non_local_weight: of the non-local blocks' difference.
        temperature: of the attention.
        levels: pairs of levels, counted from the finest; None means those that both have, at most four.
        pooling: of the non-local blocks, one number per level; the last one also counts for further levels.
        reduction: channels of the map over inner channels of the non-local blocks, likewise.
        pair: ``index`` or ``stride``.
        resize: what to do with maps of different size.
    """

    def __init__(
        self,
        student: Detector,
        teacher: Detector,
        feat_weight: float = 7e-5,
        channel_weight: float = 4e-3,
        spatial_weight: float = 4e-3,
        non_local_weight: float = 7e-5,
        temperature: float = 0.5,
        levels: int | None = None,
        pooling: Sequence[int] = (8, 4, 2, 2),
        reduction: Sequence[int] = (4, 4, 2, 2),
        pair: PairBy = "index",
        resize: Resize = "larger",
    ) -> None:
        super().__init__()
        if not pooling or not reduction:
            raise ValueError("pooling and reduction need a number for the finest level at least")
        self.pairs = PyramidPairs(
            student, teacher, levels, pair, resize, "never", most=4
        )  # Level has its own projections
        weights = (feat_weight, channel_weight, spatial_weight, non_local_weight)
        self.weights = dict(zip(TERMS, map(float, weights)))
        self.levels = nn.ModuleList()
        for number, channels in enumerate(zip(self.pairs.student_channels, self.pairs.teacher_channels)):
            divide, pool = (row[min(number, len(row) - 1)] for row in (reduction, pooling))
            self.levels.append(Level(*channels, divide, pool, float(temperature)))

    def forward(self, student: Trace[Detector], teacher: Trace[Detector], batch: Batch) -> dict[str, Tensor]:
        maps = self.pairs(student.features, teacher.features)
        terms = [level(pair.student, pair.teacher.detach()) for level, pair in zip(self.levels, maps)]
        return {
            f"loss_fbkd_{name}": weight * torch.stack([term[name] for term in terms]).sum()
            for name, weight in self.weights.items()
        }
