"""Random sampling of assigned candidates."""

from __future__ import annotations

import pytest
import torch

from pkdzoo.models.assigners.max_iou import NEGATIVE, SKIPPED
from pkdzoo.models.assigners.sampling import Sampling, sample


def matches(positives: int, negatives: int, skipped: int = 5) -> torch.Tensor:
    parts = [torch.arange(positives) % 3, torch.full((negatives,), NEGATIVE), torch.full((skipped,), SKIPPED)]
    return torch.cat(parts)[torch.randperm(positives + negatives + skipped)]


@pytest.mark.parametrize(
    ("positives", "negatives", "chosen"),
    [
        (40, 100, (4, 12)),  # positives are limited to a quarter
        (2, 100, (2, 14)),  # negatives take the rest
        (0, 100, (0, 16)),
        (40, 3, (4, 3)),  # positives do not take the rest
        (0, 0, (0, 0)),
    ],
)
def test_counts(positives: int, negatives: int, chosen: tuple[int, int]) -> None:
    matched = matches(positives, negatives)
    taken = sample(matched, Sampling(16, 0.25))
    assert (len(taken[0]), len(taken[1])) == chosen
    assert (matched[taken[0]] >= 0).all()
    assert (matched[taken[1]] == NEGATIVE).all()
    for indices in taken:
        assert len(indices.unique()) == len(indices)


def test_without_sampling_everything_but_the_skipped_is_taken() -> None:
    matched = matches(40, 100)
    positives, negatives = sample(matched, None)
    assert (len(positives), len(negatives)) == (40, 100)


def test_torch_seed_decides() -> None:
    matched = matches(40, 100)
    sampling = Sampling(16, 0.25)
    torch.manual_seed(1)
    first = torch.cat(sample(matched, sampling))
    again = torch.cat(sample(matched, sampling))
    torch.manual_seed(1)
    assert torch.equal(torch.cat(sample(matched, sampling)), first)
    assert not torch.equal(again, first)


def test_every_candidate_is_equally_likely() -> None:
    torch.manual_seed(0)
    matched = matches(0, 20, skipped=0)
    counts = torch.zeros(20)
    for _ in range(2000):
        counts[sample(matched, Sampling(5, 0.5))[1]] += 1
    assert (counts / 2000 - 0.25).abs().max() < 0.05  # five standard deviations
