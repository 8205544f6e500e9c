"""One request and its response through us, from the head's last byte to the response's: read this first.

The life of an exchange, in the order of the code:
(1) `begin`: route, act. (2) `_attempt`: pick a backend, take or open a connection, send. (3) `request_data`: the
body follows. (4) `respond`: the response head goes out. (5) `response_data`: its body follows. (6) `_complete`:
release, count, log, next. `fail` and `cancel` are the two other ends: the backend's or our fault, and the
client's going.

One object serves a client connection's exchanges one after the other (they are serial: RFC 9112 9.3.2), so the
common path allocates only heads. Law: in flight is raised in `_attempt` and lowered in `_end_attempt`, nowhere else.
"""

import asyncio
import math
from typing import TYPE_CHECKING

from balancer.balancing.backend import BackendState
from balancer.clock import monotonic
from balancer.errors import (
    BAD_RESPONSE,
    CLIENT_GONE,
    CLIENT_GONE_IN_REQUEST,
    CLIENT_GONE_IN_RESPONSE,
    COMPLETED,
    EXCHANGE_TIMEOUT,
    LOOP,
    STALE_CONNECTION,
    TUNNEL_CLOSED,
    UPSTREAM_RESET,
    UPSTREAM_TRUNCATED,
    Outcome,
    ProtocolError,
)
from balancer.http1.forwarding import replace_host, request_head, response_head
from balancer.http1.message import RequestHead, ResponseHead
from balancer.proxy import answering
from balancer.proxy.body import RequestBody, ResponseBody
from balancer.proxy.connections import ConnectError
from balancer.proxy.report import report
from balancer.proxy.tunnel import Tunnel
from balancer.proxy.upstream import IN_BODY, Upstream, deadline_after

if TYPE_CHECKING:
    from balancer.proxy.downstream import Downstream
    from balancer.proxy.snapshot import Destination, RoutePlan
    from balancer.transport.timers import Deadline

CONTINUE_AFTER = 1.0  # seconds a client that expects 100 is left to a backend that may ignore Expect (peers.md 4.2)
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
INTERIM_MAX = 20  # 1xx responses to one request; more is a flood (peers.md 4.4)
REPLAY_BYTES = 64 * 1024  # what is kept of a request to send it again; pingora's and linkerd's figure
IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"))  # RFC 9110 9.2.2
_NOBODY: frozenset[BackendState] = frozenset()


