"""Fewest exchanges in flight per unit of weight, all workers counted; equals go to the least recently picked.

Up to EXACT_MAX backends every count of every worker is read at every pick: a few are looked at one by one, more are
kept in order by a `LoadOrder`. Above EXACT_MAX the order stays exact in what this worker does and is at most 50 ms
late in what the others do.
"""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from balancer.balancing.backend import BackendState, LoadTable
from balancer.balancing.load_order import LoadOrder
from balancer.errors import Outcome

if TYPE_CHECKING:
    from random import Random

SCAN_MAX = 8
"""Backends that are looked at one by one; past some ten, keeping them in order is the cheaper way."""
EXACT_MAX = 64
"""Backends whose counts are all read at every pick."""
AGE_MAX = 0.045
"""How old other workers' counts may be above that, in seconds; 50 ms are promised."""


class LeastConnections:
    """The backend with the fewest in flight per weight.

    A pick is O(n * workers) up to EXACT_MAX backends; above, O(distinct weights + log n) amortised, besides a share
    of reading the other workers' counts that is bounded per second, not per pick (`LoadOrder`).
    """

    __slots__ = ("_loads", "_offset", "_order", "_ranked")

    counts_attempts = True
    honours_weights = True

    def __init__(self, loads: LoadTable, offset: float = 0.0) -> None:
        """`offset` in [0, 1) says who of the first list counts as least recently picked.

        Each worker gives a random one, so that not all of them send their first request to the same backend.
        """
        self._loads = loads
        self._offset = offset
        self._ranked: list[tuple[BackendState, int, int]] = []  # backend, slot, weight; least recently picked first
        self._order: LoadOrder | None = None  # instead of _ranked, above SCAN_MAX

    def rebuild(self, eligible: Sequence[BackendState], weights: Sequence[int]) -> None:
        """Take a new list; who stays keeps its place among the picks, newcomers count as never picked. O(n log n)."""
        if self._order is not None:
            before = self._order.least_recently_picked()
        else:
            before = [backend for backend, _, _ in self._ranked]
        entries = list(zip(eligible, weights, strict=True))
        if before:
            rank = {backend: place for place, backend in enumerate(before)}
            entries.sort(key=lambda entry: rank.get(entry[0], -1))
        else:
            first = int(self._offset * len(entries))
            entries = entries[first:] + entries[:first]
        if len(entries) > SCAN_MAX:
            self._ranked = []
            self._order = LoadOrder(self._loads, entries, AGE_MAX if len(entries) > EXACT_MAX else 0.0)
        else:
            self._ranked = [(backend, backend.slot, weight) for backend, weight in entries]
            self._order = None

    def pick(
        self, *, now: float, key: bytes | None, exclude: Collection[BackendState], rng: "Random"
    ) -> BackendState | None:
        """The least loaded; among equals the least recently picked."""
        if self._order is not None:
            return self._order.pick(now, exclude)
        ranked = self._ranked
        own, others = self._loads.own, self._loads.others
        best = -1
        best_load = 0.0
        for index, (backend, slot, weight) in enumerate(ranked):
            count = own[slot]
            for row in others:
                count += row[slot]
            # Division rounds correctly, so loads are equal exactly where the fractions are (below 2**26 each).
            load = count / weight
            if (best < 0 or load < best_load) and backend not in exclude:
                best, best_load = index, load
                if not count:
                    break  # none can be less
        if best < 0:
            return None
        entry = ranked.pop(best)
        ranked.append(entry)
        return entry[0]

    def started(self, backend: BackendState, now: float) -> None:
        """Its in-flight cell was raised. O(log n), amortised."""
        if self._order is not None:
            self._order.count_again(backend)

    def finished(self, backend: BackendState, outcome: Outcome, latency: float, first_byte: float, now: float) -> None:
        """Its in-flight cell was lowered. O(log n), amortised."""
        if self._order is not None:
            self._order.count_again(backend)
