"""Raw bytes in, raw bytes out, over a socket pair of loopback; no client library hides what was sent."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import h11
import pytest
import uvloop

from balancer.transport import http_server
from balancer.transport.http_server import BODY_MAX, HEAD_MAX, HttpServer, Request, Response

DEADLINE = 10.0
GET = b"GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(autouse=True)
def _short_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "LINGER", 0.05)


async def echo(request: Request) -> Response:
    """Tell what arrived."""
    text = f"{request.method} {request.path} {request.query} {request.body.decode()}"
    return Response(200, text.encode(), headers=(("x-one", "1"),))


async def pieces(request: Request) -> Response:
    """A streamed body, with an empty piece in it."""

    async def body() -> AsyncIterator[bytes]:
        for piece in (b"one", b"", b"two"):
            yield piece

    return Response(200, body())


def bound() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    return sock


async def exchange(server: HttpServer, *parts: bytes, eof: bool = False) -> bytes:
    """Serve, send the parts one by one, and give all that comes back until the server ends the connection."""
    sock = bound()
    port = sock.getsockname()[1]
    await server.start(sock)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        if eof:
            writer.write_eof()
        async with asyncio.timeout(DEADLINE):
            return await reader.read(-1)
    finally:
        writer.close()
        await server.close()


def run(handler: Callable[[Request], Awaitable[Response]], *parts: bytes, eof: bool = False, **options: Any) -> bytes:
    return asyncio.run(exchange(HttpServer(handler, **options), *parts, eof=eof))


def read_answers(data: bytes, methods: tuple[bytes, ...] = (b"GET",)) -> list[tuple[int, bytes]]:
    """(status, body) of every answer, read by h11."""
    answers = []
    for method in methods:
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
        client.send(h11.EndOfMessage())
        client.receive_data(data)
        status, body = 0, b""
        while type(event := client.next_event()) is not h11.EndOfMessage:
            assert event is not h11.NEED_DATA, "the answer is not complete"
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
        answers.append((status, body))
        data = client.trailing_data[0]
    return answers


def test_a_request_reaches_the_handler_and_its_answer_the_client() -> None:
    assert read_answers(run(echo, GET, eof=True)) == [(200, b"GET /a b=c ")]


def test_a_request_may_come_byte_by_byte() -> None:
    parts = [bytes([byte]) for byte in b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"]
    assert read_answers(run(echo, *parts, eof=True), (b"POST",)) == [(200, b"POST /p  abc")]


def test_requests_on_one_connection_are_answered_in_their_order() -> None:
    data = b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(5))
    answers = read_answers(run(echo, data, eof=True), (b"GET",) * 5)
    assert answers == [(200, b"GET /%d  " % number) for number in range(5)]


def test_a_chunked_body_is_put_together_and_its_trailers_left_out() -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\nX-Trailer: 1\r\n\r\n"
    answers = read_answers(run(echo, head + body + GET, eof=True), (b"POST", b"GET"))
    assert answers == [(200, b"POST /  abc0123456789"), (200, b"GET /a b=c ")]


def test_the_client_that_asks_is_told_to_continue() -> None:
    head = b"PUT / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n"
    answer = run(echo, head, b"x", eof=True)
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


def test_head_gets_the_fields_of_get_and_no_body() -> None:
    for handler, field in ((echo, b"content-length: 12"), (pieces, b"transfer-encoding: chunked")):
        head, end, body = run(handler, GET.replace(b"GET", b"HEAD"), eof=True).partition(b"\r\n\r\n")
        assert (end, body) == (b"\r\n\r\n", b"")
        assert field in head


def test_a_streamed_body_is_chunked_for_http_11_and_ends_with_the_connection_for_10() -> None:
    assert read_answers(run(pieces, GET, eof=True)) == [(200, b"onetwo")]
    answer = run(pieces, b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head
    assert body == b"onetwo"


@pytest.mark.parametrize(
    ("request_head", "kept"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: foo, Close\r\n", False),
        (b"GET / HTTP/1.0\r\n", False),
        (b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n", True),
    ],
)
def test_the_connection_is_kept_as_the_version_and_the_client_say(request_head: bytes, kept: bool) -> None:
    answer = run(echo, request_head + b"\r\n" + GET, eof=True)
    assert answer.count(b"HTTP/1.1 200 OK") == (2 if kept else 1)
    assert (b"connection: keep-alive" if kept else b"connection: close") in answer.partition(b"\r\n\r\n")[0]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"hello\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n folded\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\na", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 1\r\n\r\na", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity\r\n\r\n", 400),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;a=b\r\na\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (BODY_MAX + 1), 413),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % (BODY_MAX + 1), 413),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * HEAD_MAX + b"\r\n\r\n", 431),
    ],
)
def test_what_is_doubtful_or_too_large_is_refused_and_the_connection_ends(data: bytes, status: int) -> None:
    called = []

    async def handler(request: Request) -> Response:
        called.append(request)
        return Response()

    # What follows must not be taken for a request: the end of the first message is not known.
    answer = run(handler, data + GET, eof=True)
    assert [found for found, _ in read_answers(answer)] == [status]
    assert b"connection: close" in answer
    assert answer.count(b"HTTP/1.1 ") == 1 + answer.count(b"an HTTP/1.1 request")
    assert not called


@pytest.mark.parametrize("sent", [b"G", b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_a_head_that_does_not_end_is_answered_408(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(http_server, "HEAD_TIMEOUT", 0.05)
    assert read_answers(run(echo, sent))[0][0] == 408


def test_a_body_that_does_not_come_is_answered_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "BODY_TIMEOUT", 0.05)
    assert read_answers(run(echo, b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab"))[0][0] == 408


def test_an_idle_connection_is_ended_without_a_word() -> None:
    assert run(echo, keepalive_timeout=0.05) == b""


def test_a_client_that_leaves_inside_a_message_gets_no_answer() -> None:
    assert run(echo, b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab", eof=True) == b""


def test_a_handler_that_fails_is_answered_500_without_its_reason_and_the_loop_is_told() -> None:
    async def failing(request: Request) -> Response:
        raise RuntimeError("secret")

    async def scenario() -> tuple[bytes, list[dict[str, Any]]]:
        told: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
        return await exchange(HttpServer(failing), GET, eof=True), told

    answer, told = asyncio.run(scenario())
    assert read_answers(answer)[0][0] == 500
    assert b"secret" not in answer
    assert [str(context["exception"]) for context in told] == ["secret"]


def test_connections_beyond_the_limit_get_503_and_room_comes_back() -> None:
    async def scenario() -> None:
        server = HttpServer(echo, connections_max=2)
        sock = bound()
        port = sock.getsockname()[1]
        await server.start(sock)
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        for reader, writer in held:
            writer.write(GET)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            await reader.readexactly(len(b"GET /a b=c "))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 503")
        for one in (writer, held[0][1]):
            one.close()
        async with asyncio.timeout(DEADLINE):
            status = b""
            while b"200" not in status:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(GET)
                status = await reader.readline()
                writer.close()
        held[1][1].close()
        await server.close()

    asyncio.run(scenario())


def test_close_lets_an_answer_under_way_finish_and_ends_idle_connections_at_once() -> None:
    async def scenario() -> None:
        entered, leave = asyncio.Event(), asyncio.Event()

        async def slow(request: Request) -> Response:
            entered.set()
            await leave.wait()
            return Response(200, b"done")

        server = HttpServer(slow)
        sock = bound()
        port = sock.getsockname()[1]
        await server.start(sock)
        idle_reader, idle_writer = await asyncio.open_connection("127.0.0.1", port)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET)
        await entered.wait()
        closing = asyncio.create_task(server.close(grace=DEADLINE))
        async with asyncio.timeout(DEADLINE):
            with pytest.raises(ConnectionError):
                if await idle_reader.read() == b"":
                    raise ConnectionResetError
            leave.set()
            answer = await reader.read()
            await closing
        assert answer.endswith(b"done")
        assert b"connection: close" in answer
        with pytest.raises(OSError, match=r"refused|failed"):
            await asyncio.open_connection("127.0.0.1", port)
        for one in (writer, idle_writer):
            one.close()

    asyncio.run(scenario())


def test_close_ends_what_does_not_finish() -> None:
    async def scenario() -> None:
        entered = asyncio.Event()

        async def stuck(request: Request) -> Response:
            entered.set()
            await asyncio.Event().wait()
            raise AssertionError

        server = HttpServer(stuck)
        sock = bound()
        reader, writer = await asyncio.open_connection(*(await started(server, sock)))
        writer.write(GET)
        await entered.wait()
        async with asyncio.timeout(DEADLINE):
            await server.close(grace=0.01)
        writer.close()
        del reader

    async def started(server: HttpServer, sock: socket.socket) -> tuple[str, int]:
        address: tuple[str, int] = sock.getsockname()
        await server.start(sock)
        return address

    asyncio.run(scenario())


def test_it_serves_on_a_unix_socket(tmp_path: Path) -> None:
    async def scenario() -> bytes:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(tmp_path / "s"))
        server = HttpServer(echo)
        await server.start(sock)
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        writer.write(GET)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        await server.close()
        return answer

    assert read_answers(asyncio.run(scenario())) == [(200, b"GET /a b=c ")]


# ---- bodies that are streamed, clients that leave, and both event loops


def uvloop_or_asyncio() -> list[Any]:
    return [pytest.param(asyncio.new_event_loop, id="asyncio"), pytest.param(uvloop.new_event_loop, id="uvloop")]


def run_on(factory: Callable[[], asyncio.AbstractEventLoop], scenario: Callable[[], Any]) -> Any:
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(scenario())


class Streamed:
    """A server that streams every body; what it saw, and a client."""

    def __init__(self, handler: Callable[[Request], Awaitable[Response]], **options: Any) -> None:
        self.server = HttpServer(handler, streamed=lambda request: True, cancel_when_gone=True, **options)

    async def __aenter__(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        sock = bound()
        port = sock.getsockname()[1]
        await self.server.start(sock)
        reader, self.writer = await asyncio.open_connection("127.0.0.1", port)
        return reader, self.writer

    async def __aexit__(self, *error: object) -> None:
        self.writer.close()
        await self.server.close()


async def upper(request: Request) -> Response:
    """Answer each piece of the body as it comes."""

    async def answers() -> AsyncIterator[bytes]:
        assert request.stream is not None
        async for piece in request.stream:
            yield piece.upper()

    return Response(200, answers())


CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("factory", uvloop_or_asyncio())
def test_a_streamed_body_is_answered_while_it_is_still_coming(factory: Any) -> None:
    async def scenario() -> None:
        async with Streamed(upper) as (reader, writer), asyncio.timeout(DEADLINE):
            writer.write(CHUNKED + b"3\r\nabc\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"connection: close" in head  # the end of the body is not known yet
            assert await reader.readexactly(8) == b"3\r\nABC\r\n"
            writer.write(b"2\r\nde\r")
            assert await reader.readexactly(7) == b"2\r\nDE\r\n"
            writer.write(b"\n0\r\n\r\n")
            assert await reader.read() == b"0\r\n\r\n"

    run_on(factory, scenario)


@pytest.mark.parametrize("factory", uvloop_or_asyncio())
def test_a_streamed_body_of_a_known_length_leaves_the_connection_usable(factory: Any) -> None:
    async def scenario() -> bytes:
        async with Streamed(upper) as (reader, writer), asyncio.timeout(DEADLINE):
            post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n"
            writer.write(post + b"\r\nabc" + post + b"Connection: close\r\n\r\ndef")
            return await reader.read()

    assert read_answers(run_on(factory, scenario), (b"POST", b"POST")) == [(200, b"ABC"), (200, b"DEF")]


def test_a_streamed_body_has_no_bound_but_what_is_not_taken_is_not_read() -> None:
    async def scenario() -> None:
        taking = asyncio.Event()
        total = 0

        async def handler(request: Request) -> Response:
            nonlocal total
            assert request.stream is not None
            await taking.wait()
            async for piece in request.stream:
                total += len(piece)
            return Response()

        async with Streamed(handler) as (reader, writer), asyncio.timeout(DEADLINE):
            size = 8 * BODY_MAX
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
            writer.write(b"a" * size)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await writer.drain()  # more than the buffers of the system hold stays with the client
            taking.set()
            await writer.drain()
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            assert total == size

    asyncio.run(scenario())


def test_a_streamed_body_that_breaks_its_framing_ends_there_and_so_does_the_connection() -> None:
    async def scenario() -> bytes:
        async with Streamed(upper) as (reader, writer), asyncio.timeout(DEADLINE):
            writer.write(CHUNKED + b"3\r\nabc\r\nnonsense\r\n" + GET)
            return await reader.read()

    assert read_answers(asyncio.run(scenario()), (b"POST",)) == [(200, b"ABC")]


@pytest.mark.parametrize("factory", uvloop_or_asyncio())
@pytest.mark.parametrize("half", [True, False], ids=["its side is closed", "the connection is closed"])
def test_a_client_that_leaves_cancels_its_handler_where_that_is_asked_for(factory: Any, half: bool) -> None:
    async def scenario() -> None:
        entered, cancelled = asyncio.Event(), asyncio.Event()

        async def waiting(request: Request) -> Response:
            entered.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
            raise AssertionError

        async with Streamed(waiting) as (_, writer), asyncio.timeout(DEADLINE):
            writer.write(GET)
            await entered.wait()
            if half:
                writer.write_eof()
            else:
                writer.close()
            await cancelled.wait()

    run_on(factory, scenario)


def test_a_handler_goes_on_when_its_client_leaves_unless_told_otherwise() -> None:
    async def scenario() -> None:
        entered, leave, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def slow(request: Request) -> Response:
            entered.set()
            await leave.wait()
            done.set()
            return Response()

        server = HttpServer(slow)
        sock = bound()
        port = sock.getsockname()[1]
        await server.start(sock)
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET)
        async with asyncio.timeout(DEADLINE):
            await entered.wait()
            writer.transport.abort()
            await asyncio.sleep(0.05)
            leave.set()
            await done.wait()
        await server.close()

    asyncio.run(scenario())


class Pieces:
    """A body that says when it is closed."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()

    def __aiter__(self) -> "Pieces":
        return self

    async def __anext__(self) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError

    async def aclose(self) -> None:
        self.closed.set()


