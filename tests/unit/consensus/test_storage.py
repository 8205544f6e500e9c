"""Log and snapshots together: which snapshot a start begins with, and what is removed when."""

from random import Random

import pytest

from balancer.consensus.snapshot_files import snapshot_name
from balancer.consensus.storage import Storage
from balancer.consensus.storage_errors import (
    DirectoryLockedError,
    IdentityError,
    SnapshotCorruptError,
    StorageFailedError,
    WalCorruptError,
)
from balancer.consensus.suspect import is_suspect, mark_suspect
from balancer.consensus.wal_record import segment_name, sequence_of
from balancer.raft.log_entry import Entry, HardState, SnapshotMark
from balancer.raft.ready import Ready
from tests.support.simulated_disk import SimulatedDisk
from tests.support.storage_workload import FIRST, SEGMENT, WHO, receive, reopen, snapshot_bytes


def entries(first: int, last: int, term: int = 1) -> list[Entry]:
    """Of 100 bytes each."""
    return [Entry(index, term, data=b"%100d" % index) for index in range(first, last + 1)]


def marked(index: int, term: int = 1) -> SnapshotMark:
    """Of the first membership."""
    return SnapshotMark(index, term, FIRST.membership)


def with_snapshots(*indexes: int) -> tuple[SimulatedDisk, Storage]:
    """A log of 300 entries, and snapshots at some."""
    disk = SimulatedDisk()
    storage = Storage.create(disk, WHO, FIRST, segment_bytes=SEGMENT)
    storage.append(HardState(1, 1, 300), entries(1, 300))
    storage.sync()
    for index in indexes:
        assert storage.save(marked(index), [b"state %d" % index])
    return disk, storage


def snapshots(disk: SimulatedDisk) -> list[str]:
    """The files."""
    return [name for name in disk.names() if name.startswith("snap-")]


def test_two_snapshots_are_kept_and_the_log_from_the_older_one_on() -> None:
    disk, storage = with_snapshots(50, 150, 250)
    assert snapshots(disk) == [snapshot_name(marked(150)), snapshot_name(marked(250))]
    assert storage.wal.segment_count == sum(sequence_of(name) is not None for name in disk.names())
    _, recovered = reopen(disk)
    assert (recovered.mark, recovered.entries) == (marked(250), tuple(entries(251, 300)))
    assert 50 < recovered.replayed.first_index <= 151


@pytest.mark.parametrize("damage", ["flipped", "missing"])
def test_a_bad_snapshot_costs_nothing_while_there_is_an_older_one(damage: str) -> None:
    disk, _ = with_snapshots(50, 150, 250)
    newest = snapshot_name(marked(250))
    disk.flip(newest, 70) if damage == "flipped" else disk.remove(newest)
    storage, recovered = reopen(disk)
    assert (recovered.mark, recovered.entries) == (marked(150), tuple(entries(151, 300)))
    assert (f"{newest}.broken" in disk.names()) is (damage == "flipped")
    assert storage.save(marked(290), [b"state"])
    storage.append(HardState(1, 1, 300), entries(301, 310))
    storage.sync()
    disk.crash(Random(1))
    _, recovered = reopen(disk)
    assert (recovered.mark, recovered.entries) == (marked(290), tuple(entries(291, 310)))
    assert recovered.from_mark(marked(150)).entries == tuple(entries(151, 310))


def test_the_first_snapshot_is_replaced_by_the_whole_log() -> None:
    disk, _ = with_snapshots(250)
    disk.flip(snapshot_name(marked(250)), 70)
    _, recovered = reopen(disk)
    assert (recovered.mark, recovered.entries) == (FIRST, tuple(entries(1, 300)))


def test_without_a_whole_snapshot_the_member_is_refused() -> None:
    disk, _ = with_snapshots(50, 150, 250)
    for index in (150, 250):
        disk.flip(snapshot_name(marked(index)), 70)
    for _ in range(2):
        with pytest.raises(SnapshotCorruptError, match="To rejoin") as raised:
            reopen(disk)
        assert raised.value.exit_code == 78


def installed(disk: SimulatedDisk, storage: Storage) -> SnapshotMark:
    """A snapshot of entry 1000 comes from the leader of term 2."""
    mark = marked(1000, 2)
    receive(storage, mark, snapshot_bytes(mark, 500), 64)
    storage.write([Ready(1, HardState(2, 0, 1000), tuple(entries(1001, 1002, 2)), mark, must_sync=True)])
    return mark


