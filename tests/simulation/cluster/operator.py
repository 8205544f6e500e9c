"""Who changes the membership: replaces lost members, adds and promotes, removes, hands leadership over.

An operator's care is part of what Raft rests on. A member that was removed is ended only when the others know of it,
and where disks are lost nobody else is removed: two losses of three are more than a cluster bears.
"""

from typing import TYPE_CHECKING

from balancer.raft.log_entry import Membership
from balancer.raft.refusals import RefusedError
from tests.simulation.cluster.processes import Doing, Process, sleep

if TYPE_CHECKING:
    from tests.simulation.cluster.member import Member
    from tests.simulation.cluster.world import World


class Operator:
    """See the module."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._asked: set[int] = set()  # who was ever to belong
        Process(world, self._watch)

    def _watch(self, process: Process) -> Doing:
        world, rng = self._world, self._world.rng
        weight = world.dials.weights["change"]
        while not world.healing:
            yield sleep(rng.expovariate(1 / (0.4 if weight > 2 else 0.8)))
            if world.healing:
                return
            self._retire()
            leader = max((each for each in world.members.values() if each.leads), key=_term, default=None)
            if leader is not None and not leader.paused and (weight or self._lost(leader)):
                leader.happen(leader.life, "change", self._change, leader)

    def _lost(self, leader: "Member") -> list[int]:
        membership = leader.core.membership
        return [id for id in membership.voters if self._world.members[id].state == "lost"]

    def _change(self, leader: "Member") -> None:
        world, rng, core = self._world, self._world.rng, leader.core
        voters, learners = set(core.membership.voters), set(core.membership.learners)
        may_remove = not world.dials.weights["wipe"]
        added = 0
        if lost := self._lost(leader):
            voters.discard(lost[0])
        elif learners and rng.random() < 0.8:
            one = rng.choice(sorted(learners))
            learners.discard(one)
            if rng.random() < 0.85:
                voters.add(one)
        elif len(voters) <= world.dials.size - (not may_remove) and len(world.members) < 2 * world.dials.size:
            added = max(world.members) + 1
            learners.add(added)
        elif len(voters) > max(2, world.dials.size - 1) and may_remove and rng.random() < 0.6:
            one = rng.choice(sorted(voters))
            voters.discard(one)
            if rng.random() < 0.3:
                learners.add(one)
        else:
            self._transfer(leader, rng.choice(sorted(voters)))
            return
        self._propose(leader, Membership(tuple(sorted(voters)), tuple(sorted(learners))), added)

    def _propose(self, leader: "Member", membership: Membership, added: int) -> None:
        world = self._world
        assert leader.replica is not None
        try:
            leader.replica.node.propose_membership(membership)
        except RefusedError:
            return
        self._asked.update(membership.voters, membership.learners)
        if added:
            world.add(added, Membership()).start()

    def _transfer(self, leader: "Member", to: int) -> None:
        assert leader.replica is not None
        try:
            leader.replica.node.transfer_leadership(to)
            self._world.counts["transfers"] += 1
        except RefusedError:
            pass

    def _retire(self) -> None:
        """Ends who was removed, when all others know it and no later change is under way."""
        world = self._world
        known = [world.members[id] for id in world.membership.voters if world.members[id].state != "lost"]
        if not all(each.up and each.core.applied >= world.membership_index for each in known):
            return
        members = {*world.membership.voters, *world.membership.learners}
        for each in known:
            if any(index > each.core.applied for index in each.core.log.membership_indexes):
                return
        for member in world.members.values():
            if member.id not in members and member.state in ("up", "down", "lost"):
                if member.up:
                    member.end()
                    member.disk.kill()
                member.state = "removed"
                world.counts["members removed"] += 1


def _term(member: "Member") -> int:
    return member.core.term
