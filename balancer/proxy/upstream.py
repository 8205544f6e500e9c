"""One connection to a backend. It finds the end of response heads and knows what it is waiting for; the exchange
that holds it decides everything else.

Hot path. Law: `state` says what the next bytes are; bytes while IDLE are an unasked-for answer and end the
connection (RFC 9112 section 9.2).
"""

import asyncio
import math
import socket
from typing import TYPE_CHECKING, cast

from balancer.clock import monotonic
from balancer.errors import (
    BODY_IDLE_TIMEOUT,
    TUNNEL_IDLE,
    ProtocolError,
)
from balancer.http1.partial import PartialResponse
from balancer.http1.plain_heads import head_end
from balancer.http1.response import HEAD_BYTES, parse_response_head
from balancer.proxy.connections import IDLE, BackendConnections, readable, unsent
from balancer.transport.tls import hold_unread

if TYPE_CHECKING:
    from balancer.proxy.exchange import Exchange

AWAITING_HEAD, IN_BODY, IN_TUNNEL = range(IDLE + 1, IDLE + 4)
HIGH_WATER = 64 * 1024  # bytes kept for a slow reader before the other side is paused
SALVAGE = 256 * 1024
FLUSH_SECONDS = 5.0  # that a backend may take nothing of what is left of a tunnel


