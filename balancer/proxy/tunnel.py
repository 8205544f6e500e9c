"""A tunnel: after a backend's 101, bytes both ways until one side closes (RFC 9110 section 7.8)."""

from typing import TYPE_CHECKING

from balancer.errors import Outcome
from balancer.http1.forwarding import response_head
from balancer.http1.message import ResponseHead
from balancer.proxy.upstream import IN_TUNNEL, Upstream, deadline_after

if TYPE_CHECKING:
    from balancer.proxy.exchange import Exchange


class Tunnel:
    """The tunnel of one exchange. Its back-pressure is the exchange's; it stays in flight until `end`."""

    __slots__ = ("_early", "_exchange", "_head", "_idle", "_upstream")

    def __init__(self, exchange: "Exchange", upstream: Upstream, head: ResponseHead, early: bytes) -> None:
        """`head` is the backend's 101, `early` what it sent behind it."""
        assert exchange.destination is not None
        self._exchange = exchange
        self._upstream = upstream
        self._head = head
        self._early = early
        self._idle = exchange.destination.pool.tunnel_idle

    def open(self) -> None:
        """Pass the 101 on, and whatever either side sent ahead of it."""
        exchange = self._exchange
        upstream = self._upstream
        upstream.state = IN_TUNNEL
        edit = None if exchange.route is None else exchange.route.edit_response
        out = response_head(self._head, 1, False, b"", edit) + self._early
        exchange.bytes_out += len(out)
        exchange.downstream.transport.write(out)
        upstream.watch_until(deadline_after(self._idle))
        ahead = exchange.downstream.tunnel_opened()
        if ahead:
            self.from_client(ahead)

    def from_client(self, data: bytes) -> None:
        """Bytes towards the backend."""
        upstream = self._upstream
        if not upstream.closed:
            self._exchange.bytes_in += len(data)
            upstream.transport.write(data)
            upstream.watch_until(deadline_after(self._idle))

    def from_backend(self, data: bytes) -> None:
        """Bytes towards the client."""
        exchange = self._exchange
        exchange.bytes_out += len(data)
        if not exchange.downstream.closed:
            exchange.downstream.transport.write(data)
        self._upstream.watch_until(deadline_after(self._idle))

    def in_use(self) -> None:
        """It was not silent: `tunnel_idle` begins anew."""
        self._upstream.watch_until(deadline_after(self._idle))

    def end(self, outcome: Outcome) -> None:
        """One side closed, or both were silent too long: flush what is written and close the other."""
        exchange = self._exchange
        upstream, exchange.attempt.upstream = exchange.attempt.upstream, None
        if upstream is not None:
            upstream.finish_tunnel()
        exchange.ended(outcome)
        exchange.downstream.end_tunnel()
