"""Slow start: the share of a new or recovered backend grows in a bounded number of steps, and ends at one."""

import pytest

from balancer.resilience.slow_start import FLOOR, STEPS, SlowStart, limit, share

WINDOW = 30.0


def test_the_share_is_linear_above_a_floor_of_a_tenth() -> None:
    assert share(0.0, WINDOW) == FLOOR
    assert share(2.9, WINDOW) == FLOOR
    assert share(15.0, WINDOW) == 0.5
    assert share(29.9, WINDOW) == 0.95
    assert share(30.0, WINDOW) == 1.0
    assert share(1e9, WINDOW) == 1.0


def test_the_share_is_at_most_a_step_behind_the_line_and_never_before_it() -> None:
    for tenth in range(300):
        elapsed = tenth / 10
        line = max(FLOOR, elapsed / WINDOW)
        assert line - 1 / STEPS - 1e-9 <= share(elapsed, WINDOW) <= line + 1e-9


@pytest.mark.parametrize(("maximum", "part", "expected"), [(200, 0.1, 20), (3, 0.1, 1), (1, 0.5, 1), (7, 1.0, 7)])
def test_the_limit_grows_with_the_share_and_is_at_least_one(maximum: int, part: float, expected: int) -> None:
    assert limit(maximum, part) == expected


def shares(slow: SlowStart, slot: int, began: float, every: float) -> list[float]:
    """What a slot's share is after each call of `due` that names it, until it ends."""
    found = []
    for tick in range(1, 100_000):
        if slot in slow.due(began + tick * every, 99):
            found.append(slow.share(slot))
        if slow.idle:
            return found
    raise AssertionError("it never ends")


@pytest.mark.parametrize("every", [0.1, 0.01, 1.0, 7.3])
@pytest.mark.parametrize("began", [0.0, 1234.567, 1e6 + 1 / 3])
def test_a_slow_start_rises_in_at_most_twenty_steps_to_one(every: float, began: float) -> None:
    slow = SlowStart(WINDOW)
    slow.begin(4, began)
    assert slow.share(4) == FLOOR
    found = shares(slow, 4, began, every)
    assert found == sorted(set(found))
    assert len(found) <= STEPS
    assert found[-1] == 1.0
    assert slow.share(4) == 1.0


def test_nothing_is_due_between_two_steps() -> None:
    slow = SlowStart(WINDOW)
    slow.begin(1, 0.0)
    assert slow.due(4.4, 99) == []
    assert slow.due(4.5, 99) == [1]
    assert slow.due(4.6, 99) == []


def test_one_that_begins_again_begins_at_the_floor() -> None:
    slow = SlowStart(WINDOW)
    slow.begin(1, 0.0)
    slow.due(20.0, 99)
    assert slow.share(1) == pytest.approx(0.65)
    slow.begin(1, 20.0)
    assert slow.share(1) == FLOOR
    assert slow.due(24.4, 99) == []
    assert slow.due(24.5, 99) == [1]


def test_beginning_twice_at_one_moment_is_beginning_once() -> None:
    slow = SlowStart(WINDOW)
    slow.begin(1, 0.0)
    slow.begin(1, 0.0)
    assert slow.due(4.5, 99) == [1]
    assert slow.share(1) == 0.15


def test_a_late_call_catches_up_with_the_clock() -> None:
    slow = SlowStart(WINDOW)
    slow.begin(1, 0.0)
    slow.begin(2, 10.0)
    assert sorted(slow.due(25.0, 99)) == [1, 2]
    assert slow.share(1) == pytest.approx(0.8)
    assert slow.share(2) == 0.5


def test_at_most_as_many_as_asked_for_are_due_and_the_others_next_time() -> None:
    slow = SlowStart(WINDOW)
    for slot in range(5):
        slow.begin(slot, 0.0)
    assert [sorted(slow.due(4.5 + tick / 10, 2)) for tick in range(4)] == [[0, 1], [2, 3], [4], []]


def test_off_means_full_share_at_once() -> None:
    slow = SlowStart(None)
    slow.begin(1, 0.0)
    assert slow.share(1) == 1.0
    assert slow.idle


def test_a_new_window_keeps_where_a_backend_stands_in_time() -> None:
    slow = SlowStart(WINDOW)
    slow.begin(1, 0.0)
    slow.begin(2, 14.0)
    slow.due(15.0, 99)
    assert slow.reconfigure(WINDOW, 15.0) == []
    assert sorted(slow.reconfigure(20.0, 15.0)) == [1, 2]
    assert slow.share(1) == 0.75
    assert slow.share(2) == FLOOR
    assert slow.due(20.0, 99) == [1, 2]
    assert slow.share(1) == 1.0
    assert slow.reconfigure(None, 21.0) == [2]
    assert slow.share(2) == 1.0
    assert slow.due(100.0, 99) == []


def test_a_window_shorter_than_what_has_passed_ends_it() -> None:
    slow = SlowStart(WINDOW)
    slow.begin(1, 0.0)
    assert slow.reconfigure(5.0, 6.0) == [1]
    assert slow.idle


def test_backends_that_are_gone_are_forgotten() -> None:
    slow = SlowStart(WINDOW)
    slow.begin(1, 0.0)
    slow.begin(2, 0.0)
    slow.keep({2})
    assert slow.share(1) == 1.0
    assert slow.due(100.0, 99) == [2]
