"""The data path of one worker without sockets: the real server, with transports that keep what is written.

Two listeners of one pool with one backend: `plain`, and `trusted`, whose clients are trusted proxies and whose bodies
are bounded. Limits are low, so that they are met often. One loop, which only runs when a connection is to be opened.
"""

import asyncio
import logging
import mmap
from collections.abc import Callable
from typing import Any, cast

import structlog

from balancer.balancing.backend import LoadTable
from balancer.clock import monotonic
from balancer.config.model import (
    Backend,
    Bind,
    Config,
    Keepalive,
    Listener,
    ListenerLimits,
    Match,
    Pool,
    PoolAction,
    ResolvedBackend,
    Route,
)
from balancer.proxy.connections import BackendConnections
from balancer.proxy.downstream import AWAITING_HEAD, Downstream
from balancer.proxy.server import ProxyServer
from balancer.proxy.upstream import Upstream
from balancer.telemetry.registry import Registry
from tests.fuzz.forwarding_model import Listener as ModelListener

PEER = "192.0.2.7"
PORT = 8080
BACKEND_PORT = 9001
URI_BYTES = 200
HEADER_COUNT = 24
HEAD_BYTES = 2048
MAX_BODY = 1000
FRESH = 0.5  # seconds; an older idle connection would be polled, which a wire is not made for
UNBOUNDED = 10**9

LISTENERS = {
    name: ModelListener(
        peer=PEER.encode(),
        port=b"%d" % PORT,
        trusted=name == "trusted",
        forwarded=name == "trusted",
        via=b"edge",
        backend=b"127.0.0.1:%d" % BACKEND_PORT,
        uri_bytes=URI_BYTES,
        header_count=HEADER_COUNT,
        head_bytes=HEAD_BYTES,
        max_body=MAX_BODY if name == "trusted" else None,
    )
    for name in ("plain", "trusted")
}


class MisuseError(AssertionError):
    """The data path did to a transport what would raise, or be lost, on a real one."""


class _Socket:
    """What `get_extra_info("socket")` gives: nothing to poll, and options are remembered."""

    def __init__(self) -> None:
        self.options: list[tuple[object, ...]] = []

    def setsockopt(self, *option: object) -> None:
        self.options.append(option)

    def fileno(self) -> int:
        return -1


class Wire(asyncio.Transport):
    """One end of a connection: what was written so far, and how it was ended."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.paused = self.ended = self.closed = self.aborted = self.lost = False
        self.socket = _Socket()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": (PEER, 50000), "sockname": ("127.0.0.1", PORT), "socket": self.socket}.get(name, default)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.ended or self.closed:
            raise MisuseError(f"{bytes(data)[:80]!r} is written to a connection that is ended")
        self.written += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if self.closed:
            raise MisuseError("the end is written to a connection that is closed")
        self.ended = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    @property
    def reset(self) -> bool:
        """Whether the peer sees a reset where it could take an end for a clean one."""
        return self.aborted and bool(self.socket.options)


class InMemoryLoop(asyncio.SelectorEventLoop):
    """A loop whose connections lead to wires."""

    async def create_connection(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.Protocol], *_: object, **__: object
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """A connection at once, to nowhere."""
        protocol, wire = protocol_factory(), Wire()
        protocol.connection_made(wire)
        return wire, protocol


class Proxy:
    """A `ProxyServer` and what was connected to it. Make it inside a running InMemoryLoop."""

    def __init__(self) -> None:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
        cells = cast("Any", memoryview(mmap.mmap(-1, 4096)).cast("q"))
        self.connections_in_all = LoadTable([0] * 16)
        self.server = ProxyServer(
            worker=0,
            loads=LoadTable(cells),
            connections=self.connections_in_all,
            registry=Registry(),
            access_log=None,
            connection_budget=UNBOUNDED,
        )
        resolved = ResolvedBackend(
            pool="p", name="b", host="127.0.0.1", address=("127.0.0.1", BACKEND_PORT, ""), slot=0
        )
        files: dict[str, bytes] = {}
        self.server.commit(self.server.prepare(_config(), [resolved], files))
        backend = next(iter(self.server.snapshot.backends.values()))
        self.connections: BackendConnections = backend.connections
        self.clients: list[Downstream] = []

    def connect(self, listener: str) -> Downstream:
        """A new client connection."""
        client = Downstream(self.server, self.server.snapshot.listeners[listener])
        client.connection_made(Wire())
        self.clients.append(client)
        return client

    def idle_upstream(self) -> Upstream:
        """The idle connection that the next attempt takes; there is exactly one."""
        idle = self.connections.idle
        if len(idle) == 1 and monotonic() - idle[0].idle_since < FRESH:
            return idle[0]
        self.connections.close_idle()
        upstream = Upstream(self.connections, UNBOUNDED)
        upstream.connection_made(Wire())
        upstream.opened = monotonic()
        self.connections.active += 1
        self.connections.give_back(upstream, upstream.opened)
        return upstream

    def gone(self, client: Downstream) -> None:
        """Let the client's connection be lost, by whoever's doing."""
        end_wire(client)
        self.clients.remove(client)

    def leaks(self) -> list[str]:
        """What is left of exchanges although no client is there any more."""
        server, wheel = self.server, self.server.wheel
        found = {
            "in flight": server.in_flight(),
            "connections to the backend in use": self.connections.active,
            "client connections": len(server.downstreams) + self.connections_in_all.own[0],
            "timers beyond those of idle connections": max(len(wheel) - len(self.connections.idle), 0),
            "planned calls": sum(1 for planned in server.deadlines._heap if planned[2]._callback is not None),
        }
        return [f"{count} {what}" for what, count in found.items() if count]


def _config() -> Config:
    limits = {
        "head_bytes": HEAD_BYTES,
        "header_count": HEADER_COUNT,
        "uri_bytes": URI_BYTES,
        "max_requests_per_connection": UNBOUNDED,
    }
    listeners = tuple(
        Listener(
            name=name,
            bind=(Bind(host="127.0.0.1", port=PORT + number),),
            routes=("some", "all"),
            trusted_proxies=(f"{PEER}/32",) if model.trusted else (),
            forwarded=model.forwarded,
            limits=ListenerLimits(max_body=model.max_body, **limits),
        )
        for number, (name, model) in enumerate(LISTENERS.items())
    )
    return Config(
        via="edge",
        listeners=listeners,
        routes=(  # the first makes every request's path be looked at
            Route(name="some", match=Match(path_prefix="/some"), action=PoolAction(pool="p")),
            Route(name="all", action=PoolAction(pool="p")),
        ),
        pools=(
            Pool(
                name="p",
                retry=None,  # a fault is judged by what it does to its own exchange
                keepalive=Keepalive(idle=3600.0, max_requests=UNBOUNDED),
                backends=(Backend(name="b", host="127.0.0.1", port=BACKEND_PORT),),
            ),
        ),
    )


def wire_of(connection: Downstream | Upstream) -> Wire:
    """The wire of a connection."""
    wire = connection.transport
    assert isinstance(wire, Wire)
    return wire


def end_wire(connection: Downstream | Upstream) -> None:
    """Say once that the connection is gone, as a loop does behind close and abort."""
    wire = wire_of(connection)
    if not wire.lost:
        wire.lost = wire.closed = True
        connection.connection_lost(None)


def awaits_request(client: Downstream) -> bool:
    """Whether the client's connection can take another request, with nothing of it there yet."""
    fresh = client._partial is None and not client._empty_lines  # an empty line counts for the next request
    return client.state == AWAITING_HEAD and fresh and not wire_of(client).closed