@pytest.mark.parametrize("request_bytes", [GET, GET.replace(b"GET", b"HEAD")])
def test_a_body_of_pieces_is_closed_although_nobody_takes_it(request_bytes: bytes) -> None:
    async def scenario() -> None:
        body = Pieces()

        async def handler(request: Request) -> Response:
            return Response(200, body)

        async with Streamed(handler) as (_, writer), asyncio.timeout(DEADLINE):
            writer.write(request_bytes)
            await asyncio.sleep(0.02)
            writer.write_eof()
            await body.closed.wait()

    asyncio.run(scenario())


def test_bodies_may_be_larger_and_refusals_worded_where_that_is_asked_for() -> None:
    def refusal(status: int, message: str) -> Response:
        return Response(status, f"no: {message}".encode())

    async def length(request: Request) -> Response:
        return Response(200, b"%d" % len(request.body))

    head = b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    size = 2 * BODY_MAX
    assert read_answers(run(length, head % size, b"a" * size, eof=True, body_max=size)) == [(200, b"%d" % size)]
    answer = run(length, head % (size + 1), eof=True, body_max=size, refusal=refusal)
    assert read_answers(answer) == [(413, b"no: a request body may have %d bytes" % size)]


def test_a_line_end_in_a_response_field_is_an_error_of_ours() -> None:
    async def split(request: Request) -> Response:
        return Response(200, b"", headers=(("x", "a\r\nb: c"),))

    async def scenario() -> tuple[bytes, list[str]]:
        told: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(str(context["exception"])))
        return await exchange(HttpServer(split), GET, eof=True), told

    assert asyncio.run(scenario()) == (b"", ["line end in a response field"])
