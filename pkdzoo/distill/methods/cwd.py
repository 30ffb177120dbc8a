"""CWD: channel-wise knowledge distillation for dense prediction (Shu et al. 2021, arXiv:2011.13256).

Every channel of a map is a probability distribution over the locations of its image; the student's learns from the
teacher's by KL divergence, see :func:`pkdzoo.losses.cwd`. Published uses: all five levels of the pyramid with weight
10 each, or the class logits of a GFL head with weight 5 (mmrazor 0.x; which levels it took is inferred: all).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pkdzoo.distill.base import require_same_heads
from pkdzoo.distill.imitation import PyramidMethod
from pkdzoo.distill.pairing import Adapter, PairBy, Resize, Where, check_choice
from pkdzoo.losses import cwd
from pkdzoo.models.detector import Detector
from pkdzoo.models.trace import HeadTrace, Trace
from pkdzoo.structures import Batch, FeaturePyramid


class CWD(PyramidMethod):
    """Channel-wise distillation of the pyramid or of the class logits.

    Args:
        student: detector that learns.
        teacher: any detector; with other numbers of channels write ``adapter=True``. For ``where="cls"`` of the same
            kind, classes, strides and priors.
        weight: None: 10 for the pyramid, 5 for class logits.
        temperature: of the softmax over locations.
        where: ``neck`` (the pyramid), ``backbone`` (the backbone's maps) or ``cls`` (the class logits).
        levels: pairs of levels, counted from the finest; None means those that both have, at most five.
        pair: ``index`` or ``stride``.
        resize: what to do with maps of different size.
        adapter: where numbers of channels differ: ``False`` refuses them, ``True`` projects the student's map by a
            trained 1x1 convolution; ``"conv"`` does so at every level, ``"conv_norm"`` with a norm after it.
    """

    most_levels = 5

    def __init__(
        self,
        student: Detector,
        teacher: Detector,
        weight: float | None = None,
        temperature: float = 1.0,
        where: Literal["neck", "backbone", "cls"] = "neck",
        levels: int | None = None,
        pair: PairBy = "index",
        resize: Resize = "larger",
        adapter: Adapter = False,
    ) -> None:
        check_choice("where", where, ("neck", "backbone", "cls"))
        on_logits = where == "cls"
        if on_logits:
            require_same_heads(student, teacher, "cwd of class logits")
            weight = 5.0 if weight is None else weight
        if where == "cls" and adapter:
            raise ValueError('adapter projects feature maps: leave it out beside where="cls"')
        at: Where = "neck" if where == "cls" else where
        super().__init__(student, teacher, weight, levels, pair, resize, None if on_logits else adapter, at)
        self.temperature, self.on_logits, self.takes_unlabeled = float(temperature), on_logits, not on_logits
        if on_logits:
            self.teacher_depth = "head"

    def forward(self, student: Trace[Detector], teacher: Trace[Detector], batch: Batch) -> dict[str, Tensor]:
        maps = self.pairs(self.target_maps(student), self.target_maps(teacher))
        return {"loss_cwd": self.weight * torch.stack([cwd(s, t, self.temperature) for s, t, _ in maps]).sum()}

    def target_maps(self, trace: Trace[Detector]) -> FeaturePyramid:
        """The maps that are compared: the pyramid, or class logits."""
        if self.on_logits and isinstance(trace, HeadTrace):
            return FeaturePyramid(trace.outputs.cls, trace.features.strides)
        return trace.features
