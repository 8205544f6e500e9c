"""Who waits for a place at a full backend: in which order, for how long, and that nobody else is given it."""

from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from balancer.balancing.backend import BackendState, LoadTable
from balancer.balancing.pool import PoolState, make_strategy
from balancer.config import model
from balancer.errors import (
    COMPLETED,
    QUEUE_TIMEOUT,
    STALE_CONNECTION,
    UPSTREAM_RESET,
    UPSTREAM_TRUNCATED,
    Outcome,
)
from balancer.proxy import retrying
from balancer.proxy.attempt import Attempt
from balancer.proxy.exchange import Exchange
from balancer.proxy.live_states import LiveStates
from balancer.proxy.report import BackendCounters
from balancer.proxy.snapshot import PoolPlan
from balancer.proxy.waiting import WaitingLine
from balancer.resilience.retry_budget import RetryBudget
from balancer.resilience.standing import Standing
from balancer.telemetry.registry import Registry
from balancer.transport.timers import Deadlines
from tests.support.backends import make_backends


class Connections:
    """A backend's connections: there is always an idle one."""

    def __init__(self) -> None:
        self.stale = [0]

    def take(self, now: float) -> Any:
        return SimpleNamespace(send=lambda *_: None, discard=lambda: None, connections=self)

    def give_back(self, upstream: Any, now: float) -> None:
        pass


class Scene:
    """A pool of backends that take `limit` exchanges each, and the server around it."""

    def __init__(self, count: int, limit: int = 1) -> None:
        self.other_worker = [0] * count
        self.loads = LoadTable([0] * count, [self.other_worker])
        self.backends = make_backends([1] * count, limit)
        for backend in self.backends:
            backend.connections = Connections()
            backend.counters = BackendCounters(Registry(), "p", backend.name)
        self.failures: list[tuple[BackendState, str, int]] = []
        reports = SimpleNamespace(failed=lambda *each: self.failures.append(each), succeeded=lambda *_: None)
        self.server = SimpleNamespace(
            loads=self.loads,
            rng=Random(1),
            reports=reports,
            loop=SimpleNamespace(create_task=lambda task: task.close()),
            count_retry=lambda *_: None,
            log_failure=lambda *_: None,
        )
        strategy = make_strategy("round_robin", self.loads, Random(1))
        state = PoolState("p", strategy, self.backends, self.loads)
        self.pool = PoolPlan(model.Pool(name="p", retry=model.Retry(when=("500",))), state, strategy)
        self.line = self.pool.line = WaitingLine(self.pool, Deadlines(), seconds=5.0, most=10)

    def exchange(self, now: float = 0.0) -> "FakeExchange":
        """One that has just begun."""
        exchange = FakeExchange(self)
        assert exchange.attempt.first(self.pool, b"GET / HTTP/1.1\r\n\r\n", now) is None
        return exchange

    def retry(self, exchange: "FakeExchange", now: float = 0.0) -> bool:
        """Its backend answers 500, which may be tried elsewhere."""
        response: Any = SimpleNamespace(status=500, length=0, keep_alive=True)
        return retrying.replace(cast("Exchange", exchange), cast("Any", exchange.attempt.upstream), response, 0, now)

    def other(self, exchange: "FakeExchange") -> BackendState:
        """Of two backends the one at which an exchange is not."""
        [other] = [backend for backend in self.backends if backend is not exchange.backend]
        return other

    def eject(self, backend: BackendState) -> None:
        """From now on it is not eligible."""
        backend.eligible = False
        self.pool.state.rebuild()

    def wake(self, now: float = 0.0) -> None:
        """As a tick does."""
        self.line.wake(now)


class FakeExchange:
    """What an attempt, a line and `retrying` need of an exchange."""

    def __init__(self, scene: Scene) -> None:
        self.server = scene.server
        self.downstream = SimpleNamespace(closed=False, pause_reading=lambda: None, resume_reading=lambda: None)
        self.destination = SimpleNamespace(pool=scene.pool)
        self.head = SimpleNamespace(host_field=b"x")
        self.uploading = False
        self.repeatable = True
        self.route = None
        self.status = 0
        self.outcome: Outcome | None = None
        self.attempt = Attempt(cast("Exchange", self))

    def fail(self, outcome: Outcome, detail: str = "") -> None:
        """It ends."""
        self.outcome = outcome
        self.attempt.give_up()

    @property
    def backend(self) -> BackendState | None:
        """Where it is under way."""
        return self.attempt.backend


