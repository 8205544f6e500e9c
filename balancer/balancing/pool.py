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
from balancer.resilience.slow_start import limit as share_of_limit

if TYPE_CHECKING:
    from random import Random

# Full backends met one by one before all of them are looked up at once, which is O(backends with a limit).
FULL_MET_MAX = 4
# Weights are multiplied by it while a backend starts slowly, so that a weight of 1 can be a twentieth.
SHARE_STEPS = 20


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
    while no eligible backend has a limit or starts slowly, so that a pool costs nothing beyond its strategy.
    `counts_attempts`: whether the strategy wants to hear of attempts (`strategy.started`, `strategy.finished`).
    The caller raises and lowers the backend's cell of `loads` in any case.
    `trials`: backends that wait for one real request, whoever is eligible, since `trials_since`. `down`: nobody is
    usable. `doubtful`: those who are eligible only because too few are usable.
    """

    __slots__ = (
        "_limited",
        "_pick",
        "_starting",
        "_top",
        "backends",
        "counts_attempts",
        "doubtful",
        "down",
        "eligible",
        "loads",
        "name",
        "pick",
        "strategy",
        "trials",
        "trials_since",
    )

    pick: Pick
    _pick: Pick

    def __init__(self, name: str, strategy: Strategy, backends: Sequence[BackendState], loads: LoadTable) -> None:
        self.name = name
        self.strategy = strategy
        self.backends = tuple(backends)
        self.loads = loads
        self.counts_attempts = strategy.counts_attempts
        self.down = False
        self.trials: list[BackendState] = []
        self.trials_since = 0.0
        self.rebuild()

    def rebuild(self) -> None:
        """Find out again who is eligible, and for how much. To be called whenever a backend's standing, weight,
        limit or silence changed. O(n log n).

        Slow start is relative: whoever has the largest share gets all of its weight and limit. A pool that comes back
        as a whole, or of which one backend is left, must not answer 503 with its machines idle.
        """
        usable = tuple(backend for backend in self.backends if backend.eligible and backend.weight > 0)
        self.eligible = tuple(backend for backend in usable if not backend.silent) or usable
        self.doubtful = frozenset(backend for backend in self.eligible if backend.doubtful)
        self._top = max((backend.share for backend in self.eligible), default=1.0)
        self._starting = any(backend.share < self._top for backend in self.eligible)
        scaled = self._starting and self.strategy.honours_weights
        weights = [
            max(round(backend.weight * SHARE_STEPS * backend.share / self._top), 1) if scaled else backend.weight
            for backend in self.eligible
        ]
        self.strategy.rebuild(self.eligible, weights)
        self._limited = tuple(backend for backend in self.eligible if backend.max_connections is not None)
        self._pick = self._pick_by_share if self._starting and not scaled else self.strategy.pick
        self.pick = self._pick_below_limits if self._limited else self._pick

    def explain(self, now: float) -> errors.Outcome:
        """Why `pick` gave None: POOL_FULL when somebody is eligible, POOL_DOWN or POOL_EMPTY when nobody is."""
        if self.eligible:
            return errors.POOL_FULL
        return errors.POOL_DOWN if self.down else errors.POOL_EMPTY

    def _pick_by_share(
        self, *, now: float, key: bytes | None, exclude: Collection[BackendState], rng: "Random"
    ) -> BackendState | None:
        """For strategies that ignore weights: who starts slowly gives up the rest of its turns to others."""
        left_out = exclude
        for _ in range(FULL_MET_MAX):
            backend = self.strategy.pick(now=now, key=key, exclude=left_out, rng=rng)
            if backend is None:
                break
            if backend.share >= self._top or rng.random() * self._top < backend.share:
                return backend
            left_out = {backend, *left_out}
        return self.strategy.pick(now=now, key=key, exclude=exclude, rng=rng)

    def _pick_below_limits(
        self, *, now: float, key: bytes | None, exclude: Collection[BackendState], rng: "Random"
    ) -> BackendState | None:
        """Skip backends with `max_connections` in flight. A full one that had its turn loses it."""
        left_out = exclude
        for _ in range(FULL_MET_MAX):
            backend = self._pick(now=now, key=key, exclude=left_out, rng=rng)
            if backend is None or not self.is_full(backend):
                return backend
            left_out = {backend, *left_out}
        left_out = {*left_out, *filter(self.is_full, self._limited)}
        return self._pick(now=now, key=key, exclude=left_out, rng=rng)

    def is_full(self, backend: BackendState) -> bool:
        """Whether a backend, eligible or not, has reached its `max_connections`, or its share of it. O(workers)."""
        limit = backend.max_connections
        if limit is None:
            return False
        return self.loads.total(backend.slot) >= share_of_limit(limit, min(backend.share / self._top, 1.0))
