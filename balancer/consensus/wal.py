"""The write-ahead log of a member: what it must not forget, appended and made durable in batches.

Law: after `sync` returned, everything that was appended before it is found again by `open`, after any crash; what was
not synced is found up to some record or not at all. The first operation that fails is the last one: from then on the
log raises StorageFailedError, because nobody can say what a disk holds after a failed sync, and the next sync would
report success (Rebello et al., USENIX ATC 2020; PostgreSQL stops for the same reason). The next start reads again.

One thread at a time uses a log; all calls but `append` may block. The format is in wal_record.py, what is done about
damage in wal_tail.py.
"""

from collections.abc import Sequence

from balancer.consensus.disk import Disk, DiskFile
from balancer.consensus.storage_errors import IdentityError, StorageFailedError
from balancer.consensus.suspect import mark_suspect
from balancer.consensus.wal_record import (
    CHECK_PRIME,
    PAGE,
    SEAL_SIZE,
    SMALLEST,
    Identity,
    SegmentHeader,
    Type,
    encode,
    encode_hard_state,
    encode_seal,
    encode_snapshot,
    extend,
    pack_crc,
    pack_head,
    record_size,
    segment_name,
)
from balancer.consensus.wal_replay import Recovered, Replayed, Tail, check_entries, recovered_from, replay, segments
from balancer.consensus.wal_segment import (
    SEGMENT_BYTES,
    TEMPORARY,
    chain_at_body,
    end_segment,
    make_segment,
    read_segments,
)
from balancer.raft.log_entry import Entry, HardState, SnapshotMark

_PADDING = tuple(bytes(-(length + 4) & 7) for length in range(8))  # of a record, by its data's length modulo 8
_ENTRY = int(Type.ENTRY)
_ENTRY_CHECK = _ENTRY * 257
_TAIL = 24 + 4  # of a record without data: head and crc


