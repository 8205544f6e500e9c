"""A worker: the real data path (`ProxyServer`) on wires, with its end of the control channel."""

import asyncio
from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from balancer.balancing.backend import BackendState, LoadTable
from balancer.daemon.messages import (
    Abort,
    BackendStates,
    Commit,
    Done,
    Failure,
    Outcomes,
    Prepare,
    Prepared,
    Successes,
)
from balancer.daemon.shared_memory import Area
from balancer.proxy.outcomes import FailureReport, SuccessReport
from balancer.proxy.server import ProxyServer
from balancer.proxy.snapshot import Snapshot
from balancer.proxy.upstream import Upstream
from balancer.resilience.standing import Standing
from balancer.telemetry.registry import Registry
from tests.simulation.request_laws import RequestLaws
from tests.simulation.servers import CONNECT_MAX, Manner
from tests.simulation.virtual_time import WorkerLoop
from tests.simulation.wires import REQUESTS, BackendWire, Client

if TYPE_CHECKING:
    from tests.simulation.standings import Simulation

UNBOUNDED = 10**9
CANCELLED = 0.15  # of the requests
CANCEL_AFTER = 0.3  # seconds, at most


class RacingRow(Sequence[int]):
    """The other worker's cells. Once armed, that worker begins an exchange between our reading one and our deciding."""

    def __init__(self, row: Sequence[int]) -> None:
        self._row = row
        self.race: Any = None

    def __getitem__(self, slot: Any) -> Any:
        value = self._row[slot]
        race, self.race = self.race, None
        if race is not None:
            race()
        return value

    def __len__(self) -> int:
        return len(self._row)


