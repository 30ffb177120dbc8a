"""MSE: plain imitation of a pyramid, FitNet-like (Romero et al. 2015), the first baseline of the PKD paper.

Mean squared difference of the maps, summed over levels. Tables 5 and 8 of the PKD paper; the weights differ by pair
there (5 and 10 for RetinaNet students, 70 for GFL to FCOS, 3 to 10 for Swin to Faster R-CNN).

``normalize=True`` is the "+ PKD" of table 4: channels are normalized first, as PKD does. Whether the half and the
weight of PKD or the method's own weight belong to it is not printed; here they are PKD's, so that ``mse`` with it is
PKD itself. Reduction over the batch and level set are not printed either; they are PKD's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pkdzoo.distill.imitation import PyramidMethod, squared_difference
from pkdzoo.distill.pairing import Adapter, PairBy, Resize, Where
from pkdzoo.models.detector import Detector
from pkdzoo.models.trace import Trace
from pkdzoo.structures import Batch


class MSE(PyramidMethod):
    """Mean squared difference of the maps.

    Args:
        student: detector that learns.
        teacher: any detector.
        weight: None: 10, or PKD's with ``normalize``.
        levels: pairs of levels, counted from the finest; None means those that both have, at most four.
        pair: ``index`` or ``stride``.
        resize: what to do with maps of different size.
        normalize: normalize channels first, as PKD does.
        sync: statistics of that normalization over all processes.
        adapter: where numbers of channels differ: ``False`` refuses them, ``True`` projects the student's map by a
            trained 1x1 convolution; ``"conv"`` does so at every level, ``"conv_norm"`` with a norm after it.
        where: the maps that are compared: ``neck`` (the pyramids) or ``backbone`` (the backbones' maps).
    """

    takes_unlabeled = True

    def __init__(
        self,
        student: Detector,
        teacher: Detector,
        weight: float | None = None,
        levels: int | None = None,
        pair: PairBy = "index",
        resize: Resize = "larger",
        normalize: bool = False,
        sync: bool = False,
        adapter: Adapter = True,
        where: Where = "neck",
    ) -> None:
        super().__init__(student, teacher, weight, levels, pair, resize, adapter, where, normalize, sync)

    def forward(self, student: Trace[Detector], teacher: Trace[Detector], batch: Batch) -> dict[str, Tensor]:
        total = student.features.levels[0].new_zeros((), dtype=torch.float32)
        for maps in self.pairs(student.features, teacher.features):
            total = total + squared_difference(maps.student, maps.teacher, self.normalize, self.sync).mean()
        return {"loss_mse": self.weight * total}
