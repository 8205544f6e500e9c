"""Write-ahead logs for the fuzzer: small ones as members write them, and what happens to their bytes."""

from dataclasses import dataclass
from functools import cache
from random import Random

from balancer.consensus.storage import Storage
from balancer.consensus.storage_errors import WalCorruptError
from balancer.consensus.wal_record import (
    HEADER_SIZE,
    PAGE,
    SEAL_SIZE,
    SECTOR,
    Identity,
    SegmentHeader,
    Type,
    decode,
    decode_header,
    encode,
    encode_header,
    sequence_of,
)
from tests.support.simulated_disk import SimulatedDisk
from tests.support.storage_workload import FIRST, WHO, Expected, Workload

Files = list[tuple[str, bytes]]
SAMPLES = 24
_SEGMENT = 8192
_ZEROS = 8  # so many at the end of a sector may be a part that was not written
_FITTING = {Type.HARD_STATE: bytes(8), Type.SNAPSHOT: b"\x93\x90\x90\xc4\x00", Type.SEAL: bytes(8)}


@dataclass(frozen=True)
class Sample:
    """A log, and what is known of it. `sealed`: all of it was durable, and the log says so.

    `proof`: where the last file says that all before it was durable, its last seal or its beginning.
    """

    identity: Identity
    files: Files
    expected: Expected
    sealed: bool
    proof: tuple[int, int]


@dataclass(frozen=True)
class Damaged:
    """An input. `strict`: no device leaves this behind a crash, so that nothing durable may be missing.

    `forged`: records were made that are whole; what they say is not true.
    """

    sample: Sample
    files: Files
    kinds: tuple[str, ...]
    strict: bool
    forged: bool


@cache
def sample(number: int) -> Sample:
    """One of them. A third is sealed, a third synced, a third has a burst behind its end that is not."""
    rng = Random(number)
    disk = SimulatedDisk()
    identity = Identity(WHO.cluster_id, WHO.node_id, rng.randbytes(16))
    workload = Workload(rng, Storage.create(disk, identity, FIRST, segment_bytes=_SEGMENT), Expected())
    for _ in range(rng.randint(4, 14)):
        workload.step()
    workload.storage.sync()
    workload.expected.synced()
    if number % 3 == 0:
        while not workload.storage.wal.sealed:
            workload.storage.idle()
    elif number % 3 == 1:
        durable = workload.expected.durable, workload.expected.durable_commit
        for _ in range(3):
            workload.step()
        workload.expected.durable, workload.expected.durable_commit = durable
        workload.storage.wal.flush()
    files = [(name, disk.read(name)) for name in disk.names() if sequence_of(name) is not None]
    return Sample(identity, files, workload.expected, number % 3 == 0, _proof(*files[-1]))


def _proof(name: str, data: bytes) -> tuple[int, int]:
    header = decode_header(name, data, len(data))
    records, _, _ = decode(data, HEADER_SIZE, header.crc)
    seals = [offset for type_, *_, offset in records if type_ == Type.SEAL]
    return (seals[-1], seals[-1] + SEAL_SIZE) if seals else (0, header.body)


def make_input(rng: Random) -> Damaged:
    """A log with one to four changes, or none."""
    given = sample(rng.randrange(SAMPLES))
    files = list(given.files)
    kinds: list[str] = []
    for _ in range(rng.choice((0, 1, 1, 1, 1, 2, 3, 4))):
        kind = rng.choices(list(CHANGES), [change[1] for change in CHANGES.values()])[0]
        kinds.append(kind)
        at = rng.randrange(len(files)) if rng.random() < 0.5 else len(files) - 1
        if kind == "files":
            files = _change_files(rng, files)
        elif files[at][1]:
            files[at] = (files[at][0], CHANGES[kind][0](rng, files[at][1], given))
        if not files:
            break
    return Damaged(given, files, tuple(kinds), _is_strict(given, files), forged="forge" in kinds or "header" in kinds)


