"""Least connections against a plain scan, whatever happens in between."""

from fractions import Fraction
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.balancing import load_order
from balancer.balancing.backend import BackendState, LoadTable
from balancer.balancing.least_connections import LeastConnections
from balancer.balancing.load_order import LoadOrder
from balancer.errors import COMPLETED
from tests.support.backends import make_backends


class PlainLeastConnections:
    """Looks at everything at every pick."""

    def __init__(self, backends: list[BackendState], loads: LoadTable) -> None:
        self.loads = loads
        self.order = list(backends)  # least recently picked first

    def pick(self, exclude: set[BackendState]) -> BackendState | None:
        open_to_us = [backend for backend in self.order if backend not in exclude]
        if not open_to_us:
            return None
        best = min(open_to_us, key=lambda backend: Fraction(self.loads.total(backend.slot), backend.weight))
        self.order.remove(best)
        self.order.append(best)
        return best


@pytest.mark.parametrize("count", [5, 40, 64])
@given(seed=st.integers(0, 10**6), weights_max=st.integers(1, 5), others=st.integers(0, 2))
@settings(max_examples=15, deadline=None)
def test_picks_are_those_of_a_plain_scan(count: int, seed: int, weights_max: int, others: int) -> None:
    rng = Random(seed)
    weights = [rng.randint(1, weights_max) for _ in range(count)]
    backends = make_backends(weights)
    rows = [[rng.randrange(3) for _ in range(count)] for _ in range(others)]
    loads = LoadTable([0] * count, rows)
    strategy = LeastConnections(loads)
    strategy.rebuild(backends, weights)
    plain = PlainLeastConnections(backends, loads)
    live: list[BackendState] = []
    for _ in range(200):
        step = rng.random()
        if step < 0.6:
            exclude = set(rng.sample(backends, rng.randint(0, count))) if rng.random() < 0.2 else set()
            backend = strategy.pick(now=1.0, key=None, exclude=exclude, rng=rng)
            assert backend is plain.pick(exclude)
            if backend is not None and rng.random() < 0.9:
                loads.own[backend.slot] += 1
                strategy.started(backend, 1.0)
                live.append(backend)
        elif step < 0.9 and live:
            backend = live.pop(rng.randrange(len(live)))
            loads.own[backend.slot] -= 1
            strategy.finished(backend, COMPLETED, 0.1, 0.1, 1.0)
        elif rows:
            rng.choice(rows)[rng.randrange(count)] = rng.randrange(4)


@given(seed=st.integers(0, 10**6), others=st.integers(1, 3))
@settings(max_examples=10, deadline=None)
def test_own_counts_are_exact_and_no_count_of_others_is_older_than_promised(seed: int, others: int) -> None:
    rng = Random(seed)
    count = 3 * load_order.SLICE + 5
    weights = [rng.randint(1, 3) for _ in range(count)]
    backends = make_backends(weights)
    rows = [[0] * count for _ in range(others)]
    loads = LoadTable([0] * count, rows)
    order = LoadOrder(loads, list(zip(backends, weights, strict=True)), 0.045)
    now = 50.0
    # When and from what the others' sum of each backend changed last.
    changes: list[list[tuple[float, int]]] = [[(0.0, 0)] for _ in range(count)]
    live: list[BackendState] = []
    for _ in range(300):
        now += rng.choice([0.0, 0.0005, 0.002, 0.01, 0.1])
        for _ in range(rng.randrange(4)):
            slot = rng.randrange(count)
            rng.choice(rows)[slot] = rng.randrange(5)
            changes[slot].append((now, sum(row[slot] for row in rows)))
        backend = order.pick(now, ())
        assert backend is not None
        seen = [order._counts[slot] - loads.own[slot] for slot in range(count)]
        for slot in range(count):
            recent = [value for when, value in changes[slot] if when > now - 0.05]
            last_before = [value for when, value in changes[slot] if when <= now - 0.05][-1]
            assert seen[slot] in (*recent, last_before)
        loads_seen = [Fraction(order._counts[each.slot], each.weight) for each in backends]
        assert loads_seen[backend.slot] == min(loads_seen)
        loads.own[backend.slot] += 1
        order.count_again(backend)
        live.append(backend)
        if rng.random() < 0.5:
            backend = live.pop(rng.randrange(len(live)))
            loads.own[backend.slot] -= 1
            order.count_again(backend)
