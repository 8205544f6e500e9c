"""Ejection: how many of a pool, for how long, and the way back."""

from random import Random

import pytest

from balancer.config.model import OutlierDetection
from balancer.resilience.ejection import Circuit, Decision, Ejections, Verdict

SETTINGS = OutlierDetection(base_ejection=10.0, max_ejection=60.0, max_ejected=0.5)
OBSERVE = OutlierDetection(mode="observe", base_ejection=10.0, max_ejection=60.0, max_ejected=0.5)


def pool(backends: int, settings: OutlierDetection = SETTINGS, seed: int = 1) -> Ejections:
    made = Ejections(settings, Random(seed))
    made.keep(range(backends))
    made.tick(0.0)
    return made


def eject(ejections: Ejections, slot: int, now: float = 0.0) -> Decision | None:
    return ejections.propose(slot, "consecutive_failures", "5 failures in a row, last upstream_reset", now)


def verdict(decision: Decision | None) -> Verdict | None:
    return None if decision is None else decision.verdict


def out(ejections: Ejections, backends: int) -> list[int]:
    return [slot for slot in range(backends) if ejections.circuit(slot) not in (Circuit.CLOSED, None)]


def test_an_ejection_says_why_and_for_how_long() -> None:
    ejections = pool(2)
    decision = eject(ejections, 1)
    assert decision is not None
    assert (decision.slot, decision.verdict, decision.cause) == (1, Verdict.EJECTED, "consecutive_failures")
    assert decision.evidence == "5 failures in a row, last upstream_reset"
    assert 9.0 <= decision.seconds <= 11.0
    assert [ejections.circuit(slot) for slot in (0, 1, 2)] == [Circuit.CLOSED, Circuit.OPEN, None]


@pytest.mark.parametrize(
    ("backends", "share", "allowed"),
    [
        (1, 0.5, 0),
        (1, 1.0, 0),
        (2, 0.0, 1),
        (2, 0.5, 1),
        (2, 1.0, 1),
        (3, 0.1, 1),
        (3, 0.5, 1),
        (3, 0.67, 2),
        (3, 1.0, 2),
        (4, 0.5, 2),
        (5, 0.5, 2),
        (10, 0.1, 1),
        (100, 0.29, 29),
        (100, 1.0, 99),
    ],
)
def test_as_many_are_ejected_as_stay_within_the_share_with_the_ejection_done(
    backends: int, share: float, allowed: int
) -> None:
    ejections = pool(backends, OutlierDetection(max_ejected=share))
    decisions = [eject(ejections, slot) for slot in range(backends)]
    assert [verdict(each) for each in decisions] == [Verdict.EJECTED] * allowed + [Verdict.SPARED] * (
        backends - allowed
    )


def test_one_on_trial_still_counts_as_out() -> None:
    ejections = pool(2)
    eject(ejections, 0)
    assert [each.verdict for each in ejections.tick(11.0)] == [Verdict.HALF_OPEN]
    assert verdict(eject(ejections, 1, 11.0)) is Verdict.SPARED
    ejections.give_back(0, "trial", "", 12.0)
    assert verdict(eject(ejections, 1, 12.0)) is Verdict.EJECTED


def test_a_spared_one_is_told_once_per_time_that_its_ejection_would_have_taken() -> None:
    ejections = pool(1)
    told = []
    for second in range(100):
        decision = eject(ejections, 0, float(second))
        if decision is not None:
            told.append(second)
            assert decision.seconds == 0.0
            assert decision.evidence.endswith("; the pool has no other")
    assert told == [0, 10, 30, 60]
    assert verdict(eject(ejections, 0, 200.0)) is Verdict.SPARED
    assert eject(ejections, 0, 209.9) is None  # it was quiet for long: the pauses begin anew
    assert verdict(eject(ejections, 0, 210.0)) is Verdict.SPARED


def test_a_spared_one_is_ejected_as_soon_as_there_is_room() -> None:
    ejections = pool(2)
    eject(ejections, 0)
    spared = eject(ejections, 1, 1.0)
    assert spared is not None
    assert spared.evidence.endswith("; 1 of 2 are out and no more may be")
    assert eject(ejections, 1, 2.0) is None
    ejections.tick(11.0)
    ejections.give_back(0, "trial", "", 11.0)
    assert verdict(eject(ejections, 1, 11.0)) is Verdict.EJECTED


