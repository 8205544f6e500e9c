"""The detector of a pool: what reports lead to which decision."""

from random import Random

import pytest

from balancer.config.model import OutlierDetection
from balancer.resilience.outliers import Decision, OutlierDetector, Verdict

SETTINGS = OutlierDetection()
Brief = list[tuple[int, Verdict, str]]


def detector(backends: int = 4, settings: OutlierDetection = SETTINGS) -> OutlierDetector:
    made = OutlierDetector(settings, Random(1))
    made.keep(range(backends))
    made.tick(0.0)
    return made


def brief(decisions: list[Decision]) -> Brief:
    return [(each.slot, each.verdict, each.cause) for each in decisions]


def fail(made: OutlierDetector, slot: int, count: int, now: float = 0.0) -> list[Decision]:
    return [each for _ in range(count) for each in made.failed(slot, "upstream_reset", 0, now)]


def until(made: OutlierDetector, end: float, start: float) -> list[Decision]:
    """Tick ten times per second. Returns all decisions."""
    return [each for step in range(1, round((end - start) * 10) + 1) for each in made.tick(start + step / 10)]


def on_trial(backends: int = 4) -> OutlierDetector:
    """Backend 0 is on trial at 11 s."""
    made = detector(backends)
    fail(made, 0, 5)
    until(made, 11.0, 0.0)
    assert made.is_half_open(0)
    return made


EJECTED_IN_A_ROW = [(0, Verdict.EJECTED, "consecutive_failures")]


def test_the_fifth_failure_in_a_row_ejects() -> None:
    made = detector()
    assert fail(made, 0, 4) == []
    assert not made.is_ejected(0)
    [decision] = made.failed(0, "connect_failed", 0, 0.0)
    assert brief([decision]) == EJECTED_IN_A_ROW
    assert decision.evidence == "5 failures in a row, last connect_failed"
    assert 9.0 <= decision.seconds <= 11.0
    assert made.is_ejected(0)
    assert not made.is_half_open(0)
    assert not made.is_ejected(1)


def test_a_success_before_a_failure_starts_the_count_anew() -> None:
    made = detector()
    for _ in range(10):
        assert fail(made, 0, 3) == []
        assert made.failed(0, "upstream_reset", 1, 0.0) == []
    assert fail(made, 0, 3) == []
    assert brief(fail(made, 0, 1)) == EJECTED_IN_A_ROW


def test_so_does_a_success_that_another_worker_reports() -> None:
    made = detector()
    for _ in range(10):
        assert fail(made, 0, 4) == []
        assert made.succeeded(0, 1, 0.01, 0.0) == []
    assert fail(made, 0, 4) == []
    assert made.succeeded(0, 0, 0.0, 0.0) == []  # no success at all
    assert brief(fail(made, 0, 1)) == EJECTED_IN_A_ROW


def test_each_backend_has_a_count_of_its_own() -> None:
    made = detector()
    for _ in range(4):
        assert made.failed(0, "x", 0, 0.0) == made.failed(1, "x", 0, 0.0) == []
        made.succeeded(2, 1, 0.01, 0.0)
    assert brief(fail(made, 0, 1)) == EJECTED_IN_A_ROW


def test_switched_off_no_number_of_failures_in_a_row_ejects() -> None:
    made = detector(settings=OutlierDetection(consecutive_failures=None))
    assert fail(made, 0, 1000) == []


def test_late_failures_do_not_make_an_ejection_longer() -> None:
    made = detector()
    fail(made, 0, 5)
    assert fail(made, 0, 1000, now=8.0) == []
    assert brief(until(made, 12.0, 8.0)) == [(0, Verdict.HALF_OPEN, "time")]


def test_late_successes_do_not_end_an_ejection() -> None:
    made = detector()
    fail(made, 0, 5)
    assert made.succeeded(0, 10, 0.1, 1.0) == []
    assert made.is_ejected(0)


def test_the_trial_that_goes_well_returns() -> None:
    made = on_trial()
    assert made.is_ejected(0)
    assert brief(made.succeeded(0, 1, 0.01, 11.0)) == [(0, Verdict.RETURNED, "trial")]
    assert not made.is_ejected(0)
    assert not made.is_half_open(0)


