"""A small HTTP/1.1 client for our own programs and probes: one request per connection, everything bounded.

Addresses are `http://host:port` and `unix:/path`. Not for traffic: the data path has its own. The coordination client,
which keeps connections and reads streams, uses the parts: addresses, request heads, errors in words.
"""

import asyncio
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httptools

from balancer.errors import BalancerError

HEAD_MAX = 64 * 1024
BODY_MAX = 64 * 1024 * 1024  # the metrics of 10,000 backends are a third of it
_READ = 256 * 1024


class HttpClientError(BalancerError):
    """No usable answer. The text says what happened, in words for a person."""


@dataclass(slots=True)
class Response:
    """A whole answer; header names in lower case, fields of one name joined by ", "."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


async def request(
    url: str,
    method: str = "GET",
    path: str = "/",
    *,
    headers: Iterable[tuple[str, str]] = (),
    body: bytes = b"",
    timeout: float = 5.0,
) -> Response:
    """Send one request to `url` and read the whole answer within `timeout` seconds.

    Raises HttpClientError: not reachable, no complete answer in time, no HTTP, or more than 64 MiB.
    """
    host, port, socket_path = address_of(url)
    try:
        async with asyncio.timeout(timeout):
            if socket_path:
                reader, writer = await asyncio.open_unix_connection(socket_path, limit=HEAD_MAX)
            else:
                reader, writer = await asyncio.open_connection(host, port, limit=HEAD_MAX)
            try:
                writer.write(request_head(method, path, host_field(host, port), headers, len(body)) + body)
                return await _read_response(reader, method)
            finally:
                writer.transport.abort()
    except TimeoutError:
        raise HttpClientError(f"no complete answer from {url} within {timeout:g} s") from None
    except OSError as error:
        raise HttpClientError(f"cannot talk to {url}: {reason_of(error)}") from None


def reason_of(error: OSError) -> str:
    """What went wrong, without the address."""
    # asyncio puts the address into strerror; a failed look-up has a negative errno and its own text.
    return os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)


def address_of(url: str) -> tuple[str, int, str]:
    """(host, port, "") or ("", 0, path of a Unix socket). Raises HttpClientError when `url` is neither."""
    if url.startswith("unix:"):
        return "", 0, url.removeprefix("unix:")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if parts.scheme != "http" or not host or parts.path not in ("", "/") or parts.query:
        raise HttpClientError(f"{url!r} is no address; write http://HOST:PORT or unix:/PATH")
    return host, port or 80, ""


def host_field(host: str, port: int) -> str:
    """The Host field for an address."""
    if not host:
        return "localhost"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def request_head(
    method: str, path: str, host: str, headers: Iterable[tuple[str, str]], length: int, *, keep: bool = False
) -> bytes:
    """A request's head for a body of `length` bytes. `keep`: the connection is to live on.

    Raises HttpClientError when a line end is inside a line.
    """
    lines = [f"{method} {path} HTTP/1.1", f"host: {host}"]
    if not keep:
        lines.append("connection: close")
    lines += [f"{name}: {value}" for name, value in headers]
    if length or method in ("POST", "PUT", "PATCH"):
        lines.append(f"content-length: {length}")
    for line in lines:
        if "\r" in line or "\n" in line:
            raise HttpClientError("a line end inside a request line or field")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class _Collector:
    """What llhttp tells of a response."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.chunks: list[bytes] = []
        self.size = 0
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1").strip()
        self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_body(self, body: bytes) -> None:
        self.chunks.append(body)
        self.size += len(body)

    def on_message_complete(self) -> None:
        self.complete = True


async def _read_response(reader: asyncio.StreamReader, method: str) -> Response:
    """The final answer; interim ones (1xx) are passed over."""
    status = 0
    try:
        while status < 200:
            collector = _Collector()
            parser = httptools.HttpResponseParser(collector)
            parser.feed_data(await _read_head(reader))
            status = parser.get_status_code()
        if method == "HEAD" or status in (204, 304):
            return Response(status, collector.headers)
        framed = "content-length" in collector.headers or "transfer-encoding" in collector.headers
        while not collector.complete:
            data = await reader.read(_READ)
            if not data:
                if framed:
                    raise HttpClientError("the answer ended before its end")
                break
            parser.feed_data(data)
            if collector.size > BODY_MAX:
                raise HttpClientError(f"the answer has more than {BODY_MAX} bytes")
    except httptools.HttpParserError as error:
        raise HttpClientError(f"the answer is no HTTP: {error}") from None
    return Response(status, collector.headers, b"".join(collector.chunks))


async def _read_head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        raise HttpClientError(f"the answer's head has more than {HEAD_MAX} bytes") from None
    except asyncio.IncompleteReadError as error:
        ended = "the connection ended " + ("inside the answer's head" if error.partial else "without an answer")
        raise HttpClientError(ended) from None
