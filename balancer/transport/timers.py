"""Timeouts: a wheel for the many that are mostly put off, a heap for the few that come soon.

Law: moving a deadline later costs one attribute assignment and nothing else. The wheel notices when it looks.

    TimerWheel  timeouts of a second and more, of every connection; exact to SLOT seconds, never early
    Deadlines   short single delays; exact to the loop's resolution, never early

Both are driven by one loop timer each, or by hand: `advance(now)`. `now` and deadlines are seconds on the
loop's clock (`loop.time()`; on Linux the same as `time.monotonic()`, asyncio and uvloop alike).
"""

import heapq
import math
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

SLOTS_PER_SECOND: Final = 40
SLOT: Final = 1 / SLOTS_PER_SECOND
"""Seconds of one slot: what a client whose backend is silent waits longer than it must, at most."""
SLOTS: Final = 4096
"""Slots of the wheel: 102.4 s, more than the 75 s of an idle client connection. An entry whose deadline is
farther is looked at once per turn and put farther on; memory does not depend on how long timeouts are."""
_AT_ONCE: Final = -math.inf
"""`slot_at` of an entry that was taken out of its slot and is about to be looked at: it needs no filing."""
_GARBAGE_MIN: Final = 64
"""Cancelled entries that a heap may always hold: compacting smaller ones costs more than it frees."""
_ROUNDING: Final = 0.001
"""uvloop rounds delays to milliseconds, half of them down; so much later is never early."""


class Timer(Protocol):
    """What a loop gives for a planned call."""

    def cancel(self) -> None: ...


class Loop(Protocol):
    """What is needed of an event loop; a test's virtual clock has it too."""

    def time(self) -> float: ...

    def call_at(self, when: float, callback: Callable[..., object], /, *args: Any) -> Timer: ...


class Watched(Protocol):
    """What the wheel watches. `deadline`: when it ends, inf = never; `slot_at`: initially inf, then the wheel's own.

    Hot code assigns `deadline`, and calls `watch` only if the new one is earlier than `slot_at`.
    """

    deadline: float
    slot_at: float

    def on_deadline(self, now: float) -> None: ...


class TimerWheel:
    """Watches the deadlines of many entries at O(1) per entry and turn of the wheel.

    Each entry stands in at most one slot, and none behind `forget`: a closed connection is not kept alive.
    An exception of an `on_deadline` leaves `advance` and reaches the loop's exception handler; the entries
    due behind it run in the next call, which the loop makes at once.
    """

    def __init__(self, now: float = 0.0) -> None:
        self._slots: list[dict[int, Watched]] = [{} for _ in range(SLOTS)]  # by id(): entries need no hash
        self._turned = int(now * SLOTS_PER_SECOND)  # number of the last slot that was looked at
        self._filed = 0
        self._due: deque[Watched] = deque()
        self._loop: Loop | None = None
        self._timer: Timer | None = None

    def __len__(self) -> int:
        """Entries that the wheel holds."""
        return self._filed + len(self._due)

    def watch(self, entry: Watched) -> None:
        """Look at `entry` when its deadline is reached; an earlier filing of it is undone."""
        self._unfile(entry)
        if entry.deadline == math.inf or entry.slot_at == _AT_ONCE:
            return
        if self._timer is None and self._loop is not None:  # asleep, so the wheel stands where it was
            self._turned = max(self._turned, int(self._loop.time() * SLOTS_PER_SECOND))
            self._arm(self._loop)
        self._file(entry)

    def forget(self, entry: Watched) -> None:
        """Drop `entry` now: its deadline is off and the wheel no longer refers to it."""
        entry.deadline = math.inf
        self._unfile(entry)

    def advance(self, now: float) -> None:
        """Look at every slot up to `now`: fire what is due, put off what was moved, drop what is off."""
        turned = int(now * SLOTS_PER_SECOND)
        first = max(self._turned + 1, turned - SLOTS + 1)
        self._turned = max(self._turned, turned)  # before anything is filed again: that goes into later slots
        if self._filed:
            for number in range(first, turned + 1):
                self._empty_slot(number % SLOTS)
        due = self._due
        while due:
            self._look_at(due.popleft(), now)

    def start(self, loop: Loop) -> None:
        """Let `loop` drive the wheel from now on."""
        self._loop = loop
        if len(self) and self._timer is None:
            self._arm(loop)

    def stop(self) -> None:
        """Drive it no longer; entries stay."""
        if self._timer is not None:
            self._timer.cancel()
        self._loop = self._timer = None

    def _empty_slot(self, index: int) -> None:
        slot = self._slots[index]
        if not slot:
            return
        self._slots[index] = {}
        self._filed -= len(slot)
        for entry in slot.values():
            entry.slot_at = _AT_ONCE
            self._due.append(entry)

    def _look_at(self, entry: Watched, now: float) -> None:
        entry.slot_at = math.inf
        if entry.deadline <= now:
            entry.on_deadline(now)
        elif entry.deadline != math.inf:
            self._file(entry)

    def _file(self, entry: Watched) -> None:
        number = math.ceil(entry.deadline * SLOTS_PER_SECOND)
        number = max(self._turned + 1, min(number, self._turned + SLOTS))
        entry.slot_at = number / SLOTS_PER_SECOND
        self._slots[number % SLOTS][id(entry)] = entry
        self._filed += 1

    def _unfile(self, entry: Watched) -> None:
        if entry.slot_at in (math.inf, _AT_ONCE):
            return
        slot = self._slots[round(entry.slot_at * SLOTS_PER_SECOND) % SLOTS]
        del slot[id(entry)]
        self._filed -= 1
        entry.slot_at = math.inf

    def _arm(self, loop: Loop) -> None:
        """Wake up where the next slot begins: a whole slot from now would be in the middle of one."""
        now = loop.time()
        begins = (int(now * SLOTS_PER_SECOND) + 1) / SLOTS_PER_SECOND + _ROUNDING
        self._timer = loop.call_at(now if self._due else begins, self._run)

    def _run(self) -> None:
        if self._loop is None:
            return
        try:
            self.advance(self._loop.time())
        finally:
            self._timer = None  # not before: while it turns, the wheel is awake
            if self._loop is not None and len(self):
                self._arm(self._loop)


