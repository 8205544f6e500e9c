"""HTTP/1.1 to one server, for the client: connections that are used again, and streams without end.

Law: an exchange that failed says whether any byte of its request may have reached the server (`sent`); whoever asks
decides by that whether asking again is safe. A connection whose exchange was cut short, by whatever, is never used
again.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import httptools

from balancer.transport.http_client import (
    BODY_MAX,
    HEAD_MAX,
    HttpClientError,
    Response,
    address_of,
    host_field,
    reason_of,
    request_head,
)

_BUFFER_MAX = 1024 * 1024  # of a stream that nobody reads: then the server waits, by TCP
_IDLE_MAX = 16
_IDLE_SECONDS = 30.0  # below every server's own patience
_CONNECT_SECONDS = 3.0
_HEADERS = (("content-type", "application/json"),)


class ExchangeError(HttpClientError):
    """No answer. `sent`: some of the request may have reached the server, which may have done what it asks."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class _Connection(asyncio.Protocol):
    """One connection; one exchange at a time."""

    def __init__(self) -> None:
        self.idle_since = 0.0
        self.status = 0
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._head_size = 0
        self._framed = False
        self._answered = True  # nothing was asked yet
        self._error = ""
        self._closed = False
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None

    # ---- asyncio and llhttp call these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own classes do not derive from it

    def data_received(self, data: bytes) -> None:
        if self._answered:
            self._fail("the server sent what nobody asked for")
            return
        if not self.status:
            self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"the answer is no HTTP: {error}")
        if not self.status and self._head_size > HEAD_MAX:
            self._fail(f"the answer's head has more than {HEAD_MAX} bytes")
        if self._size > _BUFFER_MAX and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        self.connection_lost(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        if not self._answered and self.status and not self._framed and exc is None:
            self._answered = True  # its body lasts until the end of the connection
        if not self._answered:
            ended = "inside its answer" if self.status else "without an answer"
            self._fail(f"the connection ended {ended}")
        self._wake()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._framed = self._framed or name.lower() in (b"content-length", b"transfer-encoding")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._answered:
            self._closed = True  # a second answer to one request: never ask here again
        elif status >= 200:
            self.status = status

    def on_body(self, body: bytes) -> None:
        if self._answered:
            return
        self._chunks.append(body)
        self._size += len(body)

    def on_message_complete(self) -> None:
        if self.status:  # not an interim one
            self._answered = True
            self._closed = self._closed or not self._parser.should_keep_alive()

    # ---- for whoever asks

    @property
    def usable(self) -> bool:
        """May be asked: everything of the last answer was read, and the server has not ended the connection."""
        alive = self._transport is not None and not self._transport.is_closing()
        return alive and self._answered and not self._closed and not self._error and not self._chunks

    def send(self, request: bytes) -> None:
        """Ask. Nothing is waited for: requests are small."""
        assert self._transport is not None
        self.status = self._head_size = 0
        self._framed = self._answered = False
        self._transport.write(request)

    async def head(self) -> int:
        """The status of the answer. Raises ExchangeError."""
        while not self.status and not self._error:
            await self._wait()
        if self._error:
            raise ExchangeError(self._error, sent=True)
        return self.status

    async def read(self) -> bytes:
        """The next bytes of the body, b"" at its end. Raises ExchangeError. A cancelled call has taken nothing."""
        while not self._chunks and not self._answered and not self._error:
            await self._wait()
        if not self._chunks:
            if self._error:
                raise ExchangeError(self._error, sent=True)
            return b""
        data = self._chunks.popleft()
        self._size -= len(data)
        if self._paused and self._size <= _BUFFER_MAX // 2 and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return data

    def abort(self) -> None:
        """End it at once."""
        self._closed = True
        if self._transport is not None:
            self._transport.abort()

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, why: str) -> None:
        self._error = self._error or why
        self.abort()
        self._wake()


