"""Silent backends are passed over, never more than half of a pool, and only while they are silent."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from balancer.balancing.backend import BackendState, LoadTable
from balancer.balancing.pool import PoolState
from balancer.balancing.round_robin import RoundRobin
from balancer.config.model import OutlierDetection, Pool
from balancer.proxy.silence_watch import BACKENDS_PER_LOOK, EVERY, SilenceWatch
from balancer.resilience.silence import WAITING_MIN
from balancer.telemetry import metrics
from balancer.telemetry.registry import Registry
from tests.support.backends import make_backends, make_loads, names_of_picks

ON = OutlierDetection(silent_after=0.1)


class Line(list[None]):
    """A waiting line of one, which notes that it is woken."""

    def __init__(self) -> None:
        super().__init__([None])
        self.woken = 0

    def wake(self, now: float) -> None:
        self.woken += 1


class World:
    """One pool and its watch."""

    def __init__(self, count: int, detection: OutlierDetection | None = ON) -> None:
        self.backends = make_backends([1] * count)
        for backend in self.backends:
            backend.counters = SimpleNamespace(ended=lambda: 0)
            backend.connections = SimpleNamespace(answered=0)
        self.loads = make_loads(count)
        self.state = PoolState("p", RoundRobin(0.0), self.backends, self.loads)
        self.registry = Registry()
        self.watch = SilenceWatch(self.loads, self.registry)
        self.line = Line()
        self.now = 100.0
        self.use(detection)

    def use(self, detection: OutlierDetection | None) -> None:
        """A generation with these settings comes into use."""
        snapshot: Any = SimpleNamespace(
            config=SimpleNamespace(pools=(Pool(name="p", outlier_detection=detection),)),
            pools={"p": SimpleNamespace(state=self.state, line=self.line)},
        )
        self.watch.take_over(snapshot)

    def wait_at(self, slots: Sequence[int], count: int = WAITING_MIN) -> None:
        for slot in slots:
            self.loads.own[slot] += count

    def look(self, seconds: float = EVERY) -> None:
        for _ in range(round(seconds / EVERY)):
            self.now += EVERY
            self.watch.look(self.now)

    def picked(self) -> set[str]:
        return set(names_of_picks(self.state.strategy, 3 * len(self.backends)))

    def silences(self, backend: BackendState) -> float:
        return self.registry.cells(metrics.BACKEND_SILENCES, backend.pool, backend.name)[0]


def test_a_silent_backend_is_passed_over_until_it_answers() -> None:
    world = World(3)
    world.wait_at([1])
    world.look(0.2)
    assert world.picked() == {"a", "c"}
    assert world.silences(world.backends[1]) == 1
    assert world.line.woken == 1
    world.backends[1].connections.answered += 1
    world.look()
    assert world.picked() == {"a", "b", "c"}
    assert world.line.woken == 2, "who waits may go there now"


def test_it_is_passed_over_until_nothing_waits_there_any_more() -> None:
    world = World(2)
    world.wait_at([0])
    world.look(0.2)
    assert world.picked() == {"b"}
    world.loads.own[0] = 0
    world.look()
    assert world.picked() == {"a", "b"}


@pytest.mark.parametrize(("count", "silent", "left"), [(2, [0, 1], "ab"), (3, [0, 1], "abc"), (4, [0, 1], "cd")])
def test_when_more_than_half_are_silent_the_cause_is_elsewhere(count: int, silent: list[int], left: str) -> None:
    world = World(count)
    world.wait_at(silent)
    world.look(0.2)
    assert world.picked() == set(left)


def test_the_last_one_that_others_leave_is_not_passed_over() -> None:
    world = World(2)
    world.wait_at([0])
    world.look(0.2)
    world.backends[1].eligible = False  # it is ejected
    world.state.rebuild()
    assert world.picked() == {"a"}
    world.look()
    assert world.picked() == {"a"}


def test_a_pause_of_the_worker_is_no_silence_of_its_backends() -> None:
    world = World(2)
    world.wait_at([0])
    world.look()
    world.now += 60.0  # the process was stopped; answers may lie unread
    world.watch.look(world.now)
    assert world.picked() == {"a", "b"}


@pytest.mark.parametrize("detection", [None, OutlierDetection(mode="observe"), OutlierDetection(silent_after=None)])
def test_a_pool_without_it_is_left_alone_also_when_it_had_it(detection: OutlierDetection | None) -> None:
    world = World(2)
    world.wait_at([0])
    world.look(0.2)
    assert world.picked() == {"b"}
    world.use(detection)
    assert world.picked() == {"a", "b"}
    world.look(1.0)
    assert world.picked() == {"a", "b"}


def test_a_reload_forgets_no_silence() -> None:
    world = World(2)
    world.wait_at([0])
    world.look(0.2)
    world.use(ON)
    assert world.picked() == {"b"}


def test_many_backends_are_looked_at_in_turns_and_found_silent_all_the_same() -> None:
    count = 2 * BACKENDS_PER_LOOK
    backends = make_backends([1] * count)
    loads = LoadTable([0] * count)
    pools: dict[str, Any] = {}
    for number in range(4):
        members = backends[number * (count // 4) : (number + 1) * (count // 4)]
        for backend in members:
            backend.counters = SimpleNamespace(ended=lambda: 0)
            backend.connections = SimpleNamespace(answered=0)
        state = PoolState(f"p{number}", RoundRobin(0.0), members, loads)
        pools[f"p{number}"] = SimpleNamespace(state=state, line=None)
    watch = SilenceWatch(loads, Registry())
    config = SimpleNamespace(pools=tuple(Pool(name=name, outlier_detection=ON) for name in pools))
    snapshot: Any = SimpleNamespace(config=config, pools=pools)
    watch.take_over(snapshot)
    loads.own[count - 1] = WAITING_MIN
    now = 100.0
    for _ in range(40):
        now += EVERY
        watch.look(now)
    assert [backend for backend in backends if backend.silent] == [backends[-1]]


def test_a_look_says_how_many_it_looked_at_so_that_a_large_pool_is_looked_at_less_often() -> None:
    assert World(3).watch.look(100.0) == 3
    assert World(3, None).watch.look(100.0) == 0


def test_backends_that_left_are_forgotten() -> None:
    world = World(3)
    world.wait_at([0, 1, 2], 1)
    world.look()
    world.state.backends = tuple(world.backends[:1])
    world.state.rebuild()
    world.look()
    assert list(world.watch._pools[0].watched) == world.backends[:1]
