"""Health checks that balancers do for each other: each probes a share of the backends, and all take in the results.

A balancer that hears nothing probes for itself; so a cluster that is slow, cut off or gone costs probes, not knowledge.
Nothing here is awaited by a check or by traffic. Who owns what is in `shards`, who probes what now in `check_turns`,
what is published in `check_outbox` and how it is read in `check_results`.
"""

import asyncio
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from math import inf
from typing import Protocol

import structlog

from balancer.clock import monotonic
from balancer.config.model import ResolvedBackend
from balancer.consensus.client_kv import delete, put
from balancer.coordination.responses import Event, EventType, RangeResponse
from balancer.daemon.cluster.check_outbox import Outbox, Terms, pause
from balancer.daemon.cluster.check_results import PREFIX, Place, Source, news, place_of, publication_in, shortened
from balancer.daemon.cluster.check_turns import Turns, patience_of
from balancer.daemon.cluster.link import ClusterLink, Reached
from balancer.daemon.cluster.nodes import Nodes
from balancer.daemon.cluster.probed_address import network, probed_address
from balancer.daemon.cluster.shards import identity, owner
from balancer.daemon.health_watch import CheckedPool
from balancer.telemetry import events, metrics
from balancer.telemetry.aggregate import Aggregate

log = structlog.get_logger()

LOOK = 0.1
"""Seconds between looks at who was silent for too long."""
SLICE = 500
"""Backends whose owner is found out before the loop gets a turn: about 2 ms."""
COMPLAINTS_MAX = 100
"""Keys whose unreadable value was logged; of further ones nothing is said."""


class Prober(Protocol):
    """What probes the backends of this balancer: HealthWatch."""

    def probe(self, slots: Iterable[int]) -> None:
        """Probe these as well, at once."""

    def rest(self, slots: Iterable[int]) -> None:
        """Probe these no more."""

    def take_in(self, slot: int, passed: bool, evidence: str) -> None:
        """A result that somebody else had."""


class _Backend:
    """A backend that somebody else might check as well."""

    __slots__ = ("address", "identity", "name", "slot", "source")

    def __init__(self, pool: str, name: str, address: str, slot: int) -> None:
        self.name = name
        self.address = address
        self.slot = slot
        self.identity = identity(pool, name, address)
        self.source: Source | None = None


class _Pool:
    """`candidates`: the nodes among which its backends were divided last. `settled`: all of them were."""

    __slots__ = ("backends", "candidates", "name", "settled", "terms", "turns")

    def __init__(self, name: str, checked: CheckedPool) -> None:
        check, digest = checked
        self.name = name
        self.terms = Terms(digest, check.interval, max(check.healthy_after, check.unhealthy_after))
        self.turns = Turns(patience_of(check))
        self.backends: dict[tuple[str, str], _Backend] = {}
        self.candidates: tuple[str, ...] = ()
        self.settled = False


