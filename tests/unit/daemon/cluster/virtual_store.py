"""A cluster on the virtual clock: the real client and the real gateway, with a wire between them that can fail.

store = Store()
link = store.link("n1")
link.wire.cut()
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast

from balancer.config.model import Bind, Coordination, EmbeddedCluster, Etcd
from balancer.consensus.client import Coordination as Client
from balancer.consensus.client_http import ExchangeError, Lines, Server
from balancer.consensus.gateway import Gateway
from balancer.daemon.cluster.link import ClusterLink
from balancer.transport.http_client import Response as Answer
from balancer.transport.http_server import Request
from tests.support.etcd_memory_service import MemoryService
from tests.support.virtual_loop import run_virtually

URL = "http://127.0.0.1:1"


class Wire:
    """Stands where a client has a `Server`. `requests`: how many came through."""

    def __init__(self, gateway: Gateway) -> None:
        self.url = URL
        self.connections = 0
        self.requests: list[str] = []
        self._gateway = gateway
        self._whole = asyncio.Event()
        self._whole.set()
        self._streams: set[_Stream] = set()

    def cut(self) -> None:
        """Nothing comes through any more, in silence."""
        self._whole.clear()

    def snap(self) -> None:
        """As `cut`, and every stream breaks."""
        self.cut()
        for stream in self._streams:
            stream.break_off()

    def mend(self) -> None:
        """Whole again; what was on its way arrives."""
        self._whole.set()

    def close(self) -> None:
        """As Server."""
        self.snap()

    async def exchange(self, path: str, body: bytes, *, timeout: float) -> Answer:
        """As Server."""
        try:
            async with asyncio.timeout(timeout):
                await self._whole.wait()
                self.requests.append(path)
                response = await self._gateway(_request(path, body))
                pieces = response.body
                answer = pieces if isinstance(pieces, bytes) else b"".join([piece async for piece in pieces])
                await self._whole.wait()
        except TimeoutError:
            raise ExchangeError("nobody answers", sent=True) from None
        return Answer(response.status, {}, answer)

    @asynccontextmanager
    async def stream(self, path: str, body: bytes, *, timeout: float) -> AsyncIterator[tuple[int, "_Stream"]]:
        """As Server."""
        try:
            async with asyncio.timeout(timeout):
                await self._whole.wait()
                self.requests.append(path)
                response = await self._gateway(_request(path, body))
        except TimeoutError:
            raise ExchangeError("nobody answers", sent=True) from None
        assert not isinstance(response.body, bytes)
        stream = _Stream(response.body, self._whole)
        self._streams.add(stream)
        try:
            yield response.status, stream
        finally:
            self._streams.discard(stream)
            await stream.close()


class _Stream:
    """As Lines."""

    def __init__(self, pieces: AsyncIterator[bytes], whole: asyncio.Event) -> None:
        self._pieces = pieces
        self._whole = whole
        self._lines: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._pump = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        async for piece in self._pieces:
            await self._whole.wait()
            self._lines.put_nowait(piece)

    def break_off(self) -> None:
        self._lines.put_nowait(None)

    async def next(self) -> bytes | None:
        line = await self._lines.get()
        if line is None:
            raise ExchangeError("the connection broke", sent=True)
        return line

    async def close(self) -> None:
        self._pump.cancel()
        await asyncio.wait([self._pump])
        await self._pieces.aclose()  # type: ignore[attr-defined]


class VirtualLink(ClusterLink):
    """A link whose wire can be cut."""

    wire: Wire


class Store:
    """The cluster. Made inside the running loop."""

    def __init__(self) -> None:
        self.service = MemoryService()
        self.gateway = Gateway(self.service)
        self._clients = 0

    def client(self) -> tuple[Client, Wire]:
        """A client and its wire."""
        self._clients += 1
        client = Client([URL], clock=asyncio.get_running_loop().time, rng=random.Random(self._clients))
        wire = Wire(self.gateway)
        client._endpoints.servers = [cast("Server", wire)]
        return client, wire

    def link(self, name: str, *, embedded: bool = True) -> VirtualLink:
        """A balancer's way to it."""
        bind = Bind(host="127.0.0.1", port=1)
        member = EmbeddedCluster(name=name, members={name: "127.0.0.1:1"}, client=bind, peer=bind, data_dir="/nowhere")
        settings = Coordination(embedded=member) if embedded else Coordination(etcd=Etcd(endpoints=(URL,), name=name))
        link = VirtualLink(settings, URL)
        link.client, link.wire = self.client()
        return link


def run(scenario: Callable[[Store], Awaitable[None]]) -> None:
    """Run it on a store of its own; it has an hour of virtual time."""

    async def running() -> None:
        async with asyncio.timeout(3600):
            await scenario(Store())

    run_virtually(running())


async def until(condition: Callable[[], object], seconds: float = 10.0) -> float:
    """Wait until it holds, and fail if that takes longer. When it did, as the loop's time."""
    now = asyncio.get_running_loop().time
    deadline = now() + seconds
    while not condition():
        assert now() < deadline, "it does not come about"
        await asyncio.sleep(0.005)
    return now()


def _request(path: str, body: bytes) -> Request:
    return Request("POST", path, "1.1", {"host": "127.0.0.1"}, body)


__all__ = ["Lines", "Store", "VirtualLink", "Wire", "run", "until"]
