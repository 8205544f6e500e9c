"""The bytes of the write-ahead log: segments of a fixed size, each a header and records, all little-endian.

Segment header, 88 bytes, in the order of `_HEADER`:
    magic 8s | version u32 | body u32 | cluster id u64 | node id u64 | node uuid 16s | sequence u64 | size u64
    | first index u64 | token 8s | chain so far u32 | crc u32
Record, a multiple of 8 bytes, so that its length is never split between two sectors:
    length u32 | type u8 | kind u8 | check u16 | index u64 | term u64 | data | zeros | crc u32

Law: the crc is CRC-32C over all bytes before it, seeded with the crc before, over headers, records and segments. A
record that is moved, swapped or left out breaks the chain, and the four bytes before any record seed its own crc.
`check` is of the six bytes before it: where a record is torn, its length has to be believed. What follows the last
record is zero. `body` is where a segment's own records begin; those before it repeat the state at the segment's
beginning, so that a log can be read from any segment on.

Like etcd's log (server/storage/wal) in the chain, the alignment and the zeros; the crc here covers type and length,
too, and the SEAL and END records are ours: see wal_tail.py.
"""

import hashlib
import struct
from dataclasses import dataclass
from enum import IntEnum

import google_crc32c
import msgspec

from balancer.consensus.storage_errors import WalCorruptError
from balancer.raft.log_entry import HardState, Membership, NodeId, SnapshotMark

MAGIC = b"BLNCRWAL"
VERSION = 1
SECTOR = 512  # what a device writes whole or not at all
PAGE = 4096  # what a device or a file system loses at once

_HEADER = struct.Struct("<8sIIQQ16sQQQ8sI")
_CRC = struct.Struct("<I")
_U64 = struct.Struct("<Q")
HEAD = struct.Struct("<IBBHQQ")
CHECK_PRIME = 65521  # no change of one bit of length, type or kind is a multiple of it
HEADER_SIZE = _HEADER.size + _CRC.size
SMALLEST = (HEAD.size + _CRC.size + 7) & ~7
SEAL_SIZE = (HEAD.size + _U64.size + _CRC.size + 7) & ~7
_ZEROS = bytes(8)

extend = google_crc32c.extend
pack_head = HEAD.pack
pack_crc = _CRC.pack
_decode_membership = msgspec.msgpack.Decoder(Membership).decode
_encode_membership = msgspec.msgpack.Encoder().encode


class Type(IntEnum):
    """What a record says, and what its `index`, `term`, `kind` and data are."""

    ENTRY = 1  # index, term, the entry's kind, its data
    HARD_STATE = 2  # index: commit; term; data: the vote, u64
    SNAPSHOT = 3  # index, term; kind 1: it replaces the log; data: the membership as msgpack
    TRUNCATE = 4  # index: the entries from here on are taken back
    SEAL = 5  # index: its own offset; term: the segment's token; data: up to where all was durable before, u64
    END = 6  # index: the sequence of the next segment, which is durable already
    FILL = 7  # data: ones, so that what follows is in another page


TYPES = frozenset(Type)


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose log it is. `node_uuid`: 16 random bytes, drawn when the data directory was made."""

    cluster_id: int
    node_id: NodeId
    node_uuid: bytes


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """The first bytes of a segment. `crc` begins the chain of its records."""

    identity: Identity
    sequence: int
    size: int
    first_index: int  # the index that the next new entry had when the segment was begun
    previous_crc: int
    body: int
    crc: int

    @property
    def token(self) -> bytes:
        """What a seal of this segment carries: nobody who writes entries can know it, so no data passes for a seal."""
        return token_of(self.identity, self.sequence, self.previous_crc)


def token_of(identity: Identity, sequence: int, previous_crc: int) -> bytes:
    """8 bytes that name a segment."""
    place = struct.pack("<QQI", identity.cluster_id, sequence, previous_crc)
    return hashlib.sha256(identity.node_uuid + place).digest()[:8]


def segment_name(sequence: int) -> str:
    """The file name."""
    return f"wal-{sequence:016x}.log"


def sequence_of(name: str) -> int | None:
    """The number in a segment's file name; None for other files."""
    digits = name[4:-4]
    if len(digits) != 16 or not name.startswith("wal-") or not name.endswith(".log"):
        return None
    try:
        sequence = int(digits, 16)
    except ValueError:
        return None
    return sequence if segment_name(sequence) == name else None


def record_size(length: int) -> int:
    """Bytes of a record whose data has `length`."""
    return (HEAD.size + length + _CRC.size + 7) & ~7


def check_of(length: int, type_: int, kind: int) -> int:
    """The check of a record's head, never 0."""
    return (length * 31 + type_ * 257 + kind) % CHECK_PRIME + 1


