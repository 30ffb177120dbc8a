"""Channels as probability distributions over places: CWD, and PKD in its KL form.

- ``cwd``: channel-wise knowledge distillation for dense prediction (Shu et al. 2021, arXiv:2011.13256). Published uses:
  all five levels of the pyramid with weight 10 each, or the class logits of a GFL head with weight 5 (mmrazor 0.x;
  which levels it took is inferred: all). Softmax over one image's places.
- ``norm_kl``: PKD's normalisation, then KL at temperature 50 (table 7 of its paper), softmax over the places of the
  whole batch. No code was released; the mean over channels is inferred.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pkdzoo.distill.base import DistillMethod, require_same_heads
from pkdzoo.distill.pairing import RESIZE, PairBy, Resize, check_choice, match_levels, pair_maps, shape_of, to_one_size
from pkdzoo.losses.distillation import cwd, norm_kl
from pkdzoo.models.detector import Detector
from pkdzoo.models.trace import Trace
from pkdzoo.structures import Batch


class CWD(DistillMethod):
    """Channel-wise distillation of the pyramid or of the class logits.

    Args:
        student: detector that learns.
        teacher: of equal channels; for ``target="cls"`` of the same kind, classes, strides and priors.
        weight: None: 10 for features, 5 for class logits.
        tau: temperature.
        target: ``features`` or ``cls``.
        levels: pairs of levels, counted from the finest.
        pair: ``index`` or ``stride``.
        resize: what to do with maps of different size.
    """

    def __init__(
        self,
        student: Detector,
        teacher: Detector,
        weight: float | None = None,
        tau: float = 1.0,
        target: Literal["features", "cls"] = "features",
        levels: int = 5,
        pair: PairBy = "index",
        resize: Resize = "larger",
    ) -> None:
        super().__init__()
        check_choice("target", target, ("features", "cls"))
        check_choice("resize", resize, RESIZE)
        on_logits = target == "cls"
        if on_logits:
            require_same_heads(student, teacher, "cwd of class logits")
            self.teacher_depth = "head"
        self.pairs = match_levels(shape_of(student), shape_of(teacher), levels, pair, same_channels=not on_logits)
        self.weight = (5.0 if on_logits else 10.0) if weight is None else float(weight)
        self.tau, self.on_logits = float(tau), on_logits
        self.resize: Resize = resize

    def forward(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        if self.on_logits:
            assert student.outputs is not None and teacher.outputs is not None
            ours, theirs = student.outputs.cls, teacher.outputs.cls
            maps = [to_one_size(ours[i], theirs[j], self.resize) for i, j in self.pairs]
        else:
            maps = [pair[:2] for pair in pair_maps(student.features, teacher.features, self.pairs, self.resize)]
        return {"loss_cwd": self.weight * torch.stack([cwd(s, t, self.tau) for s, t in maps]).sum()}


class NormKL(DistillMethod):
    """PKD with KL instead of the squared difference; the same number as the temperature grows.

    Args:
        student: detector that learns.
        teacher: of equal channels.
        weight: 10, as published for one-stage teachers.
        temperature: T.
        levels: pairs of levels, counted from the finest.
        pair: ``index`` or ``stride``.
        resize: what to do with maps of different size.
    """

    def __init__(
        self,
        student: Detector,
        teacher: Detector,
        weight: float = 10.0,
        temperature: float = 50.0,
        levels: int = 4,
        pair: PairBy = "index",
        resize: Resize = "larger",
    ) -> None:
        super().__init__()
        check_choice("resize", resize, RESIZE)
        self.pairs = match_levels(shape_of(student), shape_of(teacher), levels, pair)
        self.weight, self.temperature = float(weight), float(temperature)
        self.resize: Resize = resize

    def forward(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        maps = pair_maps(student.features, teacher.features, self.pairs, self.resize)
        losses = [norm_kl(s, t, self.temperature) for s, t, _ in maps]
        return {"loss_norm_kl": self.weight * torch.stack(losses).sum()}
