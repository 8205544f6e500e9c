"""Pools: who is eligible, limits, and why there was no pick."""

from collections import Counter
from random import Random

import pytest

from balancer.balancing.backend import BackendState, LoadTable
from balancer.balancing.pool import FULL_MET_MAX, PoolState, make_strategy
from balancer.balancing.round_robin import RoundRobin
from balancer.config.model import StrategyName
from balancer.errors import POOL_DOWN, POOL_EMPTY, POOL_FULL
from tests.support.backends import make_backends, make_loads

ALL: list[StrategyName] = ["round_robin", "random", "weighted", "weighted_random", "least_connections"]


def pool_of(backends: list[BackendState], loads: LoadTable, name: StrategyName = "round_robin") -> PoolState:
    return PoolState("p", make_strategy(name, loads, Random(3)), backends, loads)


def pick(pool: PoolState, *exclude: BackendState, now: float = 0.0) -> BackendState | None:
    return pool.pick(now=now, key=None, exclude=exclude, rng=Random(5))


@pytest.mark.parametrize("name", ALL)
def test_every_strategy_picks_only_backends_with_a_weight(name: StrategyName) -> None:
    backends = make_backends([1, 0, 2])
    pool = pool_of(backends, make_loads(3), name)
    rng = Random(9)
    picked = {pool.pick(now=0.0, key=None, exclude=(), rng=rng) for _ in range(60)}
    assert picked == {backends[0], backends[2]}


@pytest.mark.parametrize("name", ALL)
def test_an_empty_pool_gives_none_and_says_so(name: StrategyName) -> None:
    pool = pool_of(make_backends([0, 0]), make_loads(2), name)
    assert pick(pool) is None
    assert pool.explain(0.0) is POOL_EMPTY


@pytest.mark.parametrize("name", ALL)
def test_a_full_backend_is_skipped_and_all_full_gives_none(name: StrategyName) -> None:
    backends = make_backends([1, 1, 1], max_connections=2)
    other_worker = [1, 0, 0]
    loads = LoadTable([1, 0, 2], [other_worker])
    pool = pool_of(backends, loads, name)
    for _ in range(10):
        assert pick(pool) is backends[1]
    loads.own[1] = 2
    assert pick(pool) is None
    assert pool.explain(0.0) is POOL_FULL
    loads.own[2] = 1
    assert pick(pool) is backends[2]


@pytest.mark.parametrize("name", ALL)
def test_the_last_backend_with_room_among_many_full_ones_is_found(name: StrategyName) -> None:
    count = 10 * FULL_MET_MAX
    backends = make_backends([1] * count, max_connections=1)
    loads = make_loads(count)
    pool = pool_of(backends, loads, name)
    for slot in range(count - 1):
        loads.own[slot] = 1
    for _ in range(5):
        assert pick(pool) is backends[-1]
    assert pick(pool, backends[-1]) is None


def test_backends_without_a_limit_never_count_as_full() -> None:
    backends = make_backends([1, 1])
    backends[0].max_connections = 1
    loads = LoadTable([7, 7])
    pool = pool_of(backends, loads)
    assert {pick(pool) for _ in range(4)} == {backends[1]}


def test_without_limits_a_pick_is_the_strategys_own() -> None:
    loads = make_loads(2)
    strategy = RoundRobin()
    pool = PoolState("p", strategy, make_backends([1, 1]), loads)
    assert pool.pick == strategy.pick


def test_rebuild_takes_changed_weights_and_limits() -> None:
    a, b = make_backends([1, 1])
    loads = LoadTable([5, 0])
    pool = pool_of([a, b], loads)
    b.weight = 0
    pool.rebuild()
    assert pool.eligible == (a,)
    assert [pick(pool) for _ in range(3)] == [a, a, a]
    a.max_connections = 5
    pool.rebuild()
    assert pick(pool) is None
    assert pool.explain(0.0) is POOL_FULL


def test_left_out_backends_stay_left_out_while_full_ones_are_skipped() -> None:
    a, b, c = make_backends([1, 1, 1], max_connections=1)
    pool = pool_of([a, b, c], LoadTable([1, 0, 0]))
    assert {pick(pool, b) for _ in range(6)} == {c}


def test_only_least_connections_asks_to_hear_of_attempts() -> None:
    loads = make_loads(1)
    wants = [name for name in ALL if pool_of(make_backends([1]), loads, name).counts_attempts]
    assert wants == ["least_connections"]


@pytest.mark.parametrize("name", ["round_robin", "random", "weighted", "weighted_random"])
def test_a_backend_that_starts_slowly_gets_its_share_of_a_turn(name: StrategyName) -> None:
    backends = make_backends([1, 1, 1, 1])
    backends[2].share = 0.25
    pool = pool_of(backends, make_loads(4), name)
    rng = Random(7)
    counts = Counter(pool.pick(now=0.0, key=None, exclude=(), rng=rng) for _ in range(40_000))
    others = [counts[backend] for backend in backends if backend is not backends[2]]
    # A quarter of what the others get, or, where who stands in is drawn anew, of what it would get itself.
    assert 0.19 < counts[backends[2]] / (sum(others) / 3) < 0.27
    assert max(others) / min(others) < 1.15, "what it leaves goes to all others alike"


def test_a_backend_that_starts_slowly_has_a_share_of_its_limit() -> None:
    backends = make_backends([1, 1], max_connections=10)
    backends[0].share = 0.2
    pool = pool_of(backends, LoadTable([2, 9]))
    rng = Random(1)
    assert {pool.pick(now=0.0, key=None, exclude=(), rng=rng) for _ in range(50)} == {backends[1]}


def test_a_backend_alone_gets_everything_however_slowly_it_starts() -> None:
    (backend,) = make_backends([1])
    backend.share = 0.1
    pool = pool_of([backend], make_loads(1))
    assert {pick(pool) for _ in range(10)} == {backend}


@pytest.mark.parametrize("shares", [(0.1, 0.1), (0.1, 0.3)])
def test_a_pool_that_comes_back_as_a_whole_has_its_limits_at_once(shares: tuple[float, float]) -> None:
    backends = make_backends([1, 1], max_connections=10)
    for backend, share in zip(backends, shares, strict=True):
        backend.share = share
    pool = pool_of(backends, LoadTable([9, 9]))
    whole = [backend for backend in backends if backend.share == max(shares)]
    picked = {pool.pick(now=0.0, key=None, exclude=(), rng=Random(seed)) for seed in range(50)}
    assert picked == set(whole), "the furthest has room for a tenth"


def test_who_is_not_eligible_is_not_picked_and_the_pool_says_why_there_is_nobody() -> None:
    a, b = make_backends([1, 1])
    pool = pool_of([a, b], make_loads(2), "least_connections")
    a.eligible = False
    pool.rebuild()
    assert {pick(pool) for _ in range(10)} == {b}
    b.eligible = False
    pool.rebuild()
    assert pick(pool) is None
    assert pool.explain(0.0) is POOL_EMPTY
    pool.down = True
    assert pool.explain(0.0) is POOL_DOWN
