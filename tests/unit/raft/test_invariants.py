"""Each invariant notices when it is broken."""

from collections.abc import Callable

import pytest

from balancer.raft.core import Core, Role
from balancer.raft.invariants import check_invariants
from balancer.raft.log_entry import SnapshotMark
from balancer.raft.progress import Pace
from balancer.raft.refusals import SafetyBrokenError
from tests.unit.raft.messages import appended
from tests.unit.raft.network import entries_of
from tests.unit.raft.test_commit import leader


def sound() -> Core:
    """A leader of three that committed and applied its first entry."""
    member = leader()
    member.node.step(appended(1, 1))
    member.work()
    return member.node._core


def test_a_sound_member_passes() -> None:
    check_invariants(sound())


BREAKERS: dict[str, Callable[[Core], object]] = {
    "applied": lambda core: setattr(core, "applied", 2),
    "handed": lambda core: setattr(core, "handed", 2),
    "commit": lambda core: setattr(core, "commit", 2),
    "snapshot": lambda core: setattr(core, "mark", SnapshotMark(9, 1)),
    "given": lambda core: setattr(core.log, "given", 2),
    "on the disk": lambda core: setattr(core.durable, "index", 2),
    "disk's term": lambda core: setattr(core.durable, "term", 2),
    "stands at": lambda core: core.log.append(entries_of([1], first=7)),
    "the one before": lambda core: core.log.append(entries_of([0], first=2)),
    "last term": lambda core: core.log.append(entries_of([9], first=2)),
    "memberships": lambda core: core.log.membership_indexes.append(1),
    "takes 2 for the leader": lambda core: setattr(core, "leader", 2),
    "voted for 2": lambda core: setattr(core, "vote", 2),
    "whose log ends": lambda core: setattr(core, "term", 2),
    "only leaders need": lambda core: (setattr(core, "role", Role.FOLLOWER), setattr(core, "leader", 0)),
    "peer 2: match": lambda core: setattr(core.progress[2], "match", 7),
    "a snapshot do not go": lambda core: setattr(core.progress[2], "pace", Pace.SNAPSHOT),
    "with a window": lambda core: core.progress[3].in_flight.add(1, 1),
    "confirmed read": lambda core: setattr(core.progress[2], "read_position", 9),
}


@pytest.mark.parametrize("word", BREAKERS)
def test_what_is_broken_is_named(word: str) -> None:
    core = sound()
    BREAKERS[word](core)
    with pytest.raises(SafetyBrokenError, match=word):
        check_invariants(core)
