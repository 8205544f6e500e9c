"""Least connections: fewest per weight, all workers, least recently picked among equals."""

from random import Random

import pytest

from balancer.balancing.backend import BackendState, LoadTable
from balancer.balancing.least_connections import AGE_MAX, EXACT_MAX, SCAN_MAX, LeastConnections
from balancer.errors import COMPLETED
from tests.support.backends import make_backends, make_loads, names_of_picks

SIZES = [3, SCAN_MAX, SCAN_MAX + 1, EXACT_MAX, EXACT_MAX + 1, 200]


class Pool:
    """A strategy over backends of the given weights, driven as a proxy drives it."""

    def __init__(self, weights: list[int], others: int = 0, offset: float = 0.0) -> None:
        self.backends = make_backends(weights)
        self.loads = make_loads(len(weights), others)
        self.strategy = LeastConnections(self.loads, offset)
        self.strategy.rebuild(self.backends, weights)
        self.now = 1000.0

    def pick(self, *exclude: BackendState) -> BackendState | None:
        return self.strategy.pick(now=self.now, key=None, exclude=exclude, rng=Random(1))

    def start(self, backend: BackendState) -> None:
        self.loads.own[backend.slot] += 1
        self.strategy.started(backend, self.now)

    def finish(self, backend: BackendState) -> None:
        self.loads.own[backend.slot] -= 1
        self.strategy.finished(backend, COMPLETED, 0.1, 0.1, self.now)


@pytest.mark.parametrize("count", SIZES)
def test_attempts_that_stay_spread_evenly(count: int) -> None:
    pool = Pool([1] * count)
    for round_number in range(1, 4):
        for _ in range(count):
            backend = pool.pick()
            assert backend is not None
            pool.start(backend)
        assert set(pool.loads.own) == {round_number}


@pytest.mark.parametrize("count", SIZES)
def test_attempts_spread_in_proportion_to_the_weights(count: int) -> None:
    weights = [1 + slot % 4 for slot in range(count)]
    pool = Pool(weights)
    for _ in range(3 * sum(weights)):
        backend = pool.pick()
        assert backend is not None
        pool.start(backend)
    assert list(pool.loads.own) == [3 * weight for weight in weights]


@pytest.mark.parametrize("count", SIZES)
def test_equals_go_to_the_least_recently_picked(count: int) -> None:
    pool = Pool([1] * count)
    first = [pool.pick() for _ in range(count)]
    assert first == pool.backends
    assert [pool.pick() for _ in range(count)] == first


