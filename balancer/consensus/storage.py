"""All that a member keeps on its disk: the log, the snapshots, whose they are; and the order in which they change.

Law, the order: a snapshot's file, then its mark in the log, then a sync, then what it makes superfluous is removed. Of
two snapshots the older one stays, with the log after it, so that a damaged file costs nothing (etcd-io/etcd#10219 is
the same order; etcd keeps five files and the log of one).

    storage, recovered = Storage.open(disk)          # or Storage.create(disk, identity, first_mark)
    storage.write(readys)                            # only now: node.persisted(readys[-1].number)
    storage.save(mark, pieces)                       # a snapshot of our own
    storage.idle()                                   # when nothing was written for a while

One thread uses it; `snapshots` also serves the core in another one. Any error means that the member stops.
"""

from collections.abc import Iterable, Sequence

from balancer.consensus.disk import Disk
from balancer.consensus.identity import clear_begun, read_identity, write_identity
from balancer.consensus.snapshot_files import SnapshotFiles, snapshot_name
from balancer.consensus.storage_errors import IdentityError, SnapshotCorruptError, StorageFailedError
from balancer.consensus.suspect import clear_suspect, mark_suspect
from balancer.consensus.wal import Wal
from balancer.consensus.wal_record import Identity
from balancer.consensus.wal_replay import Recovered
from balancer.consensus.wal_segment import SEGMENT_BYTES
from balancer.raft.log_entry import Entry, HardState, SnapshotMark
from balancer.raft.ready import Ready


class Storage:
    """A locked data directory with its log and snapshots."""

    def __init__(self, disk: Disk, wal: Wal, kept: list[SnapshotMark]) -> None:
        self._disk = disk
        self._wal = wal
        self._kept = kept  # snapshots from which the log goes on, the newest last
        self._replaced = False
        self.snapshots = SnapshotFiles(disk, wal.identity.cluster_id)

    @classmethod
    def create(
        cls, disk: Disk, identity: Identity, mark: SnapshotMark, *, segment_bytes: int = SEGMENT_BYTES
    ) -> "Storage":
        """Make an empty directory this member's; its lock is held from then on.

        `mark`: index 0 and the first membership (empty: it joins). Raises IdentityError where the directory is not
        empty, DirectoryLockedError, StorageFailedError.
        """
        disk.lock()
        try:
            if read_identity(disk) is not None:
                raise IdentityError("the data directory is in use already")
            clear_begun(disk)
            wal = Wal.create(disk, identity, mark, segment_bytes=segment_bytes)
            write_identity(disk, identity)
        except OSError as error:
            raise StorageFailedError("make the data directory", error) from error
        return cls(disk, wal, [mark])

    @classmethod
    def open(cls, disk: Disk, *, segment_bytes: int = SEGMENT_BYTES) -> tuple["Storage", Recovered] | None:
        """Read what a member has, from the device; its lock is held from then on. O(bytes).

        None: there is nothing, or a `create` that never finished. Raises WalCorruptError, SnapshotCorruptError,
        IdentityError, DirectoryLockedError, StorageFailedError.
        """
        disk.lock()
        try:
            identity = read_identity(disk)
            if identity is None:
                return None
            wal, recovered = Wal.open(disk, identity, segment_bytes=segment_bytes)
            storage = cls(disk, wal, [])
            recovered = storage._choose_snapshot(recovered)
            clear_suspect(disk)
        except OSError as error:
            mark_suspect(disk, f"open the data directory: {error}")
            raise StorageFailedError("open the data directory", error) from error
        return storage, recovered

    def _choose_snapshot(self, recovered: Recovered) -> Recovered:
        """The newest one that is whole and that the log goes on from; the one before it is kept as well."""
        replayed = recovered.replayed
        usable = [
            mark
            for mark in replayed.marks
            if mark.index >= replayed.first_index - 1 and (not mark.index or self.snapshots.is_whole(mark))
        ]
        if not usable:
            raise SnapshotCorruptError(
                snapshot_name(recovered.mark), 0, f"a whole snapshot from {replayed.first_index - 1} on", "none"
            )
        self._kept = usable[-2:]
        self.snapshots.keep(self._kept)
        return recovered.from_mark(usable[-1])

    def append(
        self,
        hard_state: HardState | None = None,
        entries: Sequence[Entry] = (),
        snapshot: SnapshotMark | None = None,
    ) -> None:
        """What a Ready holds: see Wal.append. A `snapshot` was received whole, and is made durable here."""
        self.snapshots.refuse_if_failed()
        if snapshot is not None:
            self.snapshots.adopt(snapshot)
            self._replaced = True
        self._wal.append(hard_state, entries, snapshot)

    def sync(self) -> None:
        """Make durable what was appended; then remove what a received snapshot replaced."""
        self.snapshots.refuse_if_failed()
        self._wal.sync()
        if self._replaced:
            self._replaced = False
            self._keep([self._wal.mark])

    def write(self, readys: Sequence[Ready]) -> None:
        """Append what these hold, in order, and make it durable, with one sync, if one of them asks for it."""
        for ready in readys:
            self.append(ready.hard_state, ready.entries, ready.snapshot)
        if any(ready.must_sync for ready in readys):
            self.sync()

    def idle(self) -> None:
        """Nothing was to be written for a while: see Wal.seal. A moment is too short, for it costs a sync."""
        self.sync()
        self._wal.seal()

    def save(self, mark: SnapshotMark, pieces: Iterable[bytes]) -> bool:
        """Write a snapshot of our own, whose last entry is in the log; then the log is purged. Blocks, O(bytes).

        False, and nothing is written: there is a newer one.
        """
        if mark.index <= self._wal.mark.index:
            return False
        self.snapshots.save(mark, pieces)
        self.marked(mark)
        return True

    def marked(self, mark: SnapshotMark) -> bool:
        """The second half of `save`: the file is there, perhaps written by another thread. False as in `save`."""
        if mark.index <= self._wal.mark.index:
            return False
        self._wal.mark_snapshot(mark)
        self.sync()
        self._keep([*self._kept[-1:], mark])
        return True

    @property
    def wal(self) -> Wal:
        """For what it knows."""
        return self._wal

    def close(self) -> None:
        """Let go of the directory."""
        self._wal.close()
        self._disk.unlock()

    def _keep(self, marks: list[SnapshotMark]) -> None:
        self._kept = marks
        self.snapshots.keep(marks)
        self._wal.purge(marks[0].index)
