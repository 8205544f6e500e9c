"""Making and ending segments of the write-ahead log: the two places where the order of syncs decides."""

import contextlib
import errno

from balancer.consensus.disk import Disk, DiskFile
from balancer.consensus.storage_errors import WalCorruptError
from balancer.consensus.wal_record import (
    HEADER_SIZE,
    PAGE,
    SMALLEST,
    Identity,
    SegmentHeader,
    Type,
    decode_header,
    encode,
    encode_hard_state,
    encode_header,
    encode_snapshot,
    segment_name,
)
from balancer.consensus.wal_replay import segments
from balancer.raft.log_entry import HardState, SnapshotMark

TEMPORARY = "wal.tmp"
SEGMENT_BYTES = 64 * 1024 * 1024


def make_segment(
    disk: Disk,
    place: tuple[Identity, int, int],
    state: tuple[HardState, SnapshotMark, int],
    size: int,
    room: int = 0,
) -> tuple[SegmentHeader, DiskFile]:
    """A new segment, durable under its name when this returns. Raises OSError.

    `place`: whose, which number, and the chain so far. `state`: what the log says at its beginning, and the index that
    the next new entry has. `size` in bytes, rounded up; more where otherwise `room` bytes of records had none.
    """
    identity, sequence, previous_crc = place
    hard_state, mark, first_index = state
    body = HEADER_SIZE + len(_repeated(0, hard_state, mark)[0])
    size = -(-max(size, body + room + SMALLEST) // PAGE) * PAGE
    header = SegmentHeader(identity, sequence, size, first_index, previous_crc, body, 0)
    packed = encode_header(header)
    repeated = _repeated(int.from_bytes(packed[-4:], "little"), hard_state, mark)[0]
    if TEMPORARY in disk.names():
        disk.unlink(TEMPORARY)
    file = disk.create(TEMPORARY)
    file.allocate(size)
    file.write(packed + repeated, 0)
    file.sync()
    disk.rename(TEMPORARY, segment_name(sequence))
    disk.sync_directory()
    return decode_header(segment_name(sequence), packed, size), file


def end_segment(file: DiskFile, offset: int, next_one: SegmentHeader) -> None:
    """Say in a segment that another one follows, durably, and close it. The other is durable. Raises OSError."""
    with contextlib.closing(file):
        file.write(encode(next_one.previous_crc, Type.END, next_one.sequence, 0)[0], offset)
        file.sync()


def chain_at_body(header: SegmentHeader, hard_state: HardState, mark: SnapshotMark) -> int:
    """The chain behind what a segment repeats at its beginning."""
    return _repeated(header.crc, hard_state, mark)[1]


def read_segments(disk: Disk) -> list[tuple[str, bytes]]:
    """The whole log as the device has it, not as the page cache has it. Raises WalCorruptError, OSError; O(bytes)."""
    files = []
    for number in segments(disk.names()):
        name = segment_name(number)
        disk.drop_cache(name)
        try:
            files.append((name, disk.read(name)))
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            raise WalCorruptError(name, 0, "a file that can be read", str(error)) from error
    return files


def _repeated(crc: int, hard_state: HardState, mark: SnapshotMark) -> tuple[bytes, int]:
    first, crc = encode_hard_state(crc, hard_state)
    second, crc = encode_snapshot(crc, mark)
    return first + second, crc
