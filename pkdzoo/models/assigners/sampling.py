"""Random sampling of assigned candidates: two-stage detectors compute losses on a few hundred of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pkdzoo.models.assigners.max_iou import NEGATIVE


@dataclass(frozen=True)
class Sampling:
    """Number of sampled candidates per image.

    Attributes:
        count: number of positives and negatives together.
        positive_share: maximum share of positives in ``count``, 0..1; the rest are negatives.
    """

    count: int
    positive_share: float


@torch.no_grad()
def sample(matched: Tensor, sampling: Sampling | None) -> tuple[Tensor, Tensor]:
    """Sample positives and negatives with torch's global random generator.

    Args:
        matched: (P,) as returned by :func:`pkdzoo.models.assigners.max_iou.match_by_iou`.
        sampling: sample sizes; None means all positives and all negatives.

    Returns:
        Indices of the positives and of the negatives, each in ascending order.
    """
    positives = (matched >= 0).nonzero().squeeze(1)
    negatives = (matched == NEGATIVE).nonzero().squeeze(1)
    if sampling is None:
        return positives, negatives
    positives = choose(positives, int(sampling.count * sampling.positive_share))
    return positives, choose(negatives, sampling.count - len(positives))


def choose(candidates: Tensor, count: int) -> Tensor:
    """A uniform random sample of at most ``count`` candidates, in ascending order."""
    if len(candidates) <= count:
        return candidates
    order = torch.randperm(len(candidates), device=candidates.device)
    return candidates[order[:count].sort().values]
