"""The connections of this worker to one backend: idle ones to reuse, newest first, and new ones to open."""

import asyncio
import fcntl
import select
import ssl
import sys
import termios
from collections.abc import Callable
from typing import TYPE_CHECKING

from balancer.balancing.backend import BackendState
from balancer.clock import monotonic
from balancer.config.model import Keepalive, PoolTimeouts
from balancer.errors import CONNECT_FAILED, CONNECT_TIMEOUT, TLS_FAILED, Outcome
from balancer.telemetry import metrics
from balancer.telemetry.registry import Registry
from balancer.transport.timers import TimerWheel

if TYPE_CHECKING:
    from balancer.proxy.upstream import Upstream

IDLE = 0  # the first of an upstream connection's states
POLL_AFTER = 1.0  # seconds idle after which the kernel is asked once more before a connection is used
TLS_HANDSHAKE = 5.0  # seconds on top of connect

_poll = select.poll()


def readable(fd: int) -> bool:
    """Whether the kernel has bytes, an end or an error for `fd` that the loop has not delivered yet."""
    _poll.register(fd, select.POLLIN | select.POLLRDHUP)
    try:
        return bool(_poll.poll(0))
    finally:
        _poll.unregister(fd)


def hung_up(fd: int, *, half_close: bool) -> bool:
    """Whether the peer ended the connection; its FIN alone is no end where `half_close` is allowed."""
    _poll.register(fd, 0 if half_close else select.POLLRDHUP)
    try:
        return bool(_poll.poll(0))  # POLLHUP and POLLERR are always told
    finally:
        _poll.unregister(fd)


def unsent(transport: asyncio.Transport) -> int:
    """Bytes that the peer has not taken: ours, and those in the kernel (tcp(7), SIOCOUTQ).

    The kernel asks for more only when much of its buffer is free: ours alone would make a slow reader look dead.
    """
    size = transport.get_write_buffer_size()
    sock = transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return size
    return size + int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)


class ConnectError(Exception):
    """No connection could be had; `outcome` says why."""

    def __init__(self, outcome: Outcome, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome


class BackendConnections:
    """LIFO of idle connections, with the limits of `keepalive`. One per backend and worker.

    LIFO keeps few connections warm and lets the others age out. Bounded by `max_idle`.
    """

    __slots__ = (
        "active",
        "answered",
        "backend",
        "connects",
        "factory",
        "idle",
        "idle_seconds",
        "max_age",
        "max_idle",
        "max_requests",
        "server_hostname",
        "stale",
        "timeouts",
        "tls",
        "wheel",
    )

    def __init__(
        self,
        backend: BackendState,
        *,
        keepalive: Keepalive,
        timeouts: PoolTimeouts,
        tls: tuple[ssl.SSLContext, str | None] | None,
        registry: Registry,
        wheel: TimerWheel,
        factory: "Callable[[BackendConnections], Upstream]",
    ) -> None:
        self.backend = backend
        self.max_idle = keepalive.max_idle
        self.max_requests = keepalive.max_requests
        self.idle_seconds = keepalive.idle
        self.max_age = keepalive.max_age
        self.timeouts = timeouts
        self.tls = tls[0] if tls is not None else None
        self.server_hostname = tls[1] if tls is not None else None
        self.idle: list[Upstream] = []
        self.active = 0
        self.answered = 0  # response heads, ever
        self.wheel = wheel
        self.factory = factory
        self.stale = registry.cells(metrics.STALE_CONNECTIONS, backend.pool)
        self.connects = {
            result: registry.cells(metrics.UPSTREAM_CONNECTS, backend.pool, backend.name, result)
            for result in ("ok", "failed", "timeout")
        }

    def take(self, now: float) -> "Upstream | None":
        """An idle connection that the kernel has nothing to report of, or None. O(1) but for dead ones met."""
        idle = self.idle
        while idle:
            upstream = idle.pop()
            if upstream.closed:
                continue
            if now - upstream.idle_since > POLL_AFTER and upstream.is_readable():
                upstream.close()
                self.stale[0] += 1
                continue
            self.active += 1
            return upstream
        return None

    def give_back(self, upstream: "Upstream", now: float) -> None:
        """Keep a connection whose exchange ended cleanly, or close it where a limit says so."""
        self.active -= 1
        upstream.exchange = None
        upstream.state = IDLE
        if upstream.closed:
            return
        if (
            len(self.idle) >= self.max_idle
            or upstream.requests >= self.max_requests
            or now - upstream.opened > upstream.age_limit
        ):
            upstream.close()
            return
        if not upstream.reading:
            upstream.resume_reading()
        upstream.idle_since = now
        upstream.deadline = deadline = now + self.idle_seconds
        if deadline < upstream.slot_at:
            self.wheel.watch(upstream)
        self.idle.append(upstream)

    def drop(self, upstream: "Upstream") -> None:
        """Forget an idle connection that closed. O(max_idle)."""
        if upstream in self.idle:
            self.idle.remove(upstream)

    def close_idle(self) -> None:
        """Close every idle connection."""
        idle, self.idle = self.idle, []
        for upstream in idle:
            upstream.close()

    async def connect(self, most: float | None = None) -> "Upstream":
        """A new connection, counted as active, within `timeouts.connect` and `most` seconds. Raises ConnectError."""
        self.active += 1
        try:
            upstream = await self._open(most)
        except ConnectError:
            self.active -= 1
            raise
        except asyncio.CancelledError:
            self.active -= 1
            raise
        self.connects["ok"][0] += 1
        upstream.opened = monotonic()
        return upstream

    async def _open(self, most: float | None) -> "Upstream":
        loop = asyncio.get_running_loop()
        address = self.backend.address
        limit = self.timeouts.connect + (TLS_HANDSHAKE if self.tls is not None else 0.0)
        if most is not None:
            limit = min(limit, most)

        def make() -> "Upstream":
            return self.factory(self)

        try:
            async with asyncio.timeout(limit):
                if address.path:
                    _, upstream = await loop.create_unix_connection(
                        make, address.path, ssl=self.tls, server_hostname=self.server_hostname
                    )
                else:
                    _, upstream = await loop.create_connection(
                        make, address.host, address.port, ssl=self.tls, server_hostname=self.server_hostname
                    )
        except TimeoutError:
            self.connects["timeout"][0] += 1
            raise ConnectError(CONNECT_TIMEOUT, f"no connection to {address} within {limit:g} s") from None
        except ssl.SSLError as error:
            self.connects["failed"][0] += 1
            raise ConnectError(TLS_FAILED, f"TLS with {address}: {error}") from None
        except OSError as error:
            self.connects["failed"][0] += 1
            raise ConnectError(CONNECT_FAILED, f"cannot connect to {address}: {error}") from None
        return upstream
