"""Whatever happens to a pool: nobody who is drained, removed or (outside panic) ejected is eligible, no more are
ejected than may be, workers can follow by changes alone, and all is well again once the faults end.
"""

from collections import Counter
from collections.abc import Callable

import pytest

from balancer.resilience import eligibility, pool_standings, slow_start
from balancer.resilience.eligibility import Ruling, Tally, Use
from balancer.resilience.known_backend import What
from balancer.resilience.outliers import OutlierDetector
from tests.simulation.standings import BrokenLawError, run

SCHEDULES, FULL_SCHEDULES = 200, 2_000
CHUNK = 50  # schedules in one test; a broken law names its own


def chunks(first: int, last: int) -> list[int]:
    """The first seeds of the chunks."""
    return list(range(first, last, CHUNK))


@pytest.mark.parametrize("first", chunks(0, SCHEDULES))
def test_the_laws_hold_in_every_schedule(first: int) -> None:
    for seed in range(first, first + CHUNK):
        run(seed)


@pytest.mark.full
@pytest.mark.parametrize("first", chunks(SCHEDULES, SCHEDULES + FULL_SCHEDULES))
def test_the_laws_hold_in_many_more_schedules(first: int) -> None:
    for seed in range(first, first + CHUNK):
        run(seed)


def test_everything_that_can_happen_does() -> None:
    happened: Counter[str] = Counter()
    for seed in range(30):
        happened += run(seed).happened
    assert set(happened) == set(What)


def test_a_seed_is_a_schedule_for_good() -> None:
    first: list[str] = []
    second: list[str] = []
    run(7, first.append)
    run(7, second.append)
    assert first == second
    assert len(first) > 20


# ---- faults that must be found


def found(*words: str) -> None:
    """Some schedule breaks a law whose text has one of these words."""
    with pytest.raises(BrokenLawError, match="|".join(words)) as caught:
        for seed in range(60):
            run(seed)
    assert "replay: python -m tests.simulation.standings" in str(caught.value)


def test_a_drain_that_is_overlooked_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def overlooks(**facts: object) -> Use:
        return eligibility.use_of(**{**facts, "drained": False})  # type: ignore[arg-type]

    monkeypatch.setattr(pool_standings, "use_of", overlooks)
    found("is eligible, drained", "trials of")


def test_ejected_backends_that_serve_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def generous(tally: Tally, threshold: float) -> Ruling:
        ruling = eligibility.rule(tally, threshold)
        return Ruling(ruling.tier, ruling.uses | {Use.EJECTED}, ruling.panic, ruling.down)

    monkeypatch.setattr(pool_standings, "rule", generous)
    found("known to be bad")


def test_panic_without_need_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_standings, "rule", lambda tally, threshold: eligibility.rule(tally, threshold + 0.2))
    found("panic, although")


def test_a_slow_start_that_never_ends_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_start.SlowStart, "due", lambda *_: [])
    found("not well")


def test_a_return_without_slow_start_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_start.SlowStart, "begin", lambda *_: None)
    found("comes back with all its weight")


def test_a_change_that_is_not_told_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = pool_standings.PoolStandings.take_changes
    monkeypatch.setattr(pool_standings.PoolStandings, "take_changes", lambda pool: right(pool)[1:])
    found("do not add up")


def ejecting(monkeypatch: pytest.MonkeyPatch, allowed: Callable[[int], int]) -> None:
    monkeypatch.setattr(
        "balancer.resilience.ejection.Ejections._allowed", lambda ejections: allowed(len(ejections._breakers))
    )


def test_one_ejection_too_many_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    ejecting(monkeypatch, lambda count: count)
    found("are ejected")


def test_an_ejection_that_never_ends_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = OutlierDetector.tick
    monkeypatch.setattr(OutlierDetector, "tick", lambda detector, now: right(detector, 0.0))
    found("not well")


def test_state_that_a_slot_inherits_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = OutlierDetector.keep
    monkeypatch.setattr(OutlierDetector, "keep", lambda detector, slots: right(detector, range(100)))
    found("eligible", "trials of", "not well", "are ejected", "nobody's")
