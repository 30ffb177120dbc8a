"""FGFI: distilling object detectors with fine-grained feature imitation (Wang et al. 2019, arXiv:1906.03609).

Only locations near objects are imitated: those with an anchor that overlaps an object by more than half of the
object's best overlap. Two versions of it were published as code:

- ``port`` (in DeFeat's repository, for pyramids; the default): an object counts at the one level that fits its size,
  a 3x3 convolution per level, divided by twice channels times locations, weight 3, mean over levels. It clips
  gradients at 35, which belongs to the recipe.
- ``original``: one map of stride 16, all objects, the convolution followed by a ReLU, divided by twice the locations
  with channels summed (hence the weight 0.01), nothing in the first 400 steps.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pkdzoo.distill.base import DistillMethod
from pkdzoo.distill.imitation import PROJECTION_STD, squared_difference
from pkdzoo.distill.masks import near_anchor_mask, objects_of, select_level
from pkdzoo.distill.pairing import PyramidPairs, check_choice, shape_of
from pkdzoo.models.dense import DenseDetector
from pkdzoo.models.detector import Detector
from pkdzoo.models.trace import HeadTrace, Trace
from pkdzoo.ops.reduce import mean_over_ranks
from pkdzoo.structures import Batch


class FGFI(DistillMethod):
    """Imitation near objects.

    Args:
        student: detector that learns; the mask comes from its anchors (of the RPN in two-stage detectors).
        teacher: any detector.
        weight: None: 3 for the port, 0.01 for the original.
        version: ``port`` or ``original``.
        levels: pairs of levels of the port, counted from the finest; None means those that both have, at most five.
        share: an anchor is near from more than this share of the object's best overlap.
    """

    def __init__(
        self,
        student: Detector,
        teacher: Detector,
        weight: float | None = None,
        version: Literal["port", "original"] = "port",
        levels: int | None = None,
        share: float = 0.5,
    ) -> None:
        super().__init__()
        check_choice("version", version, ("port", "original"))
        if not isinstance(student, DenseDetector) and not hasattr(student, "rpn"):
            raise ValueError(f"fgfi needs the student's anchors, and {student.name} gives none: write pkd instead")
        self.original = version == "original"
        if self.original:
            self.default_schedule = "delay:400"
        self.pairs = PyramidPairs(
            student,
            teacher,
            _levels_of_stride_16(student, teacher) if self.original else levels,
            resize="teacher",  # the mask has the student's size
            project="always",
            kernel=3,
            std=PROJECTION_STD,
            most=5,
        )
        self.weight = (0.01 if self.original else 3.0) if weight is None else float(weight)
        self.share = float(share)

    def forward(self, student: HeadTrace[Detector], teacher: Trace[Detector], batch: Batch) -> dict[str, Tensor]:
        anchors = torch.split(student.priors.boxes, student.priors.counts)
        objects, losses = objects_of(batch), []
        for maps, (level, _) in zip(self.pairs(student.features, teacher.features), self.pairs.levels):
            chosen = objects if self.original else select_level(objects, level, len(self.pairs))
            projected = F.relu(maps.student) if self.original else maps.student
            mask = near_anchor_mask(chosen, anchors[level], (projected.shape[-2], projected.shape[-1]), self.share)
            squares = squared_difference(projected, maps.teacher, normalize=False)
            squares = squares.sum(dim=1) if self.original else squares.mean(dim=1)
            losses.append((squares * mask[:, 0]).sum() / (2 * mean_over_ranks(mask.sum(), least=0.5)))
        return {"loss_fgfi": self.weight * torch.stack(losses).mean()}


def _levels_of_stride_16(student: Detector, teacher: Detector) -> list[tuple[int, int]]:
    strides = [shape_of(model).strides for model in (student, teacher)]
    if any(16 not in row for row in strides):
        raise ValueError(f'version="original" imitates the map of stride 16; the pyramids have {strides}')
    return [(strides[0].index(16), strides[1].index(16))]
