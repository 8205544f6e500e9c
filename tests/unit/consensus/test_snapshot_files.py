"""Snapshot files: whole or not there, sent as they are, received whole or not at all."""

import errno
from collections.abc import Iterator
from random import Random

import pytest

from balancer.consensus.snapshot_files import SnapshotFiles, snapshot_name
from balancer.consensus.snapshot_format import CHUNK, decode_snapshot_file, encode_snapshot_file
from balancer.consensus.storage_errors import SnapshotCorruptError, StorageFailedError
from balancer.raft.log_entry import Membership, SnapshotMark
from tests.support.simulated_disk import PowerLoss, SimulatedDisk

CLUSTER = 7
MARK = SnapshotMark(30, 4, Membership((1, 2, 3), (4,), b"addresses"))
NAME = snapshot_name(MARK)


def encoded(data: list[bytes], mark: SnapshotMark = MARK) -> bytes:
    """A snapshot's file."""
    return b"".join(encode_snapshot_file(CLUSTER, mark, data))


def decoded(data: bytes, mark: SnapshotMark = MARK, cluster: int = CLUSTER) -> bytes:
    """What it holds."""
    return b"".join(decode_snapshot_file("file", lambda at, size: data[at : at + size], cluster, mark))


def receive(files: SnapshotFiles, data: bytes, mark: SnapshotMark = MARK, chunk: int = 100) -> bool:
    """Have it come in chunks."""
    files.begin(mark, len(data))
    for at in range(0, len(data), chunk):
        files.write(at, data[at : at + chunk])
    return files.finish(mark)


@pytest.mark.parametrize("sizes", [[], [0], [1], [5, 0, 9], [CHUNK], [CHUNK + 1], [CHUNK - 1, 2], [3 * CHUNK + 7, 1]])
def test_what_is_written_in_any_pieces_is_read_back(sizes: list[int]) -> None:
    pieces = [Random(size).randbytes(size) for size in sizes]
    files = SnapshotFiles(SimulatedDisk(), CLUSTER)
    files.save(MARK, iter(pieces))
    assert b"".join(files.pieces(MARK)) == b"".join(pieces)
    assert all(len(piece) <= CHUNK for piece in files.pieces(MARK))


def test_it_is_written_while_its_pieces_are_made() -> None:
    disk = SimulatedDisk()
    largest = 0

    def pieces() -> Iterator[bytes]:
        nonlocal largest
        for number in range(8):
            yield b"x" * CHUNK
            largest = max(largest, number * CHUNK - disk.size(f"{NAME}.tmp"))

    SnapshotFiles(disk, CLUSTER).save(MARK, pieces())
    assert largest <= 2 * CHUNK


def test_a_flip_at_any_byte_is_found_before_a_damaged_piece_is_given_out() -> None:
    data = encoded([b"some state", b"x" * 90])
    for offset in range(len(data)):
        for bit in (0, 5):
            flipped = bytearray(data)
            flipped[offset] ^= 1 << bit
            with pytest.raises(SnapshotCorruptError):
                decoded(bytes(flipped))


def test_a_cut_anywhere_and_anything_behind_the_end_are_found() -> None:
    data = encoded([b"some state", b"x" * 90])
    for size in range(len(data)):
        with pytest.raises(SnapshotCorruptError):
            decoded(data[:size])
    for more in (b"\0", b"x", data):
        with pytest.raises(SnapshotCorruptError):
            decoded(data + more)


def test_chunks_in_another_order_are_found() -> None:
    chunks = list(encode_snapshot_file(CLUSTER, MARK, [b"a" * CHUNK, b"b" * CHUNK, b"c" * CHUNK]))
    assert decoded(b"".join(chunks)) == b"a" * CHUNK + b"b" * CHUNK + b"c" * CHUNK
    chunks[1], chunks[2] = chunks[2], chunks[1]
    with pytest.raises(SnapshotCorruptError):
        decoded(b"".join(chunks))
    with pytest.raises(SnapshotCorruptError):
        decoded(b"".join([chunks[0], *chunks[2:]]))


@pytest.mark.parametrize(
    ("mark", "cluster"),
    [
        (SnapshotMark(31, 4, MARK.membership), CLUSTER),
        (SnapshotMark(30, 5, MARK.membership), CLUSTER),
        (SnapshotMark(30, 4, Membership((1, 2, 3))), CLUSTER),
        (MARK, 8),
    ],
)
def test_another_snapshot_under_its_name_is_found(mark: SnapshotMark, cluster: int) -> None:
    with pytest.raises(SnapshotCorruptError):
        decoded(encoded([b"x"]), mark, cluster)


