"""One try of an exchange at one backend: pick, connection, sending, and the count in flight.

Hot path. Law: a backend's cell of in flight is raised in `_begin` and lowered in `end`, nowhere else, and `end`
may be called twice. The object is reused by the exchange's next attempt.
"""

import asyncio
import math
from bisect import bisect_left
from typing import TYPE_CHECKING

from balancer.balancing.backend import BackendState
from balancer.clock import monotonic
from balancer.errors import UPSTREAM_RESET, Outcome
from balancer.http1.forwarding import replace_host
from balancer.proxy.connections import BackendConnections, ConnectError
from balancer.proxy.report import BackendCounters
from balancer.proxy.upstream import Upstream
from balancer.telemetry.metrics import BOUNDS

if TYPE_CHECKING:
    from balancer.proxy.exchange import Exchange
    from balancer.proxy.snapshot import PoolPlan

REPLAY_BYTES = 64 * 1024  # what is kept of a request to send it again; pingora's and linkerd's figure
IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"))  # RFC 9110 9.2.2
_NOBODY: frozenset[BackendState] = frozenset()


class Attempt:
    """The attempt under way, or the last one. `number` counts the exchange's attempts from 1; 0 = none yet, and
    `backend` is of an exchange before. `payload` is what can be sent again, b"" = nothing: the head and what is there
    of the body.
    """

    __slots__ = (
        "_active",
        "_exchange",
        "_loads",
        "_pool",
        "_server",
        "_task",
        "backend",
        "connect_s",
        "first_byte_s",
        "number",
        "payload",
        "reused",
        "started",
        "upstream",
    )

    _pool: "PoolPlan"

    def __init__(self, exchange: "Exchange") -> None:
        self._exchange = exchange
        self._server = exchange.server
        self._loads = self._server.loads.own
        self._active = False
        self._task: asyncio.Task[None] | None = None
        self.payload = b""
        self.backend: BackendState | None = None
        self.upstream: Upstream | None = None
        self.number = 0
        self.reused = False
        self.connect_s = self.first_byte_s = -1.0  # seconds; < 0 = did not happen

    def first(self, pool: "PoolPlan", payload: bytes, now: float) -> Outcome | None:
        """Pick a backend and send `payload`, the head and what is there of the body; an outcome = nobody to pick."""
        backend = pool.state.pick(now=now, key=None, exclude=_NOBODY, rng=self._server.rng)
        if backend is None:
            return pool.state.explain(now)
        exchange = self._exchange
        self._pool = pool
        if pool.backend_host or (not exchange.head.host_field and pool.host is None):  # HTTP/1.0 without Host
            payload = replace_host(payload, backend.host_field)
        self.payload = payload
        self._begin(backend, now)
        connections: BackendConnections = backend.connections
        upstream = connections.take(now)
        if upstream is None:
            self._connect(backend)
            return None
        self.reused = True
        self.upstream = upstream
        first_byte = connections.timeouts.first_byte
        deadline = math.inf if first_byte is None else now + first_byte
        if exchange.uploading:
            # The body is on its way, and the backend owes nothing yet: the client's own timeout judges.
            deadline = math.inf
            self.payload = b""  # it cannot be sent again
        elif len(payload) > REPLAY_BYTES:
            self.payload = b""
        upstream.send(exchange, payload, deadline)
        return None

    def send_again(self) -> bool:
        """Once more, on a fresh connection to the same backend, which did not fail: its connection was old.

        False where that could do a thing twice (RFC 9110 9.2.2) or the request is not at hand any more.
        """
        backend = self.backend
        if not self.payload or backend is None or self._exchange.head.method not in IDEMPOTENT:
            return False
        self._begin(backend, monotonic())
        self._connect(backend)
        return True

    def send_more(self, data: bytes, *, last: bool) -> None:
        """More of the request's body."""
        upstream = self.upstream
        if upstream is not None:
            if not upstream.closed:
                upstream.transport.write(data)
                if last and self._exchange.status == 0:
                    upstream.await_head()
        elif self._task is not None:
            self.payload += data  # connecting: reading is paused, so this is at most one read

    def seen(self) -> None:
        """The backend said something: its connection was not stale, and the request is not sent again unasked."""
        self.payload = b""
        self.reused = False

    def lost(self) -> None:
        """The connection closed by itself."""
        self.upstream = None

    def give_up(self) -> None:
        """Close the connection, or stop opening one."""
        upstream = self.upstream
        if upstream is not None:
            self.upstream = None
            upstream.discard()
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def end(self, outcome: Outcome, status: int, now: float) -> None:
        """The attempt is over, with the backend's `status` or 0. Harmless when it was before."""
        backend = self.backend
        if not self._active or backend is None:
            return
        self._active = False
        self._loads[backend.slot] -= 1
        latency = now - self.started
        if self._pool.counts_attempts:
            self._pool.strategy.finished(backend, outcome, latency, self.first_byte_s, now)
        counters: BackendCounters = backend.counters
        counters.codes[status // 100 if status < 600 else 5] += 1
        duration = counters.duration
        duration[bisect_left(BOUNDS, latency)] += 1
        duration[-1] += latency

    def _begin(self, backend: BackendState, now: float) -> None:
        self.backend = backend
        self.started = now
        self.number += 1
        self._active = True
        self._loads[backend.slot] += 1
        if self._pool.counts_attempts:
            self._pool.strategy.started(backend, now)

    def _connect(self, backend: BackendState) -> None:
        if self._exchange.uploading:
            self._exchange.downstream.pause_reading()
        self.reused = False
        self._task = self._server.loop.create_task(self._connect_and_send(backend))

    async def _connect_and_send(self, backend: BackendState) -> None:
        try:
            upstream = await backend.connections.connect()
        except ConnectError as error:
            self._task = None
            self._exchange.fail(error.outcome, str(error))
            return
        self._task = None
        now = monotonic()
        self.connect_s = now - self.started
        if upstream.closed:  # between its being made and our turn
            upstream.connections.active -= 1
            self._exchange.fail(UPSTREAM_RESET, "the backend closed the connection as soon as it was made")
            return
        self.upstream = upstream
        payload, self.payload = self.payload, b""
        first_byte = upstream.connections.timeouts.first_byte
        uploading = self._exchange.uploading
        upstream.send(self._exchange, payload, math.inf if uploading or first_byte is None else now + first_byte)
        self._exchange.downstream.resume_reading()
