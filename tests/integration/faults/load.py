"""The client: requests at a steady rate over kept-alive connections, each sent once and never again.

An open load: a request that is due is sent, on an idle connection or a new one, however many are still waiting. So a
proxy that stalls does not slow its own measurement down. Every request ends as one `Result`, whose kind tells a
connection that failed from a status that came.
"""

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from random import Random
from typing import cast

from tests.support.faulty_origin import RESET_PREFIX, WARM_UP, body_of

OK = "200"
_CONNECTIONS_AT_START = 64
_MOST_CONNECTIONS = 1024
_PATIENCE = 8.0  # seconds: three attempts of a second and what waiting comes with them
_POST_BODY = b"b" * 512


@dataclass(frozen=True, slots=True)
class Size:
    """How much load: exact counts, spread over the seconds."""

    gets: int
    posts: int
    seconds: float

    @property
    def requests(self) -> int:
        """All of them."""
        return self.gets + self.posts


@dataclass(frozen=True, slots=True)
class Request:
    """`number` is the id that the origins write down; `reset`: the answer is going to be broken off."""

    number: int
    method: str
    reset: bool = False

    def wire(self) -> bytes:
        """As sent."""
        target = f"{RESET_PREFIX if self.reset else '/item/'}{self.number}"
        body = _POST_BODY if self.method == "POST" else b""
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        return f"{self.method} {target} HTTP/1.1\r\nHost: faults.example\r\n{length}\r\n".encode() + body


@dataclass(frozen=True, slots=True)
class Result:
    """How a request ended. Times are those of time.monotonic(); `port` is the client's, 0 without a connection.

    `kind`: a status ("200"), `refused` (no connection), `reset` and `unanswered` (RST or FIN before the first byte of
    an answer), `truncated` (either inside one), `late` (nothing whole in time), `wrong` (not the answer that is due).
    """

    request: Request
    sent: float
    ended: float
    kind: str
    port: int

    @property
    def failed(self) -> bool:
        """Anything but the right answer, whole."""
        return self.kind != OK

    @property
    def seconds(self) -> float:
        """From the sending to the end."""
        return self.ended - self.sent


class _Connection(asyncio.Protocol):
    """One request at a time; reports how it ended."""

    def __init__(self, load: "Load") -> None:
        self.load = load
        self.port = 0
        self.buffer = bytearray()
        self.request: Request | None = None
        self.closed = False
        self.timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass of it
        self.port = int(transport.get_extra_info("sockname")[1])
        self.load.connections.add(self)
        self.load.most_connections = max(self.load.most_connections, len(self.load.connections))

    def eof_received(self) -> None:
        self.closed = True  # known before connection_lost comes: nothing is sent into a closing connection

    def send(self, request: Request, began: float) -> None:
        self.request, self.began = request, began
        if self.closed:
            self._ended("unanswered")
            return
        self.timer = asyncio.get_running_loop().call_later(_PATIENCE, self._late)
        self.transport.write(request.wire())

    def data_received(self, data: bytes) -> None:
        if self.request is None:
            self._close()  # words that nobody asked for
            return
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self.buffer[:end]).lower()
        at = head.find(b"\r\ncontent-length:")
        if at < 0:
            self._close()
            self._ended("wrong")
            return
        whole = end + 4 + int(head[at + 17 :].split(b"\r\n")[0])
        if len(self.buffer) < whole:
            return
        kind, body = head[9:12].decode("ascii"), bytes(self.buffer[end + 4 :])
        if kind == OK and body != body_of(str(self.request.number)):
            kind = "wrong"
        self.buffer.clear()
        if b"\r\nconnection: close" in head:
            self._close()
        self._ended(kind)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.load.connections.discard(self)
        if self.request is not None:
            self._ended("truncated" if self.buffer else "reset" if exc else "unanswered")
        self.load.send_waiting()

    def _late(self) -> None:
        self._close()
        self._ended("late")

    def _close(self) -> None:
        self.closed = True
        self.transport.abort()

    def _ended(self, kind: str) -> None:
        request, self.request = self.request, None
        assert request is not None
        if self.timer is not None:
            self.timer.cancel()
        self.load.ended(request, self.began, kind, self)


