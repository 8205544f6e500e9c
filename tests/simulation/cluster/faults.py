"""What goes wrong, and when: drawn one after the other while the history runs."""

from typing import TYPE_CHECKING

from tests.simulation.cluster.dials import TICK
from tests.simulation.cluster.network import Link
from tests.simulation.cluster.processes import Doing, Process, sleep
from tests.simulation.cluster.wiped import check_kept_out

if TYPE_CHECKING:
    from tests.simulation.cluster.member import Member
    from tests.simulation.cluster.world import World


class Faults:
    """See the module. They end when the world heals."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._deeds = {
            "crash": self._crash,
            "restart": self._restart,
            "pause": self._pause,
            "partition": self._partition,
            "slow": self._slow,
            "fail": self._fail,
            "wipe": self._wipe,
        }
        self._weights = [world.dials.weights[deed] for deed in self._deeds]
        self._at_acknowledgement: list[str] = []
        Process(world, self._strike)

    def _strike(self, process: Process) -> Doing:
        world = self._world
        yield sleep(0.3)
        while not world.healing:
            yield sleep(world.rng.expovariate(1 / world.dials.fault_mean))
            if world.healing:
                return
            deed = world.rng.choices(list(self._deeds), self._weights)[0]
            if deed in ("crash", "pause", "partition") and world.rng.random() < 0.3:
                self._at_acknowledgement.append(deed)
            else:
                self._do(deed, self._victim())

    def acknowledged(self) -> None:
        """A client hears that its write is done: the moment at which a leader that ends must not take it along."""
        if self._at_acknowledgement and not self._world.healing:
            leaders = [each for each in self._world.members.values() if each.leads]
            leader = max(leaders, key=lambda each: each.core.term, default=None)
            deed = self._at_acknowledgement.pop()
            if leader is not None and deed == "crash":
                leader.crash()
            else:
                self._do(deed, leader)

    def _do(self, deed: str, member: "Member | None") -> None:
        if member is not None:
            self._world.step(deed, member.id, ())
            self._deeds[deed](member)

    def _victim(self) -> "Member | None":
        """A member that is up; the leader more often than others."""
        world = self._world
        leaders = [each for each in world.members.values() if each.leads]
        if leaders and world.rng.random() < 0.4:
            return world.rng.choice(leaders)
        up = [each for each in world.members.values() if each.up]
        return world.rng.choice(up) if up else None

    def _crash(self, member: "Member") -> None:
        """At once, or in the middle of what its disk does next."""
        rng = self._world.rng
        dice = rng.random()
        if dice < 0.15:
            member.crash()
        elif dice < 0.25:
            member.kill()
        else:
            member.disk.crash_at(member.disk.operations + rng.randrange(4))

    def _restart(self, member: "Member") -> None:
        member.stop()

    def _pause(self, member: "Member") -> None:
        """Longer than an election, now and then longer than a lease."""
        rng = self._world.rng
        member.pause(rng.choice((rng.uniform(0.1, 0.5), rng.uniform(0.5, 1.5), rng.uniform(1.0, 4.0))))

    def _slow(self, member: "Member") -> None:
        member.slow_until = self._world.timeline.now + self._world.rng.uniform(0.2, 2.0)

    def _fail(self, member: "Member") -> None:
        member.plan_failure(self._world.rng)

    def _wipe(self, member: "Member") -> None:
        """Its disk is replaced by an empty one: it must not come back under its id."""
        world = self._world
        if not world.may_lose_disk(member):
            return
        member.end()
        member.state = "lost"
        member.disk.wipe()
        check_kept_out(world, member)
        world.counts["disks lost"] += 1

    def _partition(self, member: "Member") -> None:
        world = self._world
        links, what = self._links(member)
        seconds = world.rng.choice((0.2, 0.8, 1.5, 3.0)) * world.rng.uniform(0.5, 1.0)
        if world.rng.random() < 0.25:
            world.network.clog(links, seconds / 2)
            world.counts["clogs"] += 1
            return
        world.network.cut(links)
        world.timeline.after(seconds, world.network.mend, links)
        world.counts[f"partitions: {what}"] += 1
        if seconds > 2 * world.dials.election_ticks * TICK:
            world.counts["partitions longer than an election"] += 1

    def _links(self, member: "Member") -> tuple[frozenset[Link], str]:
        """Which links are cut; `member` is in the middle of it."""
        world, rng = self._world, self._world.rng
        ids = [id for id, each in world.members.items() if each.state in ("up", "down")]
        others = [id for id in ids if id != member.id]
        what = rng.choice(("alone", "halves", "one way", "deaf", "mute", "ring", "link"))
        if what == "halves" or what == "one way":
            side = {member.id, *rng.sample(others, rng.randrange(len(others)))} if others else {member.id}
            links = {(a, b) for a in ids for b in ids if a in side and b not in side}
            if what == "halves":
                links |= {(b, a) for a, b in links}
        elif what == "ring" and len(ids) >= 4:  # each sees its neighbours: majorities, no two of them the same
            order = rng.sample(ids, len(ids))
            far = range(2, len(order) - 1)
            links = {(one, order[(at + step) % len(order)]) for at, one in enumerate(order) for step in far}
        elif what == "deaf":
            links = {(id, member.id) for id in others}
        elif what == "mute":
            links = {(member.id, id) for id in others}
        elif what == "link":
            links = {(member.id, rng.choice(others))} if others else set()
        else:
            what = "alone"
            links = {(member.id, id) for id in others} | {(id, member.id) for id in others}
        return frozenset(links), what
