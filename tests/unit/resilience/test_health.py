"""Active checks of one backend: what changes its state, and when the next check is due."""

from random import Random

import pytest

from balancer.config.model import HealthCheck
from balancer.resilience.health import Health, HealthTracker

CHECK = HealthCheck(interval=10.0, fast_interval=1.0, healthy_after=2, unhealthy_after=3)


def tracker(*results: bool, check: HealthCheck = CHECK) -> HealthTracker:
    made = HealthTracker(check)
    for passed in results:
        made.result(passed)
    return made


def test_until_the_first_result_it_is_checking() -> None:
    assert tracker().state is Health.CHECKING


@pytest.mark.parametrize(("passed", "state"), [(True, Health.HEALTHY), (False, Health.UNHEALTHY)])
def test_the_first_result_decides_alone(passed: bool, state: Health) -> None:
    fresh = tracker()
    assert fresh.result(passed) is state
    assert fresh.state is state


def test_a_healthy_one_turns_unhealthy_with_the_last_of_enough_failures_in_a_row() -> None:
    healthy = tracker(True)
    assert [healthy.result(False) for _ in range(4)] == [None, None, Health.UNHEALTHY, None]
    assert healthy.state is Health.UNHEALTHY


def test_an_unhealthy_one_turns_healthy_with_the_last_of_enough_passes_in_a_row() -> None:
    unhealthy = tracker(False)
    assert [unhealthy.result(True) for _ in range(3)] == [None, Health.HEALTHY, None]


def test_a_result_in_between_starts_the_count_anew() -> None:
    healthy = tracker(True)
    for passed in (False, False, True, False, False, True) * 5:
        assert healthy.result(passed) is None
    unhealthy = tracker(False)
    for passed in (True, False) * 5:
        assert unhealthy.result(passed) is None


def test_the_failures_that_made_it_unhealthy_do_not_count_for_the_next_change() -> None:
    changed = tracker(True, False, False, False)
    assert [changed.result(True), changed.result(True)] == [None, Health.HEALTHY]
    assert [changed.result(False), changed.result(False)] == [None, None]


def test_results_in_a_row_are_told_for_the_log() -> None:
    assert tracker().in_a_row == 0
    assert tracker(False).in_a_row == 1
    assert tracker(True, True, False, False, False).in_a_row == 3


def delays(made: HealthTracker) -> list[float]:
    """Those after the first steady one, which is as long as chance has it."""
    rng = Random(1)
    made.next_delay(rng)
    return [made.next_delay(rng) for _ in range(2000)]


def test_after_the_first_result_checks_that_began_together_are_spread_over_the_interval() -> None:
    rng = Random(3)
    first = [tracker(True).next_delay(rng) for _ in range(2000)]
    assert 1.0 <= min(first) < 1.1
    assert 9.9 < max(first) <= 10.0
    assert 4.7 < sum(first) / len(first) < 5.5


def assert_around(values: list[float], middle: float) -> None:
    assert min(values) >= 0.9 * middle
    assert max(values) <= 1.1 * middle
    assert min(values) < 0.91 * middle  # the whole width is used
    assert max(values) > 1.09 * middle


@pytest.mark.parametrize(
    "results",
    [(True,), (False,), (True, True), (False, False), (True, False, True), (True, False, False, False)],
)
def test_a_steady_state_is_checked_at_the_interval_with_jitter(results: tuple[bool, ...]) -> None:
    assert_around(delays(tracker(*results)), 10.0)


@pytest.mark.parametrize("results", [(), (True, False), (True, False, False), (False, True)])
def test_before_the_first_result_and_in_transition_checks_are_faster(results: tuple[bool, ...]) -> None:
    assert_around(delays(tracker(*results)), 1.0)


def test_an_interval_shorter_than_the_fast_one_is_never_slowed_down() -> None:
    assert_around(delays(tracker(check=HealthCheck(interval=0.5, fast_interval=1.0))), 0.5)


def test_delays_are_the_same_under_the_same_seed() -> None:
    assert delays(tracker(True)) == delays(tracker(True))


def test_new_settings_keep_the_state_and_apply_from_the_next_result_on() -> None:
    healthy = tracker(True, False)
    assert healthy.next_delay(Random(1)) < 1.2, "in transition"
    healthy.reconfigure(HealthCheck(interval=60.0, fast_interval=20.0, unhealthy_after=2))
    assert healthy.state is Health.HEALTHY
    assert_around(delays(healthy), 20.0)
    assert healthy.result(False) is Health.UNHEALTHY
    assert_around(delays(healthy), 60.0)
