"""Statistics over a few seeds; needs no torch.

Differences are paired by seed: a student and the plain student of the same seed start from the same weights and see the
same images in the same order, so what the seed does to both cancels. The interval is that of Student's t at 95 % over
these differences. It does not cover other data sets, teachers or budgets. If it contains 0, no difference is shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Quantiles of Student's t at 97.5 %, by degrees of freedom 1 to 30.
T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True)
class Summary:
    """Numbers of several seeds.

    Attributes:
        count: number of seeds.
        mean: mean of the numbers.
        deviation: sample standard deviation (n - 1); None for one seed.
        half: half the width of the 95 % interval of the mean; None for one seed.
    """

    count: int
    mean: float
    deviation: float | None
    half: float | None

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return -math.inf if self.half is None else self.mean - self.half

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return math.inf if self.half is None else self.mean + self.half


def t_quantile(freedom: int) -> float:
    """Quantile of Student's t at 97.5 %. Above 30 degrees of freedom that of 30, which is slightly too wide."""
    if freedom < 1:
        raise ValueError(f"{freedom} degrees of freedom: an interval needs two numbers or more")
    return T_975[min(freedom, len(T_975)) - 1]


def summarize(values: Sequence[float]) -> Summary:
    """Mean, deviation and interval.

    Raises:
        ValueError: without any number.
    """
    if not values:
        raise ValueError("no number to summarize")
    count, mean = len(values), math.fsum(values) / len(values)
    if count == 1:
        return Summary(1, mean, None, None)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    return Summary(count, mean, deviation, t_quantile(count - 1) * deviation / math.sqrt(count))


def minus(ours: Mapping[int, float], than: Mapping[int, float]) -> dict[int, float]:
    """Differences by seed, for the seeds that both have."""
    return {seed: ours[seed] - than[seed] for seed in sorted(set(ours) & set(than))}


def paired(ours: Mapping[int, float], than: Mapping[int, float]) -> Summary | None:
    """Summary of the differences for the seeds that both have; None if they share no seed."""
    differences = minus(ours, than)
    return summarize(list(differences.values())) if differences else None


def verdict(difference: Summary | None) -> str:
    """Whether a difference is above 0, as claimed."""
    if difference is None:
        return "not run"
    if difference.half is None:
        return "one seed: undecided"
    if difference.low > 0:
        return "seen"
    return "contradicted" if difference.high < 0 else "undecided: the interval contains 0"


def spread(summary: Summary) -> str:
    """Mean and standard deviation as text."""
    return f"{summary.mean:.1f}" + ("" if summary.deviation is None else f" ± {summary.deviation:.1f}")


def interval(difference: Summary | None) -> str:
    """A difference and its interval as text."""
    if difference is None:
        return ""
    if difference.half is None:
        return f"{difference.mean:+.1f} (one seed)"
    ends = (difference.low, difference.high)
    digits = 1 if all(end == 0 or abs(end) >= 0.05 for end in ends) else 2  # show on which side of 0 an end is
    mean, low, high = (f"{value:+.{digits}f}" for value in (difference.mean, *ends))
    return f"{mean} [{low}, {high}]".replace("-0.0 [", "0.0 [")
