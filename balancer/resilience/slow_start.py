"""Slow start: the share of its weight and of its `max_connections` that a new or recovered backend gets.

The share grows linearly with time from a floor, as in HAProxy's `slowstart` and Envoy's `slow_start_config`; the
floor (Envoy's 10 %) keeps a weight of almost nothing from waiting for its turn for ever. It grows in steps, because
every change of it is a message to every worker.
"""

from collections.abc import Collection
from heapq import heappop, heappush
from math import ceil

FLOOR = 0.10
STEPS = 20  # of the whole window; those below the floor make no difference


def share(elapsed: float, window: float) -> float:
    """The share `elapsed` seconds after the start of a window of `window` seconds: FLOOR .. 1.0, in steps."""
    return _share_at(_step(elapsed, window))


def limit(max_connections: int, share: float) -> int:
    """How many exchanges a backend may have in flight while it has `share`: at least one."""
    return max(1, ceil(max_connections * share))


class _Ramp:
    """Where one backend stands."""

    __slots__ = ("began", "due", "step")

    def __init__(self, began: float) -> None:
        self.began = began
        self.step = 0
        self.due = began  # when its next step is


class SlowStart:
    """The backends of one pool that are in slow start. `window` None = off: then every share is 1."""

    def __init__(self, window: float | None) -> None:
        self._window = window
        self._ramps: dict[int, _Ramp] = {}
        self._timers: list[tuple[float, int]] = []  # a heap of (due, slot); one that no ramp waits for is passed over

    @property
    def idle(self) -> bool:
        """No backend is in slow start."""
        return not self._ramps

    def begin(self, slot: int, now: float) -> None:
        """The backend of `slot` gets its first traffic, or its first after a failure. O(log backends)."""
        if self._window is not None:
            self._ramps[slot] = _Ramp(now)
            self._enter(slot, 0, self._window)

    def share(self, slot: int) -> float:
        """What the backend of `slot` gets of its weight; 1.0 outside slow start."""
        ramp = self._ramps.get(slot)
        return 1.0 if ramp is None else _share_at(ramp.step)

    def due(self, now: float, most: int) -> list[int]:
        """The slots whose share has changed since the last call: `most` of them, others with the next call.

        O(their number x log backends).
        """
        changed: list[int] = []
        window = self._window
        while window is not None and self._timers and self._timers[0][0] <= now and len(changed) < most:
            due, slot = heappop(self._timers)
            ramp = self._ramps.get(slot)
            if ramp is not None and ramp.due == due:
                # Rounding may put this very moment one step back; the step is due all the same.
                self._enter(slot, max(ramp.step + 1, _step(now - ramp.began, window)), window)
                changed.append(slot)
        return changed

    def keep(self, slots: Collection[int]) -> None:
        """Forget every backend but these."""
        for slot in [slot for slot in self._ramps if slot not in slots]:
            del self._ramps[slot]

    def reconfigure(self, window: float | None, now: float) -> list[int]:
        """Another window; whoever is in slow start keeps its beginning. Returns the slots that were in it."""
        if window == self._window:
            return []
        self._window = window
        self._timers = []
        slots = list(self._ramps)
        for slot in slots:
            if window is None:
                del self._ramps[slot]
            else:
                self._enter(slot, _step(now - self._ramps[slot].began, window), window)
        return slots

    def _enter(self, slot: int, step: int, window: float) -> None:
        if step >= STEPS:
            del self._ramps[slot]
            return
        ramp = self._ramps[slot]
        ramp.step = step
        following = step + 1
        while _share_at(following) == FLOOR:
            following += 1
        ramp.due = ramp.began + window * following / STEPS
        heappush(self._timers, (ramp.due, slot))


def _step(elapsed: float, window: float) -> int:
    return STEPS if elapsed >= window else int(elapsed * STEPS / window)


def _share_at(step: int) -> float:
    return min(1.0, max(FLOOR, step / STEPS))
