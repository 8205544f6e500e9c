"""A small, strict HTTP/1.1 server for APIs of our own: the admin address, later the coordination API. Never traffic.

Strict: a message whose end could be read in two ways is refused with 400 and the connection closed (RFC 9112
section 6.3). Every wait has a deadline and everything that a client can make grow has a bound, below.
"""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus

import httptools
import msgspec

from balancer.clock import DateField
from balancer.errors import BalancerError

HEAD_MAX = 16 * 1024  # a request of an API client is a fraction of it
BODY_MAX = 1024 * 1024  # one configuration change or one key-value pair
CONNECTIONS_MAX = 64  # people, probes and scrapers, not traffic
HEAD_TIMEOUT = 10.0  # from the first byte of a head to its end
BODY_TIMEOUT = 30.0  # for a whole body
KEEPALIVE_TIMEOUT = 75.0  # before the first byte of the next request
SEND_TIMEOUT = 30.0  # for one piece of an answer to be taken
CLOSE_GRACE = 1.0  # for answers under way when the server is closed
LINGER = 1.0  # for a client to take the last answer before the connection is dropped

_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")
_DIGITS = re.compile(r"[0-9]{1,10}")


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `target` is as sent; header names are lower case, fields of one name joined by ", "."""

    method: str
    target: str
    version: str  # "1.0" or "1.1"
    headers: dict[str, str]
    body: bytes = b""

    @property
    def path(self) -> str:
        """The target without its query, still percent-encoded."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """What follows the first question mark, still percent-encoded."""
        return self.target.partition("?")[2]


@dataclass(frozen=True, slots=True)
class Response:
    """One answer. A body that is an iterator is sent piece by piece as it comes, chunked."""

    status: int = 200
    body: bytes | AsyncIterator[bytes] = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


class _RefusedError(BalancerError):
    """The request cannot be served; answered with `status`, and the connection ends."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


Handler = Callable[[Request], Awaitable[Response]]


