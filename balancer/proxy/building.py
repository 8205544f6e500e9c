"""From a configuration to a Snapshot beside the one in use, in steps so short that a loop can serve between them.

Law: until the updates of the new snapshot are applied, nothing that serves has changed. Plans whose settings are equal
are taken over, and so is every backend with the same pool, name and address, with its connections and counts.
"""

import asyncio
import functools
import hashlib
import ssl
from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from balancer.balancing.backend import Address, BackendState, LoadTable
from balancer.balancing.pool import PoolState, make_strategy
from balancer.balancing.strategy import Strategy
from balancer.clock import monotonic
from balancer.config import model
from balancer.proxy.connections import BackendConnections
from balancer.proxy.report import BackendCounters
from balancer.proxy.snapshot import BackendKey, ListenerPlan, PoolPlan, RoutePlan, Snapshot, Update
from balancer.routing.table import RoutingTable
from balancer.telemetry.access_log import escape
from balancer.telemetry.registry import Registry
from balancer.transport.tls import client_context, server_context

if TYPE_CHECKING:
    from random import Random

SLICE = 0.005  # seconds of building before the loop gets a turn

Tls = tuple[ssl.SSLContext, str | None]
"""A context, and the name that a backend's certificate must have."""
Connect = Callable[[model.Pool, BackendState, Tls | None], BackendConnections]
Steps = Generator[Callable[[], ssl.SSLContext] | None, ssl.SSLContext | None, Snapshot]
"""Yields None where a pause may be made, and what to call (it may take milliseconds); that is sent its result."""
Pauses = Generator[Callable[[], ssl.SSLContext] | None, ssl.SSLContext | None, None]
OneContext = Generator[Callable[[], ssl.SSLContext] | None, ssl.SSLContext | None, ssl.SSLContext]


