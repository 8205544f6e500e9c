"""The configuration compiled for the data path: immutable, replaced by one reference assignment.

A client connection keeps the plan of its listener until that is replaced and nothing goes on; an exchange keeps the
route it began with. Contexts, patterns and counters are looked up here, once, never per request. What is equal in two
generations is the same object in both (`proxy.building`), so a small change makes little that is new. What a pool's
members are, and in what state, is no part of a plan: `PoolState` and `BackendState` outlive generations.
"""

import math
import ssl
from asyncio import BaseTransport
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Protocol

from balancer.balancing.backend import Address, BackendState
from balancer.balancing.pool import PoolState
from balancer.balancing.strategy import Strategy
from balancer.config import model
from balancer.http1.forwarding import Edit, Networks
from balancer.http1.message import RequestHead
from balancer.proxy.waiting import WaitingLine
from balancer.resilience.retry import RetryRule
from balancer.resilience.retry_budget import RetryBudget
from balancer.routing.edits import HeaderEditor
from balancer.routing.redirect import location
from balancer.routing.rewrite import rewrite_target
from balancer.routing.table import RoutingTable
from balancer.telemetry import metrics
from balancer.telemetry.access_log import head_of
from balancer.telemetry.registry import Cells, Registry

SAFE = frozenset((b"GET", b"HEAD", b"OPTIONS"))


class PoolPlan:
    """A pool with what an attempt needs of it.

    `host`: the Host value to send, None = the client's; `backend_host`: the picked backend's own instead.
    """

    __slots__ = (
        "attempt_timeout",
        "backend_host",
        "budget",
        "counts_attempts",
        "first_byte",
        "host",
        "line",
        "name",
        "retry",
        "state",
        "strategy",
        "tunnel_idle",
    )

    def __init__(self, pool: model.Pool, state: PoolState, strategy: Strategy) -> None:
        """`strategy`: the one that `state` has once this plan is in use."""
        self.name = pool.name
        self.state = state
        self.retry = None if pool.retry is None else RetryRule(pool.retry)
        self.budget: RetryBudget | None = None  # these two outlive generations: the server sets them
        self.line: WaitingLine | None = None
        self.first_byte = math.inf if pool.timeouts.first_byte is None else pool.timeouts.first_byte
        self.attempt_timeout = pool.timeouts.attempt
        self.strategy = strategy
        self.counts_attempts = strategy.counts_attempts
        self.tunnel_idle = pool.tunnel_idle
        self.backend_host = pool.host == "backend"
        self.host = None if pool.host in ("keep", "backend") else pool.host.encode("ascii")


@dataclass(frozen=True, slots=True)
class Destination:
    """A pool as one route of one listener leads to it."""

    pool: PoolPlan
    requests: Cells
    log_head: bytes


@dataclass(frozen=True, slots=True)
class RouteAnswer:
    """What a redirect or respond action says."""

    action: model.RedirectAction | model.RespondAction
    status: int
    content_type: bytes
    body: bytes
    fields: bytes

    def content(self, head: RequestHead, scheme: bytes) -> tuple[bytes, bytes]:
        """The fields, each ended by CRLF, and the body."""
        if isinstance(self.action, model.RespondAction):
            return self.fields, self.body
        to = location(self.action.to, scheme=scheme, host=head.host, path=head.path, query=head.query)
        return b"Location: " + to + b"\r\n", self.body


