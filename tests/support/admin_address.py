"""A real admin address without a daemon behind it: the HTTP server and the API over a supervisor of the tests' own."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from balancer.admin.api import AdminApi
from balancer.admin.changes import LiveWeight, NewBackend, ReloadResult
from balancer.admin.status import PoolStatus, pool_statuses
from balancer.config import model
from balancer.daemon.live_changes import LiveChanges
from balancer.telemetry.aggregate import Aggregate
from balancer.transport.http_server import HttpServer


def backend(name: str, *, weight: int = 1, host: str = "127.0.0.1", port: int = 9001) -> model.Backend:
    """A backend of the file."""
    return model.Backend(name=name, host=host, port=port, weight=weight)


def file_of(*pools: model.Pool) -> model.Config:
    """A file's configuration of these pools alone."""
    return model.Config(listeners=(), routes=(), pools=pools)


TWO_POOLS = file_of(
    model.Pool(name="api", strategy="weighted", backends=(backend("a", weight=3), backend("b", port=9002))),
    model.Pool(name="odd/[pool]", backends=(backend("127.0.0.1:9001"),)),
)


class Supervisor:
    """What the real one does with changes, but for the workers: `live` holds them. `reloads` keeps what was asked.

    What is asked for everywhere is kept in `everywhere` and answered with `notes`, or with `fault`.
    """

    def __init__(self, file: model.Config = TWO_POOLS) -> None:
        self.file = file
        self.live = LiveChanges()
        self.result = ReloadResult(True, 2, ["pool api: +1 backend"])
        self.reloads: list[tuple[bool, bool]] = []
        self.everywhere: list[tuple[str, str, LiveWeight | None, bool | None]] = []
        self.notes: list[str] = []
        self.fault: Exception | None = None

    def readiness(self) -> str | None:
        return None

    async def aggregate(self) -> Aggregate:
        return Aggregate()

    async def pools(self) -> list[PoolStatus]:
        config = self.live.apply(self.file)
        named = [(pool.name, entry) for pool in config.pools for entry in pool.backends]
        resolved = [
            model.ResolvedBackend(
                pool=pool, name=entry.name, host=entry.host, address=(entry.host, entry.port, entry.path), slot=slot
            )
            for slot, (pool, entry) in enumerate(named)
        ]
        return await pool_statuses(
            config,
            resolved,
            Aggregate(),
            lambda slot: slot,
            operator=self.live,
        )

    def generation(self) -> int:
        return 1

    async def change(
        self, pool: str, name: str, *, weight: LiveWeight | None, drained: bool | None, everywhere: bool = False
    ) -> list[str]:
        if self.fault is not None:
            raise self.fault
        if everywhere:
            self.everywhere.append((pool, name, weight, drained))
            return self.notes
        self.live = self.live.with_change(self.file, pool, name, weight=weight, drained=drained)
        return []

    async def add(self, pool: str, spec: NewBackend) -> None:
        self.live = self.live.with_backend(self.file, pool, spec.entry())

    async def delete(self, pool: str, name: str) -> None:
        self.live = self.live.without_backend(self.file, pool, name)

    async def reload(self, *, dry_run: bool, discard_live: bool) -> ReloadResult:
        self.reloads.append((dry_run, discard_live))
        return self.result

    async def differs(self) -> list[str]:
        return list(self.live.words())


@contextmanager
def served(api: AdminApi) -> Iterator[str]:
    """Serves the API on a free port from a thread; gives its URL."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        server = HttpServer(api)
        await server.start(sock)
        await stop.wait()
        await server.close()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()
