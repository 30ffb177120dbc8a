"""What the methods that imitate feature maps share: their constructor, squared differences, means, default weights."""

from __future__ import annotations

from torch import Tensor

from pkdzoo.distill.base import DistillMethod
from pkdzoo.distill.pairing import Adapter, PairBy, PyramidPairs, Resize, Where
from pkdzoo.losses import normalize_channels
from pkdzoo.models.detector import Detector
from pkdzoo.ops.reduce import mean_over_ranks
from pkdzoo.utils.precision import float32_or_wider

PROJECTION_STD = 1e-4  # as FGFI and DeFeat were released: their projections start at nearly zero


def squared_difference(student: Tensor, teacher: Tensor, normalize: bool, sync: bool = False) -> Tensor:
    """Squared difference of each element, in float32 or wider. The teacher gets no gradient.

    Args:
        student: (B, C, h, w).
        teacher: (B, C, h, w).
        normalize: apply PKD's normalization first, and return half the squared difference.
        sync: statistics of that normalization over all processes.
    """
    teacher = teacher.detach()
    if normalize:
        return 0.5 * (normalize_channels(student, sync) - normalize_channels(teacher, sync)).square()
    return (float32_or_wider(student) - float32_or_wider(teacher)).square()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over channels and the locations of a mask: (B, C, h, w) and (B, 1, h, w) -> (); 0 for an empty mask."""
    locations = mean_over_ranks(mask.sum(), least=1)
    return (values.mean(dim=1, keepdim=True) * mask).sum() / locations


def halved_mean(squares: Tensor, mask: Tensor) -> Tensor:
    """Half the weighted mean over locations and channels: (B, C, h, w) and (B, 1, h, w) -> ().

    As the released codes write it: the sum over ``max(1, 2 * C * sum of the mask)``.
    """
    return (squares * mask).sum() / (2 * mean_over_ranks(mask.sum() * squares.shape[1], least=0.5))


def published_pkd_weight(teacher: Detector) -> float:
    """PKD's weight: 6 with a two-stage teacher, 10 with a one-stage teacher."""
    return 6.0 if teacher.two_stage else 10.0


def default_weight(weight: float | None, normalize: bool, teacher: Detector) -> float:
    """``weight`` if it is given; otherwise PKD's for normalized maps and 10 for others."""
    if weight is not None:
        return float(weight)
    return published_pkd_weight(teacher) if normalize else 10.0


class PyramidMethod(DistillMethod):
    """Base class of the methods that compare pairs of pyramid levels under one weight.

    Args:
        student: detector that learns.
        teacher: detector it learns from.
        weight: None: PKD's with ``normalize``, 10 without.
        levels: pairs of levels, counted from the finest; None means those that both have, at most ``most_levels``.
        pair: ``index`` or ``stride``.
        resize: what to do with maps of different size, see :func:`pkdzoo.distill.pairing.pair_maps`.
        adapter: what to do where numbers of channels differ, see :class:`pkdzoo.distill.pairing.PyramidPairs`; None
            means that they do not matter.
        where: the maps that are compared, see :class:`pkdzoo.distill.pairing.PyramidPairs`.
        normalize: whether the method normalizes channels as PKD does.
        sync: statistics of that normalization over all processes.

    Attributes:
        most_levels: largest number of pairs where their number is not given.
    """

    most_levels = 4

    def __init__(
        self,
        student: Detector,
        teacher: Detector,
        weight: float | None,
        levels: int | None,
        pair: PairBy,
        resize: Resize,
        adapter: Adapter | None = False,
        where: Where = "neck",
        normalize: bool = False,
        sync: bool = False,
    ) -> None:
        super().__init__()
        self.pairs = PyramidPairs(
            student, teacher, levels, pair, resize, "never", most=self.most_levels, adapter=adapter, where=where
        )
        self.weight = default_weight(weight, normalize, teacher)
        self.normalize, self.sync = normalize, sync

    def extra_repr(self) -> str:
        return f"weight={self.weight}"
