"""Traces: what one pass through a detector computes, one type for each depth of the pass.

``Detector.trace`` returns a :class:`Trace` for ``upto="features"``, a :class:`HeadTrace` for ``"head"`` and a
:class:`LossTrace` for ``"loss"``. Each type has every field of the type before it. The types are generic over the
detector's class: ``HeadTrace[DenseDetector]`` has a ``model`` with the methods of a dense detector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, NamedTuple, TypeVar

from torch import Tensor, nn

from pkdzoo.structures import DenseTargets, FeaturePyramid, HeadOutputs, Instances, Priors

Depth = Literal["features", "head", "loss"]
DEPTHS: tuple[Depth, ...] = ("features", "head", "loss")
Model = TypeVar("Model", bound=nn.Module, covariant=True)


class Taps(NamedTuple):
    """Maps kept from inside the towers of a dense head.

    Attributes:
        cls: maps of the class tower, one per level, before the ReLU of their block.
        reg: maps of the box tower, likewise.
        after: number of the block that the maps come from; 0 means the pyramid itself.
    """

    cls: Sequence[Tensor] = ()
    reg: Sequence[Tensor] = ()
    after: int = 0


NO_TAPS = Taps()


@dataclass(frozen=True)
class Trace(Generic[Model]):
    """A pass up to the features.

    Attributes:
        model: the detector that ran.
        features: its pyramid.

    Example:
        >>> import pkdzoo, torch
        >>> model = pkdzoo.create_detector("retina_r10w16")
        >>> trace = model.trace(pkdzoo.Batch(torch.rand(1, 3, 64, 96) * 255, [(64, 96)]), upto="features")
        >>> type(trace).__name__, len(trace.features.levels)
        ('Trace', 5)
    """

    model: Model
    features: FeaturePyramid


@dataclass(frozen=True)
class HeadTrace(Trace[Model]):
    """A pass up to the head (of a two-stage detector: up to the proposals).

    Attributes:
        outputs: raw outputs of the dense head (two-stage: of the RPN).
        priors: the anchors or points that the outputs belong to.
        taps: maps of the towers; empty unless ``tap`` was given.
        proposals: two-stage: boxes (N, 4) of each image for the RoI heads; one-stage: empty.
    """

    outputs: HeadOutputs
    priors: Priors
    taps: Taps = field(default=NO_TAPS, kw_only=True)
    proposals: list[Tensor] = field(default_factory=list, kw_only=True)


@dataclass(frozen=True)
class LossTrace(HeadTrace[Model]):
    """A pass up to the losses.

    Attributes:
        targets: training targets of the priors.
        losses: weighted losses by name.
        regions: two-stage: the positive regions of each image that the RoI heads were trained on, with their labels;
            one-stage: empty.
    """

    targets: DenseTargets
    losses: dict[str, Tensor]
    regions: list[Instances] = field(default_factory=list, kw_only=True)
