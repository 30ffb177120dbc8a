"""Plain imitation of a pyramid, everywhere or where the objects are: PKD's baselines.

- ``mse``: FitNet-like (Romero et al. 2015), mean squared difference of the maps, summed over levels. Tables 5 and 8 of
  the PKD paper; the weights differ by pair there (5 and 10 for RetinaNet students, 70 for GFL to FCOS, 3 to 10 for
  Swin to Faster R-CNN).
- ``gt_mask``: the same, only in cells that overlap an object (table 4). The paper says no more than that: rounding,
  the use of every level and the normaliser ``C * cells`` are inferred.

``normalize=True`` is the "+ PKD" of table 4: channels are normalised first, as PKD does. Whether the half and the
weight of PKD or the method's own weight belong to it is not printed; here they are PKD's, so that ``mse`` with it is
PKD itself. Reduction over the batch and level set are not printed either; they are PKD's.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pkdzoo.distill.base import DistillMethod
from pkdzoo.distill.masks import object_mask, objects_of, of_level
from pkdzoo.distill.methods.pkd import published_weight
from pkdzoo.distill.pairing import RESIZE, PairBy, Resize, check_choice, match_levels, pair_maps, shape_of
from pkdzoo.distill.projector import adapters
from pkdzoo.losses.distillation import normalize as normalize_channels
from pkdzoo.models.detector import Detector
from pkdzoo.models.trace import Trace
from pkdzoo.ops.reduce import mean_over_ranks
from pkdzoo.structures import Batch


def squared_difference(student: Tensor, teacher: Tensor, normalize: bool, sync: bool = False) -> Tensor:
    """Of each element, in float32; with ``normalize`` half of it, after PKD's normalisation.

    The teacher gets no gradient.
    """
    teacher = teacher.detach()
    if normalize:
        return 0.5 * (normalize_channels(student, sync) - normalize_channels(teacher, sync)).square()
    return (student.float() - teacher.float()).square()


class MSE(DistillMethod):
    """Mean squared difference of the maps.

    Args:
        student: detector that learns.
        teacher: any detector; where its maps have other channels, a 1x1 convolution adapts the student's.
        weight: None: 10, or PKD's with ``normalize``.
        levels: pairs of levels, counted from the finest.
        pair: ``index`` or ``stride``.
        resize: what to do with maps of different size.
        normalize: normalise channels first, as PKD does.
        sync: statistics of that over all processes.
    """

    def __init__(
        self,
        student: Detector,
        teacher: Detector,
        weight: float | None = None,
        levels: int = 4,
        pair: PairBy = "index",
        resize: Resize = "larger",
        normalize: bool = False,
        sync: bool = False,
    ) -> None:
        super().__init__()
        check_choice("resize", resize, RESIZE)
        shapes = shape_of(student), shape_of(teacher)
        self.pairs = match_levels(*shapes, levels, pair, same_channels=False)
        self.adapters = adapters(*shapes, self.pairs)
        self.weight = default_weight(weight, normalize, teacher)
        self.resize: Resize = resize
        self.normalize, self.sync = normalize, sync

    def forward(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        total = student.features.levels[0].new_zeros((), dtype=torch.float32)
        for adapt, maps in zip(self.adapters, pair_maps(student.features, teacher.features, self.pairs, self.resize)):
            total = total + squared_difference(adapt(maps.student), maps.teacher, self.normalize, self.sync).mean()
        return {"loss_mse": self.weight * total}


class GTMask(DistillMethod):
    """Mean squared difference in the cells that overlap an object.

    Args:
        student: detector that learns.
        teacher: any detector; where its maps have other channels, a 1x1 convolution adapts the student's.
        weight: None: 10, or PKD's with ``normalize``.
        levels: pairs of levels, counted from the finest.
        boxes: ``all``: an object counts at every level; ``size``: only at the level that fits its size.
        pair: ``index`` or ``stride``.
        resize: what to do with maps of different size.
        normalize: normalise channels first, as PKD does.
        sync: statistics of that over all processes.
    """

    def __init__(
        self,
        student: Detector,
        teacher: Detector,
        weight: float | None = None,
        levels: int = 4,
        boxes: Literal["all", "size"] = "all",
        pair: PairBy = "index",
        resize: Resize = "larger",
        normalize: bool = False,
        sync: bool = False,
    ) -> None:
        super().__init__()
        check_choice("resize", resize, RESIZE)
        check_choice("boxes", boxes, ("all", "size"))
        shapes = shape_of(student), shape_of(teacher)
        self.pairs = match_levels(*shapes, levels, pair, same_channels=False)
        self.adapters = adapters(*shapes, self.pairs)
        self.weight = default_weight(weight, normalize, teacher)
        self.resize: Resize = resize
        self.by_size, self.normalize, self.sync = boxes == "size", normalize, sync

    def forward(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        objects = objects_of(batch)
        total = student.features.levels[0].new_zeros((), dtype=torch.float32)
        pairs = pair_maps(student.features, teacher.features, self.pairs, self.resize)
        for level, (adapt, maps) in enumerate(zip(self.adapters, pairs)):
            ours = adapt(maps.student)
            chosen = of_level(objects, level, len(pairs)) if self.by_size else objects
            mask = object_mask(chosen, (ours.shape[-2], ours.shape[-1]), maps.stride)
            total = total + masked_mean(squared_difference(ours, maps.teacher, self.normalize, self.sync), mask)
        return {"loss_gt_mask": self.weight * total}


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the channels of a mask's cells: (B, C, h, w) and (B, 1, h, w) -> (); 0 where the mask is empty."""
    cells = mean_over_ranks(mask.sum(), least=1)
    return (values.mean(dim=1, keepdim=True) * mask).sum() / cells


def halved_mean(squares: Tensor, mask: Tensor) -> Tensor:
    """Half the weighted mean over cells and channels: (B, C, h, w) and (B, 1, h, w) -> ().

    As the released codes write it: the sum over ``max(1, 2 * C * sum of the mask)``.
    """
    return (squares * mask).sum() / (2 * mean_over_ranks(mask.sum() * squares.shape[1], least=0.5))


def default_weight(weight: float | None, normalize: bool, teacher: Detector) -> float:
    """The weight given, or else PKD's for normalised maps and 10 for others."""
    if weight is not None:
        return float(weight)
    return published_weight(teacher) if normalize else 10.0
