"""Whatever happens to a pool: nobody who is drained, removed or (outside panic) ejected is eligible, no more are
ejected than may be, every worker follows, and all is well again once the faults end. Here are the faults of the
supervisor's code that must be found; those of the workers' are in test_requests.py.
"""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import cache

import pytest

from balancer.daemon.states import States
from balancer.resilience import eligibility, pool_standings, slow_start
from balancer.resilience.eligibility import Ruling, Tally, Use
from balancer.resilience.known_backend import What
from balancer.resilience.outliers import OutlierDetector
from tests.simulation.finding import found
from tests.simulation.standings import run

SCHEDULES, FULL_SCHEDULES = 20, 2_000
CHUNK = 10  # schedules in one test; a broken law names its own

# Beside what the supervisor says: where requests end up, and what else there is to meet.
REQUESTS = {"status 200", "status 500", "status 502", "status 503", "status 504", "cancelled", "sent again"}
LINES = {"waits", "turn", "turn of a retry", "queue timeout", "cancelled in line", "waited for nobody", "turned away"}
MEETINGS = {"trial", "worker died", "more than may be, by a race"}
RARE = {"route timeout in line"}


@cache
def happened_in(seed: int) -> Counter[str]:
    """What happened in a schedule in which every law held."""
    return run(seed).happened


def chunks(first: int, last: int) -> list[int]:
    """The first seeds of the chunks."""
    return list(range(first, last, CHUNK))


@pytest.mark.parametrize("first", chunks(0, SCHEDULES))
def test_the_laws_hold_in_every_schedule(first: int) -> None:
    for seed in range(first, first + CHUNK):
        happened_in(seed)


@pytest.mark.full
@pytest.mark.parametrize("first", chunks(SCHEDULES, SCHEDULES + FULL_SCHEDULES))
def test_the_laws_hold_in_many_more_schedules(first: int) -> None:
    for seed in range(first, first + CHUNK):
        run(seed)


def test_everything_that_can_happen_does() -> None:
    happened: Counter[str] = Counter()
    for seed in range(SCHEDULES):
        happened += happened_in(seed)
    assert set(happened) - RARE == {*What, *REQUESTS, *LINES, *MEETINGS}
    assert happened["turn"] > 20 * SCHEDULES, "many wait"


def test_a_seed_is_a_schedule_for_good() -> None:
    """Also in another process, where sets have another order."""
    told: list[str] = []
    run(2, told.append)
    assert len(told) > 100
    again = subprocess.run(
        [sys.executable, "-m", "tests.simulation.standings", "2"],
        env={**os.environ, "PYTHONHASHSEED": "77"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert again.stdout.splitlines() == told


# ---- faults that must be found


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
    found("decided is", "not eligible: None")


def test_a_worker_that_starts_with_less_than_all_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = States._for_worker
    welcome = States.welcome

    def forgets(states: States, worker: int) -> object:
        monkeypatch.setattr(States, "_for_worker", lambda *arguments: right(*arguments)[1:])
        try:
            return welcome(states, worker)
        finally:
            monkeypatch.setattr(States, "_for_worker", right)

    monkeypatch.setattr(States, "welcome", forgets)
    found("holds None", "not eligible: None")


def ejecting(monkeypatch: pytest.MonkeyPatch, allowed: Callable[[int], int]) -> None:
    monkeypatch.setattr(
        "balancer.resilience.ejection.Ejections._allowed", lambda ejections: allowed(len(ejections._breakers))
    )


def test_one_ejection_too_many_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    ejecting(monkeypatch, lambda count: count)
    found("are ejected")


def test_an_ejection_of_the_last_that_can_serve_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_standings.PoolStandings, "_is_last", lambda *_: False)
    found("no other can serve")


def test_an_ejection_that_never_ends_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = OutlierDetector.tick
    monkeypatch.setattr(OutlierDetector, "tick", lambda detector, now: right(detector, 0.0))
    found("not well")


def test_state_that_a_slot_inherits_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = OutlierDetector.keep
    monkeypatch.setattr(OutlierDetector, "keep", lambda detector, slots: right(detector, range(100)))
    found("eligible", "trials of", "not well", "are ejected", "nobody's")
