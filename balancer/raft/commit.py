"""When an entry is committed (Raft section 5.3 and 5.4.2)."""

from balancer.raft.core import Core
from balancer.raft.quorum import agreed
from balancer.raft.refusals import SafetyBrokenError


def advance(core: Core) -> None:
    """Of a leader: commits what a majority of the voters has on their disks."""
    index = quorum_match(core)
    if may_commit(core, index):
        raise_to(core, index)
        core.replication_due = True  # followers are told


def quorum_match(core: Core) -> int:
    """Up to where a majority's logs agree with this leader's. It counts itself by what its own disk has."""
    progress = core.progress
    own = core.id
    return agreed([core.durable.index if voter == own else progress[voter].match for voter in core.membership.voters])


def may_commit(core: Core, index: int) -> bool:
    """Only entries of the own term are committed by counting; they commit all before them (section 5.4.2, figure 8)."""
    return index > core.commit and core.log.term_at(index) == core.term


def in_own_term(core: Core) -> bool:
    """Whether this leader committed an entry of its term, so that it knows what its predecessors committed."""
    return core.log.term_at(core.commit) == core.term


def raise_to(core: Core, index: int) -> None:
    """The commit index never goes back, and never beyond the log."""
    if index <= core.commit:
        return
    if index > core.log.last_index:
        raise SafetyBrokenError(
            f"entry {index} is committed because this member holds it, it was told, but its log ends at"
            f" {core.log.last_index}: was its data directory lost or replaced?"
        )
    core.commit = index
