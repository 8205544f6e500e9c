"""A member that finds its disk empty: the decision at its start keeps it out, whoever of the others answers."""

from typing import TYPE_CHECKING

from balancer.consensus.bootstrap import Origin, Own, Refuse, Wait, answer_of, decide
from balancer.consensus.peer_frames import Answer, Listed, Member
from balancer.consensus.storage import Storage
from tests.simulation.cluster.laws import BrokenLawError

if TYPE_CHECKING:
    from tests.simulation.cluster.member import Member as Simulated
    from tests.simulation.cluster.world import World

CLUSTER = 7
TRIES = 4


def check_kept_out(world: "World", member: "Simulated") -> None:
    """Asks some of those who run, a few times. Raises BrokenLawError where it would begin, or agree to a cluster."""
    if Storage.open(member.disk) is not None:
        raise BrokenLawError(f"member {member.id} finds something on an empty disk")
    listed = tuple(sorted(Listed(_name(id), _name(id)) for id in range(1, world.dials.size + 1)))
    own = Own(Origin(_name(member.id), world.rng.randbytes(16)), listed)
    for _ in range(TRIES):
        running = [id for id, each in world.members.items() if each.up and world.rng.random() < 0.5]
        answers = {_name(id): _answer(world, id, listed) for id in running if id <= world.dials.size}
        decision = decide(own, answers)
        if not isinstance(decision, Refuse) and (answers or not isinstance(decision, Wait)):
            raise BrokenLawError(f"member {member.id} has lost its disk, hears of {sorted(answers)}, and: {decision}")
        world.counts["starts on an empty disk kept out"] += 1


def _name(id: int) -> str:
    return f"n{id}"


def _answer(world: "World", id: int, listed: tuple[Listed, ...]) -> Answer:
    """As a running member says, which tells of the membership that it uses."""
    core = world.members[id].core
    ids = sorted({*core.membership.voters, *core.membership.learners})
    members = tuple(Member(each, _name(each), _name(each), each.to_bytes(16, "little")) for each in ids)
    origin = Origin(_name(id), id.to_bytes(16, "little"), CLUSTER, id, members, begun=True)
    return answer_of(Own(origin, listed), members)
