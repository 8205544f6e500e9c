"""Backends far slower than their pool: when a share is lowered, how far, and how it comes back."""

from random import Random

import pytest

from balancer.resilience.ejection import Decision, Verdict
from balancer.resilience.latency_outliers import FLOOR, LOT, LatencyOutliers

WINDOW = 10.0


class Pool:
    """Backends whose times are told once per second, each with 20 requests unless said otherwise."""

    def __init__(self, *, observe: bool = False) -> None:
        self.outliers = LatencyOutliers()
        self.observe = observe
        self.now = 0.0

    def second(self, *times: float | None, counts: dict[int, int] | None = None) -> list[Decision]:
        for slot, mean in enumerate(times):
            if mean is not None:
                count = (counts or {}).get(slot, 20)
                self.outliers.add(slot, count, mean * count)
        self.now += 1.0
        return self.outliers.look(self.now, WINDOW, observe=self.observe)

    def seconds(self, count: int, *times: float | None, counts: dict[int, int] | None = None) -> list[Decision]:
        return [decision for _ in range(count) for decision in self.second(*times, counts=counts)]


def verdicts(decisions: list[Decision]) -> list[tuple[int, Verdict]]:
    return [(decision.slot, decision.verdict) for decision in decisions]


def test_the_third_slow_lot_in_a_row_lowers_the_share_to_that_of_its_pace() -> None:
    pool = Pool()
    assert pool.seconds(2, 0.3, 0.01, 0.01, 0.01) == []
    [decision] = pool.second(0.3, 0.01, 0.01, 0.01)
    assert (decision.slot, decision.verdict, decision.cause) == (0, Verdict.SLOWED, "latency")
    assert decision.evidence == "first byte after 300 ms on average, 10 ms at the pool's others; share 3%"
    assert pool.outliers.share(0) == pytest.approx(1 / 30)
    assert [pool.outliers.share(slot) for slot in (1, 2, 3)] == [1.0] * 3


def test_one_that_stays_slow_is_told_once() -> None:
    pool = Pool()
    assert verdicts(pool.seconds(100, 0.3, 0.01, 0.01)) == [(0, Verdict.SLOWED)]


def test_no_share_is_below_the_floor() -> None:
    pool = Pool()
    pool.seconds(3, 60.0, 0.001, 0.001)
    assert pool.outliers.share(0) == FLOOR


def test_a_single_very_long_request_lowers_nothing() -> None:
    pool = Pool()
    for _ in range(20):
        assert pool.seconds(2, 60.0, 0.01, 0.01) == []
        assert pool.second(0.01, 0.01, 0.01) == []


def test_three_times_the_median_is_not_slow_and_neither_are_20_ms_more() -> None:
    assert Pool().seconds(50, 0.299, 0.1, 0.1, 0.1) == []
    assert Pool().seconds(50, 0.0209, 0.001, 0.001, 0.001) == []
    assert verdicts(Pool().seconds(50, 0.0215, 0.001, 0.001, 0.001)) == [(0, Verdict.SLOWED)]


def test_two_backends_are_too_few_to_say_which_is_the_outlier() -> None:
    assert Pool().seconds(50, 1.0, 0.001) == []
    assert Pool().seconds(50, 1.0, 0.001, None, None) == []


def test_one_that_is_broken_and_quick_does_not_make_the_good_ones_slow() -> None:
    assert Pool().seconds(50, 0.05, 0.05, 0.0005) == []


def test_too_few_requests_wait_for_more() -> None:
    pool = Pool()
    few = {0: 1}
    assert pool.seconds(3 * LOT - 1, 0.3, 0.01, 0.01, counts=few) == []
    assert verdicts(pool.second(0.3, 0.01, 0.01, counts=few)) == [(0, Verdict.SLOWED)]


def test_two_slow_ones_of_five_are_both_slowed() -> None:
    assert sorted(verdicts(Pool().seconds(20, 0.3, 0.01, 0.3, 0.01, 0.01))) == [
        (0, Verdict.SLOWED),
        (2, Verdict.SLOWED),
    ]


def test_a_recovered_one_doubles_its_share_lot_by_lot() -> None:
    pool = Pool()
    pool.seconds(3, 0.08, 0.01, 0.01)
    assert pool.outliers.share(0) == pytest.approx(1 / 8)
    shares = []
    for _ in range(3):
        [decision] = pool.second(0.01, 0.01, 0.01)
        assert (decision.slot, decision.verdict, decision.cause) == (0, Verdict.SPED_UP, "latency")
        shares.append(pool.outliers.share(0))
    assert shares == pytest.approx([0.25, 0.5, 1.0])
    assert pool.seconds(20, 0.01, 0.01, 0.01) == []


def test_between_slow_and_fine_nothing_changes() -> None:
    pool = Pool()
    pool.seconds(3, 0.8, 0.1, 0.1)
    assert pool.seconds(50, 0.25, 0.1, 0.1) == []
    assert pool.outliers.share(0) == pytest.approx(1 / 8)


