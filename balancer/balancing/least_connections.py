"""Fewest exchanges in flight per unit of weight, all workers counted; equals go to the least recently picked."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from balancer.balancing.backend import BackendState, LoadTable
from balancer.errors import Outcome

if TYPE_CHECKING:
    from random import Random


class LeastConnections:
    """The backend with the fewest in flight per weight. O(n)."""

    __slots__ = ("_loads", "_offset", "_order")

    counts_attempts = True

    def __init__(self, loads: LoadTable, offset: float = 0.0) -> None:
        """`offset` in [0, 1) says where in the first list the turns among equals begin."""
        self._loads = loads
        self._offset = offset
        self._order: list[tuple[BackendState, int, int]] = []

    def rebuild(self, eligible: Sequence[BackendState], weights: Sequence[int]) -> None:
        """Take a new list."""
        self._order = [(backend, backend.slot, weight) for backend, weight in zip(eligible, weights, strict=True)]

    def pick(
        self, *, now: float, key: bytes | None, exclude: Collection[BackendState], rng: "Random"
    ) -> BackendState | None:
        """The first of the least loaded in the order of picks, which the list keeps."""
        total = self._loads.total
        best, best_load = -1, 0.0
        for index, (backend, slot, weight) in enumerate(self._order):
            load = total(slot) / weight
            if (best < 0 or load < best_load) and backend not in exclude:
                best, best_load = index, load
        if best < 0:
            return None
        entry = self._order.pop(best)
        self._order.append(entry)
        return entry[0]

    def started(self, backend: BackendState, now: float) -> None:
        """Nothing yet."""

    def finished(self, backend: BackendState, outcome: Outcome, latency: float, first_byte: float, now: float) -> None:
        """Nothing yet."""
