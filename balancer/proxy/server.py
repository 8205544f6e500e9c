"""The data path of one worker: its listeners, its snapshot, what all its connections share, and how it stops."""

import asyncio
import hashlib
import itertools
import socket
import ssl
from collections.abc import Mapping, Sequence
from random import Random

import structlog

from balancer.balancing.backend import BackendState, LoadTable
from balancer.clock import DateField, monotonic
from balancer.config import model
from balancer.errors import CLIENT_CONNECTIONS, CONNECTIONS, SHUTDOWN, Outcome
from balancer.proxy.connections import BackendConnections
from balancer.proxy.downstream import IN_TUNNEL, Downstream
from balancer.proxy.exchange import Exchange
from balancer.proxy.live_states import LiveStates
from balancer.proxy.outcomes import OutcomeReports
from balancer.proxy.report import BackendCounters
from balancer.proxy.snapshot import Snapshot, build_snapshot
from balancer.proxy.upstream import Upstream
from balancer.telemetry import events, metrics
from balancer.telemetry.access_log import AccessLog
from balancer.telemetry.registry import Cells, Registry
from balancer.transport import sockets
from balancer.transport.handover import Handover, SocketServer
from balancer.transport.timers import Deadlines, TimerWheel

log = structlog.get_logger()

BACKLOG = 4096  # nginx 511, HAProxy its maxconn; the kernel caps it at net.core.somaxconn, 4096 by default
GOODBYE_SECONDS = 0.5  # an idle connection is read for so long after our FIN at shutdown
REFUSED_LINGERING = 128  # refused clients that may stay to read their answer; from the descriptors kept in reserve
HANDSHAKES_SPARE = 64  # beyond the budget, of the same reserve, so that clients over it can be told so over TLS
QUEUE_SECONDS = 2.0  # at most, to empty an accept queue that nothing enters any more
QUEUE_POLL = 0.005


