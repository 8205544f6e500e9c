"""The demo's backends: each names itself, shows what it was sent, and survives nonsense."""

import asyncio
from typing import Any

import pytest

from balancer.demo import DemoBackend


class RecordingTransport(asyncio.Transport):
    """Keeps what is written; closing is remembered."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        """Keep it."""
        self.written += bytes(data)

    def close(self) -> None:
        """Remember it."""
        self.closed = True


@pytest.fixture
def transport() -> RecordingTransport:
    return RecordingTransport()


@pytest.fixture
def backend(transport: RecordingTransport) -> DemoBackend:
    backend = DemoBackend("red")
    backend.connection_made(transport)
    return backend


def test_an_answer_names_the_backend_in_body_and_field(backend: DemoBackend, transport: RecordingTransport) -> None:
    backend.data_received(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    head, _, body = transport.written.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nX-Backend: red" in head
    assert body == b"hello from red\n"
    assert b"Content-Length: %d" % len(body) in head


def test_headers_shows_the_request_as_it_came(backend: DemoBackend, transport: RecordingTransport) -> None:
    backend.data_received(b"PUT /headers?x=1 HTTP/1.1\r\nHost: a\r\nX-Who: me\r\nContent-Length: 0\r\n\r\n")
    body = transport.written.partition(b"\r\n\r\n")[2]
    assert body == b"hello from red\nPUT /headers?x=1\nHost: a\nX-Who: me\nContent-Length: 0\n"


def test_one_connection_serves_one_request_after_another(backend: DemoBackend, transport: RecordingTransport) -> None:
    for _ in range(3):
        backend.data_received(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert transport.written.count(b"hello from red\n") == 3


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_bytes_of_a_body_are_counted_however_they_come(
    backend: DemoBackend, transport: RecordingTransport, size: int
) -> None:
    message = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3\r\nyou\r\n0\r\n\r\n"
    for start in range(0, len(message), size):
        backend.data_received(message[start : start + size])
    assert b"your body had 8 bytes" in transport.written


def test_head_has_no_body(backend: DemoBackend, transport: RecordingTransport) -> None:
    backend.data_received(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert transport.written.endswith(b"\r\n\r\n")
    assert b"Content-Length: 15" in transport.written


def test_an_answer_is_bounded_whatever_was_sent(backend: DemoBackend, transport: RecordingTransport) -> None:
    backend.data_received(b"GET /headers HTTP/1.1\r\nHost: a\r\nX-Long: " + b"x" * 100_000 + b"\r\n\r\n")
    assert len(transport.written) < 20_000


def test_nonsense_closes_the_connection(backend: DemoBackend, transport: RecordingTransport) -> None:
    backend.data_received(b"nonsense\r\n\r\n")
    assert transport.closed
    assert transport.written == b""
