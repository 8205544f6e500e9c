"""A log that is flipped, cut, zeroed, swapped or mixed up anywhere: read as it was written, or refused."""

from collections import Counter
from collections.abc import Callable
from random import Random

import pytest

from balancer.consensus.storage import Storage
from balancer.consensus.storage_errors import WalCorruptError
from balancer.consensus.wal import Wal
from balancer.consensus.wal_record import (
    HEADER_SIZE,
    PAGE,
    SEAL_SIZE,
    SECTOR,
    SMALLEST,
    Type,
    decode,
    decode_header,
    encode,
    segment_name,
    sequence_of,
)
from balancer.consensus.wal_replay import recovered_from, replay
from balancer.raft.log_entry import Entry, HardState, SnapshotMark
from tests.support.simulated_disk import SimulatedDisk
from tests.support.storage_workload import FIRST, SEGMENT, WHO, Expected, Workload, reopen

Files = list[tuple[str, bytes]]


def sample(seed: int, steps: int, *, sealed: bool) -> tuple[Files, Expected]:
    """Segments of a member's log, all of it synced, and what it holds."""
    disk = SimulatedDisk()
    workload = Workload(Random(seed), Storage.create(disk, WHO, FIRST, segment_bytes=SEGMENT), Expected())
    for _ in range(steps):
        workload.step()
    while workload.expected.durable != len(workload.expected.states) - 1 or not workload.storage.wal.sealed:
        workload.storage.sync()
        workload.expected.synced()
        if not sealed:
            break
        workload.storage.idle()
    return segments_of(disk), workload.expected


def segments_of(disk: SimulatedDisk) -> Files:
    """The log's files as they are."""
    return [(name, disk.read(name)) for name in disk.names() if sequence_of(name) is not None]


def outcome(files: Files, expected: Expected) -> str:
    """ "refused", or "read" if all is there that was durable. Raises LostError if not."""
    try:
        state, tail = replay(files, WHO)
    except WalCorruptError:
        return "refused"
    expected.check(recovered_from(state, state.marks[-1], tail.end - tail.offset))
    return "read"


def test_a_refusal_says_where_what_and_how_to_rejoin() -> None:
    files, _ = sample(1, 12, sealed=True)
    name, data = files[0]
    with pytest.raises(WalCorruptError) as raised:
        replay([(name, data[:300] + b"?" + data[301:]), *files[1:]], WHO)
    assert raised.value.exit_code == 78
    assert raised.value.file == name
    assert 0 < raised.value.offset <= 300
    for words in (name, f"byte {raised.value.offset}", "expected", "found", "To rejoin", "join: true"):
        assert words in str(raised.value)


def used(data: bytes) -> int:
    """Bytes up to the last one that is not zero."""
    return len(data.rstrip(b"\0"))


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "synced"])
@pytest.mark.parametrize("change", [lambda at: 1 << at % 8, lambda _: 0xFF, lambda at: at * 7 % 255 + 1])
def test_a_flip_at_any_byte_loses_nothing(change: Callable[[int], int], sealed: bool) -> None:
    for seed in range(2):
        files, expected = sample(seed, 12, sealed=sealed)
        outcomes: Counter[str] = Counter()
        for at, (name, data) in enumerate(files):
            for offset in [*range(used(data)), *range(used(data), len(data), 37)]:
                flipped = bytearray(data)
                flipped[offset] ^= change(offset)
                outcomes[outcome([*files[:at], (name, bytes(flipped)), *files[at + 1 :]], expected)] += 1
        assert outcomes["refused"] > sum(used(data) for _, data in files) * 0.9
        assert outcomes["read"] > 0, "behind the records there is nothing to be lost"


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "synced"])
def test_a_file_cut_at_any_byte_is_refused(sealed: bool) -> None:
    files, expected = sample(3, 12, sealed=sealed)
    for at, (name, data) in enumerate(files):
        for size in range(len(data)):
            assert outcome([*files[:at], (name, data[:size]), *files[at + 1 :]], expected) == "refused", size
        assert outcome([*files[:at], (name, data + bytes(8)), *files[at + 1 :]], expected) == "refused"


