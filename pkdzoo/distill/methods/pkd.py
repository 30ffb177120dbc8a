"""PKD: general distillation framework for object detectors via Pearson correlation coefficient (arXiv:2207.02039).

The student's pyramid imitates the teacher's, each channel normalised to mean 0 and deviation 1 over the batch; see
:func:`pkdzoo.losses.pearson`. As mmrazor's ``pkd_fpn_*`` configurations: levels 0 to 3 of both pyramids, paired
by index, one weight for all levels, summed over levels, no adapter, no mask, no warm-up.

Differs from mmrazor in three places. The teacher is in eval mode (there a Swin teacher drops paths while it teaches),
each detector normalises the pixels its own way (there the student's statistics feed both), and ``resize="larger"`` is
the paper's rule (there the student is always resized; the same for every published pair).
"""

from __future__ import annotations

from torch import Tensor

from pkdzoo.distill.base import DistillMethod
from pkdzoo.distill.pairing import RESIZE, PairBy, Resize, check_choice, match_levels, pair_maps, shape_of
from pkdzoo.losses.distillation import pearson_correlation
from pkdzoo.models.detector import Detector
from pkdzoo.models.trace import Trace
from pkdzoo.structures import Batch


class PKD(DistillMethod):
    """Imitate the teacher's pyramid up to gain and offset of each channel.

    The teacher's head never runs, and its classes don't matter. ``logs`` holds Pearson's r of each level.

    Args:
        student: detector that learns.
        teacher: any detector whose pyramid is as wide.
        weight: None for the published one: 6 with a two-stage teacher, 10 with a one-stage teacher.
        levels: pairs of levels, counted from the finest.
        pair: ``index`` as published, or ``stride``.
        resize: what to do with maps of different size, see :func:`pkdzoo.distill.pairing.pair_maps`.
        sync: statistics over all processes; published runs took each process's own two images.
    """

    def __init__(
        self,
        student: Detector,
        teacher: Detector,
        weight: float | None = None,
        levels: int = 4,
        pair: PairBy = "index",
        resize: Resize = "larger",
        sync: bool = False,
    ) -> None:
        super().__init__()
        check_choice("resize", resize, RESIZE)
        self.pairs = match_levels(shape_of(student), shape_of(teacher), levels, pair)
        self.weight = published_weight(teacher) if weight is None else float(weight)
        self.resize: Resize = resize
        self.sync = sync

    def forward(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        maps = pair_maps(student.features, teacher.features, self.pairs, self.resize)
        found = [pearson_correlation(s, t, self.sync) for s, t, _ in maps]
        self.logs = {f"r{i}": r for i, (_, r) in enumerate(found)}
        return {"loss_pkd": self.weight * sum((loss for loss, _ in found[1:]), found[0][0])}

    def extra_repr(self) -> str:
        return f"weight={self.weight}, levels={self.pairs}"


def published_weight(teacher: Detector) -> float:
    """6 with a two-stage teacher, 10 with a one-stage teacher."""
    return 6.0 if teacher.two_stage else 10.0
