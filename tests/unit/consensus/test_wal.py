"""The write-ahead log: what was synced is found again, whatever is lost, torn or broken."""

import errno
from random import Random

import pytest

from balancer.consensus.storage_errors import IdentityError, StorageFailedError, WalCorruptError
from balancer.consensus.suspect import is_suspect
from balancer.consensus.wal import Wal
from balancer.consensus.wal_record import Identity
from balancer.consensus.wal_replay import Recovered
from balancer.raft.log_entry import Entry, EntryKind, HardState, Membership, SnapshotMark
from tests.support.simulated_disk import SimulatedDisk

WHO = Identity(cluster_id=7, node_id=1, node_uuid=bytes(range(16)))
SEGMENT = 4096


def entries(first: int, last: int, term: int = 1, size: int = 20) -> list[Entry]:
    """Entries of a term, each with data of its own."""
    return [Entry(index, term, data=f"{index}/{term}".encode().ljust(size, b".")) for index in range(first, last + 1)]


def create(disk: SimulatedDisk, *, segment_bytes: int = SEGMENT) -> Wal:
    """A log in term 1."""
    log = Wal.create(disk, WHO, segment_bytes=segment_bytes)
    log.append(HardState(1))
    return log


def reopen(disk: SimulatedDisk) -> tuple[Wal, Recovered]:
    """Open it after the process ended."""
    disk.kill()
    return Wal.open(disk, WHO, segment_bytes=SEGMENT)


def test_what_was_synced_is_read_back() -> None:
    disk = SimulatedDisk()
    first = SnapshotMark(0, 0, Membership((1, 2, 3), (), b"addresses"))
    log = Wal.create(disk, WHO, first)
    written = [*entries(1, 3), Entry(4, 1, EntryKind.MEMBERSHIP, b""), Entry(5, 2, EntryKind.COMMAND, bytes(5000))]
    log.append(HardState(2, 3, 0), written)
    log.append(HardState(2, 3, 4))
    log.sync()
    disk.crash(Random(1))
    log, recovered = Wal.open(disk, WHO)
    assert recovered.hard_state == HardState(2, 3, 4)
    assert list(recovered.entries) == written
    assert recovered.mark == first
    assert recovered.cut == 0
    assert (log.last_index, log.last_term, log.hard_state, log.mark) == (5, 2, HardState(2, 3, 4), first)


def test_what_was_not_synced_does_not_reach_the_disk_alone() -> None:
    disk = SimulatedDisk()
    log = create(disk)
    log.sync()
    log.append(None, entries(1, 3))
    assert log.sealed is False
    disk.crash(Random(1), tearing="keep")
    assert reopen(disk)[1].entries == ()


def test_one_sync_covers_several_readys_with_one_write() -> None:
    disk = SimulatedDisk()
    log = create(disk)
    log.sync()
    before = disk.operations
    for index in range(1, 20):
        log.append(HardState(1, 0, index - 1), entries(index, index))
    log.sync()
    assert disk.operations - before == 2
    log.sync()
    assert disk.operations - before == 2, "nothing to sync"
    disk.crash(Random(1))
    assert reopen(disk)[1].hard_state.commit == 18


def test_a_flush_survives_the_process() -> None:
    disk = SimulatedDisk()
    log = create(disk)
    log.append(None, entries(1, 3))
    log.flush()
    assert [entry.index for entry in reopen(disk)[1].entries] == [1, 2, 3]


def test_a_conflicting_suffix_is_replaced() -> None:
    disk = SimulatedDisk()
    log = create(disk)
    log.append(HardState(1, 0, 2), entries(1, 9))
    log.append(HardState(2), entries(4, 5, 2))
    log.append(HardState(2), entries(6, 6, 2))
    log.sync()
    assert reopen(disk)[1].entries == (*entries(1, 3), *entries(4, 6, 2))


def test_a_snapshot_from_the_leader_replaces_the_log() -> None:
    disk = SimulatedDisk()
    log = create(disk)
    log.append(None, entries(1, 9))
    mark = SnapshotMark(50, 3, Membership((1, 2)))
    log.append(HardState(3), entries(51, 52, 3), mark)
    log.sync()
    log, recovered = reopen(disk)
    assert recovered.entries == tuple(entries(51, 52, 3))
    assert recovered.mark == mark
    assert recovered.hard_state == HardState(3, 0, 50)
    assert recovered.replayed.first_index == 51