def test_the_trial_that_fails_ejects_for_longer() -> None:
    made = on_trial()
    [decision] = made.failed(0, "connect_failed", 0, 11.0)
    assert brief([decision]) == [(0, Verdict.EJECTED, "trial")]
    assert decision.evidence == "the trial request failed: connect_failed"
    assert 18.0 <= decision.seconds <= 22.0
    assert made.is_ejected(0)
    assert not made.is_half_open(0)


def test_a_returned_one_needs_all_failures_anew() -> None:
    made = on_trial()
    made.succeeded(0, 1, 0.01, 11.0)
    assert fail(made, 0, 4, now=11.0) == []
    assert brief(fail(made, 0, 1, now=11.0)) == EJECTED_IN_A_ROW


def test_an_active_check_returns_one_on_trial_and_no_other() -> None:
    made = detector()
    fail(made, 1, 4)
    fail(made, 0, 5)
    assert made.checked_healthy(0, 1.0) == made.checked_healthy(1, 1.0) == made.checked_healthy(99, 1.0) == []
    assert made.is_ejected(0)
    assert brief(fail(made, 1, 1)) == [(1, Verdict.EJECTED, "consecutive_failures")]  # a check ends no streak
    until(made, 11.0, 1.0)
    assert brief(made.checked_healthy(0, 11.0)) == [(0, Verdict.RETURNED, "health_check")]
    assert not made.is_ejected(0)


def test_beyond_the_share_failures_are_told_but_nobody_is_ejected() -> None:
    made = detector(4)
    found = [each for slot in range(4) for each in brief(fail(made, slot, 50))]
    assert [verdict for _, verdict, _ in found] == [Verdict.EJECTED] * 2 + [Verdict.SPARED] * 2
    assert [made.is_ejected(slot) for slot in range(4)] == [True, True, False, False]


def test_the_only_backend_of_a_pool_is_spared() -> None:
    made = detector(1)
    assert brief(fail(made, 0, 50)) == [(0, Verdict.SPARED, "consecutive_failures")]
    assert not made.is_ejected(0)


def seconds(made: OutlierDetector, count: int, failing: list[float], start: int = 0, seed: int = 1) -> list[Decision]:
    """So many seconds of 20 requests each at every backend that is in use. Returns all decisions."""
    rng = Random(seed)
    decisions = []
    for second in range(start, start + count):
        for slot, share in enumerate(failing):
            if made.is_ejected(slot):
                continue
            bad = sum(rng.random() < share for _ in range(20))
            decisions += made.succeeded(slot, 20 - bad, (20 - bad) * 0.01, float(second))
            for _ in range(bad):
                decisions += made.failed(slot, "status_5xx", 0, float(second))
        decisions += made.tick(second + 1.0)
    return decisions


