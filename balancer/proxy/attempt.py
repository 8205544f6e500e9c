"""The tries of an exchange at backends, one after the other: pick, connection, sending, and the count in flight.

Hot path. Law: a backend's cell of in flight is raised in `_start` and lowered in `end`, nowhere else, and `end` may be
called twice. The object is reused by the exchange's next attempt and by the connection's next exchange.
"""

import asyncio
import math
import re
from bisect import bisect_left
from typing import TYPE_CHECKING

from balancer.balancing.backend import BackendState
from balancer.clock import monotonic
from balancer.errors import ATTEMPT_TIMEOUT, FIRST_BYTE_TIMEOUT, POOL_FULL, UPSTREAM_RESET, Outcome
from balancer.http1.forwarding import replace_host
from balancer.proxy.connections import BackendConnections, ConnectError
from balancer.proxy.outcomes import failure_reason
from balancer.proxy.report import BackendCounters
from balancer.proxy.upstream import Upstream
from balancer.telemetry.metrics import BOUNDS

if TYPE_CHECKING:
    from balancer.proxy.exchange import Exchange
    from balancer.proxy.snapshot import PoolPlan
    from balancer.proxy.waiting import WaitingLine

REPLAY_BYTES = 64 * 1024  # what is kept of a request to send it again; pingora's and linkerd's figure
TRIAL_PATIENCE = 1.0  # seconds that a trial waits for a request that would lose nothing
_NOBODY: frozenset[BackendState] = frozenset()
_ATTEMPT_LINE = re.compile(rb"\r\nX-Balancer-Attempt:[^\r]*", re.IGNORECASE)