class Load:
    """`run` sends everything, waits for the last answer and gives the results in the order in which they ended."""

    def __init__(self, address: tuple[str, int], size: Size, *, seed: int, reset_share: float = 0.0) -> None:
        rng = Random(seed)
        methods = ["GET"] * size.gets + ["POST"] * size.posts
        rng.shuffle(methods)
        self.requests = [
            Request(number, method, rng.random() < reset_share) for number, method in enumerate(methods, start=1)
        ]
        self.size = size
        self.results: list[Result] = []
        self.connections: set[_Connection] = set()
        self.most_connections = 0
        self.began = 0.0
        self.started = asyncio.Event()
        self._address = address
        self._idle: deque[_Connection] = deque()
        self._waiting: deque[tuple[Request, float]] = deque()
        self._opening = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def warm_up(self, answers: int, seconds: float) -> None:
        """Ask on new connections until so many answers in a row are right. AssertionError when they do not come."""
        until, right = time.monotonic() + seconds, 0
        while right < answers:
            assert time.monotonic() < until, f"{self._address} does not answer"
            right = right + 1 if await self._one_warm_up() else 0

    async def _one_warm_up(self) -> bool:
        try:
            async with asyncio.timeout(_PATIENCE):
                reader, writer = await asyncio.open_connection(*self._address)
                writer.write(f"GET {WARM_UP} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
                answer = await reader.readuntil(b"\r\n\r\n")
                writer.close()
        except (OSError, asyncio.IncompleteReadError):
            await asyncio.sleep(0.02)
            return False
        return answer.startswith(b"HTTP/1.1 200 ")

    async def run(self) -> list[Result]:
        """Bounded: the load's seconds, and the patience for the last answer."""
        for _ in range(_CONNECTIONS_AT_START):
            connection = await self._connect()
            self._idle.append(connection)
        self.began = time.monotonic()
        self.started.set()
        for place, request in enumerate(self.requests):
            early = self.began + place * self.size.seconds / self.size.requests - time.monotonic()
            if early > 0:
                await asyncio.sleep(early)
            self._due(request)
        until = time.monotonic() + 3 * _PATIENCE
        while len(self.results) < len(self.requests):
            assert time.monotonic() < until, f"{len(self.requests) - len(self.results)} requests never ended"
            await asyncio.sleep(0.01)
        for connection in list(self.connections):
            connection.transport.abort()
        return self.results

    def _due(self, request: Request) -> None:
        self._waiting.append((request, time.monotonic()))
        self.send_waiting()

    def send_waiting(self) -> None:
        """Give those who wait, at most times one, a connection: the longest idle, so that all of them take part."""
        while self._waiting:
            while self._idle and self._idle[0].closed:
                self._idle.popleft()
            if self._idle:
                self._idle.popleft().send(*self._waiting.popleft())
            elif len(self.connections) + self._opening < _MOST_CONNECTIONS:
                self._opening += 1
                task = asyncio.get_running_loop().create_task(self._send_on_new(*self._waiting.popleft()))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            else:
                return

    async def _connect(self) -> _Connection:
        async with asyncio.timeout(_PATIENCE):
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: _Connection(self), *self._address
            )
        return connection

    async def _send_on_new(self, request: Request, now: float) -> None:
        try:
            connection = await self._connect()
        except (OSError, TimeoutError) as why:
            kind = "late" if isinstance(why, TimeoutError) else "refused"
            self.results.append(Result(request, now, time.monotonic(), kind, 0))
            return
        finally:
            self._opening -= 1
        connection.send(request, now)

    def ended(self, request: Request, sent: float, kind: str, connection: _Connection) -> None:
        """A connection is through with its request."""
        self.results.append(Result(request, sent, time.monotonic(), kind, connection.port))
        if not connection.closed:
            self._idle.append(connection)
        self.send_waiting()