class SharedChecks:
    """Made inside the running loop; `run` until cancelled. `now` must run as fast as the loop's clock."""

    def __init__(
        self,
        link: ClusterLink,
        nodes: Nodes,
        prober: Prober,
        counted: Aggregate,
        *,
        now: Callable[[], float] = monotonic,
    ) -> None:
        self._link = link
        self._nodes = nodes
        self._prober = prober
        self._counted = counted
        self._now = now
        self._here = network()
        self._outbox = Outbox(nodes.name, secrets.token_hex(8))
        self._pools: dict[str, _Pool] = {}
        self._backends: dict[int, tuple[_Pool, _Backend]] = {}  # by slot
        self._checked = 0  # backends that are checked, also those that only this balancer can reach
        self._inbox: dict[str, tuple[Place, bytes]] = {}  # by key: a newer value replaces the one that waits
        self._complained: set[str] = set()
        self._unsettled, self._arrived, self._stirred = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._publishes_at = inf
        self._told_late = False
        nodes.on_change(self._nodes_changed)

    # ---- what the health watch tells

    def configure(self, pools: Mapping[str, CheckedPool], backends: Sequence[ResolvedBackend]) -> Collection[int]:
        """These are checked from now on. Returns the slots that others check; every other one is to be probed. O(n).

        What somebody else checks stays so while the pool's checks and that backend are the same.
        """
        now = self._now()
        before_pools, before, self._backends = self._pools, self._backends, {}
        self._pools = {}
        for name, checked in pools.items():
            old = before_pools.get(name)
            same = old is not None and old.terms.digest == checked.digest
            self._pools[name] = old if old is not None and same else _Pool(name, checked)
        self._checked = len(backends)
        self._outbox.set_terms({name: pool.terms for name, pool in self._pools.items()}, now)
        for pool in self._pools.values():
            pool.backends = {}
        for backend in backends:
            pool, address = self._pools[backend.pool], probed_address(backend, self._here)
            if address is None:
                continue
            known_pool, known = before.get(backend.slot, (None, None))
            if known is None or known_pool is not pool or (known.name, known.address) != (backend.name, address):
                known = _Backend(backend.pool, backend.name, address, backend.slot)
                pool.settled = False
            else:
                del before[backend.slot]
            self._backends[backend.slot] = pool, known
            pool.backends[backend.name, address] = known
        for slot, (pool, _) in before.items():
            pool.turns.forget(slot)
            self._outbox.remove(slot, now)
        self._nodes.tell({name: pool.terms.digest for name, pool in self._pools.items()})
        self._unsettled.set()
        self._stir()
        self._show()
        return {slot for pool in self._pools.values() for slot in pool.turns.slots()}

    def result(self, slot: int, passed: bool, evidence: str) -> None:
        """A probe of this balancer ended."""
        self._outbox.result(slot, passed, evidence, self._now())
        if self._outbox.due < self._publishes_at:
            self._stirred.set()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._link.keep("checks", self._follow))
            tasks.create_task(self._link.keep("own checks", self._publish))
            tasks.create_task(self._settle())
            tasks.create_task(self._take_in())
            tasks.create_task(self._look())

    # ---- who checks what

    def _nodes_changed(self) -> None:
        self._unsettled.set()
        self._stir()

    async def _settle(self) -> None:
        """Divide what is not divided yet among the nodes that there are now, in slices."""
        while True:
            await self._unsettled.wait()
            self._unsettled.clear()
            waiting: list[tuple[_Pool, _Backend]] = []
            for name, pool in self._pools.items():
                candidates = self._candidates(name, pool)
                if not pool.settled or candidates != pool.candidates:
                    pool.candidates, pool.settled = candidates, True
                    waiting += [(pool, backend) for backend in pool.backends.values()]
            for first in range(0, len(waiting), SLICE):
                self._divide(waiting[first : first + SLICE])
                await asyncio.sleep(0)
            self._stir()
            self._show()

    def _candidates(self, name: str, pool: _Pool) -> tuple[str, ...]:
        """Those that live and check this pool as we do."""
        digest = pool.terms.digest
        return tuple(sorted(node for node, info in self._nodes.live.items() if info.pools.get(name) == digest))

    def _divide(self, waiting: Sequence[tuple[_Pool, _Backend]]) -> None:
        now, begin = self._now(), []
        for pool, backend in waiting:
            slot = backend.slot
            if self._backends.get(slot) != (pool, backend):
                continue  # a reload came in between
            found = owner(pool.candidates, backend.identity)
            if pool.turns.give(slot, None if found == self._nodes.name else found):
                begin.append(slot)
            if found == self._nodes.name and len(pool.candidates) > 1:
                self._outbox.add(slot, pool.name, backend.name, backend.address)
            else:
                self._outbox.remove(slot, now)
        self._prober.probe(begin)

    # ---- what others found out

    async def _follow(self, reached: Reached) -> None:
        await self._link.follow(PREFIX, read=self._read, heard=self._heard, reached=reached)

    def _read(self, answer: RangeResponse) -> None:
        self._inbox.clear()
        for kv in answer.kvs:
            self._receive(kv.key, kv.value)

    def _heard(self, event: Event) -> None:
        key = event.kv.key
        if event.type is EventType.DELETE:  # what it said is not taken back by that: it gets old
            text = key.decode("utf-8", "replace")
            self._inbox.pop(text, None)
            self._complained.discard(text)
        else:
            self._receive(key, event.kv.value)

    def _receive(self, key: bytes, value: bytes) -> None:
        """Have it read in a moment. What nobody here could use is not kept until then."""
        text = key.decode("utf-8", "replace")
        try:
            place = place_of(key)
        except ValueError as error:
            self._complain(text, str(error))
            return
        if place.node != self._nodes.name and place.pool in self._pools and place.node in self._nodes.live:
            self._inbox[text] = place, value
            self._arrived.set()

    async def _take_in(self) -> None:
        """A value at a time: each may be a millisecond or two."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._inbox:
                key = next(iter(self._inbox))
                place, value = self._inbox.pop(key)
                try:
                    self._take(place, value)
                except ValueError as error:
                    self._complain(key, str(error))
                await asyncio.sleep(0)
            self._show()

    def _take(self, place: Place, value: bytes) -> None:
        """Give the results of those backends that are this node's to the trackers here. Raises ValueError."""
        publication = publication_in(value)
        pool = self._pools.get(place.pool)
        if pool is None or publication.digest != pool.terms.digest:
            return
        now, turns, stop = self._now(), pool.turns, []
        relied_on = self._nodes.known
        for result in publication.results:
            backend = pool.backends.get((result.backend, result.address))
            if backend is None or turns.owner(backend.slot) != place.node:
                continue
            source = Source(place.node, publication.incarnation, result.count)
            times = news(backend.source, source, result.streak, pool.terms.most)
            backend.source = source
            if not times:
                continue
            if relied_on and turns.heard(backend.slot, now):
                stop.append(backend.slot)
            if turns.rests(backend.slot):
                evidence = f"by {place.node}: {shortened(result.evidence)}"
                for _ in range(times):
                    self._prober.take_in(backend.slot, result.passed, evidence)
        self._prober.rest(stop)

    def _complain(self, key: str, reason: str) -> None:
        if key not in self._complained and len(self._complained) < COMPLAINTS_MAX:
            self._complained.add(key)
            log.warning(events.KEY_IGNORED, part="checks", key=key, reason=reason)

    async def _look(self) -> None:
        """Go on alone where others are silent."""
        while True:
            await asyncio.sleep(LOOK)
            now = self._now()
            overdue = [slot for pool in self._pools.values() for slot in pool.turns.overdue(now)]
            if overdue:
                self._prober.probe(overdue)
                self._show()
            late = sum(pool.turns.late for pool in self._pools.values())
            if late and not self._told_late:
                log.warning(events.CHECKS_FELL_BACK, backends=late, of=self._checked)
            elif self._told_late and not late:
                log.info(events.CHECKS_SHARED_AGAIN, of=self._checked)
            self._told_late = late > 0

    # ---- what this node found out

    async def _publish(self, reached: Reached) -> None:
        outbox = self._outbox
        outbox.begin_anew(self._now())
        while True:
            lease, began = self._nodes.lease, self._now()
            writes = [] if lease is None else outbox.take(began)
            if not writes or lease is None:
                await self._wait(inf if lease is None else outbox.due)
                continue
            await self._link.client.txn(
                (),
                then=[
                    delete(write.key) if write.value is None else put(write.key, write.value, lease=lease)
                    for write in writes
                ],
            )
            outbox.done()
            reached()
            await asyncio.sleep(max(0.0, began + pause(writes) - self._now()))

    async def _wait(self, until: float) -> None:
        """Until then, or something is due before, or the nodes are others."""
        self._publishes_at = until
        try:
            async with asyncio.timeout(None if until == inf else max(0.0, until - self._now())):
                await self._stirred.wait()
        except TimeoutError:
            pass
        finally:
            self._publishes_at = -inf
            self._stirred.clear()

    def _stir(self) -> None:
        self._stirred.set()

    def _show(self) -> None:
        resting = sum(pool.turns.resting for pool in self._pools.values())
        self._counted.set(metrics.CLUSTER_CHECKS, ("own",), float(self._checked - resting))
        self._counted.set(metrics.CLUSTER_CHECKS, ("others",), float(resting))
