"""Whose turn it is: no backend goes unchecked for long, and nobody goes back and forth."""

from itertools import pairwise
from math import inf

from hypothesis import given
from hypothesis import strategies as st

from balancer.config.model import HealthCheck
from balancer.daemon.cluster.check_turns import INTERVALS, Turns, patience_of

PATIENCE = 10.0


def resting(*slots: int, at: float = 0.0) -> Turns:
    """Slots that are left to n2."""
    turns = Turns(PATIENCE)
    for slot in slots:
        assert not turns.give(slot, "n2")
        assert turns.heard(slot, at)
    return turns


def test_patience_is_three_intervals_and_the_time_that_a_probe_may_take() -> None:
    assert patience_of(HealthCheck(interval=5.0, timeout=2.0)) == INTERVALS * 5.0 + 2.0


def test_a_backend_of_which_nothing_was_ever_heard_is_probed_here() -> None:
    turns = Turns(PATIENCE)
    assert not turns.rests(1)
    turns.give(1, "n2")
    assert not turns.rests(1)
    assert turns.overdue(inf) == []  # it never rested


def test_it_rests_once_its_owner_has_a_result() -> None:
    turns = Turns(PATIENCE)
    turns.give(1, "n2")
    assert turns.heard(1, 0.0)
    assert turns.rests(1)
    assert not turns.heard(1, 1.0)  # it does already


def test_what_is_ours_or_nobodys_is_never_left_to_others() -> None:
    turns = Turns(PATIENCE)
    assert not turns.heard(1, 0.0)
    turns.give(2, "n2")
    turns.give(2, None)
    assert not turns.heard(2, 0.0)
    assert turns.resting == 0


def test_silence_for_longer_than_the_patience_ends_the_rest() -> None:
    turns = resting(1, 2)
    turns.heard(2, 6.0)
    assert turns.overdue(PATIENCE - 0.001) == []
    assert turns.overdue(PATIENCE) == [1]
    assert not turns.rests(1)
    assert turns.overdue(PATIENCE) == []
    assert turns.overdue(6.0 + PATIENCE) == [2]
    assert turns.late == 2


def test_a_backend_that_becomes_ours_is_probed_at_once() -> None:
    turns = resting(1)
    assert turns.give(1, None)
    assert not turns.rests(1)
    assert turns.late == 0
    assert not turns.give(1, None)


def test_with_another_owner_it_rests_on_until_that_one_was_silent_for_too_long() -> None:
    turns = resting(1)
    assert not turns.give(1, "n3")
    assert turns.rests(1)
    assert turns.overdue(PATIENCE) == [1]


def test_who_hands_over_probes_until_the_new_owner_is_heard() -> None:
    turns = Turns(PATIENCE)
    assert not turns.give(1, None)
    assert not turns.give(1, "n2")
    assert not turns.rests(1)
    assert turns.heard(1, 3.0)


def test_an_owner_that_was_silent_is_relied_on_again_when_it_is_heard_twice_in_time() -> None:
    turns = resting(1)
    turns.overdue(20.0)
    assert not turns.heard(1, 21.0)
    assert turns.late == 1
    assert turns.heard(1, 21.0 + PATIENCE - 0.1)
    assert turns.late == 0


def test_another_owner_has_not_been_silent() -> None:
    turns = resting(1)
    turns.overdue(20.0)
    assert not turns.give(1, "n3")
    assert turns.late == 0
    assert turns.heard(1, 21.0)


def test_an_owner_that_is_always_late_is_not_relied_on_again() -> None:
    """No going back and forth: one change, and not one per publication."""
    turns = resting(1)
    changes = 0
    for step in range(1, 50):
        now = step * PATIENCE * 1.1
        changes += len(turns.overdue(now)) + turns.heard(1, now)
    assert changes == 1


def test_a_forgotten_backend_leaves_nothing() -> None:
    turns = resting(1)
    turns.give(2, "n2")
    turns.forget(1)
    assert (turns.resting, turns.late, turns.slots()) == (0, 0, [])
    turns.overdue(inf)
    turns.forget(2)
    assert turns.late == 0


STEPS = st.lists(
    st.tuples(
        st.floats(min_value=0.0, max_value=8.0),
        st.sampled_from(["heard", "mine", "n2", "n3", "look"]),
        st.integers(min_value=1, max_value=3),
    ),
    max_size=60,
)


@given(STEPS)
def test_no_backend_rests_without_an_owner_or_for_longer_than_the_patience(
    steps: list[tuple[float, str, int]],
) -> None:
    turns = Turns(PATIENCE)
    now = 0.0
    probed = {1, 2, 3}  # as whoever follows what the calls return would have it
    last_heard = dict.fromkeys(probed, -inf)
    for pause, what, slot in steps:
        now += pause
        for overdue in turns.overdue(now):
            assert overdue not in probed
            probed.add(overdue)
        if what == "heard":
            last_heard[slot] = now
            if turns.heard(slot, now):
                assert slot in probed
                probed.discard(slot)
        elif what != "look" and turns.give(slot, None if what == "mine" else what):
            assert slot not in probed
            probed.add(slot)
        assert {each for each in (1, 2, 3) if not turns.rests(each)} == probed
        for each in {1, 2, 3} - probed:
            assert turns.owner(each) is not None
            assert now - last_heard[each] < PATIENCE


@given(st.lists(st.floats(min_value=0.1, max_value=40.0), min_size=1, max_size=80))
def test_one_goes_back_to_own_checks_at_most_once_in_the_patience(gaps: list[float]) -> None:
    turns = Turns(PATIENCE)
    turns.give(1, "n2")
    now = 0.0
    began: list[float] = []
    for gap in gaps:
        until = now + gap
        while now < until:
            now = min(until, now + 0.5)
            began += [now] * len(turns.overdue(now))
        turns.heard(1, now)
    assert all(later - earlier >= PATIENCE for earlier, later in pairwise(began))