class Wal:
    """The log of one member. Made by `create` or `open`."""

    def __init__(self, disk: Disk, header: SegmentHeader, file: DiskFile, segment_bytes: int) -> None:
        self._disk = disk
        self._header = header
        self._file = file
        self._segment_bytes = segment_bytes
        self._parts: list[bytes] = []  # encoded, not written
        self._offset = header.body  # where they belong
        self._position = header.body  # behind them
        self._crc = header.crc
        self._unsynced = False  # something was written
        self._settled = False  # all was synced, and no record says so yet
        self._failed = ""
        self._written = HardState()  # the last one that was encoded
        self._durable_mark = SnapshotMark()
        self._firsts = [header.first_index]  # of each segment, the last one's number is the header's
        self.hard_state = HardState()
        self.mark = SnapshotMark()
        self.last_index = 0
        self.last_term = 0

    @classmethod
    def create(
        cls,
        disk: Disk,
        identity: Identity,
        mark: SnapshotMark = SnapshotMark(),  # noqa: B008 (immutable)
        *,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> "Wal":
        """A new log that begins after `mark`, durable when this returns. Raises StorageFailedError.

        A `mark` with index 0 carries the first membership; one with another index needs its snapshot file.
        """
        try:
            if segments(disk.names()):
                raise IdentityError("there is a log already")
            start = (HardState(), mark, mark.index + 1)
            header, file = make_segment(disk, (identity, 0, 0), start, segment_bytes)
        except OSError as error:
            raise StorageFailedError("make the log", error) from error
        log = cls(disk, header, file, segment_bytes)
        log._begin(header, HardState(), mark)
        log.last_index, log.last_term = mark.index, mark.term
        return log

    @classmethod
    def open(
        cls, disk: Disk, identity: Identity | None = None, *, segment_bytes: int = SEGMENT_BYTES
    ) -> tuple["Wal", Recovered]:
        """Read a log from the device, cut off a torn write, and go on behind it. O(bytes).

        Raises WalCorruptError, and StorageFailedError.
        """
        try:
            replayed, tail = replay(read_segments(disk), identity)
            log = cls._reopen(disk, replayed, tail, segment_bytes)
        except OSError as error:
            mark_suspect(disk, f"open the log: {error}")
            raise StorageFailedError("open the log", error) from error
        return log, recovered_from(replayed, replayed.marks[-1], tail.end - tail.offset)

    @classmethod
    def _reopen(cls, disk: Disk, replayed: Replayed, tail: Tail, segment_bytes: int) -> "Wal":
        if TEMPORARY in disk.names():
            disk.unlink(TEMPORARY)
        disk.sync_directory()  # a name that we see may not be durable yet
        if tail.unfinished is not None:
            end_segment(disk.open(segment_name(tail.header.sequence - 1)), tail.unfinished, tail.header)
        file = disk.open(segment_name(tail.header.sequence))
        if tail.end > tail.offset:
            file.write(bytes(tail.end - tail.offset), tail.offset)
        file.sync()
        log = cls(disk, tail.header, file, segment_bytes)
        log._begin(tail.header, replayed.hard_state, replayed.marks[-1])
        log._offset = log._position = tail.offset
        log._crc = tail.crc
        log._firsts = list(tail.firsts)
        log.hard_state = replayed.hard_state
        log.last_index = replayed.last_index
        log.last_term = replayed.entries[-1].term if replayed.entries else replayed.marks[-1].term
        log._settled = True
        log.seal()
        return log

    def append(
        self,
        hard_state: HardState | None = None,
        entries: Sequence[Entry] = (),
        snapshot: SnapshotMark | None = None,
    ) -> None:
        """Take what a Ready holds. `snapshot`: its file is durable, and it replaces the whole log.

        `entries` replace what the log has from the first one's index on. Encodes into memory, O(bytes); blocks only
        where a segment is full. ValueError, before anything is taken, where it contradicts what was appended before:
        that is a mistake of the caller, and would be two votes in a term or a hole in the log. A lower commit index is
        ignored.
        """
        self._refuse_if_failed()
        last_index, last_term, commit = self.last_index, self.last_term, self.hard_state.commit
        if snapshot is not None:
            last_index, last_term, commit = snapshot.index, snapshot.term, max(commit, snapshot.index)
        state = self._check(hard_state, commit, snapshot)
        if entries:
            check_entries(entries, last_index, last_term, state)
            if not commit < entries[0].index <= last_index + 1:
                raise ValueError(f"entries from {entries[0].index} on, after {last_index} with {commit} committed")
            last_index = entries[-1].index
        if state.commit > last_index:
            raise ValueError(f"{state} is committed, the log ends with {last_index}")
        if self._settled:
            self._put_seal()
        self._take(state, entries, snapshot)

    def _check(self, new: HardState | None, commit: int, snapshot: SnapshotMark | None) -> HardState:
        old = self.hard_state
        if new is None:
            new = old
        if new.term < old.term or (new.term == old.term and old.vote not in (0, new.vote)):
            raise ValueError(f"{new} after {old}")
        if snapshot is not None and (snapshot.index < old.commit or snapshot.term > new.term):
            raise ValueError(f"a snapshot of {snapshot.index}, term {snapshot.term}, with {new} after {old}")
        return HardState(new.term, new.vote, max(commit, new.commit))

    def _take(self, state: HardState, entries: Sequence[Entry], snapshot: SnapshotMark | None) -> None:
        """Term and vote come before what rests on them, the commit index after the entries that it counts."""
        old = self.hard_state
        if (state.term, state.vote) != (old.term, old.vote):
            self.hard_state = HardState(state.term, state.vote, old.commit)
            self._put_hard_state()
        if snapshot is not None:
            self._put_snapshot(snapshot, replaces_log=True)
            self.last_index, self.last_term = snapshot.index, snapshot.term
        if entries:
            if entries[0].index <= self.last_index:
                self._put(Type.TRUNCATE, entries[0].index, 0)
                self.last_index = entries[0].index - 1
            self._put_entries(entries)
        self.hard_state = state

    def mark_snapshot(self, mark: SnapshotMark) -> None:
        """A snapshot of our own is durable in its file: the log need not reach further back. Sync makes it count.

        ValueError where its last entry is not in the log.
        """
        self._refuse_if_failed()
        if not self.mark.index <= mark.index <= self.last_index or mark.term > self.hard_state.term:
            raise ValueError(
                f"a snapshot of {mark.index}, the log ends with {self.last_index}, after {self.mark.index}"
            )
        if self._settled:
            self._put_seal()
        if self.hard_state.commit < mark.index:  # a snapshot has nothing in it that is not committed
            self.hard_state = HardState(self.hard_state.term, self.hard_state.vote, mark.index)
        self._put_hard_state()
        self._put_snapshot(mark, replaces_log=False)

    def sync(self) -> None:
        """Make all that was appended durable: one write, one fdatasync; neither where there is nothing.

        Raises StorageFailedError.
        """
        self.flush()
        if self._unsynced:
            try:
                self._file.sync()
            except OSError as error:
                raise self._fail("sync the log", error) from error
            self._unsynced = False
            self._settled = True
        self._durable_mark = self.mark

    def flush(self) -> None:
        """Write what was appended, without making it durable: it then survives the process, not the machine.

        Only `sync` needs it. A page that is written again while the device takes it may be torn within a sector.
        """
        self._refuse_if_failed()
        if self.hard_state != self._written:
            self._put_hard_state()
        self._write()

    def seal(self) -> None:
        """Say on the disk that what was synced is: from then on any damage to it is known for what it is.

        For when nothing else is to be written for a while; otherwise the next `append` says it, if in the same page.
        Costs a sync and the rest of a page, or nothing where it was said already.
        """
        self.sync()
        if self._settled:
            self._put_seal(alone=True)
            self.sync()
            self._settled = False

    @property
    def sealed(self) -> bool:
        """Nothing is waiting to be written or sealed."""
        return not (self._settled or self._unsynced or self._parts or self.hard_state != self._written)

    def purge(self, up_to: int) -> int:
        """Remove the segments that hold only entries up to this index, and how many that were.

        Never one that is needed after the newest mark that was synced. Raises StorageFailedError.
        """
        self._refuse_if_failed()
        up_to = min(up_to, self._durable_mark.index)
        count = 0
        try:
            while len(self._firsts) > 1 and self._firsts[1] - 1 <= up_to:
                self._disk.unlink(segment_name(self._header.sequence - len(self._firsts) + 1))
                # Oldest first, each durably: a crash leaves no gap.
                self._disk.sync_directory()
                del self._firsts[0]
                count += 1
        except OSError as error:
            raise self._fail("purge the log", error) from error
        return count

    def close(self) -> None:
        """Let go of the file. What was not synced may be lost."""
        self._file.close()
        self._failed = self._failed or "it is closed"

    @property
    def identity(self) -> Identity:
        """Whose log it is."""
        return self._header.identity

    @property
    def segment_count(self) -> int:
        """Segments on the disk."""
        return len(self._firsts)

    def _put_entries(self, entries: Sequence[Entry]) -> None:
        """The hot loop: one concatenation, one checksum and one more concatenation for each entry."""
        crc, position, parts = self._crc, self._position, self._parts
        limit = self._limit
        for entry in entries:
            data = entry.data
            length = len(data)
            size = length + _TAIL + 7 & ~7
            if position + size > limit:
                self._crc, self._position = crc, position
                self.last_index = entry.index - 1
                self._cut(size)
                crc, position, limit = self._crc, self._position, self._limit
            kind = entry.kind
            check = (length * 31 + _ENTRY_CHECK + kind) % CHECK_PRIME + 1  # check_of, inlined
            record = pack_head(length, _ENTRY, kind, check, entry.index, entry.term) + data + _PADDING[length & 7]
            crc = extend(crc, record)
            parts.append(record + pack_crc(crc))
            position += size
        self._crc, self._position = crc, position
        self.last_index = entries[-1].index
        self.last_term = entries[-1].term

    def _put(self, type_: Type, index: int, term: int) -> None:
        self._make_room(SMALLEST)
        self._add(encode(self._crc, type_, index, term))

    def _put_seal(self, *, alone: bool = False) -> None:
        """`alone`: in another page, so that what loses the seal does not lose what it is about."""
        self._settled = False
        durable = self._position
        gap = -durable % PAGE if alone else 0
        if 0 < gap < SMALLEST:
            gap += PAGE
        if durable + gap + SEAL_SIZE > self._limit:
            self._cut(SEAL_SIZE)  # says as much
            return
        if gap:
            self._add(encode(self._crc, Type.FILL, 0, 0, b"\xff" * (gap - _TAIL)))
        self._add(encode_seal(self._crc, self._header, self._position, durable))

    def _put_hard_state(self) -> None:
        self._make_room(record_size(8))
        self._add(encode_hard_state(self._crc, self.hard_state))
        self._written = self.hard_state

    def _put_snapshot(self, mark: SnapshotMark, *, replaces_log: bool) -> None:
        self._make_room(len(encode_snapshot(0, mark)[0]))
        self._add(encode_snapshot(self._crc, mark, replaces_log=replaces_log))
        self.mark = mark

    def _add(self, encoded: tuple[bytes, int]) -> None:
        record, self._crc = encoded
        self._parts.append(record)
        self._position += len(record)

    def _make_room(self, size: int) -> None:
        if self._position + size > self._limit:
            self._cut(size)

    @property
    def _limit(self) -> int:
        """The END record always has room."""
        return self._header.size - SMALLEST

    def _cut(self, size: int) -> None:
        """Go on in a new segment, in which `size` bytes have room.

        The old one is durable before the new one has its name, and the END is written when the new one is durable.
        """
        self._write()
        place = (self._header.identity, self._header.sequence + 1, self._crc)
        start = (self._written, self.mark, self.last_index + 1)
        try:
            self._file.sync()
            header, file = make_segment(self._disk, place, start, self._segment_bytes, size)
            end_segment(self._file, self._offset, header)
        except OSError as error:
            raise self._fail("begin a segment of the log", error) from error
        self._file = file
        self._firsts.append(header.first_index)
        self._begin(header, self._written, self.mark)

    def _begin(self, header: SegmentHeader, hard_state: HardState, mark: SnapshotMark) -> None:
        self._header = header
        self._written = hard_state
        self.mark = self._durable_mark = mark
        self._offset = self._position = header.body
        self._crc = chain_at_body(header, hard_state, mark)
        self._unsynced = self._settled = False

    def _write(self) -> None:
        if self._parts:
            try:
                self._file.write(b"".join(self._parts), self._offset)
            except OSError as error:
                raise self._fail("write the log", error) from error
            self._parts.clear()
            self._offset = self._position
            self._unsynced = True

    def _refuse_if_failed(self) -> None:
        if self._failed:
            raise StorageFailedError(f"refused, because before: {self._failed}")

    def _fail(self, operation: str, error: OSError) -> StorageFailedError:
        self._failed = f"{operation}: {error}"
        mark_suspect(self._disk, self._failed)
        return StorageFailedError(operation, error)
