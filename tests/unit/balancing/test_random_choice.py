"""Uniform random choice."""

from collections import Counter
from math import sqrt
from random import Random

import pytest

from balancer.balancing.random_choice import DRAWS_MAX, RandomChoice
from balancer.errors import COMPLETED
from tests.support.backends import make_backends, names_of_picks


@pytest.mark.parametrize("count", [1, 2, 3, 7, 50])
def test_counts_stay_within_four_sigma_of_equal_shares(count: int) -> None:
    strategy = RandomChoice()
    backends = make_backends([1] * count)
    strategy.rebuild(backends, [1] * count)
    picks = 20_000
    counts = Counter(names_of_picks(strategy, picks, Random(20)))
    share = 1 / count
    for backend in backends:
        assert abs(counts[backend.name] - picks * share) <= 4 * sqrt(picks * share * (1 - share))


def test_left_out_backends_are_never_picked_and_the_rest_stays_uniform() -> None:
    strategy = RandomChoice()
    backends = make_backends([1] * 4)
    strategy.rebuild(backends, [1] * 4)
    rng = Random(21)
    exclude = {backends[0], backends[2]}
    picked = Counter(strategy.pick(now=0.0, key=None, exclude=exclude, rng=rng) for _ in range(10_000))
    assert set(picked) == {backends[1], backends[3]}
    assert abs(picked[backends[1]] - 5000) <= 4 * sqrt(10_000 * 0.25)


def test_the_one_backend_that_is_not_left_out_is_found() -> None:
    count = 20 * DRAWS_MAX
    strategy = RandomChoice()
    backends = make_backends([1] * count)
    strategy.rebuild(backends, [1] * count)
    for seed in range(5):
        assert strategy.pick(now=0.0, key=None, exclude=set(backends[1:]), rng=Random(seed)) is backends[0]
    assert strategy.pick(now=0.0, key=None, exclude=set(backends), rng=Random(1)) is None


def test_an_empty_list_gives_none() -> None:
    assert names_of_picks(RandomChoice(), 1) == ["-"]


def test_attempts_change_nothing() -> None:
    strategy = RandomChoice()
    (backend,) = make_backends([1])
    strategy.rebuild([backend], [1])
    strategy.started(backend, 0.0)
    strategy.finished(backend, COMPLETED, 0.1, 0.1, 0.1)
    assert not strategy.counts_attempts
    assert names_of_picks(strategy, 1) == ["a"]