class Upstream(asyncio.Protocol):
    """A connection to a backend, idle or held by one exchange."""

    __slots__ = (
        "_partial",
        "_unflushed",
        "age_limit",
        "closed",
        "connections",
        "deadline",
        "exchange",
        "idle_since",
        "opened",
        "reading",
        "requests",
        "slot_at",
        "stalled",
        "state",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, connections: BackendConnections, age_limit: float) -> None:
        self.connections = connections
        self.age_limit = age_limit
        self.exchange: Exchange | None = None
        self.state = IDLE
        self.closed = False
        self.requests = 0
        self.opened = 0.0
        self.idle_since = 0.0
        self.deadline = math.inf
        self.slot_at = math.inf
        self._partial: PartialResponse | None = None
        self.reading = True
        self.stalled = False  # it reads slowly, and its client is not read from
        self._unflushed = 0

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Set the write bound; the connect task takes it from there."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit from it
        self.transport.set_write_buffer_limits(HIGH_WATER)
        if self.connections.tls is not None:
            hold_unread(transport)

    def data_received(self, data: bytes) -> None:
        """Response bytes."""
        exchange = self.exchange
        state = self.state
        if exchange is None:
            self.close()  # RFC 9112 9.2: nothing was asked
        elif state == AWAITING_HEAD:
            self.head_data(exchange, data)
        elif state == IN_BODY:
            exchange.response_data(data, 0)
        elif state == IN_TUNNEL:
            assert exchange.tunnel is not None
            exchange.tunnel.from_backend(data)

    def eof_received(self) -> bool:
        """The backend's FIN: the end of a close-delimited body, of a tunnel, or of patience."""
        exchange = self.exchange
        if exchange is None:
            self.connections.drop(self)  # before the loop says that it is lost: nobody may take it meanwhile
            self.closed = True
        elif self.state == IN_BODY:
            exchange.response_eof()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, by whoever's doing."""
        exchange = self.exchange
        if exc is not None and exchange is not None and self.state == AWAITING_HEAD and not self.closed:
            # Our write failed, but an answer may lie unread: a backend that refuses a body answers, then resets.
            self.closed = True
            self._salvage()
            exchange = self.exchange
        self.closed = True
        self.connections.wheel.forget(self)
        if exchange is not None:
            self.exchange = None
            self.connections.active -= 1
            exchange.upstream_lost()
        else:
            self.connections.drop(self)

    def pause_writing(self) -> None:
        """The backend reads slowly: stop reading from the client."""
        self.stalled = True
        if self.exchange is not None:
            self.exchange.backend_is_slow()

    def resume_writing(self) -> None:
        """It caught up."""
        self.stalled = False
        if self.exchange is not None:
            self.exchange.backend_caught_up()

    def on_deadline(self, now: float) -> None:
        """A timeout of the wheel: what was waited for did not come."""
        exchange = self.exchange
        if exchange is None:
            if self.closed:
                self._judge_flush(now)
            else:
                self.connections.drop(self)
                self.close()
        elif not self.reading:
            self.deadline = now + 1.0  # the client is the slow one; its own timeout judges
            self.connections.wheel.watch(self)
        elif self.state == AWAITING_HEAD:
            exchange.fail(exchange.attempt.late())
        elif self.state == IN_BODY:
            exchange.fail(BODY_IDLE_TIMEOUT)
        else:
            assert exchange.tunnel is not None
            exchange.tunnel.end(TUNNEL_IDLE)

    # What the exchange calls.

    def send(self, exchange: "Exchange", payload: bytes, deadline: float) -> None:
        """Begin an attempt: write the head (and what is there of the body) and await a response head."""
        self.exchange = exchange
        self.state = AWAITING_HEAD
        self.requests += 1
        self.deadline = deadline
        if deadline < self.slot_at:
            self.connections.wheel.watch(self)
        self.transport.write(payload)

    def retire(self) -> None:
        """Close it when its exchange is over: what it said leaves the end of a later answer in doubt."""
        self.age_limit = -1.0

    def watch_until(self, deadline: float) -> None:
        """Move the deadline; math.inf = none."""
        self.deadline = deadline
        if deadline < self.slot_at and not self.closed:
            self.connections.wheel.watch(self)

    def discard(self) -> None:
        """The exchange is done with it and nobody may use it again."""
        self.exchange = None
        self.connections.active -= 1
        self.close()

    def finish_tunnel(self) -> None:
        """The client's side of a tunnel ended: flush for as long as the backend takes some of it, then close."""
        self.exchange = None
        self.connections.active -= 1
        if not self.closed:
            self.closed = True
            self.transport.close()
            self._unflushed = unsent(self.transport)
            self.deadline = monotonic() + FLUSH_SECONDS
            self.connections.wheel.watch(self)

    def _judge_flush(self, now: float) -> None:
        left = unsent(self.transport)
        if left < self._unflushed:
            self._unflushed = left
            self.deadline = now + FLUSH_SECONDS
            self.connections.wheel.watch(self)
        else:
            self.transport.abort()

    def pause_reading(self) -> None:
        """Stop the backend: the client reads slowly."""
        if self.reading and not self.closed and not self.transport.is_closing():
            self.reading = False
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Let it go on."""
        if not self.reading and not self.closed and not self.transport.is_closing():
            self.reading = True
            self.transport.resume_reading()

    def is_readable(self) -> bool:
        """Whether the kernel has something of an idle connection: an end, an error or an unasked-for answer."""
        fd = self.transport.get_extra_info("socket").fileno()
        return fd < 0 or readable(fd)

    def close(self) -> None:
        """Close at once; what was not written yet is of no use to the backend."""
        if not self.closed:
            self.closed = True
            self.connections.wheel.forget(self)
            self.transport.abort()

    # Response heads.

    def head_data(self, exchange: "Exchange", data: bytes) -> None:
        """Bytes of a response head, the first or one behind an interim response."""
        end = head_end(data, 0) if self._partial is None else -1
        try:
            if end < 0:
                whole = self._more_head(exchange, data)
                if whole is None:
                    return
                data = whole
                end = head_end(data, 0)
            head = parse_response_head(data if end == len(data) else data[:end], exchange.head.method)
        except ProtocolError as error:
            exchange.fail(error.outcome, error.detail)
            return
        self.connections.answered += 1
        exchange.respond(self, head, data, end)

    def _more_head(self, exchange: "Exchange", data: bytes) -> bytes | None:
        partial = self._partial
        if partial is None:
            partial = self._partial = PartialResponse(HEAD_BYTES)
            exchange.attempt.seen()
        whole = partial.add(data)
        if whole is not None:
            self._partial = None
        return whole

    def _salvage(self) -> None:
        sock = self.transport.get_extra_info("socket")
        if sock is None or self.transport.get_extra_info("sslcontext") is not None:
            return
        fd = sock.fileno()
        if fd < 0:
            return
        copy = socket.socket(fileno=socket.dup(fd))
        data = b""
        ended = False
        try:
            copy.setblocking(False)
            data = copy.recv(SALVAGE)
            ended = copy.recv(1) == b""  # a FIN behind it; anything else leaves the end in doubt
        except OSError:
            pass  # nothing, or nothing more, lies there: the loss stands as it is
        finally:
            copy.close()
        if data:
            self.connections.wheel.forget(self)
            self.data_received(data)
            if ended and self.exchange is not None and self.state == IN_BODY:
                self.exchange.response_eof()


def deadline_after(seconds: float | None) -> float:
    """The monotonic time `seconds` from now; None = never."""
    return math.inf if seconds is None else monotonic() + seconds
