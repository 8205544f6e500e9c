"""When every backend is probed next, and how many probes run at a time.

Law: a configured slot either stands in the heap with the time of its next probe, or its probe runs; never both, so
no slot is ever probed twice at once. What else stands in the heap is of slots that were dropped, and passed over.
Probes start in slices, a few per turn of the loop, in the order in which they are due: 10,000 first probes at once
stall nothing, and when the loop is behind they are what waits.
"""

import asyncio
import heapq
import math
from collections.abc import Callable, Coroutine, Iterable, Mapping
from functools import partial
from itertools import count
from random import Random
from typing import Any, Final, NamedTuple, Protocol

from balancer.clock import monotonic
from balancer.config.model import HealthCheck
from balancer.transport.probe import ProbeResult, Target, Tls, probe

AT_ONCE: Final = 1000
"""Probes that run at a time. A backend that hangs holds one for its whole timeout: with the defaults of 2 s and 5 s,
3,500 backends may hang before the others' probes come late. Each takes a descriptor."""
SLICE: Final = 16
"""Probes started per turn of the loop, a millisecond or two of it."""
BUSY: Final = 0.008
"""Seconds: after a turn that took longer only one probe is started, until those that run get on."""
TICK: Final = 0.005
"""Seconds: the probes due within one are started together, since waking up for each costs more than it is worth."""
LEFT_BEHIND: Final = 1000
"""Entries of dropped slots that may stand in the heap beside as many as there are others."""
SPREAD_LEAST: Final = 0.1
"""Of the delay that is wanted: the least that a slot waits for its second probe."""

Probe = Callable[[Target, HealthCheck, Tls | None], Coroutine[Any, Any, ProbeResult]]


class Tracker(Protocol):
    """What judges the results of a slot, and so knows how soon the next one is wanted."""

    def next_delay(self, rng: Random) -> float: ...


class Check(NamedTuple):
    """What the schedule has to know of a slot. `tls`: the pool's context, and the name to verify."""

    slot: int
    target: Target
    health_check: HealthCheck
    tls: Tls | None
    tracker: Tracker


class _Entry:
    """A configured slot. `due`: when it is probed next; while its probe runs, when that was due.

    `together`: it was added with others and not probed yet, so that they would stay in step.
    """

    __slots__ = ("check", "due", "task", "together")

    def __init__(self, check: Check, due: float, *, together: bool = False) -> None:
        self.check = check
        self.due = due
        self.task: asyncio.Task[ProbeResult] | None = None
        self.together = together


def _ignore(_slot: int, _evidence: str) -> None:
    pass


