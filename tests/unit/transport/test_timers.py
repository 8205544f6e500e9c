"""The wheel and the heap on a clock that only the test moves, and once on each real loop."""

import asyncio
import gc
import heapq
import math
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.transport.timers import SLOT, SLOTS, Deadlines, TimerWheel


class Planned:
    """A call that the fake loop has planned."""

    def __init__(self, when: float, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.when = when
        self.callback = callback
        self.args = args
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeLoop:
    """Virtual time: `run_until` makes the planned calls in order; exceptions are collected as a loop does."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now
        self.planned: list[tuple[float, int, Planned]] = []
        self.calls = 0
        self.armed = 0
        self.errors: list[Exception] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[..., object], /, *args: Any) -> Planned:
        self.armed += 1
        planned = Planned(when, callback, args)
        heapq.heappush(self.planned, (when, self.armed, planned))
        return planned

    def waiting(self) -> int:
        return sum(not planned.cancelled for _, _, planned in self.planned)

    def run_until(self, end: float) -> None:
        while self.planned and self.planned[0][0] <= end:
            when, _, planned = heapq.heappop(self.planned)
            if planned.cancelled:
                continue
            self.now = max(self.now, when)
            self.calls += 1
            assert self.calls < 100_000, "the timers never rest"
            try:
                planned.callback(*planned.args)
            except ZeroDivisionError as error:
                self.errors.append(error)
        self.now = max(self.now, end)


class Entry:
    """Something with a timeout; notes when it was told."""

    def __init__(self, deadline: float = math.inf) -> None:
        self.deadline = deadline
        self.slot_at = math.inf
        self.told: list[float] = []

    def on_deadline(self, now: float) -> None:
        self.told.append(now)


class Failing(Entry):
    """One whose handling of the deadline fails."""

    def on_deadline(self, now: float) -> None:
        super().on_deadline(now)
        raise ZeroDivisionError


def turn(wheel: TimerWheel, start: float, end: float, step: float = SLOT) -> None:
    """Advance from `start` to `end` in steps."""
    for number in range(1, round((end - start) / step) + 1):
        wheel.advance(start + number * step)


def test_an_entry_is_told_once_and_within_a_slot_behind_its_deadline() -> None:
    wheel = TimerWheel()
    entries = [Entry(1 + number * 0.037) for number in range(100)]
    for entry in entries:
        wheel.watch(entry)
    turn(wheel, 0.0, 10.0, 0.01)
    for entry in entries:
        (told,) = entry.told
        assert entry.deadline <= told < entry.deadline + SLOT + 0.011
    assert len(wheel) == 0


def test_putting_a_deadline_off_needs_no_call() -> None:
    wheel = TimerWheel()
    entry = Entry(1.0)
    wheel.watch(entry)
    entry.deadline = 5.0
    turn(wheel, 0.0, 4.9)
    assert entry.told == []
    turn(wheel, 4.9, 6.0)
    assert len(entry.told) == 1


def test_an_earlier_deadline_is_watched_again_and_told_once() -> None:
    wheel = TimerWheel()
    entry = Entry(50.0)
    wheel.watch(entry)
    entry.deadline = 2.0
    assert entry.deadline < entry.slot_at
    wheel.watch(entry)
    turn(wheel, 0.0, 60.0)
    assert len(entry.told) == 1
    assert entry.told[0] < 2.2
    assert len(wheel) == 0


def test_watching_again_and_again_keeps_one_filing() -> None:
    wheel = TimerWheel()
    entry = Entry()
    for number in range(500):
        entry.deadline = 90.0 - number * 0.1
        wheel.watch(entry)
        assert len(wheel) == 1
    turn(wheel, 0.0, 100.0)
    assert len(entry.told) == 1


def test_an_infinite_deadline_is_forgotten_when_it_is_looked_at() -> None:
    wheel = TimerWheel()
    entry = Entry(1.0)
    wheel.watch(entry)
    entry.deadline = math.inf
    turn(wheel, 0.0, 2.0)
    assert (len(wheel), entry.told, entry.slot_at) == (0, [], math.inf)
    entry.deadline = 3.0
    assert entry.deadline < entry.slot_at
    wheel.watch(entry)
    turn(wheel, 2.0, 4.0)
    assert len(entry.told) == 1


def test_watching_an_infinite_deadline_is_forgetting() -> None:
    wheel = TimerWheel()
    entry = Entry(1.0)
    wheel.watch(entry)
    entry.deadline = math.inf
    wheel.watch(entry)
    assert (len(wheel), entry.slot_at) == (0, math.inf)


def test_a_forgotten_entry_is_not_kept_alive() -> None:
    wheel = TimerWheel()
    entry = Entry(3600.0)
    wheel.watch(entry)
    wheel.forget(entry)
    wheel.forget(entry)
    assert (len(wheel), entry.slot_at, entry.deadline) == (0, math.inf, math.inf)
    reference = weakref.ref(entry)
    del entry
    gc.collect()
    assert reference() is None


def test_a_deadline_beyond_the_wheel_is_looked_at_once_per_turn() -> None:
    wheel = TimerWheel()
    entry = Entry(3600.0)
    wheel.watch(entry)
    looks = set()
    for number in range(1, round(3600 / SLOT) + 10):
        if entry.told:
            break
        looks.add(entry.slot_at)
        assert entry.slot_at <= (number - 1) * SLOT + SLOTS * SLOT + 1e-6
        wheel.advance(number * SLOT)
    assert len(entry.told) == 1
    assert 3600.0 <= entry.told[0] < 3600.2
    assert len(looks) == math.ceil(3600 / (SLOTS * SLOT))


def test_a_leap_over_several_turns_loses_nothing() -> None:
    wheel = TimerWheel()
    entries = [Entry(float(number)) for number in range(1, 400)]
    for entry in entries:
        wheel.watch(entry)
    wheel.advance(1000.0)
    assert [entry.told for entry in entries] == [[1000.0]] * 399
    assert len(wheel) == 0


def test_a_clock_that_stands_or_steps_back_harms_nothing() -> None:
    wheel = TimerWheel(100.0)
    entry = Entry(101.0)
    wheel.watch(entry)
    wheel.advance(100.0)
    wheel.advance(99.0)
    wheel.advance(100.95)
    assert entry.told == []
    wheel.advance(101.05)
    assert entry.told == [101.05]


def test_a_deadline_in_the_past_is_told_with_the_next_slot() -> None:
    wheel = TimerWheel(100.0)
    entry = Entry(1.0)
    wheel.watch(entry)
    wheel.advance(100.11)
    assert entry.told == [100.11]


def test_a_failing_entry_does_not_take_the_others_along() -> None:
    wheel = TimerWheel()
    entries = [Failing(1.0) if number % 3 == 0 else Entry(1.0) for number in range(10)]
    for entry in entries:
        wheel.watch(entry)
    failures = 0
    for _ in range(5):
        try:
            wheel.advance(2.0)
        except ZeroDivisionError:
            failures += 1
    assert failures == 4
    assert [len(entry.told) for entry in entries] == [1] * 10
    assert len(wheel) == 0


def test_the_loop_hears_of_failures_and_goes_on_at_once() -> None:
    loop = FakeLoop()
    wheel = TimerWheel()
    wheel.start(loop)
    entries: list[Entry] = [Failing(1.0) for _ in range(5)] + [Entry(1.0)]
    for entry in entries:
        wheel.watch(entry)
    loop.run_until(1.2)
    assert len(loop.errors) == 5
    assert [len(entry.told) for entry in entries] == [1] * 6


def test_an_entry_that_waits_behind_a_failure_may_change_its_mind() -> None:
    wheel = TimerWheel()
    off, later, earlier = Entry(1.0), Entry(1.0), Entry(1.0)
    for entry in (Failing(1.0), off, later, earlier):
        wheel.watch(entry)
    with pytest.raises(ZeroDivisionError):
        wheel.advance(1.0)
    wheel.forget(off)
    assert not earlier.deadline < earlier.slot_at, "it is looked at before any deadline"
    later.deadline = 5.0
    wheel.watch(later)
    earlier.deadline = 1.5
    wheel.watch(earlier)
    wheel.advance(2.0)
    assert (off.told, later.told, earlier.told) == ([], [], [2.0])
    assert len(wheel) == 1
    wheel.advance(5.1)
    assert (off.told, later.told, earlier.told) == ([], [5.1], [2.0])


def test_callbacks_may_watch_and_forget_themselves_and_others() -> None:
    wheel = TimerWheel()
    victims = [Entry(1.0), Entry(30.0)]

    class Busy(Entry):
        def on_deadline(self, now: float) -> None:
            super().on_deadline(now)
            self.deadline = now + 1.0
            wheel.watch(self)
            for victim in victims:
                wheel.forget(victim)

    busy = Busy(1.0)
    for entry in (busy, *victims):
        wheel.watch(entry)
    turn(wheel, 0.0, 5.05, 0.05)
    assert [victim.told for victim in victims] == [[], []]
    assert [round(told) for told in busy.told] == [1, 2, 3, 4, 5]
    assert len(wheel) == 1


def test_the_wheel_sleeps_while_it_is_empty() -> None:
    loop = FakeLoop(1000.0)
    wheel = TimerWheel()
    wheel.start(loop)
    loop.run_until(2000.0)
    assert loop.calls == 0
    entry = Entry(2005.0)
    wheel.watch(entry)
    loop.run_until(2005.3)
    assert len(entry.told) == 1
    assert 2005.0 <= entry.told[0] < 2005.3
    assert loop.waiting() == 0
    calls = loop.calls
    loop.run_until(9000.0)
    assert loop.calls == calls


@pytest.mark.parametrize("began", [0.0, 0.004, 0.0131, 0.02, 0.0249])
def test_a_deadline_is_met_within_a_slot_wherever_in_one_the_wheel_was_started(began: float) -> None:
    loop = FakeLoop()
    loop.run_until(began)
    wheel = TimerWheel(loop.time())
    wheel.start(loop)
    entries = [Entry(began + 1.0 + number * 0.0017) for number in range(100)]
    for entry in entries:
        wheel.watch(entry)
    loop.run_until(2.0)
    assert max(entry.told[0] - (began + 1.0 + number * 0.0017) for number, entry in enumerate(entries)) < SLOT + 0.003


def test_one_timer_drives_many_entries() -> None:
    loop = FakeLoop()
    wheel = TimerWheel()
    wheel.start(loop)
    for number in range(100):
        wheel.watch(Entry(5.0 + number / 10))
    assert loop.waiting() == 1
    loop.run_until(3.0)
    assert loop.waiting() == 1
    assert loop.calls <= 3.0 / SLOT + 1


def test_a_slow_callback_does_not_make_the_wheel_skip_slots() -> None:
    loop = FakeLoop()
    wheel = TimerWheel()
    wheel.start(loop)
    fresh = Entry(1.5)

    class Slow(Entry):
        def on_deadline(self, now: float) -> None:
            super().on_deadline(now)
            loop.now += 0.7
            wheel.watch(fresh)

    between = Entry(1.3)
    for entry in (Slow(1.0), between):
        wheel.watch(entry)
    loop.run_until(2.0)
    assert (len(between.told), len(fresh.told)) == (1, 1)


def test_a_stopped_wheel_rests_and_can_be_started_again() -> None:
    loop = FakeLoop()
    wheel = TimerWheel()
    wheel.start(loop)
    entry = Entry(1.0)
    wheel.watch(entry)
    wheel.stop()
    wheel.stop()
    loop.run_until(5.0)
    assert (entry.told, loop.calls) == ([], 0)
    wheel.start(loop)
    wheel.start(loop)
    assert loop.waiting() == 1
    loop.run_until(5.3)
    assert len(entry.told) == 1


def test_a_callback_may_stop_the_wheel() -> None:
    loop = FakeLoop()
    wheel = TimerWheel()
    wheel.start(loop)

    class Last(Entry):
        def on_deadline(self, now: float) -> None:
            super().on_deadline(now)
            wheel.stop()

    last, other = Last(1.0), Entry(9.0)
    wheel.watch(last)
    wheel.watch(other)
    loop.run_until(20.0)
    assert (len(last.told), other.told, loop.waiting()) == (1, [], 0)


operations = st.lists(
    st.tuples(
        st.sampled_from(["watch", "later", "forget", "advance", "off"]), st.integers(0, 4), st.floats(0.0, 300.0)
    ),
    max_size=60,
)


@given(operations)
@settings(deadline=None)
def test_under_any_use_each_deadline_is_told_once_and_in_time(steps: list[tuple[str, int, float]]) -> None:
    """A model: what is watched and not put off, off or forgotten must be told within two slots."""
    wheel = TimerWheel()
    now = 0.0
    entries = [Entry() for _ in range(5)]
    expected: dict[int, float] = {}
    for what, which, amount in steps:
        entry = entries[which]
        if what == "watch" or (what == "later" and entry.deadline == math.inf):
            entry.deadline = expected[which] = now + amount
            if entry.deadline < entry.slot_at:
                wheel.watch(entry)
        elif what == "later":
            entry.deadline = expected[which] = max(entry.deadline, now) + amount
            if entry.deadline < entry.slot_at:
                wheel.watch(entry)
        elif what == "forget":
            wheel.forget(entry)
            expected.pop(which, None)
        elif what == "off":
            entry.deadline = math.inf
            expected.pop(which, None)
        else:
            now += amount
            wheel.advance(now)
            for number, other in enumerate(entries):
                if other.told:
                    assert other.told == [now]
                    assert expected.pop(number) <= now
                    other.told.clear()
                assert expected.get(number, math.inf) > now - 2 * SLOT
    wheel.advance(now + 1e6)
    assert {number for number, entry in enumerate(entries) if entry.told} == set(expected)
    assert len(wheel) == 0


def test_calls_are_made_in_order_of_time_and_then_of_planning() -> None:
    deadlines = Deadlines()
    made: list[str] = []
    for when, name in [(2.0, "c"), (1.0, "a"), (3.0, "d"), (1.0, "b")]:
        deadlines.at(when, made.append, name)
    deadlines.advance(0.99)
    assert made == []
    deadlines.advance(2.0)
    assert made == ["a", "b", "c"]
    deadlines.advance(9.0)
    assert made == ["a", "b", "c", "d"]
    assert len(deadlines) == 0


def test_the_loop_is_armed_anew_only_for_an_earlier_call() -> None:
    loop = FakeLoop()
    deadlines = Deadlines()
    deadlines.start(loop)
    made: list[float] = []
    for when in (5.0, 6.0, 7.0, 5.0):
        deadlines.at(when, lambda: made.append(loop.now))
    assert (loop.armed, loop.waiting()) == (1, 1)
    deadlines.at(1.0, lambda: made.append(loop.now))
    assert (loop.armed, loop.waiting()) == (2, 1)
    loop.run_until(10.0)
    assert made == pytest.approx([1.0, 5.0, 5.0, 6.0, 7.0], abs=0.01)
    assert all(was >= due for was, due in zip(made, [1.0, 5.0, 5.0, 6.0, 7.0], strict=True))
    assert loop.waiting() == 0


def test_a_cancelled_call_is_not_made_and_lets_go_of_its_arguments() -> None:
    deadlines = Deadlines()
    argument = Entry()
    reference = weakref.ref(argument)
    planned = deadlines.at(1.0, argument.on_deadline, 1.0)
    planned.cancel()
    planned.cancel()
    del argument
    gc.collect()
    assert reference() is None
    deadlines.advance(2.0)
    assert len(deadlines) == 0


def test_cancelling_a_call_that_was_made_does_nothing() -> None:
    deadlines = Deadlines()
    made: list[int] = []
    planned = deadlines.at(1.0, made.append, 1)
    deadlines.advance(1.0)
    planned.cancel()
    deadlines.at(2.0, made.append, 2)
    deadlines.advance(2.0)
    assert made == [1, 2]


def test_cancelled_calls_do_not_pile_up() -> None:
    deadlines = Deadlines()
    made: list[int] = []
    for number in range(100):
        deadlines.at(50.0 + number, made.append, number)
    for number in range(10_000):
        deadlines.at(1000.0 + number, made.append, -1).cancel()
        assert len(deadlines) <= 2 * 100 + 2 * 65
    deadlines.advance(1e9)
    assert made == list(range(100))
    assert len(deadlines) == 0


def test_a_call_may_cancel_and_plan_others() -> None:
    loop = FakeLoop()
    deadlines = Deadlines()
    deadlines.start(loop)
    made: list[str] = []

    def first() -> None:
        made.append("first")
        second.cancel()
        deadlines.at(loop.now, made.append, "third")

    deadlines.at(1.0, first)
    second = deadlines.at(1.0, made.append, "second")
    loop.run_until(1.5)
    assert made == ["first", "third"]
    assert (len(deadlines), loop.waiting()) == (0, 0)


def test_a_failing_call_does_not_take_the_others_along() -> None:
    loop = FakeLoop()
    deadlines = Deadlines()
    deadlines.start(loop)
    made: list[int] = []
    for number in range(4):
        deadlines.at(1.0, lambda: 1 / 0)
        deadlines.at(1.0, made.append, number)
    deadlines.at(1.5, made.append, 9)
    loop.run_until(1.4)
    assert made == [0, 1, 2, 3]
    assert len(loop.errors) == 4
    loop.run_until(2.0)
    assert made == [0, 1, 2, 3, 9]


def test_many_cancelled_while_due_are_counted_right() -> None:
    deadlines = Deadlines()
    made: list[str] = []
    due = [deadlines.at(1.0, made.append, "no") for _ in range(200)]
    kept = [deadlines.at(5.0 + number, made.append, "yes") for number in range(300)]

    def cancel_all() -> None:
        for planned in due:
            planned.cancel()

    deadlines.at(0.5, cancel_all)
    deadlines.advance(1.0)
    assert made == []
    for planned in kept[10:]:
        planned.cancel()
    assert len(deadlines) <= 2 * 64 + 10
    deadlines.advance(1000.0)
    assert made == ["yes"] * 10


def test_stopped_deadlines_rest_and_can_be_started_again() -> None:
    loop = FakeLoop()
    deadlines = Deadlines()
    made: list[int] = []
    deadlines.at(1.0, made.append, 1)
    deadlines.start(loop)
    deadlines.stop()
    deadlines.stop()
    deadlines.at(0.5, made.append, 0)
    loop.run_until(5.0)
    assert made == []
    deadlines.start(loop)
    loop.run_until(5.1)
    assert made == [0, 1]


def test_a_call_may_stop_the_deadlines() -> None:
    loop = FakeLoop()
    deadlines = Deadlines()
    deadlines.start(loop)
    made: list[int] = []
    deadlines.at(1.0, deadlines.stop)
    deadlines.at(2.0, made.append, 2)
    loop.run_until(9.0)
    assert (made, loop.waiting(), len(deadlines)) == ([], 0, 1)


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_both_work_on_a_real_loop_and_are_never_early(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def scene() -> None:
        loop = asyncio.get_running_loop()
        assert abs(loop.time() - time.monotonic()) < 1.0, "deadlines made with time.monotonic would be wrong"
        wheel, deadlines = TimerWheel(), Deadlines()
        wheel.start(loop)
        deadlines.start(loop)
        done = asyncio.Event()

        class Last(Entry):
            def on_deadline(self, now: float) -> None:
                super().on_deadline(now)
                done.set()

        made: list[tuple[float, float]] = []
        for number in range(20):
            when = loop.time() + 0.0013 * number
            deadlines.at(when, lambda due=when: made.append((due, loop.time())))
        last = Last(loop.time() + 0.15)
        wheel.watch(last)
        async with asyncio.timeout(20):
            await done.wait()
        assert len(last.told) == 1
        assert last.told[0] >= last.deadline
        assert len(made) == 20
        assert all(at >= due for due, at in made)
        wheel.stop()
        deadlines.stop()

    loop = new_loop()
    try:
        loop.run_until_complete(scene())
    finally:
        loop.close()
