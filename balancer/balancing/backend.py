"""A backend's live state and the table of loads that all workers share."""

from collections.abc import MutableSequence, Sequence
from typing import Any, NamedTuple


class Address(NamedTuple):
    """Where a backend is reached: an IP and port, or the path of a Unix socket (then host is "" and port 0)."""

    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class LoadTable:
    """Exchanges and tunnels in flight: one row per worker, one column per backend slot, one writer per cell.

    `own` is this worker's row; `others` are read only. Rows are int64 views of shared memory in the daemon
    and plain lists in tests.
    """

    __slots__ = ("others", "own")

    def __init__(self, own: MutableSequence[int], others: Sequence[Sequence[int]] = ()) -> None:
        self.own = own
        self.others = others

    def total(self, slot: int) -> int:
        """In flight at the backend of `slot` from this machine. O(workers)."""
        count = self.own[slot]
        for row in self.others:
            count += row[slot]
        return count


class BackendState:
    """One server of a pool; its identity (pool, name, address) survives a reload.

    `slot` is its column in the LoadTable. `connections` belongs to the proxy (its idle connections) and
    `counters` to telemetry: this layer carries them and never looks inside.
    """

    __slots__ = (
        "address",
        "connections",
        "counters",
        "doubtful",
        "eligible",
        "host",
        "host_field",
        "log_name",
        "max_connections",
        "name",
        "pool",
        "share",
        "silent",
        "slot",
        "weight",
    )

    def __init__(
        self,
        *,
        pool: str,
        name: str,
        address: Address,
        slot: int,
        weight: int = 1,
        max_connections: int | None = None,
        host: str = "",
    ) -> None:
        self.pool = pool
        self.name = name
        self.address = address
        self.slot = slot
        self.weight = weight
        self.max_connections = max_connections
        self.eligible = True  # as the supervisor decided last (resilience.standing)
        self.doubtful = False  # eligible only because too few are usable
        self.silent = False  # to be passed over: as this worker found (resilience.silence)
        self.share = 1.0  # of its weight and its limit: what slow start leaves
        self.host = host  # as written in the file, for TLS server_name
        self.host_field = b"localhost"  # the Host field's value where a pool sends the backend's own
        self.log_name = name.encode("utf-8")
        self.connections: Any = None
        self.counters: Any = None

    def __repr__(self) -> str:
        return f"<BackendState {self.pool}/{self.name} {self.address} slot={self.slot} weight={self.weight}>"
