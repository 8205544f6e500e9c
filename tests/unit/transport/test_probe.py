import asyncio
import contextlib
import errno
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from balancer import __version__
from balancer.config.model import HealthCheck, PoolTls
from balancer.transport import probe as probing
from balancer.transport.probe import CONTENT_BYTES, ProbeResult, Target, Tls, probe
from balancer.transport.tls import client_context
from tests.support.certificates import authority, issued

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LONG = 20.0  # a timeout that no test reaches
SHORT = 0.05


def target_of(port: int) -> Target:
    return Target(("127.0.0.1", port, ""), "backend.test:80")


def server_tls(*names: str, **options: object) -> ssl.SSLContext:
    pair = issued(*names, **options)  # type: ignore[arg-type]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert_path, pair.key_path)
    return context


def pool_tls(name: str | None, ca: str = "test authority") -> Tls:
    return client_context(PoolTls(ca="ca.pem"), {"ca.pem": authority(ca).cert}), name


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def against(
    serve: Serve, check: HealthCheck, tls: Tls | None = None, secure: ssl.SSLContext | None = None
) -> ProbeResult:
    """Probe a server on loopback that runs `serve`. Nothing may last until LONG."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await serve(reader, writer)
            await writer.drain()
        writer.close()

    async def main() -> ProbeResult:
        server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=secure)
        done = await probe(target_of(server.sockets[0].getsockname()[1]), check, tls)
        server.close()
        return done

    done = uvloop.run(main())
    assert done.seconds < LONG / 2
    return done


def answering(*pieces: bytes, hold: bool = False) -> Serve:
    """Send the pieces, one turn between them; then close, or hold the connection open."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        if hold:
            await reader.read()

    return serve


def ask(*pieces: bytes, hold: bool = False, **check: object) -> ProbeResult:
    return against(answering(*pieces, hold=hold), HealthCheck(**({"timeout": LONG} | check)))  # type: ignore[arg-type]


def chunked(*payloads: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(payload), payload) for payload in payloads) + b"0\r\n\r\n"


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\n"


def request_seen(check: HealthCheck) -> list[str]:
    seen: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.extend((await reader.readuntil(b"\r\n\r\n")).decode().removesuffix("\r\n\r\n").split("\r\n"))
        writer.write(OK)

    assert against(serve, check).passed
    return seen


def test_the_request_says_who_asks_and_that_nothing_follows() -> None:
    check = HealthCheck(path="/healthz?full=1", headers={"X-Check": "yes"})
    assert request_seen(check) == [
        "GET /healthz?full=1 HTTP/1.1",
        "Host: backend.test:80",
        "Connection: close",
        f"User-Agent: balancer/{__version__} health check",
        "X-Check: yes",
    ]


def test_method_host_and_user_agent_are_the_check_s_where_it_has_them() -> None:
    check = HealthCheck(method="POST", host="other.test", headers={"user-agent": "mine"})
    assert request_seen(check) == [
        "POST / HTTP/1.1",
        "Host: other.test",
        "Connection: close",
        "user-agent: mine",
        "Content-Length: 0",
    ]


