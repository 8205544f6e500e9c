"""The bytes of a snapshot, in its file and on the way to another member: one and the same, little-endian.

Header: magic 8s | version u32 | bytes of the membership u32 | cluster id u64 | index u64 | term u64 | the membership
as msgpack | crc u32. Chunk: length u32 | data | crc u32. End: 0 u32 | bytes of all data u64 | crc u32, and no more.

Law: each crc is CRC-32C over all bytes of the file before it but for the other crcs, so that the last one is that of
the whole. A piece is given out only once its crc was found right.
"""

import struct
from collections.abc import Callable, Iterable, Iterator

import google_crc32c
import msgspec

from balancer.consensus.storage_errors import SnapshotCorruptError
from balancer.raft.log_entry import Membership, SnapshotMark

MAGIC = b"BLNCRSNP"
VERSION = 1
CHUNK = 256 * 1024
_HEADER = struct.Struct("<8sIIQQQ")
_LENGTH = struct.Struct("<I")
_END = struct.Struct("<IQ")
_MEMBERSHIP_MOST = 1024 * 1024

Read = Callable[[int, int], bytes]
"""Up to so many bytes (second) from an offset (first)."""

extend = google_crc32c.extend
_decode_membership = msgspec.msgpack.Decoder(Membership).decode


def encode_snapshot_file(cluster_id: int, mark: SnapshotMark, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The file's bytes, part by part; O(bytes), at most a chunk and a piece in memory."""
    membership = msgspec.msgpack.encode(mark.membership)
    header = _HEADER.pack(MAGIC, VERSION, len(membership), cluster_id, mark.index, mark.term) + membership
    crc = extend(0, header)
    yield header + _LENGTH.pack(crc)
    total = 0
    for data in _chunks(pieces):
        total += len(data)
        length = _LENGTH.pack(len(data))
        crc = extend(extend(crc, length), data)
        yield length + data + _LENGTH.pack(crc)
    end = _END.pack(0, total)
    yield end + _LENGTH.pack(extend(crc, end))


def decode_snapshot_file(file: str, read: Read, cluster_id: int, mark: SnapshotMark) -> Iterator[bytes]:
    """The pieces of the snapshot with this mark; O(bytes). Raises SnapshotCorruptError, before any damaged piece.

    A caller that stops before the end does not know whether there is one.
    """
    head = read(0, _HEADER.size)
    if len(head) < _HEADER.size:
        raise SnapshotCorruptError(file, len(head), "a header", "the end of the file")
    magic, version, length, *whose = _HEADER.unpack(head)
    if magic != MAGIC or version != VERSION or length > _MEMBERSHIP_MOST:
        raise SnapshotCorruptError(file, 0, f"{MAGIC!r} version {VERSION}", f"{magic!r} version {version}")
    membership = read(_HEADER.size, length)
    offset = _HEADER.size + length
    crc = _check(file, read, offset, extend(0, head + membership))
    try:
        found = SnapshotMark(whose[1], whose[2], _decode_membership(membership))
    except msgspec.MsgspecError as error:
        raise SnapshotCorruptError(file, _HEADER.size, "a membership", str(error)) from error
    if (whose[0], found) != (cluster_id, mark):
        raise SnapshotCorruptError(file, 0, f"{mark} of cluster {cluster_id}", f"{found} of {whose[0]}")
    offset += _LENGTH.size
    total = 0
    while True:
        packed = read(offset, _LENGTH.size)
        length = int.from_bytes(packed, "little")
        if not length or length > CHUNK:
            break
        data = read(offset + _LENGTH.size, length)
        crc = _check(file, read, offset + _LENGTH.size + length, extend(extend(crc, packed), data))
        offset += 2 * _LENGTH.size + length
        total += length
        yield data
    end = read(offset, _END.size)
    if end != _END.pack(0, total):
        raise SnapshotCorruptError(file, offset, f"a chunk, or the end after {total} bytes", "neither")
    _check(file, read, offset + _END.size, extend(crc, end))
    if read(offset + _END.size + _LENGTH.size, 1):
        raise SnapshotCorruptError(file, offset + _END.size + _LENGTH.size, "the end of the file", "more")


def _check(file: str, read: Read, offset: int, crc: int) -> int:
    if read(offset, _LENGTH.size) != _LENGTH.pack(crc):
        raise SnapshotCorruptError(file, offset, f"the checksum {crc:08x}", "another, or the end of the file")
    return crc


def _chunks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of CHUNK, the last one shorter."""
    waiting = bytearray()
    for piece in pieces:
        waiting += piece
        while len(waiting) >= CHUNK:
            yield bytes(waiting[:CHUNK])
            del waiting[:CHUNK]
    if waiting:
        yield bytes(waiting)
