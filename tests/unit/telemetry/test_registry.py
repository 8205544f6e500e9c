from balancer.telemetry import metrics
from balancer.telemetry.registry import Registry, Sample


def test_a_list_is_the_same_object_at_every_call() -> None:
    registry = Registry()
    cells = registry.cells(metrics.RETRIES, "web", "reset")
    cells[0] += 1
    assert registry.cells(metrics.RETRIES, "web", "reset") is cells


def test_counters_tell_differences_and_gauges_values() -> None:
    registry = Registry()
    counter = registry.cells(metrics.RETRIES, "web", "reset")
    gauge = registry.cells(metrics.DOWNSTREAM_CONNECTIONS, "web")
    counter[0], gauge[0] = 5, 5
    registry.changes()
    counter[0], gauge[0] = 7, 4
    assert registry.changes() == [
        Sample(metrics.RETRIES, ("web", "reset"), [2]),
        Sample(metrics.DOWNSTREAM_CONNECTIONS, ("web",), [4]),
    ]


def test_a_list_is_told_once_even_when_it_is_all_zero_so_that_its_series_exists() -> None:
    registry = Registry()
    registry.cells(metrics.RETRIES, "web", "reset")
    assert registry.changes() == [Sample(metrics.RETRIES, ("web", "reset"), [0])]
    assert registry.changes() == []


def test_what_was_told_does_not_change_afterwards() -> None:
    registry = Registry()
    cells = registry.cells(metrics.REQUESTS, "web", "all", "web")
    cells[2] = 1
    (sample,) = registry.changes()
    cells[2] = 100
    assert sample.values[2] == 1


def test_slices_tell_each_list_once_and_bound_each_part() -> None:
    registry = Registry()
    for number in range(25):
        registry.cells(metrics.STALE_CONNECTIONS, f"pool{number}")[0] = number
    parts = list(registry.changes_in_slices(10))
    assert [len(part) for part in parts] == [10, 10, 5]
    assert {sample.labels[0]: sample.values[0] for part in parts for sample in part} == {
        f"pool{number}": number for number in range(25)
    }


def test_a_list_made_between_two_slices_is_told_next_time() -> None:
    registry = Registry()
    registry.cells(metrics.STALE_CONNECTIONS, "a")
    slices = registry.changes_in_slices(1)
    next(slices)
    registry.cells(metrics.STALE_CONNECTIONS, "b")[0] = 3
    assert list(slices) == []
    assert [sample.labels for sample in registry.changes()] == [("b",)]
