"""What one pass through a detector takes and leaves behind: pixels, thresholds, tapped maps, the trace."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from pkdzoo.structures import DenseTargets, FeaturePyramid, HeadOutputs, Instances, Priors

if TYPE_CHECKING:
    from pkdzoo.models.base import Detector

Depth = Literal["features", "head", "loss"]
DEPTHS: tuple[Depth, ...] = ("features", "head", "loss")


@dataclass(frozen=True)
class Pixels:
    """How a detector wants its pixels: statistics in its own channel order, of values 0-255."""

    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    std: tuple[float, ...] = (58.395, 57.12, 57.375)
    order: Literal["rgb", "bgr"] = "rgb"


@dataclass(frozen=True)
class Inference:
    """From head outputs to detections.

    Attributes:
        score: candidates must score more than this.
        candidates: of each level, at most so many go into suppression.
        iou: overlap at which a worse box of the same class is dropped.
        top: detections a picture.
    """

    score: float = 0.05
    candidates: int = 1000
    iou: float = 0.5
    top: int = 100


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
        proposals: two-stage: (N, 4) boxes of each picture for the RoI heads.
        regions: two-stage: of each picture the regions that the heads learned objects from, with their labels.
        targets: what each prior should have said.
        losses: weighted losses by name.
    """

    model: Detector
    features: FeaturePyramid
    outputs: HeadOutputs | None = None
    taps: Taps | None = None
    priors: Priors | None = None
    proposals: list[Tensor] | None = None
    regions: list[Instances] | None = None
    targets: DenseTargets | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)
