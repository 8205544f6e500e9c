"""Smooth weighted round robin, pick by pick."""

from collections import Counter
from random import Random

import pytest

from balancer.balancing.weighted import Weighted
from balancer.errors import COMPLETED
from tests.support.backends import make_backends, names_of_picks


def strategy_of(weights: list[int]) -> Weighted:
    strategy = Weighted()
    strategy.rebuild(make_backends(weights), weights)
    return strategy


@pytest.mark.parametrize(
    ("weights", "order"),
    [
        ([5, 1, 1], "aabacaa"),
        ([1, 1, 1], "abc"),
        ([1, 2], "bab"),
        ([2, 1], "aba"),
        ([3, 2, 1], "abacba"),
        ([1], "a"),
    ],
)
def test_the_order_is_nginxs_and_repeats(weights: list[int], order: str) -> None:
    assert "".join(names_of_picks(strategy_of(weights), 3 * len(order))) == order * 3


def test_an_empty_list_gives_none() -> None:
    assert names_of_picks(Weighted(), 1) == ["-"]
    strategy = strategy_of([1])
    strategy.rebuild([], [])
    assert names_of_picks(strategy, 1) == ["-"]


def test_left_out_backends_are_not_picked_and_all_left_out_is_none() -> None:
    strategy = Weighted()
    a, b, c = make_backends([5, 1, 1])
    (stranger,) = make_backends([1])
    strategy.rebuild([a, b, c], [5, 1, 1])
    rng = Random(1)
    picked = [strategy.pick(now=0.0, key=None, exclude=(a, stranger), rng=rng) for _ in range(4)]
    assert picked == [b, c, b, c]
    assert strategy.pick(now=0.0, key=None, exclude={a, b, c}, rng=rng) is None
    assert "".join(names_of_picks(strategy, 7)) == "aabacaa"


def test_a_backend_that_was_left_out_for_long_does_not_catch_up() -> None:
    strategy = Weighted()
    backends = make_backends([1, 1])
    strategy.rebuild(backends, [1, 1])
    for _ in range(1000):
        assert strategy.pick(now=0.0, key=None, exclude=[backends[0]], rng=Random(1)) is backends[1]
    assert Counter(names_of_picks(strategy, 10)) == {"a": 5, "b": 5}


def test_the_same_list_again_changes_nothing() -> None:
    strategy = Weighted()
    backends = make_backends([5, 1, 1])
    strategy.rebuild(backends, [5, 1, 1])
    assert names_of_picks(strategy, 3) == list("aab")
    strategy.rebuild(list(backends), [5, 1, 1])
    assert names_of_picks(strategy, 4) == list("acaa")


def test_a_list_that_changes_at_every_pick_gives_those_that_stay_equal_shares() -> None:
    strategy = Weighted()
    backends = make_backends([1] * 6)
    counts: Counter[str] = Counter()
    for turn in range(500):
        present = backends if turn % 2 else backends[:5]
        strategy.rebuild(present, [1] * len(present))
        counts.update(names_of_picks(strategy, 1))
    assert min(counts[backend.name] for backend in backends[:5]) >= 90


def test_a_backend_that_comes_and_goes_gets_its_share_while_it_is_there() -> None:
    strategy = Weighted()
    backends = make_backends([1, 2, 3])
    for _ in range(20):
        strategy.rebuild(backends[1:], [2, 3])
        names_of_picks(strategy, 3)
        strategy.rebuild(backends, [1, 2, 3])
        counts = Counter(names_of_picks(strategy, 12))
        assert 1 <= counts["a"] <= 3
        assert 3 <= counts["b"] <= 5
        assert 5 <= counts["c"] <= 7


def test_a_large_pool_that_shrinks_to_two_alternates_at_once() -> None:
    strategy = Weighted()
    backends = make_backends([1] * 1000)
    strategy.rebuild(backends, [1] * 1000)
    assert names_of_picks(strategy, 1) == ["a"]
    strategy.rebuild(backends[:2], [1, 1])
    counts = Counter(names_of_picks(strategy, 20))
    assert abs(counts["a"] - counts["b"]) <= 2


def test_attempts_do_not_change_turns() -> None:
    strategy = strategy_of([2, 1])
    a, _ = make_backends([2, 1])
    strategy.started(a, 0.0)
    strategy.finished(a, COMPLETED, 0.1, 0.1, 0.1)
    assert not strategy.counts_attempts
    assert names_of_picks(strategy, 3) == list("aba")
