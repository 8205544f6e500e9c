"""Random choice by weight."""

from collections import Counter
from fractions import Fraction
from math import sqrt
from random import Random

import pytest

from balancer.balancing.random_choice import DRAWS_MAX
from balancer.balancing.weighted_random import WeightedRandom, alias_table
from balancer.errors import COMPLETED
from tests.support.backends import make_backends, names_of_picks


def strategy_of(weights: list[int]) -> WeightedRandom:
    strategy = WeightedRandom()
    strategy.rebuild(make_backends(weights), weights)
    return strategy


@pytest.mark.parametrize("weights", [[1], [1, 1], [5, 1, 1], [1, 2, 3, 4], [100, 1], [7] * 20, [1, 1000, 1, 1000]])
def test_counts_stay_within_four_sigma_of_the_weights_shares(weights: list[int]) -> None:
    picks = 20_000
    counts = Counter(names_of_picks(strategy_of(weights), picks, Random(30)))
    for backend, weight in zip(make_backends(weights), weights, strict=True):
        share = weight / sum(weights)
        assert abs(counts[backend.name] - picks * share) <= 4 * sqrt(picks * share * (1 - share))


@pytest.mark.parametrize("weights", [[1], [3, 3], [5, 1, 1], [1, 2, 3, 4, 5, 6], [65535, 1, 1, 1], [2, 3, 5, 7, 11]])
def test_the_columns_add_up_to_exactly_the_weights(weights: list[int]) -> None:
    share, alias = alias_table(weights)
    got = [Fraction(0)] * len(weights)
    for column, (own, other) in enumerate(zip(share, alias, strict=True)):
        assert 0 <= own <= 1
        exact = Fraction(own).limit_denominator(sum(weights))
        got[column] += exact
        got[other] += 1 - exact
    assert got == [Fraction(weight * len(weights), sum(weights)) for weight in weights]


def test_left_out_backends_are_never_picked_and_the_rest_keeps_its_shares() -> None:
    weights = [50, 1, 3]
    strategy = WeightedRandom()
    heavy, light, middle = make_backends(weights)
    strategy.rebuild([heavy, light, middle], weights)
    rng = Random(31)
    # With the heavy one left out most draws miss, so both the draws and the listing of the rest are in use.
    picked = Counter(strategy.pick(now=0.0, key=None, exclude=[heavy], rng=rng) for _ in range(10_000))
    assert set(picked) == {light, middle}
    assert abs(picked[middle] - 7500) <= 4 * sqrt(10_000 * 0.75 * 0.25)


def test_the_one_backend_that_is_not_left_out_is_found() -> None:
    count = 20 * DRAWS_MAX
    strategy = WeightedRandom()
    backends = make_backends([1] * count)
    strategy.rebuild(backends, [1] * count)
    assert strategy.pick(now=0.0, key=None, exclude=set(backends[:-1]), rng=Random(1)) is backends[-1]
    assert strategy.pick(now=0.0, key=None, exclude=set(backends), rng=Random(1)) is None


class HighestDraw(Random):
    """Always draws the highest number that there is."""

    def random(self) -> float:
        return 1 - 2**-53


def test_the_highest_draw_stays_inside() -> None:
    weights = [3, 3, 1]
    strategy = WeightedRandom()
    backends = make_backends(weights)
    strategy.rebuild(backends, weights)
    assert strategy.pick(now=0.0, key=None, exclude=(), rng=HighestDraw()) in backends
    last = strategy.pick(now=0.0, key=None, exclude={backends[2]}, rng=HighestDraw())
    assert last in backends[:2]


def test_an_empty_list_gives_none() -> None:
    assert names_of_picks(WeightedRandom(), 1) == ["-"]
    assert names_of_picks(strategy_of([]), 1) == ["-"]


def test_attempts_change_nothing() -> None:
    strategy = strategy_of([1])
    (backend,) = make_backends([1])
    strategy.started(backend, 0.0)
    strategy.finished(backend, COMPLETED, 0.1, 0.1, 0.1)
    assert not strategy.counts_attempts
    assert names_of_picks(strategy, 1) == ["a"]