class Building:
    """One build. `old`: the snapshot in use; `draining`: backends that were removed and still have work under way.

    `columns` are the listeners' columns in the table of connections that workers share.
    """

    def __init__(
        self,
        config: model.Config,
        resolved: Sequence[model.ResolvedBackend],
        files: Mapping[str, bytes],
        *,
        generation: int,
        columns: Mapping[str, int],
        old: Snapshot | None,
        draining: Mapping[BackendKey, BackendState],
        loads: LoadTable,
        registry: Registry,
        rng: "Random",
        connect: Connect,
    ) -> None:
        self._config = config
        self._files = files
        self._generation = generation
        self._columns = columns
        self._old = old
        self._known = {**draining, **({} if old is None else old.backends)}
        self._loads = loads
        self._registry = registry
        self._rng = rng
        self._connect = connect
        self._by_pool: dict[str, list[model.ResolvedBackend]] = {pool.name: [] for pool in config.pools}
        for entry in resolved:
            self._by_pool[entry.pool].append(entry)
        self._digests: dict[str, bytes] = {}
        self._contexts: dict[Hashable, ssl.SSLContext] = {}
        self._backends: dict[BackendKey, BackendState] = {}
        self._pools: dict[str, PoolPlan] = {}
        self._routes: dict[tuple[str, str], RoutePlan] = {}
        self._listeners: dict[str, ListenerPlan] = {}
        self._updates: list[Update] = []

    def steps(self) -> Steps:
        """Build. Raises ValueError with a text that names the file or value that cannot be used."""
        before = {} if self._old is None else {pool.name: pool for pool in self._old.config.pools}
        for pool in self._config.pools:
            context = None
            if pool.tls is not None:
                context = yield from self._client_context(pool.tls)
            yield from self._pool(pool, before.get(pool.name), context)
        yield from self._all_listeners()
        return Snapshot(
            config=self._config,
            listeners=self._listeners,
            pools=self._pools,
            backends=self._backends,
            generation=self._generation,
            routes=self._routes,
            contexts=self._contexts,
            updates=self._updates,
        )

    # ---- TLS

    def _client_context(self, tls: model.PoolTls) -> OneContext:
        shared = msgspec.structs.replace(tls, server_name=None)  # which is given per connection
        paths = [path for path in (tls.ca, tls.cert, tls.key) if path is not None]
        return (yield from self._context(shared, paths, functools.partial(client_context, shared, self._files)))

    def _server_context(self, tls: model.ListenerTls) -> OneContext:
        paths = [path for pair in tls.certificates for path in (pair.cert, pair.key)]
        paths += [] if tls.client_ca is None else [tls.client_ca]
        make = functools.partial(server_context, tls, self._files, check_time=False)
        return (yield from self._context(tls, paths, make))

    def _context(self, tls: Hashable, paths: Sequence[str], make: Callable[[], ssl.SSLContext]) -> OneContext:
        """The context of these settings and files; the one in use if nothing differs, so that sessions live on."""
        key = (tls, tuple(self._digest(path) for path in paths))
        known = self._contexts.get(key) or (None if self._old is None else self._old.contexts.get(key))
        if known is None:
            known = yield make
            assert known is not None
        self._contexts[key] = known
        return known

    def _digest(self, path: str) -> bytes:
        if path not in self._digests:
            self._digests[path] = hashlib.sha256(self._files.get(path, b"")).digest()
        return self._digests[path]

    # ---- pools

    def _pool(self, pool: model.Pool, before: model.Pool | None, context: ssl.SSLContext | None) -> Pauses:
        members = []
        rebuild = False
        for entry in self._by_pool[pool.name]:
            key = (entry.pool, entry.name, Address(*entry.address))
            backend = self._known.get(key)
            tls = None
            if context is not None and pool.tls is not None:
                tls = (context, pool.tls.server_name or entry.host or "localhost")
            if backend is None:
                backend = BackendState(pool=entry.pool, name=entry.name, address=key[2], slot=entry.slot)
                backend.log_name = escape(entry.name)
                backend.counters = BackendCounters(self._registry, entry.pool, entry.name)
                backend.connections = self._connect(pool, backend, tls)
                BackendUpdate(backend, entry, pool, tls, self._connect).apply()
            else:
                update = BackendUpdate(backend, entry, pool, tls, self._connect)
                if update.differs():
                    rebuild = rebuild or update.changes_picks()
                    self._updates.append(update)
            self._backends[key] = backend
            members.append(backend)
            yield None
        known = None if self._old is None else self._old.pools.get(pool.name)
        if known is None or before is None:
            strategy = make_strategy(pool.strategy, self._loads, self._rng)
            self._pools[pool.name] = PoolPlan(pool, PoolState(pool.name, strategy, members, self._loads), strategy)
            return
        same = before.strategy == pool.strategy
        strategy = known.strategy if same else make_strategy(pool.strategy, self._loads, self._rng)
        if rebuild or not same or known.state.backends != tuple(members):
            self._updates.append(PoolUpdate(known.state, members, strategy))
        alike = msgspec.structs.replace(before, backends=pool.backends) == pool
        self._pools[pool.name] = known if alike else PoolPlan(pool, known.state, strategy)

    # ---- listeners

    def _all_listeners(self) -> Pauses:
        routes = {route.name: route for route in self._config.routes}
        old = self._old
        routes_before = {} if old is None else {route.name: route for route in old.config.routes}
        same_via = old is not None and _via(old.config) == _via(self._config)  # connections carry it, too
        listeners_before = {one.name: one for one in old.config.listeners} if old is not None and same_via else {}
        for place, listener in enumerate(self._config.listeners, start=1):
            tls = None
            if listener.tls is not None:
                tls = yield from self._server_context(listener.tls)
            known = None if old is None else old.listeners.get(listener.name)
            column = self._columns.get(listener.name, place)
            alike = known is not None and listeners_before.get(listener.name) == listener
            alike = alike and known is not None and known.tls is tls and known.column == column
            table: RoutingTable[RoutePlan] = RoutingTable()
            for name in listener.routes:
                route = routes[name]
                kept = None if old is None else old.routes.get((listener.name, name))
                if kept is None or routes_before.get(name) != route or not self._pools_stayed(route):
                    alike = False
                    kept = RoutePlan(route, listener.name, self._pools, self._registry)
                self._routes[listener.name, name] = kept
                table.add(route.match, kept)
                yield None
            self._listeners[listener.name] = (
                known if alike and known is not None else ListenerPlan(listener, column, table, tls, self._registry)
            )

    def _pools_stayed(self, route: model.Route) -> bool:
        """Whether the plans of all pools that a route leads to are those of the snapshot in use."""
        old = {} if self._old is None else self._old.pools
        return all(self._pools[name] is old.get(name) for name in pools_of(route))


def _via(config: model.Config) -> object:
    """What our name in Via is made of."""
    return config.via, [listener.bind for listener in config.listeners] if config.via == "auto" else None


def pools_of(route: model.Route) -> list[str]:
    """The pools that a route leads to."""
    action = route.action
    names = [] if route.fallback is None else [route.fallback]
    if isinstance(action, model.PoolAction):
        names.append(action.pool)
    elif isinstance(action, model.SplitAction):
        names += [action.read, action.write]
    return names


