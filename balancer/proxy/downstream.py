"""One client connection: finds request heads, hands each to the exchange, and closes in the stages of RFC 9112 9.6.

Hot path. Law: `state` says what the next bytes are.

    AWAITING_HEAD -> BUSY (request complete) | IN_BODY -> BUSY -> AWAITING_HEAD ...
    BUSY -> IN_TUNNEL; any -> LINGERING (all is said; what still comes is read and dropped) -> closed
"""

import asyncio
import math
import socket
import struct
from typing import TYPE_CHECKING, cast

from balancer.clock import monotonic
from balancer.errors import (
    BAD_REQUEST,
    BODY_TIMEOUT,
    CLIENT_STALLED,
    HEAD_TIMEOUT,
    HEAD_TOO_LARGE,
    URI_TOO_LONG,
    Outcome,
    ProtocolError,
)
from balancer.http1.answers import answer
from balancer.http1.forwarding import Forwarder
from balancer.http1.message import RequestHead
from balancer.http1.partial import LINE_SLACK, PartialRequest
from balancer.http1.plain_heads import head_end
from balancer.http1.request import parse_request_head
from balancer.proxy.answering import fields_for
from balancer.proxy.connections import hung_up, unsent
from balancer.proxy.exchange import Exchange
from balancer.proxy.report import report_refusal
from balancer.proxy.upstream import HIGH_WATER
from balancer.transport.tls import hold_unread

if TYPE_CHECKING:
    from balancer.proxy.server import ProxyServer
    from balancer.proxy.snapshot import ListenerPlan

AWAITING_HEAD, BUSY, IN_BODY, IN_TUNNEL, LINGERING = range(5)
AHEAD_BYTES = 64 * 1024  # read ahead of a response that is awaited: one head
END_POLL = 1.0  # seconds between looks for the end of a client that is not read from
CR = 13
EMPTY_LINES = 4  # before a request line (RFC 9112 2.2)
LINGER_SECONDS = 5.0
LINGER_BYTES = 1024 * 1024
RESET = struct.pack("ii", 1, 0)  # SO_LINGER(1, 0): a close that the client cannot take for a clean end


