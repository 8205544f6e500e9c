"""A pool: its backends, who of them may be picked, and the strategy that picks."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Protocol, assert_never

from balancer import errors
from balancer.balancing.backend import BackendState, LoadTable
from balancer.balancing.least_connections import LeastConnections
from balancer.balancing.random_choice import RandomChoice
from balancer.balancing.round_robin import RoundRobin
from balancer.balancing.strategy import Strategy
from balancer.balancing.weighted import Weighted
from balancer.balancing.weighted_random import WeightedRandom
from balancer.config.model import StrategyName

if TYPE_CHECKING:
    from random import Random

# Full backends met one by one before all of them are looked up at once, which is O(backends with a limit).
FULL_MET_MAX = 4


def make_strategy(name: StrategyName, loads: LoadTable, rng: "Random") -> Strategy:
    """A new strategy of that name; `rng` gives this worker's starting point where turns have one."""
    match name:
        case "round_robin":
            return RoundRobin(rng.random())
        case "random":
            return RandomChoice()
        case "weighted":
            return Weighted()
        case "weighted_random":
            return WeightedRandom()
        case "least_connections":
            return LeastConnections(loads, rng.random())
        case _:
            assert_never(name)


class Pick(Protocol):
    """How `PoolState.pick` and `Strategy.pick` are called."""

    def __call__(
        self, *, now: float, key: bytes | None, exclude: Collection[BackendState], rng: "Random"
    ) -> BackendState | None:
        """The backend for one attempt, or None."""


class PoolState:
    """A named group of backends with the strategy that picks among them. Not thread-safe.

    `pick` gives the backend for one attempt or None; `explain` then says why. It is the strategy's own method
    while no eligible backend has a limit, so that a pool costs nothing beyond its strategy.
    `counts_attempts`: whether the strategy wants to hear of attempts (`strategy.started`, `strategy.finished`).
    The caller raises and lowers the backend's cell of `loads` in any case.
    """

    __slots__ = ("_limited", "backends", "counts_attempts", "eligible", "loads", "name", "pick", "strategy")

    pick: Pick

    def __init__(self, name: str, strategy: Strategy, backends: Sequence[BackendState], loads: LoadTable) -> None:
        self.name = name
        self.strategy = strategy
        self.backends = tuple(backends)
        self.loads = loads
        self.counts_attempts = strategy.counts_attempts
        self.rebuild()

    def rebuild(self) -> None:
        """Find out again who is eligible. To be called whenever a backend's weight or limit changed. O(n log n)."""
        self.eligible = tuple(backend for backend in self.backends if backend.weight > 0)
        self.strategy.rebuild(self.eligible, [backend.weight for backend in self.eligible])
        self._limited = tuple(backend for backend in self.eligible if backend.max_connections is not None)
        self.pick = self._pick_below_limits if self._limited else self.strategy.pick

    def explain(self, now: float) -> errors.Outcome:
        """Why `pick` gave None: POOL_EMPTY when no backend is eligible, else POOL_FULL."""
        return errors.POOL_FULL if self.eligible else errors.POOL_EMPTY

    def _pick_below_limits(
        self, *, now: float, key: bytes | None, exclude: Collection[BackendState], rng: "Random"
    ) -> BackendState | None:
        """Skip backends with `max_connections` in flight. A full one that had its turn loses it."""
        left_out = exclude
        for _ in range(FULL_MET_MAX):
            backend = self.strategy.pick(now=now, key=key, exclude=left_out, rng=rng)
            if backend is None or not self._is_full(backend):
                return backend
            left_out = {backend, *left_out}
        left_out = {*left_out, *filter(self._is_full, self._limited)}
        return self.strategy.pick(now=now, key=key, exclude=left_out, rng=rng)

    def _is_full(self, backend: BackendState) -> bool:
        limit = backend.max_connections
        return limit is not None and self.loads.total(backend.slot) >= limit
