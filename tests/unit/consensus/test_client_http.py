"""The client's connections: used again, never after a broken exchange; a failure says whether the request went out."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from balancer.consensus import client_http
from balancer.consensus.client_http import ExchangeError, Server
from balancer.transport.http_client import HttpClientError
from tests.support.coordination_fake import CUT, SILENCE, FakeGateway, Reply, ok, stream

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def with_gateway(scenario: Callable[[FakeGateway, Server], Awaitable[None]]) -> None:
    async def run() -> None:
        async with FakeGateway() as gateway:
            server = Server(gateway.url)
            try:
                await scenario(gateway, server)
            finally:
                server.close()

    asyncio.run(run())


def with_bytes(*answers: bytes) -> Callable[[Callable[[Server], Awaitable[None]]], None]:
    """Against a server that says these bytes to its requests, one after the other, and then ends the connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for answer in answers:
                await reader.readuntil(b"{}")
                writer.write(answer)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def run(scenario: Callable[[Server], Awaitable[None]]) -> None:
        async def running() -> None:
            listening = await asyncio.start_server(serve, "127.0.0.1", 0)
            server = Server(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
            try:
                await scenario(server)
            finally:
                server.close()
                listening.close()

        asyncio.run(running())

    return run


def test_one_after_the_other_share_a_connection_and_two_at_once_do_not() -> None:
    async def scenario(gateway: FakeGateway, server: Server) -> None:
        gateway.on("/a", ok(x="1"))
        for _ in range(3):
            answer = await server.exchange("/a", b"{}", timeout=5)
            assert (answer.status, answer.body) == (200, b'{"x": "1"}')
        assert gateway.connections == 1
        await asyncio.gather(*(server.exchange("/a", b"{}", timeout=5) for _ in range(3)))
        assert gateway.connections == server.connections == 3

    with_gateway(scenario)


def test_a_connection_that_the_server_ended_is_not_used_again() -> None:
    async def scenario(gateway: FakeGateway, server: Server) -> None:
        gateway.on("/a", ok())
        await server.exchange("/a", b"{}", timeout=5)
        await gateway.__aexit__(None, None, None)
        async with asyncio.timeout(5):
            while server._idle[0].usable:
                await asyncio.sleep(0)
        with pytest.raises(ExchangeError, match="refused") as caught:
            await server.exchange("/a", b"{}", timeout=5)
        assert not caught.value.sent

    with_gateway(scenario)


def test_an_idle_connection_is_not_kept_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_http, "_IDLE_SECONDS", 0.0)

    async def scenario(gateway: FakeGateway, server: Server) -> None:
        gateway.on("/a", ok())
        for _ in range(2):
            await server.exchange("/a", b"{}", timeout=5)
        assert gateway.connections == 2

    with_gateway(scenario)


@pytest.mark.parametrize(("reply", "words"), [(CUT, "without an answer"), (SILENCE, "within 0.1 s")])
def test_a_request_that_was_sent_may_have_been_done(reply: Reply, words: str) -> None:
    async def scenario(gateway: FakeGateway, server: Server) -> None:
        gateway.on("/a", reply)
        with pytest.raises(ExchangeError, match=words) as caught:
            await server.exchange("/a", b"{}", timeout=0.1)
        assert caught.value.sent
        assert server.connections == 0

    with_gateway(scenario)


def test_a_connection_that_is_not_made_says_that_nothing_was_sent() -> None:
    async def scenario() -> None:
        server = Server("http://127.0.0.1:1")
        with pytest.raises(ExchangeError, match="Connection refused") as caught:
            await server.exchange("/", b"{}", timeout=5)
        assert not caught.value.sent

    asyncio.run(scenario())


def test_a_cancelled_exchange_ends_its_connection() -> None:
    async def scenario(gateway: FakeGateway, server: Server) -> None:
        gateway.on("/a", SILENCE)
        gateway.on("/b", ok())
        task = asyncio.create_task(server.exchange("/a", b"{}", timeout=60))
        while not gateway.asked:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert server.connections == 0
        assert (await server.exchange("/b", b"{}", timeout=5)).status == 200
        assert gateway.connections == 2

    with_gateway(scenario)


def test_closing_fails_what_is_under_way_and_what_comes_later() -> None:
    async def scenario(gateway: FakeGateway, server: Server) -> None:
        gateway.on("/a", SILENCE)
        task = asyncio.create_task(server.exchange("/a", b"{}", timeout=60))
        while not gateway.asked:
            await asyncio.sleep(0)
        server.close()
        with pytest.raises(ExchangeError):
            await task
        with pytest.raises(ExchangeError, match="closed"):
            await server.exchange("/a", b"{}", timeout=5)

    with_gateway(scenario)