def test_a_whole_one_is_sent_in_parts_and_received_whole() -> None:
    sender, receiver = SnapshotFiles(SimulatedDisk(), CLUSTER), SnapshotFiles(SimulatedDisk(), CLUSTER)
    sender.save(MARK, [b"state " * 1000])
    size = sender.size(MARK)
    assert len(sender.read(MARK, 0, size + 50)) == size
    receiver.begin(MARK, size)
    for at in range(0, size, 999):
        receiver.write(at, sender.read(MARK, at, 999))
    assert receiver.size(MARK) == 0, "not before it is adopted"
    assert receiver.finish(MARK)
    receiver.adopt(MARK)
    assert receiver.size(MARK) == size
    assert b"".join(receiver.pieces(MARK)) == b"state " * 1000


def test_one_that_is_not_here_has_no_bytes() -> None:
    files = SnapshotFiles(SimulatedDisk(), CLUSTER)
    assert files.size(MARK) == 0
    assert files.read(MARK, 0, 10) == b""
    assert files.is_whole(MARK) is False


def test_a_damaged_one_that_comes_is_refused_and_goes() -> None:
    disk = SimulatedDisk()
    files = SnapshotFiles(disk, CLUSTER)
    data = encoded([b"state"])
    assert receive(files, data[:-1] + b"?") is False
    assert receive(files, data[:-1]) is False
    assert receive(files, encoded([b"state"], SnapshotMark(31, 4))) is False
    assert files.finish(MARK) is False, "nothing is being received"
    assert disk.names() == []
    assert receive(files, data) is True


def test_what_comes_takes_the_place_of_what_came_and_was_not_finished() -> None:
    disk = SimulatedDisk()
    files = SnapshotFiles(disk, CLUSTER)
    other = SnapshotMark(40, 4)
    files.begin(other, 1000)
    files.write(0, b"part of another")
    assert receive(files, encoded([b"state"]))
    assert disk.names() == [f"{NAME}.part"]
    assert receive(files, encoded([b"newer"], other), other)
    files.adopt(other)
    assert disk.names() == [snapshot_name(other)], "the older one will not be adopted any more"


def test_what_is_kept_is_named_and_what_is_under_way_stays() -> None:
    disk = SimulatedDisk()
    files = SnapshotFiles(disk, CLUSTER)
    marks = [SnapshotMark(index, 1) for index in (10, 20, 30)]
    for mark in marks:
        files.save(mark, [b"state"])
    for name in ("snap-left.tmp", f"{NAME}.tmp", f"{NAME}.broken", "identity"):
        disk.replace(name, b"")
    files.begin(SnapshotMark(99, 1), 10)
    files.keep(marks[1:])
    assert disk.names() == sorted(
        [
            *map(snapshot_name, marks[1:]),
            f"{snapshot_name(SnapshotMark(99, 1))}.part",
            "snap-left.tmp",
            f"{NAME}.broken",
            "identity",
        ]
    )


def test_a_damaged_one_becomes_broken_and_is_left_for_the_operator() -> None:
    disk = SimulatedDisk()
    files = SnapshotFiles(disk, CLUSTER)
    files.save(MARK, [b"state"])
    assert files.is_whole(MARK)
    disk.flip(NAME, 60)
    assert not files.is_whole(MARK)
    disk.crash(Random(1), tearing="lose")
    assert disk.names() == [f"{NAME}.broken"]


def test_saving_is_all_or_nothing_over_a_crash_at_any_operation() -> None:
    for number in range(20):
        for seed in range(10):
            disk = SimulatedDisk()
            disk.crash_at(number)
            done = True
            try:
                SnapshotFiles(disk, CLUSTER).save(MARK, [b"x" * 3000])
            except PowerLoss:
                done = False
            disk.crash(Random(seed))
            if done or NAME in disk.names():
                assert SnapshotFiles(disk, CLUSTER).is_whole(MARK)
    assert done


def test_adopting_is_all_or_nothing_over_a_crash_at_any_operation() -> None:
    for number in range(20):
        for seed in range(10):
            disk = SimulatedDisk()
            files = SnapshotFiles(disk, CLUSTER)
            assert receive(files, encoded([b"x" * 3000]))
            disk.crash_at(disk.operations + number)
            done = True
            try:
                files.adopt(MARK)
            except PowerLoss:
                done = False
            disk.crash(Random(seed))
            if done or NAME in disk.names():
                assert SnapshotFiles(disk, CLUSTER).is_whole(MARK)
    assert done


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_after_the_first_failure_everything_is_refused(code: int) -> None:
    disk = SimulatedDisk()
    files = SnapshotFiles(disk, CLUSTER)
    disk.fail("write", name="snap", code=code)
    with pytest.raises(StorageFailedError, match="save of a snapshot"):
        files.save(MARK, [b"x"])
    assert "suspect" in disk.names()
    for call in (
        lambda: files.save(MARK, [b"x"]),
        lambda: files.begin(MARK, 1),
        lambda: files.adopt(MARK),
        lambda: files.keep([]),
    ):
        with pytest.raises(StorageFailedError, match="refused"):
            call()