@pytest.mark.parametrize("count", SIZES)
def test_the_one_that_finished_is_next(count: int) -> None:
    pool = Pool([1] * count)
    for backend in pool.backends:
        assert pool.pick() is backend
        pool.start(backend)
    middle = pool.backends[count // 2]
    pool.finish(middle)
    assert pool.pick() is middle
    pool.start(middle)
    assert pool.pick() is pool.backends[0]


@pytest.mark.parametrize("count", SIZES)
def test_left_out_backends_are_not_picked(count: int) -> None:
    pool = Pool([1 + slot % 2 for slot in range(count)])
    assert pool.pick(*pool.backends[:-1]) is pool.backends[-1]
    assert pool.pick(*pool.backends) is None
    assert pool.pick(*pool.backends[:2]) is pool.backends[2]


@pytest.mark.parametrize("count", [size for size in SIZES if size <= EXACT_MAX])
def test_other_workers_count_at_once_in_pools_up_to_the_exact_limit(count: int) -> None:
    pool = Pool([1] * count, others=2)
    other = pool.loads.others[1]
    assert isinstance(other, list)
    for target in range(count):
        other[:] = [2] * count
        other[target] = 1
        assert pool.pick() is pool.backends[target]


@pytest.mark.parametrize("count", [EXACT_MAX + 1, 200])
def test_other_workers_count_within_50_ms_in_larger_pools(count: int) -> None:
    assert AGE_MAX < 0.05
    pool = Pool([1] * count, others=2)
    other = pool.loads.others[0]
    assert isinstance(other, list)
    pool.pick()
    for target in (0, count // 2, count - 1):
        other[:] = [2] * count
        other[target] = 1
        # Whatever picks happen in between, 50 ms later every count has been read again.
        for _ in range(target % 7):
            pool.now += 0.001
            pool.pick()
        pool.now += 0.05
        assert pool.pick() is pool.backends[target]


@pytest.mark.parametrize("count", [EXACT_MAX + 1, 1000])
def test_reading_the_others_is_spread_over_the_picks(count: int) -> None:
    class CountingRow(list[int]):
        reads = 0

        def __getitem__(self, index: int) -> int:  # type: ignore[override]
            CountingRow.reads += 1
            return super().__getitem__(index)

    backends = make_backends([1] * count)
    strategy = LeastConnections(LoadTable([0] * count, [CountingRow([0] * count)]))
    strategy.rebuild(backends, [1] * count)
    now = 5.0
    strategy.pick(now=now, key=None, exclude=(), rng=Random(1))
    most = 0
    CountingRow.reads = 0
    picks = 450
    for _ in range(picks):
        before = CountingRow.reads
        now += AGE_MAX * 2 / picks
        strategy.pick(now=now, key=None, exclude=(), rng=Random(1))
        most = max(most, CountingRow.reads - before)
    assert 2 * count - 64 <= CountingRow.reads <= 2 * count + 64
    assert most <= 64


@pytest.mark.parametrize("count", [EXACT_MAX, EXACT_MAX + 1, 200])
def test_what_ends_without_a_word_is_seen(count: int) -> None:
    pool = Pool([1] * count)
    for backend in pool.backends:
        pool.start(backend)
    pool.loads.own[7] -= 1  # its exchange belonged to an older generation
    pool.pick()
    pool.now += 0.05
    assert pool.pick() is pool.backends[7]


def test_what_ends_without_a_word_is_seen_also_when_the_row_reads_as_before() -> None:
    pool = Pool([1] * 100)
    for backend in pool.backends:
        pool.start(backend)
    pool.now += 0.05
    pool.pick()
    pool.start(pool.backends[7])
    pool.loads.own[7] -= 1
    pool.now += 0.05
    picked = [pool.pick() for _ in range(100)]
    assert pool.backends[7] in picked


def test_rows_of_shared_memory_give_what_lists_give() -> None:
    count = 150
    rng = Random(4)
    counts = [[rng.randrange(4) for _ in range(count)] for _ in range(3)]
    rows = [memoryview(bytearray(8 * count)).cast("q") for _ in counts]
    for row, values in zip(rows, counts, strict=True):
        for slot, value in enumerate(values):
            row[slot] = value
    # One backend is missing, so one slice of slots has a gap.
    backends = [backend for backend in make_backends([1] * count) if backend.slot != 70]
    picks = []
    for own, *others in (counts, rows):
        strategy = LeastConnections(LoadTable(own, others))
        strategy.rebuild(backends, [1] * len(backends))
        picked = []
        for step in range(300):
            backend = strategy.pick(now=step * 0.01, key=None, exclude=(), rng=rng)
            assert backend is not None
            own[backend.slot] += 1
            strategy.started(backend, step * 0.01)
            others[0][(step * 7) % count] = step % 3
            picked.append(backend)
        picks.append(picked)
    assert picks[0] == picks[1]


@pytest.mark.parametrize(("before", "after"), [(5, 6), (70, 80), (70, 20), (20, 70), (70, 3)])
def test_a_new_list_keeps_the_order_of_picks(before: int, after: int) -> None:
    backends = make_backends([1] * max(before, after))
    strategy = LeastConnections(make_loads(len(backends)))
    strategy.rebuild(backends[:before], [1] * before)
    names_of_picks(strategy, 2)
    strategy.rebuild(backends[:after], [1] * after)
    newcomers = backends[before:after]
    stayed = backends[2 : min(before, after)]
    expected = [backend.name for backend in (*newcomers, *stayed, *backends[:2])]
    assert names_of_picks(strategy, after) == expected


def test_offset_says_who_is_first() -> None:
    assert names_of_picks(Pool([1] * 4, offset=0.5).strategy, 4) == list("cdab")
    assert Pool([1] * 100, offset=0.25).pick() is not None
    pool = Pool([1] * 100, offset=0.25)
    assert pool.pick() is pool.backends[25]


def test_an_empty_list_gives_none() -> None:
    strategy = LeastConnections(make_loads(0))
    assert names_of_picks(strategy, 1) == ["-"]
    strategy.rebuild([], [])
    assert names_of_picks(strategy, 1) == ["-"]


def test_a_backend_that_left_the_list_may_still_finish() -> None:
    pool = Pool([1] * 100)
    gone = pool.backends[0]
    pool.start(gone)
    pool.strategy.rebuild(pool.backends[1:], [1] * 99)
    pool.finish(gone)
    assert pool.pick() is pool.backends[1]


@pytest.mark.parametrize("count", [20, 100])
def test_old_entries_do_not_pile_up(count: int) -> None:
    pool = Pool([1 + slot % 2 for slot in range(count)])
    live = []
    longest = 0
    for _ in range(50 * count):
        backend = pool.pick()
        assert backend is not None
        pool.start(backend)
        live.append(backend)
        if len(live) > 4:
            pool.finish(live.pop(0))
        assert pool.strategy._order is not None
        longest = max(longest, *(len(each.heap) for each in pool.strategy._order._classes))
    places = -(-count // 2)
    assert places < longest <= 2 * places + 65