def test_an_expected_status_passes_without_waiting_for_the_content() -> None:
    done = ask(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", hold=True)
    assert done.passed
    assert done.evidence.startswith("200 in ")
    assert done.evidence.endswith(" ms")
    assert not done.ours


@pytest.mark.parametrize(("status", "expected", "words"), [
    (503, ((200, 399),), "status 503, expected 200-399"),
    (302, ((200, 299),), "status 302, expected 200-299"),
    (200, ((204, 204), (500, 599)), "status 200, expected 204, 500-599"),
])  # fmt: skip
def test_another_status_fails(status: int, expected: tuple[tuple[int, int], ...], words: str) -> None:
    done = ask(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status, expect_status=expected)
    assert (done.passed, done.evidence) == (False, words)


def test_a_change_of_protocol_is_a_final_answer() -> None:
    done = ask(b"HTTP/1.1 101 X\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", hold=True)
    assert (done.passed, done.evidence) == (False, "status 101, expected 200-399")


def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    asked = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n")

    assert against(serve, HealthCheck(timeout=LONG)).evidence.startswith("302 in ")
    assert len(asked) == 1


def test_interim_answers_are_passed_over_however_they_are_cut() -> None:
    answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK
    assert ask(answer).passed
    assert ask(*(bytes([octet]) for octet in answer), expect_text="ok").passed


def test_head_has_no_content_whatever_its_length_says() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"
    assert ask(answer, hold=True, method="HEAD").passed
    done = ask(answer, hold=True, method="HEAD", expect_text="ok")
    assert (done.passed, done.evidence) == (False, "text 'ok' not in the 0 bytes of content")


@pytest.mark.parametrize("answer", [
    b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nall is well",
    UNTIL_CLOSE + b"all is well",
    CHUNKED + chunked(b"all is well"),
    CHUNKED + chunked(b"all ", b"i", b"s wel", b"l"),
    CHUNKED + chunked(*(bytes([octet]) for octet in b"all is well")),
])  # fmt: skip
def test_the_text_is_found_across_chunks_and_reads(answer: bytes) -> None:
    for pieces in ((answer,), tuple(bytes([octet]) for octet in answer)):
        assert ask(*pieces, expect_text="is well").evidence.startswith("text found in ")
        done = ask(*pieces, expect_text="is bad")
        assert (done.passed, done.evidence) == (False, "text 'is bad' not in the 11 bytes of content")


def test_a_text_is_compared_as_utf_8() -> None:
    content = "grün".encode()
    assert ask(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content), expect_text="ü").passed


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize(("beyond", "passes"), [(0, True), (1, False)])
def test_the_text_counts_within_the_first_64_kib_only(framing: str, beyond: int, passes: bool) -> None:
    content = b"x" * (CONTENT_BYTES - 4 + beyond) + b"text" + b"y" * 1000
    answer = {
        "length": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content),
        "chunked": CHUNKED + chunked(content[:7], content[7:65_530], content[65_530:]),
        "close": UNTIL_CLOSE + content,
    }[framing]
    done = ask(answer, hold=True, expect_text="text")
    assert done.passed == passes
    if not passes:
        assert done.evidence == "text 'text' not in the first 64 KiB"


