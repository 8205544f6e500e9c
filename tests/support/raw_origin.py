"""A raw TCP origin for tests: records every byte that it gets and plays scripted bytes back.

A script is a list of replies, used in the order in which requests arrive, on whatever connection. Replies may wait
for events (the client has seen this, the origin has got that), never for time.
"""

import asyncio
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from tests.support.raw_client import Pulse, Wire
from tests.support.raw_messages import Message, read_request

PATIENCE = 3.0
"""Seconds that a gate in a script waits for its event."""

PROBE_TARGET = b"/probe"
PROBE_REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nprobe"
UNSCRIPTED = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nunscripted"


@dataclass(frozen=True, slots=True)
class ClientSaw:
    """A gate: go on when the client has received these bytes."""

    data: bytes


@dataclass(frozen=True, slots=True)
class OriginSaw:
    """A gate: go on when this connection has received these bytes."""

    data: bytes


@dataclass(frozen=True, slots=True)
class RequestComplete:
    """A gate: go on when the request is complete."""


Part = bytes | ClientSaw | OriginSaw | RequestComplete


@dataclass(frozen=True, slots=True)
class Reply:
    """What is played for one request: from its complete head, or when all of it is there.

    `then`: keep the connection, end it with FIN or RST, leave it as a tunnel of `raw` bytes, or `hold` it without
    a word until the proxy ends it.
    """

    parts: tuple[Part, ...]
    when: Literal["complete", "head"] = "complete"
    then: Literal["keep", "fin", "rst", "raw", "hold"] = "keep"

    @property
    def data(self) -> bytes:
        """All bytes of the reply."""
        return b"".join(part for part in self.parts if isinstance(part, bytes))


class OriginConnection:
    """One accepted connection: its bytes are in `wire.received`."""

    def __init__(self, origin: "RawOrigin", wire: Wire) -> None:
        self.origin = origin
        self.wire = wire
        self.parsed = 0  # offset up to which requests were taken
        self.finished = False  # we ended our direction
        self.ended_by_peer = False  # and the peer ended before we did anything of the kind

    def at(self, start: int) -> Message | None:
        """The request at `start`, as far as it has come."""
        return read_request(bytes(self.wire.received), start)

    def _head_or_end(self) -> bool:
        return bool(self.wire.ended) or self.at(self.parsed) is not None

    async def serve(self) -> None:
        """Answer request after request until the connection or the script ends it."""
        pulse, wire = self.origin.pulse, self.wire
        while True:
            start = self.parsed
            await pulse.until(self._head_or_end, 3600)
            request = self.at(start)
            if request is None:
                return
            self.origin.arrivals.append((self, start))
            pulse.beat()
            if request.broken:
                await wire.send(UNSCRIPTED)
                self._finish()
                return
            reply = self.origin.next_reply(request)
            if not await self._play(reply, start):
                return
            request = self.at(start)
            assert request is not None
            self.parsed = request.end

    async def _play(self, reply: Reply, start: int) -> bool:
        """Play one reply; whether another request may follow."""
        if reply.when == "complete" and not await self._whole(start):
            return False
        sent = 0
        cuts = sorted(self.origin.cuts(reply.data)) if reply.data != PROBE_REPLY else []
        for part in reply.parts:
            if isinstance(part, bytes):
                mine = [cut - sent for cut in cuts if sent < cut < sent + len(part)]
                await self.wire.send(part, mine)
                sent += len(part)
                if sent in cuts:
                    await self.wire.consumed()
            else:
                await self._gate(part, start)
        if reply.then == "fin":
            self._finish()
        elif reply.then == "rst":
            await self.wire.consumed()
            self.finished = True
            self.wire.reset()
        return reply.then == "keep" and await self._whole(start)

    async def _whole(self, start: int) -> bool:
        def holds() -> bool:
            request = self.at(start)
            return bool(self.wire.ended) or (request is not None and (request.complete or bool(request.broken)))

        await self.origin.pulse.until(holds, 3600)
        request = self.at(start)
        return request is not None and request.complete

    async def _gate(self, gate: Part, start: int) -> None:
        if isinstance(gate, RequestComplete):
            await self._whole(start)
            return
        data = gate.data if isinstance(gate, ClientSaw | OriginSaw) else b""
        stream = self.origin.client if isinstance(gate, ClientSaw) else self.wire
        if stream is not None:
            await self.origin.pulse.until(lambda: data in stream.received or bool(self.wire.ended), PATIENCE)

    def _finish(self) -> None:
        self.finished = True
        self.ended_by_peer = bool(self.wire.ended)
        self.wire.finish()

    @property
    def peer_left(self) -> bool:
        """The proxy ended this connection, before us or after."""
        return bool(self.wire.ended)


class RawOrigin:
    """Listens on a free port of 127.0.0.1. `begin` starts a case, `settle` ends it with every connection closed."""

    def __init__(self) -> None:
        self.pulse = Pulse()
        self.connections: list[OriginConnection] = []
        self.arrivals: list[tuple[OriginConnection, int]] = []
        self.client: Wire | None = None
        self.cuts: Callable[[bytes], Iterable[int]] = lambda _: ()
        self._replies: list[Reply] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]

    def start(self) -> None:
        """Accept from now on, in the running loop."""
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            connection = OriginConnection(self, Wire(sock, self.pulse))
            self.connections.append(connection)
            task = asyncio.get_running_loop().create_task(self._run(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, connection: OriginConnection) -> None:
        await connection.wire.start()
        await connection.serve()

    def next_reply(self, request: Message) -> Reply:
        """The reply that is due: probes are always answered, then the script, then a plain 200."""
        if request.target == PROBE_TARGET:
            return Reply((PROBE_REPLY,))
        if self._replies:
            return self._replies.pop(0)
        return Reply((UNSCRIPTED,))

    def begin(self, replies: Iterable[Reply], cuts: Callable[[bytes], Iterable[int]]) -> None:
        """Forget what was, and answer by this script; `cuts` says where a reply's bytes are cut into pieces."""
        self.connections.clear()
        self.arrivals.clear()
        self._replies = list(replies)
        self.cuts = cuts
        self.client = None

    async def settle(self) -> None:
        """End every connection and wait until the proxy has seen it, so that none is used in the next case."""
        for connection in self.connections:
            connection.wire.finish()
        await self.pulse.until(lambda: all(c.wire.ended for c in self.connections), 1.0)
        for connection in self.connections:
            connection.wire.reset()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def stop(self) -> None:
        """Close everything."""
        await self.settle()
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
