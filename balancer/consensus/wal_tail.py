"""What stands where the records of a write-ahead log stop: nothing, a torn write, or damage.

A torn write may be cut off: nobody was told of what it held. Cutting off damage loses what was promised, as LogCabin
and ZooKeeper do after a flipped bit (Alagappan et al., "Protocol-Aware Recovery for Consensus-Based Storage", FAST
2018) and NATS JetStream did (Jepsen, NATS 2.12.1, 2025). The two look alike to a checksum. They are told apart so:

1. **Seals.** The first record that is written after a sync is a SEAL: "all before me was durable". `Wal.seal` writes
   one in a page of its own, and syncs, when nothing else is to be written, and opening a log does the same. A seal
   carries its own offset and a token of its segment, so that it is found behind any damage, and no data of users
   passes for it. A bad record *before* a seal, or in any segment that another one follows, was durable: damage, for
   certain.
2. **Whole files.** A segment has its full size, durably, before its name exists, and the END record of the one before
   is written only then. A file that is short or missing is damage, for certain, never a torn write.
3. **Sectors.** What is left is the burst after the last seal. A device writes a sector of 512 bytes whole or not at
   all, and the segment was zero before: a torn record has a sector that is all zero, and each of its other sectors is
   right. (etcd decides by this alone: isTornEntry in server/storage/wal/decoder.go.) Else it is taken for damage.

Guaranteed: a damaged record is never accepted (but for a collision of CRC-32C, 2**-32 for random damage, never for up
to 3 bits of a record below 64 MiB); a torn write of such a device never stops a member; damage to anything that was
durable is refused as long as a seal behind it can be read: for all but the last burst, and after `Wal.seal` for that,
too, even where a whole page is gone.

Not to be known, since the bytes are the same: that the *last* burst was durable, before `Wal.seal`, where afterwards
(a) the device lost one of its sectors to zeros, and the seal behind it, if any, with it, or all of it (a lost write),
or (b) a record of it was damaged that has a sector of zeros of its own. And a device that leaves garbage in a sector
whose write it did not finish makes a torn write look like damage: the member is then refused, though it lost nothing.
The hard state adds a check: a commit index above the last entry means that entries are missing.
"""

from balancer.consensus.storage_errors import WalCorruptError
from balancer.consensus.wal_record import (
    HEAD,
    SEAL_SIZE,
    SECTOR,
    TYPES,
    SegmentHeader,
    Type,
    check_of,
    decode_seal,
    pack_head,
    record_size,
)


def find_seal(data: bytes, header: SegmentHeader, start: int) -> int:
    """The offset of a seal which says that something at `start` was durable; -1 where there is none.

    O(bytes), at the speed of a search for bytes. The head is enough: its checksum rests on the damaged record.
    """
    token = header.token
    found = data.find(token, start)
    while found >= 0:
        offset = found - HEAD.size + len(token)
        head = pack_head(8, Type.SEAL, 0, check_of(8, Type.SEAL, 0), max(offset, 0), int.from_bytes(token, "little"))
        if offset >= start and data.startswith(head, offset) and offset + SEAL_SIZE <= len(data):
            # What follows a seal was written when the seal itself was durable, and all before it.
            followed = data.count(0, offset + SEAL_SIZE) < len(data) - offset - SEAL_SIZE
            if start < (offset if followed else decode_seal(data, offset)):
                return offset
        found = data.find(token, found + 1)
    return -1


def written_end(data: bytes) -> int:
    """Behind the last byte that is not zero."""
    return len(data.rstrip(b"\0"))


def end_of_tail(data: bytes, header: SegmentHeader, stop: int, name: str) -> int:
    """Where what may be cut off ends, `stop` if there is nothing: the records of the last segment stop at `stop`.

    Raises WalCorruptError where something that was durable is damaged, or may be.
    """
    end = written_end(data)
    if end <= stop:
        return stop
    seal = find_seal(data, header, stop)
    if seal >= 0:
        raise WalCorruptError(name, stop, f"a whole record: the seal at {seal} says it was durable", "a damaged one")
    if not _torn(data, stop):
        raise WalCorruptError(name, stop, "a whole record, or one with a sector that was not written", "a damaged one")
    return end


def _torn(data: bytes, start: int) -> bool:
    """Whether the record that should be at `start` misses a sector, and what is there of it can be right."""
    sector_end = start - start % SECTOR + SECTOR
    if data.startswith(bytes(8), start):
        return _is_zero(data, start, sector_end)
    if start + HEAD.size > len(data):
        return False
    length, type_, kind, check = HEAD.unpack_from(data, start)[:4]
    end = start + record_size(length)
    if type_ not in TYPES or check != check_of(length, type_, kind) or end > len(data):
        return False
    # The first sector was written, since the length is there. Another one that was not is zero up to its end.
    return any(_is_zero(data, sector, sector + SECTOR) for sector in range(sector_end, end, SECTOR))


def _is_zero(data: bytes, start: int, end: int) -> bool:
    return data.count(0, start, end) == end - start
