"""What outlives a generation in a worker: standings, budgets and lines."""

from collections.abc import Sequence
from random import Random
from types import SimpleNamespace
from typing import cast

from balancer.balancing.backend import BackendState, LoadTable
from balancer.clock import monotonic
from balancer.config.model import Backend, Config, Pool, ResolvedBackend, Retry
from balancer.errors import QUEUE_TIMEOUT, Outcome
from balancer.proxy.building import Building, Tls, at_once
from balancer.proxy.connections import BackendConnections
from balancer.proxy.exchange import Exchange
from balancer.proxy.live_states import LiveStates
from balancer.proxy.snapshot import Snapshot
from balancer.proxy.upstream import Upstream
from balancer.proxy.waiting import WaitingLine
from balancer.resilience.standing import Standing
from balancer.telemetry.registry import Registry
from balancer.transport.timers import Deadlines, TimerWheel


def snapshot(
    names: Sequence[str], *, old: Snapshot | None = None, limit: int | None = None, queue_timeout: float | None = 5.0
) -> Snapshot:
    """A generation with the pool `web` of these backends; slot = the letter's place in the alphabet."""
    backends = tuple(Backend(name=name, host="127.0.0.1", port=1, max_connections=limit) for name in names)
    pool = Pool(name="web", backends=backends, retry=Retry(), queue_timeout=queue_timeout)
    config = Config(listeners=(), routes=(), pools=(pool,))
    resolved = [
        ResolvedBackend(pool="web", name=name, host="h", address=("127.0.0.1", ord(name), ""), slot=ord(name) - 97)
        for name in names
    ]
    registry = Registry()

    def connect(pool: Pool, backend: BackendState, tls: Tls | None) -> BackendConnections:
        return BackendConnections(
            backend,
            keepalive=pool.keepalive,
            timeouts=pool.timeouts,
            tls=tls,
            registry=registry,
            wheel=TimerWheel(),
            factory=never,
        )

    built = at_once(
        Building(
            config,
            resolved,
            {},
            generation=1,
            columns={},
            old=old,
            draining={},
            loads=LoadTable([0] * 26),
            registry=registry,
            rng=Random(1),
            connect=connect,
        ).steps()
    )
    for update in built.updates:
        update.apply()
    return built


def never(connections: BackendConnections) -> Upstream:
    raise AssertionError("nobody connects here")


def live() -> LiveStates:
    return LiveStates(LoadTable([0] * 26), Deadlines())


def picked(generation: Snapshot) -> set[str]:
    state = generation.pools["web"].state
    picks = [state.pick(now=0.0, key=None, exclude=(), rng=Random(n)) for n in range(30)]
    return {pick.name for pick in picks if pick is not None}


def test_a_standing_that_was_told_before_its_generation_holds_from_its_first_pick() -> None:
    states = live()
    states.told([Standing(1, eligible=False, weight=1)], ())
    generation = snapshot("abc")
    states.take_over(generation)
    assert picked(generation) == {"a", "c"}


def test_a_standing_changes_the_picks_at_once_and_outlives_a_reload() -> None:
    states = live()
    first = snapshot("ab")
    states.take_over(first)
    states.told([Standing(0, eligible=False, weight=1)], ())
    assert picked(first) == {"b"}
    second = snapshot("abc", old=first)
    states.take_over(second)
    assert picked(second) == {"b", "c"}
    states.told([Standing(0, eligible=True, weight=1)], ())
    assert picked(second) == {"a", "b", "c"}


def test_a_slot_that_is_given_to_another_backend_does_not_inherit_a_standing() -> None:
    states = live()
    first = snapshot("ab")
    states.take_over(first)
    states.told([Standing(0, eligible=False, weight=1)], ())
    second = snapshot("b", old=first)
    states.take_over(second)
    third = snapshot("ab", old=second)  # `a` is new again
    states.take_over(third)
    assert picked(third) == {"a", "b"}


def test_pools_that_are_down_are_known_by_name_before_and_after_a_reload() -> None:
    states = live()
    states.told([], ("web",))
    first = snapshot("a")
    states.take_over(first)
    assert first.pools["web"].state.down
    states.told([], ())
    assert not first.pools["web"].state.down


def test_a_trial_is_offered_until_it_is_taken_back() -> None:
    states = live()
    generation = snapshot("ab")
    states.take_over(generation)
    states.told([Standing(1, eligible=False, weight=1, trial=True)], ())
    assert [each.name for each in generation.pools["web"].state.trials] == ["b"]
    states.told([Standing(1, eligible=False, weight=1)], ())
    assert not generation.pools["web"].state.trials


def test_a_budget_and_a_line_are_the_same_after_a_reload() -> None:
    states = live()
    first, second = snapshot("ab", limit=1), snapshot("ab", limit=2)
    states.take_over(first)
    states.take_over(second)
    assert first.pools["web"].budget is second.pools["web"].budget is not None
    assert first.pools["web"].line is second.pools["web"].line is not None
    unlimited = snapshot("ab")
    live().take_over(unlimited)
    assert unlimited.pools["web"].line is None, "nobody can be full, so nobody waits"


def test_a_budget_is_not_refilled_because_another_backend_is_the_first() -> None:
    tokens = LoadTable([0] * 26)
    states = LiveStates(tokens, Deadlines())
    first = snapshot("ab")
    states.take_over(first)
    budget = first.pools["web"].budget
    assert budget is not None
    while budget.take(monotonic()):
        pass
    second = snapshot("ba", old=first)
    states.take_over(second)
    assert second.pools["web"].budget is not None
    assert not second.pools["web"].budget.take(monotonic())
    assert tokens.own[0] == 0, "it stands in one place"


class Waiting:
    """An exchange in a line."""

    def __init__(self, line: WaitingLine) -> None:
        self.outcome: Outcome | None = None
        self.attempt = SimpleNamespace(try_turn=lambda pool, now: False, give_up=lambda: None, payload=b"")
        self.downstream = SimpleNamespace(resume_reading=lambda: None)
        self.route = None
        assert line.join(cast("Exchange", self), monotonic())

    def fail(self, outcome: Outcome) -> None:
        self.outcome = outcome


def test_a_queue_that_a_reload_turns_off_keeps_nobody() -> None:
    states = live()
    first = snapshot("ab", limit=1)
    states.take_over(first)
    line = first.pools["web"].line
    assert line is not None
    waits = Waiting(line)
    second = snapshot("ab", old=first, limit=1, queue_timeout=None)
    states.take_over(second)
    assert second.pools["web"].line is None, "who comes now is told pool_full"
    assert waits.outcome is QUEUE_TIMEOUT
    third = snapshot("ab", old=second, limit=1)
    states.take_over(third)
    assert third.pools["web"].line is not None


def test_a_used_trial_is_not_offered_again_by_a_reload() -> None:
    states = live()
    first = snapshot("ab")
    states.take_over(first)
    states.told([Standing(1, eligible=False, weight=1, trial=True)], ())
    assert first.pools["web"].state.trials.pop().name == "b"
    second = snapshot("abc", old=first)
    states.take_over(second)
    assert not second.pools["web"].state.trials
