"""What is told of pools and backends: the structures of /api/v1/pools and how they are read from the aggregate."""

import asyncio
from collections.abc import Callable, Iterable
from itertools import accumulate

import msgspec

from balancer.config import model
from balancer.telemetry import metrics
from balancer.telemetry.aggregate import Aggregate
from balancer.telemetry.exposition import CODES
from balancer.telemetry.metrics import BOUNDS

_BACKENDS_PER_TURN = 200  # 5 ms


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds. Percentiles are estimates: exact to the histogram's bucket. None = nothing was measured."""

    average_ms: float | None = None
    p50_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None


class Connections(msgspec.Struct, frozen=True, kw_only=True):
    """Upstream connections: now, and opened since the start."""

    active: int = 0
    idle: int = 0
    opened: int = 0
    failed: int = 0  # timeouts among them


class BackendStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One backend. `address` is as the file has it, `addresses` what it means now; `weight` is the live one."""

    name: str
    address: str
    addresses: tuple[str, ...] = ()
    state: str = "active"
    source: str = "file"
    weight: int = 1
    file_weight: int = 1
    max_connections: int | None = None
    in_flight: int = 0
    requests: dict[str, int] = {}
    latency: Latency = Latency()
    connections: Connections = Connections()


class PoolStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One pool."""

    name: str
    strategy: str
    backends: tuple[BackendStatus, ...] = ()


async def pool_statuses(
    config: model.Config,
    resolved: Iterable[model.ResolvedBackend],
    aggregate: Aggregate,
    in_flight: Callable[[int], int],
) -> list[PoolStatus]:
    """The status of every pool, in the order of the file, with a turn for the loop after every 200 backends.

    `resolved` holds the addresses of all backends, `in_flight(slot)` says what is under way at one. A backend
    whose name means several addresses is one entry. O(backends): 25 us each.
    """
    by_name: dict[tuple[str, str], list[model.ResolvedBackend]] = {}
    for one in resolved:
        by_name.setdefault((one.pool, one.name), []).append(one)
    statuses = []
    for pool in config.pools:
        backends = []
        for index, backend in enumerate(pool.backends, start=1):
            addresses = by_name.get((pool.name, backend.name), [])
            backends.append(_backend_status(pool.name, backend, addresses, aggregate, in_flight))
            if index % _BACKENDS_PER_TURN == 0:
                await asyncio.sleep(0)
        statuses.append(PoolStatus(name=pool.name, strategy=pool.strategy, backends=tuple(backends)))
        await asyncio.sleep(0)
    return statuses


def _backend_status(
    pool: str,
    backend: model.Backend,
    resolved: list[model.ResolvedBackend],
    aggregate: Aggregate,
    in_flight: Callable[[int], int],
) -> BackendStatus:
    labels = (pool, backend.name)
    codes = aggregate.values(metrics.BACKEND_REQUESTS, labels)

    def connects(result: str) -> int:
        return int(aggregate.values(metrics.UPSTREAM_CONNECTS, (*labels, result))[0])

    def connections(state: str) -> int:
        return int(aggregate.values(metrics.UPSTREAM_CONNECTIONS, (*labels, state))[0])

    return BackendStatus(
        name=backend.name,
        address=_address_text(backend.host, backend.port, backend.path),
        addresses=tuple(_address_text(*one.address) for one in resolved),
        state="active" if resolved else "unresolved",
        weight=resolved[0].weight if resolved else backend.weight,
        file_weight=backend.weight,
        max_connections=backend.max_connections,
        in_flight=sum(in_flight(one.slot) for one in resolved),
        requests={code: int(count) for code, count in zip(CODES, codes, strict=True)},
        latency=latency_of(aggregate.values(metrics.BACKEND_DURATION, labels)),
        connections=Connections(
            active=connections("active"),
            idle=connections("idle"),
            opened=connects("ok"),
            failed=connects("failed") + connects("timeout"),
        ),
    )


def latency_of(cells: list[float]) -> Latency:
    """Average and percentiles of a histogram's cells (`telemetry.registry`)."""
    counts = list(accumulate(cells[:-1]))
    if counts[-1] <= 0:
        return Latency()
    return Latency(
        average_ms=round(cells[-1] / counts[-1] * 1000, 3),
        p50_ms=_percentile(counts, 0.5),
        p90_ms=_percentile(counts, 0.9),
        p99_ms=_percentile(counts, 0.99),
    )


def _percentile(counts: list[float], share: float) -> float:
    """Milliseconds below which `share` lies; linear inside a bucket, the last bound for what lies above it.

    The estimate that Prometheus' histogram_quantile makes of the same buckets.
    """
    rank = share * counts[-1]
    index = next(index for index, count in enumerate(counts) if count >= rank)
    if index == len(BOUNDS):
        return BOUNDS[-1] * 1000
    low = BOUNDS[index - 1] if index else 0.0
    before = counts[index - 1] if index else 0.0
    inside = (rank - before) / (counts[index] - before)
    return round((low + (BOUNDS[index] - low) * inside) * 1000, 3)


def _address_text(host: str, port: int, path: str) -> str:
    if path:
        return f"unix:{path}"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
