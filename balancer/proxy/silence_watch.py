"""Looks, many times a second, whether backends have fallen silent, and has the pools pass those over.

What is looked at is counted anyway; a look costs a microsecond for each backend that has something in flight.
"""

import asyncio
from typing import TYPE_CHECKING

import structlog

from balancer.balancing.backend import BackendState, LoadTable
from balancer.clock import monotonic
from balancer.config import model
from balancer.resilience.silence import Silence
from balancer.telemetry import events, metrics
from balancer.telemetry.registry import Registry

if TYPE_CHECKING:
    from balancer.proxy.snapshot import PoolPlan, Snapshot

log = structlog.get_logger()

EVERY = 0.025  # seconds between two looks
BACKENDS_PER_LOOK = 250
"""So that ten thousand backends cost a worker less than a hundredth of its time; each is then looked at once a second,
and none of so many gets much meanwhile."""
TOLD_EVERY = 10.0  # seconds between two lines of the log about the same backend


class _Watched:
    __slots__ = ("silence", "told_at")

    def __init__(self) -> None:
        self.silence = Silence()
        self.told_at = float("-inf")


class _Pool:
    """`watched`: those that had something in flight at a look."""

    __slots__ = ("after", "looked_at", "plan", "watched")

    def __init__(self, plan: "PoolPlan", after: float) -> None:
        self.plan = plan
        self.after = after
        self.watched: dict[BackendState, _Watched] = {}
        self.looked_at = float("-inf")


class SilenceWatch:
    """The backends of the generation in use, once `run`."""

    def __init__(self, loads: LoadTable, registry: Registry) -> None:
        self._loads = loads
        self._registry = registry
        self._pools: list[_Pool] = []
        self._next = 0
        self._longest = EVERY  # between two looks at the same pool

    def take_over(self, snapshot: "Snapshot") -> None:
        """This generation is in use. O(pools), besides the backends of those that are not watched any more."""
        before = {pool.plan.state: pool for pool in self._pools}
        self._pools, self._next = [], 0
        for settings in snapshot.config.pools:
            plan = snapshot.pools[settings.name]
            pool = before.pop(plan.state, None)
            after = _silent_after(settings)
            if after is not None:
                pool = pool or _Pool(plan, after)
                pool.plan, pool.after = plan, after
                self._pools.append(pool)
            elif pool is not None:
                _release(plan)
        count = sum(len(pool.plan.state.backends) for pool in self._pools)
        self._longest = EVERY * (1 + count // BACKENDS_PER_LOOK)

    async def run(self) -> None:
        """Look until cancelled."""
        looked = 0
        while True:
            await asyncio.sleep(EVERY * max(1.0, looked / BACKENDS_PER_LOOK))
            looked = self.look(monotonic())

    def look(self, now: float) -> int:
        """Judge the next pools. O(BACKENDS_PER_LOOK + backends of one pool). Returns how many were looked at."""
        looked = 0
        for _ in range(len(self._pools)):
            pool = self._pools[self._next]
            self._next = (self._next + 1) % len(self._pools)
            self._look_at(pool, now)
            looked += len(pool.plan.state.backends)
            if looked >= BACKENDS_PER_LOOK:
                break
        return looked

    def _look_at(self, pool: _Pool, now: float) -> None:
        elapsed = min(now - pool.looked_at, self._longest)
        pool.looked_at = now
        own = self._loads.own
        members, watched = pool.plan.state.backends, pool.watched
        if len(watched) > len(members):  # some have left
            pool.watched = watched = {backend: watched[backend] for backend in members if backend in watched}
        silent: set[BackendState] = set()
        held = False
        for backend in members:
            held = held or backend.silent
            each = watched.get(backend)
            in_flight = own[backend.slot]
            if in_flight:
                if each is None:
                    each = watched[backend] = _Watched()
                each.silence.look(
                    begun=in_flight + backend.counters.ended(),
                    answered=backend.connections.answered,
                    in_flight=in_flight,
                    elapsed=elapsed,
                    after=pool.after,
                )
                if each.silence.silent:
                    silent.add(backend)
            elif each is not None:
                each.silence.idle(backend.connections.answered)
        if silent or held:
            self._hold_back(pool, silent, now)

    def _hold_back(self, pool: _Pool, silent: set[BackendState], now: float) -> None:
        """These get nothing for now; when they are more than half of those in use, the cause is elsewhere."""
        state = pool.plan.state
        in_use = sum(backend.eligible and backend.weight > 0 for backend in state.backends)
        held = silent if 2 * len(silent) <= in_use else set()
        changed = [backend for backend in state.backends if backend.silent != (backend in held)]
        if not changed:
            return
        for backend in changed:
            backend.silent = backend in held
            if backend.silent:
                self._tell(backend, pool.watched[backend], now)
        state.rebuild()
        line = pool.plan.line
        if line is not None and len(line):
            line.wake(now)

    def _tell(self, backend: BackendState, each: _Watched, now: float) -> None:
        self._registry.cells(metrics.BACKEND_SILENCES, backend.pool, backend.name)[0] += 1
        if now - each.told_at >= TOLD_EVERY:
            each.told_at = now
            log.warning(
                events.BACKEND_SILENT,
                pool=backend.pool,
                backend=backend.name,
                address=str(backend.address),
                waiting=each.silence.waiting,
                silent_ms=round(each.silence.seconds * 1000),
            )


def _silent_after(pool: model.Pool) -> float | None:
    detection = pool.outlier_detection
    return None if detection is None or detection.mode != "enforce" else detection.silent_after


def _release(plan: "PoolPlan") -> None:
    """It was watched before."""
    held = [backend for backend in plan.state.backends if backend.silent]
    for backend in held:
        backend.silent = False
    if held:
        plan.state.rebuild()