def test_after_an_ejection_a_spared_one_is_told_at_once() -> None:
    ejections = pool(2)
    eject(ejections, 0)
    told = [second for second in range(35) if eject(ejections, 1, float(second)) is not None]
    assert told == [0, 10, 30]  # and not again before 60
    ejections.tick(35.0)
    ejections.give_back(0, "trial", "", 35.0)
    eject(ejections, 1, 35.0)
    ejections.tick(46.0)
    ejections.give_back(1, "trial", "", 46.0)
    eject(ejections, 0, 46.0)
    assert verdict(eject(ejections, 1, 46.0)) is Verdict.SPARED


def test_when_its_time_is_over_it_is_on_trial_and_stays_so() -> None:
    ejections = pool(2)
    decision = eject(ejections, 0, 5.0)
    assert decision is not None
    over = 5.0 + decision.seconds
    assert ejections.tick(over - 0.001) == []
    [half_open] = ejections.tick(over)
    assert (half_open.slot, half_open.verdict) == (0, Verdict.HALF_OPEN)
    assert ejections.circuit(0) is Circuit.HALF_OPEN
    assert ejections.tick(over + 1000.0) == []
    returned = ejections.give_back(0, "trial", "the trial request went well", over + 1000.0)
    assert (returned.slot, returned.verdict, returned.cause) == (0, Verdict.RETURNED, "trial")
    assert ejections.circuit(0) is Circuit.CLOSED


def seconds_of(decision: Decision | None) -> float:
    assert decision is not None
    return decision.seconds


def test_each_failed_trial_ejects_for_longer_up_to_the_longest_time() -> None:
    ejections = pool(2)
    now, times = 0.0, [seconds_of(eject(ejections, 0))]
    for _ in range(9):
        now += times[-1]
        ejections.tick(now)
        decision = ejections.trial_failed(0, "connect_failed", now)
        assert (decision.verdict, decision.cause) == (Verdict.EJECTED, "trial")
        assert decision.evidence == "the trial request failed: connect_failed"
        times.append(decision.seconds)
    for seconds, expected in zip(times, [10, 20, 30, 40, 50, 60, 60, 60, 60, 60], strict=True):
        assert 0.9 * expected <= seconds <= 1.1 * expected


def test_times_differ_by_jitter_and_are_the_same_under_the_same_seed() -> None:
    def times(seed: int) -> list[float]:
        ejections = pool(100, OutlierDetection(base_ejection=10.0, max_ejected=1.0), seed)
        return [seconds_of(eject(ejections, slot)) for slot in range(99)]

    assert times(1) == times(1) != times(2)
    assert min(times(1)) < 9.2
    assert max(times(1)) > 10.8


def ejected_times(ejections: Ejections, count: int) -> float:
    """Let one be ejected so often in a row. Returns when it came back."""
    now = seconds_of(eject(ejections, 0))
    ejections.tick(now)
    for _ in range(count - 1):
        now += ejections.trial_failed(0, "x", now).seconds
        ejections.tick(now)
    ejections.give_back(0, "trial", "", now)
    return now


@pytest.mark.parametrize(("healthy", "expected"), [(0.0, 50), (9.9, 50), (10.0, 40), (25.0, 30), (40.0, 10), (1e6, 10)])
def test_one_ejection_is_forgiven_for_each_base_time_in_use(healthy: float, expected: int) -> None:
    ejections = pool(2)
    back = ejected_times(ejections, 4)
    assert 0.9 * expected <= seconds_of(eject(ejections, 0, back + healthy + 1e-6)) <= 1.1 * expected


def test_what_is_forgiven_does_not_pile_up_however_often_it_was_ejected() -> None:
    ejections = pool(2)
    back = ejected_times(ejections, 500)
    assert seconds_of(eject(ejections, 0, back + 60.0)) <= 11.0


