"""One active probe of a backend: connect, shake hands where the pool has TLS, ask once where the check is of HTTP.

Law: whatever a backend does ends in a ProbeResult and in time. A probe holds at most one head and 64 KiB, a turn of
the loop spends at most about 10 ms on probes, and a stall of ours is not held against a backend.

A bare socket and one callback instead of a transport: it costs the same, and lets a probe wait for the next turn,
tell the connect from the handshake, and read no more than it needs. Connections end by reset: thousands a second
would else stay in TIME_WAIT and use up the ports.
"""

import asyncio
import errno
import os
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Final, NamedTuple
from weakref import WeakKeyDictionary

from balancer import __version__
from balancer.clock import monotonic
from balancer.config.model import HealthCheck
from balancer.errors import ProtocolError
from balancer.http1.framing import ChunkedDecoder
from balancer.http1.message import CHUNKED, NO_BODY, UNTIL_CLOSE
from balancer.http1.response import HEAD_BYTES, parse_response_head

CONTENT_BYTES: Final = 64 * 1024
"""How much of the content is searched for the expected text."""
TURN: Final = 0.01
"""Seconds of one turn of the loop that all its probes may use: a handshake costs half a millisecond, and hundreds
may be ready at once."""
LATE: Final = 0.1
"""Seconds by which a timeout must come late for us to have been the one that hung."""
_READ: Final = 16 * 1024  # not less: a TLS record that is read in parts would not wake the loop again
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST
_HTTP: Final = b"HTTP/1."
_OURS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_BODY_METHODS: Final = frozenset({"POST", "PUT", "PATCH"})

Tls = tuple[ssl.SSLContext, str | None]
"""The pool's client context, and the name to ask for and to verify."""


class Target(NamedTuple):
    """What is probed. `address`: (IP, port, "") or ("", 0, path of a Unix socket); `host`: for the Host field."""

    address: tuple[str, int, str]
    host: str


class ProbeResult(NamedTuple):
    """`evidence` is short, for a person. `ours`: this machine could not ask, which says nothing of the backend."""

    passed: bool
    evidence: str
    seconds: float
    ours: bool = False


class _FailedError(Exception):
    """The probe failed; the text is the evidence."""


async def probe(target: Target, check: HealthCheck, tls: Tls | None) -> ProbeResult:
    """Probe once, within `check.timeout` seconds. Raises nothing but CancelledError, and leaves nothing open."""
    running = _Probe(asyncio.get_running_loop(), target, check, tls)
    try:
        running.begin()
        return await running.done
    finally:
        running.close()


class _Turn:
    """The share of each turn of a loop that probes may use."""

    __slots__ = ("_ends",)

    def __init__(self) -> None:
        self._ends = 0.0  # 0 = no probe had anything to do in this turn yet

    def is_over(self, loop: asyncio.AbstractEventLoop) -> bool:
        now = monotonic()
        if not self._ends:
            self._ends = now + TURN
            loop.call_soon(self._next)
            return False
        return now >= self._ends

    def _next(self) -> None:
        self._ends = 0.0


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, _Turn] = WeakKeyDictionary()