class SimulatedWorker:
    """One worker process. `held` is what it was told, `plan` what it was last made to use."""

    def __init__(self, world: "Simulation", number: int) -> None:
        self.world = world
        self.number = number
        self.rng = Random(world.rng.getrandbits(32))
        self.loop = WorkerLoop(world.timeline, self._dial)
        self.cells = world.memory.writable(Area.IN_FLIGHT, number)
        self.open = [0] * world.columns  # in flight by backend slot, as the wires know it
        self.held: dict[int, Standing] = {}
        self.trials: set[int] = set()
        self.plan: Prepare | None = None
        self.ports: dict[int, int] = {}  # of the backends that it may pick; to their max_connections, 0 = none
        self.ready = False
        self.clients: dict[Client, None] = {}
        self.idle: list[Client] = []
        self.laws = RequestLaws(self)
        self._prepared: tuple[Prepare, Snapshot] | None = None
        self.others: list[Any] = world.memory.others(Area.IN_FLIGHT, number, range(world.workers_count))
        if world.racing:
            self.others = [RacingRow(row) for row in self.others]
        self.loop.run(self._start)

    def _start(self) -> None:
        memory, number = self.world.memory, self.number
        self.server = ProxyServer(
            worker=number,
            loads=LoadTable(self.cells, self.others),
            connections=memory.table(Area.CONNECTIONS, number),
            registry=Registry(),
            access_log=None,
            connection_budget=UNBOUNDED,
            rng=self.rng,
            retry_tokens=memory.table(Area.RETRY_TOKENS, number),
        )
        self.server.reports.tell = self._tell_outcomes
        self.loop.call_later(self.rng.random(), self._each_second)

    def _each_second(self) -> None:
        """As `daemon.worker` does."""
        self.loop.call_later(1.0, self._each_second)
        if self.plan is None:
            return
        self.server.each_second()
        while self.server.leftovers.sweep(self.world.now):
            pass
        self._tell_oldest()

    def _tell_oldest(self) -> None:
        self.world.memory.row(Area.OLDEST, self.number)[0] = self.server.leftovers.oldest

    # ---- the control channel

    def receive(self, message: object) -> None:
        """An order, or what the supervisor decided."""
        server = self.server
        match message:
            case BackendStates(_, changes, down):
                for standing in changes:
                    self.held[standing.slot] = standing
                    (self.trials.add if standing.trial else self.trials.discard)(standing.slot)
                    if standing.trial:
                        self.laws.to_try_out()
                server.live.told(changes, down)
                self.world.laws.delivered(self)
            case Prepare(generation, config, backends, files, columns):
                snapshot = server.prepare(config, backends, files, generation=generation, columns=columns)
                self._prepared = message, snapshot
                self._tell(Prepared(generation))
            case Commit():
                assert self._prepared is not None
                (plan, snapshot), self._prepared = self._prepared, None
                self.ports = {one.address[1]: one.max_connections or 0 for one in plan.backends}
                slots = {one.slot for one in plan.backends}
                self.held = {slot: held for slot, held in self.held.items() if slot in slots}
                self.trials &= slots
                self.plan = plan
                self.laws.another_plan()
                server.commit(snapshot)
                self._tell_oldest()
                self._tell(Done())
            case Abort():
                self._prepared = None
                server.discard()

    def _tell(self, message: object) -> None:
        self.world.supervisor.up(self, message)

    def _tell_outcomes(self, failures: list[FailureReport], successes: list[SuccessReport]) -> None:
        """As `daemon.worker` does."""
        bad = tuple(Failure(slot, reason, succeeded) for slot, reason, succeeded in failures)
        good = tuple(Successes(slot, count, seconds) for slot, count, seconds in successes)
        self._tell(Outcomes(bad, good))

    # ---- clients

    def arrive(self) -> None:
        """A request comes."""
        world, rng = self.world, self.rng
        client = self.idle.pop() if self.idle else None
        if client is None or client.closed:
            client = Client(self)
        self.clients[client] = None
        self.laws.arrives(client)
        client.ask(rng.choice(REQUESTS), world.now)
        if rng.random() < CANCELLED:
            self.loop.call_later(rng.uniform(0.0, CANCEL_AFTER), client.hang_up, client.number)

    def answered(self, client: Client, status: int) -> None:
        """It has its answer."""
        del self.clients[client]
        self.laws.answered(client, status)
        self.idle.append(client)

    def cancelled(self, client: Client) -> None:
        """It goes without one."""
        del self.clients[client]
        self.world.happened["cancelled"] += 1

    def client_lost(self, client: Client, *, began: bool) -> None:
        """Its connection is gone."""
        if client.busy:
            client.busy = False
            del self.clients[client]
            if not began:
                self.world.broken("a client was cut off without a word")

    # ---- backends

    async def _dial(self, factory: Any, port: int) -> tuple[asyncio.Transport, Upstream]:
        protocol: Upstream = factory()
        slot = protocol.connections.backend.slot
        self.began(protocol.connections.backend)
        self.open[slot] += 1
        try:
            server = self.world.server_at(port)
            if server.truth.manner is Manner.FILTERED:
                await self.loop.create_future()
            done = self.loop.create_future()
            self.loop.call_later(self.rng.uniform(0.0, CONNECT_MAX), _finish, done)
            await done
            if server.truth.manner is Manner.REFUSES:
                raise ConnectionRefusedError
        finally:
            self.open[slot] -= 1
        wire = BackendWire(self, protocol)
        wire.number = -1  # its first request is the one that it was made for
        protocol.connection_made(wire)
        return wire, protocol

    def began(self, backend: BackendState) -> None:
        """The proxy chose a backend for an attempt."""
        self.laws.picked(backend)

    def asked(self, wire: BackendWire) -> None:
        """A backend gets a request."""
        backend = wire.backend
        self.open[backend.slot] += 1
        if wire.number:
            self.began(backend)
        exchange = wire.protocol.exchange
        if exchange is None or exchange.downstream.closed:
            self.world.broken("a backend gets a request of a client that is gone")
        self.world.server_at(backend.address.port).serve(wire, self.rng)

    def over(self, slot: int) -> None:
        """A request at a backend is over."""
        self.open[slot] -= 1

    def may_resend(self, wire: BackendWire) -> None:
        """A connection closes as a request comes on it: that may be sent again to the same backend."""
        self.laws.may_resend(wire.backend.slot)

    def kill(self) -> None:
        """Nothing more happens here; what was in flight stays in its row until that is zeroed."""
        self.loop.alive = False


def _finish(done: "asyncio.Future[None]") -> None:
    if not done.done():
        done.set_result(None)
