import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from balancer.transport import http_client
from balancer.transport.http_client import HttpClientError, Response, request

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def against(serve: Serve, use: Callable[[str], Awaitable[Response]]) -> Response:
    """Call `use` with the address of a server that runs `serve` on every connection."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
            await writer.drain()
        except ConnectionError:
            return
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        return await use(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    finally:
        server.close()


def ask(answer: bytes, method: str = "GET", timeout: float = 10.0) -> Response:
    """What the client makes of `answer`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)

    return asyncio.run(against(serve, lambda url: request(url, method, timeout=timeout)))


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", b"abc"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n", b"abcd"),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", b"until the end"),
        (b"HTTP/1.0 200 OK\r\n\r\n", b""),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", b"x"),
    ],
)
def test_every_framing_is_read(answer: bytes, body: bytes) -> None:
    response = ask(answer)
    assert (response.status, response.body) == (200, body)


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_an_answer_without_a_body_is_not_waited_for(method: str, status: int) -> None:
    response = ask(b"HTTP/1.1 %d X\r\nContent-Length: 5\r\n\r\n" % status, method)
    assert (response.status, response.body) == (status, b"")


def test_fields_have_lower_case_names_and_are_joined() -> None:
    answer = b"HTTP/1.1 200 OK\r\nX-A: 1\r\nx-a: 2\r\nContent-Length: 0\r\n\r\n"
    assert ask(answer).headers == {"x-a": "1, 2", "content-length": "0"}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "without an answer"),
        (b"HTTP/1.1 200 OK\r\nConte", "inside the answer's head"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", "before its end"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "before its end"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "no HTTP"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "no HTTP"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000 + b"\r\n\r\n", "head has more than"),
    ],
)
def test_what_is_no_whole_answer_is_an_error_in_words(answer: bytes, words: str) -> None:
    with pytest.raises(HttpClientError, match=words):
        ask(answer)


def test_an_answer_beyond_the_bound_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "BODY_MAX", 10)
    with pytest.raises(HttpClientError, match="more than 10 bytes"):
        ask(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 11)


def test_an_answer_that_does_not_come_in_time_is_an_error() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    with pytest.raises(HttpClientError, match=r"within 0\.05 s"):
        asyncio.run(against(silent, lambda url: request(url, timeout=0.05)))


def test_the_request_is_sent_as_asked_with_its_length_and_close() -> None:
    seen = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.extend(await reader.readuntil(b"\r\n\r\n"))
        seen.extend(await reader.readexactly(4))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    asyncio.run(against(serve, lambda url: request(url, "PUT", "/p?q", headers=[("x-token", "t")], body=b"data")))
    head, _, body = bytes(seen).partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"PUT /p?q HTTP/1.1"
    assert lines[1].startswith(b"host: 127.0.0.1:")
    assert lines[2:] == [b"connection: close", b"x-token: t", b"content-length: 4"]
    assert body == b"data"


@pytest.mark.parametrize("url", ["127.0.0.1:9901", "https://a", "http://", "http://a:b", "http://a/b", "ftp://a", ""])
def test_an_address_of_another_kind_says_what_would_be_right(url: str) -> None:
    with pytest.raises(HttpClientError, match="http://HOST:PORT or unix:/PATH"):
        asyncio.run(request(url))


@pytest.mark.parametrize(("path", "headers"), [("/a\r\nX: y", []), ("/", [("a", "b\nc: d")])])
def test_a_line_end_cannot_be_smuggled_into_a_request(path: str, headers: list[tuple[str, str]]) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.read() == b""

    with pytest.raises(HttpClientError, match="line end"):
        asyncio.run(against(serve, lambda url: request(url, path=path, headers=headers)))


def test_a_refused_connection_says_so() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        with pytest.raises(HttpClientError, match="Connection refused"):
            asyncio.run(request(f"http://127.0.0.1:{port}"))


def test_a_unix_socket_is_an_address_and_a_missing_one_an_error(tmp_path: Path) -> None:
    async def scenario() -> Response:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
            writer.close()

        server = await asyncio.start_unix_server(serve, tmp_path / "s")
        try:
            return await request(f"unix:{tmp_path / 's'}")
        finally:
            server.close()

    assert asyncio.run(scenario()).body == b"hi"
    with pytest.raises(HttpClientError, match="No such file"):
        asyncio.run(request(f"unix:{tmp_path / 'missing'}"))
