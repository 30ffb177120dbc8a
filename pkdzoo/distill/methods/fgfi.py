"""FGFI: distilling object detectors with fine-grained feature imitation (Wang et al. 2019, arXiv:1906.03609).

Only cells near objects are imitated: those with an anchor that overlaps an object by more than half of the object's
best overlap. Two versions of it were published as code:

- ``port`` (in DeFeat's repository, for pyramids; the default): an object counts at the one level that fits its size,
  a 3x3 convolution a level, divided by twice channels times cells, weight 3, mean over levels.
- ``original``: one map of stride 16, all objects, the convolution followed by a ReLU, divided by twice the cells with
  channels summed (hence the weight 0.01), nothing in the first 400 steps.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pkdzoo.distill.base import DistillMethod
from pkdzoo.distill.masks import near_anchor_mask, objects_of, of_level
from pkdzoo.distill.methods.imitation import squared_difference
from pkdzoo.distill.pairing import check_choice, match_levels, pair_maps, shape_of
from pkdzoo.distill.projector import adapters
from pkdzoo.models.detector import Detector
from pkdzoo.models.trace import Trace
from pkdzoo.ops.reduce import mean_over_ranks
from pkdzoo.structures import Batch

ADAPTER_STD = 1e-4  # as released: the adapter starts at nearly nothing


class FGFI(DistillMethod):
    """Imitation near objects.

    Args:
        student: detector that learns; its anchors (of the RPN in two-stage detectors) make the mask.
        teacher: any detector.
        weight: None: 3 for the port, 0.01 for the original.
        version: ``port`` or ``original``.
        levels: pairs of levels of the port, counted from the finest.
        share: an anchor is near from more than this share of the object's best overlap.
    """

    def __init__(
        self,
        student: Detector,
        teacher: Detector,
        weight: float | None = None,
        version: Literal["port", "original"] = "port",
        levels: int = 5,
        share: float = 0.5,
    ) -> None:
        super().__init__()
        check_choice("version", version, ("port", "original"))
        shapes = shape_of(student), shape_of(teacher)
        self.original = version == "original"
        if self.original:
            strides = [shape.strides for shape in shapes]
            if any(16 not in row for row in strides):
                raise ValueError(f'version="original" imitates the map of stride 16; the pyramids have {strides}')
            self.pairs = [(strides[0].index(16), strides[1].index(16))]
            self.default_schedule = "delay:400"
        else:
            self.pairs = match_levels(*shapes, levels, same_channels=False)
        self.adapters = adapters(*shapes, self.pairs, kernel=3, always=True, std=ADAPTER_STD)
        self.weight = (0.01 if self.original else 3.0) if weight is None else float(weight)
        self.share = float(share)

    def forward(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        assert student.priors is not None
        anchors = torch.split(student.priors.boxes, student.priors.counts)
        objects, losses = objects_of(batch), []
        pairs = pair_maps(student.features, teacher.features, self.pairs, "teacher")  # the mask is on student's cells
        for adapt, maps, (level, _) in zip(self.adapters, pairs, self.pairs):
            chosen = objects if self.original else of_level(objects, level, len(self.pairs))
            ours = adapt(maps.student)
            ours = F.relu(ours) if self.original else ours
            mask = near_anchor_mask(chosen, anchors[level], (ours.shape[-2], ours.shape[-1]), self.share)
            squares = squared_difference(ours, maps.teacher, normalize=False)
            squares = squares.sum(dim=1) if self.original else squares.mean(dim=1)
            losses.append((squares * mask[:, 0]).sum() / (2 * mean_over_ranks(mask.sum(), least=0.5)))
        return {"loss_fgfi": self.weight * torch.stack(losses).mean()}
