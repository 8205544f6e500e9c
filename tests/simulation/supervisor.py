"""The supervisor: the real standings (`daemon.states`) and columns, with channels to workers, their lives and reloads.

A message takes up to DELAY, and none overtakes another on its channel.
"""

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec

from balancer.config import model
from balancer.daemon.messages import Abort, BackendStates, Commit, Done, Outcomes, Prepare, Prepared
from balancer.daemon.shared_memory import Allocator, Area
from balancer.daemon.states import States
from balancer.resilience.known_backend import Happening
from balancer.resilience.pool_standings import PoolStandings
from balancer.telemetry.aggregate import Aggregate
from tests.simulation.request_laws import ROUTE_TIMEOUT
from tests.simulation.servers import Server, resolved
from tests.simulation.worker import SimulatedWorker

if TYPE_CHECKING:
    from tests.simulation.standings import Simulation

DELAY = 0.02  # seconds on a channel, at most; a busy worker's loop is late, too
TICK = 0.1  # as the daemon's
REAPED_AFTER = 0.03  # seconds, at most
RESTARTED_AFTER = 1.0


class _ToldStates(States):
    """Tells the laws what happened."""

    def __init__(self, world: "Simulation", **arguments: Any) -> None:
        super().__init__(**arguments)
        self._world = world

    def _happened(self, pool: PoolStandings, happenings: Sequence[Happening]) -> None:
        super()._happened(pool, happenings)
        self._world.laws.note(happenings)


