"""What one pick costs, for every strategy; the gate: at most 5 us with 10,000 backends of eight weights.

    python -m loadtest.micro.picks [--no-gate]

CPU time of this thread, the best of several rounds: the others tell of the machine's other work. The strategy is
driven as the data path drives it: picks, attempts that begin and end, counts in shared rows, four workers, a clock
that goes on. `attempt` is what `started` and `finished` cost on top, `idle pace` a pick at 1,000 a second, when more
of the other workers' counts fall due between two picks.
"""

import sys
import time
from collections import deque
from itertools import count
from random import Random
from typing import NamedTuple, cast, get_args

from balancer.balancing.backend import Address, BackendState, LoadTable
from balancer.balancing.pool import PoolState, make_strategy
from balancer.config.model import StrategyName
from balancer.errors import COMPLETED

SIZES = (3, 64, 10_000)
GATE_SIZE, GATE_US = 10_000, 5.0
WEIGHTS = 8
WORKERS = 4
LIVE = 200  # attempts in flight
PICKS, ROUNDS = 4_000, 20
PACE, IDLE_PACE = 20_000, 1_000  # picks a second


class Row(NamedTuple):
    """Microseconds."""

    pick: float
    attempt: float
    idle_pace: float


def make_pool(name: StrategyName, size: int) -> PoolState:
    """A pool without limits over rows of shared-memory kind."""
    own, *others = (memoryview(bytearray(8 * size)).cast("q") for _ in range(WORKERS))
    loads = LoadTable(cast("list[int]", own), others)
    backends = [
        BackendState(pool="p", name=str(slot), address=Address("127.0.0.1", 1), slot=slot, weight=1 + slot % WEIGHTS)
        for slot in range(size)
    ]
    return PoolState("p", make_strategy(name, loads, Random(1)), backends, loads)


def measure(name: StrategyName, size: int) -> Row:
    """The best round of each kind."""
    pool = make_pool(name, size)
    loads, strategy = pool.loads, pool.strategy
    rng = Random(2)
    live: deque[BackendState] = deque()
    ticks = count(1)
    clock = time.thread_time
    no_backends: tuple[BackendState, ...] = ()

    def begin_and_end(backend: BackendState, now: float) -> None:
        loads.own[backend.slot] += 1
        if pool.counts_attempts:
            strategy.started(backend, now)
        live.append(backend)
        if len(live) > LIVE:
            done = live.popleft()
            loads.own[done.slot] -= 1
            if pool.counts_attempts:
                strategy.finished(done, COMPLETED, 0.01, 0.01, now)

    def one_round(pace: int, *, picking: bool, attempts: bool) -> float:
        start = clock()
        for _ in range(PICKS):
            now = next(ticks) / pace
            backend = pool.pick(now=now, key=None, exclude=no_backends, rng=rng) if picking else live[0]
            if attempts and backend is not None:
                begin_and_end(backend, now)
        return (clock() - start) / PICKS * 1e6

    def best(pace: int, *, picking: bool = True, attempts: bool = True) -> float:
        return min(one_round(pace, picking=picking, attempts=attempts) for _ in range(ROUNDS))

    one_round(PACE, picking=True, attempts=True)
    both = best(PACE)
    attempt = best(PACE, picking=False)
    loop = best(PACE, picking=False, attempts=False)
    ticks = count(next(ticks) * PACE // IDLE_PACE)
    idle = best(IDLE_PACE)
    return Row(both - attempt, attempt - loop, idle - attempt)


def main() -> int:
    """Print one row per strategy and size; 1 when the gate is missed."""
    gated = "--no-gate" not in sys.argv[1:]
    missed = []
    print(f"{'strategy':18} {'backends':>8} {'pick':>7} {'attempt':>8} {'idle pace':>10}   us, best of {ROUNDS}")
    for name in get_args(StrategyName):
        for size in SIZES:
            row = measure(name, size)
            print(f"{name:18} {size:8} {row.pick:7.2f} {row.attempt:8.2f} {row.idle_pace:10.2f}", flush=True)
            if size == GATE_SIZE and row.pick > GATE_US:
                missed.append(name)
    if missed and gated:
        print(f"missed: more than {GATE_US} us per pick with {GATE_SIZE} backends: {', '.join(missed)}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