class HealthSchedule:
    """Probes every configured slot, again and again.

    `result(slot, passed, evidence)` is told each result before the tracker is asked for the next delay;
    `unable(slot, evidence)` that this machine could not probe (no descriptors), which is no result. `now` must run
    as fast as the loop's clock.
    """

    def __init__(
        self,
        *,
        result: Callable[[int, bool, str], None],
        rng: Random,
        now: Callable[[], float] = monotonic,
        probe: Probe = probe,
        unable: Callable[[int, str], None] = _ignore,
        at_once: int = AT_ONCE,
    ) -> None:
        self._result = result
        self._unable = unable
        self._rng = rng
        self._now = now
        self._probe = probe
        self._at_once = at_once
        self._entries: dict[int, _Entry] = {}
        self._heap: list[tuple[float, int, _Entry]] = []
        self._numbers = count()  # those due at the same time keep their order
        self._running: dict[int, _Entry] = {}
        self._slice = SLICE
        self._waker: asyncio.Future[None] | None = None
        self._wakes_at = math.inf

    def configure(self, checks: Mapping[int, Check]) -> None:
        """Probe these slots from now on, and no others. O(n).

        A slot that is new or has another target, check, server name or tracker is probed at once; the others when
        they were due anyway. What still runs for a slot that left, or by old settings, is cancelled and not told.
        """
        now = self._now()
        entries: dict[int, _Entry] = {}
        for slot, check in checks.items():
            entry = self._entries.get(slot)
            if entry is not None and _is_same(entry.check, check):
                entry.check = check
            else:
                entry = _Entry(check, now)
            entries[slot] = entry
        self._entries = entries
        for slot, entry in self._running.items():
            if entries.get(slot) is not entry and entry.task is not None:
                entry.task.cancel()
        self._heap = [
            (entry.due, next(self._numbers), entry) for slot, entry in entries.items() if slot not in self._running
        ]
        heapq.heapify(self._heap)
        self._wake()

    def add(self, checks: Iterable[Check]) -> None:
        """Probe these slots as well, at once, and then spread over the interval; no change for those there are.

        O(k log n).
        """
        now = self._now()
        for check in checks:
            if check.slot not in self._entries:
                entry = self._entries[check.slot] = _Entry(check, now, together=True)
                if check.slot not in self._running:  # else its end plans the new entry
                    heapq.heappush(self._heap, (now, next(self._numbers), entry))
        self._wake()

    def drop(self, slots: Iterable[int]) -> None:
        """Probe these slots no more. What runs for them is cancelled and not told. O(k), now and then O(n)."""
        for slot in slots:
            self._entries.pop(slot, None)
            running = self._running.get(slot)
            if running is not None and running.task is not None:
                running.task.cancel()
        if len(self._heap) > 2 * len(self._entries) + LEFT_BEHIND:
            self._heap = [item for item in self._heap if self._entries.get(item[2].check.slot) is item[2]]
            heapq.heapify(self._heap)

    async def run(self) -> None:
        """Probe until cancelled; then cancel the probes that run and wait for their end."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                began = self._now()
                if self._start_due(loop):
                    await asyncio.sleep(0)
                    self._slice = SLICE if self._now() - began < BUSY else 1
                else:
                    await self._pause(loop)
        finally:
            tasks = [entry.task for entry in self._running.values() if entry.task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _start_due(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Start a slice of what is due; whether there is more that may start."""
        now = self._now()
        heap, running = self._heap, self._running
        for _ in range(self._slice):
            if not heap or heap[0][0] > now or len(running) >= self._at_once:
                return False
            entry = heapq.heappop(heap)[2]
            check = entry.check
            if self._entries.get(check.slot) is not entry:
                continue
            entry.task = loop.create_task(self._probe(check.target, check.health_check, check.tls))
            running[check.slot] = entry
            entry.task.add_done_callback(partial(self._ended, entry))
        return True

    async def _pause(self, loop: asyncio.AbstractEventLoop) -> None:
        """Until the next probe is due or the configuration changes; a tick where probes wait for others to end."""
        now = self._now()
        delay = max(TICK, self._heap[0][0] - now) if self._heap else math.inf
        self._wakes_at = now + delay
        self._waker = loop.create_future()
        timer = loop.call_later(delay, self._wake) if self._heap else None
        try:
            await self._waker
        finally:
            self._waker = None
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._waker is not None and not self._waker.done():
            self._waker.set_result(None)

    def _ended(self, entry: _Entry, task: asyncio.Task[ProbeResult]) -> None:
        """A probe ended: tell its result, and plan the slot's next one."""
        slot = entry.check.slot
        entry.task = None
        try:
            if not task.cancelled() and self._entries.get(slot) is entry:
                done = task.result()
                if done.ours:
                    self._unable(slot, done.evidence)
                else:
                    self._result(slot, done.passed, done.evidence)
        finally:
            del self._running[slot]
            current = self._entries.get(slot)
            if current is not None:
                if current is entry:
                    entry.due = self._now() + self._delay(entry)
                heapq.heappush(self._heap, (current.due, next(self._numbers), current))
                if current.due + TICK < self._wakes_at:
                    self._wake()

    def _delay(self, entry: _Entry) -> float:
        delay = entry.check.tracker.next_delay(self._rng)
        if entry.together:
            entry.together = False
            delay *= max(SPREAD_LEAST, self._rng.random())
        return delay


def _is_same(old: Check, new: Check) -> bool:
    """Whether the new check may wait until the old one was due. A context of the same pool is made anew by a reload."""
    return (
        old.tracker is new.tracker
        and old.target == new.target
        and (old.health_check is new.health_check or old.health_check == new.health_check)
        and (old.tls is None) == (new.tls is None)
        and (old.tls is None or new.tls is None or old.tls[1] == new.tls[1])
    )