def test_when_observed_one_is_told_once_per_ejection_time_and_never_on_trial() -> None:
    ejections = pool(4, OBSERVE)
    decision = eject(ejections, 0)
    assert decision is not None
    assert decision.verdict is Verdict.OBSERVED
    assert 9.0 <= decision.seconds <= 11.0
    assert ejections.circuit(0) is Circuit.OBSERVED
    assert ejections.tick(decision.seconds) == []
    assert ejections.circuit(0) is Circuit.CLOSED
    assert 18.0 <= seconds_of(eject(ejections, 0, decision.seconds)) <= 22.0


def test_what_is_observed_obeys_the_share_as_ejections_would() -> None:
    ejections = pool(4, OBSERVE)
    found = [verdict(eject(ejections, slot)) for slot in range(4)]
    assert found == [Verdict.OBSERVED] * 2 + [Verdict.SPARED] * 2


def test_a_pool_that_shrinks_returns_the_ejected_that_are_nearest_their_end() -> None:
    ejections = pool(6)
    for slot in (3, 4, 5):
        eject(ejections, slot, float(slot))
    ejections.tick(14.5)  # 3 and perhaps 4 are on trial by now; 5 never
    assert ejections.keep([3, 4, 5]) == [0, 1, 2]
    decisions = ejections.tick(14.5)
    assert [(each.verdict, each.cause) for each in decisions] == [(Verdict.RETURNED, "max_ejected")] * 2
    assert decisions[0].evidence == "3 of 3 are out, more than may be"
    assert out(ejections, 6) == [5]
    assert ejections.tick(14.5) == []


def test_the_last_backend_of_a_pool_is_returned() -> None:
    ejections = pool(2)
    eject(ejections, 0)
    ejections.keep([0])
    assert [each.verdict for each in ejections.tick(1.0)] == [Verdict.RETURNED]
    ejections.keep([])
    assert ejections.tick(2.0) == []


def test_a_pool_that_grows_or_changes_keeps_what_it_knows_of_those_that_stay() -> None:
    ejections = pool(2)
    eject(ejections, 0)
    assert ejections.keep([0, 7, 8]) == [1]
    assert [ejections.circuit(slot) for slot in (0, 1, 7)] == [Circuit.OPEN, None, Circuit.CLOSED]
    assert ejections.tick(1.0) == []
    assert ejections.keep([7, 8]) == [0]
    ejections.keep([0, 7, 8])
    assert ejections.circuit(0) is Circuit.CLOSED
    assert ejections.tick(100.0) == []


def test_a_lower_share_returns_those_beyond_it() -> None:
    ejections = pool(4)
    eject(ejections, 0, 0.0)
    eject(ejections, 1, 5.0)
    ejections.reconfigure(OutlierDetection(base_ejection=10.0, max_ejected=0.25))
    assert [(each.slot, each.verdict) for each in ejections.tick(6.0)] == [(0, Verdict.RETURNED)]


def test_a_shorter_longest_time_holds_for_those_that_are_out() -> None:
    ejections = pool(4, OutlierDetection(base_ejection=300.0, max_ejection=300.0))
    eject(ejections, 0, 0.0)
    ejections.reconfigure(OutlierDetection(base_ejection=1.0, max_ejection=2.0))
    assert ejections.tick(10.0) == []
    assert [each.verdict for each in ejections.tick(12.2)] == [Verdict.HALF_OPEN]


def test_observing_from_now_on_returns_everyone_that_is_out() -> None:
    ejections = pool(6)
    for slot in range(3):
        eject(ejections, slot)
    ejections.reconfigure(OBSERVE)
    decisions = ejections.tick(1.0)
    assert [(each.verdict, each.cause) for each in decisions] == [(Verdict.RETURNED, "settings")] * 3
    assert out(ejections, 6) == []


def test_enforcing_from_now_on_does_not_eject_what_was_only_observed() -> None:
    ejections = pool(4, OBSERVE)
    eject(ejections, 0)
    ejections.reconfigure(SETTINGS)
    assert ejections.tick(1.0) == []
    assert ejections.circuit(0) is Circuit.CLOSED
    assert verdict(eject(ejections, 0, 1.0)) is Verdict.EJECTED
