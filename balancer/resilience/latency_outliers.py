"""Backends that answer far more slowly than their pool: their share of the traffic is lowered, never taken.

Times to the first byte are averaged in lots: all that is reported in one or more buckets of the window, at least ten
requests. A lot is slow when its mean is above three times the median of the others' latest lots and more than 20 ms
above it. Three slow lots in a row lower the share to median / mean, not below 1 %. So a single long request, which
may well outweigh a whole lot, lowers nothing. A lot that is no longer slow doubles the share, and so does
each window in which there is nothing to judge by: a share that is low brings few requests, and must not stay low for
lack of them.

At least three backends with recent lots are needed. Of two, a broken one that answers 404 in no time would make the
good one the outlier; among three, the median is a majority's.
"""

from bisect import bisect_left
from math import inf

from balancer.resilience.ejection import Decision, Verdict

LOT = 10  # requests
SLOW_LOTS = 3
SLOW_RATIO, SLOW_GAP = 3.0, 0.020
FINE_RATIO, FINE_GAP = 2.0, 0.010  # below these it recovers; in between nothing changes
FRESH = 3.0  # windows for which a lot stands for its backend
FLOOR = 0.01
STEP = 1.5  # a share that is low already is lowered by no less than this factor


class _Pace:
    __slots__ = ("count", "judged_at", "mean", "mean_at", "noticed", "share", "slow_lots", "total")

    def __init__(self) -> None:
        self.count = 0  # of the lot that is being collected
        self.total = 0.0
        self.mean = 0.0  # of the latest whole lot
        self.mean_at = -inf
        self.judged_at = -inf
        self.slow_lots = 0
        self.share = 1.0
        self.noticed = False  # mode observe: said already


class LatencyOutliers:
    """Times to the first byte of a pool's backends, and the share that they leave to each. O(1) per report."""

    __slots__ = ("_paces",)

    def __init__(self) -> None:
        self._paces: dict[int, _Pace] = {}

    def add(self, slot: int, count: int, first_byte_sum: float) -> None:
        """`count` requests went well and took this many seconds to the first byte in all."""
        pace = self._paces.get(slot)
        if pace is None:
            pace = self._paces[slot] = _Pace()
        pace.count += count
        pace.total += first_byte_sum

    def forget(self, slot: int) -> None:
        """Drop what is known of a backend; its share is whole again."""
        self._paces.pop(slot, None)

    def share(self, slot: int) -> float:
        """What is left of the backend's weight, 0.01 to 1."""
        pace = self._paces.get(slot)
        return 1.0 if pace is None else pace.share

    def release(self, evidence: str) -> list[Decision]:
        """Forget everything; whole shares for all whose share was lowered."""
        lowered = [slot for slot, pace in self._paces.items() if pace.share < 1.0]
        self._paces = {}
        return [Decision(slot, Verdict.SPED_UP, "latency", f"{evidence}; share 100%") for slot in lowered]

    def look(self, now: float, window: float, *, observe: bool) -> list[Decision]:
        """Judge the lots that are whole: at the end of each bucket. O(n log n) of the backends with traffic."""
        for pace in self._paces.values():
            if pace.count >= LOT:
                pace.mean = pace.total / pace.count
                pace.mean_at = now
        oldest = now - FRESH * window
        means = sorted(pace.mean for pace in self._paces.values() if pace.mean_at >= oldest)
        decisions = []
        for slot, pace in self._paces.items():
            whole = pace.count >= LOT
            if not whole and (pace.share == 1.0 or now < pace.judged_at + window):
                continue
            others = _median_without(means, pace.mean if pace.mean_at >= oldest else None)
            decision = _judge(slot, pace, others, observe=observe)
            if decision is not None:
                decisions.append(decision)
            pace.judged_at = now
            pace.count, pace.total = 0, 0.0
        return decisions


def _median_without(means: list[float], own: float | None) -> float | None:
    """The median of sorted means without `own`; None when fewer than two are left."""
    skip = len(means) if own is None else bisect_left(means, own)
    left = len(means) - (own is not None)
    if left < 2:
        return None
    low, high = (left - 1) // 2, left // 2
    return (means[low + (low >= skip)] + means[high + (high >= skip)]) / 2.0


def _judge(slot: int, pace: _Pace, others: float | None, *, observe: bool) -> Decision | None:
    if others is None or not pace.count:
        pace.slow_lots = 0
        return _raise_share(slot, pace, "nothing to judge it by")
    mean = pace.total / pace.count
    if mean <= FINE_RATIO * others or mean <= others + FINE_GAP:
        pace.slow_lots = 0
        pace.noticed = False
        return None if pace.share == 1.0 else _raise_share(slot, pace, _figures(mean, others))
    if mean <= SLOW_RATIO * others or mean <= others + SLOW_GAP:
        pace.slow_lots = 0
        return None
    if pace.count < LOT:
        return None
    pace.slow_lots = min(pace.slow_lots + 1, SLOW_LOTS)
    if pace.slow_lots < SLOW_LOTS:
        return None
    if observe:
        said, pace.noticed = pace.noticed, True
        return None if said else Decision(slot, Verdict.OBSERVED, "latency", _figures(mean, others))
    share = max(FLOOR, others / mean)
    if share * STEP > pace.share:
        return None
    pace.share = share
    return Decision(slot, Verdict.SLOWED, "latency", f"{_figures(mean, others)}; share {share:.0%}")


def _figures(mean: float, others: float) -> str:
    return f"first byte after {mean * 1000:.0f} ms on average, {others * 1000:.0f} ms at the pool's others"


def _raise_share(slot: int, pace: _Pace, evidence: str) -> Decision | None:
    if pace.share == 1.0:
        return None
    pace.share = min(1.0, 2.0 * pace.share)
    return Decision(slot, Verdict.SPED_UP, "latency", f"{evidence}; share {pace.share:.0%}")
