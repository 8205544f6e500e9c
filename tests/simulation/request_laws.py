"""What must hold in a worker after every step, judged from the wires, the orders it got, and the order of its line.

eligible      a pick is of a backend that the worker's generation has, and that is eligible by the standings that were
              delivered to it (so never one that is drained, of no weight, or ejected outside panic); or it is the one
              request of a trial, or goes once more to a backend that closed an old connection
limit         a pick raises no backend above `max_connections` (times its share of the largest share, while it starts
              slowly); where two workers pick at the very same moment, not above that by more than workers - 1
conservation  every cell of in flight equals the exchanges that the wires have under way there, a killed worker's until
              its row is zeroed; so none is ever negative, and none is left
whereabouts   every request that is neither answered nor cancelled waits in the line or is in flight, once
order         who waits is served in the order of arrival, and nobody who comes later is served first; but a retry
              does not hold up who came for the first time and goes to a backend that failed it
exits         a request leaves the line by exactly one of its turn, its time or its route's (not earlier), its client's
              going, or that nobody is eligible any more
patience      nobody waits longer than `queue_timeout` and a tick, or than a tick once nobody is eligible
idleness      nobody waits for longer than a tick while a backend is free (for the first of the retries: one that did
              not fail it, as long as there is one), or is turned away while there is room
trial         a backend that a worker is to try out, and that has room, gets the first request that begins there once
              the trial is older than a second
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from balancer.balancing.backend import BackendState
from balancer.config.model import ResolvedBackend
from balancer.daemon.shared_memory import Area
from balancer.proxy import waiting
from balancer.proxy.attempt import TRIAL_PATIENCE
from balancer.resilience.slow_start import limit
from balancer.resilience.standing import Standing

if TYPE_CHECKING:
    from balancer.proxy.exchange import Exchange
    from tests.simulation.wires import Client
    from tests.simulation.worker import SimulatedWorker

TICK = waiting.TICK + 0.002  # the loop's timers are rounded
CANCELLED = 499
ROUTE_TIMEOUT = 1.5  # seconds for all of an exchange


class RequestLaws:
    """The laws of one worker."""

    def __init__(self, worker: "SimulatedWorker") -> None:
        self._worker = worker
        self._world = worker.world
        self._cells = self._world.memory.row(Area.IN_FLIGHT, worker.number)[: self._world.columns]
        self._line: list[Exchange] = []  # as it was after the last step
        self._retries: set[Exchange] = set()  # of them
        self._held_up = False  # somebody who was in front of the retries held up the others until this step
        self._free_since: float | None = None
        self._nobody_since: float | None = None
        self._planned_at = 0.0
        self._trial_at = 0.0  # when the latest one was given to the worker
        # What happened in this step:
        self._newcomer: Client | None = None
        self._served = False  # a request that is no retry began
        self._resent: tuple[int, int] | None = None  # who may get a request again, and how much it had before
        self._tried_out = False

    @property
    def waiting(self) -> bool:
        """Somebody waits, so time alone may break a law."""
        return bool(self._line)

    # ---- what happens

    def arrives(self, client: "Client") -> None:
        """A request comes in this step."""
        self._newcomer = client
        client.joined_at = None
        client.status = 0

    def answered(self, client: "Client", status: int) -> None:
        """A client has its answer."""
        client.status = status
        self._world.tell(f"    worker {self._worker.number} answers {status}")
        self._world.happened[f"status {status}"] += 1

    def another_plan(self) -> None:
        """Another generation is in use from now on."""
        self._planned_at = self._world.now

    def to_try_out(self) -> None:
        """The worker is told of a trial."""
        self._trial_at = self._world.now

    def may_resend(self, slot: int) -> None:
        """A connection closes as a request comes on it."""
        self._resent = slot, self._world.memory.total(Area.IN_FLIGHT, slot)

    def picked(self, backend: BackendState) -> None:
        """Laws `eligible` and `limit`."""
        worker, world, slot = self._worker, self._world, backend.slot
        world.tell(f"    worker {worker.number} sends a request to {backend.name}")
        held = worker.held.get(slot)
        most = worker.ports.get(backend.address.port)
        before = 0
        if self._resent is not None and self._resent[0] == slot:
            before, self._resent = self._resent[1], None
            world.happened["sent again"] += 1
        elif most is None:
            world.broken(f"worker {worker.number} picks {backend.name}, which is removed")
        elif held is None or not held.eligible or held.weight <= 0:
            if slot not in worker.trials:
                world.broken(f"worker {worker.number} picks {backend.name}, which is not eligible: {held}")
            worker.trials.discard(slot)
            self._tried_out = True
            world.happened["trial"] += 1
        elif slot in worker.trials:
            self._tried_out = True  # or it is only picked, in panic
        if most and held is not None:
            self._look_at_limit(backend, max(before, limit(most, self._share(held))))

    def _look_at_limit(self, backend: BackendState, allowed: int) -> None:
        world = self._world
        total = world.memory.total(Area.IN_FLIGHT, backend.slot)
        if total > allowed and world.racing:
            world.happened["more than may be, by a race"] += 1
            allowed += world.workers_count - 1
        if total > allowed:
            world.broken(f"{total} are in flight at {backend.name}, {allowed} may be")

    # ---- after every step

    def look(self) -> None:
        """Every other law."""
        worker, world = self._worker, self._world
        self._resent = None
        cells = self._cells.tolist()
        if cells != worker.open:
            world.broken(f"worker {worker.number} counts {cells} in flight, there are {worker.open}")
        if not worker.loop.alive or worker.plan is None:
            return
        # Also one that the newest generation has switched off: a retry of an older one may join it until the next tick.
        line = worker.server.live._lines.get("p")
        here = sorted_by_arrival(line) if line else []
        if here or self._line:
            self._look_at_line(here)
        if self._newcomer is not None:
            self._look_at_newcomer(self._newcomer, here, worker.server.snapshot.pools["p"].line is None)
            self._newcomer = None
        if self._served and not self._tried_out:
            self._look_at_trials()
        self._served = self._tried_out = False
        if len(worker.clients) != len(here) + sum(cells):
            world.broken(f"of {len(worker.clients)} requests {len(here)} wait and {sum(cells)} are in flight")
        self._line = here
        self._retries = set(line._retries) if line else set()

    def _look_at_line(self, here: "list[Exchange]") -> None:
        if here != self._line:
            self._look_at_changes(here)
        if not here:
            self._free_since = self._nobody_since = None
            return
        first = _client(here[0])  # nobody has waited for longer
        if self._world.now > max(self._due(first), self._planned_at) + TICK:
            self._world.broken(f"somebody waits since {first.joined_at:.3f} s")
        self._free_since = self._lasts(
            self._free_for(here), self._free_since, "somebody waits although a backend is free"
        )
        self._nobody_since = self._lasts(not self._anybody(), self._nobody_since, "somebody waits for nobody")

    def _lasts(self, holds: bool, since: float | None, law: str) -> float | None:
        """Since when something holds that may hold for a tick; None = it does not."""
        if not holds:
            return None
        if since is not None and self._world.now > since + TICK:
            self._world.broken(law)
        return self._world.now if since is None else since

    def _look_at_changes(self, here: "list[Exchange]") -> None:
        """Who came, who is still there, and who is not."""
        still = set(here)
        kept = [exchange for exchange in self._line if exchange in still]
        if here[: len(kept)] != kept:
            self._world.broken("who waits has changed places")
        for exchange in here[len(kept) :]:
            self._world.happened["waits"] += 1
            _client(exchange).joined_at = self._world.now
        overtaken: list[Exchange] = []
        gone = [exchange for exchange in self._line if exchange not in still and not _client(exchange).busy]
        self._held_up = not self._retries.isdisjoint(gone)
        if self._held_up:
            self._free_since = None
        for exchange in self._line:
            client = _client(exchange)
            if exchange not in still:
                self._look_at_exit(exchange, client, overtaken)
                continue
            overtaken.append(exchange)
            if client.lost:
                self._world.broken("somebody waits whose client is gone")

    def _look_at_exit(self, exchange: "Exchange", client: "Client", overtaken: "list[Exchange]") -> None:
        if client.busy:
            self._look_at_turn(exchange, overtaken)
        elif client.status == CANCELLED:
            self._world.happened["cancelled in line"] += 1
        elif client.status == 504 and self._world.now >= client.asked_at + ROUTE_TIMEOUT:
            self._world.happened["route timeout in line"] += 1
        elif client.status != 503:
            self._world.broken(f"somebody who waited is answered {client.status} at once")
        elif not self._anybody():
            self._world.happened["waited for nobody"] += 1
        else:
            self._world.happened["queue timeout"] += 1
            if self._world.now < self._due(client) - 1e-9:
                self._world.broken(f"somebody is sent away who waited only since {client.joined_at:.3f} s")

    def _look_at_turn(self, exchange: "Exchange", overtaken: "list[Exchange]") -> None:
        attempt = exchange.attempt
        first_retries = [other for other in overtaken if _failed_at(other)][:1]
        if attempt.number > 1:
            self._world.happened["turn of a retry"] += 1
        else:
            self._world.happened["turn"] += 1
            self._served = True
            overtaken = [other for other in overtaken if not _failed_at(other)]
            if not self._held_up:
                overtaken += [other for other in first_retries if attempt.backend not in _failed_at(other)]
        if overtaken and not attempt._trial:
            self._world.broken("somebody is served before who came earlier")

    def _look_at_newcomer(self, client: "Client", here: "list[Exchange]", no_line: bool) -> None:
        """Somebody came in this step, and was served, waits, or was sent away."""
        if client.busy:
            if client.joined_at is None and self._line and self._line[-1] in here and not no_line:
                self._world.broken("somebody who came later is served first")
            self._served = self._served or client.joined_at is None
        elif client.status == 503 and self._anybody():
            assert self._worker.plan is not None
            [pool] = self._worker.plan.config.pools
            self._world.happened["turned away"] += 1
            if self._free() if no_line else len(self._line) < pool.queue_max:
                self._world.broken("somebody is turned away although there is room")

    def _look_at_trials(self) -> None:
        """Requests began in this step, and none of them is a trial."""
        if not self._worker.trials or self._world.now <= self._trial_at + TRIAL_PATIENCE:
            return
        for backend, held in self._members():
            if backend.slot in self._worker.trials and not held.eligible and self._has_room(backend, held):
                self._world.broken(f"{backend.name} is not tried out although requests come")

    # ---- what the worker may know

    def _due(self, client: "Client") -> float:
        """When a client has waited long enough."""
        assert self._worker.plan is not None
        assert client.joined_at is not None
        [pool] = self._worker.plan.config.pools
        return client.joined_at + (pool.queue_timeout or 0.0)

    def _anybody(self) -> bool:
        """Somebody is eligible."""
        return any(held.eligible and held.weight > 0 for _, held in self._members())

    def _free(self) -> bool:
        """Somebody is eligible who is not full."""
        return any(
            held.eligible and held.weight > 0 and self._has_room(backend, held) for backend, held in self._members()
        )

    def _free_for(self, here: "list[Exchange]") -> bool:
        """Somebody is free for one of those in front."""
        if not all(map(_failed_at, here)):
            return self._free()
        tried = {backend.slot for backend in _failed_at(here[0])} if here else set()
        members = [(one, held) for one, held in self._members() if held.eligible and held.weight > 0]
        others = [each for each in members if each[0].slot not in tried]
        return any(self._has_room(backend, held) for backend, held in others or members)

    def _has_room(self, backend: ResolvedBackend, held: Standing) -> bool:
        most = backend.max_connections
        return most is None or self._world.memory.total(Area.IN_FLIGHT, backend.slot) < limit(most, self._share(held))

    def _share(self, held: Standing) -> float:
        """What slow start leaves of a limit: it is relative to the largest share of those who are eligible."""
        if held.share >= 1.0:
            return 1.0
        top = max((each.share for _, each in self._members() if each.eligible and each.weight > 0), default=1.0)
        return min(1.0, held.share / top)

    def _members(self) -> Iterator[tuple[ResolvedBackend, Standing]]:
        """The backends of the worker's generation, with what it holds of them."""
        assert self._worker.plan is not None
        for backend in self._worker.plan.backends:
            yield backend, self._worker.held[backend.slot]


def sorted_by_arrival(line: waiting.WaitingLine) -> "list[Exchange]":
    """Everybody in it."""
    return sorted({**line._waiting, **line._retries}, key=lambda one: (line._waiting | line._retries)[one])


def _failed_at(exchange: "Exchange") -> set[BackendState]:
    """The backends that failed one that waits; none = it waits for its first attempt."""
    attempt = getattr(exchange, "attempt", None)  # a client that is gone is taken to pieces
    return (attempt._tried or set()) if attempt is not None and attempt.number else set()


def _client(exchange: "Exchange") -> "Client":
    """Whose it is: a connection's transport is the client's wire."""
    client: Client = exchange.downstream.transport  # type: ignore[assignment]
    return client
