"""Round robin: strict turns."""

from collections import Counter
from random import Random

import pytest

from balancer.balancing.round_robin import RoundRobin
from balancer.errors import COMPLETED
from tests.support.backends import make_backends, names_of_picks


def strategy_of(count: int, offset: float = 0.0) -> RoundRobin:
    strategy = RoundRobin(offset)
    strategy.rebuild(make_backends([1] * count), [1] * count)
    return strategy


def test_turns_follow_the_order_of_the_file() -> None:
    assert names_of_picks(strategy_of(3), 7) == list("abcabca")


@pytest.mark.parametrize("count", [1, 2, 3, 10, 64])
def test_counts_stay_within_one_after_any_number_of_picks(count: int) -> None:
    strategy = strategy_of(count)
    counts: Counter[str] = Counter({backend.name: 0 for backend in make_backends([1] * count)})
    for _ in range(5 * count + 3):
        counts.update(names_of_picks(strategy, 1))
        assert max(counts.values()) - min(counts.values()) <= 1


def test_offset_says_who_is_first() -> None:
    assert names_of_picks(strategy_of(4, 0.5), 5) == list("cdabc")
    assert names_of_picks(strategy_of(4, 0.999), 2) == list("da")


def test_an_empty_list_gives_none_and_keeps_the_offset_for_the_first_real_one() -> None:
    strategy = RoundRobin(0.5)
    assert names_of_picks(strategy, 1) == ["-"]
    strategy.rebuild([], [])
    assert names_of_picks(strategy, 1) == ["-"]
    strategy.rebuild(make_backends([1, 1]), [1, 1])
    assert names_of_picks(strategy, 1) == ["b"]


def test_a_left_out_backend_loses_its_turn() -> None:
    strategy = strategy_of(3)
    a, b, c = make_backends([1, 1, 1])
    strategy.rebuild([a, b, c], [1, 1, 1])
    rng = Random(1)
    assert strategy.pick(now=0.0, key=None, exclude={a}, rng=rng) is b
    assert strategy.pick(now=0.0, key=None, exclude=[a, c], rng=rng) is b
    assert strategy.pick(now=0.0, key=None, exclude=(a, b, c), rng=rng) is None
    assert strategy.pick(now=0.0, key=None, exclude=(), rng=rng) is c


def test_rebuild_goes_on_with_the_backend_whose_turn_it_is() -> None:
    a, b, c, d = make_backends([1] * 4)
    strategy = RoundRobin()
    strategy.rebuild([a, b, c], [1] * 3)
    assert names_of_picks(strategy, 1) == ["a"]
    strategy.rebuild([d, a, b, c], [1] * 4)
    assert names_of_picks(strategy, 1) == ["b"]


def test_rebuild_goes_on_with_the_next_that_stayed_when_the_one_in_turn_left() -> None:
    a, b, c, d = make_backends([1] * 4)
    strategy = RoundRobin()
    strategy.rebuild([a, b, c], [1] * 3)
    assert names_of_picks(strategy, 1) == ["a"]
    strategy.rebuild([a, c], [1] * 2)
    assert names_of_picks(strategy, 1) == ["c"]
    strategy.rebuild([d], [1])
    assert names_of_picks(strategy, 2) == ["d", "d"]


def test_attempts_do_not_change_turns() -> None:
    strategy = strategy_of(2)
    assert not strategy.counts_attempts
    a, _ = make_backends([1, 1])
    strategy.started(a, 0.0)
    strategy.finished(a, COMPLETED, 0.1, 0.1, 0.1)
    assert names_of_picks(strategy, 2) == ["a", "b"]