def test_a_stream_gives_its_lines_as_they_come_and_then_none() -> None:
    async def scenario(gateway: FakeGateway, server: Server) -> None:
        gateway.on("/a", stream({"n": 1}, {"n": 2}, then="end"))
        async with server.stream("/a", b"{}", timeout=5) as (status, lines):
            assert status == 200
            assert [await lines.next() for _ in range(3)] == [b'{"n": 1}', b'{"n": 2}', None]
        gateway.on("/a", ok())
        await server.exchange("/a", b"{}", timeout=5)
        assert gateway.connections == 1  # it was read to its end

    with_gateway(scenario)


def test_lines_do_not_depend_on_how_the_bytes_arrive() -> None:
    text = b'{"a":1}\n{"b":2}\n\n{"c":3}'
    chunks = b"".join(b"1\r\n" + bytes([byte]) + b"\r\n" for byte in text)

    async def scenario(server: Server) -> None:
        async with server.stream("/", b"{}", timeout=5) as (_, lines):
            assert [await lines.next() for _ in range(4)] == [b'{"a":1}', b'{"b":2}', b'{"c":3}', None]

    with_bytes(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")(scenario)


def test_a_stream_that_breaks_off_is_an_error_and_leaving_it_early_ends_it() -> None:
    async def scenario(gateway: FakeGateway, server: Server) -> None:
        gateway.on("/a", stream({"n": 1}, then="cut"))
        async with server.stream("/a", b"{}", timeout=5) as (_, lines):
            assert await lines.next() == b'{"n": 1}'
            with pytest.raises(ExchangeError, match="inside its answer"):
                await lines.next()
        gateway.on("/a", stream({"n": 1}, then="stay"))
        async with server.stream("/a", b"{}", timeout=5):
            assert server.connections == 1
        assert server.connections == 0

    with_gateway(scenario)


def test_a_cancelled_read_of_a_stream_loses_nothing() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(b'HTTP/1.1 200 OK\r\n\r\n{"a":')
        await reader.read()
        writer.close()

    async def scenario() -> None:
        writers: list[asyncio.StreamWriter] = []

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            await serve(reader, writer)

        listening = await asyncio.start_server(connected, "127.0.0.1", 0)
        server = Server(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
        async with server.stream("/", b"{}", timeout=5) as (_, lines):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await lines.next()
            writers[0].write(b"1}\n")
            assert await lines.next() == b'{"a":1}'
        server.close()
        listening.close()

    asyncio.run(scenario())


def test_a_stream_that_nobody_reads_makes_the_server_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_http, "_BUFFER_MAX", 1000)
    size = 8_000_000

    async def scenario() -> None:
        sent = asyncio.Event()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"{}")
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * size + b"\n")
            await writer.drain()
            sent.set()
            writer.close()

        listening = await asyncio.start_server(connected, "127.0.0.1", 0)
        server = Server(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
        async with server.stream("/", b"{}", timeout=5) as (_, lines):
            connection = next(iter(server._in_use))
            async with asyncio.timeout(5):
                while not connection._paused:
                    await asyncio.sleep(0)
            assert connection._size < size / 2
            assert len(await lines.next() or b"") == size
            await sent.wait()
        server.close()
        listening.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", "no HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", "inside its answer"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"b" * 600_000 + b"\r\n\r\n", "head has more than"),
    ],
)
def test_what_is_no_whole_answer_is_an_error_in_words(answer: bytes, words: str) -> None:
    async def scenario(server: Server) -> None:
        with pytest.raises(ExchangeError, match=words):
            await server.exchange("/", b"{}", timeout=5)

    with_bytes(answer)(scenario)


def test_an_answer_beyond_the_bound_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_http, "BODY_MAX", 10)

    async def scenario(server: Server) -> None:
        with pytest.raises(ExchangeError, match="more than 10 bytes"):
            await server.exchange("/", b"{}", timeout=5)

    with_bytes(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 11)(scenario)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\ny",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx",
    ],
    ids=["two answers to one request", "the server ends it"],
)
def test_a_connection_that_is_not_as_it_should_be_is_not_used_again(answer: bytes) -> None:
    async def scenario(server: Server) -> None:
        assert (await server.exchange("/", b"{}", timeout=5)).body == b"x"
        assert server.connections == 0

    with_bytes(answer, answer)(scenario)


def test_interim_answers_and_trailers_are_passed_over() -> None:
    answer = (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 400 Bad Request\r\nTransfer-Encoding: chunked\r\nTrailer: A\r\n\r\n"
        b"2\r\nhi\r\n0\r\nA: b\r\n\r\n"
    )

    async def scenario(server: Server) -> None:
        found = await server.exchange("/", b"{}", timeout=5)
        assert (found.status, found.body) == (400, b"hi")
        assert server.connections == 1

    with_bytes(answer, answer)(scenario)


@pytest.mark.parametrize("url", ["127.0.0.1:2379", "https://a", "http://", "ftp://a", ""])
def test_an_address_of_another_kind_says_what_would_be_right(url: str) -> None:
    with pytest.raises(HttpClientError, match="http://HOST:PORT"):
        Server(url)
