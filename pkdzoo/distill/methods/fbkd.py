"""FBKD: improve object detection with feature-based knowledge distillation (Zhang and Ma 2021, ICLR).

No official code is in a public repository. Two versions are offered:

- ``two_stage`` (the default): as mmrazor's ``fbkd_fpn_faster-rcnn_r101_faster-rcnn_r50``.
- ``one_stage``: as the one-stage code that several public repositories hold copies of, in a file ``single_stage.py``.
  Its author could not be verified, and no number of it was reproduced. Its weights are six times those of two-stage
  detectors (4.2e-4, 2.4e-2, 2.4e-2, 4.2e-4), the temperature is 0.1, all five levels are distilled, and ``feat`` is
  also weighted by the mean of both channel attentions.

Four terms per level:

- ``feat``: difference of the maps under a mask, the mean of both spatial attentions;
- ``channel`` and ``spatial``: differences of the pooled maps, the student's through a small connector;
- ``non_local``: difference of the outputs of a non-local block on either side, the student's through a connector.

Each term is the 2-norm over the whole batch tensor, divided by nothing, and the terms are summed over levels. The
teacher's block is trained too. mmrazor and the copies of the two-stage code compute a channel attention and leave it
unused; so does ``two_stage``.

Where sources of the two-stage version disagree: pooling 8/4/2/2 (the copies) is the default; mmrazor pools twice by
accident, which makes ``pooling=(16, 8, 4, 4)``. Four levels as mmrazor; a copy has five. Temperature 0.5 as in both
codes. The paper's text could not be obtained. The published row starts from a trained student, which the recipe
configures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from pkdzoo.distill.base import DistillMethod
from pkdzoo.distill.masks import channel_attention, spatial_attention
from pkdzoo.distill.pairing import PairBy, PyramidPairs, Resize, check_choice
from pkdzoo.layers.non_local import NonLocal
from pkdzoo.models.detector import Detector
from pkdzoo.models.trace import Trace
from pkdzoo.structures import Batch
from pkdzoo.utils.precision import float32_or_wider

TERMS = ("feat", "channel", "spatial", "non_local")
Version = Literal["two_stage", "one_stage"]


class Settings(NamedTuple):
    """Settings of one version: the weights of the terms, the attention's temperature, the number of levels."""

    feat: float
    channel: float
    spatial: float
    non_local: float
    temperature: float
    levels: int


SETTINGS: dict[Version, Settings] = {
    "two_stage": Settings(7e-5, 4e-3, 4e-3, 7e-5, 0.5, 4),
    "one_stage": Settings(4.2e-4, 2.4e-2, 2.4e-2, 4.2e-4, 0.1, 5),
}


