import asyncio
import bisect
import random

import msgspec
import pytest

from balancer.admin.status import BackendStatus, Condition, Latency, PoolStatus, latency_of, pool_statuses
from balancer.config import model
from balancer.daemon.live_changes import LiveChanges
from balancer.telemetry import metrics
from balancer.telemetry.aggregate import Aggregate
from balancer.telemetry.metrics import BOUNDS
from balancer.telemetry.registry import Sample


def cells_of(seconds: list[float]) -> list[float]:
    cells = [0.0] * (len(BOUNDS) + 2)
    for value in seconds:
        cells[bisect.bisect_left(BOUNDS, value)] += 1
        cells[-1] += value
    return cells


def bucket_of(milliseconds: float | None) -> int:
    assert milliseconds is not None
    return bisect.bisect_left(BOUNDS, milliseconds / 1000)


@pytest.mark.parametrize("seed", range(20))
def test_percentiles_lie_in_the_bucket_of_the_true_ones(seed: int) -> None:
    rng = random.Random(seed)
    seconds = [rng.expovariate(1 / 0.02) for _ in range(2000)]
    latency = latency_of(cells_of(seconds))
    true = sorted(seconds)
    for estimate, share in ((latency.p50_ms, 0.5), (latency.p90_ms, 0.9), (latency.p99_ms, 0.99)):
        exact = true[int(share * len(true)) - 1]
        assert bucket_of(estimate) == bisect.bisect_left(BOUNDS, exact)
    assert latency.average_ms == pytest.approx(sum(seconds) / len(seconds) * 1000, abs=0.001)


def test_nothing_measured_is_none() -> None:
    assert latency_of(cells_of([])) == Latency()


def test_what_is_above_every_bucket_is_told_as_the_last_bound() -> None:
    assert latency_of(cells_of([50.0, 60.0])).p50_ms == BOUNDS[-1] * 1000


def config_of(*pools: model.Pool) -> model.Config:
    return model.Config(listeners=(), routes=(), pools=pools)


def resolved(name: str, host: str, slot: int) -> model.ResolvedBackend:
    return model.ResolvedBackend(pool="api", name=name, host=host, address=(host, 80, ""), slot=slot)


def statuses_of(config: model.Config, backends: list[model.ResolvedBackend], aggregate: Aggregate) -> list[PoolStatus]:
    return asyncio.run(pool_statuses(config, backends, aggregate, lambda slot: 10**slot))


def test_a_backend_is_told_with_its_counts_and_every_address() -> None:
    aggregate = Aggregate()
    labels = ("api", "a")
    aggregate.add(
        0,
        [
            Sample(metrics.BACKEND_REQUESTS, labels, [1, 0, 5, 0, 0, 2]),
            Sample(metrics.BACKEND_DURATION, labels, cells_of([0.003])),
            Sample(metrics.UPSTREAM_CONNECTIONS, (*labels, "idle"), [3]),
            Sample(metrics.UPSTREAM_CONNECTIONS, (*labels, "active"), [4]),
            Sample(metrics.UPSTREAM_CONNECTS, (*labels, "ok"), [7]),
            Sample(metrics.UPSTREAM_CONNECTS, (*labels, "timeout"), [1]),
            Sample(metrics.UPSTREAM_CONNECTS, (*labels, "failed"), [2]),
        ],
    )
    pool = model.Pool(name="api", backends=(model.Backend(name="a", host="app", port=80, weight=2, max_connections=9),))
    backends = [resolved("a", "192.0.2.1", 1), resolved("a", "192.0.2.2", 2)]
    ((status,),) = [pool_.backends for pool_ in statuses_of(config_of(pool), backends, aggregate)]
    assert (status.address, status.addresses) == ("app:80", ("192.0.2.1:80", "192.0.2.2:80"))
    assert (status.weight, status.file_weight, status.max_connections) == (2, 2, 9)
    assert status.in_flight == 110
    assert status.requests == {"none": 1, "1xx": 0, "2xx": 5, "3xx": 0, "4xx": 0, "5xx": 2}
    connections = status.connections
    assert (connections.idle, connections.active, connections.opened, connections.failed) == (3, 4, 7, 3)
    assert status.latency.average_ms == 3.0


def test_a_backend_without_an_address_is_unresolved() -> None:
    pool = model.Pool(name="api", backends=(model.Backend(name="a", host="gone", port=80),))
    ((status,),) = [pool_.backends for pool_ in statuses_of(config_of(pool), [], Aggregate())]
    assert (status.state, status.addresses, status.in_flight) == ("unresolved", (), 0)


