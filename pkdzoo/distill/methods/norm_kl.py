"""Norm + KL: PKD in its KL form (arXiv:2207.02039, section 3.4 and table 7).

PKD's normalization, then KL divergence at temperature 50 between channels as probability distributions over the
locations of the whole batch, see :func:`pkdzoo.losses.norm_kl`. No code was released; the mean over channels is
inferred.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pkdzoo.distill.imitation import PyramidMethod
from pkdzoo.distill.pairing import Adapter, PairBy, Resize, Where
from pkdzoo.losses import norm_kl
from pkdzoo.models.detector import Detector
from pkdzoo.models.trace import Trace
from pkdzoo.structures import Batch


class NormKL(PyramidMethod):
    """PKD with KL divergence instead of the squared difference; equal to it in the limit of a large temperature.

    Args:
        student: detector that learns.
        teacher: any detector; with other numbers of channels write ``adapter=True``.
        weight: 10, as published for one-stage teachers.
        temperature: T.
        levels: pairs of levels, counted from the finest; None means those that both have, at most four.
        pair: ``index`` or ``stride``.
        resize: what to do with maps of different size.
        adapter: where numbers of channels differ: ``False`` refuses them, ``True`` projects the student's map by a
            trained 1x1 convolution; ``"conv"`` does so at every level, ``"conv_norm"`` with a norm after it.
        where: the maps that are compared: ``neck`` (the pyramids) or ``backbone`` (the backbones' maps).
    """

    takes_unlabeled = True

    def __init__(
        self,
        student: Detector,
        teacher: Detector,
        weight: float = 10.0,
        temperature: float = 50.0,
        levels: int | None = None,
        pair: PairBy = "index",
        resize: Resize = "larger",
        adapter: Adapter = False,
        where: Where = "neck",
    ) -> None:
        super().__init__(student, teacher, weight, levels, pair, resize, adapter, where, normalize=True)
        self.temperature = float(temperature)

    def forward(self, student: Trace[Detector], teacher: Trace[Detector], batch: Batch) -> dict[str, Tensor]:
        maps = self.pairs(student.features, teacher.features)
        losses = [norm_kl(s, t, self.temperature) for s, t, _ in maps]
        return {"loss_norm_kl": self.weight * torch.stack(losses).sum()}