def test_a_missing_swapped_or_foreign_segment_is_refused() -> None:
    files, expected = sample(4, 60, sealed=True)
    assert len(files) >= 3
    other, _ = sample(5, 60, sealed=True)
    assert outcome(files, expected) == "read"
    assert outcome([], expected) == "refused"
    for at in range(1, len(files)):
        assert outcome(files[:at], expected) == "refused", "the newest are missing"
        assert outcome([*files[: at - 1], (files[at - 1][0], files[at][1]), *files[at:]], expected) == "refused"
        assert outcome([*files[:at], (files[at][0], files[at - 1][1]), *files[at + 1 :]], expected) == "refused"
        assert outcome([*files[:at], (files[at][0], other[min(at, len(other) - 1)][1])], expected) == "refused"


def test_a_segment_under_another_number_is_refused() -> None:
    files, expected = sample(0, 3, sealed=True)
    assert len(files) == 1
    assert outcome(files, expected) == "read"
    assert outcome([(segment_name(1), files[0][1])], expected) == "refused"


def test_a_head_of_zeros_in_a_sector_that_was_written_is_damage() -> None:
    """A sector that was not written is zero up to its end."""
    disk, start, _ = burst(seal=False)
    data = disk.read(segment_name(0))
    seal, first = start, start + SEAL_SIZE
    for offset in (seal, first):
        disk.replace(segment_name(0), data[:offset] + bytes(8) + data[offset + 8 :])
        with pytest.raises(WalCorruptError, match="a damaged one"):
            Wal.open(disk, WHO)


def test_a_gap_between_the_files_is_refused() -> None:
    disk = SimulatedDisk()
    workload = Workload(Random(4), Storage.create(disk, WHO, FIRST, segment_bytes=SEGMENT), Expected())
    while workload.storage.wal.segment_count < 4:
        workload.step()
    names = [name for name, _ in segments_of(disk)]
    for name in names[1:-1]:
        twin = disk.copy()
        twin.remove(name)
        with pytest.raises(WalCorruptError, match=name):
            reopen(twin)


def test_a_log_whose_beginning_is_missing_is_refused_while_no_snapshot_replaces_it() -> None:
    disk = SimulatedDisk()
    log = Wal.create(disk, WHO, segment_bytes=PAGE)
    log.append(HardState(1), [Entry(index, 1, data=b"x" * 900) for index in range(1, 20)])
    log.mark_snapshot(SnapshotMark(7, 1))
    log.sync()
    files = segments_of(disk)
    firsts = [decode_header(name, data, PAGE).first_index for name, data in files]
    for at, first in enumerate(firsts):
        if first - 1 <= 7:
            assert replay(files[at:], WHO)[0].first_index == first
        else:
            with pytest.raises(WalCorruptError, match=f"found from {first}"):
                replay(files[at:], WHO)
    assert firsts[-1] - 1 > 7 >= firsts[1] - 1


@pytest.mark.parametrize("size", [SECTOR, PAGE])
def test_a_sector_or_page_that_reads_as_zeros_loses_nothing_that_was_sealed(size: int) -> None:
    outcomes: Counter[str] = Counter()
    for seed in range(8):
        files, expected = sample(seed, 20, sealed=True)
        for at, (name, data) in enumerate(files):
            for start in range(0, used(data), size):
                zeroed = data[:start] + bytes(size) + data[start + size :]
                outcomes[outcome([*files[:at], (name, zeroed), *files[at + 1 :]], expected)] += 1
    assert outcomes["refused"] > outcomes["read"] > 0, "it may be the seal's own"


def test_random_damage_of_a_sealed_log_loses_nothing() -> None:
    """Several changes at once, anywhere: flips, noise, bytes of another place, zeros up to a page."""
    rng = Random(1)
    outcomes: Counter[str] = Counter()
    for seed in range(10):
        files, expected = sample(seed, 20, sealed=True)
        for _ in range(200):
            damaged = list(files)
            for _ in range(rng.randint(1, 3)):
                at = rng.randrange(len(files))
                damaged[at] = (files[at][0], damage(damaged[at][1], files[rng.randrange(len(files))][1], rng))
            outcomes[outcome(damaged, expected)] += 1
    assert outcomes["refused"] > 1500