def test_pools_and_backends_come_in_the_order_of_the_file_and_apart() -> None:
    same = (model.Backend(name="b", path="/run/b"), model.Backend(name="a", host="::1", port=1))
    pools = [model.Pool(name=name, backends=same) for name in ("z", "api", "m")]
    found = statuses_of(config_of(*pools), [resolved("a", "::1", 0)], Aggregate())
    assert [pool.name for pool in found] == ["z", "api", "m"]
    assert [backend.address for backend in found[0].backends] == ["unix:/run/b", "[::1]:1"]
    assert [[backend.in_flight for backend in pool.backends] for pool in found] == [[0, 0], [0, 1], [0, 0]]


def test_the_json_is_read_back_as_it_was() -> None:
    status = PoolStatus(name="p", strategy="random", backends=(BackendStatus(name="a", address="x:1"),))
    assert msgspec.json.decode(msgspec.json.encode(status), type=PoolStatus) == status


API = model.Pool(name="api", backends=(model.Backend(name="a", host="app", port=80, weight=2),))


def status_of(conditions: list[Condition], live: LiveChanges | None = None, name: str = "a") -> BackendStatus:
    """The status of a backend whose name has as many addresses as there are conditions."""
    config = config_of(API) if live is None else live.apply(config_of(API))
    found = asyncio.run(
        pool_statuses(
            config,
            [resolved(name, f"192.0.2.{slot}", slot) for slot in range(len(conditions))],
            Aggregate(),
            lambda slot: 0,
            conditions=lambda pool, name: dict(enumerate(conditions)),
            operator=live,
        )
    )
    return next(backend for backend in found[0].backends if backend.name == name)


def test_a_backend_is_told_with_its_state_and_what_it_rests_on() -> None:
    condition = Condition(state="unhealthy", since=1_700_000_000.25, evidence="GET / answered 500", share=0.5)
    status = status_of([condition])
    assert (status.state, status.evidence, status.share) == ("unhealthy", "GET / answered 500", 0.5)
    assert status.since == "2023-11-14T22:13:20.250Z"


@pytest.mark.parametrize(
    ("states", "told", "evidence"),
    [
        (("up", "up"), "up", ""),
        (("up", "ejected"), "partly", "192.0.2.1:80 ejected: why 1"),
        (("ejected", "ejected"), "ejected", "192.0.2.0:80 ejected: why 0; 192.0.2.1:80 ejected: why 1"),
        (("unhealthy", "ejected"), "mixed", "192.0.2.0:80 unhealthy: why 0; 192.0.2.1:80 ejected: why 1"),
    ],
)
def test_a_name_with_several_addresses_is_up_only_where_each_is(
    states: tuple[str, ...], told: str, evidence: str
) -> None:
    conditions = [
        Condition(state=state, evidence=f"why {index}", since=index * 60.0, share=1 - index / 2)
        for index, state in enumerate(states)
    ]
    status = status_of(conditions)
    assert (status.state, status.evidence, status.share) == (told, evidence, 0.75)
    assert status.since == "1970-01-01T00:01:00.000Z"


def test_the_live_weight_stands_beside_the_files() -> None:
    live = LiveChanges().with_change(config_of(API), "api", "a", weight=9, drained=None)
    status = status_of([Condition()], live)
    assert (status.weight, status.file_weight, status.source, status.drained) == (9, 2, "file", False)
    assert status_of([], live).weight == 9


@pytest.mark.parametrize(
    ("state", "told"),
    [("up", "draining"), ("unhealthy", "unhealthy"), ("drained", "drained"), ("draining", "draining")],
)
def test_a_drain_shows_unless_something_worse_does(state: str, told: str) -> None:
    live = LiveChanges().with_change(config_of(API), "api", "a", weight=None, drained=True)
    status = status_of([Condition(state=state)], live)
    assert (status.state, status.drained) == (told, True)


def test_an_added_backend_has_no_weight_in_the_file() -> None:
    added = model.Backend(name="c", host="192.0.2.9", port=80, weight=4, backup=True)
    live = LiveChanges().with_backend(config_of(API), "api", added)
    status = status_of([], live, name="c")
    assert (status.source, status.weight, status.file_weight, status.backup) == ("api", 4, None, True)
