"""The data path of one worker: its listeners, its snapshot, what all its connections share, and how it stops."""

import asyncio
import hashlib
import itertools
import socket
from collections.abc import Iterator, Mapping, Sequence
from random import Random

import structlog

from balancer.balancing.backend import BackendState, LoadTable
from balancer.clock import DateField, monotonic
from balancer.config import model
from balancer.errors import CLIENT_CONNECTIONS, CONNECTIONS, SHUTDOWN, Outcome
from balancer.proxy.building import Building, Steps, Tls, at_once, in_slices
from balancer.proxy.connections import BackendConnections
from balancer.proxy.doors import Doors
from balancer.proxy.downstream import IN_TUNNEL, Downstream
from balancer.proxy.exchange import Exchange
from balancer.proxy.leftovers import Leftovers, let_go
from balancer.proxy.live_states import LiveStates
from balancer.proxy.outcomes import OutcomeReports
from balancer.proxy.silence_watch import SilenceWatch
from balancer.proxy.snapshot import ListenerPlan, Snapshot
from balancer.proxy.upstream import Upstream
from balancer.telemetry import events, metrics
from balancer.telemetry.access_log import AccessLog
from balancer.telemetry.registry import Cells, Registry
from balancer.transport.handover import Handover
from balancer.transport.timers import Deadlines, TimerWheel

log = structlog.get_logger()

