"""Quantiles, paired differences and intervals over a few seeds, checked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from pkdzoo.training import intervals


def test_the_quantiles_are_those_of_students_t() -> None:
    """0.95 of the area under the density lies between -t and t, for a t that rounds to the table's three digits."""
    for freedom in (1, 2, 4, 9, 29):
        t, areas = intervals.t_quantile(freedom), []
        for end in (t - 0.0005, t + 0.0005):
            x = torch.linspace(-end, end, 200_001, dtype=torch.float64)
            density = torch.distributions.StudentT(torch.tensor(float(freedom), dtype=torch.float64)).log_prob(x).exp()
            areas.append(float(torch.trapezoid(density, x)))
        assert areas[0] <= 0.95 <= areas[1]
    assert intervals.t_quantile(100) == intervals.t_quantile(30) > 1.96
    assert list(intervals.T_975) == sorted(intervals.T_975, reverse=True)
    with pytest.raises(ValueError, match="two numbers or more"):
        intervals.t_quantile(0)


def test_differences_are_paired_by_seed() -> None:
    """By hand: 1, 2, 3 have mean 2, deviation 1, and half the interval is 4.303 / sqrt(3)."""
    found = intervals.paired({0: 11.0, 1: 22.0, 2: 33.0, 7: 99.0}, {0: 10.0, 1: 20.0, 2: 30.0})
    assert (found.count, found.mean, found.deviation) == (3, 2.0, 1.0)
    assert found.half == pytest.approx(4.303 / math.sqrt(3)) and found.low < 0 < found.high
    assert intervals.verdict(found) == "undecided: the interval contains 0"
    five = intervals.summarize([1.0, 2.0, 3.0, 4.0, 5.0])  # deviation sqrt(2.5), 2.776 with 4 degrees of freedom
    assert (five.mean, five.low) == (3.0, pytest.approx(3 - 2.776 * math.sqrt(2.5 / 5)))
    assert intervals.verdict(five) == "seen" and intervals.interval(five) == "+3.0 [+1.0, +5.0]"
    assert intervals.verdict(intervals.paired({0: 1.0, 1: 2.0}, {0: 5.0, 1: 6.1})) == "contradicted"
    near = intervals.Summary(5, 1.1, 0.9, 1.08)
    assert intervals.verdict(near) == "seen" and intervals.interval(near) == "+1.10 [+0.02, +2.18]"
    one = intervals.summarize([4.0])
    assert (one.deviation, one.half, intervals.verdict(one)) == (None, None, "one seed: undecided")
    assert intervals.paired({0: 1.0}, {1: 1.0}) is None and intervals.verdict(None) == "not run"
