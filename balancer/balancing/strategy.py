"""What every strategy is: the contract that retries, ejection, limits and drain rest on."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Protocol

from balancer.balancing.backend import BackendState
from balancer.errors import Outcome

if TYPE_CHECKING:
    from random import Random


class Strategy(Protocol):
    """How a pool picks a backend among the eligible ones.

    Who may be picked is decided outside: `rebuild` is given the eligible backends (weight 0 and drained ones
    are not among them) and `pick` a small set to leave out (already tried, or full). Not thread-safe.

    `counts_attempts`: whether `started` and `finished` do anything; when False the caller may leave them out.
    `honours_weights`: whether weights change who is picked.
    """

    counts_attempts: bool
    honours_weights: bool

    def rebuild(self, eligible: Sequence[BackendState], weights: Sequence[int]) -> None:
        """Take a new list of eligible backends with their weights (each >= 1), position for position."""

    def pick(
        self, *, now: float, key: bytes | None, exclude: Collection[BackendState], rng: "Random"
    ) -> BackendState | None:
        """The backend for one attempt, or None when no eligible one is left outside `exclude`."""

    def started(self, backend: BackendState, now: float) -> None:
        """An attempt begins at `backend` (its in-flight cell was raised already)."""

    def finished(self, backend: BackendState, outcome: Outcome, latency: float, first_byte: float, now: float) -> None:
        """An attempt ended. `latency` and `first_byte` are seconds; first_byte < 0 = none came."""
