"""PKD: general distillation framework for object detectors via Pearson correlation coefficient (arXiv:2207.02039).

The student's pyramid imitates the teacher's, each channel normalized to mean 0 and deviation 1 over the batch; see
:func:`pkdzoo.losses.pearson`. As mmrazor's ``pkd_fpn_*`` configurations: levels 0 to 3 of both pyramids, paired
by index, one weight for all levels, summed over levels, no projection, no mask, no warm-up.

Differs from mmrazor in three points. The teacher is in eval mode (there a Swin teacher drops paths during
distillation), each detector normalizes the pixels with its own statistics (there the student's statistics are used for
both), and ``resize="larger"`` is the paper's rule (there the student is always resized; the same for every published
pair).
"""

from __future__ import annotations

from torch import Tensor

from pkdzoo.distill.imitation import PyramidMethod
from pkdzoo.distill.pairing import Adapter, PairBy, Resize, Where
from pkdzoo.losses import pearson_correlation
from pkdzoo.models.detector import Detector
from pkdzoo.models.trace import Trace
from pkdzoo.structures import Batch


class PKD(PyramidMethod):
    """Imitate the teacher's pyramid up to gain and offset of each channel.

    The teacher's head never runs, and its classes may differ from the student's. ``logs`` holds Pearson's r of each
    level.

    Args:
        student: detector that learns.
        teacher: any detector; with other numbers of channels write ``adapter=True``.
        weight: None for the published one: 6 with a two-stage teacher, 10 with a one-stage teacher.
        levels: pairs of levels, counted from the finest; None means those that both have, at most four.
        pair: ``index`` as published, or ``stride``.
        resize: what to do with maps of different size, see :func:`pkdzoo.distill.pairing.pair_maps`.
        sync: statistics over all processes; in published runs each process used its own two images.
        adapter: where numbers of channels differ: ``False`` refuses them, ``True`` projects the student's map by a
            trained 1x1 convolution; ``"conv"`` does so at every level, ``"conv_norm"`` with a norm after it.
        where: the maps that are compared: ``neck`` (the pyramids, as published), ``backbone`` (the backbones' maps) or
            ``before_norm`` (the pyramids before the neck's last norm and activation, as ``norm_cwd`` takes them).
        stop_epoch: number of epochs, counted from the first, with this loss; after them it is zero. None means all.
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
        sync: bool = False,
        adapter: Adapter = False,
        where: Where = "neck",
        stop_epoch: int | None = None,
    ) -> None:
        super().__init__(student, teacher, weight, levels, pair, resize, adapter, where, normalize=True, sync=sync)
        self.stop_epoch = stop_epoch

    def forward(self, student: Trace[Detector], teacher: Trace[Detector], batch: Batch) -> dict[str, Tensor]:
        if self.has_ended:
            self.logs = {}
            return {"loss_pkd": self.zero_loss(student.features.levels[0])}
        maps = self.pairs(student.features, teacher.features)
        results = [pearson_correlation(pair.student, pair.teacher, self.sync) for pair in maps]
        self.logs = {f"r{i}": r for i, (_, r) in enumerate(results)}
        return {"loss_pkd": self.weight * sum((loss for loss, _ in results[1:]), results[0][0])}