class _Probe:
    """A probe that runs. `done` gets the result; `waiting` says what has not come yet."""

    __slots__ = (
        "_began",
        "_buffer",
        "_check",
        "_content",
        "_deadline",
        "_decoder",
        "_deferred",
        "_fd",
        "_head_bytes",
        "_left",
        "_loop",
        "_request",
        "_sock",
        "_step",
        "_target",
        "_text",
        "_timer",
        "_tls",
        "_turn",
        "_writing",
        "done",
        "waiting",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, target: Target, check: HealthCheck, tls: Tls | None) -> None:
        self._loop = loop
        self._target = target
        self._check = check
        self._tls = tls
        self._turn = _turns.get(loop) or _turns.setdefault(loop, _Turn())
        self._began = monotonic()
        self._deadline = self._began + check.timeout
        self._timer: asyncio.TimerHandle | None = loop.call_later(check.timeout, self._on_timeout, False)
        self._sock: socket.socket | None = None
        self._fd = -1
        self._step: Callable[[_Probe, socket.socket], None] = _Probe._connected  # no bound method: that is a cycle
        self._writing = True  # what the loop watches for: room to write, or something to read
        self._deferred = False
        self._request = b""
        self._buffer = bytearray()
        self._head_bytes = 0  # of interim heads
        self._content: bytearray | None = None  # None = the head is not complete
        self._left = NO_BODY
        self._decoder: ChunkedDecoder | None = None
        self._text = b""
        self.waiting = "connection"
        self.done: asyncio.Future[ProbeResult] = loop.create_future()

    def begin(self) -> None:
        """Connect. It may have failed on return."""
        host, port, path = self._target.address
        try:
            if path:
                family, address = socket.AF_UNIX, path
            else:
                family = socket.AF_INET6 if ":" in host else socket.AF_INET
                socket.inet_pton(family, host.partition("%")[0])  # a name would be looked up, and that blocks
                address = host, self._check.port or port  # type: ignore[assignment]
            sock = self._sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            self._fd = sock.fileno()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            number = sock.connect_ex(address)
            self._loop.add_writer(self._fd, self._on_event)
        except OSError as error:
            self._fail_by(error)
        else:
            if number not in (0, errno.EINPROGRESS):
                self._fail_by(OSError(number, os.strerror(number)))

    def close(self) -> None:
        """Leave nothing behind. May be called again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        sock, self._sock = self._sock, None
        if sock is not None:
            if self._writing:
                self._loop.remove_writer(self._fd)
            else:
                self._loop.remove_reader(self._fd)
            sock.close()

    def _finish(self, passed: bool, evidence: str, *, ours: bool = False) -> None:
        self.close()
        if not self.done.done():
            self.done.set_result(ProbeResult(passed, evidence, monotonic() - self._began, ours))

    def _pass(self, what: str) -> None:
        self._finish(True, f"{what} in {_shown(max(0.001, monotonic() - self._began))}")

    def _fail_by(self, error: OSError) -> None:
        ours = error.errno in _OURS
        if error.errno == errno.EAGAIN:
            text = "its queue of connections is full"  # only a Unix socket says so
        elif error.errno is not None and error.errno > 0:
            text = os.strerror(error.errno).lower()
        else:
            text = str(error)
        if ours:
            text = f"this machine cannot ask: {text}"
        elif self.waiting != "connection":
            text = f"{text}, no {self.waiting}"
        self._finish(False, text, ours=ours)

    def _on_timeout(self, extended: bool) -> None:
        now = monotonic()
        late = now - self._deadline
        if late > LATE and not extended:
            self._timer = self._loop.call_later(late, self._on_timeout, True)
        else:
            self._finish(False, f"no {self.waiting} within {_shown(self._check.timeout)}")

    def _on_event(self) -> None:
        if self._deferred or self._sock is None:
            return
        if self._turn.is_over(self._loop):
            self._deferred = True
            self._loop.call_soon(self._on_deferred)
            return
        try:
            self._step(self, self._sock)
        except _FailedError as failed:
            self._finish(False, str(failed))
        except BlockingIOError:
            pass
        except ssl.SSLWantReadError:
            self._watch(writing=False)
        except ssl.SSLWantWriteError:
            self._watch(writing=True)
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            self._finish(False, f"the connection ended, no {self.waiting}")
        except ssl.SSLError as error:
            self._finish(False, _tls_evidence(error))
        except OSError as error:
            self._fail_by(error)
        except ProtocolError as error:
            self._finish(False, f"no valid HTTP: {error.detail or error.outcome.reason}")

    def _on_deferred(self) -> None:
        self._deferred = False
        self._on_event()

    def _watch(self, *, writing: bool) -> None:
        if writing == self._writing:
            return
        self._writing = writing
        if writing:
            self._loop.add_writer(self._fd, self._on_event)
            self._loop.remove_reader(self._fd)
        else:
            self._loop.add_reader(self._fd, self._on_event)
            self._loop.remove_writer(self._fd)

    def _connected(self, sock: socket.socket) -> None:
        number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            raise OSError(number, os.strerror(number))
        if self._tls is None:
            self._ask(sock)
            return
        self.waiting = "TLS handshake"
        context, name = self._tls
        try:
            secure = context.wrap_socket(sock, server_hostname=name, do_handshake_on_connect=False)
        except ValueError as error:  # a name that cannot be asked for
            raise _FailedError(f"TLS: {error}") from None
        self._sock = secure
        self._step = _Probe._shake_hands
        self._shake_hands(secure)

    def _shake_hands(self, sock: socket.socket) -> None:
        if isinstance(sock, ssl.SSLSocket):
            sock.do_handshake()
        self._ask(sock)

    def _ask(self, sock: socket.socket) -> None:
        if self._check.type == "tcp":
            self._pass("connected" if self._tls is None else "connected with TLS")
            return
        self.waiting = "answer"
        self._request = _request_of(self._check, self._target.host)
        self._step = _Probe._send
        self._send(sock)

    def _send(self, sock: socket.socket) -> None:
        self._request = self._request[sock.send(self._request) :]
        if self._request:
            self._watch(writing=True)
            return
        self._step = _Probe._receive
        self._watch(writing=False)

    def _receive(self, sock: socket.socket) -> None:
        data = sock.recv(_READ)
        if not data:
            if self._content is not None and self._left == UNTIL_CLOSE:
                raise self._without_text(self._content)
            raise _FailedError(f"the connection ended, no {self.waiting}")
        self.waiting = "complete answer"
        if self._content is None:
            self._read_head(data)
        else:
            self._read_content(self._content, data)

    def _read_head(self, data: bytes) -> None:
        buffer = self._buffer
        searched = max(0, len(buffer) - 3)
        buffer += data
        if not _HTTP.startswith(bytes(buffer[: len(_HTTP)])):
            raise _FailedError(f"no HTTP, it begins with {ascii(bytes(buffer[:20]))[1:]}")
        while (end := buffer.find(b"\r\n\r\n", searched) + 4) > 3:
            head = parse_response_head(bytes(buffer[:end]), self._check.method.encode())
            del buffer[:end]
            if head.status >= 200 or head.status == 101:
                self._judge(head.status, head.length)
                return
            self._head_bytes += end
            searched = 0
        if self._head_bytes + len(buffer) > HEAD_BYTES:
            raise _FailedError(f"no end of the head within {HEAD_BYTES // 1024} KiB")

    def _judge(self, status: int, length: int) -> None:
        """The head is complete, the content begins."""
        check = self._check
        if not any(low <= status <= high for low, high in check.expect_status):
            raise _FailedError(f"status {status}, expected {_ranges(check.expect_status)}")
        if check.expect_text is None:
            self._pass(str(status))
            return
        self._text = check.expect_text.encode("utf-8", "replace")
        self._content = bytearray()
        self._left = length
        if length == CHUNKED:
            self._decoder = ChunkedDecoder()
        data, self._buffer = bytes(self._buffer), bytearray()
        if data or length == NO_BODY:
            self._read_content(self._content, data)

    def _read_content(self, content: bytearray, data: bytes) -> None:
        """Pass as soon as the text is there: what is behind it does not matter, however it was cut."""
        broken: ProtocolError | None = None
        ended = False
        if self._decoder is not None:
            pieces: list[bytes] = []
            try:
                ended = self._decoder.feed(data, 0, pieces) >= 0
            except ProtocolError as error:
                broken = error
            data = b"".join(pieces)
        elif self._left != UNTIL_CLOSE:
            data = data[: self._left]
            self._left -= len(data)
            ended = not self._left
        searched = max(0, len(content) - len(self._text) + 1)
        content += data
        if content.find(self._text, searched, CONTENT_BYTES) >= 0:
            self._pass("text found")
        elif broken is not None:
            raise broken
        elif ended or len(content) >= CONTENT_BYTES:
            raise self._without_text(content)

    def _without_text(self, content: bytearray) -> _FailedError:
        where = f"{len(content)} bytes of content" if len(content) < CONTENT_BYTES else "first 64 KiB"
        return _FailedError(f"text {_cut(repr(self._check.expect_text))} not in the {where}")


def _request_of(check: HealthCheck, host: str) -> bytes:
    lines = [f"{check.method} {check.path} HTTP/1.1", f"Host: {check.host or host}", "Connection: close"]
    if not any(name.lower() == "user-agent" for name in check.headers):
        lines.append(f"User-Agent: balancer/{__version__} health check")
    lines += [f"{name}: {value}" for name, value in check.headers.items()]
    if check.method in _BODY_METHODS:
        lines.append("Content-Length: 0")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "replace")


def _tls_evidence(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: certificate verify failed: {_cut(error.verify_message.rstrip('.'))}"
    return f"TLS: {(error.reason or str(error)).replace('_', ' ').lower()}"


def _ranges(statuses: tuple[tuple[int, int], ...]) -> str:
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in statuses)


def _shown(seconds: float) -> str:
    return f"{seconds:g} s" if seconds >= 1 and seconds == round(seconds, 1) else f"{seconds * 1000:.0f} ms"


def _cut(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