def damage(data: bytes, other: bytes, rng: Random) -> bytes:
    """One change."""
    start, size = rng.randrange(used(data)), rng.choice((1, 8, 100, SECTOR))
    if rng.random() < 0.5:
        start -= start % 8
    source = rng.randrange(len(other) - size)
    new = rng.choice((rng.randbytes(size), other[source : source + size], bytes([data[start] ^ 1 << rng.randrange(8)])))
    return (data[:start] + new + data[start + len(new) :])[: len(data)]


def burst(*, seal: bool) -> tuple[SimulatedDisk, int, int]:
    """A log whose last burst is three entries over three sectors: its disk, and where they begin and end."""
    disk = SimulatedDisk()
    log = Wal.create(disk, WHO, segment_bytes=4 * PAGE)
    log.append(HardState(1), [Entry(1, 1, data=b"first")])
    log.sync()
    start = used(disk.read(segment_name(0)))
    log.append(None, [Entry(index, 1, data=b"x" * 450) for index in (2, 3, 4)])
    log.sync()
    end = used(disk.read(segment_name(0)))
    if seal:
        log.seal()
    return disk, start, end


def test_without_a_seal_a_lost_sector_looks_like_a_torn_write_and_with_one_it_does_not() -> None:
    """The known limit. Nothing on the disk tells that the burst was durable."""
    disk, start, end = burst(seal=False)
    middle = -(-(start + end) // 2 // SECTOR) * SECTOR
    data = disk.read(segment_name(0))
    disk.replace(segment_name(0), data[:middle] + bytes(SECTOR) + data[middle + SECTOR :])
    recovered = Wal.open(disk, WHO)[1]
    assert [entry.index for entry in recovered.entries] == [1, 2]
    assert 450 < end - start - recovered.cut < 2 * 450, "as much as one entry and a seal is left"
    disk, start, end = burst(seal=True)
    data = disk.read(segment_name(0))
    disk.replace(segment_name(0), data[:middle] + bytes(SECTOR) + data[middle + SECTOR :])
    with pytest.raises(WalCorruptError, match="the seal at"):
        Wal.open(disk, WHO)


def test_data_that_looks_like_a_seal_is_none() -> None:
    """Else whoever writes values could have members refused after a crash."""
    disk = SimulatedDisk()
    log = Wal.create(disk, WHO, segment_bytes=4 * PAGE)
    log.append(HardState(1), [Entry(1, 1, data=b"first")])
    log.sync()
    log.seal()
    copied = disk.read(segment_name(0))[PAGE : PAGE + 2 * SMALLEST]
    for shift in range(8):
        log.append(None, [Entry(log.last_index + 1, 1, data=b"." * shift + copied * 20)])
    log.flush()
    disk.crash(Random(3), tearing="prefix")
    log, recovered = Wal.open(disk, WHO)
    assert recovered.entries[0].data == b"first"
    assert recovered.cut > 0


def test_a_whole_record_that_cannot_follow_is_refused() -> None:
    """The checksum is right: nobody but a mistake of ours writes it."""
    base = HardState(2, 3, 2)
    cases: list[tuple[Type, int, int, bytes, int]] = [
        (Type.ENTRY, 5, 2, b"", 0),
        (Type.ENTRY, 4, 3, b"", 0),
        (Type.ENTRY, 4, 0, b"", 0),
        (Type.ENTRY, 4, 2, b"", 9),
        (Type.HARD_STATE, 3, 1, bytes(8), 0),
        (Type.HARD_STATE, 3, 2, bytes([4, *bytes(7)]), 0),
        (Type.HARD_STATE, 4, 2, bytes([3, *bytes(7)]), 0),
        (Type.HARD_STATE, 3, 3, b"", 0),
        (Type.SNAPSHOT, 3, 1, b"\x93\x90\x90\xc4\x00", 0),
        (Type.SNAPSHOT, 2, 2, b"\x93\x90\x90\xc4\x00", 0),
        (Type.SNAPSHOT, 2, 1, b"\xc1", 0),
        (Type.SNAPSHOT, 1, 1, b"\x93\x90\x90\xc4\x00", 1),
        (Type.TRUNCATE, 2, 0, b"", 0),
        (Type.TRUNCATE, 4, 0, b"", 0),
        (Type.SEAL, 0, 0, b"", 0),
    ]
    for type_, index, term, data, kind in cases:
        disk = SimulatedDisk()
        log = Wal.create(disk, WHO, segment_bytes=PAGE)
        log.append(base, [Entry(index, 1, data=b"x") for index in (1, 2, 3)])
        log.sync()
        content = disk.read(segment_name(0))
        header = decode_header(segment_name(0), content, len(content))
        _, stop, crc = decode(content, HEADER_SIZE, header.crc)
        record = encode(crc, type_, index, term, data, kind=kind)[0]
        disk.replace(segment_name(0), content[:stop] + record + content[stop + len(record) :])
        with pytest.raises(WalCorruptError, match="a record that can follow"):
            Wal.open(disk, WHO)


def test_a_commit_index_above_the_last_entry_means_that_entries_are_missing() -> None:
    disk = SimulatedDisk()
    log = Wal.create(disk, WHO, segment_bytes=PAGE)
    log.append(HardState(1, 0, 0), [Entry(1, 1)])
    log.sync()
    content = disk.read(segment_name(0))
    header = decode_header(segment_name(0), content, len(content))
    _, stop, crc = decode(content, HEADER_SIZE, header.crc)
    record = encode(crc, Type.HARD_STATE, 9, 1, bytes(8))[0]
    disk.replace(segment_name(0), content[:stop] + record + content[stop + len(record) :])
    with pytest.raises(WalCorruptError, match="commit=9"):
        Wal.open(disk, WHO)


def test_an_end_that_is_gone_is_damage_once_the_next_segment_is_used() -> None:
    """Before, it may not have been written yet."""
    disk = SimulatedDisk()
    log = Wal.create(disk, WHO, segment_bytes=PAGE)
    log.append(HardState(1), [Entry(index, 1, data=b"x" * 900) for index in range(1, 5)])
    log.append(None, [Entry(5, 1, data=b"x" * 900)])
    log.sync()
    assert log.segment_count == 2
    unused = disk.copy()
    first = disk.read(segment_name(0))
    header = decode_header(segment_name(0), first, len(first))
    end = decode(first, HEADER_SIZE, header.crc)[0][-1]
    assert end[0] == Type.END
    for one in (disk, unused):
        one.replace(segment_name(0), first[: end[5]].ljust(PAGE, b"\0"))
    with pytest.raises(WalCorruptError, match="an end"):
        Wal.open(disk, WHO, segment_bytes=PAGE)
    second = unused.read(segment_name(1))
    body = decode_header(segment_name(1), second, PAGE).body
    unused.replace(segment_name(1), second[:body].ljust(PAGE, b"\0"))
    assert len(Wal.open(unused, WHO, segment_bytes=PAGE)[1].entries) == 4
    assert len(Wal.open(unused, WHO, segment_bytes=PAGE)[1].entries) == 4, "the end is there again"


def test_what_follows_a_seal_proves_all_before_it() -> None:
    """The space between a burst and its seal is lost: behind the seal there is more that was durable."""
    disk = SimulatedDisk()
    log = Wal.create(disk, WHO, segment_bytes=4 * PAGE)
    log.append(HardState(1), [Entry(1, 1, data=b"first")])
    log.seal()
    log.append(None, [Entry(2, 1, data=b"after the seal")])
    log.sync()
    data = disk.read(segment_name(0))
    disk.replace(segment_name(0), data[: 2 * SECTOR] + bytes(SECTOR) + data[3 * SECTOR :])
    with pytest.raises(WalCorruptError, match="the seal at"):
        Wal.open(disk, WHO)