class Downstream(asyncio.Protocol):
    """A client's connection."""

    __slots__ = (
        "_ahead",
        "_empty_lines",
        "_lingered",
        "_partial",
        "_paused",
        "_stalled_size",
        "closed",
        "deadline",
        "exchange",
        "forwarder",
        "head_from",
        "listener",
        "must_close",
        "peer",
        "peer_bytes",
        "refused",
        "requests",
        "server",
        "slot_at",
        "state",
        "transport",
        "trusted",
    )

    transport: asyncio.Transport

    def __init__(self, server: "ProxyServer", listener: "ListenerPlan") -> None:
        self.server = server
        self.listener = listener
        self.exchange: Exchange | None = None
        self.state = AWAITING_HEAD
        self.closed = False
        self.must_close = False
        self.refused = False
        self.requests = 0
        self.deadline = math.inf
        self.slot_at = math.inf
        self._ahead = b""
        self._partial: PartialRequest | None = None
        self.head_from = 0.0
        self._empty_lines = 0
        self._lingered = 0
        self._paused = False
        self._stalled_size = -1

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Admit the client, or tell it at once that a limit is reached."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit from it
        self.transport.set_write_buffer_limits(HIGH_WATER)
        if self.listener.tls is not None:
            hold_unread(transport)
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if isinstance(peer, tuple) else ""
        self.peer_bytes = self.peer.encode("ascii") if self.peer else b"unix"
        listener = self.listener
        self.forwarder = Forwarder(
            peer=self.peer,
            proto=listener.scheme,
            port=listener.port_of(transport),
            via=self.server.via,
            networks=listener.networks,
            forwarded=listener.forwarded,
        )
        self.trusted = self.forwarder.trusted
        self.head_from = now = monotonic()
        refusal = self.server.admit(self, now)
        if refusal is not None:
            self.refused = True
            self._refuse(refusal)
            return
        self.deadline = now + listener.timeouts.head
        self.server.wheel.watch(self)

    def data_received(self, data: bytes) -> None:
        """Bytes of whatever the state says."""
        self.listener.bytes_in[0] += len(data)
        state = self.state
        if state == AWAITING_HEAD:
            if self._partial is None:
                self._process(data)
            else:
                self._more_head(self._partial, data)
        elif state == BUSY:
            self._read_ahead(data)
        elif state == IN_BODY:
            self._body_data(data)
        elif state == IN_TUNNEL:
            assert self.exchange is not None
            assert self.exchange.tunnel is not None
            self.exchange.tunnel.from_client(data)
        else:
            self._lingered += len(data)
            if self._lingered > LINGER_BYTES:
                self.transport.abort()

    def eof_received(self) -> bool:
        """The client's FIN. After a complete request it counts as gone, unless `half_close: allow`."""
        if self.state == BUSY and self.listener.half_close and self.listener.tls is None:
            self.must_close = True
            if self.exchange is not None:
                self.exchange.close = True
            return True
        self._client_gone()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self.closed = True
        self._client_gone()
        self.server.wheel.forget(self)
        self.server.released(self)

    def pause_writing(self) -> None:
        """The client reads slowly: stop the backend, and give the client `timeouts.send` to take some."""
        if self.exchange is not None:
            self.exchange.client_is_slow()
        self._stalled_size = unsent(self.transport)
        if self.state == BUSY:
            self.pause_reading()  # what it asks for next has to wait, too
        self._watch_until(monotonic() + self.listener.timeouts.send)

    def resume_writing(self) -> None:
        """It caught up."""
        self._stalled_size = -1
        if self.exchange is not None:
            self.exchange.client_caught_up()
        if self.state == AWAITING_HEAD:
            self._watch_until(monotonic() + self.listener.timeouts.keepalive_idle)
            self._go_on()
        else:
            self.resume_reading()

    def on_deadline(self, now: float) -> None:
        """A timeout of the wheel."""
        timeouts = self.listener.timeouts
        state = self.state
        if self._stalled_size >= 0:
            self._judge_stalled(now)
        elif state == AWAITING_HEAD:
            if self._partial is not None:
                self._refuse(HEAD_TIMEOUT)
            else:
                self.close()
        elif self._paused and self._active():
            self._look_for_end(now)
        elif state == IN_BODY:
            self._body_failed(BODY_TIMEOUT)
        elif state == LINGERING:
            self.transport.abort()
        else:  # the exchange has timeouts of its own
            self._watch_until(now + timeouts.keepalive_idle)

    def _watch_until(self, deadline: float) -> None:
        self.deadline = deadline
        if deadline < self.slot_at and not self.closed:
            self.server.wheel.watch(self)

    def _look_for_end(self, now: float) -> None:
        """While reading is paused a client's end would stand unseen behind what was not read: ask the kernel."""
        fd = self.transport.get_extra_info("socket").fileno()
        if fd >= 0 and hung_up(fd, half_close=self.listener.half_close):
            self._client_gone()
            self.transport.abort()
            return
        if self.exchange is not None and not self.exchange.attempt.will_resume():
            self.resume_reading()  # nobody else will; an end behind a full window is never seen
        if self._paused:
            self._watch_until(now + END_POLL)

    def _judge_stalled(self, now: float) -> None:
        size = unsent(self.transport)
        if size < self._stalled_size:
            self._stalled_size = size
            self._watch_until(now + self.listener.timeouts.send)
            return
        if self._active():
            assert self.exchange is not None
            self.exchange.cancel(CLIENT_STALLED)
        self.state = LINGERING
        self.transport.abort()

    # Heads.

    def _process(self, data: bytes) -> None:
        """Take the requests that `data` begins with, as far as they can be taken now."""
        offset = 0
        listener = self.listener
        if listener.outdated:
            listener = self.server.leftovers.take_over(self)
        limits = listener.limits
        exchange = self.exchange
        if exchange is None:
            exchange = self.exchange = Exchange(self)
        while True:
            if data[offset] == CR:
                offset = self._skip_empty_lines(data, offset)
                if offset < 0:
                    return
                if offset == len(data):
                    break
            end = head_end(data, offset)
            if end < 0:
                self._begin_partial(data[offset:] if offset else data)
                return
            if end - offset > limits.head_bytes:
                line_end = data.find(b"\r\n", offset)
                self._refuse(URI_TOO_LONG if line_end - offset > limits.uri_bytes + LINE_SLACK else HEAD_TOO_LARGE)
                return
            self._empty_lines = 0
            self.requests += 1
            if self.requests >= limits.max_requests_per_connection or self.server.closing:
                self.must_close = True
            try:
                head = parse_request_head(
                    data[offset:end] if offset or end != len(data) else data, limits.uri_bytes, limits.header_count
                )
                self.state = BUSY
                offset = exchange.begin(head, data, end)
            except ProtocolError as error:
                if self.state == BUSY:
                    exchange.refuse(error.outcome)
                else:
                    self._refuse(error.outcome, head=data.startswith(b"HEAD ", offset))
                return
            if self.state == BUSY:  # the exchange goes on
                if offset < 0:
                    self.state = IN_BODY
                    if not self._paused:
                        self._watch_until(monotonic() + listener.timeouts.body_idle)
                elif offset < len(data):
                    self._read_ahead(data[offset:])
                return
            if self.state != AWAITING_HEAD or offset >= len(data):
                return
            if self._stalled_size >= 0:  # it does not read what it asked for: the rest has to wait
                self._ahead = data[offset:]
                self.pause_reading()
                return

    def _skip_empty_lines(self, data: bytes, offset: int) -> int:
        while data[offset : offset + 2] == b"\r\n":
            offset += 2
            self._empty_lines += 1
            if self._empty_lines > EMPTY_LINES:
                self._refuse(BAD_REQUEST)
                return -1
        return offset

    def _begin_partial(self, data: bytes) -> None:
        """The beginning of a head; the rest has to come within `timeouts.head`, however much comes meanwhile."""
        limits = self.listener.limits
        self._partial = PartialRequest(limits.head_bytes, limits.uri_bytes)
        self.head_from = now = monotonic()
        self._watch_until(now + self.listener.timeouts.head)
        self._more_head(self._partial, data)

    def _more_head(self, partial: PartialRequest, data: bytes) -> None:
        try:
            whole = partial.add(data)
        except ProtocolError as error:
            self._refuse(error.outcome)
            return
        if whole is not None:
            self._partial = None
            self._process(whole)

    def _read_ahead(self, data: bytes) -> None:
        """Keep what a pipelining client sent; once a whole head is there, read no further."""
        self._ahead = self._ahead + data if self._ahead else data
        if len(self._ahead) > AHEAD_BYTES or b"\r\n\r\n" in self._ahead:
            self.pause_reading()

    # Bodies.

    def _body_data(self, data: bytes) -> None:
        exchange = self.exchange
        assert exchange is not None
        try:
            end = exchange.request_data(data, 0)
        except ProtocolError as error:
            self._body_failed(error.outcome)
            return
        if self.state != IN_BODY:
            return
        if end < 0:
            if not self._paused:
                self._watch_until(monotonic() + self.listener.timeouts.body_idle)
            return
        self.state = BUSY
        if self._stalled_size >= 0:
            self.pause_reading()
        if end < len(data):
            self._read_ahead(data[end:])

    def _body_failed(self, outcome: Outcome) -> None:
        """The body broke a rule, a limit or our patience: answer where nothing was said yet, else cut it off."""
        assert self.exchange is not None
        self.exchange.fail(outcome)

    # What the exchange calls.

    def client(self, head: RequestHead) -> str:
        """The client's address as text, seen through trusted proxies; "" for a Unix socket."""
        return self.forwarder.client(head) if self.trusted else self.peer

    def client_bytes(self, head: RequestHead) -> bytes:
        """The same for the access log."""
        return self.forwarder.client(head).encode("ascii") if self.trusted else self.peer_bytes

    def exchange_ended(self, close: bool, unread: bool, now: float) -> None:
        """The response is written. `unread`: part of the request was not read."""
        if self.closed:
            return
        if close:
            if unread or self._ahead or self.must_close or self.server.closing:
                self._linger()
            else:
                self.close()
            return
        self.state = AWAITING_HEAD
        if self._stalled_size >= 0:
            return  # `timeouts.send` goes on, and the next request begins when it reads again
        self.deadline = deadline = now + self.listener.timeouts.keepalive_idle
        if deadline < self.slot_at:
            self.server.wheel.watch(self)
        if self._ahead or self._paused:
            self._go_on()

    def _go_on(self) -> None:
        """Take the next request, which may have come ahead of its turn."""
        ahead, self._ahead = self._ahead, b""
        self.resume_reading()
        if ahead:
            self._process(ahead)

    def cut_off(self) -> None:
        """End a response that cannot be finished so that nobody takes it for complete: a reset, not a FIN."""
        if self.closed:
            return
        self.state = LINGERING
        sock = self.transport.get_extra_info("socket")
        if sock is not None and self.peer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.transport.abort()

    def tunnel_opened(self) -> bytes:
        """The backend agreed to a tunnel. Returns what the client sent ahead."""
        self.state = IN_TUNNEL
        early, self._ahead = self._ahead, b""
        self.resume_reading()
        return early

    def end_tunnel(self) -> None:
        """Flush and close."""
        self.state = LINGERING
        self.close()

    def pause_reading(self) -> None:
        """Read no more from the client for now."""
        if not self._paused and not self.closed and not self.transport.is_closing():
            self._paused = True
            self.transport.pause_reading()
            if self._active():
                self._watch_until(monotonic() + END_POLL)

    def resume_reading(self) -> None:
        """Read on."""
        if self._paused and not self.closed and not self.transport.is_closing():
            if self.state == BUSY and (
                self._stalled_size >= 0 or len(self._ahead) > AHEAD_BYTES or b"\r\n\r\n" in self._ahead
            ):
                return
            self._paused = False
            self.transport.resume_reading()
            if self.state == IN_BODY:
                self._watch_until(monotonic() + self.listener.timeouts.body_idle)

    def close(self) -> None:
        """Close when what is written is out; bounded by `timeouts.send`."""
        self.state = LINGERING
        if not self.closed:
            self._watch_until(monotonic() + self.listener.timeouts.send)
            self.transport.close()

    # Ends.

    def end_now(self, outcome: Outcome) -> None:
        """End whatever goes on here at once."""
        exchange = self.exchange
        if exchange is not None and self._active():
            self.state = LINGERING
            exchange.cancel(outcome)
        if not self.closed:
            self.transport.abort()

    def _active(self) -> bool:
        return self.state in (BUSY, IN_BODY, IN_TUNNEL)

    def _client_gone(self) -> None:
        exchange = self.exchange
        if exchange is None or not self._active():
            return
        self.state = LINGERING
        exchange.cancel()

    def _refuse(self, outcome: Outcome, *, head: bool = False) -> None:
        """Answer something that is no request we can serve, and close. `head`: it asked for no content."""
        self._partial = None
        if self.closed:
            return
        out = answer(
            outcome.status,
            close=True,
            head=head,
            date=self.server.date.refresh(),
            fields=fields_for(outcome, outcome.status),
        )
        report_refusal(self, outcome, len(out))
        self.transport.write(out)
        if self.refused and not self.server.may_linger():
            self.close()
        else:
            self._linger()

    def say_goodbye(self, seconds: float) -> None:
        """At shutdown: an idle connection gets a FIN and is read for `seconds`; a busy one ends after its answer."""
        self.must_close = True
        if self.state == AWAITING_HEAD and self._partial is None and not self.closed:
            # The first request of a connection that was accepted a moment ago is on its way: it still gets its answer.
            if self.requests:
                self._linger()
            self._watch_until(monotonic() + seconds)

    def _linger(self) -> None:
        """Say that we are done, then read on for a while, so that no reset destroys the answer (RFC 9112 9.6)."""
        self.state = LINGERING
        self.exchange = None  # nothing more is served here; let it go
        self._ahead = b""
        self._lingered = 0
        if self.closed:
            return
        if self.transport.get_write_buffer_size():  # the answer first, for as long as the client takes some of it
            self._stalled_size = unsent(self.transport)
            self._watch_until(monotonic() + self.listener.timeouts.send)
        else:
            self._watch_until(monotonic() + LINGER_SECONDS)
        self.resume_reading()
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()