def _is_strict(given: Sample, files: Files) -> bool:
    """Whether no sector ends with more zeros than were written; or what proves that those were durable is there.

    In a sealed log one page may be lost with all that is in it.
    """
    before = dict(given.files)
    zeroed = []
    for name, data in files:
        old = before.get(name, b"")
        for start in range(0, len(data), SECTOR):
            zeros = _zeros_at_end(data[start : start + SECTOR])
            if zeros >= _ZEROS and zeros > _zeros_at_end(old[start : start + SECTOR]):
                zeroed.append((name, start))
    if not zeroed:
        return True
    if [name for name, _ in files] != list(before):
        return False
    (last, data), (start, end) = files[-1], given.proof
    intact = data[start:end] == before[last][start:end]
    if intact and all(place < (last, start) for place in zeroed):
        return True
    pages = {(name, place // PAGE) for name, place in zeroed}
    return given.sealed and (pages == {(last, start // PAGE)} or (intact and len(pages) == 1))


def _zeros_at_end(data: bytes) -> int:
    return len(data) - len(data.rstrip(b"\0"))


def used(data: bytes) -> int:
    """Bytes up to the last one that is not zero, at least one."""
    return max(len(data.rstrip(b"\0")), 1)


def _place(rng: Random, data: bytes) -> int:
    """Mostly where something is written, often at the beginning of a record or sector."""
    at = rng.randrange(used(data)) if rng.random() < 0.95 else rng.randrange(len(data))
    return at - at % rng.choice((1, 1, 8, 8, SECTOR))


def _over(data: bytes, at: int, new: bytes) -> bytes:
    return (data[:at] + new + data[at + len(new) :])[: len(data)]


def _flip(rng: Random, data: bytes, given: Sample) -> bytes:
    at = _place(rng, data)
    return _over(data, at, bytes([data[at] ^ 1 << rng.randrange(8)]))


def _byte(rng: Random, data: bytes, given: Sample) -> bytes:
    return _over(data, _place(rng, data), bytes([rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))]))


def _noise(rng: Random, data: bytes, given: Sample) -> bytes:
    return _over(data, _place(rng, data), rng.randbytes(rng.choice((2, 4, 8, 24, 100, SECTOR))))


def _copy(rng: Random, data: bytes, given: Sample) -> bytes:
    """Bytes of this or of another log, to the place where they were or to another."""
    source = given if rng.random() < 0.7 else sample(rng.randrange(SAMPLES))
    other = rng.choice(source.files)[1]
    start = _place(rng, other)
    at = start if rng.random() < 0.3 else _place(rng, data)
    return _over(data, min(at, len(data) - 1), other[start : start + rng.choice((8, 32, 40, 200, SECTOR, PAGE))])


def _zero(rng: Random, data: bytes, given: Sample) -> bytes:
    at = _place(rng, data)
    size = rng.choice((1, 8, 32, SECTOR, SECTOR, PAGE))
    return _over(data, at - at % size if size >= SECTOR else at, bytes(size))


def _shift(rng: Random, data: bytes, given: Sample) -> bytes:
    """Something is put in or taken out, the rest moves; the file has the same size."""
    at, size = _place(rng, data), rng.choice((1, 8, 32, 40, SECTOR))
    if rng.random() < 0.5:
        return (data[:at] + data[at + size :]).ljust(len(data), b"\0")
    return (data[:at] + data[at : at + size] + data[at:])[: len(data)]


def _cut(rng: Random, data: bytes, given: Sample) -> bytes:
    size = rng.choice((rng.randrange(len(data)), rng.randrange(used(data)), HEADER_SIZE, 0))
    return data[:size] if rng.random() < 0.8 else data + rng.choice((b"\0", b"x", bytes(PAGE)))


def _torn(rng: Random, data: bytes, given: Sample) -> bytes:
    """The last sectors, written in part."""
    end = -(-used(data) // SECTOR)
    for sector in range(max(end - rng.randint(1, 4), 1), end):
        if rng.random() < 0.5:
            data = _over(data, sector * SECTOR, bytes(SECTOR))
    return data


def _forge(rng: Random, data: bytes, given: Sample) -> bytes:
    """Whole records of any content behind the last one."""
    found = _end_of(data)
    if found is None:
        return data
    stop, crc = found
    for _ in range(rng.randint(1, 3)):
        numbers = (rng.choice((0, 1, 2, 5, 20, 2**32, 2**63, 2**64 - 1)) for _ in range(2))
        type_ = rng.choice(list(Type))
        content = rng.choice((b"", rng.randbytes(rng.randrange(40)), *[_FITTING.get(type_, b"x")] * 4))
        record, crc = encode(crc, type_, *numbers, content, kind=rng.choice((0, 0, 0, 1, 2, 255)))
        data = _over(data, stop, record)
        stop += len(record)
    return data


def _header(rng: Random, data: bytes, given: Sample) -> bytes:
    """A whole header of another content: numbers, sizes and where the records begin."""
    try:
        old = decode_header(_name_of(data), data, len(data))
    except WalCorruptError:  # damaged before
        return data
    numbers = {"sequence": old.sequence, "size": old.size, "first_index": old.first_index, "body": old.body}
    numbers["previous_crc"] = old.previous_crc
    name = rng.choice(list(numbers))
    numbers[name] = rng.choice((0, 1, numbers[name] + rng.choice((-8, -1, 1, 8)), 2**32 - 1)) % 2**32
    new = SegmentHeader(old.identity, crc=0, **numbers)
    return _over(data, 0, encode_header(new))


def _name_of(data: bytes) -> str:
    return f"wal-{int.from_bytes(data[48:56], 'little'):016x}.log"


def _end_of(data: bytes) -> tuple[int, int] | None:
    try:
        header = decode_header(_name_of(data), data, len(data))
    except WalCorruptError:  # damaged before
        return None
    _, stop, crc = decode(data, HEADER_SIZE, header.crc)
    return stop, crc


def _change_files(rng: Random, files: Files) -> Files:
    """One is missing, twice there under another name, or in the place of another."""
    at, other = rng.randrange(len(files)), rng.randrange(len(files))
    kind = rng.choice(("missing", "swapped", "copied"))
    if kind == "missing":
        return files[:at] + files[at + 1 :]
    changed = list(files)
    changed[at] = (files[at][0], files[other][1])
    if kind == "swapped":
        changed[other] = (files[other][0], files[at][1])
    return changed


CHANGES = {
    "flip": (_flip, 5),
    "byte": (_byte, 2),
    "noise": (_noise, 2),
    "copy": (_copy, 2),
    "zero": (_zero, 2),
    "shift": (_shift, 1),
    "cut": (_cut, 0.5),
    "torn": (_torn, 2),
    "forge": (_forge, 1),
    "header": (_header, 0.5),
    "files": (_flip, 0.5),
}
