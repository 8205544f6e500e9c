"""1xx responses: passed on, counted, or the beginning of a tunnel (RFC 9110 sections 10.1.1, 15.2 and 7.8)."""

from typing import TYPE_CHECKING

from balancer.clock import monotonic
from balancer.errors import BAD_RESPONSE
from balancer.http1.forwarding import response_head
from balancer.http1.message import ResponseHead
from balancer.proxy.tunnel import Tunnel
from balancer.proxy.upstream import Upstream

if TYPE_CHECKING:
    from balancer.proxy.exchange import Exchange

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
CONTINUE_AFTER = 1.0  # seconds that a client which expects 100 is left to a backend that may ignore Expect
INTERIM_MAX = 20  # to one request; more is a flood


def pass_on(exchange: "Exchange", upstream: Upstream, head: ResponseHead, data: bytes, end: int) -> None:
    """An interim response came; `data[end:]` came behind it. None goes to a client of HTTP/1.0."""
    if head.status == 101:
        if not exchange.head.rare.upgrade or head.upgrade != b"websocket":
            exchange.fail(BAD_RESPONSE, "101 that was not asked for")
            return
        exchange.status = 101
        exchange.attempt.seen()
        exchange.attempt.answered(monotonic())
        exchange.stop_timers()  # the exchange is answered; a tunnel has a timeout of its own
        exchange.tunnel = Tunnel(exchange, upstream, head, data[end:])
        exchange.tunnel.open()
        return
    if not head.keep_alive:
        upstream.retire()
    exchange.interims += 1
    if exchange.interims > INTERIM_MAX:
        exchange.fail(BAD_RESPONSE, f"more than {INTERIM_MAX} interim responses")
        return
    exchange.attempt.seen()
    said = False
    if head.status == 100:  # 103 is no answer to Expect
        said, exchange.continued = exchange.continued, False
        if exchange.continue_timer is not None:
            exchange.continue_timer.cancel()
            exchange.continue_timer = None
    if exchange.head.minor == 1 and not said:
        out = response_head(head, 1, False, b"", None)
        exchange.bytes_out += len(out)
        exchange.downstream.transport.write(out)
    if not exchange.uploading:
        upstream.watch_until(exchange.attempt.head_deadline(monotonic()))
    if len(data) > end:
        upstream.head_data(exchange, data[end:])


def continue_anyway(exchange: "Exchange") -> None:
    """The backend said nothing to Expect: let the body come, as RFC 9110 10.1.1 lets a client do by itself."""
    exchange.continue_timer = None
    if exchange.status == 0:
        exchange.continued = True
        exchange.bytes_out += len(CONTINUE)
        exchange.downstream.transport.write(CONTINUE)