def error_response(status: int, code: str, message: str, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    """An error as every API of ours tells it: {"error": {"code": ..., "message": ...}}."""
    body = msgspec.json.encode({"error": {"code": code, "message": message}}) + b"\n"
    return Response(status, body, "application/json", headers)


class HttpServer:
    """Serves `handler`. An exception of the handler is answered with 500 and goes to the loop's exception handler."""

    def __init__(
        self, handler: Handler, *, connections_max: int = CONNECTIONS_MAX, keepalive_timeout: float = KEEPALIVE_TIMEOUT
    ) -> None:
        self._handler = handler
        self._connections_max = connections_max
        self._keepalive_timeout = keepalive_timeout
        self._connections: dict[asyncio.Task[None], _Connection] = {}
        self._refused: set[asyncio.Task[None]] = set()  # being told that there is no room; as many again
        self._server: asyncio.Server | None = None
        self._date = DateField()

    async def start(self, sock: socket.socket) -> None:
        """Serve on a bound TCP or Unix socket, which is the server's from now on."""
        start = asyncio.start_unix_server if sock.family == socket.AF_UNIX else asyncio.start_server
        self._server = await start(self._connected, sock=sock, limit=HEAD_MAX)

    async def close(self, grace: float = CLOSE_GRACE) -> None:
        """Stop accepting, end idle connections, give answers under way `grace` seconds, then end all."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task, connection in list(self._connections.items()):
            if connection.idle:
                task.cancel()
            connection.closing = True
        if self._connections:
            await asyncio.wait(self._connections, timeout=grace)
        remaining = [*self._connections, *self._refused]
        for task in remaining:
            task.cancel()
        if remaining:
            await asyncio.wait(remaining)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(reader, writer, self._handler, self._date, self._keepalive_timeout)
        loop = asyncio.get_running_loop()
        if len(self._connections) < self._connections_max:
            task = loop.create_task(connection.serve())
            self._connections[task] = connection
        elif len(self._refused) < self._connections_max:
            task = loop.create_task(connection.refuse_full(self._connections_max))
            self._refused.add(task)
        else:
            connection.abort()
            return
        task.add_done_callback(partial(self._disconnected, connection))

    def _disconnected(self, connection: "_Connection", task: asyncio.Task[None]) -> None:
        self._connections.pop(task, None)
        self._refused.discard(task)
        connection.abort()
        error = None if task.cancelled() else task.exception()
        if error is not None:
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a request to one of our own servers failed", "exception": error, "task": task}
            )


class _Connection:
    """One client's connection: requests one after the other."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        handler: Handler,
        date: DateField,
        keepalive_timeout: float,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._handler = handler
        self._date = date
        self._keepalive_timeout = keepalive_timeout
        self.idle = True  # between two requests
        self.closing = False

    async def serve(self) -> None:
        """Answer requests until either side has enough."""
        try:
            while await self._serve_one():
                pass
            await self._finish()
        except (ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            return  # the client went away, or stalled while it was being answered: nobody is left to tell

    async def refuse_full(self, connections_max: int) -> None:
        """Answer 503 and end: too many connections."""
        try:
            await self._refuse(_RefusedError(503, f"more than {connections_max} connections"))
        except (ConnectionError, TimeoutError):
            return  # as in `serve`

    def abort(self) -> None:
        """Drop the connection, whatever is unsent."""
        self._writer.transport.abort()

    async def _serve_one(self) -> bool:
        """One request and its answer. False when the connection must end."""
        try:
            request = await self._read_request()
        except _RefusedError as refused:
            await self._refuse(refused)
            return False
        if request is None:
            return False
        tokens = {token.strip().lower() for token in request.headers.get("connection", "").split(",")}
        keep = "close" not in tokens if request.version == "1.1" else "keep-alive" in tokens
        try:
            response = await self._handler(request)
        except asyncio.CancelledError:
            raise  # the server is closing and has waited long enough
        except BaseException:
            await self._send(request, error_response(500, "internal", "the request could not be answered"), keep=False)
            await self._finish()
            raise
        keep = keep and not self.closing
        return await self._send(request, response, keep)

    async def _read_request(self) -> Request | None:
        self.idle = True
        try:
            async with asyncio.timeout(self._keepalive_timeout):
                first = await self._reader.read(1)
        except TimeoutError:
            return None
        if not first:
            return None
        self.idle = False
        try:
            async with asyncio.timeout(HEAD_TIMEOUT):
                head = first + await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            raise _RefusedError(431, f"a request head may have {HEAD_MAX} bytes") from None
        except TimeoutError:
            raise _RefusedError(408, f"no complete request head within {HEAD_TIMEOUT:.0f} s") from None
        request, length = _parse_head(head)
        if length != 0:
            if request.headers.get("expect", "").lower() == "100-continue":
                self._writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            try:
                async with asyncio.timeout(BODY_TIMEOUT):
                    body = await (self._read_chunks() if length is None else self._reader.readexactly(length))
            except TimeoutError:
                raise _RefusedError(408, f"no complete request body within {BODY_TIMEOUT:.0f} s") from None
            request = Request(request.method, request.target, request.version, request.headers, body)
        return request

    async def _read_chunks(self) -> bytes:
        """RFC 9112 section 7.1, without extensions; trailers are read and left out."""
        chunks: list[bytes] = []
        total = 0
        while True:
            match = _CHUNK_SIZE.fullmatch(await self._read_line())
            if match is None:
                raise _RefusedError(400, "bad chunk size")
            size = int(match[1], 16)
            if size == 0:
                break
            total += size
            if total > BODY_MAX:
                raise _RefusedError(413, f"a request body may have {BODY_MAX} bytes")
            chunks.append(await self._reader.readexactly(size))
            if await self._reader.readexactly(2) != b"\r\n":
                raise _RefusedError(400, "bad chunk end")
        trailers = 0
        while (line := await self._read_line()) != b"\r\n":
            trailers += len(line)
            if trailers > HEAD_MAX:
                raise _RefusedError(431, f"trailers may have {HEAD_MAX} bytes")
        return b"".join(chunks)

    async def _read_line(self) -> bytes:
        try:
            return await self._reader.readuntil(b"\r\n")
        except asyncio.LimitOverrunError:
            raise _RefusedError(400, "a line of a chunked body is too long") from None

    async def _send(self, request: Request, response: Response, keep: bool) -> bool:
        """Send the answer; whether the connection can go on. A HEAD request gets the head alone."""
        body = response.body
        fields = [("content-type", response.content_type), *response.headers]
        if isinstance(body, bytes):
            fields.append(("content-length", str(len(body))))
            self._writer.write(self._head(response.status, fields, keep) + (b"" if request.method == "HEAD" else body))
            await self._drain()
            return keep
        chunked = request.version == "1.1"
        keep = keep and chunked
        if chunked:
            fields.append(("transfer-encoding", "chunked"))
        self._writer.write(self._head(response.status, fields, keep))
        if request.method != "HEAD":
            async for piece in body:
                if piece:  # an empty chunk would end the body
                    self._writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                    await self._drain()
            if chunked:
                self._writer.write(b"0\r\n\r\n")
        await self._drain()
        return keep

    def _head(self, status: int, fields: Iterable[tuple[str, str]], keep: bool) -> bytes:
        phrase = HTTPStatus(status).phrase if status in HTTPStatus.__members__.values() else ""
        lines = [f"HTTP/1.1 {status} {phrase}", f"date: {self._date.refresh().decode()}"]
        for name, value in fields:
            if "\r" in value or "\n" in value:
                raise ValueError(f"line end in the response field {name}")
            lines.append(f"{name}: {value}")
        lines.append("connection: keep-alive" if keep else "connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    async def _refuse(self, refused: _RefusedError) -> None:
        code = HTTPStatus(refused.status).phrase.lower().replace(" ", "_")
        response = error_response(refused.status, code, str(refused))
        await self._send(Request("GET", "", "1.1", {}), response, keep=False)
        await self._finish()

    async def _drain(self) -> None:
        async with asyncio.timeout(SEND_TIMEOUT):
            await self._writer.drain()

    async def _finish(self) -> None:
        """End our side and read on briefly, so that no reset overtakes an answer (RFC 9112 section 9.6)."""
        if self._writer.can_write_eof():
            self._writer.write_eof()
        try:
            async with asyncio.timeout(LINGER):
                while await self._reader.read(HEAD_MAX):
                    pass
        except TimeoutError:
            return


@dataclass(slots=True)
class _Collected:
    """What llhttp tells of a request head."""

    url: bytes = b""
    fields: list[tuple[str, str]] = field(default_factory=list)
    complete: bool = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.decode("latin-1").lower(), value.decode("latin-1").strip()))

    def on_headers_complete(self) -> None:
        self.complete = True


def _parse_head(head: bytes) -> tuple[Request, int | None]:
    """The request without its body, and the body's length; None = chunked. Raises _RefusedError."""
    collected = _Collected()
    parser = httptools.HttpRequestParser(collected)
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        pass  # an upgrade may be ignored (RFC 9110 section 7.8); CONNECT is no method that a handler knows
    except httptools.HttpParserError as error:
        raise _RefusedError(400, f"not an HTTP/1.1 request: {error}") from None
    version = parser.get_http_version()
    if not collected.complete or version not in ("1.0", "1.1"):
        raise _RefusedError(400, "not an HTTP/1.1 request")
    headers: dict[str, str] = {}
    for name, value in collected.fields:
        if name in headers and name in ("host", "content-length", "transfer-encoding"):
            raise _RefusedError(400, f"two fields {name}")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    if version == "1.1" and "host" not in headers:
        raise _RefusedError(400, "no Host field")
    request = Request(parser.get_method().decode("ascii"), collected.url.decode("latin-1"), version, headers)
    return request, _body_length(version, headers)


def _body_length(version: str, headers: dict[str, str]) -> int | None:
    """RFC 9112 section 6.3, with every doubtful case refused."""
    coding = headers.get("transfer-encoding")
    length = headers.get("content-length")
    if coding is not None:
        if coding.lower() != "chunked" or length is not None or version != "1.1":
            raise _RefusedError(400, "a body is framed by chunked or by Content-Length, one of the two")
        return None
    if length is None:
        return 0
    if not _DIGITS.fullmatch(length):
        raise _RefusedError(400, "bad Content-Length")
    if int(length) > BODY_MAX:
        raise _RefusedError(413, f"a request body may have {BODY_MAX} bytes")
    return int(length)
