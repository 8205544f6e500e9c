"""Uniform choice: every backend with the same chance, whatever came before."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from balancer.balancing.backend import BackendState
from balancer.errors import Outcome

if TYPE_CHECKING:
    from random import Random

# Draws that may hit a backend to leave out before the rest is listed; past it a list is the cheaper way.
DRAWS_MAX = 8


class RandomChoice:
    """Uniform among the eligible backends: O(1) a pick, O(n) at worst when `exclude` holds most of them.

    Weights are ignored.
    """

    __slots__ = ("_backends",)

    counts_attempts = False
    honours_weights = False

    def __init__(self) -> None:
        self._backends: list[BackendState] = []

    def rebuild(self, eligible: Sequence[BackendState], weights: Sequence[int]) -> None:
        """Take the list."""
        self._backends = list(eligible)

    def pick(
        self, *, now: float, key: bytes | None, exclude: Collection[BackendState], rng: "Random"
    ) -> BackendState | None:
        """Draw again while the drawn one is left out: what remains is uniform over the others."""
        backends = self._backends
        if not backends:
            return None
        if not exclude:
            return backends[int(rng.random() * len(backends))]
        for _ in range(DRAWS_MAX):
            backend = backends[int(rng.random() * len(backends))]
            if backend not in exclude:
                return backend
        rest = [backend for backend in backends if backend not in exclude]
        return rest[int(rng.random() * len(rest))] if rest else None

    def started(self, backend: BackendState, now: float) -> None:
        """A draw does not depend on load."""

    def finished(self, backend: BackendState, outcome: Outcome, latency: float, first_byte: float, now: float) -> None:
        """A draw does not depend on outcomes."""
