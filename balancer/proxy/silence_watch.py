"""Looks, many times a second, whether backends have fallen silent, and has the pools pass those over.

What is looked at is counted anyway; a look costs a microsecond for each backend that has something in flight.
"""

import asyncio
from collections.abc import Iterable
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
    __slots__ = ("backend", "silence", "told_at")

    def __init__(self, backend: BackendState) -> None:
        self.backend = backend
        self.silence = Silence()
        self.told_at = float("-inf")


class _Pool:
    __slots__ = ("after", "looked_at", "plan", "watched")

    def __init__(self, plan: "PoolPlan", after: float, watched: list[_Watched]) -> None:
        self.plan = plan
        self.after = after
        self.watched = watched
        self.looked_at = float("-inf")


class SilenceWatch:
    """The backends of the generation in use, once `run`."""

    def __init__(self, loads: LoadTable, registry: Registry) -> None:
        self._loads = loads
        self._registry = registry
        self._pools: list[_Pool] = []
        self._known: dict[BackendState, _Watched] = {}
        self._next = 0
        self._longest = EVERY  # between two looks at the same pool

    def take_over(self, snapshot: "Snapshot") -> None:
        """This generation is in use. O(backends)."""
        known, self._known, self._pools, self._next = self._known, {}, [], 0
        for pool in snapshot.config.pools:
            plan = snapshot.pools[pool.name]
            after = _silent_after(pool)
            members = plan.state.backends if after is not None else ()
            if after is None or len(members) < 2:
                _release(plan)
                continue
            watched = [known.get(backend) or _Watched(backend) for backend in members]
            self._known.update((each.backend, each) for each in watched)
            self._pools.append(_Pool(plan, after, watched))
        self._longest = EVERY * (1 + len(self._known) // BACKENDS_PER_LOOK)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(EVERY)
            self.look(monotonic())

    def look(self, now: float) -> None:
        """Judge the next pools. O(BACKENDS_PER_LOOK + backends of one pool)."""
        looked = 0
        for _ in range(len(self._pools)):
            pool = self._pools[self._next]
            self._next = (self._next + 1) % len(self._pools)
            self._look_at(pool, now)
            looked += len(pool.watched)
            if looked >= BACKENDS_PER_LOOK:
                return

    def _look_at(self, pool: _Pool, now: float) -> None:
        elapsed = min(now - pool.looked_at, self._longest)
        pool.looked_at = now
        own = self._loads.own
        silent: list[_Watched] = []
        for each in pool.watched:
            silence, backend = each.silence, each.backend
            in_flight = own[backend.slot]
            if in_flight:
                silence.look(
                    begun=in_flight + backend.counters.ended(),
                    answered=backend.connections.answered,
                    in_flight=in_flight,
                    elapsed=elapsed,
                    after=pool.after,
                )
                if silence.silent:
                    silent.append(each)
            else:
                silence.idle(backend.connections.answered)
        if silent or any(each.backend.silent for each in pool.watched):
            self._hold_back(pool, silent, now)

    def _hold_back(self, pool: _Pool, silent: list[_Watched], now: float) -> None:
        """These get nothing for now; when they are more than half of those in use, the cause is elsewhere."""
        state = pool.plan.state
        in_use = sum(backend.eligible and backend.weight > 0 for backend in state.backends)
        held = {each.backend for each in silent} if 2 * len(silent) <= in_use else set()
        changed = [each for each in pool.watched if each.backend.silent != (each.backend in held)]
        if not changed:
            return
        for each in changed:
            each.backend.silent = each.backend in held
            self._tell(each, now)
        state.rebuild()
        line = pool.plan.line
        if line is not None and len(line):
            line.wake(now)

    def _tell(self, each: _Watched, now: float) -> None:
        backend = each.backend
        if not backend.silent:
            return
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
    """It may have been watched before."""
    held: Iterable[BackendState] = [backend for backend in plan.state.backends if backend.silent]
    for backend in held:
        backend.silent = False
    if held:
        plan.state.rebuild()