def test_a_snapshot_from_the_leader_takes_the_place_of_all() -> None:
    disk, storage = with_snapshots(50, 150)
    mark = installed(disk, storage)
    assert snapshots(disk) == [snapshot_name(mark)]
    disk.crash(Random(1), tearing="lose")
    _, recovered = reopen(disk)
    assert (recovered.mark, recovered.entries) == (mark, tuple(entries(1001, 1002, 2)))
    assert recovered.hard_state == HardState(2, 0, 1000)


def test_behind_a_snapshot_from_the_leader_no_older_one_is_used() -> None:
    disk, storage = with_snapshots(50, 150)
    older = disk.read(snapshot_name(marked(150)))
    mark = installed(disk, storage)
    disk.replace(snapshot_name(marked(150)), older)
    disk.flip(snapshot_name(mark), 70)
    with pytest.raises(SnapshotCorruptError):
        reopen(disk)


def test_an_own_snapshot_that_is_older_than_one_from_the_leader_is_not_written() -> None:
    disk, storage = with_snapshots(50)
    installed(disk, storage)
    assert storage.save(marked(200), [b"late"]) is False
    assert storage.marked(marked(200)) is False
    assert snapshots(disk) == [snapshot_name(marked(1000, 2))]


def test_what_a_snapshot_replaces_is_there_until_its_mark_is_durable() -> None:
    """A crash between the file and its mark: the log is as it was."""
    disk, storage = with_snapshots(50, 150)
    storage.snapshots.save(marked(250), [b"state"])
    disk.crash(Random(1))
    _, recovered = reopen(disk)
    assert recovered.mark == marked(150)
    assert snapshots(disk) == [snapshot_name(marked(50)), snapshot_name(marked(150))]


def test_readys_share_one_sync_and_none_is_made_where_none_is_due() -> None:
    disk, storage = with_snapshots()
    before = disk.operations
    storage.write([Ready(2, HardState(1, 1, 300)), Ready(3, HardState(1, 1, 300))])
    assert disk.operations == before
    storage.write([Ready(number, None, (entry,), must_sync=True) for number, entry in enumerate(entries(301, 304))])
    assert disk.operations == before + 2
    disk.crash(Random(1))
    assert reopen(disk)[1].replayed.last_index == 304


def test_an_idle_log_is_sealed_once() -> None:
    disk, storage = with_snapshots()
    storage.append(HardState(1, 1, 300), entries(301, 302))
    storage.idle()
    assert storage.wal.sealed
    before = disk.operations
    storage.idle()
    assert disk.operations == before
    disk.crash(Random(1), tearing="lose")
    assert reopen(disk)[1].replayed.last_index == 302


def test_a_suspect_directory_is_read_from_the_device_and_cleared_when_it_is_whole() -> None:
    disk, _ = with_snapshots(50, 150)
    mark_suspect(disk, "a test")
    mark_suspect(disk, "again")
    reopen(disk)
    assert not is_suspect(disk)
    mark_suspect(disk, "a test")
    disk.flip(segment_name(max(filter(None, map(sequence_of, disk.names())))), 100)
    with pytest.raises(WalCorruptError):
        reopen(disk)
    assert is_suspect(disk)


def test_a_directory_is_made_once_and_for_one_member() -> None:
    disk, _ = with_snapshots()
    with pytest.raises(IdentityError, match="in use already"):
        Storage.create(disk, WHO, FIRST)
    disk.taken = True
    with pytest.raises(DirectoryLockedError):
        Storage.open(disk)
    assert Storage.open(SimulatedDisk()) is None


def test_a_log_under_another_identity_is_refused() -> None:
    disk, _ = with_snapshots()
    other = SimulatedDisk()
    Storage.create(other, type(WHO)(WHO.cluster_id, 2, WHO.node_uuid), FIRST, segment_bytes=SEGMENT)
    disk.replace("identity", other.read("identity"))
    with pytest.raises(WalCorruptError, match="a log of"):
        reopen(disk)


def test_after_a_failure_of_either_part_both_are_refused() -> None:
    disk, storage = with_snapshots(50)
    disk.fail("sync", name="snap")
    with pytest.raises(StorageFailedError):
        storage.save(marked(200), [b"state"])
    for call in (lambda: storage.append(HardState(2)), storage.sync, storage.idle):
        with pytest.raises(StorageFailedError, match="refused"):
            call()
