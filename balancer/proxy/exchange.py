"""One request and its response through us, from the head's last byte to the response's: read this first.

The life of an exchange, in the order of the code:
(1) `begin`: route, act. (2) `Attempt.first`: pick a backend, take or open a connection, send. (3) `request_data`: the
body follows. (4) `respond`: the response head goes out. (5) `response_data`: its body follows. (6) `_complete`:
release, count, log, next. `fail` and `cancel` are the two other ends: the backend's or our fault, and the
client's going.

One object serves a client connection's exchanges one after the other (they are serial: RFC 9112 9.3.2), so the
common path allocates only heads.
"""

import math
from typing import TYPE_CHECKING

from balancer.clock import monotonic
from balancer.errors import (
    BAD_REQUEST,
    CLIENT_GONE,
    CLIENT_GONE_IN_QUEUE,
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
from balancer.http1.forwarding import request_head, response_head
from balancer.http1.message import RequestHead, ResponseHead
from balancer.proxy import answering, interim, retrying
from balancer.proxy.attempt import Attempt
from balancer.proxy.body import RequestBody, ResponseBody
from balancer.proxy.report import report
from balancer.proxy.tunnel import Tunnel
from balancer.proxy.upstream import IN_BODY, Upstream, deadline_after
from balancer.resilience.retry import IDEMPOTENT

if TYPE_CHECKING:
    from balancer.proxy.downstream import Downstream
    from balancer.proxy.snapshot import Destination, RoutePlan
    from balancer.transport.timers import Deadline


class Exchange:
    """One request and its response; reused for the next of the same client connection."""

    __slots__ = (
        "attempt",
        "body",
        "bytes_in",
        "bytes_out",
        "close",
        "continue_timer",
        "continued",
        "destination",
        "downstream",
        "extra",
        "head",
        "interims",
        "outcome",
        "persists",
        "request_id",
        "response_body",
        "route",
        "server",
        "started",
        "status",
        "timer",
        "tunnel",
        "uploading",
    )

    head: RequestHead
    uploading: bool  # part of the request's body is still to come
    route: "RoutePlan | None"
    extra: bytes  # our own lines of the request head, should it be made again for another pool

    def __init__(self, downstream: "Downstream") -> None:
        self.downstream = downstream
        self.server = downstream.server
        self.attempt = Attempt(self)
        self.timer: Deadline | None = None
        self.continue_timer: Deadline | None = None
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
        attempt = self.attempt
        self.head = head
        self.started = now = monotonic()
        self.status = self.interims = self.bytes_out = attempt.number = 0
        attempt.connect_s = attempt.first_byte_s = -1.0
        self.bytes_in = len(head.raw)
        self.body = self.response_body = self.destination = None
        self.uploading = self.continued = False
        self.outcome = COMPLETED
        self.request_id = head.request_id
        self.close = not head.keep_alive or downstream.must_close or (head.minor == 0 and not listener.http10_keepalive)
        client = downstream.client(head) if downstream.trusted else downstream.peer
        route = self.route = listener.table.find(head, client)
        if head.length:
            limit = listener.limits.max_body if route is None or route.max_body is None else route.max_body
            self.body = RequestBody(head, limit)
            self.uploading = True
        if route is None:
            return answering.no_route(self, data, offset)
        rare = head.rare
        if route.answer is not None or rare.max_forwards == 0:
            return answering.by_route(self, route, data, offset)
        destination = self.destination = route.destination or route.split(head.method)
        if rare.via and downstream.forwarder.loops(head):
            answering.outcome(self, LOOP)
            return offset if self.body is None else -1
        ours = downstream.forwarder.block(head)
        if not head.request_id:
            made = self.request_id = self.server.next_request_id()
            ours += b"\r\nX-Request-Id: " + made
        self.extra = ours
        target = head.target if route.rewrite is None else route.rewrite(head)
        payload = request_head(head, target, destination.pool.host, ours, route.edit_request)
        end = offset
        body = self.body
        if body is not None:
            if len(data) > offset:
                first, end = body.feed(data, offset)
                payload += first
                self.bytes_in += (len(data) if end < 0 else end) - offset
            else:
                end = -1
            self.uploading = not body.done
        # From here on nothing raises: what is started now has an owner that ends it.
        if route.timeout is not None:
            self.timer = self.server.deadlines.at(now + route.timeout, self.fail, EXCHANGE_TIMEOUT)
        if rare.continues:
            self.continue_timer = self.server.deadlines.at(now + interim.CONTINUE_AFTER, interim.continue_anyway, self)
        nobody = attempt.first(destination.pool, payload, now)
        if nobody is not None and not retrying.fall_back(self, nobody, now):
            answering.outcome(self, nobody)
        return end

    @property
    def repeatable(self) -> bool:
        """Whether the request may be sent again although a backend may have carried it out (RFC 9110 9.2.2)."""
        route = self.route
        return self.head.method in IDEMPOTENT or (route is not None and route.repeatable)

    def refuse(self, outcome: Outcome) -> None:
        """What `begin` raised: answer, log the request with it, and close."""
        if outcome is BAD_REQUEST:  # its path has no normal form: no route was found
            self.route = self.destination = None
        self.close = self.uploading = True
        answering.outcome(self, outcome)

    # (3) The request's body.

    def request_data(self, data: bytes, start: int) -> int:
        """More of the body. Returns the offset behind its end, or -1 for more. Raises ProtocolError."""
        body = self.body
        assert body is not None
        out, end = body.feed(data, start)
        self.bytes_in += (len(data) if end < 0 else end) - start
        if end >= 0:
            self.uploading = False
        if out:
            self.attempt.send_more(out, last=end >= 0)
        return end

    # (4) The response's head.

    def respond(self, upstream: Upstream, head: ResponseHead, data: bytes, end: int) -> None:
        """A response head came from `upstream`; `data[end:]` came behind it."""
        status = head.status
        if status < 200:
            interim.pass_on(self, upstream, head, data, end)
            return
        now = monotonic()
        if status >= 400 and retrying.replace(self, upstream, head, len(data) - end, now):
            return
        self.status = status
        attempt = self.attempt
        attempt.first_byte_s = now - attempt.asked
        attempt.payload = b""
        downstream = self.downstream
        request = self.head
        length = head.length
        if self.uploading:
            self.close = True
            attempt.answered(now)
        elif self.server.closing or (length < 0 and request.minor == 0):
            self.close = True
        self.persists = head.keep_alive
        route = self.route
        assert route is not None
        date = b"" if head.has_date else self.server.date.refresh()
        out = response_head(head, request.minor, self.close, date, route.edit_response)
        if length >= 0 and len(data) - end == length:  # all of it, in one read
            if length:
                out += data[end:]
            self.bytes_out += len(out)
            downstream.transport.write(out)
            self._complete(True, now)
            return
        self.bytes_out += len(out)
        upstream.state = IN_BODY
        body = self.response_body = ResponseBody(head, request.minor, request.rare.te_trailers)
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
            self._complete(behind == len(data), monotonic())
        else:
            upstream.watch_until(deadline_after(upstream.connections.timeouts.body_idle))

    def stop_timers(self) -> None:
        """No timeout of the exchange itself runs any more."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.continue_timer is not None:
            self.continue_timer.cancel()
            self.continue_timer = None

    # (5) The response's body.

    def response_data(self, data: bytes, start: int) -> None:
        """More of the response's body."""
        body = self.response_body
        upstream = self.attempt.upstream
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
            self._complete(end == len(data), monotonic())
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
        self._complete(False, monotonic())

    # (6) The three ends.

    def _complete(self, clean: bool, now: float) -> None:
        """The response is out. `clean`: the backend sent exactly it, so its connection can serve again."""
        attempt = self.attempt
        upstream = attempt.upstream
        assert upstream is not None
        attempt.upstream = None
        unread = self.uploading
        if clean and self.persists and not unread:
            upstream.connections.give_back(upstream, now)
        else:
            upstream.discard()
        attempt.end(COMPLETED, self.status, now)
        if attempt.number > 1:
            attempt.forget()
        if self.timer is not None or self.continue_timer is not None:
            self.stop_timers()
        report(self, now - self.started)
        self.downstream.exchange_ended(self.close, unread, now)

    def fail(self, outcome: Outcome, detail: str = "") -> None:
        """The backend, or we, cannot go on: send it again where that is safe, answer, or cut the client off."""
        now = monotonic()
        attempt = self.attempt
        blamed = retrying.blamed(self, outcome, now)
        attempt.give_up()
        attempt.end(blamed, self.status, now, hold=self.status == 0)
        if self.status == 0 and retrying.try_again(self, outcome, detail, now):
            return
        self.server.log_failure(self, outcome, detail)
        if self.status == 0:
            answering.outcome(self, outcome)
            return
        self.outcome = outcome
        self._finish(now)
        self.downstream.cut_off()

    def upstream_lost(self) -> None:
        """The backend's connection is gone while it was ours."""
        self.attempt.lost()
        if self.tunnel is not None:
            self.tunnel.end(TUNNEL_CLOSED)
        elif self.status:
            self.fail(UPSTREAM_TRUNCATED, "the backend closed or reset the connection inside the body")
        elif self.attempt.reused:
            self.fail(STALE_CONNECTION, "a reused connection closed before an answer")
        else:
            self.fail(UPSTREAM_RESET, "the backend closed before an answer")

    def cancel(self, outcome: Outcome | None = None) -> None:
        """The client is gone (or stalled, or the process stops): end the attempt, count, say nothing."""
        if self.tunnel is not None:
            self.tunnel.end(TUNNEL_CLOSED if outcome is None else outcome)
            return
        if outcome is None:
            if self.status:
                outcome = CLIENT_GONE_IN_RESPONSE
            elif self.attempt.line is not None:
                outcome = CLIENT_GONE_IN_QUEUE
            else:
                outcome = CLIENT_GONE_IN_REQUEST if self.uploading else CLIENT_GONE
        self.attempt.give_up()
        self.ended(outcome)

    def ended(self, outcome: Outcome) -> None:
        """It is over, and nothing more is said: a tunnel, or what was cancelled."""
        now = monotonic()
        self.tunnel = None
        self.attempt.end(outcome, self.status, now)
        self.outcome = outcome
        self._finish(now)

    def _finish(self, now: float) -> None:
        self.attempt.forget()
        if self.timer is not None or self.continue_timer is not None:
            self.stop_timers()
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
        upstream = self.attempt.upstream
        if upstream is not None and self.status == 0:
            upstream.watch_until(self.attempt.head_deadline(monotonic()))

    def backend_caught_up(self) -> None:
        """The backend's write buffer drained."""
        self.downstream.resume_reading()
        upstream = self.attempt.upstream
        if upstream is not None and self.status == 0 and self.uploading:
            upstream.watch_until(math.inf)

    def client_is_slow(self) -> None:
        """The client's write buffer is full."""
        if self.attempt.upstream is not None:
            self.attempt.upstream.pause_reading()

    def client_caught_up(self) -> None:
        """The client's write buffer drained. What the backend owes, it owes from now on."""
        upstream = self.attempt.upstream
        if upstream is not None:
            upstream.resume_reading()
            if self.tunnel is not None:
                self.tunnel.in_use()
            elif upstream.state == IN_BODY:
                upstream.watch_until(deadline_after(upstream.connections.timeouts.body_idle))
