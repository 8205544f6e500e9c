"""One pool and two workers under random traffic, faults, operators and reloads, on a virtual clock.

`run(seed)` plays one schedule and checks after every step what must always hold; `python -m tests.simulation.standings
SEED` plays it again and prints what happened. The code that decides is the daemon's own: the supervisor's standings
(`daemon.states`) and the data path of each worker (`proxy.server`, with picks, lines, retries and reports), over the
real table of what is in flight. Only connections, channels and time are simulated. The laws, by name:

- of decisions: wishes, ejected, cap, trials, ruling, slow start, delivery, recovery (`standing_laws`);
- of requests: eligible, limit, conservation, whereabouts, order, exits, patience, idleness (`request_laws`);
- at the end, when faults and then requests have ended: nothing is in flight, nobody waits, nothing is left of what was
  replaced or removed.
"""

import sys
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import NoReturn

import msgspec

from balancer.config.model import (
    Backend,
    HealthCheck,
    Keepalive,
    OutlierDetection,
    Pool,
    PoolTimeouts,
    Retry,
)
from balancer.daemon.shared_memory import Area, SharedMemory
from tests.simulation.servers import TRUTHS, Server, Truth
from tests.simulation.standing_laws import StandingLaws
from tests.simulation.supervisor import Supervisor
from tests.simulation.virtual_time import Timeline, virtual_clock
from tests.simulation.worker import RacingRow, SimulatedWorker

FAULTS_FOR = 6.0  # seconds
MAX_EJECTION = 4.0
WINDOW_MAX = 2.0
SLOW_START_MAX = 3.0
INTERVAL_MAX = 1.0
# After the faults: an ejection that is under way, one more by what the window still holds, its trial; a share that was
# lowered doubles with every window; checks; slow start; a worker's start; each with room.
RECOVERED_WITHIN = 2 * 1.1 * MAX_EJECTION + 10 * WINDOW_MAX + 5 * INTERVAL_MAX + SLOW_START_MAX + 12.0
ENDED_WITHIN = 4.0  # after the last request: its timeouts, and two looks at what is left
CALM_TRAFFIC = 40.0  # requests per second while it recovers: enough for trials, windows and limits
SERVERS_MAX = 12


class BrokenLawError(Exception):
    """What must always hold did not. The text says what, when, and how to see it again."""


