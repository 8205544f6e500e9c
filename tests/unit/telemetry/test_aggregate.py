import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.config.model import Backend, Config, Pool
from balancer.telemetry import metrics
from balancer.telemetry.aggregate import Aggregate, read_process
from balancer.telemetry.registry import Known, Registry, Sample


def total(aggregate: Aggregate, family: str, *labels: str) -> float:
    return aggregate.values(family, labels)[0]


def test_counters_of_all_workers_add_up() -> None:
    aggregate = Aggregate()
    aggregate.add(0, [Sample(metrics.STALE_CONNECTIONS, ("web",), [2])])
    aggregate.add(1, [Sample(metrics.STALE_CONNECTIONS, ("web",), [3])])
    assert total(aggregate, metrics.STALE_CONNECTIONS, "web") == 5


def test_a_gauge_is_the_sum_of_the_workers_latest_values() -> None:
    aggregate = Aggregate()
    for worker, value in ((0, 4), (1, 5), (0, 1)):
        aggregate.add(worker, [Sample(metrics.DOWNSTREAM_CONNECTIONS, ("web",), [value])])
    assert total(aggregate, metrics.DOWNSTREAM_CONNECTIONS, "web") == 6


def test_a_worker_that_is_gone_takes_its_gauges_and_leaves_its_totals() -> None:
    aggregate = Aggregate()
    aggregate.add(
        0,
        [Sample(metrics.DOWNSTREAM_CONNECTIONS, ("web",), [4]), Sample(metrics.STALE_CONNECTIONS, ("web",), [2])],
    )
    aggregate.add(1, [Sample(metrics.DOWNSTREAM_CONNECTIONS, ("web",), [1])])
    aggregate.worker_gone(0)
    assert total(aggregate, metrics.DOWNSTREAM_CONNECTIONS, "web") == 1
    assert total(aggregate, metrics.STALE_CONNECTIONS, "web") == 2


def test_a_gauge_that_no_one_reports_any_more_has_no_series() -> None:
    aggregate = Aggregate()
    aggregate.add(0, [Sample(metrics.LOOP_LAG, ("0",), [0.1])])
    aggregate.worker_gone(0)
    assert list(aggregate.series(metrics.LOOP_LAG)) == []


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 50), st.booleans()), max_size=40))
def test_totals_never_go_back_and_miss_nothing_whatever_workers_die(
    steps: list[tuple[int, int, bool]],
) -> None:
    aggregate = Aggregate()
    registries = {worker: Registry() for worker in range(3)}
    counted, before = 0, 0.0
    for worker, raised, dies in steps:
        cells = registries[worker].cells(metrics.REQUESTS, "web", "all", "web")
        cells[2] += raised
        counted += raised
        aggregate.add(worker, registries[worker].changes())
        if dies:
            aggregate.worker_gone(worker)
            registries[worker] = Registry()
        now = aggregate.values(metrics.REQUESTS, ("web", "all", "web"))[2]
        assert now >= before
        before = now
    assert before == counted


def test_a_negative_change_is_not_taken() -> None:
    aggregate = Aggregate()
    aggregate.add(0, [Sample(metrics.STALE_CONNECTIONS, ("web",), [2])])
    aggregate.add(0, [Sample(metrics.STALE_CONNECTIONS, ("web",), [-1])])
    assert total(aggregate, metrics.STALE_CONNECTIONS, "web") == 2


@pytest.mark.parametrize(
    "sample",
    [
        Sample("balancer_unheard_of", (), [1]),
        Sample(metrics.STALE_CONNECTIONS, ("web",), [1, 2]),
        Sample(metrics.STALE_CONNECTIONS, ("web", "more"), [1]),
    ],
)
def test_a_sample_that_fits_no_family_is_refused(sample: Sample) -> None:
    with pytest.raises(ValueError, match="balancer_"):
        Aggregate().add(0, [sample])


def test_the_supervisors_counter_does_not_go_back() -> None:
    aggregate = Aggregate()
    aggregate.set(metrics.WORKER_RESTARTS, (), 3)
    aggregate.set(metrics.WORKER_RESTARTS, (), 1)
    assert total(aggregate, metrics.WORKER_RESTARTS) == 3


def test_the_supervisors_gauge_is_replaced_and_outlives_workers() -> None:
    aggregate = Aggregate()
    aggregate.set(metrics.BACKEND_WEIGHT, ("web", "a"), 3)
    aggregate.set(metrics.BACKEND_WEIGHT, ("web", "a"), 2)
    aggregate.worker_gone(0)
    assert total(aggregate, metrics.BACKEND_WEIGHT, "web", "a") == 2
    assert aggregate.pools() == {"web"}


def test_a_removed_series_is_gone() -> None:
    aggregate = Aggregate()
    aggregate.set(metrics.WORKER_UP, ("3",), 1)
    aggregate.remove(metrics.WORKER_UP, ("3",))
    aggregate.remove(metrics.WORKER_UP, ("4",))
    assert total(aggregate, metrics.WORKER_UP, "3") == 0
    assert list(aggregate.series(metrics.WORKER_UP)) == []


def test_the_process_families_are_read_from_this_process() -> None:
    aggregate = Aggregate()
    read_process(aggregate)
    assert total(aggregate, metrics.PROCESS_START_TIME) > 1.6e9
    assert total(aggregate, metrics.PROCESS_RESIDENT) > 1e6
    assert total(aggregate, metrics.PROCESS_OPEN_FDS) >= 3
    assert total(aggregate, metrics.PROCESS_CPU) > 0


def test_series_that_the_configuration_no_longer_has_are_forgotten() -> None:
    config = Config(listeners=(), routes=(), pools=(Pool(name="web", backends=(Backend(name="a"),)),))
    aggregate = Aggregate()
    for pool, backend in [("web", "a"), ("web", "b"), ("old", "a")]:
        aggregate.add(0, [Sample(metrics.UPSTREAM_CONNECTS, (pool, backend, "ok"), [1])])
        aggregate.set(metrics.BACKEND_WEIGHT, (pool, backend), 1)
    for _ in aggregate.forget(Known(config, [("web", "b")])):
        pass
    assert aggregate.pools() == {"web"}
    shown = [series.labels for part in aggregate.series(metrics.UPSTREAM_CONNECTS) for series in part]
    assert shown == [("web", "a", "ok"), ("web", "b", "ok")]
    for _ in aggregate.forget(Known(config)):
        pass
    assert [series.labels for part in aggregate.series(metrics.BACKEND_WEIGHT) for series in part] == [("web", "a")]