def test_what_follows_the_text_does_not_matter() -> None:
    assert ask(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nok", expect_text="ok").passed
    assert ask(CHUNKED + b"2\r\nok\r\nnonsense", expect_text="ok").passed


@pytest.mark.parametrize(("answer", "words"), [
    (b"", "the connection ended, no answer"),
    (b"HTTP/1.1 200 OK\r\nConte", "the connection ended, no complete answer"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", "the connection ended, no complete answer"),
    (CHUNKED + b"5\r\nab", "the connection ended, no complete answer"),
    (UNTIL_CLOSE + b"ab", "text 'ok' not in the 2 bytes of content"),
    (CHUNKED + b"zz\r\n", "no valid HTTP: byte 0x7a where a chunk size begins"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "no valid HTTP: "),
    (b"HTTP/1.1 200 OK\r\nbad field\r\n\r\n", "no valid HTTP: "),
    (b"\x00\xff\r\n\r\n", "no HTTP, it begins with '\\x00\\xff\\r\\n\\r\\n'"),
])  # fmt: skip
def test_an_answer_that_is_none_is_described(answer: bytes, words: str) -> None:
    done = ask(answer, expect_text="ok")
    assert not done.passed
    assert done.evidence.startswith(words)


def test_another_protocol_is_known_by_its_first_bytes() -> None:
    done = ask(b"SSH-2.0-OpenSSH_9.6 and more\r\n", hold=True)
    assert done.evidence == "no HTTP, it begins with 'SSH-2.0-OpenSSH_9.6 '"


def endless(start: bytes, more: bytes) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(start)
        while True:
            writer.write(more)
            await writer.drain()

    return serve


@pytest.mark.parametrize(("start", "more", "words"), [
    (b"HTTP/1.1 200 OK\r\n", b"A: b\r\n" * 1000, "no end of the head within 80 KiB"),
    (b"HTTP/1.1 200 OK\r\nA: ", b"b" * 4096, "no end of the head within 80 KiB"),
    (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 10 + b"H", "no "),
    (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n" * 10, "no end of the head within 80 KiB"),
    (UNTIL_CLOSE, b"x" * 4096, "text 'ok' not in the first 64 KiB"),
    (CHUNKED, b"1\r\nx\r\n" * 4096, "text 'ok' not in the first 64 KiB"),
    (CHUNKED, b"1;a=b\r\nx\r\n" * 4096, "no valid HTTP: "),
])  # fmt: skip
def test_an_endless_answer_ends_the_probe(start: bytes, more: bytes, words: str) -> None:
    done = against(endless(start, more), HealthCheck(timeout=LONG, expect_text="ok"))
    assert not done.passed
    assert done.evidence.startswith(words)


@pytest.mark.parametrize(("pieces", "words"), [
    ((), "no answer within 50 ms"),
    ((b"HTT",), "no complete answer within 50 ms"),
    ((b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab",), "no complete answer within 50 ms"),
    ((CHUNKED, b"1\r\na\r\n"), "no complete answer within 50 ms"),
])  # fmt: skip
def test_a_backend_that_hangs_fails_in_time(pieces: tuple[bytes, ...], words: str) -> None:
    done = ask(*pieces, hold=True, timeout=SHORT, expect_text="ok")
    assert (done.passed, done.evidence) == (False, words)
    assert done.seconds >= SHORT - 0.01


def test_a_timeout_of_seconds_is_told_in_seconds() -> None:
    assert probing._shown(2.0) == "2 s"
    assert probing._shown(2.5) == "2.5 s"


def reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize(("piece", "words"), [
    (b"", "connection reset by peer, no answer"),
    (b"HTTP/1.1 2", "connection reset by peer, no complete answer"),
])  # fmt: skip
def test_a_reset_is_told_with_what_was_missing(piece: bytes, words: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(piece)
        await asyncio.sleep(0.02 if piece else 0)  # else the reset overtakes the bytes
        reset(writer)

    assert against(serve, HealthCheck(timeout=LONG)).evidence == words


# Connecting: bare sockets, no server loop.


def run_probe(target: Target, check: HealthCheck, tls: Tls | None = None) -> ProbeResult:
    before = descriptors()

    async def main() -> tuple[ProbeResult, int]:
        inside = descriptors()
        return await probe(target, check, tls), descriptors() - inside

    done, left_open = uvloop.run(main())
    assert left_open == 0
    assert descriptors() <= before
    return done


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def test_a_refused_connection(listening: socket.socket) -> None:
    port = listening.getsockname()[1]
    listening.close()
    done = run_probe(target_of(port), HealthCheck(timeout=LONG))
    assert (done.passed, done.evidence, done.ours) == (False, "connection refused", False)


def test_tcp_needs_no_more_than_a_connection(listening: socket.socket) -> None:
    done = run_probe(target_of(listening.getsockname()[1]), HealthCheck(type="tcp", timeout=LONG))
    assert done.passed
    assert done.evidence.startswith("connected in ")


@pytest.mark.parametrize("kind", ["tcp", "http"])
def test_the_check_s_own_port_goes_before_the_backend_s(listening: socket.socket, kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        closed = unused.getsockname()[1]
    check = HealthCheck(type=kind, port=listening.getsockname()[1], timeout=SHORT)  # type: ignore[arg-type]
    done = run_probe(target_of(closed), check)
    assert done.passed == (kind == "tcp")
    assert done.evidence.startswith("connected in " if kind == "tcp" else "no answer within")


def test_ipv6() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as sock:
        target = Target(("::1", sock.getsockname()[1], ""), "[::1]")
        assert run_probe(target, HealthCheck(type="tcp", timeout=LONG)).passed


def test_a_full_queue_hangs_at_connect() -> None:
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(sock.getsockname())
        done = run_probe(target_of(sock.getsockname()[1]), HealthCheck(type="tcp", timeout=SHORT))
    assert (done.passed, done.evidence) == (False, "no connection within 50 ms")


def test_unix_sockets_have_no_port(tmp_path: Path) -> None:
    path = str(tmp_path / "backend")
    target, check = Target(("", 0, path), "localhost"), HealthCheck(type="tcp", port=1, timeout=LONG)
    assert run_probe(target, check).evidence == "no such file or directory"
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.socket(socket.AF_UNIX))
        sock.bind(path)
        assert run_probe(target, check).evidence == "connection refused"
        sock.listen(0)
        assert run_probe(target, check).passed
        number = 0
        while number != errno.EAGAIN:
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
            number = waiting.connect_ex(path)
        assert run_probe(target, check).evidence == "its queue of connections is full"


def test_http_over_a_unix_socket(tmp_path: Path) -> None:
    async def main() -> ProbeResult:
        server = await asyncio.start_unix_server(answer, tmp_path / "backend")
        async with server:
            return await probe(Target(("", 0, str(tmp_path / "backend")), "localhost"), HealthCheck(timeout=LONG), None)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await writer.drain()
        writer.close()

    assert uvloop.run(main()).evidence.startswith("200 in ")


def test_being_out_of_descriptors_says_nothing_of_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object) -> None:
        raise OSError(errno.EMFILE, "x")

    async def main() -> ProbeResult:
        monkeypatch.setattr(probing.socket, "socket", none_left)
        try:
            return await probe(target_of(1), HealthCheck(timeout=LONG), None)
        finally:
            monkeypatch.undo()

    done = asyncio.run(main())
    assert (done.passed, done.ours) == (False, True)
    assert done.evidence == "this machine cannot ask: too many open files"


# TLS.


def test_tls_that_is_as_it_should_be() -> None:
    secure = server_tls("backend.test")
    done = against(answering(OK), HealthCheck(timeout=LONG, expect_text="ok"), pool_tls("backend.test"), secure)
    assert done.evidence.startswith("text found in ")


def test_tcp_with_tls_includes_the_handshake() -> None:
    check = HealthCheck(type="tcp", timeout=LONG)
    done = against(answering(), check, pool_tls("backend.test"), server_tls("backend.test"))
    assert done.evidence.startswith("connected with TLS in ")
    done = against(answering(), check, pool_tls("other.test"), server_tls("backend.test"))
    assert not done.passed


@pytest.mark.parametrize(("tls", "options", "words"), [
    (("other.test", "test authority"), {}, "TLS: certificate verify failed: Hostname mismatch, certificate is not"),
    (("backend.test", "another authority"), {}, "TLS: certificate verify failed: unable to get local issuer"),
    (("backend.test", "test authority"), {"expired": True}, "TLS: certificate verify failed: certificate has expired"),
    ((None, "test authority"), {}, "TLS: "),
])  # fmt: skip
def test_a_certificate_that_is_no_good(tls: tuple[str, str], options: dict[str, object], words: str) -> None:
    secure = server_tls("backend.test", **options)
    done = against(answering(OK), HealthCheck(timeout=LONG), pool_tls(*tls), secure)
    assert not done.passed
    assert done.evidence.startswith(words)


def test_content_over_tls_in_many_records() -> None:
    content = b"x" * (CONTENT_BYTES - 2) + b"ok"
    answer = answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content), content, hold=True)
    check = HealthCheck(timeout=LONG, expect_text="ok")
    assert against(answer, check, pool_tls("backend.test"), server_tls("backend.test")).passed


def test_a_backend_that_does_not_speak_tls() -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()

    done = against(plain, HealthCheck(timeout=LONG), pool_tls("backend.test"))
    assert (done.passed, done.evidence) == (False, "TLS: wrong version number")


def test_a_handshake_that_ends_or_hangs() -> None:
    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    tls = pool_tls("backend.test")
    assert against(close, HealthCheck(timeout=LONG), tls).evidence == "the connection ended, no TLS handshake"
    assert against(hang, HealthCheck(timeout=SHORT), tls).evidence == "no TLS handshake within 50 ms"


# What it leaves behind, and what it does to the loop.


def test_connections_end_by_reset() -> None:
    ends: list[BaseException | bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        try:
            ends.append(await reader.read())
        except ConnectionError as error:
            ends.append(error)

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        await probe(target_of(server.sockets[0].getsockname()[1]), HealthCheck(timeout=LONG), None)
        while not ends:
            await asyncio.sleep(0)
        server.close()

    uvloop.run(asyncio.wait_for(main(), LONG))
    assert isinstance(ends[0], ConnectionResetError)


def test_a_cancelled_probe_leaves_nothing(listening: socket.socket) -> None:
    async def main() -> None:
        before = descriptors()
        running = asyncio.ensure_future(probe(target_of(listening.getsockname()[1]), HealthCheck(timeout=LONG), None))
        while descriptors() == before:
            await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert descriptors() == before

    uvloop.run(main())


def test_a_stall_of_ours_is_not_held_against_the_backend(listening: socket.socket) -> None:
    def answer() -> None:
        sock, _ = listening.accept()
        with sock:
            sock.recv(1000)
            sock.sendall(OK)
            with contextlib.suppress(ConnectionError):
                sock.recv(1000)  # until the reset

    thread = threading.Thread(target=answer)
    thread.start()

    async def main() -> ProbeResult:
        running = asyncio.ensure_future(probe(target_of(listening.getsockname()[1]), HealthCheck(timeout=SHORT), None))
        await asyncio.sleep(0)
        time.sleep(SHORT + probing.LATE + 0.1)  # the stall: nothing else runs in this loop
        return await running

    done = uvloop.run(main())
    thread.join(LONG)
    assert done.passed, done.evidence


def test_a_backend_that_is_late_fails_though_the_loop_stalled(listening: socket.socket) -> None:
    async def main() -> ProbeResult:
        running = asyncio.ensure_future(probe(target_of(listening.getsockname()[1]), HealthCheck(timeout=SHORT), None))
        await asyncio.sleep(0)
        time.sleep(SHORT + probing.LATE + 0.1)
        return await asyncio.wait_for(running, LONG)

    assert uvloop.run(main()).evidence == "no answer within 50 ms"


@pytest.mark.parametrize("run", [uvloop.run, asyncio.run])
def test_probes_beyond_a_turn_s_share_wait_for_the_next(
    run: Callable[..., list[ProbeResult]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "TURN", 0.0)  # one step of one probe per turn

    async def main() -> list[ProbeResult]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1000)
        target = target_of(server.sockets[0].getsockname()[1])
        async with server:
            return await asyncio.gather(*(probe(target, HealthCheck(timeout=LONG), None) for _ in range(200)))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK)
            await writer.drain()
        writer.close()

    assert all(done.passed for done in run(main()))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=30),
            st.sampled_from(
                [OK, CHUNKED, UNTIL_CLOSE, b"\r\n", b"\r\n\r\n", b"HTTP/1.1 100 \r\n\r\n", b"5\r\n", b"ok"]
            ),
        ),
        max_size=6,
    ),
    st.sampled_from([None, "ok"]),
)
def test_whatever_is_sent_ends_in_a_result(pieces: list[bytes], text: str | None) -> None:
    assert ask(*pieces, expect_text=text).evidence
