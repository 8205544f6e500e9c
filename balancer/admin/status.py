"""What is told of pools and backends: the structures of /api/v1/pools and how they are read from the aggregate."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate
from typing import Literal, Protocol

import msgspec

from balancer.config import model
from balancer.telemetry import metrics
from balancer.telemetry.aggregate import Aggregate
from balancer.telemetry.exposition import CODES
from balancer.telemetry.metrics import BOUNDS

UP = "up"
DRAINING = "draining"
UNRESOLVED = "unresolved"  # its host name has no address
PARTLY = "partly"  # some of its addresses are in use, some not
MIXED = "mixed"  # no address is in use, for different reasons

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
    """One backend. `address` is as the file has it, `addresses` what it means now.

    `state` is one word (`up` = in use), `since` when it began (RFC 3339, UTC), `evidence` what it rests on.
    `weight` is the live one, `file_weight` the file's (None where it has no such backend), `share` in (0, 1] what
    slow start and latency leave of the weight. `drained`: by an operator, whatever else its state is. `weight_by` and
    `drained_by` tell where that was set while the daemon ran: at this `balancer` alone, or in the `cluster`.
    """

    name: str
    address: str
    addresses: tuple[str, ...] = ()
    state: str = UP
    since: str | None = None
    evidence: str = ""
    source: str = "file"  # file | api | cluster
    weight: int = 1
    weight_by: str | None = None  # balancer | cluster
    file_weight: int | None = 1
    share: float = 1.0
    drained: bool = False
    drained_by: tuple[str, ...] = ()
    backup: bool = False
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


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """How one address of a backend fares by the supervisor's judgement. `since` is Unix time in seconds."""

    state: str = UP
    share: float = 1.0
    since: float | None = None
    evidence: str = ""


class OperatorValues(Protocol):
    """What operators set while the daemon ran."""

    def weight(self, pool: str, name: str) -> int | None:
        """The live weight; None = the file's."""

    def drained(self, pool: str, name: str) -> bool:
        """An operator drains it."""

    def weight_by(self, pool: str, name: str) -> Literal["balancer", "cluster"] | None:
        """Where the live weight was set; None = there is none."""

    def drained_by(self, pool: str, name: str) -> tuple[Literal["balancer", "cluster"], ...]:
        """Where a drain was begun that goes on."""

    def source(self, pool: str, name: str) -> Literal["file", "api", "cluster"]:
        """Who brought it in; cluster: it registered itself there."""


class NoOperator:
    """`OperatorValues` where nothing was set."""

    def weight(self, pool: str, name: str) -> None:
        """The file's."""

    def drained(self, pool: str, name: str) -> bool:
        """Never."""
        return False

    def weight_by(self, pool: str, name: str) -> None:
        """Nowhere."""

    def drained_by(self, pool: str, name: str) -> tuple[()]:
        """Nowhere."""
        return ()

    def source(self, pool: str, name: str) -> Literal["file", "api"]:
        """The file."""
        return "file"


Conditions = Callable[[str, str], Mapping[int, Condition]]
"""How a backend (pool, name) fares, by the slots of its addresses. A slot that is missing is up."""


def _all_up(pool: str, name: str) -> Mapping[int, Condition]:
    return {}


@dataclass(frozen=True, slots=True)
class _Facts:
    """Where one status comes from."""

    aggregate: Aggregate
    in_flight: Callable[[int], int]
    conditions: Conditions
    operator: OperatorValues


async def pool_statuses(
    config: model.Config,
    resolved: Iterable[model.ResolvedBackend],
    aggregate: Aggregate,
    in_flight: Callable[[int], int],
    *,
    conditions: Conditions = _all_up,
    operator: OperatorValues | None = None,
) -> list[PoolStatus]:
    """The status of every pool, in the order of the file, with a turn for the loop after every 200 backends.

    `config` has the backends that the API added, too. `resolved` holds the addresses of all backends, `in_flight(slot)`
    says what is under way at one. A backend whose name means several addresses is one entry. O(backends): 25 us each.
    """
    facts = _Facts(aggregate, in_flight, conditions, operator or NoOperator())
    by_name: dict[tuple[str, str], list[model.ResolvedBackend]] = {}
    for one in resolved:
        by_name.setdefault((one.pool, one.name), []).append(one)
    statuses = []
    for pool in config.pools:
        backends = []
        for index, backend in enumerate(pool.backends, start=1):
            addresses = by_name.get((pool.name, backend.name), [])
            backends.append(_backend_status(pool.name, backend, addresses, facts))
            if index % _BACKENDS_PER_TURN == 0:
                await asyncio.sleep(0)
        statuses.append(PoolStatus(name=pool.name, strategy=pool.strategy, backends=tuple(backends)))
        await asyncio.sleep(0)
    return statuses


def _backend_status(
    pool: str,
    backend: model.Backend,
    resolved: list[model.ResolvedBackend],
    facts: _Facts,
) -> BackendStatus:
    labels = (pool, backend.name)
    aggregate, operator = facts.aggregate, facts.operator
    codes = aggregate.values(metrics.BACKEND_REQUESTS, labels)

    def connects(result: str) -> int:
        return int(aggregate.values(metrics.UPSTREAM_CONNECTS, (*labels, result))[0])

    def connections(state: str) -> int:
        return int(aggregate.values(metrics.UPSTREAM_CONNECTIONS, (*labels, state))[0])

    conditions = facts.conditions(*labels)
    together = _together([(address_text(*one.address), conditions.get(one.slot, Condition())) for one in resolved])
    live, drained, source = operator.weight(*labels), operator.drained(*labels), operator.source(*labels)
    return BackendStatus(
        name=backend.name,
        address=address_text(backend.host, backend.port, backend.path),
        addresses=tuple(address_text(*one.address) for one in resolved),
        state=DRAINING if drained and together.state in (UP, PARTLY, MIXED) else together.state,
        since=None if together.since is None else _time_text(together.since),
        evidence=together.evidence,
        source=source,
        weight=backend.weight if live is None else live,
        weight_by=operator.weight_by(*labels),
        file_weight=backend.weight if source == "file" else None,
        share=together.share,
        drained=drained,
        drained_by=operator.drained_by(*labels),
        backup=backend.backup,
        max_connections=backend.max_connections,
        in_flight=sum(facts.in_flight(one.slot) for one in resolved),
        requests={code: int(count) for code, count in zip(CODES, codes, strict=True)},
        latency=latency_of(aggregate.values(metrics.BACKEND_DURATION, labels)),
        connections=Connections(
            active=connections("active"),
            idle=connections("idle"),
            opened=connects("ok"),
            failed=connects("failed") + connects("timeout"),
        ),
    )


def _together(conditions: list[tuple[str, Condition]]) -> Condition:
    """How a backend fares as a whole: in use only where every address is; `since` is the last change."""
    if not conditions:
        return Condition(state=UNRESOLVED)
    if len(conditions) == 1:
        return conditions[0][1]
    states = {condition.state for _, condition in conditions}
    times = [condition.since for _, condition in conditions if condition.since is not None]
    told = [
        f"{address} {condition.state}" + (f": {condition.evidence}" if condition.evidence else "")
        for address, condition in conditions
        if condition.state != UP
    ]
    return Condition(
        state=states.pop() if len(states) == 1 else PARTLY if UP in states else MIXED,
        share=round(sum(condition.share for _, condition in conditions) / len(conditions), 3),
        since=max(times, default=None),
        evidence="; ".join(told),
    )


def _time_text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


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


def address_text(host: str, port: int, path: str) -> str:
    """An address as the file writes it."""
    if path:
        return f"unix:{path}"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
