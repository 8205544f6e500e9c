"""Strict turns: every backend once, in the file's order, before any a second time."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from balancer.balancing.backend import BackendState
from balancer.errors import Outcome

if TYPE_CHECKING:
    from random import Random


class RoundRobin:
    """Backends in turn. A pick is O(1), plus O(left out) when `exclude` names the ones whose turn it is.

    While the list stands, the numbers of picks of any two backends differ by at most one. Weights are ignored.
    """

    __slots__ = ("_backends", "_next", "_offset")

    counts_attempts = False
    honours_weights = False

    def __init__(self, offset: float = 0.0) -> None:
        """`offset` in [0, 1) says where in the first list the turns begin.

        Each worker gives a random one, so that not all of them send their first request to the same backend.
        """
        self._offset = offset
        self._backends: list[BackendState] = []
        self._next = 0

    def rebuild(self, eligible: Sequence[BackendState], weights: Sequence[int]) -> None:
        """Go on with the backend whose turn it is, or, if it left, with the next one that stayed. O(n)."""
        old, turn = self._backends, self._next
        self._backends = list(eligible)
        if not old:
            self._next = int(self._offset * len(self._backends))
            return
        place = {backend: index for index, backend in enumerate(self._backends)}
        in_turn = old[turn:] + old[:turn]
        self._next = next((place[backend] for backend in in_turn if backend in place), 0)

    def pick(
        self, *, now: float, key: bytes | None, exclude: Collection[BackendState], rng: "Random"
    ) -> BackendState | None:
        """The backend whose turn it is; those in `exclude` lose theirs."""
        backends = self._backends
        index = self._next
        for _ in backends:
            backend = backends[index]
            index += 1
            if index == len(backends):
                index = 0
            if backend not in exclude:
                self._next = index
                return backend
        return None

    def started(self, backend: BackendState, now: float) -> None:
        """Turns do not depend on load."""

    def finished(self, backend: BackendState, outcome: Outcome, latency: float, first_byte: float, now: float) -> None:
        """Turns do not depend on outcomes."""
