"""Channel-wise distillation of normalized maps: how the published RTMDet students were distilled (MMYOLO, mmrazor).

PKD's idea, scale and offset of a channel do not matter, with CWD's loss. The compared maps are the outputs of the
neck's last convolutions before their norm and activation. The student's pass a 1x1 convolution without bias to the
teacher's width; then both are normalized with the statistics of the batch, also in eval mode, without trained scale or
offset; see :func:`pkdzoo.losses.norm_cwd`.

In the published runs the method ends with epoch 280 of 300, when mosaic ends too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pkdzoo.distill.base import DistillMethod
from pkdzoo.distill.pairing import PairBy, PyramidPairs, Resize
from pkdzoo.losses import norm_cwd
from pkdzoo.models.detector import Detector
from pkdzoo.models.trace import Trace
from pkdzoo.structures import Batch


class NormCWD(DistillMethod):
    """CWD of the maps before the neck's last norm, normalized by channel over the batch.

    Args:
        student: detector that learns.
        teacher: any detector whose neck gives these maps; its width may differ from the student's.
        weight: of the sum over levels.
        temperature: of the softmax over locations.
        levels: pairs of levels, counted from the finest; None means all that both pyramids have.
        pair: ``index`` or ``stride``.
        resize: what to do with maps of different size.
        stop_epoch: number of epochs, counted from the first, with this loss; after them it is zero. None means all.

    Raises:
        ValueError: for a neck that does not give the maps before its norm, or a detector after ``optimize()``.
    """

    takes_unlabeled = True

    def __init__(
        self,
        student: Detector,
        teacher: Detector,
        weight: float = 1.0,
        temperature: float = 1.0,
        levels: int | None = None,
        pair: PairBy = "index",
        resize: Resize = "larger",
        stop_epoch: int | None = 280,
    ) -> None:
        super().__init__()
        self.pairs = PyramidPairs(student, teacher, levels, pair, resize, "always", bias=False, where="before_norm")
        self.weight, self.temperature, self.stop_epoch = float(weight), float(temperature), stop_epoch

    def forward(self, student: Trace[Detector], teacher: Trace[Detector], batch: Batch) -> dict[str, Tensor]:
        if self.has_ended:
            return {"loss_norm_cwd": self.zero_loss(student.features.levels[0])}
        maps = self.pairs(student.features, teacher.features)
        losses = [norm_cwd(s, t, self.temperature) for s, t, _ in maps]
        return {"loss_norm_cwd": self.weight * torch.stack(losses).sum()}

    def extra_repr(self) -> str:
        return f"weight={self.weight}, temperature={self.temperature}, stop_epoch={self.stop_epoch}"
