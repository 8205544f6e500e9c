"""A member starts with what its disk can have, and with nothing else."""

import pytest

from balancer.raft.log_entry import Entry, EntryKind, HardState, Membership, SnapshotMark
from balancer.raft.membership import encode
from balancer.raft.refusals import RestoreError
from balancer.raft.restore import restored_hard_state, restored_log
from tests.unit.raft.network import alone, entries_of

MARK = SnapshotMark(3, 2, Membership((1, 2, 3)))


def test_entries_that_the_snapshot_contains_are_dropped() -> None:
    log = restored_log(MARK, entries_of([1, 2, 2, 2, 3]))
    assert (log.base_index, log.base_term, log.last_index, log.last_term) == (3, 2, 5, 3)


def test_the_log_may_end_with_the_snapshot() -> None:
    log = restored_log(MARK, ())
    assert (log.last_index, log.last_term) == (3, 2)
    assert restored_hard_state(MARK, log, HardState(2, 1, 1)) == HardState(2, 1, 3)


@pytest.mark.parametrize("first", [5, 6])
def test_a_hole_above_the_snapshot_is_refused(first: int) -> None:
    with pytest.raises(RestoreError, match="where 4 is due"):
        restored_log(MARK, entries_of([2, 2], first=first))


def test_entries_in_disorder_are_refused() -> None:
    with pytest.raises(RestoreError):
        restored_log(MARK, [*entries_of([2], first=4), *entries_of([2], first=6)])
    with pytest.raises(RestoreError, match="term"):
        restored_log(MARK, entries_of([1], first=4))


def test_a_commit_index_beyond_the_log_says_that_its_end_is_lost() -> None:
    log = restored_log(MARK, entries_of([2], first=4))
    with pytest.raises(RestoreError, match="its end was lost"):
        restored_hard_state(MARK, log, HardState(2, 0, 5))


def test_entries_without_the_term_that_was_written_with_them_raise_it_and_forget_the_vote() -> None:
    log = restored_log(MARK, entries_of([2, 5], first=4))
    assert restored_hard_state(MARK, log, HardState(4, 2, 4)) == HardState(5, 0, 4)
    assert restored_hard_state(MARK, log, HardState(5, 2, 4)) == HardState(5, 2, 4)


def test_a_raised_term_is_written_before_anything_is_said_in_it() -> None:
    member, _ = alone(terms=[1, 4], hard_state=HardState(2, 3, 1))
    assert member.node.status().term == 4
    ready = member.node.ready()
    assert ready is not None
    assert ready.must_sync
    assert ready.hard_state is not None
    assert (ready.hard_state.term, ready.hard_state.vote) == (4, 0)


def test_of_two_memberships_in_the_log_the_earlier_is_committed() -> None:
    data = encode(Membership((1, 2)))
    entries = [
        *entries_of([2], first=4),
        Entry(5, 2, EntryKind.MEMBERSHIP, data),
        Entry(6, 2, EntryKind.COMMAND),
        Entry(7, 2, EntryKind.MEMBERSHIP, data),
        Entry(8, 2, EntryKind.COMMAND),
    ]
    assert restored_hard_state(MARK, restored_log(MARK, entries), HardState(2)).commit == 5
    assert restored_hard_state(MARK, restored_log(MARK, entries[:3]), HardState(2)).commit == 3