class Deadline:
    """One planned call. `cancel` may come at any time, also twice, also after it ran."""

    __slots__ = ("_args", "_callback", "_owner", "when")

    def __init__(self, owner: "Deadlines", when: float, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self._owner: Deadlines | None = owner
        self.when = when
        self._callback: Callable[..., object] | None = callback
        self._args = args

    def cancel(self) -> None:
        """Do not make the call; what it referred to is let go at once."""
        owner, self._owner = self._owner, None
        self._callback, self._args = None, ()
        if owner is not None:
            owner._cancelled_one()

    def _run(self) -> None:
        callback, args = self._callback, self._args
        self._owner = self._callback = None
        self._args = ()
        if callback is not None:
            callback(*args)


class Deadlines:
    """Single calls at given times: a heap and one loop timer, armed anew only when an earlier call comes.

    O(log n) per call. Cancelled calls stay in the heap until it is half garbage, then it is rebuilt: amortised
    O(1). An exception of a callback leaves `advance` and reaches the loop's exception handler; the calls due
    behind it run in the next, which the loop makes at once.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Deadline]] = []
        self._added = 0  # calls for the same time run in the order of at()
        self._garbage = 0
        self._due: deque[Deadline] = deque()
        self._loop: Loop | None = None
        self._timer: Timer | None = None
        self._armed_for = math.inf

    def __len__(self) -> int:
        """Calls planned, and cancelled ones not yet cleared away."""
        return len(self._heap) + len(self._due)

    def at(self, when: float, callback: Callable[..., object], *args: Any) -> Deadline:
        """Call `callback(*args)` once `when` is reached."""
        deadline = Deadline(self, when, callback, args)
        self._added += 1
        heapq.heappush(self._heap, (when, self._added, deadline))
        if when < self._armed_for:
            self._arm()
        return deadline

    def advance(self, now: float) -> None:
        """Make the calls that are due; those planned meanwhile wait for the next time."""
        while self._heap and self._heap[0][0] <= now:
            self._due.append(heapq.heappop(self._heap)[2])
        while self._due:
            deadline = self._due.popleft()
            if deadline._callback is None:
                self._garbage -= 1
            deadline._run()

    def start(self, loop: Loop) -> None:
        """Let `loop` drive it from now on."""
        self._loop = loop
        self._arm()

    def stop(self) -> None:
        """Drive it no longer; planned calls stay."""
        if self._timer is not None:
            self._timer.cancel()
        self._loop = self._timer = None
        self._armed_for = math.inf

    def _cancelled_one(self) -> None:
        self._garbage += 1
        if self._garbage > _GARBAGE_MIN and self._garbage * 2 > len(self._heap):
            self._heap = [planned for planned in self._heap if planned[2]._callback is not None]
            heapq.heapify(self._heap)
            self._garbage = sum(deadline._callback is None for deadline in self._due)

    def _arm(self) -> None:
        if self._loop is None or not (self._heap or self._due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._armed_for = -math.inf if self._due else self._heap[0][0]
        self._timer = self._loop.call_at(
            self._loop.time() if self._due else self._armed_for + _ROUNDING,
            self._run,
        )

    def _run(self) -> None:
        self._timer = None
        self._armed_for = -math.inf  # calls planned meanwhile arm nothing
        if self._loop is None:
            return
        try:
            self.advance(self._loop.time())
        finally:
            self._armed_for = math.inf
            self._arm()
