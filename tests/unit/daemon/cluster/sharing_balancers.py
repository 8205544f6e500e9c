"""Balancers that share their checks, on the virtual clock: all of what is theirs but the sockets.

world = World()
async with sharing(store, world, "n1", "n2") as (first, second): ...
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from random import Random

import msgspec

from balancer.config.model import Backend, Bind, Config, HealthCheck, Listener, Pool, ResolvedBackend
from balancer.daemon.cluster.nodes import Nodes
from balancer.daemon.cluster.shared_checks import SharedChecks
from balancer.daemon.health_schedule import HealthSchedule
from balancer.daemon.health_watch import HealthWatch
from balancer.daemon.states import States
from balancer.resilience.health import Health
from balancer.telemetry import metrics
from balancer.telemetry.aggregate import Aggregate
from balancer.transport.probe import ProbeResult, Target, Tls
from tests.unit.daemon.cluster.virtual_store import Store, VirtualLink, until

CHECK = HealthCheck(interval=5.0, fast_interval=1.0, timeout=2.0, healthy_after=2, unhealthy_after=3)
PATIENCE = 3 * CHECK.interval + CHECK.timeout
PORTS = range(1, 19)


class World:
    """The backends, by port: which of them fail, and who probed them when. `unable`: which nodes cannot probe which."""

    def __init__(self) -> None:
        self.failing: set[int] = set()
        self.unreachable: dict[str, set[int]] = defaultdict(set)
        self.unable: set[tuple[str, int]] = set()
        self.probes: list[tuple[float, str, int]] = []
        self.takes = 0.01

    async def probe(self, node: str, target: Target) -> ProbeResult:
        """What HealthSchedule calls."""
        port = target.address[1]
        self.probes.append((now(), node, port))
        await asyncio.sleep(self.takes)
        passed = port not in self.failing and port not in self.unreachable[node]
        return ProbeResult(passed, "200" if passed else "refused", self.takes, (node, port) in self.unable)

    def since(self, when: float) -> dict[int, list[str]]:
        """By port, who probed it since then."""
        found: dict[int, list[str]] = {}
        for at, node, port in self.probes:
            if at >= when:
                found.setdefault(port, []).append(node)
        return found

    def times(self, port: int, node: str | None = None) -> list[float]:
        """When it was probed."""
        return [at for at, by, probed in self.probes if probed == port and node in (None, by)]


def config_of(ports: Collection[int] = PORTS, check: HealthCheck | None = CHECK, **pools: Pool) -> Config:
    """The pool web with these backends, and others."""
    backends = tuple(Backend(name=f"b{port}", host="10.0.0.1", port=port) for port in ports)
    web = Pool(name="web", backends=backends, health_check=check, outlier_detection=None, slow_start=None)
    listener = Listener(name="web", bind=(Bind(host="127.0.0.1"),))
    return Config(listeners=(listener,), routes=(), pools=(web, *pools.values()))


class NotedStates(States):
    """States that note when a backend's health changed, by slot."""

    def __init__(self, counted: Aggregate, rng: Random) -> None:
        super().__init__(
            tell=lambda *_: None, workers=list, counted=counted, rng=rng, now=asyncio.get_running_loop().time
        )
        self.became: list[tuple[float, int, Health]] = []

    def checked(self, slot: int, passed: bool, evidence: str, *, own: bool = True) -> None:
        tracker = self.checks().get(slot)
        before = tracker and tracker.state
        super().checked(slot, passed, evidence, own=own)
        if tracker is not None and tracker.state is not before:
            self.became.append((now(), slot, tracker.state))


