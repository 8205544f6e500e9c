"""Back-off: the first restart at once, then longer and longer, forgiven after a stable time."""

from balancer.daemon.restarts import FIRST, LONGEST, STABLE_AFTER, Restarts


def test_the_first_restart_is_at_once_and_each_further_one_waits_twice_as_long() -> None:
    restarts = Restarts()
    assert [restarts.died(float(now)) for now in range(6)] == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6]
    assert restarts.quick_deaths == 6


def test_the_wait_has_a_bound_however_often_it_dies() -> None:
    restarts = Restarts()
    waits = [restarts.died(0.0) for _ in range(5000)]
    assert max(waits) == waits[-1] == LONGEST
    assert waits[1] == FIRST


def test_a_worker_that_served_for_a_while_is_forgiven() -> None:
    restarts = Restarts()
    for _ in range(5):
        restarts.died(0.0)
    restarts.ready(100.0)
    assert restarts.died(100.0 + STABLE_AFTER) == 0.0


def test_less_than_the_stable_time_forgives_nothing() -> None:
    restarts = Restarts()
    restarts.died(0.0)
    restarts.ready(1.0)
    assert restarts.died(1.0 + STABLE_AFTER - 0.001) == FIRST


def test_a_death_before_it_was_ready_forgives_nothing() -> None:
    restarts = Restarts()
    restarts.ready(0.0)
    restarts.died(1.0)
    assert restarts.died(1000.0) == FIRST
