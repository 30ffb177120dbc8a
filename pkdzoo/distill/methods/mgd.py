"""MGD: masked generative distillation (Yang et al. 2022, arXiv:2205.01529).

The student must be able to restore the teacher's map from a part of its own. In each image a random share of the
locations of the student's map is set to 0, in all channels; two 3x3 convolutions with a ReLU between them restore it:

    loss_mgd = weight * sum over levels of 1 / B * sum of (teacher - restored(mask * student))^2

A location is kept where a random number of 0..1 is at most 1 - ``masked``; what is kept is not rescaled. Each level has
its own mask and its own convolutions, which train with the student and are dropped with it. As the authors' FeatureLoss
and mmrazor's MGDConnector with MGDLoss, which agree.

Both take the maps before the pyramid's last norm, which of the published detectors only RepPoints has;
``before_norm=False`` takes the pyramid. Published with it: gradients clipped at 35; neck and head of the teacher copied
into a student of the same type (``inherit=("neck", "head")`` in a recipe).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pkdzoo.distill.base import DistillMethod, by_family
from pkdzoo.distill.imitation import squared_difference
from pkdzoo.distill.pairing import Adapter, PairBy, PyramidPairs, Resize, require_unfolded
from pkdzoo.models.detector import Detector
from pkdzoo.models.trace import Trace
from pkdzoo.structures import Batch, FeaturePyramid
from pkdzoo.utils.text import counted

Draws = Sequence[Tensor] | Callable[[int, tuple[int, ...]], Tensor]

# weight, masked share, levels; families that are not listed are one-stage
PUBLISHED = {"two_stage": (5e-7, 0.45, 4)}
ONE_STAGE = (2e-5, 0.65, 5)


class Restoration(nn.Sequential):
    """Two 3x3 convolutions with a ReLU between them: (B, width, h, w) -> the same shape."""

    def __init__(self, width: int) -> None:
        super().__init__(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(width, width, 3, padding=1)
        )


class MGD(DistillMethod):
    """Masked generative distillation.

    Args:
        student: detector that learns.
        teacher: any detector.
        weight: None: as published, 5e-7 for a two-stage student, 2e-5 for others.
        masked: share of the locations that is set to 0, 0..1. None: 0.45 for a two-stage student, 0.65 for others.
        levels: pairs of levels, counted from the finest. None: those that both have, at most 4 for a two-stage student,
            5 for others.
        mask_channels: set whole channels to 0 instead of locations.
        before_norm: take the maps before the pyramid's last norm.
        draws: the random numbers, 0..1, for tests: a tensor for each level, or a function of the level and the shape,
            which is (B, 1, h, w), with ``mask_channels`` (B, channels, 1, 1). None: torch's global generator.
        pair: ``index`` or ``stride``.
        resize: what to do with maps of different size.
        adapter: where numbers of channels differ: ``False`` refuses them, ``True`` projects the student's map by a
            trained 1x1 convolution; ``"conv"`` does so at every level, ``"conv_norm"`` with a norm after it.

    Example:
        >>> import pkdzoo, torch
        >>> student, teacher = (pkdzoo.create_detector("retina_r10w16") for _ in range(2))
        >>> draws = lambda level, shape: torch.linspace(0, 1, shape[2] * shape[3]).reshape(1, 1, *shape[2:])
        >>> method = pkdzoo.Distiller(student, teacher, {"mgd": {"masked": 0.5, "draws": draws}}).methods["mgd"]
        >>> method.mask(0, torch.rand(1, 64, 1, 6)).flatten().tolist()  # draws of 0, 0.2 and 0.4 are kept
        [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    """

    takes_unlabeled = True

    def __init__(
        self,
        student: Detector,
        teacher: Detector,
        weight: float | None = None,
        masked: float | None = None,
        levels: int | None = None,
        mask_channels: bool = False,
        before_norm: bool = True,
        draws: Draws | None = None,
        pair: PairBy = "index",
        resize: Resize = "larger",
        adapter: Adapter = True,
    ) -> None:
        super().__init__()
        of_family = by_family(PUBLISHED, student, ONE_STAGE)
        weight = of_family[0] if weight is None else weight
        masked = of_family[1] if masked is None else masked
        if not 0 <= masked <= 1:
            raise ValueError(f"masked={masked}: write the share of the locations that is set to 0, between 0 and 1")
        if before_norm:
            require_unfolded(student)
            require_unfolded(teacher)
        self.pairs = PyramidPairs(student, teacher, levels, pair, resize, most=of_family[2], adapter=adapter)
        if draws is not None and not callable(draws) and len(draws) != len(self.pairs):
            raise ValueError(
                f"draws holds {counted(len(draws), 'tensor')}: write one for each of the {len(self.pairs)} levels"
            )
        self.restorations = nn.ModuleList(Restoration(width) for width in self.pairs.teacher_channels)
        self.weight, self.masked = float(weight), float(masked)
        self.mask_channels, self.before_norm, self.draws = mask_channels, before_norm, draws

    def forward(self, student: Trace[Detector], teacher: Trace[Detector], batch: Batch) -> dict[str, Tensor]:
        features = [self.maps_of(t.features) for t in (student, teacher)]
        terms = []
        for level, (maps, restore) in enumerate(zip(self.pairs(*features), self.restorations)):
            restored = restore(maps.student * self.mask(level, maps.student))
            terms.append(squared_difference(restored, maps.teacher, normalize=False).sum() / len(restored))
        return {"loss_mgd": self.weight * torch.stack(terms).sum()}

    def maps_of(self, features: FeaturePyramid) -> FeaturePyramid:
        """The maps that are compared; of a neck that gives none from before its norm, its outputs."""
        raw = features.before_norm
        return FeaturePyramid(raw, features.strides) if self.before_norm and raw else features

    def mask(self, level: int, maps: Tensor) -> Tensor:
        """1 where a map (B, C, h, w) is kept, else 0: (B, 1, h, w), or (B, C, 1, 1) with ``mask_channels``."""
        batch, channels, height, width = maps.shape
        shape = (batch, channels, 1, 1) if self.mask_channels else (batch, 1, height, width)
        if self.draws is None:
            numbers = torch.rand(shape, device=maps.device)
        else:
            numbers = (self.draws(level, shape) if callable(self.draws) else self.draws[level]).to(maps.device)
            if numbers.shape != shape:
                raise ValueError(f"draws of level {level} are of shape {tuple(numbers.shape)}, write {shape}")
        return (numbers <= 1 - self.masked).to(maps.dtype)

    def extra_repr(self) -> str:
        return f"weight={self.weight}, masked={self.masked}"
