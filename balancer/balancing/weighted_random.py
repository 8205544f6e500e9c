"""Random choice in proportion to the weights, by an alias table.

Intuition: cut a bar of length n into n columns of height 1. Weight the backends so that they average 1; those
below 1 leave room in their column, which is filled from one backend above 1. Then every column holds at most two
backends, and one draw says both which column and where in it (Walker 1977; the exact linear build is Vose 1991).
"""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from balancer.balancing.backend import BackendState
from balancer.balancing.random_choice import DRAWS_MAX
from balancer.errors import Outcome

if TYPE_CHECKING:
    from random import Random


def alias_table(weights: Sequence[int]) -> tuple[list[float], list[int]]:
    """Per column: the share that is its own backend's, and the index of the backend that has the rest.

    O(n). Shares are computed in integers, so rounding happens once per column and never adds up.
    """
    count, total = len(weights), sum(weights)
    room = [weight * count for weight in weights]  # in units of 1/total of a column
    alias = list(range(count))
    share = [1.0] * count
    small = [index for index, height in enumerate(room) if height < total]
    large = [index for index, height in enumerate(room) if height > total]
    while small:
        low, high = small.pop(), large[-1]
        share[low] = room[low] / total
        alias[low] = high
        room[high] -= total - room[low]
        if room[high] <= total:
            large.pop()
            if room[high] < total:
                small.append(high)
    return share, alias


class WeightedRandom:
    """Each backend with chance weight / sum of weights: O(1) a pick, O(n) at worst with a large `exclude`."""

    __slots__ = ("_alias", "_backends", "_share", "_weights")

    counts_attempts = False
    honours_weights = True

    def __init__(self) -> None:
        self._backends: list[BackendState] = []
        self._weights: list[int] = []
        self._share: list[float] = []
        self._alias: list[int] = []

    def rebuild(self, eligible: Sequence[BackendState], weights: Sequence[int]) -> None:
        """Build the table. O(n)."""
        self._backends = list(eligible)
        self._weights = list(weights)
        self._share, self._alias = alias_table(weights)

    def pick(
        self, *, now: float, key: bytes | None, exclude: Collection[BackendState], rng: "Random"
    ) -> BackendState | None:
        """One draw; its whole part names the column, its fraction the backend in it."""
        backends = self._backends
        count = len(backends)
        if not count:
            return None
        for _ in range(DRAWS_MAX):
            place = rng.random() * count
            column = int(place)
            backend = backends[column if place - column < self._share[column] else self._alias[column]]
            if backend not in exclude:
                return backend
        return self._pick_among_rest(exclude, rng)

    def _pick_among_rest(self, exclude: Collection[BackendState], rng: "Random") -> BackendState | None:
        rest = [pair for pair in zip(self._backends, self._weights, strict=True) if pair[0] not in exclude]
        place = rng.random() * sum(weight for _, weight in rest)
        for backend, weight in rest:
            place -= weight
            if place < 0:
                return backend
        # Rounding may leave `place` at 0 after the last one.
        return rest[-1][0] if rest else None

    def started(self, backend: BackendState, now: float) -> None:
        """A draw does not depend on load."""

    def finished(self, backend: BackendState, outcome: Outcome, latency: float, first_byte: float, now: float) -> None:
        """A draw does not depend on outcomes."""
