"""Whose failure rate stands out from the pool's, by a rule that works for two backends as for a thousand.

Within the last window, k of a backend's n requests failed, and K of N at all the others of its pool that are in use.
It is an outlier when
1. n >= 20 and N >= 20: a handful of requests says nothing;
2. k/n >= K/N + 0.10 and k/n >= 2 * K/N: the difference matters. Where all fail alike, or many requests make a small
   difference certain, to eject one would help nobody;
3. chance does not explain it: were the k + K failures dealt out to the n + N requests at random, this backend would
   get k or more of them with a probability of at most 1e-6 / (backends with traffic). This is Fisher's exact test,
   one-sided. It holds for any sizes, and takes the uncertainty of K/N into account, as a test against a fixed rate
   does not.

Looks are made once per step of the window; and at every fifth failure of a backend, at its last 20 to 40 requests,
with the hundredth part of that probability: one that begins to fail half of its requests is out after some twenty of
them, however well it did before.

Error rate: in a pool whose backends are all alike, at most one look in a million ejects anybody, however many
backends it has. With a look per second (the default window) that is below one in eleven days in which the pool fails
without end; truly less, since windows overlap and 1 and 2 must hold too. It supposes that failures are
independent: a burst at one backend counts as its own.
Power: one that fails half of the time beside good ones at 20 requests/s each is found within 2 s (3 s if there is
only one other). Where more than half of a pool fails alike, nobody stands out.
The usual rule (below mean - 1.9 standard deviations) cannot fire with fewer than five backends: the largest
deviation among n is sqrt(n - 1).
"""

from collections import deque
from math import exp, lgamma

MIN_REQUESTS = 20
MIN_GAP = 0.10
MIN_RATIO = 2.0
CHANCE = 1e-6
CHANCE_AT_ONCE = 1e-8  # of a look between two windows' steps, of which there may be a hundred times as many
FAILURES_PER_LOOK = 5
RECENT_MAX = 40  # requests; of more, the older half fades
MAX_BUCKETS = 10


def buckets_of(window: float) -> int:
    """Steps in which a window moves: ten, but none shorter than the second in which workers report successes."""
    return max(1, min(MAX_BUCKETS, int(window)))


def chance_of(failures: int, requests: int, other_failures: int, other_requests: int) -> float:
    """An upper bound of the probability that chance gives this backend that many of all the failures, or more.

    The hypergeometric tail, bounded by a geometric series from its first term: O(1), and exact when no other failed.
    """
    ratio = (requests - failures) * other_failures / ((failures + 1) * (other_requests - other_failures + 1))
    if ratio >= 1.0:
        return 1.0  # not above what is expected
    first = (
        _log_choose(requests, failures)
        + _log_choose(other_requests, other_failures)
        - _log_choose(requests + other_requests, failures + other_failures)
    )
    return min(1.0, exp(first) / (1.0 - ratio))


def _log_choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)


class _Tally:
    __slots__ = ("failures", "requests")

    def __init__(self) -> None:
        self.requests = 0
        self.failures = 0


class FailureRates:
    """Requests and failures of a pool's backends over a window that moves in buckets. O(1) per report."""

    __slots__ = ("_buckets", "_recent", "_requests", "_sums", "_total_failures", "_total_requests", "_window")

    def __init__(self, window: float) -> None:
        self._window = window
        self._sums: dict[int, _Tally] = {}
        self._recent: dict[int, _Tally] = {}
        self._buckets: deque[dict[int, _Tally]] = deque({} for _ in range(buckets_of(window)))
        self._total_requests = 0
        self._total_failures = 0

    def add(self, slot: int, requests: int, failures: int) -> None:
        """Count requests, and how many of them failed, in the newest bucket."""
        for tallies in (self._sums, self._buckets[-1]):
            tally = tallies.get(slot)
            if tally is None:
                tally = tallies[slot] = _Tally()
            tally.requests += requests
            tally.failures += failures
        self._total_requests += requests
        self._total_failures += failures
        recent = self._recent.get(slot)
        if recent is None:
            recent = self._recent[slot] = _Tally()
        recent.requests += requests
        recent.failures += failures
        if recent.requests > RECENT_MAX:
            kept = RECENT_MAX / 2 / recent.requests
            recent.requests, recent.failures = RECENT_MAX // 2, int(recent.failures * kept)

    def move_on(self) -> None:
        """Begin a new bucket and forget the oldest. O(backends with traffic in it)."""
        for slot, old in self._buckets.popleft().items():
            tally = self._sums[slot]
            tally.requests -= old.requests
            tally.failures -= old.failures
            self._total_requests -= old.requests
            self._total_failures -= old.failures
            if not tally.requests:
                del self._sums[slot]
                self._recent.pop(slot, None)
        self._buckets.append({})

    def forget(self, slot: int) -> None:
        """Drop what is known of a backend: it left, or was ejected and starts afresh."""
        self._recent.pop(slot, None)
        tally = self._sums.pop(slot, None)
        if tally is None:
            return
        self._total_requests -= tally.requests
        self._total_failures -= tally.failures
        for bucket in self._buckets:
            bucket.pop(slot, None)

    def suspects(self) -> list[int]:
        """Backends that may be outliers, the worst first. O(backends with traffic)."""
        rates = [
            (tally.failures / tally.requests, slot)
            for slot, tally in self._sums.items()
            if tally.requests >= MIN_REQUESTS and tally.failures >= MIN_GAP * tally.requests
        ]
        return [slot for _, slot in sorted(rates, reverse=True)]

    def evidence_at_once(self, slot: int) -> str | None:
        """Why its latest requests make it an outlier, right after a failure; None when they do not. O(1)."""
        recent = self._recent[slot]
        if self._sums[slot].failures % FAILURES_PER_LOOK or recent.requests < MIN_REQUESTS:
            return None
        return self._judge(slot, recent, CHANCE_AT_ONCE, "of the last {requests} requests failed ({rate:.0%})")

    def evidence(self, slot: int) -> str | None:
        """Why this backend is an outlier, in words and figures; None when it is none."""
        tally = self._sums[slot]
        return self._judge(slot, tally, CHANCE, f"of {{requests}} requests failed ({{rate:.0%}}) in {self._window:g} s")

    def _judge(self, slot: int, own: _Tally, chance: float, words: str) -> str | None:
        requests, failures, whole = own.requests, own.failures, self._sums[slot]
        other_requests = self._total_requests - whole.requests
        other_failures = self._total_failures - whole.failures
        if requests < MIN_REQUESTS or other_requests < MIN_REQUESTS:
            return None
        rate, other_rate = failures / requests, other_failures / other_requests
        if rate < other_rate + MIN_GAP or rate < MIN_RATIO * other_rate:
            return None
        if chance_of(failures, requests, other_failures, other_requests) > chance / len(self._sums):
            return None
        told = words.format(requests=requests, rate=rate)
        return f"{failures} {told}, at the pool's others {other_failures} of {other_requests} ({other_rate:.0%})"
