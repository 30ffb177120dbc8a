"""What one pass through a detector computes: pyramid, head outputs, tapped maps, targets, losses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from pkdzoo.structures import DenseTargets, FeaturePyramid, HeadOutputs, Instances, Priors

Depth = Literal["features", "head", "loss"]
DEPTHS: tuple[Depth, ...] = ("features", "head", "loss")


@dataclass
class Taps:
    """Tower maps kept half-way, a list of L for each branch; ``after`` is the block they come from, before its ReLU."""

    cls: list[Tensor]
    reg: list[Tensor]
    after: int


@dataclass
class Trace:
    """What one pass left behind; what was not asked for is None.

    Attributes:
        model: the detector that ran.
        features: its pyramid.
        outputs: raw outputs of the dense head (two-stage: of the RPN).
        taps: tower maps, when ``tap`` was given.
        priors: where the dense head looked.
        proposals: two-stage: (N, 4) boxes of each image for the RoI heads.
        regions: two-stage: of each image the regions that the heads learned objects from, with their labels.
        targets: what each prior should have said.
        losses: weighted losses by name.
    """

    model: Any
    features: FeaturePyramid
    outputs: HeadOutputs | None = None
    taps: Taps | None = None
    priors: Priors | None = None
    proposals: list[Tensor] | None = None
    regions: list[Instances] | None = None
    targets: DenseTargets | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)