def test_entries_behind_the_newest_mark_are_returned_and_others_can_be() -> None:
    disk = SimulatedDisk()
    log = create(disk)
    log.append(None, entries(1, 9))
    marks = [SnapshotMark(4, 1), SnapshotMark(7, 1)]
    for mark in marks:
        log.mark_snapshot(mark)
    log.sync()
    recovered = reopen(disk)[1]
    assert (recovered.mark, recovered.entries) == (marks[1], tuple(entries(8, 9)))
    assert recovered.hard_state.commit == 7, "a snapshot holds only what is committed"
    older = recovered.from_mark(marks[0])
    assert (older.mark, older.entries) == (marks[0], tuple(entries(5, 9)))
    with pytest.raises(ValueError, match="not at the snapshot 5"):
        recovered.from_mark(SnapshotMark(5, 1))


def test_segments_are_cut_and_read_as_one_log() -> None:
    disk = SimulatedDisk()
    log = create(disk)
    for index in range(1, 200):
        log.append(HardState(1, 0, index - 1), entries(index, index, size=index))
        if index % 3 == 0:
            log.sync()
    log.sync()
    assert log.segment_count == len(disk.names()) > 4
    disk.crash(Random(1))
    recovered = reopen(disk)[1]
    assert [entry.index for entry in recovered.entries] == list(range(1, 200))
    assert all(entry == entries(entry.index, entry.index, size=entry.index)[0] for entry in recovered.entries)


def test_a_batch_larger_than_a_segment_is_spread_and_a_larger_entry_gets_a_segment_of_its_own() -> None:
    disk = SimulatedDisk()
    log = create(disk)
    written = [*entries(1, 300, size=100), *entries(301, 301, size=20_000), *entries(302, 303)]
    log.append(HardState(1, 0, 303), written)
    log.sync()
    disk.crash(Random(1))
    assert list(reopen(disk)[1].entries) == written


@pytest.mark.parametrize("length", range(9))
def test_a_record_may_end_anywhere_before_the_end_of_a_segment(length: int) -> None:
    """Every remainder of room, so that each boundary is met by an entry, a seal and a hard state."""
    for filler in range(3500, 4000, 8):
        disk = SimulatedDisk()
        log = create(disk)
        log.append(None, entries(1, 1, size=filler + length))
        log.sync()
        log.append(HardState(2, 5, 1), entries(2, 2, size=length))
        log.sync()
        log.seal()
        disk.crash(Random(filler))
        recovered = reopen(disk)[1]
        assert [len(entry.data) for entry in recovered.entries] == [filler + length, max(length, 3)]
        assert recovered.hard_state == HardState(2, 5, 1)


def test_purge_removes_what_no_reader_needs_and_nothing_else() -> None:
    disk = SimulatedDisk()
    log = create(disk)
    log.append(None, entries(1, 500))
    log.sync()
    count = log.segment_count
    assert log.purge(500) == 0, "there is no snapshot"
    log.mark_snapshot(SnapshotMark(300, 1, Membership((1,))))
    assert log.purge(500) == 0, "its mark is not durable"
    log.sync()
    assert log.purge(150) > 0
    assert log.purge(150) == 0
    removed = count - log.segment_count
    assert log.purge(10**9) > 0
    assert removed < count - log.segment_count
    disk.crash(Random(1), tearing="lose")
    log, recovered = reopen(disk)
    assert recovered.mark == SnapshotMark(300, 1, Membership((1,)))
    assert recovered.entries == tuple(entries(301, 500))
    assert recovered.replayed.first_index > 150
    log.append(None, entries(501, 700))
    log.sync()
    assert reopen(disk)[1].entries == tuple(entries(301, 700))


def test_purging_up_to_an_older_snapshot_leaves_what_follows_on_it() -> None:
    disk = SimulatedDisk()
    log = create(disk)
    log.append(None, entries(1, 500))
    for index in (250, 400):
        log.mark_snapshot(SnapshotMark(index, 1))
    log.sync()
    assert log.purge(250) > 0
    assert reopen(disk)[1].from_mark(SnapshotMark(250, 1)).entries == tuple(entries(251, 500))


def test_a_directory_with_a_log_gets_no_second_one() -> None:
    disk = SimulatedDisk()
    create(disk).sync()
    with pytest.raises(IdentityError, match="already"):
        Wal.create(disk, WHO)