class Lines:
    """A stream's lines."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self._lines: deque[bytes] = deque()
        self._parts: list[bytes] = []  # of the line that has not ended yet
        self._size = 0

    async def next(self) -> bytes | None:
        """The next line that is not empty, without its end; None at the end. A cancelled call has taken nothing.

        Raises ExchangeError when the stream breaks off.
        """
        while True:
            while self._lines:
                if line := self._lines.popleft().strip():
                    return line
            data = await self._connection.read()
            if not data:
                last = b"".join(self._parts).strip()
                self._parts.clear()
                return last or None
            first, *others = data.split(b"\n")
            self._parts.append(first)
            self._size += len(first)
            if self._size > BODY_MAX:
                raise ExchangeError(f"a line of the stream has more than {BODY_MAX} bytes", sent=True)
            if others:
                self._lines.append(b"".join(self._parts))
                self._lines.extend(others[:-1])
                self._parts, self._size = [others[-1]], len(others[-1])


class Server:
    """One server and the connections to it. Raises HttpClientError when `url` is no address.

    At most 16 idle connections are kept, none for longer than 30 s; there is no bound on those in use.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._host, self._port, self._socket_path = address_of(url)
        self._idle: list[_Connection] = []
        self._in_use: set[_Connection] = set()
        self._closed = False

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._idle) + len(self._in_use)

    async def exchange(self, path: str, body: bytes, *, timeout: float, method: str = "POST") -> Response:
        """One request and its whole answer within `timeout` seconds. Raises ExchangeError."""
        async with self._exchange(method, path, body, timeout) as (connection, until):
            async with _within(until, self.url, timeout):
                chunks, size = [], 0
                while data := await connection.read():
                    chunks.append(data)
                    size += len(data)
                    if size > BODY_MAX:
                        raise ExchangeError(f"the answer of {self.url} has more than {BODY_MAX} bytes", sent=True)
            return Response(connection.status, {}, b"".join(chunks))

    @asynccontextmanager
    async def stream(self, path: str, body: bytes, *, timeout: float) -> AsyncIterator[tuple[int, Lines]]:
        """One request, and its answer's status and lines as they come; `timeout` seconds for the head.

        The connection ends with the block. Raises ExchangeError.
        """
        async with self._exchange("POST", path, body, timeout) as (connection, _):
            yield connection.status, Lines(connection)

    def retire(self) -> None:
        """Begin no further exchange; those under way go on."""
        self._closed = True
        for connection in self._idle:
            connection.abort()
        self._idle.clear()

    def close(self) -> None:
        """End every connection, also those in use: their exchanges fail."""
        self._closed = True
        for connection in [*self._idle, *self._in_use]:
            connection.abort()
        self._idle.clear()

    @asynccontextmanager
    async def _exchange(
        self, method: str, path: str, body: bytes, timeout: float
    ) -> AsyncIterator[tuple[_Connection, float]]:
        """A connection on which the request was sent and the head of the answer came, and when the time is over."""
        until = asyncio.get_running_loop().time() + timeout
        request = request_head(method, path, host_field(self._host, self._port), _HEADERS, len(body), keep=True) + body
        connection = self._take() or await self._connect(min(timeout, _CONNECT_SECONDS))
        self._in_use.add(connection)
        try:
            connection.send(request)
            async with _within(until, self.url, timeout):
                await connection.head()
            yield connection, until
        finally:
            self._in_use.discard(connection)
            self._give_back(connection)

    def _take(self) -> _Connection | None:
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and now - connection.idle_since < _IDLE_SECONDS:
                return connection
            connection.abort()
        return None

    def _give_back(self, connection: _Connection) -> None:
        if not connection.usable or self._closed or len(self._idle) >= _IDLE_MAX:
            connection.abort()
            return
        connection.idle_since = asyncio.get_running_loop().time()
        self._idle.append(connection)

    async def _connect(self, timeout: float) -> _Connection:
        if self._closed:
            raise ExchangeError("this client is closed", sent=False)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                connected: tuple[Any, _Connection]
                if self._socket_path:
                    connected = await loop.create_unix_connection(_Connection, self._socket_path)
                else:
                    connected = await loop.create_connection(_Connection, self._host, self._port)
                return connected[1]
        except TimeoutError:
            raise ExchangeError(f"no connection to {self.url} within {timeout:.2g} s", sent=False) from None
        except OSError as error:
            raise ExchangeError(f"cannot talk to {self.url}: {reason_of(error)}", sent=False) from None


@asynccontextmanager
async def _within(until: float, url: str, timeout: float) -> AsyncIterator[None]:
    """Ends what is inside at `until` (the loop's time). Raises ExchangeError then; the request was sent before."""
    try:
        async with asyncio.timeout_at(until):
            yield
    except TimeoutError:
        raise ExchangeError(f"no complete answer from {url} within {timeout:.2g} s", sent=True) from None
    except ExchangeError as error:
        raise ExchangeError(f"{url}: {error}", sent=error.sent) from None
