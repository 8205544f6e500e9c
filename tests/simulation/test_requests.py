"""Faults of the workers' code that must be found: of picks, of what is counted, and of lines."""

import pytest

from balancer.balancing.backend import BackendState, LoadTable
from balancer.balancing.pool import PoolState
from balancer.daemon.shared_memory import SharedMemory
from balancer.errors import CLIENT_GONE, COMPLETED, QUEUE_TIMEOUT, UPSTREAM_RESET, Outcome
from balancer.proxy import building
from balancer.proxy.attempt import Attempt
from balancer.proxy.exchange import Exchange
from balancer.proxy.leftovers import Leftovers
from balancer.proxy.live_states import LiveStates
from balancer.proxy.waiting import WaitingLine
from balancer.resilience.standing import Standing
from tests.simulation.finding import found

# ---- picks


def test_a_pick_of_whom_the_supervisor_took_out_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is drained, ejected, failing or a backup."""
    right = PoolState.rebuild

    def picks_all(state: PoolState) -> None:
        for backend in state.backends:
            backend.eligible = True
        right(state)

    monkeypatch.setattr(PoolState, "rebuild", picks_all)
    found("which is not eligible")


def test_standings_that_are_used_late_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = LiveStates.told
    kept: dict[LiveStates, tuple[object, object]] = {}

    def one_behind(states: LiveStates, changes: list[Standing], down: tuple[str, ...]) -> None:
        before = kept.get(states)
        kept[states] = changes, down
        if before is not None:
            right(states, *before)  # type: ignore[arg-type]

    monkeypatch.setattr(LiveStates, "told", one_behind)
    found("which is not eligible", "may be", "waits although", "turned away", "is not tried out")


def test_a_pick_of_a_removed_backend_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = building.PoolUpdate.apply

    def keeps(update: building.PoolUpdate) -> None:
        members = {*update._members, *update._state.backends}
        update._members = tuple(sorted(members, key=lambda backend: backend.slot))
        right(update)

    monkeypatch.setattr(building.PoolUpdate, "apply", keeps)
    found("which is removed")


def test_a_trial_of_more_than_one_request_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Attempt._start

    def goes_on(attempt: Attempt, backend: BackendState, now: float, *, fresh: bool = False) -> None:
        right(attempt, backend, now, fresh=fresh)
        if attempt._trial:
            attempt._pool.state.trials.append(backend)

    monkeypatch.setattr(Attempt, "_start", goes_on)
    found("which is not eligible")


def test_a_trial_that_nobody_makes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Attempt, "_may_try_out", lambda *_: False)
    found("is not tried out")


# ---- limits


def test_a_limit_that_only_looks_at_its_own_worker_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LoadTable, "total", lambda table, slot: table.own[slot])
    found("may be")


def test_a_limit_without_the_share_of_a_slow_start_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("balancer.balancing.pool.share_of_limit", lambda limit, share: limit)
    found("may be")


def test_a_limit_that_is_one_too_high_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("balancer.balancing.pool.share_of_limit", lambda limit, share: limit + 1)
    found("may be")


# ---- what is in flight


@pytest.mark.parametrize("outcome", [CLIENT_GONE, UPSTREAM_RESET, COMPLETED])
def test_an_end_that_is_not_counted_is_found(monkeypatch: pytest.MonkeyPatch, outcome: Outcome) -> None:
    right = Attempt.end

    def forgets(attempt: Attempt, ended: Outcome, *arguments: float, **more: bool) -> None:
        if ended is outcome and attempt.backend is not None:
            attempt._loads[attempt.backend.slot] += attempt._active
        right(attempt, ended, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Attempt, "end", forgets)
    found("in flight, there are")


def test_an_end_that_is_counted_twice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Attempt.end

    def twice(attempt: Attempt, ended: Outcome, *arguments: float, **more: bool) -> None:
        if ended is CLIENT_GONE and attempt.backend is not None:
            attempt._loads[attempt.backend.slot] -= attempt._active
        right(attempt, ended, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Attempt, "end", twice)
    found("in flight, there are")


def test_an_attempt_that_goes_on_without_its_client_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Attempt, "give_up", lambda attempt: None)
    found("in flight, there are", "wait and")


def test_a_row_that_outlives_its_worker_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SharedMemory, "clear_row", lambda *_: None)
    found("which is dead")


def test_a_removed_backend_that_is_never_let_go_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Leftovers, "sweep", lambda *_: False)
    found("after the last request")


# ---- the line


def test_who_is_not_taken_out_of_the_line_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WaitingLine, "leave", lambda *_: None)
    found("wait and")


def test_the_last_being_served_first_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = WaitingLine.wake

    def backwards(line: WaitingLine, now: float) -> None:
        line._waiting = dict(reversed(line._waiting.items()))
        right(line, now)
        line._waiting = dict(reversed(line._waiting.items()))

    monkeypatch.setattr(WaitingLine, "wake", backwards)
    found("before who came earlier")


def test_a_newcomer_that_is_served_first_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Attempt.first

    def pushes_in(attempt: Attempt, pool: object, payload: bytes, now: float) -> Outcome | None:
        line, pool.line = pool.line, None  # type: ignore[attr-defined]
        before = attempt._server.rng.getstate()
        nobody = right(attempt, pool, payload, now)  # type: ignore[arg-type]
        pool.line = line  # type: ignore[attr-defined]
        if nobody is None or line is None:
            return nobody
        attempt._server.rng.setstate(before)
        return right(attempt, pool, payload, now)  # type: ignore[arg-type]

    monkeypatch.setattr(Attempt, "first", pushes_in)
    found("came later is served first")


def test_a_line_that_nobody_looks_at_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WaitingLine, "_tick", lambda line: None)
    found("although a backend is free", "somebody waits since")


def test_waiting_without_end_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = WaitingLine.configure

    def patient(line: WaitingLine, pool: object, *, seconds: float, most: int) -> None:
        right(line, pool, seconds=seconds + 0.05, most=most)  # type: ignore[arg-type]

    monkeypatch.setattr(WaitingLine, "configure", patient)
    found("somebody waits since")


def test_impatience_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = WaitingLine.configure

    def impatient(line: WaitingLine, pool: object, *, seconds: float, most: int) -> None:
        right(line, pool, seconds=seconds / 2, most=most)  # type: ignore[arg-type]

    monkeypatch.setattr(WaitingLine, "configure", impatient)
    found("is sent away")


def test_a_line_that_refuses_too_early_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = WaitingLine.join
    monkeypatch.setattr(WaitingLine, "join", lambda line, *each, **more: not len(line) and right(line, *each, **more))
    found("although there is room")


def test_who_leaves_the_line_by_two_doors_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time is over, and its turn comes nevertheless."""
    right = WaitingLine.wake

    def answers_and_keeps(line: WaitingLine, now: float) -> None:
        waiting = dict(line._waiting)
        right(line, now)
        for exchange in waiting.keys() - line._waiting.keys():
            if exchange.outcome is QUEUE_TIMEOUT:
                line._waiting[exchange] = now

    monkeypatch.setattr(WaitingLine, "wake", answers_and_keeps)
    found("wait and", "did not ask", "has changed places", "a client that is gone")


def test_a_request_that_is_forgotten_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Exchange.fail

    def forgets(exchange: Exchange, outcome: Outcome, detail: str = "") -> None:
        if outcome is not QUEUE_TIMEOUT:
            right(exchange, outcome, detail)

    monkeypatch.setattr(Exchange, "fail", forgets)
    found("wait and")
