"""Backends and load tables for tests of balancing."""

from collections.abc import Sequence
from random import Random

from balancer.balancing.backend import Address, BackendState, LoadTable
from balancer.balancing.strategy import Strategy


def make_backends(weights: Sequence[int], max_connections: int | None = None) -> list[BackendState]:
    """One backend per weight, in slots 0, 1, ...; named a, b, c ... or by number past z."""
    return [
        BackendState(
            pool="p",
            name=chr(ord("a") + slot) if slot < 26 else str(slot),
            address=Address("127.0.0.1", 9000 + slot),
            slot=slot,
            weight=weight,
            max_connections=max_connections,
        )
        for slot, weight in enumerate(weights)
    ]


def make_loads(count: int, others: int = 0) -> LoadTable:
    """A table of zeros for `count` slots: this worker's row and those of `others` workers."""
    return LoadTable([0] * count, [[0] * count for _ in range(others)])


def names_of_picks(strategy: Strategy, count: int, rng: Random | None = None) -> list[str]:
    """The names that `count` picks give; "-" for none."""
    rng = rng or Random(1)
    picked = [strategy.pick(now=0.0, key=None, exclude=(), rng=rng) for _ in range(count)]
    return [backend.name if backend else "-" for backend in picked]