class Sharing:
    """One of them. Slots are its own: nobody else's mean the same."""

    def __init__(self, store: Store, world: World, name: str, config: Config | None = None) -> None:
        self.name = name
        self.world = world
        self.link: VirtualLink = store.link(name)
        self.nodes = Nodes(self.link)
        self.counted = Aggregate()
        rng = Random(name)
        clock = asyncio.get_running_loop().time
        self.states = NotedStates(self.counted, rng)
        self.watch = HealthWatch(self.states, rng)
        self.watch._schedule = HealthSchedule(
            result=self.watch._result, rng=rng, now=clock, probe=self._probe, unable=lambda *_: None
        )
        self.checks = SharedChecks(self.link, self.nodes, self.watch, self.counted, now=clock)
        self.watch.share_with(self.checks)
        self._slots: dict[tuple[str, str], int] = {}
        self._first_slot = rng.randrange(1000)
        self._running: asyncio.Task[None] | None = None
        self.configure(config or config_of(), starting=True)

    async def _probe(self, target: Target, _check: HealthCheck, _tls: Tls | None) -> ProbeResult:
        return await self.world.probe(self.name, target)

    def configure(
        self,
        config: Config,
        *,
        starting: bool = False,
        hosts: dict[str, str] | None = None,
        sockets: Sequence[str] = (),
    ) -> None:
        """Take it into use. `hosts`: what stands in the file for a backend. `sockets`: those that are Unix sockets."""
        backends = [
            ResolvedBackend(
                pool=pool.name,
                name=one.name,
                host=(hosts or {}).get(one.name, one.host),
                address=("", 0, f"/{one.name}") if one.name in sockets else (one.host, one.port, ""),
                slot=self._slots.setdefault((pool.name, one.name), self._first_slot + len(self._slots)),
            )
            for pool in config.pools
            for one in pool.backends
        ]
        self.states.configure(config, backends, starting=starting)
        self.watch.configure(config, backends, {})

    def begin(self) -> None:
        self._running = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.nodes.run())
            tasks.create_task(self.checks.run())
            tasks.create_task(self.watch.run())

    async def end(self) -> None:
        """In order."""
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            await self.link.close()
            await asyncio.wait([running])
            assert running.cancelled(), running.exception()

    async def kill(self) -> None:
        """At once, without a word to the cluster."""
        self.link.wire.snap()
        await self.end()

    def health(self) -> dict[int, Health]:
        """What is known of the pool web, by port."""
        trackers = self.states.checks()
        return {
            int(name[1:]): trackers[slot].state
            for (pool, name), slot in self._slots.items()
            if pool == "web" and slot in trackers
        }

    def became(self, port: int) -> list[tuple[float, Health]]:
        """When the health of this backend of the pool web changed here, and to what."""
        slot = self._slots["web", f"b{port}"]
        return [(at, health) for at, of, health in self.states.became if of == slot]

    def evidence(self, port: int) -> str:
        """As operators are told."""
        return self.states.facts("web", f"b{port}")[0].evidence

    def shown(self) -> tuple[int, int]:
        """The metric: checked by itself, told by others."""
        own, others = (self.counted.values(metrics.CLUSTER_CHECKS, (how,))[0] for how in ("own", "others"))
        return int(own), int(others)


def now() -> float:
    """The loop's time."""
    return asyncio.get_running_loop().time()


def divided(balancers: Sequence[Sharing], count: int = len(PORTS)) -> bool:
    """Each backend is checked by one of them, and told to the others."""
    return (
        sum(each.shown()[0] for each in balancers) == count
        and all(sum(each.shown()) == count for each in balancers)
        and all(each.nodes.known for each in balancers)
    )


@asynccontextmanager
async def sharing(
    store: Store, world: World, *names: str, config: Config | None = None
) -> AsyncIterator[list[Sharing]]:
    """They live, and have divided the checks, two intervals ago."""
    made = [Sharing(store, world, name, config) for name in names]
    for each in made:
        each.begin()
    try:
        await until(lambda: divided(made), 20.0)
        await asyncio.sleep(2 * CHECK.interval)
        yield made
    finally:
        for each in made:
            each.link.wire.mend()
            await each.end()


def with_check(check: HealthCheck, **changes: object) -> HealthCheck:
    """Another check."""
    return msgspec.structs.replace(check, **changes)
