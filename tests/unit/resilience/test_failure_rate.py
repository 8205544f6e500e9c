"""The rule that finds a backend whose failure rate stands out: its figures, its errors, its power."""

from math import comb
from random import Random

import pytest

from balancer.resilience.failure_rate import FailureRates, buckets_of, chance_of


def exact_tail(failures: int, requests: int, other_failures: int, other_requests: int) -> float:
    """The hypergeometric tail, term by term."""
    failed, all_requests = failures + other_failures, requests + other_requests
    ways = sum(comb(requests, k) * comb(other_requests, failed - k) for k in range(failures, min(requests, failed) + 1))
    return ways / comb(all_requests, failed)


def test_the_chance_is_never_below_the_exact_one_and_close_to_it_where_the_rule_uses_it() -> None:
    rng = Random(3)
    close = 0
    for _ in range(3000):
        requests, other_requests = rng.randint(1, 120), rng.randint(1, 300)
        failures, other_failures = rng.randint(0, requests), rng.randint(0, other_requests)
        table = (failures, requests, other_failures, other_requests)
        exact, bound = exact_tail(*table), chance_of(*table)
        assert bound >= exact * (1.0 - 1e-9)
        if failures / requests >= 2 * other_failures / other_requests and failures:
            close += 1
            assert bound <= 2.0 * exact * (1.0 + 1e-9)
    assert close > 300


def test_the_chance_is_exact_where_no_other_failed() -> None:
    assert chance_of(10, 20, 0, 60) == pytest.approx(exact_tail(10, 20, 0, 60), rel=1e-9)


def test_the_chance_of_equal_backends_is_small_as_seldom_as_it_says() -> None:
    rng = Random(5)
    tables = 4000
    below = 0
    for _ in range(tables):
        failures, other_failures = (sum(rng.random() < 0.3 for _ in range(count)) for count in (30, 60))
        below += chance_of(failures, 30, other_failures, 60) <= 0.05
    assert 0 < below / tables <= 0.05 + 3 * (0.05 * 0.95 / tables) ** 0.5


def rates(*tallies: tuple[int, int]) -> FailureRates:
    """Backends 0, 1, ... with (requests, failures)."""
    made = FailureRates(10.0)
    for slot, (requests, failures) in enumerate(tallies):
        made.add(slot, requests, failures)
    return made


def outliers(made: FailureRates) -> list[int]:
    return [slot for slot in made.suspects() if made.evidence(slot) is not None]


@pytest.mark.parametrize("others", [1, 2, 3, 4, 5, 100])
def test_one_that_fails_half_of_the_time_is_an_outlier_among_any_number_of_good_ones(others: int) -> None:
    assert outliers(rates((200, 100), *[(200, 1)] * others)) == [0]


@pytest.mark.parametrize("failures", [0, 2, 20, 60, 100, 150, 200])
@pytest.mark.parametrize("backends", [2, 3, 4, 5, 50])
def test_where_all_fail_alike_nobody_is(backends: int, failures: int) -> None:
    assert outliers(rates(*[(200, failures)] * backends)) == []


@pytest.mark.parametrize("failures", [1, 5, 10, 19])
def test_a_handful_of_requests_says_nothing_about_a_backend(failures: int) -> None:
    assert outliers(rates((19, failures), *[(1000, 0)] * 4)) == []


def test_nor_do_the_others_without_enough_requests() -> None:
    assert chance_of(900, 1000, 0, 19) < 1e-15
    assert outliers(rates((1000, 900), (19, 0))) == []
    assert outliers(rates((1000, 900), (20, 0))) == [0]
    assert outliers(rates((1000, 500))) == []


def test_enough_requests_with_too_few_failures_may_be_chance() -> None:
    assert outliers(rates((20, 3), *[(20, 0)] * 4)) == []


def test_a_difference_that_does_not_matter_is_none_however_sure_it_is() -> None:
    assert chance_of(900, 10_000, 0, 30_000) < 1e-100
    assert outliers(rates((10_000, 900), *[(10_000, 0)] * 3)) == []  # 9 points are below the gap
    assert outliers(rates((10_000, 1100), *[(10_000, 0)] * 3)) == [0]
    assert outliers(rates((10_000, 1400), *[(10_000, 600)] * 3)) == []


