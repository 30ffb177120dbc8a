"""Random choice among assigned candidates: two-stage detectors learn from a few hundred of a hundred thousand."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pkdzoo.models.assigners.max_iou import NEGATIVE


@dataclass(frozen=True)
class Sampling:
    """How many candidates of an image are learned from.

    Attributes:
        count: positives and negatives together.
        positive_share: positives are at most this share of ``count``; negatives fill up what positives leave.
    """

    count: int
    positive_share: float


@torch.no_grad()
def sample(matched: Tensor, sampling: Sampling | None) -> tuple[Tensor, Tensor]:
    """Choose positives and negatives at random; only torch's own generator decides.

    Args:
        matched: (P,) as :func:`pkdzoo.models.assigners.max_iou.match_by_iou` returns it.
        sampling: how many; None takes every positive and every negative.

    Returns:
        Indices of the positives and of the negatives, each ascending.
    """
    positives = (matched >= 0).nonzero().squeeze(1)
    negatives = (matched == NEGATIVE).nonzero().squeeze(1)
    if sampling is None:
        return positives, negatives
    positives = choose(positives, int(sampling.count * sampling.positive_share))
    return positives, choose(negatives, sampling.count - len(positives))


def choose(candidates: Tensor, count: int) -> Tensor:
    """At most ``count`` of the candidates, ascending, each equally likely."""
    if len(candidates) <= count:
        return candidates
    order = torch.randperm(len(candidates), device=candidates.device)
    return candidates[order[:count].sort().values]