class Supervisor:
    """`plan` is the generation in use, `servers` its backends by slot."""

    def __init__(self, world: "Simulation") -> None:
        self.world = world
        self.states = _ToldStates(
            world,
            tell=self._tell,
            workers=lambda: [worker.number for worker in world.workers if worker is not None and worker.ready],
            counted=Aggregate(),
            rng=Random(world.seed + 1),
            now=world.timeline.time,
        )
        self.servers: dict[int, Server] = {}
        self.plan: Prepare | None = None
        self._columns: Allocator[int] = Allocator(world.columns)
        self._arrival: dict[tuple[int, bool], float] = {}  # when the last message on a channel is there, by direction
        self._under_way: dict[int, int] = {}  # messages to each worker
        self._next: tuple[Prepare, dict[Server, model.Backend]] | None = None  # what is prepared
        self._preparing: set[int] = set()  # workers that have not said that it is
        self._committing: set[int] = set()
        self._coming_up: dict[int, Prepare] = {}
        world.timeline.at(TICK, self._tick)
        world.timeline.at(1.0, self._tidy)

    # ---- channels

    def _send(self, worker: SimulatedWorker, message: object) -> None:
        self._under_way[worker.number] = self._under_way.get(worker.number, 0) + 1
        self._transmit(worker, False, self._deliver, worker, message)

    def _deliver(self, worker: SimulatedWorker, message: object) -> None:
        self._under_way[worker.number] -= 1
        worker.receive(message)

    def up(self, worker: SimulatedWorker, message: object) -> None:
        """A worker says something."""
        self._transmit(worker, True, self._receive, worker, message)

    def _transmit(self, worker: SimulatedWorker, up: bool, receive: Any, *arguments: object) -> None:
        world = self.world
        arrival = world.now + world.rng.uniform(0.0, DELAY)
        arrival = self._arrival[worker.number, up] = max(arrival, self._arrival.get((worker.number, up), 0.0))
        world.timeline.at(arrival, receive, *arguments, loop=None if up else worker.loop)

    def told_all(self, worker: SimulatedWorker) -> bool:
        """A worker has heard of everything that is decided."""
        return not self._under_way.get(worker.number) and not self.states._stirred

    def _tell(self, number: int, message: BackendStates) -> None:
        worker = self.world.workers[number]
        if worker is not None:
            self._send(worker, message)

    def _receive(self, worker: SimulatedWorker, message: object) -> None:
        if self.world.workers[worker.number] is not worker:
            return  # it was reaped by now
        match message:
            case Outcomes():
                self.states.outcomes(worker.number, message)
                self.world.laws.look()
            case Prepared(generation):
                if self._coming_up.get(worker.number):
                    self._welcome(worker)
                elif self._next is not None and self._next[0].generation == generation:
                    self._preparing.discard(worker.number)
                    self._commit_if_prepared()
            case Done():
                self._committing.discard(worker.number)
                if self._coming_up.pop(worker.number, None):
                    worker.ready = True

    # ---- time

    def _tick(self) -> None:
        world = self.world
        world.timeline.at(world.now + TICK, self._tick)
        checks = self.states.checks()
        for slot, server in self.servers.items():
            tracker = checks.get(slot)
            if tracker is not None and world.now >= server.next_check:
                server.next_check = world.now + tracker.next_delay(world.rng)
                self.states.checked(slot, server.truth.passes, "simulated")
        self.states.tick()
        world.laws.look()

    def _tidy(self) -> None:
        """Free the columns that nobody uses, as `daemon.columns` does."""
        self.world.timeline.at(self.world.now + 1.0, self._tidy)
        if self.plan is None:
            return
        rows = [self.world.memory.row(Area.OLDEST, worker.number)[0] for worker in self.world.workers if worker]
        limit = min([self.plan.generation, *(row for row in rows if row)])
        for generation in [each for each in self._columns.living() if each < limit]:
            self._columns.release(generation, self._busy)
        self._columns.sweep(self._busy)

    def _busy(self, slot: int) -> bool:
        return self.world.memory.total(Area.IN_FLIGHT, slot) > 0

    @property
    def settled(self) -> bool:
        """Nothing is left of replaced generations."""
        return self._columns.settled()

    # ---- reloads

    @property
    def busy(self) -> bool:
        """A reload or a worker's start is under way: no reload can begin."""
        return self._next is not None or bool(self._committing or self._coming_up)

    def configure(self, pool: model.Pool, entries: dict[Server, model.Backend]) -> None:
        """Take these settings and backends into use: two phases, all workers or none."""
        generation = 1 if self.plan is None else self.plan.generation + 1
        slots = self._columns.take(generation, [entry.port for entry in entries.values()])
        backends = tuple(resolved(entry, slot) for entry, slot in zip(entries.values(), slots, strict=True))
        config = _config(msgspec.structs.replace(pool, backends=tuple(entries.values())))
        plan = Prepare(generation, config, backends, {}, {"web": 1}, (0, 1))
        self._next = plan, entries
        self._preparing = set()
        for worker in self.world.workers:
            if worker is not None and worker.ready:
                self._preparing.add(worker.number)
                self._send(worker, plan)
        self._commit_if_prepared()

    def _commit_if_prepared(self) -> None:
        if self._next is None or self._preparing:
            return
        (plan, entries), self._next = self._next, None
        starting = self.plan is None
        self.plan = plan
        before = set(self.servers.values())
        for (server, entry), backend in zip(entries.items(), plan.backends, strict=True):
            server.slot = backend.slot
            if server not in before:
                server.as_new(entry, added=not starting)
            elif server.entry != entry:
                server.as_in_the_file(entry)
        self.servers = {server.slot: server for server in entries}
        self.world.laws.another_plan()
        self.states.configure(plan.config, plan.backends, starting=starting)
        self.world.laws.look()
        for worker in self.world.workers:
            if worker is not None and worker.ready:
                self._committing.add(worker.number)
                self._send(worker, Commit(plan.generation))

    def _abort(self) -> None:
        assert self._next is not None
        (plan, _), self._next = self._next, None
        self.world.tell(f"generation {plan.generation} is not taken into use")
        self._columns.release(plan.generation, self._busy)
        for worker in self.world.workers:
            if worker is not None and worker.ready:
                self._send(worker, Abort(plan.generation))

    # ---- workers

    def bring_up(self, number: int) -> None:
        """A worker starts, unless a reload is under way: then a moment later."""
        world = self.world
        if self._next is not None or self._committing:
            world.timeline.at(world.now + 0.01, self.bring_up, number)
            return
        assert self.plan is not None
        worker = world.workers[number] = SimulatedWorker(world, number)
        self._under_way[number] = 0
        self._coming_up[number] = self.plan
        self._send(worker, self.plan)

    def _welcome(self, worker: SimulatedWorker) -> None:
        self._send(worker, self.states.welcome(worker.number))
        self._send(worker, Commit(self._coming_up[worker.number].generation))

    def kill(self, worker: SimulatedWorker) -> None:
        """A worker dies, with all that it has in flight; it is reaped, and a successor starts."""
        world = self.world
        world.tell(f"worker {worker.number} dies")
        world.happened["worker died"] += 1
        worker.kill()
        world.timeline.at(world.now + world.rng.uniform(0.0, REAPED_AFTER), self._reap, worker)

    def _reap(self, worker: SimulatedWorker) -> None:
        world, number = self.world, worker.number
        worker.ready = False
        world.workers[number] = None
        world.memory.clear_row(number)
        self.states.worker_gone(number)
        self._coming_up.pop(number, None)
        self._committing.discard(number)
        if number in self._preparing:
            self._preparing.clear()
            self._abort()
        world.timeline.at(world.now + world.rng.uniform(0.0, RESTARTED_AFTER), self.bring_up, number)


def _config(pool: model.Pool) -> model.Config:
    """The file: one listener, one route, this pool."""
    return model.Config(
        workers=2,
        via=None,
        listeners=(model.Listener(name="web", bind=(model.Bind(host="127.0.0.1"),), routes=("all",)),),
        routes=(model.Route(name="all", action=model.PoolAction(pool="p"), timeout=ROUTE_TIMEOUT),),
        pools=(pool,),
    )
