"""A member's state from what its disk has."""

from collections.abc import Sequence

from balancer.raft.log import Log
from balancer.raft.log_entry import Entry, HardState, SnapshotMark
from balancer.raft.refusals import RestoreError


def restored_log(mark: SnapshotMark, entries: Sequence[Entry]) -> Log:
    """The entries above the snapshot; those that it contains are dropped. O(entries)."""
    index, term = mark.index, mark.term
    above = [entry for entry in entries if entry.index > mark.index]
    for entry in above:
        index += 1
        if entry.index != index:
            raise RestoreError(f"the log has entry {entry.index} where {index} is due")
        if entry.term < term:
            raise RestoreError(f"entry {index} is of term {entry.term}, the one before it of term {term}")
        term = entry.term
    return Log(mark.index, mark.term, above)


def restored_hard_state(mark: SnapshotMark, log: Log, hard_state: HardState) -> HardState:
    """The hard state, made whole where a crash left entries on the disk without the one that was written with them.

    Nothing was promised in that term then, so that no vote of it can be lost. And of two memberships in the log the
    earlier one was applied before a leader appended the later one: without knowing that it is committed, this member
    would campaign by a membership that is two changes old, whose majorities need not meet those of the newest.
    """
    term = max(hard_state.term, log.last_term)
    vote = hard_state.vote if term == hard_state.term else 0
    earlier = log.membership_indexes[-2:-1]
    commit = max(hard_state.commit, mark.index, *earlier)
    if commit > log.last_index:
        raise RestoreError(
            f"entry {commit} was committed here, but the log ends at {log.last_index}: its end was lost or removed"
        )
    return HardState(term, vote, commit)