class RoutePlan:
    """A route of one listener."""

    __slots__ = (
        "_read",
        "_write",
        "answer",
        "destination",
        "duration",
        "edit_request",
        "edit_response",
        "fallback",
        "log_head",
        "max_body",
        "name",
        "repeatable",
        "requests",
        "rewrite",
        "timeout",
    )

    def __init__(self, route: model.Route, listener: str, pools: Mapping[str, PoolPlan], registry: Registry) -> None:
        self.name = route.name
        self.timeout = route.timeout
        self.max_body = route.max_body
        self.requests = registry.cells(metrics.REQUESTS, listener, route.name, "-")
        self.duration = registry.cells(metrics.REQUEST_DURATION, route.name)
        self.log_head = head_of(listener, route.name, "-")
        self.edit_request = _editor(route.headers.request)
        self.edit_response = _editor(route.headers.response)
        self.rewrite: Callable[[RequestHead], bytes] | None = None
        rewrite = route.rewrite
        if rewrite is not None:
            self.rewrite = lambda head: rewrite_target(rewrite, head.target)
        self.answer: RouteAnswer | None = None
        self.destination: Destination | None = None
        self._read: Destination | None = None
        self._write: Destination | None = None
        action = route.action

        def lead(pool: str) -> Destination:
            cells = registry.cells(metrics.REQUESTS, listener, route.name, pool)
            return Destination(pools[pool], cells, head_of(listener, route.name, pool))

        self.repeatable = route.retry_non_idempotent
        self.fallback = None if route.fallback is None else lead(route.fallback)
        if isinstance(action, model.PoolAction):
            self.destination = lead(action.pool)
        elif isinstance(action, model.SplitAction):
            self._read, self._write = lead(action.read), lead(action.write)
        elif isinstance(action, model.RedirectAction):
            self.answer = RouteAnswer(action, action.status, b"text/plain; charset=utf-8", b"", b"")
        else:
            fields = "".join(f"{name}: {value}\r\n" for name, value in action.headers.items()).encode("latin-1")
            self.answer = RouteAnswer(
                action, action.status, action.content_type.encode("latin-1"), action.body.encode(), fields
            )

    def split(self, method: bytes) -> Destination:
        """Where a request with `method` goes if the route splits safe methods (RFC 9110 9.2.1) from the others."""
        destination = self._read if method in SAFE else self._write
        assert destination is not None
        return destination


def _editor(edits: model.HeaderEdits) -> Edit | None:
    return HeaderEditor(edits).apply if edits.set or edits.add or edits.remove else None


class ListenerPlan:
    """A listener with what its connections need. `outdated`: it is of a generation that was replaced."""

    __slots__ = (
        "bytes_in",
        "bytes_out",
        "column",
        "forwarded",
        "gauge",
        "half_close",
        "http10_keepalive",
        "limits",
        "log_head",
        "name",
        "networks",
        "outdated",
        "scheme",
        "table",
        "timeouts",
        "tls",
        "unrouted",
    )

    def __init__(
        self,
        listener: model.Listener,
        column: int,
        table: RoutingTable[RoutePlan],
        tls: ssl.SSLContext | None,
        registry: Registry,
    ) -> None:
        self.name = listener.name
        self.column = column  # in the table of connections that workers share; 0 is the sum of all listeners
        self.table = table
        self.outdated = False
        self.tls = tls
        self.scheme = b"http" if tls is None else b"https"
        self.limits = listener.limits
        self.timeouts = listener.timeouts
        self.half_close = listener.half_close == "allow"
        self.http10_keepalive = listener.http10_keepalive
        self.forwarded = listener.forwarded
        self.networks: Networks = tuple(ip_network(cidr, strict=False) for cidr in listener.trusted_proxies)
        self.unrouted = registry.cells(metrics.REQUESTS, listener.name, "-", "-")
        self.bytes_in = registry.cells(metrics.BYTES, listener.name, "in")
        self.bytes_out = registry.cells(metrics.BYTES, listener.name, "out")
        self.gauge = registry.cells(metrics.DOWNSTREAM_CONNECTIONS, listener.name)
        self.log_head = head_of(listener.name, "-", "-")

    def port_of(self, transport: BaseTransport) -> int:
        """The port that the client connected to; 0 for a Unix socket."""
        name = transport.get_extra_info("sockname")
        return name[1] if isinstance(name, tuple) else 0


BackendKey = tuple[str, str, Address]
"""A backend's identity: pool, name, address."""


class Update(Protocol):
    """A change of something that outlives generations."""

    def apply(self) -> None:
        """Make it. Called once, when the generation comes into use."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One generation of the configuration, ready to serve once its `updates` are made.

    `routes` are by listener and route, `contexts` by what they were made of: for the next generation to take over.
    """

    config: model.Config
    listeners: Mapping[str, ListenerPlan]
    pools: Mapping[str, PoolPlan]
    backends: Mapping[BackendKey, BackendState]
    generation: int
    routes: Mapping[tuple[str, str], RoutePlan]
    contexts: Mapping[Hashable, ssl.SSLContext]
    updates: list[Update]
