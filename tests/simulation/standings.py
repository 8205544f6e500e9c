"""One pool under random faults, operators and reloads, with a toy model of traffic and a virtual clock.

`run(seed)` plays one schedule and checks after every step what must always hold; `python -m tests.simulation.standings
SEED` plays it again and prints what happened. What the simulation knows of ejections and health it knows only from
what `PoolStandings` said had happened, and what operators want from itself.
"""

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from random import Random

import msgspec

from balancer.config.model import Backend, HealthCheck, OutlierDetection, Pool, ResolvedBackend
from balancer.resilience.known_backend import Happening, What
from balancer.resilience.pool_standings import PoolStandings
from balancer.resilience.standing import Standing

STEP = 0.2  # seconds between two ticks
FAULTS_FOR = 40.0
MAX_EJECTION = 15.0
WINDOW_MAX = 5.0
SLOW_START_MAX = 10.0
INTERVAL_MAX = 3.0
# After the faults: an ejection that is under way, one more by what the window still holds, its trial; a share that was
# lowered doubles with every window; checks; slow start; each with room.
RECOVERED_WITHIN = 2 * 1.1 * MAX_EJECTION + 10 * WINDOW_MAX + 5 * INTERVAL_MAX + SLOW_START_MAX + 10.0
FLOOR = 0.1  # the share with which a slow start begins


class BrokenLawError(Exception):
    """What must always hold did not. The text says what, when, and how to see it again."""


class Truth(Enum):
    """What a backend really does: whether it passes checks, how often it fails requests, how long it takes."""

    GOOD = (True, 0.0, 0.01)
    DEAD = (False, 1.0, 0.01)
    LYING = (True, 1.0, 0.01)
    FLAKY = (True, 0.5, 0.01)
    SLOW = (True, 0.0, 0.5)
    SICK = (False, 0.0, 0.01)

    def __init__(self, passes: bool, failures: float, first_byte: float) -> None:
        self.passes = passes
        self.failures = failures
        self.first_byte = first_byte


@dataclass
class Server:
    """A backend as the simulation knows it."""

    entry: Backend
    slot: int
    truth: Truth = Truth.GOOD
    weight: int = 1
    drained: bool = False
    next_check: float = 0.0
    ejected: bool = False
    half_open: bool = False
    unhealthy: bool = False
    succeeded: int = 0  # not told yet
    first_bytes: float = 0.0

    @property
    def wanted(self) -> bool:
        """An operator wants it to have traffic."""
        return self.weight > 0 and not self.drained

    def resolved(self) -> ResolvedBackend:
        """As the daemon hands it over."""
        return ResolvedBackend(
            pool="p", name=self.entry.name, host="h", address=("10.0.0.1", self.entry.port, ""), slot=self.slot
        )