class Attempt:
    """The attempt under way, or the last one. `number` counts the exchange's attempts from 1; 0 = none yet, and
    `backend` is of an exchange before. `payload` is what can be sent again, b"" = nothing: the head and what came of
    the body, up to REPLAY_BYTES. `started` is the time of the pick; `asked` that from which the backend owes an answer,
    because it has the whole request: math.inf while part of the body is still to come.
    """

    __slots__ = (
        "_active",
        "_exchange",
        "_held",
        "_loads",
        "_pool",
        "_server",
        "_task",
        "_trial",
        "_tried",
        "_why",
        "asked",
        "backend",
        "connect_s",
        "first_byte_s",
        "line",
        "number",
        "payload",
        "resent",
        "reused",
        "started",
        "unsent",
        "upstream",
    )

    _pool: "PoolPlan"

    def __init__(self, exchange: "Exchange") -> None:
        self._exchange = exchange
        self._server = exchange.server
        self._loads = self._server.loads.own
        self._active = False
        self._task: asyncio.Task[None] | None = None
        self._tried: set[BackendState] | None = None
        self._trial = False
        self.line: WaitingLine | None = None  # in which the exchange waits
        self._held: WaitingLine | None = None  # that is to be told of the last attempt's end
        self._why = ""  # the reason of the retry that waits
        self.payload = b""
        self.backend: BackendState | None = None
        self.upstream: Upstream | None = None
        self.number = 0
        self.resent = 0  # attempts that only replaced a stale connection: they are no retries
        self.unsent = 0  # attempts of which nothing was sent, and another backend was there
        self.started = self.asked = 0.0
        self.reused = False
        self.connect_s = self.first_byte_s = -1.0  # seconds; < 0 = did not happen

    # Picking.

    def first(self, pool: "PoolPlan", payload: bytes, now: float) -> Outcome | None:
        """Pick a backend and send `payload`, the head and what is there of the body; an outcome = nobody to pick."""
        self._pool = pool
        self.payload = payload
        budget = pool.budget
        if budget is not None:
            budget.requests += 1
        line = pool.line
        if line is not None and len(line):  # who came before goes first
            return None if self.wait(now) else POOL_FULL
        state = pool.state
        backend = self._to_try_out(now) if state.trials else None
        if backend is None:
            backend = state.pick(now=now, key=None, exclude=_NOBODY, rng=self._server.rng)
            if backend is None:
                why = state.explain(now)
                return None if why is POOL_FULL and self.wait(now) else why
        self._start(backend, now)
        return None

    def _to_try_out(self, now: float) -> BackendState | None:
        """The backend that waits for one real request and has room for it, if this may be the one."""
        if not self._may_try_out(now):
            return None
        state = self._pool.state
        for place, backend in enumerate(state.trials):
            if not state.is_full(backend) and (self._tried is None or backend not in self._tried):
                self._trial = True
                return state.trials.pop(place)
        return None

    def _may_try_out(self, now: float) -> bool:
        """A request that can be sent again elsewhere is the one to try a backend out with; if none comes, any."""
        exchange = self._exchange
        pool = self._pool
        if pool.retry is None or (exchange.repeatable and not exchange.uploading and not self.number):
            return True
        return now - pool.state.trials_since > TRIAL_PATIENCE

    def wait(self, now: float, why: str = "") -> bool:
        """Join the pool's line, if it takes one more. `why`: the reason of a retry, which waits for somebody else."""
        line = self._pool.line
        if line is None or not line.join(self._exchange, now, retry=bool(why)):
            return False
        self.line = line
        self._why = why
        if self._exchange.uploading:
            self._exchange.downstream.pause_reading()
        return True

    def try_turn(self, pool: "PoolPlan", now: float) -> bool:
        """Its turn in the line has come: start if a backend of `pool`, as it is now, is free."""
        self._pool = pool
        backend = self._to_try_out(now) if pool.state.trials else None
        if backend is None:
            if not self.number:
                backend = self.anybody(now)
            else:  # those that failed it only when nobody else is usable any more, be it that they are full
                backend = self.untried(now) or (None if self._others() else self.anybody(now))
            if backend is None:
                return False
        self.line = None
        if self.number:
            self._server.count_retry(backend.pool, self._why)
            self.go_on(backend, now)
        else:
            self._start_again(backend, now)
        return True

    def untried(self, now: float) -> BackendState | None:
        """A usable backend with room that did not fail this exchange yet; a doubtful one if there is no other."""
        tried = self._tried
        if tried is None:
            tried = self._tried = set()
        if self.backend is not None:
            tried.add(self.backend)
        state = self._pool.state
        for left_out in ([tried | state.doubtful] if state.doubtful else []) + [tried]:
            backend = state.pick(now=now, key=None, exclude=left_out, rng=self._server.rng)
            if backend is not None:
                return backend
        return None

    def anybody(self, now: float) -> BackendState | None:
        """A usable backend with room, even if it failed this exchange."""
        return self._pool.state.pick(now=now, key=None, exclude=_NOBODY, rng=self._server.rng)

    def may_wait(self) -> bool:
        """After `untried` gave None: whether somebody untried is there, only full, and the line takes one more."""
        line = self._pool.line
        return line is not None and line.has_room and self._others()

    def _others(self) -> bool:
        tried = self._tried or _NOBODY
        return any(backend not in tried for backend in self._pool.state.eligible)

    def go_on(self, backend: BackendState, now: float) -> None:
        """The next attempt, at `backend`, which may see by the head that it is one."""
        self.payload = self.numbered(self.payload)
        self._start_again(backend, now)

    def numbered(self, payload: bytes) -> bytes:
        """`payload` with the number of the next attempt in place of what the client may have said."""
        line = b"\r\nX-Balancer-Attempt: %d" % (self.number + 1 - self.resent)
        head, _, body = payload.partition(b"\r\n\r\n")
        return _ATTEMPT_LINE.sub(b"", head) + line + b"\r\n\r\n" + body

    def send_again(self) -> bool:
        """Once more, on a fresh connection to the same backend, which did not fail: its connection was old.

        False where that could do a thing twice (RFC 9110 9.2.2) or the request is not at hand any more.
        """
        backend = self.backend
        if not self.payload or backend is None or not self._exchange.repeatable:
            return False
        self.resent += 1
        self._start_again(backend, monotonic(), fresh=True)
        return True

    # Sending.

    def _start_again(self, backend: BackendState, now: float, *, fresh: bool = False) -> None:
        """Where something was before, for which reading from the client may be paused. Connecting pauses it anew."""
        self._exchange.downstream.resume_reading()
        self._start(backend, now, fresh=fresh)

    def _start(self, backend: BackendState, now: float, *, fresh: bool = False) -> None:
        exchange = self._exchange
        pool = self._pool
        self.backend = backend
        self.started = self.asked = now
        self.number += 1
        self._active = True
        self._loads[backend.slot] += 1
        if pool.counts_attempts:
            pool.strategy.started(backend, now)
        if pool.backend_host or (not exchange.head.host_field and pool.host is None):  # HTTP/1.0 without Host
            self.payload = replace_host(self.payload, backend.host_field)
        connections: BackendConnections = backend.connections
        upstream = None if fresh else connections.take(now)
        if upstream is None:
            self._connect(backend)
            return
        self.reused = True
        self.upstream = upstream
        payload = self.payload
        if len(payload) > REPLAY_BYTES:
            self.payload = b""
        if exchange.uploading:  # it owes nothing yet: the client's own timeout judges
            self.asked = deadline = math.inf
        elif pool.attempt_timeout is None:
            deadline = now + pool.first_byte
        else:
            deadline = self.head_deadline(now)
        upstream.send(exchange, payload, deadline)

    def head_deadline(self, now: float) -> float:
        """When the response's head is due if the request is complete, or its backend does not take it, `now`."""
        pool = self._pool
        due = now + pool.first_byte
        if pool.attempt_timeout is not None:
            due = min(due, min(self.asked, now) + pool.attempt_timeout)
        return due

    def late(self) -> Outcome:
        """Which limit a response head that did not come has passed."""
        limit = self._pool.attempt_timeout
        return FIRST_BYTE_TIMEOUT if limit is None or limit > self._pool.first_byte else ATTEMPT_TIMEOUT

    def send_more(self, data: bytes, *, last: bool) -> None:
        """More of the request's body."""
        upstream = self.upstream
        if upstream is None:
            if self._task is not None or self.line is not None:
                self.payload += data  # reading is paused, so this is at most one read
            return
        if self.payload:
            self.payload = self.payload + data if len(self.payload) + len(data) <= REPLAY_BYTES else b""
        if not upstream.closed:
            upstream.transport.write(data)
            if last and self._exchange.status == 0:
                self.asked = now = monotonic()
                upstream.watch_until(self.head_deadline(now))

    def _connect(self, backend: BackendState) -> None:
        if self._exchange.uploading:
            self.asked = math.inf
            self._exchange.downstream.pause_reading()
        self.reused = False
        self._task = self._server.loop.create_task(self._connect_and_send(backend))

    async def _connect_and_send(self, backend: BackendState) -> None:
        try:
            upstream = await backend.connections.connect(self._pool.attempt_timeout)
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
        exchange = self._exchange
        payload = self.payload
        if len(payload) > REPLAY_BYTES:
            self.payload = b""
        if exchange.uploading:
            deadline = math.inf
        else:
            self.asked = min(self.asked, now)  # the rest of the body came while we connected
            deadline = self.head_deadline(now)
        exchange.downstream.resume_reading()  # before sending, for which it may have to be paused
        upstream.send(exchange, payload, deadline)

    @property
    def connecting(self) -> bool:
        """Whether a connection is being opened."""
        return self._task is not None

    def will_resume(self) -> bool:
        """Whether what is under way lets a client that is not read from go on, sooner or later."""
        if self._task is not None or self.line is not None:
            return True
        upstream = self.upstream
        return upstream is not None and upstream.stalled and not upstream.closed

    # Ending.

    def answered(self, now: float) -> None:
        """A response head came: note how long it took. An answer before the end of the request took no time."""
        self.first_byte_s = max(now - self.asked, 0.0)

    def seen(self) -> None:
        """The backend said something, so its connection was not stale."""
        self.reused = False

    def lost(self) -> None:
        """The connection closed by itself."""
        self.upstream = None

    def give_up(self) -> None:
        """Close the connection, or stop opening one, or leave the line."""
        upstream = self.upstream
        if upstream is not None:
            self.upstream = None
            upstream.discard()
        if self._task is not None:
            self._task.cancel()
            self._task = None
        line = self.line
        if line is not None:
            self.line = None
            line.leave(self._exchange)

    def forget(self) -> None:
        """No further attempt will be made."""
        self.payload = b""
        self._tried = None
        self.resent = self.unsent = 0

    def end(self, outcome: Outcome, status: int, now: float, *, hold: bool = False) -> None:
        """The attempt is over, with the backend's `status` or 0. Harmless when it was before.

        `hold`: its place is not given to who waits before `let_others`, since the next attempt may need it.
        """
        backend = self.backend
        if not self._active or backend is None:
            return
        self._active = False
        self._loads[backend.slot] -= 1
        pool = self._pool
        latency = now - self.started
        if pool.counts_attempts:
            pool.strategy.finished(backend, outcome, latency, self.first_byte_s, now)
        counters: BackendCounters = backend.counters
        counters.codes[status // 100 if status < 600 else 5] += 1
        duration = counters.duration
        duration[bisect_left(BOUNDS, latency)] += 1
        duration[-1] += latency
        if not backend.eligible and not self._trial:  # begun before that was decided: no sign of how it is now
            if 100 <= status < 500:
                counters.spoiled += 1
        elif outcome.counts_against_backend or status >= 500:
            reason = failure_reason(outcome, status)
            if reason:
                self._server.reports.failed(backend, reason, status)
        elif status:
            counters.first_byte += self.first_byte_s
        if self._trial:
            self._trial = False
            self._server.reports.succeeded((backend,))
        line = pool.line
        if line is not None and len(line):
            if hold:
                self._held = line
            else:
                line.wake(now)

    def let_others(self, now: float) -> None:
        """Who waits may have what the last attempt left."""
        line, self._held = self._held, None
        if line is not None:
            line.wake(now)