class Level(nn.Module):
    """The connectors of one level.

    Args:
        student: channels of the student's map.
        teacher: channels of the teacher's.
        reduction: the non-local blocks work on the channels over this.
        pool: side of the square of locations that becomes one key of the non-local blocks.
        temperature: of the attention.
        weigh_channels: multiply the channel attention into the mask.
    """

    def __init__(
        self, student: int, teacher: int, reduction: int, pool: int, temperature: float, weigh_channels: bool = False
    ) -> None:
        super().__init__()
        self.temperature, self.weigh_channels = temperature, weigh_channels
        self.feat = nn.Conv2d(student, teacher, 1)
        self.channel = nn.Linear(student, teacher)
        self.spatial = nn.Conv2d(1, 1, 3, padding=1)
        self.student_non_local = NonLocal(student, max(student // reduction, 1), pool)
        self.teacher_non_local = NonLocal(teacher, max(teacher // reduction, 1), pool)
        self.non_local = nn.Conv2d(student, teacher, 1)

    def forward(self, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        """The four terms, unweighted."""
        mask = self.mask(student.detach(), teacher.detach())
        pairs = {
            "feat": (mask.sqrt() * self.feat(student), mask.sqrt() * teacher),
            "channel": (self.channel(student.mean(dim=(2, 3))), teacher.mean(dim=(2, 3))),
            "spatial": (self.spatial(student.mean(dim=1, keepdim=True)), teacher.mean(dim=1, keepdim=True)),
            "non_local": (self.non_local(self.student_non_local(student)), self.teacher_non_local(teacher)),
        }
        # vector_norm has gradient 0 where its argument is 0, which the square root alone has not
        wide = {name: [float32_or_wider(x) for x in pair] for name, pair in pairs.items()}
        return {name: torch.linalg.vector_norm(a - b) for name, (a, b) in wide.items()}

    def mask(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Mean attention of both maps: (B, 1, h, w), or (B, C, h, w) with channel attention, C the teacher's.

        Where the numbers of channels differ, the student has no attention of the teacher's channels; the teacher's
        alone then counts.
        """
        spatial = [spatial_attention(x, self.temperature) for x in (student, teacher)]
        mask = (spatial[0] + spatial[1]) / 2
        if not self.weigh_channels:
            return mask
        maps = (student, teacher) if student.shape[1] == teacher.shape[1] else (teacher,)
        return mask * torch.stack([channel_attention(x, self.temperature) for x in maps]).mean(dim=0)


class FBKD(DistillMethod):
    """Attention-guided and non-local distillation.

    Args:
        student: detector that learns.
        teacher: any detector.
        feat_weight: of the masked difference. None: as the version; likewise the next five.
        channel_weight: of the pooled channels.
        spatial_weight: of the pooled map.
        non_local_weight: of the non-local blocks' difference.
        temperature: of the attention.
        levels: pairs of levels, counted from the finest; None means those that both have, at most the
            published number of the version.
        pooling: of the non-local blocks, one number per level; the last one also counts for further levels.
        reduction: channels of the map over inner channels of the non-local blocks, likewise.
        pair: ``index`` or ``stride``.
        resize: what to do with maps of different size.
        version: ``two_stage`` or ``one_stage``, see the module's text; it is not chosen by the detector.

    Example:
        >>> import pkdzoo
        >>> student, teacher = (pkdzoo.create_detector("retina_r10w16") for _ in range(2))
        >>> distiller = pkdzoo.Distiller(student, teacher, {"fbkd": {"version": "one_stage"}})
        >>> distiller.methods["fbkd"].weights["channel"], len(distiller.methods["fbkd"].levels)
        (0.024, 5)
    """

    takes_unlabeled = True

    def __init__(
        self,
        student: Detector,
        teacher: Detector,
        feat_weight: float | None = None,
        channel_weight: float | None = None,
        spatial_weight: float | None = None,
        non_local_weight: float | None = None,
        temperature: float | None = None,
        levels: int | None = None,
        pooling: Sequence[int] = (8, 4, 2, 2),
        reduction: Sequence[int] = (4, 4, 2, 2),
        pair: PairBy = "index",
        resize: Resize = "larger",
        version: Version = "two_stage",
    ) -> None:
        super().__init__()
        check_choice("version", version, tuple(SETTINGS))
        if not pooling or not reduction:
            raise ValueError("pooling and reduction need a number for the finest level at least")
        given = (feat_weight, channel_weight, spatial_weight, non_local_weight, temperature)
        base = SETTINGS[version]
        *weights, softmax_temperature = (float(b if g is None else g) for g, b in zip(given, base))
        self.weights = dict(zip(TERMS, weights))
        # Level has its own projections
        self.pairs = PyramidPairs(student, teacher, levels, pair, resize, "never", most=base.levels)
        self.levels = nn.ModuleList()
        for number, channels in enumerate(zip(self.pairs.student_channels, self.pairs.teacher_channels)):
            divide, pool = (row[min(number, len(row) - 1)] for row in (reduction, pooling))
            self.levels.append(Level(*channels, divide, pool, softmax_temperature, version == "one_stage"))

    def forward(self, student: Trace[Detector], teacher: Trace[Detector], batch: Batch) -> dict[str, Tensor]:
        maps = self.pairs(student.features, teacher.features)
        terms = [level(pair.student, pair.teacher.detach()) for level, pair in zip(self.levels, maps)]
        return {
            f"loss_fbkd_{name}": weight * torch.stack([term[name] for term in terms]).sum()
            for name, weight in self.weights.items()
        }