def encode(crc: int, type_: Type, index: int, term: int, data: bytes = b"", *, kind: int = 0) -> tuple[bytes, int]:
    """A record and its crc, which seeds the next one's. O(data)."""
    length = len(data)
    check = check_of(length, type_, kind)
    record = pack_head(length, type_, kind, check, index, term) + data + _ZEROS[: -(length + 4) & 7]
    crc = extend(crc, record)
    return record + pack_crc(crc), crc


def encode_hard_state(crc: int, state: HardState) -> tuple[bytes, int]:
    """Term, vote and commit in one record: half of it cannot be durable."""
    return encode(crc, Type.HARD_STATE, state.commit, state.term, _U64.pack(state.vote))


def encode_snapshot(crc: int, mark: SnapshotMark, *, replaces_log: bool = False) -> tuple[bytes, int]:
    """The word that a snapshot file is durable."""
    return encode(
        crc, Type.SNAPSHOT, mark.index, mark.term, _encode_membership(mark.membership), kind=int(replaces_log)
    )


def encode_seal(crc: int, header: SegmentHeader, offset: int, durable: int) -> tuple[bytes, int]:
    """The word that all up to `durable` was so when this was written."""
    return encode(crc, Type.SEAL, offset, int.from_bytes(header.token, "little"), _U64.pack(durable))


def encode_header(header: SegmentHeader) -> bytes:
    """The header's bytes, with their crc; `header.crc` is not looked at."""
    who = header.identity
    packed = _HEADER.pack(
        MAGIC,
        VERSION,
        header.body,
        who.cluster_id,
        who.node_id,
        who.node_uuid,
        header.sequence,
        header.size,
        header.first_index,
        header.token,
        header.previous_crc,
    )
    return packed + _CRC.pack(extend(header.previous_crc, packed))


def decode_header(name: str, data: bytes, file_size: int) -> SegmentHeader:
    """Read it. Raises WalCorruptError where it is damaged, or not of the segment that the file's name and size say."""
    if len(data) < HEADER_SIZE:
        raise WalCorruptError(name, len(data), f"a header of {HEADER_SIZE} bytes", "the end of the file")
    packed = data[: _HEADER.size]
    values = _HEADER.unpack(packed)
    magic, version, body, cluster_id, node_id, uuid, sequence, size, first_index, token, previous = values
    if magic != MAGIC or version != VERSION:
        raise WalCorruptError(name, 0, f"{MAGIC!r} version {VERSION}", f"{magic!r} version {version}")
    (crc,) = _CRC.unpack_from(data, _HEADER.size)
    if extend(previous, packed) != crc:
        raise WalCorruptError(name, 0, "a whole header", "one whose checksum is wrong")
    header = SegmentHeader(Identity(cluster_id, node_id, uuid), sequence, size, first_index, previous, body, crc)
    if token != header.token or sequence != sequence_of(name) or not HEADER_SIZE <= body <= size:
        raise WalCorruptError(name, 0, "the header of this segment", f"that of segment {sequence}")
    if file_size != size:
        raise WalCorruptError(name, min(file_size, size), f"a file of {size} bytes", f"one of {file_size}")
    return header


Record = tuple[int, int, int, int, bytes, int]
"""type, kind, index, term, data, offset."""


def decode(data: bytes, start: int, crc: int) -> tuple[list[Record], int, int]:
    """All records from `start` that are whole and of this chain; where they stop, and the chain there. O(bytes)."""
    records: list[Record] = []
    unpack_head, unpack_crc = HEAD.unpack_from, _CRC.unpack_from
    end = len(data) - SMALLEST
    while start <= end:
        length, type_, kind, check, index, term = unpack_head(data, start)
        crc_at = start + (HEAD.size + length + _CRC.size + 7 & ~7) - _CRC.size
        if crc_at > len(data) - _CRC.size:
            break
        found = extend(crc, data[start:crc_at])
        if unpack_crc(data, crc_at)[0] != found or not check:
            break
        body = start + HEAD.size
        records.append((type_, kind, index, term, data[body : body + length], start))
        start, crc = crc_at + _CRC.size, found
    return records, start, crc


def decode_vote(data: bytes) -> NodeId:
    """The data of a HARD_STATE. Raises ValueError."""
    if len(data) != _U64.size:
        raise ValueError("a vote has 8 bytes")
    return int(_U64.unpack(data)[0])


def decode_seal(data: bytes, offset: int) -> int:
    """Up to where a seal says that all was durable; `offset` is the record's."""
    durable: int = _U64.unpack_from(data, offset + HEAD.size)[0]
    return durable


def decode_mark(index: int, term: int, data: bytes) -> SnapshotMark:
    """A SNAPSHOT's mark. Raises ValueError."""
    try:
        return SnapshotMark(index, term, _decode_membership(data))
    except msgspec.MsgspecError as error:
        raise ValueError(f"a membership that cannot be read: {error}") from error