def test_one_that_grows_slower_is_lowered_further() -> None:
    pool = Pool()
    pool.seconds(3, 0.1, 0.01, 0.01)
    assert pool.seconds(5, 0.14, 0.01, 0.01) == []  # not worth a decision
    assert verdicts(pool.seconds(5, 0.5, 0.01, 0.01)) == [(0, Verdict.SLOWED)]
    assert pool.outliers.share(0) == pytest.approx(1 / 50)


def test_a_low_share_that_brings_few_requests_is_judged_by_them_once_per_window() -> None:
    pool = Pool()
    pool.seconds(3, 1.0, 0.001, 0.001)
    one = {0: 1}
    assert pool.seconds(9, 0.001, 0.001, 0.001, counts=one) == []
    assert verdicts(pool.second(0.001, 0.001, 0.001, counts=one)) == [(0, Verdict.SPED_UP)]
    assert pool.outliers.share(0) == pytest.approx(2 * FLOOR)


def test_few_requests_that_are_slow_still_keep_the_share_low() -> None:
    pool = Pool()
    pool.seconds(3, 1.0, 0.001, 0.001)
    one = {0: 1}
    for _ in range(20):
        assert pool.second(1.0, 0.001, 0.001, counts=one) == []
        assert pool.seconds(4, None, 0.001, 0.001) == []
    assert pool.outliers.share(0) == FLOOR


def test_but_they_are_too_few_to_lower_it_further() -> None:
    pool = Pool()
    pool.seconds(3, 0.08, 0.01, 0.01)
    for _ in range(10):
        assert pool.second(60.0, 0.01, 0.01, counts={0: 1}) == []
        assert pool.seconds(4, None, 0.01, 0.01) == []
    assert pool.outliers.share(0) == pytest.approx(1 / 8)


def test_a_low_share_without_any_requests_comes_back_step_by_step() -> None:
    pool = Pool()
    pool.seconds(3, 1.0, 0.001, 0.001)
    decisions = pool.seconds(7 * int(WINDOW), None, 0.001, 0.001)
    assert verdicts(decisions) == [(0, Verdict.SPED_UP)] * 7
    assert pool.outliers.share(0) == 1.0


def test_so_does_one_whose_pool_has_become_too_small_to_judge_it() -> None:
    pool = Pool()
    pool.seconds(3, 1.0, 0.001, 0.001)
    pool.outliers.forget(2)
    pool.seconds(7 * int(WINDOW), 1.0, 0.001)
    assert pool.outliers.share(0) == 1.0


def test_times_of_others_that_are_long_ago_are_no_measure() -> None:
    pool = Pool()
    pool.second(0.001, 0.001, 0.001)
    pool.seconds(3 * int(WINDOW), None, None, None)
    assert pool.seconds(20, 1.0, 0.001) == []


def test_when_observed_it_is_told_once_until_it_has_recovered_and_the_share_stays() -> None:
    pool = Pool(observe=True)
    assert verdicts(pool.seconds(50, 1.0, 0.01, 0.01)) == [(0, Verdict.OBSERVED)]
    assert pool.outliers.share(0) == 1.0
    assert pool.seconds(5, 0.01, 0.01, 0.01) == []
    assert verdicts(pool.seconds(50, 1.0, 0.01, 0.01)) == [(0, Verdict.OBSERVED)]


def test_a_release_makes_all_shares_whole_and_says_so() -> None:
    pool = Pool()
    pool.seconds(3, 1.0, 0.01, 0.01, 0.01)
    [decision] = pool.outliers.release("latency is off now")
    assert (decision.slot, decision.verdict) == (0, Verdict.SPED_UP)
    assert decision.evidence == "latency is off now; share 100%"
    assert pool.outliers.share(0) == 1.0
    assert pool.outliers.release("again") == []


def test_a_forgotten_one_has_its_whole_share() -> None:
    pool = Pool()
    pool.seconds(3, 1.0, 0.01, 0.01, 0.01)
    pool.outliers.forget(0)
    pool.outliers.forget(0)
    assert pool.outliers.share(0) == 1.0


@pytest.mark.parametrize("backends", [3, 4, 5])
def test_equal_backends_whose_times_vary_widely_are_slowed_rarely(backends: int) -> None:
    rng = Random(backends)
    pool = Pool()
    slowed = 0
    for _ in range(1500):
        means = [sum(rng.lognormvariate(-4.0, 1.0) for _ in range(20)) / 20 for _ in range(backends)]
        slowed += sum(decision.verdict is Verdict.SLOWED for decision in pool.second(*means))
    assert slowed == 0


def test_the_median_of_many_is_that_of_the_others_only() -> None:
    for values in ([0.1, 0.2, 0.3, 1.0], [0.1, 0.2, 1.0, 0.3, 0.4], [1.0, 0.1, 0.1]):
        pool = Pool()
        slow = values.index(1.0)
        others = sorted(values[:slow] + values[slow + 1 :])
        median = (others[(len(others) - 1) // 2] + others[len(others) // 2]) / 2
        pool.seconds(3, *values)
        assert pool.outliers.share(slow) == pytest.approx(median)