# ---- the line


def test_who_came_first_is_served_first() -> None:
    scene = Scene(1)
    [served, first, second] = [scene.exchange() for _ in range(3)]
    served.attempt.end(QUEUE_TIMEOUT, 0, 0.0)
    assert (first.backend, second.backend) == (scene.backends[0], None)
    assert len(scene.line) == 1


def test_who_waited_long_enough_is_sent_away() -> None:
    scene = Scene(1)
    scene.exchange()
    waits = scene.exchange(1.0)
    scene.wake(5.9)
    assert waits.outcome is None
    scene.wake(6.0)
    assert waits.outcome is QUEUE_TIMEOUT


@pytest.mark.parametrize("seconds", [1.0, 20.0])
def test_another_queue_timeout_holds_for_who_waits_already(seconds: float) -> None:
    scene = Scene(1)
    scene.exchange()
    waits = scene.exchange(1.0)
    scene.line.configure(scene.pool, seconds=seconds, most=10)
    scene.wake(0.9 + seconds)
    assert waits.outcome is None
    scene.wake(1.0 + seconds)
    assert waits.outcome is QUEUE_TIMEOUT


def test_who_joins_after_a_shorter_queue_timeout_is_not_kept_by_who_came_before() -> None:
    scene = Scene(1)
    scene.exchange()
    scene.exchange()
    scene.line.configure(scene.pool, seconds=0.5, most=10)
    later = scene.exchange(0.1)
    scene.wake(0.6)
    assert later.outcome is QUEUE_TIMEOUT


# ---- places that are taken; the simulation found these


def test_a_trial_waits_until_its_backend_has_room() -> None:
    scene = Scene(2)
    full, _ = scene.backends
    scene.other_worker[full.slot] = 1
    scene.pool.state.trials.append(full)
    scene.exchange()
    assert scene.loads.total(full.slot) == 1
    assert scene.pool.state.trials == [full]


def test_a_request_that_is_sent_again_on_a_fresh_connection_keeps_its_place() -> None:
    scene = Scene(1)
    stale, waits = scene.exchange(), scene.exchange()
    stale.attempt.lost()
    Exchange.fail(cast("Exchange", stale), STALE_CONNECTION)
    assert stale.attempt.number == 2
    assert waits.backend is None
    assert scene.loads.total(0) == 1


def test_a_retry_after_a_status_keeps_the_place_that_was_picked_for_it() -> None:
    scene = Scene(2)
    failing = scene.exchange()
    other = scene.other(failing)
    scene.other_worker[other.slot] = 1
    waits = [scene.exchange(), scene.exchange()]
    scene.other_worker[other.slot] = 0  # it has ended there, and no tick has come since
    assert scene.retry(failing)
    assert failing.backend is other
    scene.wake()
    assert [each.backend is None for each in waits] == [False, True]
    assert [scene.loads.total(backend.slot) for backend in scene.backends] == [1, 1]


# ---- retries


def test_a_retry_waits_for_a_backend_that_has_not_failed_it() -> None:
    scene = Scene(2)
    failing = scene.exchange()
    failed, other = failing.backend, scene.other(failing)
    scene.other_worker[other.slot] = 1
    assert scene.retry(failing)
    scene.wake()
    assert (len(scene.line), failing.backend) == (1, failed), "it is free, and no use"
    scene.other_worker[other.slot] = 0
    scene.wake()
    assert (len(scene.line), failing.backend, failing.attempt.number) == (0, other, 2)
    assert b"\r\nX-Balancer-Attempt: 2\r\n" in failing.attempt.payload


def test_a_retry_that_waits_does_not_hold_up_who_came_for_the_first_time() -> None:
    scene = Scene(2)
    failing = scene.exchange()
    failed = failing.backend
    scene.other_worker[scene.other(failing).slot] = 1
    assert scene.retry(failing)
    newcomer = scene.exchange(1.0)
    scene.wake(1.0)
    assert (newcomer.backend, newcomer.attempt.number) == (failed, 1)
    assert len(scene.line) == 1


