"""The snapshots in a data directory: `snap-INDEX-TERM`, both as 16 hexadecimal digits.

Law: a file of that name is whole and durable, since it got the name only then. `.tmp`: being written; `.part`: being
received; `.broken`: was found damaged, and is left for the operator. Whether a snapshot counts says the log: its mark
is written after the file is durable, and before anything that it replaces is removed (etcd-io/etcd#10219).

`save` and `adopt` may run in another thread than the receiving and sending methods (`raft.ready.SnapshotStore`).
Every method that touches the disk raises StorageFailedError, and then the member must stop.
"""

import contextlib
import errno
import functools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import ParamSpec, TypeVar

from balancer.consensus.disk import Disk, DiskFile
from balancer.consensus.snapshot_format import decode_snapshot_file, encode_snapshot_file, extend
from balancer.consensus.storage_errors import SnapshotCorruptError, StorageFailedError
from balancer.consensus.suspect import mark_suspect
from balancer.raft.log_entry import SnapshotMark

_NAME = re.compile(r"snap-[0-9a-f]{16}-[0-9a-f]{16}(\.tmp|\.part)?")

_SYNC_EVERY = 4 * 1024 * 1024  # bytes; the log's own syncs do not have to wait for more

P = ParamSpec("P")
R = TypeVar("R")


def snapshot_name(mark: SnapshotMark) -> str:
    """The file name."""
    return f"snap-{mark.index:016x}-{mark.term:016x}"


def _failing(method: Callable[P, R]) -> Callable[P, R]:
    """What the disk refuses is the end of the member's storage."""

    @functools.wraps(method)
    def call(*given: P.args, **named: P.kwargs) -> R:
        files = given[0]
        assert isinstance(files, SnapshotFiles)
        files.refuse_if_failed()
        try:
            return method(*given, **named)
        except OSError as error:
            raise files.fail(method.__name__, error) from error

    return call


class SnapshotFiles:
    """See the module's text."""

    def __init__(self, disk: Disk, cluster_id: int) -> None:
        self._disk = disk
        self._cluster_id = cluster_id
        self._receiving: tuple[SnapshotMark, DiskFile] | None = None
        self._received: set[SnapshotMark] = set()  # whole, not adopted yet
        self._unfinished: set[str] = set()  # files that this object makes; a name is here before the file is

        self._failure = ""

    def fail(self, operation: str, error: OSError) -> StorageFailedError:
        """The error to raise; the directory is marked, and this was the last operation."""
        self._failure = f"{operation} of a snapshot: {error}"
        mark_suspect(self._disk, self._failure)
        return StorageFailedError(f"{operation} of a snapshot", error)

    def refuse_if_failed(self) -> None:
        """Raise the StorageFailedError of every operation after the first that failed."""
        if self._failure:
            raise StorageFailedError(f"refused, because before: {self._failure}")

    @_failing
    def save(self, mark: SnapshotMark, pieces: Iterable[bytes]) -> None:
        """Write a snapshot of our own, durably. Blocks, O(bytes)."""
        name = snapshot_name(mark)
        temporary = f"{name}.tmp"
        with contextlib.closing(self._create(temporary)) as file:
            offset = unsynced = 0
            for part in encode_snapshot_file(self._cluster_id, mark, pieces):
                file.write(part, offset)
                offset += len(part)
                unsynced += len(part)
                if unsynced >= _SYNC_EVERY:
                    file.sync()
                    unsynced = 0
            file.sync()
        self._disk.rename(temporary, name)
        self._disk.sync_directory()
        self._unfinished.discard(temporary)

    def pieces(self, mark: SnapshotMark) -> Iterator[bytes]:
        """What `save` was given, in other pieces. Raises SnapshotCorruptError, before any damaged piece is given."""
        name = snapshot_name(mark)
        return decode_snapshot_file(name, functools.partial(self._read, name), self._cluster_id, mark)

    @_failing
    def is_whole(self, mark: SnapshotMark) -> bool:
        """Whether it is here and whole, read from the device. One that is damaged becomes `.broken`. O(bytes)."""
        name = snapshot_name(mark)
        if name not in self._disk.names():
            return False
        self._disk.drop_cache(name)
        if self._verified(name, mark):
            return True
        self._disk.rename(name, f"{name}.broken")
        self._disk.sync_directory()
        return False

    @_failing
    def keep(self, marks: Iterable[SnapshotMark]) -> None:
        """Remove all others, and what an earlier start left unfinished."""
        kept = {snapshot_name(mark) for mark in marks}
        for name in self._disk.names():
            if _NAME.fullmatch(name) and name not in kept and name not in self._unfinished:
                self._disk.unlink(name)

    @_failing
    def adopt(self, mark: SnapshotMark) -> None:
        """Make a snapshot that was received whole durable, under its name; older ones that were not adopted go."""
        name = snapshot_name(mark)
        with contextlib.closing(self._disk.open(f"{name}.part")) as file:
            file.sync()
        self._disk.rename(f"{name}.part", name)
        self._disk.sync_directory()
        for other in [other for other in self._received if other.index <= mark.index]:
            self._received.discard(other)
            part = f"{snapshot_name(other)}.part"
            if other != mark:
                self._disk.unlink(part)
            self._unfinished.discard(part)

    # raft.ready.SnapshotStore

    @_failing
    def size(self, mark: SnapshotMark) -> int:
        """Bytes of its file, 0: it is not here."""
        try:
            return self._disk.size(snapshot_name(mark))
        except FileNotFoundError:
            return 0

    @_failing
    def read(self, mark: SnapshotMark, offset: int, size: int) -> bytes:
        """Bytes of its file, for sending; none where it is not here any more."""
        try:
            return self._disk.read(snapshot_name(mark), offset, size)
        except FileNotFoundError:
            return b""

    @_failing
    def begin(self, mark: SnapshotMark, size: int) -> None:
        """A snapshot is about to arrive; what arrived of another one, and is not whole, goes."""
        self._abandon()
        self._receiving = mark, self._create(f"{snapshot_name(mark)}.part")

    @_failing
    def write(self, offset: int, data: bytes) -> None:
        """The next bytes of it."""
        if self._receiving is not None:
            self._receiving[1].write(data, offset)

    @_failing
    def finish(self, mark: SnapshotMark) -> bool:
        """Whether what arrived is a whole snapshot with this mark; if not, it goes. O(bytes)."""
        if self._receiving is None or self._receiving[0] != mark:
            return False
        name = f"{snapshot_name(mark)}.part"
        if not self._verified(name, mark):
            self._abandon()
            return False
        self._receiving[1].close()
        self._receiving = None
        self._received.add(mark)
        return True

    @staticmethod
    def checksum(data: bytes) -> int:
        """CRC-32C of a chunk on its way."""
        crc: int = extend(0, data)
        return crc

    def _abandon(self) -> None:
        if self._receiving is not None:
            mark, file = self._receiving
            self._receiving = None
            file.close()
            name = f"{snapshot_name(mark)}.part"
            self._disk.unlink(name)
            self._unfinished.discard(name)

    def _create(self, name: str) -> DiskFile:
        self._unfinished.add(name)
        if name in self._disk.names():
            self._disk.unlink(name)
        return self._disk.create(name)

    def _verified(self, name: str, mark: SnapshotMark) -> bool:
        try:
            for _ in decode_snapshot_file(name, functools.partial(self._read, name), self._cluster_id, mark):
                pass
        except SnapshotCorruptError:
            return False
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return False  # a sector that cannot be read
        return True

    def _read(self, name: str, offset: int, size: int) -> bytes:
        return self._disk.read(name, offset, size)