def test_another_members_log_is_refused() -> None:
    disk = SimulatedDisk()
    create(disk).sync()
    for other in (
        Identity(8, 1, WHO.node_uuid),
        Identity(7, 2, WHO.node_uuid),
        Identity(7, 1, bytes(16)),
    ):
        with pytest.raises(WalCorruptError, match="a log of"):
            Wal.open(disk, other)


@pytest.mark.parametrize(
    ("hard_state", "written", "snapshot", "why"),
    [
        (HardState(1), [], None, "after"),  # a term that goes back
        (HardState(2, 4), [], None, "after"),  # a second vote in a term
        (HardState(2, 0), [], None, "after"),  # a vote taken back
        (HardState(2, 3, 10), [], None, "the log ends with 9"),
        (None, entries(11, 11, 2), None, "entries from 11"),  # a gap
        (None, entries(5, 5, 2), None, "with 5 committed"),
        (None, [*entries(10, 10, 2), *entries(12, 12, 2)], None, "where 11"),
        (None, entries(10, 10, 3), None, "while the term is 2"),
        (None, entries(10, 10, 0), None, "of term 1 or later"),
        (None, [], SnapshotMark(4, 1), "a snapshot of 4"),
        (None, [], SnapshotMark(40, 3), "a snapshot of 40"),
    ],
)
def test_a_mistake_of_the_caller_is_refused_and_changes_nothing(
    hard_state: HardState | None, written: list[Entry], snapshot: SnapshotMark | None, why: str
) -> None:
    disk = SimulatedDisk()
    log = create(disk)
    log.append(HardState(2, 3, 5), entries(1, 9))
    with pytest.raises(ValueError, match=why):
        log.append(hard_state, written, snapshot)
    log.append(HardState(2, 3, 6), entries(10, 10, 2))
    log.sync()
    recovered = reopen(disk)[1]
    assert recovered.hard_state == HardState(2, 3, 6)
    assert recovered.entries == (*entries(1, 9), *entries(10, 10, 2))


def test_a_lower_commit_index_is_ignored() -> None:
    disk = SimulatedDisk()
    log = create(disk)
    log.append(HardState(1, 0, 5), entries(1, 9))
    log.append(HardState(1, 0, 3))
    log.sync()
    assert reopen(disk)[1].hard_state.commit == 5


@pytest.mark.parametrize("index", [3, 10])
def test_a_snapshot_that_the_log_cannot_follow_is_not_marked(index: int) -> None:
    log = create(SimulatedDisk())
    log.append(None, entries(1, 9))
    log.mark_snapshot(SnapshotMark(4, 1))
    with pytest.raises(ValueError, match=f"a snapshot of {index}"):
        log.mark_snapshot(SnapshotMark(index, 1))


@pytest.mark.parametrize("operation", ["write", "sync"])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_after_the_first_failure_everything_is_refused(operation: str, code: int) -> None:
    disk = SimulatedDisk()
    log = create(disk)
    log.sync()
    disk.fail(operation, code=code, name="wal")  # type: ignore[arg-type]
    log.append(None, entries(1, 1))
    with pytest.raises(StorageFailedError):
        log.sync()
    for call in (log.sync, log.flush, log.seal, log.append, lambda: log.purge(1)):
        with pytest.raises(StorageFailedError, match="refused"):
            call()
    with pytest.raises(StorageFailedError, match="refused"):
        log.mark_snapshot(SnapshotMark())
    assert is_suspect(disk)


def test_a_failed_sync_is_not_believed_afterwards_though_the_next_one_would_succeed() -> None:
    """fsyncgate: the page cache still has the entries, the device does not, and nobody says so any more."""
    for seed in range(50):
        disk = SimulatedDisk()
        disk.seed(seed)
        log = create(disk)
        log.append(None, entries(1, 3))
        log.sync()
        log.append(None, entries(4, 60, size=100))
        disk.fail("sync", name="wal")
        with pytest.raises(StorageFailedError):
            log.sync()
        found = reopen(disk)[1].entries
        disk.crash(Random(seed), tearing="lose")
        again = reopen(disk)[1].entries
        assert found == again == tuple(entries(1, 3))[: len(found)] + tuple(entries(4, 60, size=100))[: len(found) - 3]
        assert len(found) >= 3
