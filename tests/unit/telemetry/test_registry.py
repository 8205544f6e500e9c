from balancer.config.model import Backend, Config, Listener, Pool, PoolAction, Route
from balancer.telemetry import metrics
from balancer.telemetry.registry import Known, Registry, Sample


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


# ---- what the configuration no longer has


CONFIG = Config(
    listeners=(Listener(name="in", bind=()),),
    routes=(Route(name="all", action=PoolAction(pool="web")),),
    pools=(Pool(name="web", backends=(Backend(name="a"), Backend(name="b"))),),
)
KNOWN = [
    (metrics.REQUESTS, ("in", "all", "web")),
    (metrics.REQUESTS, ("in", "-", "-")),
    (metrics.REQUEST_DURATION, ("all",)),
    (metrics.RETRIES, ("web", "reset")),
    (metrics.BACKEND_REQUESTS, ("web", "a")),
    (metrics.UPSTREAM_CONNECTS, ("web", "b", "ok")),
    (metrics.TERMINATIONS, ("in", "client", "done", "why")),
    (metrics.LIMIT_REJECTIONS, ("descriptors",)),
    (metrics.ACCESS_LOG_DROPPED, ()),
]
UNKNOWN = [
    (metrics.REQUESTS, ("out", "all", "web")),
    (metrics.REQUESTS, ("in", "gone", "web")),
    (metrics.REQUESTS, ("in", "all", "gone")),
    (metrics.REQUEST_DURATION, ("gone",)),
    (metrics.RETRIES, ("gone", "reset")),
    (metrics.BACKEND_REQUESTS, ("web", "c")),
    (metrics.BACKEND_REQUESTS, ("gone", "a")),
    (metrics.UPSTREAM_CONNECTS, ("web", "c", "ok")),
    (metrics.TERMINATIONS, ("out", "client", "done", "why")),
]


def forget(registry: Registry, known: Known) -> None:
    for _ in registry.forget(known):
        pass


def test_series_stay_that_the_configuration_names_and_no_others() -> None:
    known = Known(CONFIG)
    assert [row for row in KNOWN if not known.has(*row)] == []
    assert [row for row in UNKNOWN if known.has(*row)] == []


def test_a_removed_backend_with_work_under_way_keeps_its_series() -> None:
    known = Known(CONFIG, [("web", "c"), ("gone", "a")])
    assert known.has(metrics.BACKEND_REQUESTS, ("web", "c"))
    assert known.has(metrics.STALE_CONNECTIONS, ("gone",))
    assert not known.has(metrics.BACKEND_REQUESTS, ("web", "d"))


def test_what_is_forgotten_tells_its_last_change_and_then_nothing() -> None:
    registry = Registry()
    for row in KNOWN + UNKNOWN:
        registry.cells(row[0], *row[1])
    registry.changes()
    registry.cells(metrics.BACKEND_REQUESTS, "web", "c")[2] += 3
    forget(registry, Known(CONFIG))
    assert [(sample.family, sample.labels) for sample in registry.changes()] == [
        (metrics.BACKEND_REQUESTS, ("web", "c"))
    ]
    assert {(family, labels) for family, labels in registry._cells} == set(KNOWN)
    assert set(registry._told) == set(KNOWN)
    assert registry.changes() == []


def test_what_comes_back_before_that_stays_the_same_list() -> None:
    registry = Registry()
    cells = registry.cells(metrics.BACKEND_REQUESTS, "web", "c")
    registry.changes()
    forget(registry, Known(CONFIG))
    assert registry.cells(metrics.BACKEND_REQUESTS, "web", "c") is cells
    cells[2] = 1
    assert [sample.values[2] for sample in registry.changes()] == [1]
    assert registry.cells(metrics.BACKEND_REQUESTS, "web", "c") is cells


def test_a_list_that_is_forgotten_and_comes_back_counts_from_nothing() -> None:
    registry = Registry()
    registry.cells(metrics.BACKEND_REQUESTS, "web", "c")[2] = 5
    forget(registry, Known(CONFIG))
    assert [sample.values[2] for sample in registry.changes()] == [5]
    registry.cells(metrics.BACKEND_REQUESTS, "web", "c")[2] = 2
    assert [sample.values[2] for sample in registry.changes()] == [2], "the sum of both is what came in all"


def test_a_list_that_was_made_and_forgotten_without_a_count_is_never_told() -> None:
    registry = Registry()
    registry.cells(metrics.BACKEND_REQUESTS, "web", "c")
    forget(registry, Known(CONFIG))
    assert registry.changes() == []