def told_by_workers(made: OutlierDetector, count: int, failing: list[float], workers: int) -> list[Decision]:
    """As `seconds`, told as workers do: successes with the failure that follows, or at the end of the second."""
    rng = Random(2)
    decisions = []
    for second in range(count):
        for slot in [slot for slot in range(len(failing)) if not made.is_ejected(slot)]:
            for _ in range(workers):
                good = 0
                for _ in range(20 // workers):
                    if rng.random() < failing[slot]:
                        decisions += made.failed(slot, "status_5xx", good, float(second))
                        good = 0
                    else:
                        good += 1
                decisions += made.succeeded(slot, good, good * 0.01, second + 0.99)
        decisions += made.tick(second + 1.0)
    return decisions


RATE_ONLY = OutlierDetection(consecutive_failures=None)


@pytest.mark.parametrize("others", [1, 2, 3, 4, 5])
def test_one_that_fails_half_of_the_time_is_ejected_within_a_window(others: int) -> None:
    made = detector(1 + others, RATE_ONLY)
    decisions = seconds(made, 10, [0.5] + [0.01] * others)
    assert brief(decisions) == [(0, Verdict.EJECTED, "failure_rate")]
    assert "requests failed" in decisions[0].evidence


def test_two_of_four_are_ejected_together() -> None:
    made = detector(4, RATE_ONLY)
    decisions = seconds(made, 10, [0.5, 0.0, 0.5, 0.0])
    assert sorted(brief(decisions)) == [(0, Verdict.EJECTED, "failure_rate"), (2, Verdict.EJECTED, "failure_rate")]


@pytest.mark.parametrize("workers", [1, 4])
def test_successes_that_are_told_with_a_failure_count_as_requests(workers: int) -> None:
    assert told_by_workers(detector(3, RATE_ONLY), 60, [0.06, 0.0, 0.0], workers) == []
    [decision] = told_by_workers(detector(3, RATE_ONLY), 10, [0.5, 0.02, 0.02], workers)
    assert (decision.slot, decision.verdict) == (0, Verdict.EJECTED)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("backends", [2, 3, 4, 5])
def test_a_pool_that_fails_alike_ejects_nobody_by_rate(backends: int, share: float) -> None:
    assert seconds(detector(backends, RATE_ONLY), 120, [share] * backends) == []


def test_the_failure_rate_can_be_switched_off() -> None:
    settings = OutlierDetection(consecutive_failures=None, failure_rate=False)
    assert seconds(detector(4, settings), 60, [0.9, 0.0, 0.0, 0.0]) == []


def test_failures_from_before_an_ejection_are_not_held_against_it_again() -> None:
    made = detector(3, OutlierDetection(consecutive_failures=None, base_ejection=1.0))
    assert brief(seconds(made, 3, [0.5, 0.0, 0.0]))[:1] == [(0, Verdict.EJECTED, "failure_rate")]
    made.tick(5.0)
    assert brief(made.succeeded(0, 1, 0.01, 5.0)) == [(0, Verdict.RETURNED, "trial")]
    assert seconds(made, 20, [0.0] * 3, start=5) == []


def test_a_long_pause_between_ticks_is_no_reason_to_judge_old_requests() -> None:
    made = detector(3, RATE_ONLY)
    failing = [0.4, 0.0, 0.0]
    assert seconds(made, 1, failing) == []
    assert made.tick(1000.0) == []
    assert seconds(made, 1, failing, start=1000) == []
    assert brief(seconds(made, 1, failing, start=1001)) == [(0, Verdict.EJECTED, "failure_rate")]  # two are enough


def slow_seconds(made: OutlierDetector, count: int, times: list[float], start: int = 0) -> list[Decision]:
    decisions = []
    for second in range(start, start + count):
        for slot, mean in enumerate(times):
            decisions += made.succeeded(slot, 20, 20 * mean, float(second))
        decisions += made.tick(second + 1.0)
    return decisions


SLOWED = [(0, Verdict.SLOWED, "latency")]


def test_a_latency_outlier_is_slowed_and_sped_up_again_but_never_ejected() -> None:
    made = detector(3)
    assert brief(slow_seconds(made, 30, [0.3, 0.01, 0.01])) == SLOWED
    assert not made.is_ejected(0)
    assert made.share(0) == pytest.approx(1 / 30)
    assert made.share(1) == made.share(99) == 1.0
    decisions = slow_seconds(made, 10, [0.01, 0.01, 0.01], start=30)
    assert brief(decisions) == [(0, Verdict.SPED_UP, "latency")] * 5
    assert made.share(0) == 1.0


def test_latency_can_be_switched_off() -> None:
    assert slow_seconds(detector(3, OutlierDetection(latency=False)), 30, [0.3, 0.01, 0.01]) == []


@pytest.mark.parametrize("settings", [OutlierDetection(latency=False), OutlierDetection(mode="observe")])
def test_a_reload_that_does_not_allow_lowered_shares_makes_them_whole(settings: OutlierDetection) -> None:
    made = detector(3)
    slow_seconds(made, 5, [0.3, 0.01, 0.01])
    made.reconfigure(settings)
    assert brief(made.tick(5.0)) == [(0, Verdict.SPED_UP, "latency")]
    assert made.share(0) == 1.0
    assert made.tick(5.1) == []


def test_an_ejection_makes_the_share_whole() -> None:
    made = detector(3)
    slow_seconds(made, 5, [0.3, 0.01, 0.01])
    fail(made, 0, 5, now=5.0)
    assert made.share(0) == 1.0


OBSERVE = OutlierDetection(mode="observe")


def test_when_observed_everything_is_told_and_nothing_done() -> None:
    made = detector(4, OBSERVE)
    assert brief(fail(made, 0, 100)) == [(0, Verdict.OBSERVED, "consecutive_failures")]
    rate_only = detector(4, OutlierDetection(mode="observe", consecutive_failures=None))
    assert brief(seconds(rate_only, 5, [0.5, 0.0, 0.0, 0.0])) == [(0, Verdict.OBSERVED, "failure_rate")]
    slow = detector(4, OBSERVE)
    assert brief(slow_seconds(slow, 60, [0.3, 0.01, 0.01, 0.01])) == [(0, Verdict.OBSERVED, "latency")]
    for each in (made, rate_only, slow):
        assert not each.is_ejected(0)
        assert not each.is_half_open(0)
        assert each.share(0) == 1.0


def test_when_observed_one_that_keeps_failing_is_told_at_growing_intervals() -> None:
    made = detector(4, OBSERVE)
    told = []
    for step in range(1000):
        now = step / 10
        told += [now for each in made.failed(0, "x", 0, now) + made.tick(now) if each.verdict is Verdict.OBSERVED]
    assert 3 <= len(told) <= 5  # at 0, and after about 10, 20, 30 s more


def test_observing_from_now_on_returns_the_ejected_even_before_a_trial_can_fail() -> None:
    made = on_trial()
    made.reconfigure(OBSERVE)
    assert made.failed(0, "x", 0, 11.0) == []
    assert brief(made.tick(11.1)) == [(0, Verdict.RETURNED, "settings")]
    assert not made.is_ejected(0)


def test_new_limits_apply_from_the_next_failure_on() -> None:
    made = detector()
    fail(made, 0, 2)
    made.reconfigure(OutlierDetection(consecutive_failures=3))
    assert brief(fail(made, 0, 1)) == EJECTED_IN_A_ROW


def test_a_new_window_starts_empty() -> None:
    made = detector(3, RATE_ONLY)
    assert seconds(made, 1, [0.25, 0.0, 0.0]) == []
    made.reconfigure(OutlierDetection(consecutive_failures=None, window=60.0))
    assert until(made, 8.0, 1.0) == []
    decisions = [each for start in range(8, 40) for each in seconds(made, 1, [0.25, 0.0, 0.0], start)]
    assert brief(decisions)[0] == (0, Verdict.EJECTED, "failure_rate")


def test_unknown_slots_are_ignored() -> None:
    made = detector(2)
    assert fail(made, 9, 100) == made.succeeded(9, 5, 0.1, 0.0) == made.checked_healthy(9, 0.0) == []
    assert not made.is_ejected(9)
    assert not made.is_half_open(9)
    assert made.share(9) == 1.0


def test_a_slot_that_is_used_anew_starts_afresh() -> None:
    made = detector(4)
    fail(made, 0, 5)
    fail(made, 1, 4)
    made.keep([2, 3])
    made.keep(range(4))
    assert not made.is_ejected(0)
    assert fail(made, 1, 4) == []


def test_those_that_stay_keep_their_state() -> None:
    made = detector(4)
    fail(made, 0, 5)
    fail(made, 1, 4)
    made.keep([0, 1, 5, 6])
    assert made.is_ejected(0)
    assert brief(fail(made, 1, 1)) == [(1, Verdict.EJECTED, "consecutive_failures")]


def test_a_pool_that_shrinks_does_not_stay_without_anybody() -> None:
    made = detector(4)
    fail(made, 0, 5)
    fail(made, 1, 5)
    made.keep([0, 1])
    assert [verdict for _, verdict, _ in brief(made.tick(1.0))] == [Verdict.RETURNED]
    assert [made.is_ejected(0), made.is_ejected(1)].count(True) == 1


def test_the_same_seed_gives_the_same_decisions() -> None:
    def run() -> list[Decision]:
        return seconds(detector(4), 60, [0.5, 0.2, 0.0, 0.0])

    assert run() == run() != []


def test_one_that_begins_to_fail_half_of_its_requests_is_ejected_after_some_twenty_however_well_it_did() -> None:
    made = detector(4, OutlierDetection(consecutive_failures=None, latency=False))
    for second in range(3):
        made.tick(float(second))
        for slot in range(4):
            made.succeeded(slot, 250, 1.5, float(second))
    decisions: list[Decision] = []
    failed = 0
    while not decisions and failed < 100:
        failed += 1
        decisions = made.failed(0, "status_5xx", 1, 2.1)
    assert [(decision.slot, decision.cause) for decision in decisions] == [(0, "failure_rate")]
    assert failed <= 15
    assert "of the last" in decisions[0].evidence
