"""Requests and answers of the small HTTP server: what a handler sees, and how bytes become requests.

Strict: a message whose end could be read in two ways is refused with 400 and the connection closed (RFC 9112
section 6.3). What a refusal costs the client is decided in `transport.http_server`.
"""

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from http import HTTPStatus

import httptools
import msgspec

from balancer.errors import BalancerError

HEAD_MAX = 16 * 1024  # a request of an API client is a fraction of it
STREAM_BUFFER_MAX = 64 * 1024  # of a streamed body that its handler has not taken yet

_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")
_CHUNK_LINE_MAX = 10  # eight digits, CR, LF
_REASONS = {status.value: status.phrase for status in HTTPStatus}
_DIGITS = re.compile(r"[0-9]{1,10}")


class RefusedError(BalancerError):
    """The request cannot be served; answered with `status`, and the connection ends."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class BodyStream:
    """The pieces of a request's body as they come. Ends early when the client breaks off."""

    __slots__ = ("_ended", "_on_taken", "_pieces", "_size", "_wakeup")

    def __init__(self, on_taken: Callable[[], None]) -> None:
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._wakeup: asyncio.Future[None] | None = None
        self._on_taken = on_taken

    @property
    def full(self) -> bool:
        """More is waiting than should be."""
        return self._size > STREAM_BUFFER_MAX

    def feed(self, piece: bytes) -> None:
        """A further piece has come."""
        self._pieces.append(piece)
        self._size += len(piece)
        self._wake()

    def end(self) -> None:
        """No further piece will come."""
        self._ended = True
        self._wake()

    def __aiter__(self) -> "BodyStream":
        return self

    async def __anext__(self) -> bytes:
        while not self._pieces:
            if self._ended:
                raise StopAsyncIteration
            self._wakeup = asyncio.get_running_loop().create_future()
            try:
                await self._wakeup
            finally:
                self._wakeup = None
        piece = self._pieces.popleft()
        self._size -= len(piece)
        self._on_taken()
        return piece

    def _wake(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `target` is as sent; header names are lower case, fields of one name joined by ", "."""

    method: str
    target: str
    version: str  # "1.0" or "1.1"
    headers: dict[str, str]
    body: bytes = b""
    stream: BodyStream | None = None  # instead of `body`, where the server was told to stream

    @property
    def persistent(self) -> bool:
        """The client would send more on this connection (RFC 9112 section 9.3)."""
        tokens = {token.strip().lower() for token in self.headers.get("connection", "").split(",")}
        return "close" not in tokens if self.version == "1.1" else "keep-alive" in tokens

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
    """One answer. A body that is an iterator is sent piece by piece as it comes, each as one chunk.

    An iterator's `aclose`, if it has one, is always called: also for a HEAD request, and when the client has left.
    """

    status: int = 200
    body: bytes | AsyncIterator[bytes] = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


def error_response(status: int, code: str, message: str, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    """An error as every API of ours tells it: {"error": {"code": ..., "message": ...}}."""
    body = msgspec.json.encode({"error": {"code": code, "message": message}}) + b"\n"
    return Response(status, body, "application/json", headers)


def refusal_response(status: int, message: str) -> Response:
    """The answer to a request that was refused before a handler saw it."""
    code = "internal" if status == 500 else HTTPStatus(status).phrase.lower().replace(" ", "_")
    return error_response(status, code, message)


def response_head(response: Response, date: bytes, length: int | None, keep: bool) -> bytes:
    """The head of an answer. `length` of its body: -1 = chunked, None = up to the end of the connection."""
    lines = [
        f"HTTP/1.1 {response.status} {_REASONS.get(response.status, '')}",
        f"date: {date.decode()}",
        f"content-type: {response.content_type}",
        *[f"{name}: {value}" for name, value in response.headers],
    ]
    if length is not None:
        lines.append("transfer-encoding: chunked" if length < 0 else f"content-length: {length}")
    lines.append("connection: keep-alive" if keep else "connection: close")
    head = "\r\n".join(lines)
    if head.count("\n") != len(lines) - 1 or head.count("\r") != len(lines) - 1:
        raise ValueError("line end in a response field")
    return head.encode("latin-1") + b"\r\n\r\n"


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


def parse_head(head: bytes) -> tuple[Request, int | None]:
    """The request without its body, and the body's length; None = chunked. Raises RefusedError."""
    collected = _Collected()
    parser = httptools.HttpRequestParser(collected)
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        pass  # an upgrade may be ignored (RFC 9110 section 7.8); CONNECT is no method that a handler knows
    except httptools.HttpParserError as error:
        raise RefusedError(400, f"not an HTTP/1.1 request: {error}") from None
    version = parser.get_http_version()
    if not collected.complete or version not in ("1.0", "1.1"):
        raise RefusedError(400, "not an HTTP/1.1 request")
    headers: dict[str, str] = {}
    for name, value in collected.fields:
        if name in headers:
            if name in ("host", "content-length", "transfer-encoding"):
                raise RefusedError(400, f"two fields {name}")
            headers[name] = f"{headers[name]}, {value}"
        else:
            headers[name] = value
    if version == "1.1" and "host" not in headers:
        raise RefusedError(400, "no Host field")
    request = Request(parser.get_method().decode("ascii"), collected.url.decode("latin-1"), version, headers)
    return request, _body_length(version, headers)


def _body_length(version: str, headers: dict[str, str]) -> int | None:
    """RFC 9112 section 6.3, with every doubtful case refused."""
    coding = headers.get("transfer-encoding")
    length = headers.get("content-length")
    if coding is not None:
        if coding.lower() != "chunked" or length is not None or version != "1.1":
            raise RefusedError(400, "a body is framed by chunked or by Content-Length, one of the two")
        return None
    if length is None:
        return 0
    if not _DIGITS.fullmatch(length):
        raise RefusedError(400, "bad Content-Length")
    return int(length)


class BodyReader:
    """Takes a body out of a connection's input: `length` bytes, or chunks (None).

    Chunks by RFC 9112 section 7.1 without extensions; trailers are read and left out. `size_max` bounds the payload.
    """

    __slots__ = ("_at_chunk_end", "_chunked", "_in_trailers", "_left", "_size", "_size_max", "_trailers", "ended")

    def __init__(self, length: int | None, size_max: int | None) -> None:
        self._chunked = length is None
        self._left = length or 0  # payload still to come, of the body or of this chunk
        self._size_max = size_max
        self._size = 0
        self._at_chunk_end = False
        self._in_trailers = False
        self._trailers = 0
        self.ended = length == 0
        if length is not None:
            self._count(length)

    def take(self, data: bytearray) -> bytes:
        """The payload that `data` begins with, removed from it with its framing; b"" = no more is there.

        Raises RefusedError once all payload before the fault was taken.
        """
        if not self._chunked:
            payload = bytes(data[: self._left])
            del data[: self._left]
            self._left -= len(payload)
            self.ended = not self._left
            return payload
        pieces: list[bytes] = []
        try:
            while not self.ended and self._read_on(data, pieces):
                pass
        except RefusedError:
            if not pieces:
                raise
        return b"".join(pieces)

    def _read_on(self, data: bytearray, pieces: list[bytes]) -> bool:
        """Read one part: a size line, payload, the end of a chunk, a trailer. False when more input is needed."""
        if self._left:
            pieces.append(bytes(data[: self._left]))
            del data[: self._left]
            self._left -= len(pieces[-1])
            self._at_chunk_end = not self._left
            return self._at_chunk_end
        if self._at_chunk_end:
            if len(data) < 2:
                return False
            if data[:2] != b"\r\n":
                raise RefusedError(400, "bad chunk end")
            del data[:2]
            self._at_chunk_end = False
            return True
        return self._read_trailer(data) if self._in_trailers else self._read_size(data)

    def _read_size(self, data: bytearray) -> bool:
        end = data.find(b"\n", 0, _CHUNK_LINE_MAX)
        if end < 0:
            if len(data) >= _CHUNK_LINE_MAX:
                raise RefusedError(400, "bad chunk size")
            return False
        match = _CHUNK_SIZE.fullmatch(data[: end + 1])
        if match is None:
            raise RefusedError(400, "bad chunk size")
        self._left = int(match[1], 16)
        self._in_trailers = not self._left
        self._count(self._left)
        del data[: end + 1]
        return True

    def _read_trailer(self, data: bytearray) -> bool:
        end = data.find(b"\r\n", 0, HEAD_MAX)
        self._trailers += end + 2 if end >= 0 else 0
        if self._trailers > HEAD_MAX or (end < 0 and len(data) >= HEAD_MAX):
            raise RefusedError(431, f"trailers may have {HEAD_MAX} bytes")
        if end < 0:
            return False
        self.ended = not end
        del data[: end + 2]
        return True

    def _count(self, size: int) -> None:
        self._size += size
        if self._size_max is not None and self._size > self._size_max:
            raise RefusedError(413, f"a request body may have {self._size_max} bytes")
