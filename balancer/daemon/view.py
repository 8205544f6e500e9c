"""What the admin address may know of the supervisor: readiness, the sum of all counters, the pools."""

import asyncio
import platform
from collections.abc import Sequence
from contextlib import suppress

from balancer import __version__
from balancer.admin.changes import ReloadResult, UnknownBackendError
from balancer.admin.status import PoolStatus, pool_statuses
from balancer.config.model import Config, ResolvedBackend
from balancer.daemon.children import Child
from balancer.daemon.messages import PullCounters
from balancer.daemon.operator import Operator
from balancer.daemon.shared_memory import Area, SharedMemory
from balancer.daemon.states import States
from balancer.daemon.workers import Workers
from balancer.telemetry import metrics
from balancer.telemetry.aggregate import Aggregate, read_process
from balancer.transport.framed import ChannelError

RELOAD_RESULTS = ("ok", "refused")
PULL_TIMEOUT = 0.25  # a scrape waits so long for a worker and then shows what it pushed last


class View:
    """The `SupervisorView` of `admin.api`. `counted` takes what the workers send."""

    def __init__(self, workers: Workers, memory: SharedMemory, config: Config) -> None:
        self.counted = Aggregate()
        self.ready = False
        self.draining = False
        self._workers = workers
        self._memory = memory
        self._config = config
        self._generation = 0
        self._by_pool: dict[str, list[ResolvedBackend]] = {}
        self._states: States | None = None
        self._operator: Operator | None = None
        for result in RELOAD_RESULTS:
            self.counted.set(metrics.CONFIG_RELOADS, (result,), 0)
        self.counted.set(metrics.CONFIG_LAST_RELOAD_SUCCESS, (), 1)
        self.counted.set(metrics.BUILD_INFO, (__version__, platform.python_version()), 1)

    def show(self, states: States, operator: Operator) -> None:
        """From now on tell how backends fare, and what the operator changed."""
        self._states = states
        self._operator = operator

    def serve_generation(self, generation: int, config: Config, backends: Sequence[ResolvedBackend]) -> None:
        """A configuration is in use from now on, with these addresses. O(backends)."""
        self._generation = generation
        self._config = config
        self._by_pool = {pool.name: [] for pool in self._config.pools}
        for backend in backends:
            self._by_pool[backend.pool].append(backend)

    def reload_ended(self, result: ReloadResult) -> None:
        """Count it."""
        labels = (RELOAD_RESULTS[0 if result.ok else 1],)
        self.counted.set(metrics.CONFIG_RELOADS, labels, self.counted.values(metrics.CONFIG_RELOADS, labels)[0] + 1)
        self.counted.set(metrics.CONFIG_LAST_RELOAD_SUCCESS, (), float(result.ok))

    def readiness(self) -> str | None:
        """None when ready, else why not."""
        if self.draining:
            return "draining"
        if not self.ready:
            return "starting"
        return None if self._workers.ready() else "no worker"

    def generation(self) -> int:
        """Number of the configuration in use."""
        return self._generation

    async def aggregate(self) -> Aggregate:
        """The sum of all workers, pulled now (250 ms at most), with the supervisor's own values set."""
        await self.pull()
        counted = self.counted
        for slot in self._workers.slots:
            counted.set(metrics.WORKER_UP, (str(slot),), float(self._workers.is_up(slot)))
        for child in self._workers.ready():
            counted.set(metrics.LOOP_LAG, (str(child.slot),), child.last_pong.loop_lag)
        counted.set(metrics.WORKER_RESTARTS, (), float(self._workers.restarts_total))
        counted.set(metrics.CONFIG_GENERATION, (), float(self._generation))
        for pool in self._config.pools:
            await self._set_backends(pool.name)
        read_process(counted)
        return counted

    async def pools(self) -> list[PoolStatus]:
        """Every pool as it is now, in the order of the file; counts are pulled."""
        await self.aggregate()
        backends = (backend for pool in self._by_pool.values() for backend in pool)
        operator = self._operator
        if self._states is None or operator is None:
            return await pool_statuses(self._config, backends, self.counted, self._in_flight)
        return await pool_statuses(
            self._config,
            backends,
            self.counted,
            self._in_flight,
            conditions=lambda pool, name: operator.conditions(pool, name, self._in_flight),
            operator=operator.values,
        )

    async def pull(self) -> None:
        """Hear what all workers have counted, 250 ms at most."""
        await asyncio.gather(*(self._pull(child) for child in self._workers.ready()))

    def forget_worker(self, slot: int) -> None:
        """A worker ended and is not replaced."""
        self.counted.remove(metrics.WORKER_UP, (str(slot),))
        self.counted.remove(metrics.LOOP_LAG, (str(slot),))

    async def _pull(self, child: Child) -> None:
        try:
            await child.channel.request(PullCounters(), timeout=PULL_TIMEOUT)
        except ChannelError:
            return  # what it pushed within the last second is there already

    async def _set_backends(self, pool: str) -> None:
        """Gauges of one pool; the loop gets a turn after each."""
        in_flight: dict[str, int] = {}
        for backend in self._by_pool.get(pool, []):
            in_flight[backend.name] = in_flight.get(backend.name, 0) + self._in_flight(backend.slot)
            self.counted.set(metrics.BACKEND_WEIGHT, (pool, backend.name), float(self._weight(backend)))
        for name, count in in_flight.items():
            self.counted.set(metrics.BACKEND_IN_FLIGHT, (pool, name), float(count))
        await asyncio.sleep(0)

    def _weight(self, backend: ResolvedBackend) -> int:
        """The one in use; as configured while a generation comes into use and the states do not know it yet."""
        if self._states is not None:
            with suppress(UnknownBackendError):
                return self._states.weight(backend.pool, backend.name)
        return backend.weight

    def _in_flight(self, slot: int) -> int:
        return self._memory.total(Area.IN_FLIGHT, slot)
