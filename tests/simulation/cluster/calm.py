"""The faults end for a part of the members that can decide: soon they must serve everybody, and be of one mind."""

from typing import TYPE_CHECKING

from balancer.raft.membership import decode
from tests.simulation.cluster.laws import BrokenLawError

if TYPE_CHECKING:
    from tests.simulation.cluster.member import Member
    from tests.simulation.cluster.world import World

BOUND = 40.0
"""Seconds in which the healed part must have served every kind of request: leases have to run out first, and clients
ask members that are no longer members, too."""


def heal(world: "World") -> None:
    """Raises BrokenLawError where nothing gets better."""
    world.healing = True
    for member in list(world.members.values()):
        if member.state == "down" and member.noisy:  # it may be lost, and then heals nobody
            member.disk.heal()
            member.start()
    core = _core(world)
    world.network.mend_all()
    world.network.calm = True
    for member in world.members.values():
        if member.id not in core and member.state in ("up", "down"):
            _leave(world, member)
    for id in core:
        member = world.members[id]
        member.disk.heal()
        member.slow_until = 0.0
        if member.paused:
            member.resume(member.life)
        member.restart()
    began = dict(world.clients.done)
    until = world.timeline.now + BOUND
    while world.timeline.now < until:
        world.timeline.run(world.timeline.now + 0.25)
        if all(world.clients.done[kind] >= began[kind] + 2 for kind in began) and _of_one_mind(world, core):
            return
    served = {kind: world.clients.done[kind] - began[kind] for kind in began}
    states = [world.members[id].core for id in core if world.members[id].up]
    words = [f"{each.id}: {each.role.value} {each.term} {each.commit} {each.membership.voters}" for each in states]
    raise BrokenLawError(f"healed for {BOUND} s: {served}; {'; '.join(words)}")


def _core(world: "World") -> list[int]:
    """Who heals: any part that is a majority by every membership that somebody may count by; else all who can."""
    able = [id for id, each in world.members.items() if each.state in ("up", "down")]
    ways = _memberships(world)
    chosen: list[int] = []
    for id in world.rng.sample(able, len(able)):
        if all(len(voters.intersection(chosen)) > len(voters) // 2 for voters in ways):
            break
        chosen.append(id)
    extra = [id for id in able if id not in chosen and world.rng.random() < 0.3]
    return sorted(chosen + extra)


def _memberships(world: "World") -> list[set[int]]:
    """The voters of the newest one; of the one before, where a disk does not know of the newest; of those to come."""
    ways = [set(world.membership.voters)]
    known = [world.members[id] for id in world.membership.voters if world.members[id].state != "lost"]
    if any(each.durable.commit < world.membership_index for each in known):
        ways.append(set(world.membership_before.voters))
    for member in world.members.values():
        if member.up:
            log = member.core.log
            newer = [log.entry(at) for at in log.membership_indexes if at > world.membership_index]
            ways += [set(decode(entry.data).voters) for entry in newer]
    return ways


def _leave(world: "World", member: "Member") -> None:
    """It does not heal: it is down, or speaks without hearing, or hears without speaking."""
    how = world.rng.choice(("down", "deaf", "mute"))
    member.left = True
    if how == "down":
        if member.up:
            member.end()
            member.disk.kill()
        return
    others = [id for id in world.members if id != member.id]
    links = {(id, member.id) for id in others} if how == "deaf" else {(member.id, id) for id in others}
    world.network.cut(frozenset(links))
    if member.state == "down":
        member.start()


def _of_one_mind(world: "World", core: list[int]) -> bool:
    """All that heal and belong to the cluster hold what anybody held a moment ago."""
    members = [world.members[id] for id in core if id in world.membership.voters]
    if not all(each.up for each in members):
        return False
    if not any(each.leads for each in members):
        return False
    indexes = [each.core.applied for each in members]
    return max(indexes) - min(indexes) <= 20