class Simulation:
    """One schedule."""

    def __init__(self, seed: int, say: Callable[[str], None] | None = None) -> None:
        self.seed = seed
        self.happened: Counter[str] = Counter()
        self.columns = 2 * SERVERS_MAX
        self.workers_count = 2
        self.rng = Random(seed)
        self.timeline = Timeline()
        self._say = say
        self._law = ""
        self._born = 0
        self._ever: list[Server] = []
        self.memory = SharedMemory.create(rows=self.workers_count, backends=0)
        self.racing = self.rng.random() < 0.3
        self.traffic = self.rng.choice((10.0, 30.0, 80.0))  # requests per second
        self._strikes = self.rng.choice((1.0, 3.0, 5.0))  # faults, wishes and reloads per second
        self._truths = self.rng.choice(TRUTHS)
        if Truth.SLOW in self._truths and self.rng.random() < 0.5:
            self.traffic, self._strikes = 100.0, 0.3  # it takes much traffic, and time, to be found slow
        self.workers: list[SimulatedWorker | None] = [None] * self.workers_count
        self.laws = StandingLaws(self)
        self.supervisor = Supervisor(self)
        self._pool = Pool(name="p")
        self._limits: tuple[int | None, ...] = (None,)

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return self.timeline.now

    # ---- the schedule

    def run(self) -> "Simulation":
        """Faults, then none and no wishes of operators any more, until all is well; then no requests either."""
        timeline = self.timeline
        with virtual_clock(timeline.time):
            try:
                self._begin()
                timeline.at(0.1, self._next_request)
                timeline.at(0.5, self._next_strike)
                self._until(FAULTS_FOR)
                self._make_good()
                while self._ill() and self.now < FAULTS_FOR + RECOVERED_WITHIN:
                    self._until(self.now + 0.1)
                if self._ill():
                    self.broken(f"not well {RECOVERED_WITHIN:g} s after the last fault: {self._ill()}")
                self.traffic = 0.0
                end = self.now + ENDED_WITHIN
                while self._left() and self.now < end:
                    self._until(self.now + 0.25)
                if self._left():
                    self.broken(f"{ENDED_WITHIN:g} s after the last request: {self._left()}")
            finally:
                self.memory.close()
        return self

    def _begin(self) -> None:
        servers = [self._new_server() for _ in range(self.rng.choice((1, 2, 3, 4, 6, 10)))]
        self._change_settings()
        self.supervisor.configure(self._pool, {server: self._limited(server.entry) for server in servers})
        for number in range(self.workers_count):
            self.supervisor.bring_up(number)

    def _until(self, end: float) -> None:
        while self.now < end:
            self._step()

    def _step(self) -> None:
        """The next thing happens, and every law is looked at."""
        if not self.timeline.step():
            return
        for number, worker in enumerate(self.workers):
            if worker is None:
                if any(self.memory.row(Area.IN_FLIGHT, number)[: self.columns]):
                    self.broken(f"something is in flight from worker {number}, which is dead")
            elif worker.loop.ran or worker.laws.waiting:
                worker.loop.ran = False
                for error in worker.loop.errors:
                    raise error
                worker.laws.look()
        if self._law:
            raise BrokenLawError(self._law)

    def _next_request(self) -> None:
        """A request at one of the workers; where they race, sometimes at both, at the very same moment."""
        if not self.traffic:
            return
        self.timeline.at(self.now + self.rng.expovariate(self.traffic), self._next_request)
        workers = [one for one in self.workers if one is not None and one.ready and one.loop.alive]
        if not workers:
            return
        worker = self.rng.choice(workers)
        if self.racing and len(workers) == 2 and self.rng.random() < 0.3:
            self._race(worker, workers[1 - workers.index(worker)])
        else:
            worker.loop.run(worker.arrive)

    def _race(self, first: SimulatedWorker, second: SimulatedWorker) -> None:
        [row] = first.others
        assert isinstance(row, RacingRow)
        row.race = lambda: second.loop.run(second.arrive)
        first.loop.run(first.arrive)
        row.race = None

    def _next_strike(self) -> None:
        """Something happens to the world: a fault, its end, an operator, a reload, a worker's death."""
        if self.now >= FAULTS_FOR:
            return
        rng = self.rng
        self.timeline.at(self.now + rng.expovariate(self._strikes), self._next_strike)
        server = rng.choice(list(self.supervisor.servers.values()) or [None])
        match rng.randrange(13):
            case 0 | 1 | 2 | 3 | 4 if server is not None:
                self._become(server, rng.choice(self._truths))
            case 5 if server is not None:
                self._wish(server, server.weight, not server.drained)
            case 6 if server is not None:
                self._wish(server, rng.choice((0, 1, 1, 3)), server.drained)
            case 7 if server is not None:
                self._reload(without=server)
            case 10 if server is not None:
                for other in self.supervisor.servers.values():
                    self._wish(other, other.weight, other is not server)
            case 8:
                self._reload(more=True)
            case 9:
                worker = rng.choice(self.workers)
                if worker is not None and worker.loop.alive:
                    self.supervisor.kill(worker)
            case _:
                self._change_settings()
                self._reload()

    # ---- what happens to the world

    def _new_server(self) -> Server:
        """A backend of a new name."""
        self._born += 1
        entry = Backend(name=f"b{self._born}", host="h", port=self._born, backup=self.rng.random() < 0.2)
        server = Server(entry, truth=self.rng.choice((Truth.GOOD, *self._truths)))
        self._ever.append(server)
        return server

    def _become(self, server: Server, truth: Truth) -> None:
        server.truth = truth
        self.tell(f"{server.entry.name} is {truth.name}")

    def _wish(self, server: Server, weight: int, drained: bool) -> None:
        server.weight, server.drained = weight, drained
        self.tell(f"{server.entry.name} weight: {weight}, drained: {drained}")
        self.supervisor.states.set_live("p", server.entry.name, weight=weight, drained=drained)
        self.laws.look()

    def _reload(self, *, without: Server | None = None, more: bool = False) -> None:
        """The daemon reads its file: perhaps a backend more or less, perhaps other settings."""
        if self.supervisor.busy:
            return
        servers = [server for server in self.supervisor.servers.values() if server is not without]
        if more and len(servers) < SERVERS_MAX:
            gone = [server for server in self._ever if server not in servers]
            servers.append(self.rng.choice(gone) if gone and self.rng.random() < 0.5 else self._new_server())
        names = ", ".join(server.entry.name for server in servers)
        self.tell(f"reload with {names}: {self._pool}, limits {self._limits}")
        self.supervisor.configure(self._pool, {server: self._limited(server.entry) for server in servers})

    def _limited(self, entry: Backend) -> Backend:
        return msgspec.structs.replace(entry, max_connections=self._limits[entry.port % len(self._limits)])

    def _change_settings(self) -> None:
        """Other settings for the next reload."""
        rng = self.rng
        check = HealthCheck(interval=rng.uniform(0.3, INTERVAL_MAX), fast_interval=0.2)
        detection = OutlierDetection(
            mode=rng.choice(("enforce", "enforce", "enforce", "observe")),
            consecutive_failures=rng.choice((None, 3, 4)),
            window=rng.choice((1.0, WINDOW_MAX)),
            base_ejection=rng.uniform(0.3, 1.0),
            max_ejection=MAX_EJECTION,
            max_ejected=rng.choice((0.1, 0.5, 1.0)),
        )
        self._pool = Pool(
            name="p",
            strategy=rng.choice(("round_robin", "random", "weighted", "weighted_random", "least_connections")),
            timeouts=PoolTimeouts(connect=0.3, first_byte=0.8, attempt=rng.choice((None, 0.6))),
            keepalive=Keepalive(idle=rng.choice((0.5, 2.0)), max_requests=rng.choice((5, 1000))),
            health_check=rng.choice((check, check, None)),
            outlier_detection=rng.choice((detection, detection, detection, None)),
            retry=rng.choice((None, Retry(), Retry(attempts=3, when=("connect_failure", "reset", "timeout", "500")))),
            slow_start=rng.choice((SLOW_START_MAX, 1.0, None)),
            panic_threshold=rng.choice((0.0, 0.3, 0.5, 1.0)),
            queue_timeout=rng.choice((None, 0.05, 0.3, 1.0)),
            queue_max=rng.choice((2, 1000)),
        )
        self._limits = rng.choice(((None,), (1,), (1, 2), (4,), (None, 2, 6)))

    def server_at(self, port: int) -> Server:
        """The backend of a port."""
        return self._ever[port - 1]

    # ---- the end

    def _make_good(self) -> None:
        self.tell("no faults from now on")
        self.traffic = CALM_TRAFFIC
        for server in self._ever:
            server.truth = Truth.GOOD
        for server in list(self.supervisor.servers.values()):
            self._wish(server, server.entry.weight or 1, False)

    def _ill(self) -> str:
        if any(worker is None or not worker.ready or not worker.loop.alive for worker in self.workers):
            return "a worker is missing"
        return self.laws.ill()

    def _left(self) -> str:
        """What is left once no request comes any more; "" = nothing."""
        for worker in self.workers:
            assert worker is not None
            left = {
                "requests": len(worker.clients),
                "in flight": sum(worker.open) + worker.server.in_flight(),
                "removed backends": len(worker.server.leftovers.backends()),
                "timers": sum(planned[2]._callback is not None for planned in worker.server.deadlines._heap),
                "connections in use": sum(
                    backend.connections.active for backend in worker.server.snapshot.backends.values()
                ),
            }
            if any(left.values()):
                return f"at worker {worker.number} are {left}"
        return "" if self.supervisor.settled else "columns of removed backends are not free"

    def broken(self, law: str) -> NoReturn:
        """A law is broken: say so, and how to see it again. What raises may be a task, so it is raised again later."""
        self._law = self._law or (
            f"{law}, at {self.now:.3f} s; replay: python -m tests.simulation.standings {self.seed}"
        )
        raise BrokenLawError(self._law)

    def tell(self, text: str) -> None:
        """For whoever replays."""
        if self._say is not None:
            self._say(f"{self.now:8.3f} {text}")


def run(seed: int, say: Callable[[str], None] | None = None) -> Simulation:
    """Play a schedule. Raises BrokenLawError."""
    return Simulation(seed, say).run()


if __name__ == "__main__":
    for number in sys.argv[1:]:
        run(int(number), print)