class BackendUpdate:
    """What the file says of a backend that outlives generations."""

    __slots__ = ("_backend", "_connect", "_entry", "_host_field", "_pool", "_tls")

    def __init__(
        self,
        backend: BackendState,
        entry: model.ResolvedBackend,
        pool: model.Pool,
        tls: Tls | None,
        connect: Connect,
    ) -> None:
        self._backend = backend
        self._entry = entry
        self._pool = pool
        self._tls = tls
        self._connect = connect
        self._host_field = _host_field(backend.address, entry.host, tls=tls is not None)

    def differs(self) -> bool:
        """Whether there is anything to change."""
        backend, entry = self._backend, self._entry
        return (
            self.changes_picks()
            or (backend.host, backend.host_field) != (entry.host, self._host_field)
            or self._other_tls()
            or self._limits() != _limits(backend.connections)
        )

    def changes_picks(self) -> bool:
        """Whether its pool has to find out anew who may be picked."""
        backend, entry = self._backend, self._entry
        return backend.weight != entry.weight or backend.max_connections != entry.max_connections

    def apply(self) -> None:
        """Change it. Connections under way go on as they began; idle ones serve on unless TLS is another."""
        backend, entry = self._backend, self._entry
        backend.weight = entry.weight
        backend.max_connections = entry.max_connections
        backend.host = entry.host
        backend.host_field = self._host_field
        if self._other_tls():
            backend.connections.max_idle = 0  # those in use are closed when they come back
            backend.connections.close_idle()
            backend.connections = self._connect(self._pool, backend, self._tls)
        connections: BackendConnections = backend.connections
        keepalive = self._pool.keepalive
        connections.max_idle, connections.max_requests = keepalive.max_idle, keepalive.max_requests
        connections.idle_seconds, connections.max_age = keepalive.idle, keepalive.max_age
        connections.timeouts = self._pool.timeouts

    def _other_tls(self) -> bool:
        connections: BackendConnections = self._backend.connections
        return (connections.tls, connections.server_hostname) != (self._tls or (None, None))

    def _limits(self) -> tuple[object, ...]:
        keepalive = self._pool.keepalive
        return (keepalive.max_idle, keepalive.max_requests, keepalive.idle, keepalive.max_age, self._pool.timeouts)


def _limits(connections: BackendConnections) -> tuple[object, ...]:
    return (
        connections.max_idle,
        connections.max_requests,
        connections.idle_seconds,
        connections.max_age,
        connections.timeouts,
    )


class PoolUpdate:
    """Other members, or another strategy, for a pool that outlives generations."""

    __slots__ = ("_members", "_state", "_strategy")

    def __init__(self, state: PoolState, members: Sequence[BackendState], strategy: Strategy) -> None:
        self._state = state
        self._members = tuple(members)
        self._strategy = strategy

    def apply(self) -> None:
        """From now on these are picked, and no others. O(members * log)."""
        state = self._state
        state.backends = self._members
        state.strategy = self._strategy
        state.counts_attempts = self._strategy.counts_attempts
        members = set(self._members)
        state.trials[:] = [backend for backend in state.trials if backend in members]
        state.rebuild()


def _host_field(address: Address, host: str, *, tls: bool) -> bytes:
    """The Host value that names a backend: as written, with its port unless that is the scheme's own."""
    if address.path:
        return b"localhost"
    text = f"[{host}]" if ":" in host else host
    encoded = text.encode("ascii") if text.isascii() else text.encode("idna")
    return encoded if address.port == (443 if tls else 80) else encoded + b":%d" % address.port


def at_once(steps: Steps) -> Snapshot:
    """Build without a pause, where nobody is served meanwhile."""
    result: ssl.SSLContext | None = None
    while True:
        try:
            wanted = steps.send(result)
        except StopIteration as built:
            return built.value  # type: ignore[no-any-return]
        result = None if wanted is None else wanted()


async def in_slices(steps: Steps) -> Snapshot:
    """Build with a turn for the loop after every SLICE seconds; what takes longer is made in a thread."""
    loop = asyncio.get_running_loop()
    result: ssl.SSLContext | None = None
    pause_at = monotonic() + SLICE
    while True:
        try:
            wanted = steps.send(result)
        except StopIteration as built:
            return built.value  # type: ignore[no-any-return]
        if wanted is not None:
            result = await loop.run_in_executor(None, wanted)
        else:
            result = None
            if monotonic() < pause_at:
                continue
            await asyncio.sleep(0)
        pause_at = monotonic() + SLICE