GOODBYE_SECONDS = 0.5  # an idle connection is read for so long after our FIN at shutdown
BACKENDS_PER_PAUSE = 1000  # 5 ms
REFUSED_LINGERING = 128  # refused clients that may stay to read their answer; from the descriptors kept in reserve


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
        self.doors = Doors(self)
        self.leftovers = Leftovers(self)
        self.live = LiveStates(retry_tokens or LoadTable([0] * len(loads.own)), self.deadlines)
        self.silences = SilenceWatch(loads, registry)
        self.closing = False
        self.via = b""
        self.last_accept = monotonic()
        self.downstreams: set[Downstream] = set()
        self._snapshot: Snapshot | None = None
        self.handover: Handover | None = None  # set where there are other workers
        self._per_client: dict[tuple[str, str], int] = {}
        self._refused_open = 0
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
        self,
        config: model.Config,
        backends: Sequence[model.ResolvedBackend],
        files: Mapping[str, bytes],
        *,
        generation: int = 0,
        columns: Mapping[str, int] | None = None,
    ) -> Snapshot:
        """Compile a generation beside the running one. Raises ValueError naming what cannot be used.

        `columns` are the listeners' in the table of connections; by default they are numbered from 1.
        """
        return at_once(self._building(config, backends, files, generation, columns or {}))

    async def prepare_in_slices(
        self,
        config: model.Config,
        backends: Sequence[model.ResolvedBackend],
        files: Mapping[str, bytes],
        *,
        generation: int,
        columns: Mapping[str, int],
    ) -> Snapshot:
        """The same while the running one serves. One at a time."""
        return await in_slices(self._building(config, backends, files, generation, columns))

    def _building(
        self,
        config: model.Config,
        backends: Sequence[model.ResolvedBackend],
        files: Mapping[str, bytes],
        generation: int,
        columns: Mapping[str, int],
    ) -> Steps:
        self.leftovers.held = True
        return Building(
            config,
            backends,
            files,
            generation=generation,
            columns=columns,
            old=self._snapshot,
            draining=self.leftovers.backends(),
            loads=self.loads,
            registry=self.registry,
            rng=self.rng,
            connect=self._new_connections,
        ).steps()

    def discard(self) -> None:
        """What was prepared, or could not be, is not committed."""
        self.leftovers.held = False

    def commit(self, snapshot: Snapshot) -> None:
        """Serve from `snapshot`, the last one prepared, from now on; exchanges under way keep what they began with."""
        old = self._snapshot
        self.via = _pseudonym(snapshot.config)
        for update in snapshot.updates:
            update.apply()
        snapshot.updates.clear()
        self.leftovers.held = False
        self.live.take_over(snapshot)
        self.silences.take_over(snapshot)
        self._snapshot = snapshot
        if old is not None:
            self.leftovers.replaced(old, snapshot, monotonic())

    def rebuild_pools(self) -> None:
        """Other workers came or went: strategies that read their loads begin anew. O(backends * log)."""
        if self._snapshot is not None:
            for plan in self._snapshot.pools.values():
                plan.state.rebuild()

    def _new_connections(self, pool: model.Pool, backend: BackendState, tls: Tls | None) -> BackendConnections:
        return BackendConnections(
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

    async def listen(self, listener: str, bind: model.Bind, sock: socket.socket) -> int:
        """Accept on `sock`, which is bound, for `listener`. Returns a key for `doors.unlisten`."""
        return await self.doors.listen(listener, bind, sock)

    # Connections.

    def admit(self, downstream: Downstream, now: float) -> Outcome | None:
        """Count a new client connection; the outcome to refuse it with where a limit is reached."""
        self.last_accept = now
        plan = downstream.listener
        own = self.connections.own
        plan.gauge[0] += 1
        self.downstreams.add(downstream)
        limits = plan.limits
        count = self._take_place(downstream)
        if limits.max_connections_per_client is not None and count > limits.max_connections_per_client:
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
        let_go(downstream)
        downstream.listener.gauge[0] -= 1
        self.downstreams.discard(downstream)
        if downstream.refused:
            self._refused_open -= 1
        else:
            self._leave_place(downstream)
        if not self.downstreams:
            self._all_gone.set()

    def move(self, downstream: Downstream, plan: ListenerPlan) -> None:
        """A client connection goes on with another plan of its listener; it is not refused for that."""
        if not downstream.refused:
            self._leave_place(downstream)
        downstream.listener.gauge[0] -= 1
        downstream.listener = plan
        plan.gauge[0] += 1
        if not downstream.refused:
            self._take_place(downstream)

    def _take_place(self, downstream: Downstream) -> int:
        """Count it towards the limits. Returns its client's connections, 0 where they are not counted."""
        plan = downstream.listener
        own = self.connections.own
        own[0] += 1
        own[plan.column] += 1
        if plan.limits.max_connections_per_client is None or not downstream.peer:
            return 0
        key = (plan.name, downstream.peer)
        count = self._per_client[key] = self._per_client.get(key, 0) + 1
        return count

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

    def refresh_gauges(self) -> Iterator[None]:
        """Bring gauges that are not kept at every change up to date. O(backends), with pauses."""
        if self._snapshot is None:
            return
        backends = (*self._snapshot.backends.values(), *self.leftovers.backends().values())
        for number, backend in enumerate(backends, start=1):
            if number % BACKENDS_PER_PAUSE == 0:
                yield
            connections: BackendConnections | None = backend.connections
            if connections is None:  # it was let go during a pause
                continue
            for state, value in (("active", connections.active), ("idle", len(connections.idle))):
                self._cells(metrics.UPSTREAM_CONNECTIONS, backend.pool, backend.name, state)[0] = value

    def in_flight(self) -> int:
        """Exchanges and tunnels under way in this process. O(backends)."""
        if self._snapshot is None:
            return 0
        backends = (*self._snapshot.backends.values(), *self.leftovers.backends().values())
        return sum(self.loads.own[backend.slot] for backend in backends)

    # Stopping: the phases of balancer/daemon/shutdown.py.

    def announce_close(self) -> None:
        """Phase 1: go on, but every answer from now on carries `Connection: close`."""
        self.closing = True

    async def stop_listening(self) -> None:
        """Phase 2: let nothing new into the queues, accept what is in them, close; FIN to idle connections."""
        self.closing = True
        await self.doors.close()
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


def _pseudonym(config: model.Config) -> bytes:
    """Our name in Via. `auto` tells two balancers of a chain apart, and is the same after a restart."""
    if config.via is None:
        return b""
    if config.via != "auto":
        return config.via.encode("ascii")
    where = [socket.gethostname(), *(bind.text for listener in config.listeners for bind in listener.bind)]
    return b"balancer-" + hashlib.sha256("\n".join(where).encode()).hexdigest()[:8].encode("ascii")