@dataclass
class Simulation:
    """One schedule."""

    seed: int
    say: Callable[[str], None] | None = None
    now: float = 0.0
    happened: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.rng = Random(self.seed)
        self.servers: dict[int, Server] = {}
        self.told: dict[int, Standing] = {}
        self.born = 0
        self.pool = Pool(name="p")
        self.standings = PoolStandings("p", Random(self.seed + 1))
        self.next_report = 1.0
        self.busy = self.rng.choice((2, 8, 15))  # attempts per step
        for _ in range(self.rng.randint(1, 8)):
            self.add_server()
        self.configure(starting=True)

    # ---- the schedule

    def run(self) -> "Simulation":
        """Faults, then none and no wishes of operators any more, until all is well."""
        while self.now < FAULTS_FOR:
            if self.rng.random() < 0.15:
                self.strike()
            self.step()
        for server in self.servers.values():
            server.truth = Truth.GOOD
            server.weight = server.entry.weight or 1
            server.drained = False
            self.note(self.standings.set_weight(server.entry.name, server.weight, self.now))
            self.note(self.standings.set_drained(server.entry.name, False, self.now))
        self.tell("no faults from now on")
        while self.ill() and self.now < FAULTS_FOR + RECOVERED_WITHIN:
            self.step()
        if self.ill():
            self.broken(f"not well {RECOVERED_WITHIN:g} s after the last fault: {self.ill()}")
        return self

    def step(self) -> None:
        """Time passes: checks that are due, traffic, reports, the tick."""
        self.now += STEP
        for server in list(self.servers.values()):
            self.check_if_due(server)
        for _ in range(self.busy):
            self.attempt()
        if self.now >= self.next_report:
            self.next_report += 1.0
            for server in self.servers.values():
                count, seconds = server.succeeded, server.first_bytes
                server.succeeded, server.first_bytes = 0, 0.0
                self.note(self.standings.succeeded(server.slot, count, seconds, self.now))
        if self.standings.awake(self.now):
            self.note(self.standings.tick(self.now))
        self.look()

    def strike(self) -> None:
        """Something happens to the world: a fault, its end, an operator, a reload."""
        server = self.rng.choice(list(self.servers.values()) or [None])
        match self.rng.randrange(10):
            case 0 | 1 | 2 | 3 | 4 if server is not None:
                server.truth = self.rng.choice(list(Truth))
                self.tell(f"{server.entry.name} is {server.truth.name}")
            case 5 if server is not None:
                server.drained = not server.drained
                self.tell(f"{server.entry.name} drained: {server.drained}")
                self.note(self.standings.set_drained(server.entry.name, server.drained, self.now))
            case 6 if server is not None:
                server.weight = self.rng.choice((0, 1, 1, 3))
                self.tell(f"{server.entry.name} weight: {server.weight}")
                self.note(self.standings.set_weight(server.entry.name, server.weight, self.now))
            case 7 if server is not None:
                del self.servers[server.slot]
                self.tell(f"{server.entry.name} is removed")
                self.configure()
            case 8:
                self.add_server()
                self.configure()
            case _:
                self.configure(anew=True)

    def add_server(self) -> None:
        """A backend of a new name; it may get the slot of one that is gone."""
        slot = next(slot for slot in range(100) if slot not in self.servers)
        self.born += 1
        entry = Backend(name=f"b{self.born}", host="h", port=self.born, backup=self.rng.random() < 0.2)
        self.servers[slot] = Server(entry, slot, self.rng.choice([Truth.GOOD, Truth.GOOD, *Truth]))
        self.tell(f"{entry.name} is added in slot {slot}")

    def configure(self, *, starting: bool = False, anew: bool = False) -> None:
        """The daemon reads its file: the backends that there are, and perhaps other settings."""
        rng = self.rng
        settings = self.pool
        if starting or anew:
            check = HealthCheck(interval=rng.uniform(0.5, INTERVAL_MAX), fast_interval=0.5)
            detection = OutlierDetection(
                mode=rng.choice(("enforce", "enforce", "enforce", "observe")),
                consecutive_failures=rng.choice((None, 3, 5)),
                window=rng.uniform(1.0, WINDOW_MAX),
                base_ejection=rng.uniform(1.0, 5.0),
                max_ejection=MAX_EJECTION,
                max_ejected=rng.choice((0.1, 0.5, 1.0)),
            )
            settings = Pool(
                name="p",
                health_check=rng.choice((check, check, None)),
                outlier_detection=rng.choice((detection, detection, detection, None)),
                slow_start=rng.choice((SLOW_START_MAX, 3.0, None)),
                panic_threshold=rng.choice((0.0, 0.3, 0.5, 1.0)),
            )
        self.pool = msgspec.structs.replace(settings, backends=tuple(one.entry for one in self.servers.values()))
        for server in self.servers.values():
            if self.pool.outlier_detection is None:
                server.ejected = server.half_open = False
            if self.pool.health_check is None:
                server.unhealthy = False
        self.told = {slot: told for slot, told in self.told.items() if slot in self.servers}
        self.tell(f"reload: {self.pool.health_check}, {self.pool.outlier_detection}, {self.pool.panic_threshold}")
        backends = [server.resolved() for server in self.servers.values()]
        self.note(self.standings.configure(self.pool, backends, self.now, starting=starting))

    # ---- checks and traffic

    def check_if_due(self, server: Server) -> None:
        """An active check, if the pool has them and it is time."""
        tracker = self.standings.trackers().get(server.slot)
        if tracker is not None and self.now >= server.next_check:
            self.note(self.standings.checked(server.slot, server.truth.passes, "simulated", self.now))
            server.next_check = self.now + tracker.next_delay(self.rng)

    def attempt(self) -> None:
        """One request: to a backend on trial, else to an eligible one by weight and share."""
        slots = list(self.standings.trials)
        weights = [1.0] * len(slots)
        if not slots:
            picked = [one for one in self.standings.standings() if one.eligible]
            slots = [one.slot for one in picked]
            weights = [one.weight * one.share for one in picked]
        if not slots:
            return
        server = self.servers[self.rng.choices(slots, weights)[0]]
        if self.rng.random() >= server.truth.failures:
            server.succeeded += 1
            server.first_bytes += server.truth.first_byte * self.rng.uniform(0.8, 1.2)
            if server.half_open:
                self.report(server)
        else:
            succeeded = server.succeeded
            self.report(server)
            self.note(self.standings.failed(server.slot, "simulated", succeeded, self.now))
        self.look()

    def report(self, server: Server) -> None:
        """The successes that were not told yet."""
        count, seconds = server.succeeded, server.first_bytes
        server.succeeded, server.first_bytes = 0, 0.0
        self.note(self.standings.succeeded(server.slot, count, seconds, self.now))

    # ---- what must always hold

    def note(self, happenings: list[Happening]) -> None:
        """Take what was said to have happened."""
        for each in happenings:
            self.happened[each.what] += 1
            self.tell(f"  {each.what} {each.slot} {each.cause} {each.evidence}")
            if each.slot is None:
                continue
            server = self.servers.get(each.slot)
            if server is None:
                self.broken(f"{each.what} of slot {each.slot}, which is nobody's")
                return
            match each.what:
                case What.EJECTED:
                    server.ejected, server.half_open = True, False
                    if self.pool.outlier_detection is None or self.pool.outlier_detection.mode == "observe":
                        self.broken("ejected although nobody may be")
                case What.HALF_OPEN:
                    server.half_open = True
                case What.RETURNED:
                    server.ejected = server.half_open = False
                    self.starts_slowly(server)
                case What.BECAME_UNHEALTHY:
                    server.unhealthy = True
                case What.BECAME_HEALTHY:
                    if server.unhealthy:
                        self.starts_slowly(server)
                    server.unhealthy = False

    def starts_slowly(self, server: Server) -> None:
        """It comes back: at the floor, if the pool has slow start."""
        if self.pool.slow_start is not None and self.standings.standing(server.slot).share > FLOOR:
            self.broken(f"{server.entry.name} comes back with all its weight")

    def look(self) -> None:
        """Every law that a moment can break."""
        standings = {one.slot: one for one in self.standings.standings()}
        self.told.update({one.slot: one for one in self.standings.take_changes()})
        if standings.keys() != self.servers.keys():
            self.broken("standings of other backends than there are")
        if self.told != standings:
            self.broken("the changes do not add up to the standings")
        eligible = [self.servers[one.slot] for one in standings.values() if one.eligible]
        for server in eligible:
            if not server.wanted:
                self.broken(f"{server.entry.name} is eligible, drained or of no weight")
            if not self.standings.panic and (server.ejected or server.unhealthy):
                self.broken(f"{server.entry.name} is eligible outside panic, and known to be bad")
        if any(one.weight != self.servers[slot].weight or not 0 < one.share <= 1 for slot, one in standings.items()):
            self.broken("a weight that nobody set, or a share that is none")
        self.look_at_ejections()
        self.look_at_ruling(eligible)

    def look_at_ejections(self) -> None:
        """The cap, the trials, and what the pool thinks of it all."""
        count, detection = len(self.servers), self.pool.outlier_detection
        ejected = {slot for slot, server in self.servers.items() if server.ejected}
        most = 0.0 if detection is None else min(count - 1, max(1.0, count * detection.max_ejected + 1e-9))
        if ejected and len(ejected) > most:
            self.broken(f"{len(ejected)} of {count} are ejected, {most:g} may be")
        on_trial = {slot for slot, one in self.servers.items() if one.half_open and one.wanted and not one.unhealthy}
        if set(self.standings.trials) != on_trial:
            self.broken(f"trials of {set(self.standings.trials)}, not of {on_trial}")

    def look_at_ruling(self, eligible: list[Server]) -> None:
        """Panic, down, and that nobody is left waiting who could be served."""
        wanted = [one for one in self.servers.values() if one.wanted]
        fine = [one for one in wanted if not one.ejected and not one.unhealthy]
        if fine and not eligible:
            self.broken("nobody is eligible although somebody may be well")
        if self.standings.down and (eligible or fine or not wanted):
            self.broken("down, although it is not")
        if not eligible and wanted and not self.standings.down:
            self.broken("nobody is eligible, and it is not called down")
        primaries = [one for one in wanted if not one.entry.backup]
        share = sum(not one.entry.backup for one in fine) / len(primaries) if primaries else 0.0
        if self.standings.panic and (share >= self.pool.panic_threshold or self.pool.panic_threshold == 0.0):
            self.broken(f"panic, although {share:.0%} of the primaries may be well")

    def ill(self) -> str:
        """What is not as it should be once there are no faults and no wishes; "" = nothing."""
        if self.standings.panic or self.standings.down:
            return "panic or down"
        backups = any(not server.entry.backup for server in self.servers.values())
        for slot, server in self.servers.items():
            standing = self.standings.standing(slot)
            if standing.eligible != (not (server.entry.backup and backups)) or standing.share < 1.0:
                return f"{server.entry.name} has {standing}"
        return ""

    def broken(self, law: str) -> None:
        """A law is broken: say so, and how to see it again."""
        raise BrokenLawError(f"{law}, at {self.now:.1f} s; replay: python -m tests.simulation.standings {self.seed}")

    def tell(self, text: str) -> None:
        """For whoever replays."""
        if self.say is not None:
            self.say(f"{self.now:6.1f} {text}")


def run(seed: int, say: Callable[[str], None] | None = None) -> Simulation:
    """Play a schedule. Raises BrokenLawError."""
    return Simulation(seed, say).run()


if __name__ == "__main__":
    for number in sys.argv[1:]:
        run(int(number), print)
