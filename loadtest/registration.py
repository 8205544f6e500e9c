"""How soon a backend that registers gets requests: the gate is 100 ms at the 95th percentile.

    python -m loadtest.registration [--registrations N] [--etcd]

Three balancers with a member each (or with one etcd 3.4 in place of them) have a pool of one backend. Again and again a
program writes a key with a lease, at one of the members in turn, and the time is taken from before the write is sent to
the first answer of that program's own backend through each of the balancers: with the write itself, until it is on the
disks of a majority. Then the key is deleted, and the next one waits until the backend is gone everywhere.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, cast

import uvloop

from balancer.consensus.client import Coordination
from tests.support.coordination_etcd import Etcd
from tests.support.three_balancers import Three

GATE_MS = 100.0
PREFIX = "/services/api/"
PATIENCE = 60.0
PAUSE = 0.001  # seconds between a client's requests
GONE_AFTER = 6  # answers in a row of the other backend: turns are strict
_REQUEST = b"GET / HTTP/1.1\r\nHost: registration.test\r\n\r\n"


class Backend(asyncio.Protocol):
    """Answers one word."""

    def __init__(self, word: bytes) -> None:
        self._answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(word), word)
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A balancer connects."""
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's is no asyncio.WriteTransport

    def data_received(self, data: bytes) -> None:
        """Requests without a body; one at a time comes on a connection."""
        if self._transport is not None and data.endswith(b"\r\n\r\n"):
            self._transport.write(self._answer)


async def backend(word: bytes) -> tuple[asyncio.Server, int]:
    """One that listens, and its port."""
    server = await asyncio.get_running_loop().create_server(lambda: Backend(word), "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


class Client:
    """Asks one balancer again and again, on one connection. `failed`: answers other than 200."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self.failed = 0

    async def start(self) -> None:
        """Connect."""
        self._reader, self._writer = await asyncio.open_connection(*self._address)

    async def ask(self) -> bytes:
        """The body of an answer."""
        self._writer.write(_REQUEST)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        body = await self._reader.readexactly(int(length.partition(b":")[2]))
        if not head.startswith(b"HTTP/1.1 200 "):
            self.failed += 1
        if b"\r\nconnection: close\r\n" in head.lower():
            self._writer.close()
            await self.start()
        return body

    async def until_ready(self) -> None:
        """Connect, and wait until the first backend serves."""
        await self.start()
        while await self.ask() != b"old":
            await asyncio.sleep(PAUSE)
        self.failed = 0

    async def until_new(self) -> float:
        """When the newcomer answered first."""
        while await self.ask() != b"new":
            await asyncio.sleep(PAUSE)
        return time.perf_counter()

    async def until_gone(self) -> None:
        """It answers no more."""
        others = 0
        while others < GONE_AFTER:
            others = 0 if await self.ask() == b"new" else others + 1
            await asyncio.sleep(PAUSE)

    def close(self) -> None:
        """Hang up."""
        self._writer.close()


async def _all(clients: Sequence[Client], what: Callable[[Client], Awaitable[Any]]) -> list[Any]:
    async with asyncio.timeout(PATIENCE):
        return await asyncio.gather(*(what(client) for client in clients))


async def _measure(three: Three, ports: tuple[int, int], count: int) -> tuple[dict[str, list[float]], int]:
    """Milliseconds of every registration at each balancer, and how many requests failed."""
    took: dict[str, list[float]] = {name: [] for name in three.daemons}
    clients = [Client(daemon.address("web")) for daemon in three.daemons.values()]
    urls = [f"http://127.0.0.1:{port}" for port in dict.fromkeys(three.clients.values())]
    writers = [Coordination([url]) for url in urls]
    try:
        async with writers[0].lease(30) as lease:
            await writers[0].put(f"{PREFIX}old", f"127.0.0.1:{ports[0]}")
            await _all(clients, Client.until_ready)
            for number in range(count):
                writer = writers[number % len(writers)]
                looking = asyncio.ensure_future(_all(clients, Client.until_new))
                began = time.perf_counter()
                await writer.put(f"{PREFIX}new-{number}", f"127.0.0.1:{ports[1]}", lease=lease)
                for times, when in zip(took.values(), await looking, strict=True):
                    times.append((when - began) * 1000)
                await writer.delete(f"{PREFIX}new-{number}")
                await _all(clients, Client.until_gone)
    finally:
        for client in clients:
            client.close()
        for one in writers:
            await one.close()
    return took, sum(client.failed for client in clients)


async def _run(three: Three, count: int) -> tuple[dict[str, list[float]], int]:
    servers = [await backend(word) for word in (b"old", b"new")]
    try:
        return await _measure(three, (servers[0][1], servers[1][1]), count)
    finally:
        for server, _ in servers:
            server.close()


def _pool(_name: str) -> dict[str, Any]:
    return {
        "routes": [{"name": "all", "pool": "api"}],
        "pools": {"api": {"slow_start": "off", "backends_from": {"prefix": PREFIX}}},
    }


def _told(name: str, took: Sequence[float]) -> float:
    """Print a line; the 95th percentile."""
    ordered = sorted(took)
    p95 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]
    print(f"{name}: p50 {median(ordered):.1f} ms, p95 {p95:.1f} ms, max {ordered[-1]:.1f} ms")
    return p95


def main() -> int:
    """Measure, print, and judge: 1 when the gate is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--registrations", type=int, default=100)
    parser.add_argument("--etcd", action="store_true", help="one etcd 3.4 in place of the balancers' own members")
    chosen = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        urls: list[str] = []
        if chosen.etcd:
            (folder / "etcd").mkdir()
            urls = stack.enter_context(Etcd(folder / "etcd")).urls
        three = stack.enter_context(Three(folder, extra=_pool, etcd=urls))
        if not three.serving():
            raise SystemExit(f"the coordination takes no writes:\n{three.said()}")
        runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        took, failed = runner.run(_run(three, chosen.registrations))
    worst = max([_told(name, times) for name, times in took.items()])
    print(f"{chosen.registrations} registrations at {len(took)} balancers; failed requests: {failed}")
    met = worst < GATE_MS and not failed
    print(f"gate: p95 below {GATE_MS:g} ms at each, nothing failed: {'met' if met else 'UNMET'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