class ProxyServer:
    """Everything of the data path in this process. Must be made inside the running loop."""

    def __init__(
        self,
        *,
        worker: int,
        loads: LoadTable,
        connections: LoadTable,
        registry: Registry,
        access_log: AccessLog | None,
        connection_budget: int,
        rng: Random | None = None,
        retry_tokens: LoadTable | None = None,
    ) -> None:
        """`connections`: column 0 counts client connections, column i + 1 those of the file's i-th listener.

        `connection_budget`: client connections that this process has descriptors for.
        """
        self.loop = asyncio.get_running_loop()
        self.worker = worker
        self.loads = loads
        self.connections = connections
        self.registry = registry
        self.access_log = access_log
        self.connection_budget = connection_budget
        self.rng = rng if rng is not None else Random()
        self.date = DateField()
        self.wheel = TimerWheel(self.loop.time())
        self.wheel.start(self.loop)
        self.deadlines = Deadlines()
        self.deadlines.start(self.loop)
        self.reports = OutcomeReports(self.loop)
        self.live = LiveStates(retry_tokens or LoadTable([0] * len(loads.own)), self.deadlines)
        self.closing = False
        self.via = b""
        self.last_accept = monotonic()
        self.downstreams: set[Downstream] = set()
        self._snapshot: Snapshot | None = None
        self.handover: Handover | None = None  # set where there are other workers
        self._listening: dict[int, tuple[str, asyncio.Server | SocketServer, socket.socket]] = {}
        self._keys = itertools.count(1)
        self._per_client: dict[tuple[str, str], int] = {}
        self._refused_open = 0
        self._handshakes = 0
        self._greetings: set[asyncio.Task[None]] = set()
        self._id_prefix = b"%016x" % self.rng.getrandbits(64)
        self._ids = itertools.count(1)
        self._all_gone = asyncio.Event()

    # Configuration.

    @property
    def snapshot(self) -> Snapshot:
        """The generation that serves new exchanges."""
        assert self._snapshot is not None, "commit() comes before listen()"
        return self._snapshot

    def prepare(
        self, config: model.Config, backends: Sequence[model.ResolvedBackend], files: Mapping[str, bytes]
    ) -> Snapshot:
        """Compile a generation beside the running one. Raises ValueError naming what cannot be used."""
        return build_snapshot(
            config,
            backends,
            files,
            loads=self.loads,
            registry=self.registry,
            rng=self.rng,
            old={} if self._snapshot is None else self._snapshot.backends,
            prepare=self._prepare_backend,
        )

    def commit(self, snapshot: Snapshot) -> None:
        """Serve from `snapshot` from now on; exchanges under way keep what they began with."""
        self.via = _pseudonym(snapshot.config)
        self.live.take_over(snapshot)
        self._snapshot = snapshot

    def _prepare_backend(
        self, pool: model.Pool, backend: BackendState, tls: tuple[ssl.SSLContext, str | None] | None
    ) -> None:
        backend.counters = BackendCounters(self.registry, backend.pool, backend.name)
        backend.connections = BackendConnections(
            backend,
            keepalive=pool.keepalive,
            timeouts=pool.timeouts,
            tls=tls,
            registry=self.registry,
            wheel=self.wheel,
            factory=self._new_upstream,
        )

    def _new_upstream(self, connections: BackendConnections) -> Upstream:
        jitter = 0.9 + 0.2 * self.rng.random()  # so that a fleet of connections does not age out at once
        return Upstream(connections, connections.max_age * jitter)

    # Listening.

    async def listen(self, listener: str, bind: model.Bind, sock: socket.socket) -> int:
        """Accept on `sock`, which is bound, for `listener`. Returns a key for `unlisten`."""
        plan = self.snapshot.listeners[listener]

        def accepted() -> Downstream:
            return Downstream(self, self.snapshot.listeners[listener])

        handover = self.handover
        factory = accepted if handover is None else handover.door(listener, accepted)
        server: asyncio.Server | SocketServer
        if plan.tls is not None:
            sock.listen(BACKLOG)
            if handover is not None:
                server = handover.accept(listener, sock, _accept_failed)
            else:
                server = SocketServer(sock, lambda connection: self._greet(listener, connection), _accept_failed)
        elif bind.path:
            server = await self.loop.create_unix_server(factory, sock=sock, backlog=BACKLOG)
        else:
            server = await self.loop.create_server(factory, sock=sock, backlog=BACKLOG)
        key = next(self._keys)
        self._listening[key] = (listener, server, sock)
        return key

    async def adopt(self, listener: str, connection: socket.socket) -> None:
        """Serve a connection that is accepted already, by us or by another worker. Raises OSError (TLS among it)."""
        plan = self.snapshot.listeners.get(listener)
        if plan is None:  # the worker that gave it is a generation behind
            connection.close()
            return
        if plan.tls is None:
            await self.loop.connect_accepted_socket(lambda: Downstream(self, plan), connection)
            return
        # `admit` sees a connection only when its handshake is done: until then it is counted here.
        if self.connections.own[0] + self._handshakes >= self.connection_budget + HANDSHAKES_SPARE:
            self._cells(metrics.LIMIT_REJECTIONS, "descriptors")[0] += 1
            connection.close()  # nothing can be said to it yet
            return
        self._handshakes += 1
        try:
            await self.loop.connect_accepted_socket(
                lambda: Downstream(self, plan), connection, ssl=plan.tls, ssl_handshake_timeout=plan.timeouts.head
            )
        finally:
            self._handshakes -= 1

    def _greet(self, listener: str, connection: socket.socket) -> None:
        """Adopt a connection that begins with TLS, in a task of its own."""
        task = self.loop.create_task(self._adopt_or_close(listener, connection))
        self._greetings.add(task)
        task.add_done_callback(self._greetings.discard)

    async def _adopt_or_close(self, listener: str, connection: socket.socket) -> None:
        try:
            await self.adopt(listener, connection)
        except OSError:
            connection.close()  # the client went away meanwhile, or its handshake failed

    async def unlisten(self, key: int) -> None:
        """Stop accepting on one socket without waiting for its queue: another process goes on with it."""
        _, server, _ = self._listening.pop(key)
        server.close()

    # Connections.

    def admit(self, downstream: Downstream, now: float) -> Outcome | None:
        """Count a new client connection; the outcome to refuse it with where a limit is reached."""
        self.last_accept = now
        plan = downstream.listener
        own = self.connections.own
        own[0] += 1
        own[plan.column] += 1
        plan.gauge[0] += 1
        self.downstreams.add(downstream)
        limits = plan.limits
        if limits.max_connections_per_client is not None and downstream.peer:
            key = (plan.name, downstream.peer)
            count = self._per_client[key] = self._per_client.get(key, 0) + 1
            if count > limits.max_connections_per_client:
                return self._rejected(downstream, "max_connections_per_client", CLIENT_CONNECTIONS)
        if own[0] > self.connection_budget:
            return self._rejected(downstream, "descriptors", CONNECTIONS)
        total = self.snapshot.config.max_connections
        if total is not None and self.connections.total(0) > total:
            return self._rejected(downstream, "max_connections", CONNECTIONS)
        if limits.max_connections is not None and self.connections.total(plan.column) > limits.max_connections:
            return self._rejected(downstream, "listener_max_connections", CONNECTIONS)
        return None

    def _rejected(self, downstream: Downstream, limit: str, outcome: Outcome) -> Outcome:
        self.registry.cells(metrics.LIMIT_REJECTIONS, limit)[0] += 1
        self._refused_open += 1
        self._leave_place(downstream)  # while it reads its answer it must not keep others out
        return outcome

    def may_linger(self) -> bool:
        """Whether one more refused client may stay until it has read its answer."""
        return self._refused_open <= REFUSED_LINGERING

    def released(self, downstream: Downstream) -> None:
        """A client connection is gone."""
        downstream.listener.gauge[0] -= 1
        self.downstreams.discard(downstream)
        if downstream.refused:
            self._refused_open -= 1
        else:
            self._leave_place(downstream)
        if not self.downstreams:
            self._all_gone.set()

    def _leave_place(self, downstream: Downstream) -> None:
        """It no longer counts towards a limit."""
        plan = downstream.listener
        own = self.connections.own
        own[0] -= 1
        own[plan.column] -= 1
        if plan.limits.max_connections_per_client is not None and downstream.peer:
            key = (plan.name, downstream.peer)
            left = self._per_client.get(key, 1) - 1
            if left:
                self._per_client[key] = left
            else:
                self._per_client.pop(key, None)

    # What exchanges ask for.

    def next_request_id(self) -> bytes:
        """An X-Request-Id: 16 digits of this worker's start, 12 of a count."""
        return b"%b%012x" % (self._id_prefix, next(self._ids))

    def count_retry(self, pool: str, reason: str) -> None:
        """One attempt after the first."""
        self._cells(metrics.RETRIES, pool, reason)[0] += 1

    def _cells(self, family: str, *labels: str) -> Cells:
        return self.registry.cells(family, *labels)

    def log_failure(self, exchange: Exchange, outcome: Outcome, detail: str) -> None:
        """Say why an attempt failed, for who asked to see (level debug): the access log has the reason's word."""
        backend = exchange.attempt.backend
        log.debug(
            events.ATTEMPT_FAILED,
            request_id=exchange.request_id.decode("ascii"),
            pool=backend.pool if backend is not None else "-",
            backend=backend.name if backend is not None else "-",
            reason=outcome.reason,
            detail=detail,
        )

    # For the supervisor.

    def each_second(self) -> None:
        """What is due every second: the retry budgets, and the report of what went well. O(backends)."""
        self.live.each_second(monotonic())
        if self._snapshot is not None:
            self.reports.succeeded(self._snapshot.backends.values())

    def refresh_gauges(self) -> None:
        """Bring gauges that are not kept at every change up to date. O(backends)."""
        if self._snapshot is None:
            return
        for backend in self._snapshot.backends.values():
            connections: BackendConnections = backend.connections
            for state, value in (("active", connections.active), ("idle", len(connections.idle))):
                self._cells(metrics.UPSTREAM_CONNECTIONS, backend.pool, backend.name, state)[0] = value

    def in_flight(self) -> int:
        """Exchanges and tunnels under way in this process. O(backends)."""
        if self._snapshot is None:
            return 0
        return sum(self.loads.own[backend.slot] for backend in self._snapshot.backends.values())

    # Stopping: the phases of balancer/daemon/shutdown.py.

    def announce_close(self) -> None:
        """Phase 1: go on, but every answer from now on carries `Connection: close`."""
        self.closing = True

    async def stop_listening(self) -> None:
        """Phase 2: let nothing new into the queues, accept what is in them, close; FIN to idle connections."""
        self.closing = True
        listening = list(self._listening.values())
        self._listening.clear()
        for _, _, sock in listening:
            sockets.refuse_new(sock)
        give_up = monotonic() + QUEUE_SECONDS
        while any(sockets.queued(sock) for _, _, sock in listening) and monotonic() < give_up:
            await asyncio.sleep(QUEUE_POLL)
        last = []
        for listener, server, sock in listening:
            # Where new ones cannot be refused, they may still come: no turn of the loop between last look and close.
            last += [self.adopt(listener, connection) for connection in sockets.accept_all(sock)]
            server.close()
        await asyncio.gather(*last, return_exceptions=True)  # an OSError: that client is gone
        await asyncio.sleep(QUEUE_POLL)  # what was accepted last is now a connection
        for downstream in list(self.downstreams):
            downstream.say_goodbye(GOODBYE_SECONDS)

    async def finish(self, grace: float, tunnel_grace: float) -> None:
        """Phase 3: wait for exchanges and tunnels, each up to its grace (seconds), then end what is left."""
        start = monotonic()
        await self._wait_gone(start + grace)
        for downstream in list(self.downstreams):
            if downstream.state != IN_TUNNEL:
                downstream.end_now(SHUTDOWN)
        await self._wait_gone(start + max(grace, tunnel_grace))
        for downstream in list(self.downstreams):
            downstream.end_now(SHUTDOWN)
        if self._snapshot is not None:
            for backend in self._snapshot.backends.values():
                backend.connections.close_idle()

    async def _wait_gone(self, until: float) -> None:
        if not self.downstreams:
            return
        self._all_gone.clear()
        try:
            async with asyncio.timeout(max(until - monotonic(), 0)):
                await self._all_gone.wait()
        except TimeoutError:
            return  # the caller ends what is left


def _accept_failed(error: OSError) -> None:
    log.warning(events.LIBRARY_LOGGED, logger="accept", message=str(error))


def _pseudonym(config: model.Config) -> bytes:
    """Our name in Via. `auto` tells two balancers of a chain apart, and is the same after a restart."""
    if config.via is None:
        return b""
    if config.via != "auto":
        return config.via.encode("ascii")
    where = [socket.gethostname(), *(bind.text for listener in config.listeners for bind in listener.bind)]
    return b"balancer-" + hashlib.sha256("\n".join(where).encode()).hexdigest()[:8].encode("ascii")