@pytest.mark.parametrize("retry_first", [True, False])
def test_of_a_retry_and_who_came_for_the_first_time_the_longer_waiting_is_first(retry_first: bool) -> None:
    scene = Scene(2)
    failing = scene.exchange()
    other = scene.other(failing)
    scene.other_worker[other.slot] = 1
    newcomer = None if retry_first else scene.exchange(1.0)
    scene.other_worker[cast("BackendState", failing.backend).slot] = 1  # taken as soon as it is free
    assert scene.retry(failing, 2.0)
    newcomer = newcomer or scene.exchange(3.0)
    scene.other_worker[other.slot] = 0
    scene.wake(3.0)
    assert (failing.backend is other, newcomer.backend is other) == (retry_first, not retry_first)


def test_a_retry_takes_who_failed_it_when_nobody_else_is_usable_any_more() -> None:
    scene = Scene(2)
    failing = scene.exchange()
    failed, other = failing.backend, scene.other(failing)
    scene.other_worker[other.slot] = 1
    assert scene.retry(failing)
    scene.eject(other)
    scene.wake()
    assert (failing.backend, failing.attempt.number) == (failed, 2)


def test_a_retry_that_finds_the_line_full_is_none() -> None:
    scene = Scene(2)
    failing = scene.exchange()
    scene.other_worker[scene.other(failing).slot] = 1
    scene.line.configure(scene.pool, seconds=5.0, most=1)
    scene.exchange()
    assert not scene.retry(failing), "its answer is passed on"
    assert failing.attempt.number == 1
    assert len(scene.line) == 1


# ---- the budget


def test_requests_that_wait_earn_retries_too() -> None:
    scene = Scene(1)
    budget = scene.pool.budget = RetryBudget(LoadTable([0]), 0, share=0.2, reserve=0.0, now=0.0)
    for _ in range(3):
        scene.exchange()
    assert budget.requests == 3


def test_a_retry_for_which_nobody_is_there_costs_nothing() -> None:
    scene = Scene(2)
    cells = LoadTable([0])
    scene.pool.budget = RetryBudget(cells, 0, share=0.2, reserve=1.0, now=0.0)
    failing = scene.exchange()
    before = cells.own[0]
    for backend in scene.backends:
        scene.eject(backend)
    assert not scene.retry(failing)
    assert cells.own[0] == before > 0


# ---- trials


def test_who_waits_may_try_a_backend_out() -> None:
    """Otherwise a pool that is never without a line never gets an ejected backend back."""
    scene = Scene(2)
    ejected, full = scene.backends
    scene.eject(ejected)
    scene.other_worker[full.slot] = 1
    waits = scene.exchange()
    scene.pool.state.trials.append(ejected)
    scene.wake()
    assert waits.backend is ejected
    assert not scene.pool.state.trials


def test_a_trial_that_was_not_made_yet_outlives_a_reload() -> None:
    scene = Scene(2)
    config = SimpleNamespace(pools=[model.Pool(name="p", retry=None)], workers=1)
    snapshot: Any = SimpleNamespace(
        config=config, pools={"p": scene.pool}, backends={each.name: each for each in scene.backends}
    )
    live = LiveStates(scene.loads, Deadlines())
    live.take_over(snapshot)
    live.told([Standing(1, eligible=False, weight=1, trial=True)], ())
    assert scene.pool.state.trials == [scene.backends[1]]
    live.take_over(snapshot)
    assert scene.pool.state.trials == [scene.backends[1]]


def test_what_began_before_an_ejection_says_nothing_of_the_trial() -> None:
    """Its late end, good or bad, would decide in place of the one request that is to."""
    scene = Scene(1, limit=4)
    [backend] = scene.backends
    good, bad, cut, trial = [scene.exchange() for _ in range(4)]
    scene.eject(backend)
    trial.attempt.end(COMPLETED, 200, 0.0)
    backend.counters.take_successes()
    good.attempt.end(COMPLETED, 200, 0.0)
    bad.attempt.end(UPSTREAM_RESET, 0, 0.0)
    cut.attempt.end(UPSTREAM_TRUNCATED, 200, 0.0)
    assert scene.failures == []
    assert backend.counters.take_successes() == (0, 0.0)


@pytest.mark.parametrize(("outcome", "status"), [(COMPLETED, 200), (UPSTREAM_RESET, 0)])
def test_the_end_of_a_trial_is_told(outcome: Outcome, status: int) -> None:
    scene = Scene(1)
    [backend] = scene.backends
    scene.eject(backend)
    scene.pool.state.trials.append(backend)
    scene.exchange().attempt.end(outcome, status, 0.0)
    assert len(scene.failures) == (status == 0)
    assert backend.counters.take_successes()[0] == (status == 200)
