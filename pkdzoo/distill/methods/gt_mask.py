"""GT mask: imitation of a pyramid at the objects alone, a baseline of the PKD paper (arXiv:2207.02039, table 4).

As ``mse``, but only at locations that overlap an object. The paper gives no more than that: rounding, the use of every
level and the normalizer ``C * locations`` are inferred. ``normalize=True`` is the "+ PKD" of the table, see ``mse``.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pkdzoo.distill.imitation import PyramidMethod, masked_mean, squared_difference
from pkdzoo.distill.masks import object_mask, objects_of, select_level
from pkdzoo.distill.pairing import Adapter, PairBy, Resize, Where, check_choice
from pkdzoo.models.detector import Detector
from pkdzoo.models.trace import Trace
from pkdzoo.structures import Batch


class GTMask(PyramidMethod):
    """Mean squared difference at the locations that overlap an object.

    Args:
        student: detector that learns.
        teacher: any detector.
        weight: None: 10, or PKD's with ``normalize``.
        levels: pairs of levels, counted from the finest; None means those that both have, at most four.
        boxes: ``all``: an object counts at every level; ``size``: only at the level that fits its size.
        pair: ``index`` or ``stride``.
        resize: what to do with maps of different size.
        normalize: normalize channels first, as PKD does.
        sync: statistics of that normalization over all processes.
        adapter: where numbers of channels differ: ``False`` refuses them, ``True`` projects the student's map by a
            trained 1x1 convolution; ``"conv"`` does so at every level, ``"conv_norm"`` with a norm after it.
        where: the maps that are compared: ``neck`` (the pyramids) or ``backbone`` (the backbones' maps).
    """

    def __init__(
        self,
        student: Detector,
        teacher: Detector,
        weight: float | None = None,
        levels: int | None = None,
        boxes: Literal["all", "size"] = "all",
        pair: PairBy = "index",
        resize: Resize = "larger",
        normalize: bool = False,
        sync: bool = False,
        adapter: Adapter = True,
        where: Where = "neck",
    ) -> None:
        check_choice("boxes", boxes, ("all", "size"))
        super().__init__(student, teacher, weight, levels, pair, resize, adapter, where, normalize, sync)
        self.by_size = boxes == "size"

    def forward(self, student: Trace[Detector], teacher: Trace[Detector], batch: Batch) -> dict[str, Tensor]:
        objects = objects_of(batch)
        total = student.features.levels[0].new_zeros((), dtype=torch.float32)
        for level, maps in enumerate(self.pairs(student.features, teacher.features)):
            chosen = select_level(objects, level, len(self.pairs)) if self.by_size else objects
            mask = object_mask(chosen, (maps.student.shape[-2], maps.student.shape[-1]), maps.stride)
            squares = squared_difference(maps.student, maps.teacher, self.normalize, self.sync)
            total = total + masked_mean(squares, mask)
        return {"loss_gt_mask": self.weight * total}
