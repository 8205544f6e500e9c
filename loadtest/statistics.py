"""Means and ratios over rounds, with 95 % intervals (Student's t)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Two-sided 95 % points of Student's t by degrees of freedom; beyond the table the normal's 1.96 is near enough.
# fmt: off
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)
# fmt: on
ROUNDS_TO_WIN = 5


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its 95 % interval. With one round there is no interval: low = high = NaN."""

    value: float
    low: float
    high: float

    def overlaps(self, other: "Estimate") -> bool:
        """True when the intervals share a point, and also when one of them is not known."""
        return not (self.high < other.low or other.high < self.low)


def t95(freedom: int) -> float:
    """The two-sided 95 % point for `freedom` >= 1 degrees of freedom."""
    return _T95[freedom - 1] if freedom <= len(_T95) else 1.96


def mean(samples: Sequence[float]) -> Estimate:
    """Arithmetic mean of at least one sample."""
    count = len(samples)
    middle = math.fsum(samples) / count
    if count < 2:
        return Estimate(middle, math.nan, math.nan)
    variance = math.fsum((sample - middle) ** 2 for sample in samples) / (count - 1)
    half = t95(count - 1) * math.sqrt(variance / count)
    return Estimate(middle, middle - half, middle + half)


def ratio(above: Sequence[float], below: Sequence[float]) -> Estimate:
    """Geometric mean of above/below, paired by round: what disturbs a round disturbs both sides of it.

    The interval is Student's t on the logarithms, so it is right for a ratio and its inverse alike.
    """
    logs = mean([math.log(a / b) for a, b in zip(above, below, strict=True)])
    return Estimate(math.exp(logs.value), math.exp(logs.low), math.exp(logs.high))


def verdict(ours: Sequence[float], peer: Sequence[float]) -> str:
    """`won`, `lost` or `tie` for a figure of which less is better; a tie when the intervals overlap.

    Fewer than five rounds decide nothing.
    """
    if min(len(ours), len(peer)) < ROUNDS_TO_WIN:
        return "too few rounds"
    mine, theirs = mean(ours), mean(peer)
    if mine.overlaps(theirs):
        return "tie"
    return "won" if mine.value < theirs.value else "lost"
