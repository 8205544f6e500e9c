"""What must hold of the supervisor's decisions, judged by what it said had happened and by what operators want.

wishes        a backend is eligible only if it has a weight and is not drained, and its weight is what operators set
ejected       outside panic nobody is eligible who is ejected or fails its checks
cap           no more are ejected than `max_ejected` allows, never the last one that can serve, none in mode observe
trials        exactly the half-open backends that operators want wait for a trial
ruling        panic only where too few are usable of those that are expected to be, down only where nobody is, and
              nobody is left out who may be well
slow start    who comes back begins at the floor
delivery      a worker that has heard of everything holds exactly the standings that are decided
recovery      without faults and wishes everybody is eligible again, with all of its share
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from balancer.config.model import Pool
from balancer.resilience.known_backend import Happening, What
from balancer.resilience.pool_standings import PoolStandings
from tests.simulation.servers import Server

if TYPE_CHECKING:
    from tests.simulation.standings import Simulation
    from tests.simulation.worker import SimulatedWorker

FLOOR = 0.1  # the share with which a slow start begins


class StandingLaws:
    """The laws of the one pool."""

    def __init__(self, world: "Simulation") -> None:
        self._world = world
        self._checked = False  # the pool has checks

    @property
    def _pool(self) -> Pool:
        """The settings in use."""
        plan = self._world.supervisor.plan
        assert plan is not None
        return plan.config.pools[0]

    @property
    def _servers(self) -> dict[int, Server]:
        return self._world.supervisor.servers

    @property
    def _standings(self) -> PoolStandings:
        return self._world.supervisor.states._pools["p"]

    # ---- what happens

    def another_plan(self) -> None:
        """What is switched off has decided nothing any more; what is switched on knows nothing yet."""
        before, self._checked = self._checked, self._pool.health_check is not None
        for server in self._servers.values():
            if self._pool.outlier_detection is None:
                server.ejected = server.half_open = False
            if not self._checked or not before:
                server.healthy = server.unhealthy = False
            if not self._checked:
                server.proven, server.added = True, False

    def note(self, happenings: Iterable[Happening]) -> None:
        """Take what was said to have happened."""
        world = self._world
        for each in happenings:
            world.happened[each.what] += 1
            world.tell(f"  {each.what} {each.slot} {each.cause} {each.evidence}")
            if each.slot is None:
                continue
            server = self._servers.get(each.slot)
            if server is None:
                world.broken(f"{each.what} of slot {each.slot}, which is nobody's")
            match each.what:
                case What.EJECTED:
                    if self._serves(server) and not any(map(self._serves, self._others(server))):
                        world.broken(f"{server.entry.name} is ejected, and no other can serve")
                    server.ejected, server.half_open = True, False
                    if self._pool.outlier_detection is None or self._pool.outlier_detection.mode == "observe":
                        world.broken("ejected although nobody may be")
                case What.HALF_OPEN:
                    server.half_open = True
                case What.RETURNED:
                    server.ejected = server.half_open = False
                    self._starts_slowly(server)
                case What.BECAME_UNHEALTHY:
                    server.healthy, server.unhealthy = False, True
                case What.BECAME_HEALTHY:
                    if server.unhealthy or server.added:
                        self._starts_slowly(server)
                    server.healthy, server.unhealthy, server.proven, server.added = True, False, True, False

    def _serves(self, server: Server) -> bool:
        """It is known to be well."""
        return server.wanted and not server.ejected and not server.unhealthy and (server.healthy or not self._checked)

    def _others(self, server: Server) -> list[Server]:
        return [other for other in self._servers.values() if other is not server]

    def _starts_slowly(self, server: Server) -> None:
        if self._pool.slow_start is not None and self._standings.standing(server.slot).share > FLOOR:
            self._world.broken(f"{server.entry.name} comes back with all its weight")

    def delivered(self, worker: "SimulatedWorker") -> None:
        """A worker was told of standings."""
        if worker.ready and self._world.supervisor.told_all(worker):
            for standing in self._standings.standings():
                held = worker.held.get(standing.slot)
                if held is None or msgspec.structs.replace(held, trial=False) != standing:
                    self._world.broken(f"worker {worker.number} holds {held}, decided is {standing}")

    # ---- what must hold at any moment

    def look(self) -> None:
        """Every law that a moment can break."""
        broken, servers = self._world.broken, self._servers
        standings = {one.slot: one for one in self._standings.standings()}
        if standings.keys() != servers.keys():
            broken("standings of other backends than there are")
        eligible = [servers[one.slot] for one in standings.values() if one.eligible]
        for server in eligible:
            if not server.wanted:
                broken(f"{server.entry.name} is eligible, drained or of no weight")
            if not self._standings.panic and (server.ejected or server.unhealthy):
                broken(f"{server.entry.name} is eligible outside panic, and known to be bad")
        if any(one.weight != servers[slot].weight or not 0 < one.share <= 1 for slot, one in standings.items()):
            broken("a weight that nobody set, or a share that is none")
        self._look_at_ejections()
        self._look_at_ruling(eligible)

    def _look_at_ejections(self) -> None:
        """The cap, the trials, and what the pool thinks of it all."""
        servers, detection = self._servers, self._pool.outlier_detection
        count, ejected = len(servers), sum(server.ejected for server in servers.values())
        most = 0.0 if detection is None else min(count - 1, max(1.0, count * detection.max_ejected + 1e-9))
        if ejected and ejected > most:
            self._world.broken(f"{ejected} of {count} are ejected, {most:g} may be")
        on_trial = {slot for slot, one in servers.items() if one.half_open and one.wanted and not one.unhealthy}
        if set(self._standings.trials) != on_trial:
            self._world.broken(f"trials of {set(self._standings.trials)}, not of {on_trial}")

    def _look_at_ruling(self, eligible: list[Server]) -> None:
        """Panic, down, and that nobody is left waiting who could be served."""
        broken, standings = self._world.broken, self._standings
        wanted = [one for one in self._servers.values() if one.wanted]
        fine = [one for one in wanted if not one.ejected and not one.unhealthy]
        if fine and not eligible:
            broken("nobody is eligible although somebody may be well")
        if standings.down and (eligible or fine or not wanted):
            broken("down, although it is not")
        if not eligible and wanted and not standings.down:
            broken("nobody is eligible, and it is not called down")
        expected = [one for one in wanted if not one.entry.backup and not self._is_to_come(one)]
        share = sum(one in fine for one in expected) / len(expected) if expected else 0.0
        if standings.panic and (share >= self._pool.panic_threshold or self._pool.panic_threshold == 0.0):
            broken(f"panic, although {share:.0%} of the primaries may be well")

    def _is_to_come(self, server: Server) -> bool:
        """It was never healthy: found to be unhealthy, or added and not looked at yet."""
        if server.unhealthy:
            return not server.proven
        return self._checked and server.added and not server.healthy and not server.ejected

    def ill(self) -> str:
        """What is not as it should be once there are no faults and no wishes; "" = nothing."""
        if self._standings.panic or self._standings.down:
            return "panic or down"
        backups = any(not server.entry.backup for server in self._servers.values())
        for slot, server in self._servers.items():
            standing = self._standings.standing(slot)
            if standing.eligible != (not (server.entry.backup and backups)) or standing.share < 1.0:
                return f"{server.entry.name} has {standing}"
        return ""