class Exchange:
    """One request and its response; reused for the next of the same client connection."""

    __slots__ = (
        "attempt_started",
        "attempting",
        "attempts",
        "backend",
        "body",
        "bytes_in",
        "bytes_out",
        "close",
        "connect_s",
        "continue_timer",
        "continued",
        "destination",
        "downstream",
        "first_byte_s",
        "head",
        "interims",
        "loads",
        "outcome",
        "payload",
        "persists",
        "request_id",
        "response_body",
        "reused",
        "route",
        "server",
        "started",
        "status",
        "task",
        "timer",
        "tried",
        "tunnel",
        "upstream",
    )

    head: RequestHead
    route: "RoutePlan | None"

    def __init__(self, downstream: "Downstream") -> None:
        self.downstream = downstream
        self.server = downstream.server
        self.loads = self.server.loads.own
        self.upstream: Upstream | None = None
        self.backend: BackendState | None = None
        self.task: asyncio.Task[None] | None = None
        self.timer: Deadline | None = None
        self.continue_timer: Deadline | None = None
        self.tried: set[BackendState] | None = None
        self.attempting = False
        self.payload = b""
        self.body: RequestBody | None = None
        self.response_body: ResponseBody | None = None
        self.destination: Destination | None = None
        self.tunnel: Tunnel | None = None
        self.route = None

    # (1) From the request head to an action.

    def begin(self, head: RequestHead, data: bytes, offset: int) -> int:
        """Start with `head`; `data[offset:]` came behind it. Returns the offset behind what belongs to this request.

        Raises ProtocolError for a request that cannot be served; nothing was forwarded then.
        """
        downstream = self.downstream
        listener = downstream.listener
        self.head = head
        self.started = monotonic()
        self.status = self.attempts = self.interims = 0
        self.bytes_in = len(head.raw)
        self.bytes_out = 0
        self.connect_s = self.first_byte_s = -1.0
        self.body = self.response_body = None
        self.destination = None
        self.backend = None
        self.continued = False
        self.outcome = COMPLETED
        self.request_id = head.request_id
        self.close = not head.keep_alive or downstream.must_close or (head.minor == 0 and not listener.http10_keepalive)
        route = self.route = listener.table.find(head, downstream.client(head))
        if head.length:
            limit = listener.limits.max_body if route is None or route.max_body is None else route.max_body
            self.body = RequestBody(head.length, limit)
        if route is None:
            return answering.no_route(self, data, offset)
        if route.answer is not None or head.max_forwards == 0:
            return answering.by_route(self, route, data, offset)
        destination = self.destination = route.destination(head.method)
        if head.via and downstream.forwarder.loops(head):
            answering.outcome(self, LOOP)
            return offset if self.body is None else -1
        if not head.request_id:
            self.request_id = self.server.next_request_id()
        payload = self._head_for(route, destination)
        end = offset
        body = self.body
        if body is not None:
            if len(data) > offset:
                first, end = body.feed(data, offset)
                payload += first
                self.bytes_in += (len(data) if end < 0 else end) - offset
            elif not body.done:
                end = -1
        self.payload = payload
        # From here on nothing raises: what is started now has an owner that ends it.
        if route.timeout is not None:
            self.timer = self.server.deadlines.at(self.started + route.timeout, self.fail, EXCHANGE_TIMEOUT)
        if head.continues:
            self.continue_timer = self.server.deadlines.at(self.started + CONTINUE_AFTER, self._continue_anyway)
        self._attempt()
        return end

    def _head_for(self, route: "RoutePlan", destination: "Destination") -> bytes:
        head = self.head
        target = head.target if route.rewrite is None else route.rewrite(head)
        made = b"" if head.request_id else b"\r\nX-Request-Id: " + self.request_id
        return request_head(
            head,
            target=target,
            host=destination.pool.host,
            block=self.downstream.forwarder.block(head),
            made_id=made,
            edit=route.edit_request,
        )

    # (2) An attempt.

    def _attempt(self) -> None:
        destination = self.destination
        assert destination is not None
        pool = destination.pool
        now = self.attempt_started = monotonic()
        backend = pool.state.pick(now=now, key=None, exclude=self.tried or _NOBODY, rng=self.server.rng)
        if backend is None:
            answering.outcome(self, pool.state.explain(now))
            return
        self.backend = backend
        self.loads[backend.slot] += 1
        self.attempting = True
        if pool.counts_attempts:
            pool.strategy.started(backend, now)
        self.attempts += 1
        if pool.backend_host or not self.head.host_field:  # or an HTTP/1.0 request without Host
            self.payload = replace_host(self.payload, backend.host_field)
        upstream = backend.connections.take(now)
        if upstream is None:
            self._connect(backend)
        else:
            self.reused = True
            self._send(upstream, now)

    def _connect(self, backend: BackendState) -> None:
        if self.body is not None and not self.body.done:
            self.downstream.pause_reading()
        self.reused = False
        self.task = self.server.loop.create_task(self._connect_and_send(backend))

    async def _connect_and_send(self, backend: BackendState) -> None:
        try:
            upstream = await backend.connections.connect()
        except ConnectError as error:
            self.task = None
            self.fail(error.outcome, str(error))
            return
        self.task = None
        now = monotonic()
        self.connect_s = now - self.attempt_started
        self._send(upstream, now)
        self.downstream.resume_reading()

    def _send(self, upstream: Upstream, now: float) -> None:
        self.upstream = upstream
        payload = self.payload
        if not self.reused or len(payload) > REPLAY_BYTES or (self.body is not None and not self.body.done):
            self.payload = b""  # it will not be sent again
        first_byte = upstream.connections.timeouts.first_byte
        # While the body is on its way the backend owes nothing yet: the client's own timeout judges.
        waiting = self.body is None or self.body.done
        upstream.send(self, payload, math.inf if first_byte is None or not waiting else now + first_byte)

    # (3) The request's body.

    def request_data(self, data: bytes, start: int) -> int:
        """More of the body. Returns the offset behind its end, or -1 for more. Raises ProtocolError."""
        body = self.body
        assert body is not None
        out, end = body.feed(data, start)
        self.bytes_in += (len(data) if end < 0 else end) - start
        upstream = self.upstream
        if out and upstream is not None and not upstream.closed:
            upstream.transport.write(out)
            if end >= 0 and self.status == 0:
                upstream.watch_until(deadline_after(upstream.connections.timeouts.first_byte))
        elif out and self.task is not None:
            self.payload += out  # connecting: reading is paused, so this is at most one read
        return end

    # (4) The response's head.

    def respond(self, upstream: Upstream, head: ResponseHead, data: bytes, end: int) -> None:
        """A response head came from `upstream`; `data[end:]` came behind it."""
        status = head.status
        if status < 200:
            self._interim(upstream, head, data, end)
            return
        self.status = status
        self.payload = b""
        downstream = self.downstream
        request = self.head
        self.first_byte_s = monotonic() - self.attempt_started
        length = head.length
        unread = self.body is not None and not self.body.done
        if unread or self.server.closing or (length < 0 and request.minor == 0):
            self.close = True
        self.persists = head.keep_alive
        route = self.route
        assert route is not None
        out = response_head(
            head,
            minor=request.minor,
            close=self.close,
            date=b"" if head.has_date else self.server.date.refresh(),
            edit=route.edit_response,
        )
        if length >= 0 and len(data) - end == length:  # all of it, in one read
            self.bytes_out = len(out) + length
            downstream.transport.write(out + data[end:] if length else out)
            self._complete(clean=True)
            return
        self.bytes_out = len(out)
        upstream.state = IN_BODY
        body = self.response_body = ResponseBody(length, request.minor, request.te_trailers)
        if len(data) == end and length:
            downstream.transport.write(out)
            upstream.watch_until(deadline_after(upstream.connections.timeouts.body_idle))
            return
        self._first_body(upstream, body, out, data, end)

    def _first_body(self, upstream: Upstream, body: ResponseBody, out: bytes, data: bytes, end: int) -> None:
        try:
            first, behind = body.feed(data, end)
        except ProtocolError as error:
            self.downstream.transport.write(out)
            self.fail(error.outcome, error.detail)
            return
        self.bytes_out += len(first)
        self.downstream.transport.write(out + first)
        if behind >= 0:
            self._complete(clean=behind == len(data))
        else:
            upstream.watch_until(deadline_after(upstream.connections.timeouts.body_idle))

    def _interim(self, upstream: Upstream, head: ResponseHead, data: bytes, end: int) -> None:
        """RFC 9110 15.2: passed on to a client of 1.1; 101 only where a tunnel was asked for (7.8)."""
        if head.status == 101:
            if not self.head.upgrade or head.upgrade != b"websocket":
                self.fail(BAD_RESPONSE, "101 that was not asked for")
                return
            self.status = 101
            self.first_byte_s = monotonic() - self.attempt_started
            self._stop_timers()  # the exchange is answered; a tunnel has a timeout of its own
            self.tunnel = Tunnel(self, upstream, head, data[end:])
            self.tunnel.open()
            return
        self.interims += 1
        if self.interims > INTERIM_MAX:
            self.fail(BAD_RESPONSE, f"more than {INTERIM_MAX} interim responses")
            return
        self.payload = b""  # the backend has seen the request: no silent second sending
        said, self.continued = self.continued, False
        self._stop_continue_timer()
        if self.head.minor == 1 and not (head.status == 100 and said):
            out = response_head(head, minor=1, close=False, date=b"", edit=None)
            self.bytes_out += len(out)
            self.downstream.transport.write(out)
        if self.body is None or self.body.done:
            upstream.watch_until(deadline_after(upstream.connections.timeouts.first_byte))
        if len(data) > end:
            upstream.head_data(self, data[end:])

    def _continue_anyway(self) -> None:
        """The backend said nothing to Expect: let the body come, as RFC 9110 10.1.1 lets a client do."""
        self.continue_timer = None
        if self.status == 0 and self.interims == 0:
            self.continued = True
            self.downstream.transport.write(CONTINUE)
            self.bytes_out += len(CONTINUE)

    def _stop_timers(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self._stop_continue_timer()

    def _stop_continue_timer(self) -> None:
        if self.continue_timer is not None:
            self.continue_timer.cancel()
            self.continue_timer = None

    # (5) The response's body.

    def response_data(self, data: bytes, start: int) -> None:
        """More of the response's body."""
        body = self.response_body
        upstream = self.upstream
        assert body is not None
        assert upstream is not None
        try:
            out, end = body.feed(data, start)
        except ProtocolError as error:
            self.fail(error.outcome, error.detail)
            return
        self.bytes_out += len(out)
        if out:
            self.downstream.transport.write(out)
        if end >= 0:
            self._complete(clean=end == len(data))
        else:
            upstream.watch_until(deadline_after(upstream.connections.timeouts.body_idle))

    def response_eof(self) -> None:
        """The backend ended its stream inside a body."""
        body = self.response_body
        assert body is not None
        last = body.end_of_stream()
        if last is None:
            self.fail(UPSTREAM_TRUNCATED, "the backend closed inside the body")
            return
        if last:
            self.bytes_out += len(last)
            self.downstream.transport.write(last)
        self._complete(clean=False)

    # (6) The three ends.

    def _complete(self, *, clean: bool) -> None:
        """The response is out. `clean`: the backend sent exactly it, so its connection can serve again."""
        now = monotonic()
        upstream = self.upstream
        assert upstream is not None
        unread = self.body is not None and not self.body.done
        if clean and self.persists and not unread:
            upstream.release(now)
        else:
            upstream.discard()
        self.upstream = None
        self._end_attempt(COMPLETED, now)
        self._finish(now)
        self.downstream.exchange_ended(self.close, unread)

    def fail(self, outcome: Outcome, detail: str = "") -> None:
        """The backend, or we, cannot go on: send it again where that is safe, answer, or cut the client off."""
        now = monotonic()
        upstream = self.upstream
        if upstream is not None:
            self.upstream = None
            upstream.discard()
        if self.task is not None:
            self.task.cancel()
            self.task = None
        self._end_attempt(outcome, now)
        if outcome is STALE_CONNECTION:
            backend = self.backend
            assert backend is not None
            backend.connections.stale[0] += 1
            if self._may_send_again():
                self.server.count_retry(backend.pool, outcome.reason)
                self._send_again(backend)
                return
        self.server.log_failure(self, outcome, detail)
        if self.status == 0:
            answering.outcome(self, outcome)
            return
        self.outcome = outcome
        self._finish(now)
        self.downstream.cut_off()

    def _may_send_again(self) -> bool:
        return bool(self.payload) and self.head.method in IDEMPOTENT and not self.downstream.closed

    def _send_again(self, backend: BackendState) -> None:
        """Once, on a fresh connection to the same backend: it did not fail, its connection was old."""
        now = self.attempt_started = monotonic()
        self.loads[backend.slot] += 1
        self.attempting = True
        destination = self.destination
        assert destination is not None
        if destination.pool.counts_attempts:
            destination.pool.strategy.started(backend, now)
        self.attempts += 1
        self._connect(backend)

    def upstream_lost(self) -> None:
        """The backend's connection is gone while it was ours."""
        self.upstream = None
        if self.tunnel is not None:
            self.tunnel.end(TUNNEL_CLOSED)
        elif self.status:
            self.fail(UPSTREAM_TRUNCATED, "the backend closed or reset the connection inside the body")
        elif self.reused and self.interims == 0:
            self.fail(STALE_CONNECTION, "a reused connection closed before an answer")
        else:
            self.fail(UPSTREAM_RESET, "the backend closed before an answer")

    def cancel(self, outcome: Outcome | None = None) -> None:
        """The client is gone (or stalled, or the process stops): end the attempt, count, say nothing."""
        if self.tunnel is not None:
            self.tunnel.end(TUNNEL_CLOSED if outcome is None else outcome)
            return
        now = monotonic()
        if outcome is None:
            if self.status:
                outcome = CLIENT_GONE_IN_RESPONSE
            else:
                unread = self.body is not None and not self.body.done
                outcome = CLIENT_GONE_IN_REQUEST if unread else CLIENT_GONE
        upstream = self.upstream
        if upstream is not None:
            self.upstream = None
            upstream.discard()
        if self.task is not None:
            self.task.cancel()
            self.task = None
        self._end_attempt(outcome, now)
        self.outcome = outcome
        self._finish(now)

    def ended(self, outcome: Outcome) -> None:
        """A tunnel is over."""
        now = monotonic()
        self.tunnel = None
        self._end_attempt(outcome, now)
        self.outcome = outcome
        self._finish(now)

    def _end_attempt(self, outcome: Outcome, now: float) -> None:
        backend = self.backend
        if not self.attempting or backend is None:
            return
        self.attempting = False
        destination = self.destination
        assert destination is not None
        self.loads[backend.slot] -= 1
        latency = now - self.attempt_started
        if destination.pool.counts_attempts:
            destination.pool.strategy.finished(backend, outcome, latency, self.first_byte_s, now)
        backend.counters.attempt_ended(self.status, latency)

    def _finish(self, now: float) -> None:
        if self.timer is not None or self.continue_timer is not None:
            self._stop_timers()
        self.payload = b""
        report(self, now - self.started)

    def answered(self, outcome: Outcome, status: int, size: int) -> None:
        """Our own answer of `size` bytes with `status` was written."""
        self.outcome = outcome
        self.status = status
        self.bytes_out += size
        self._finish(monotonic())

    # Back-pressure: the slow side pauses the other.

    def backend_is_slow(self) -> None:
        """The backend's write buffer is full."""
        self.downstream.pause_reading()
        upstream = self.upstream
        if upstream is not None and self.status == 0:
            upstream.watch_until(deadline_after(upstream.connections.timeouts.first_byte))

    def backend_caught_up(self) -> None:
        """The backend's write buffer drained."""
        self.downstream.resume_reading()
        if self.upstream is not None and self.status == 0 and self.body is not None and not self.body.done:
            self.upstream.watch_until(math.inf)

    def client_is_slow(self) -> None:
        """The client's write buffer is full."""
        if self.upstream is not None:
            self.upstream.pause_reading()

    def client_caught_up(self) -> None:
        """The client's write buffer drained."""
        if self.upstream is not None:
            self.upstream.resume_reading()