def test_where_many_fail_one_that_fails_less_than_twice_as_often_is_none() -> None:
    assert outliers(rates((10_000, 7500), *[(10_000, 4000)] * 3)) == []
    assert outliers(rates((10_000, 8500), *[(10_000, 4000)] * 3)) == [0]


def test_two_bad_ones_of_four_are_both_outliers_and_the_worst_comes_first() -> None:
    assert outliers(rates((200, 1), (200, 100), (200, 0), (200, 120))) == [3, 1]


def test_a_stricter_chance_is_asked_of_each_the_more_backends_there_are() -> None:
    assert 1e-6 / 51 < chance_of(6, 20, 0, 200) < 1e-6 / 3
    assert outliers(rates((20, 6), *[(100, 0)] * 2)) == [0]
    assert outliers(rates((20, 6), *[(4, 0)] * 50)) == []


def test_the_evidence_gives_the_figures() -> None:
    evidence = rates((120, 61), (180, 2), (180, 1)).evidence(0)
    assert evidence == "61 of 120 requests failed (51%) in 10 s, at the pool's others 3 of 360 (1%)"


def test_what_is_older_than_the_window_counts_no_more() -> None:
    made = rates((200, 100), (200, 0))
    for _ in range(buckets_of(10.0) - 1):
        made.move_on()
        assert outliers(made) == [0]
    made.move_on()
    assert made.suspects() == []
    made.add(0, 100, 0)
    made.add(1, 100, 100)
    assert outliers(made) == [1]


def test_of_a_forgotten_backend_nothing_is_left_in_any_bucket_or_sum() -> None:
    made = rates((200, 100), (200, 0), (200, 0))
    made.move_on()
    made.add(0, 200, 100)
    made.forget(0)
    made.forget(0)
    made.add(1, 200, 100)
    assert made.evidence(1) == "100 of 400 requests failed (25%) in 10 s, at the pool's others 0 of 200 (0%)"
    for _ in range(buckets_of(10.0)):
        made.move_on()
    assert made.suspects() == []


@pytest.mark.parametrize(("window", "buckets"), [(0.5, 1), (1.0, 1), (3.0, 3), (10.0, 10), (60.0, 10)])
def test_no_bucket_is_shorter_than_the_second_in_which_successes_are_told(window: float, buckets: int) -> None:
    assert buckets_of(window) == buckets


SECONDS, RATE = 300, 20


def looks(failing: list[float], seconds: int, seed: int) -> list[list[int]]:
    """The outliers of each second, with 20 requests/s at each backend, nobody being ejected."""
    rng = Random(seed)
    made = FailureRates(10.0)
    found = []
    for _ in range(seconds):
        for slot, share in enumerate(failing):
            made.add(slot, RATE, sum(rng.random() < share for _ in range(RATE)))
        found.append(outliers(made))
        made.move_on()
    return found


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("backends", [2, 3, 4, 5])
def test_equal_backends_are_no_outliers_in_any_look(backends: int, share: float) -> None:
    assert not any(looks([share] * backends, SECONDS, seed=backends))


@pytest.mark.parametrize(("others", "seconds"), [(1, 3), (2, 2), (3, 2), (4, 2), (5, 2)])
def test_one_that_fails_half_of_the_time_is_found_within_seconds(others: int, seconds: int) -> None:
    late = 0
    for seed in range(100):
        found = looks([0.5] + [0.01] * others, seconds + 3, seed)
        assert [0] in found
        assert all(each in ([], [0]) for each in found)
        late += [0] not in found[:seconds]
    assert late <= 5


@pytest.mark.parametrize("others", [1, 2, 3, 4, 5])
def test_one_that_fails_every_fifth_time_is_found_within_two_windows(others: int) -> None:
    for seed in range(10):
        assert any(looks([0.2] + [0.0] * others, 20, seed))
