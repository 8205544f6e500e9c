"""Whose data directory it is, and what is taken for an empty one."""

import pytest

from balancer.consensus.identity import FILE, decode_identity, encode_identity, read_identity, write_identity
from balancer.consensus.storage_errors import EXIT_SUSPECT, IdentityError
from balancer.consensus.wal import Wal
from balancer.consensus.wal_record import Identity, segment_name
from balancer.raft.log_entry import HardState
from tests.support.simulated_disk import SimulatedDisk

WHO = Identity(cluster_id=2**63 - 1, node_id=3, node_uuid=bytes(range(16)))


def test_it_is_read_back() -> None:
    assert decode_identity(encode_identity(WHO)) == WHO


def test_a_flip_at_any_bit_is_refused() -> None:
    """Another number would be another member, with a vote of its own."""
    data = encode_identity(WHO)
    for offset in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[offset] ^= 1 << bit
            with pytest.raises(IdentityError):
                decode_identity(bytes(flipped))
    for size in range(len(data)):
        with pytest.raises(IdentityError):
            decode_identity(data[:size])


def test_another_format_is_named() -> None:
    import google_crc32c

    text = encode_identity(WHO).split(b"\n")[0].replace(b'"format":1', b'"format":2')
    with pytest.raises(IdentityError, match="format 2, this program reads format 1"):
        decode_identity(text + b"\ncrc32c %08x\n" % google_crc32c.value(text))


def test_an_empty_directory_is_nobodys() -> None:
    disk = SimulatedDisk()
    assert read_identity(disk) is None
    Wal.create(disk, WHO, segment_bytes=4096)
    assert read_identity(disk) is None, "the making of it was interrupted: nothing was written to the log"
    write_identity(disk, WHO)
    assert read_identity(disk) == WHO


def test_a_log_that_was_used_without_its_identity_is_refused() -> None:
    disk = SimulatedDisk()
    log = Wal.create(disk, WHO, segment_bytes=4096)
    log.append(HardState(1, 1))
    log.sync()
    with pytest.raises(IdentityError, match="missing beside a log") as raised:
        read_identity(disk)
    assert raised.value.exit_code == EXIT_SUSPECT
    write_identity(disk, WHO)
    disk.remove(segment_name(0))
    with pytest.raises(IdentityError, match="the log is gone"):
        read_identity(disk)


@pytest.mark.parametrize("left", [[segment_name(1)], [segment_name(0), segment_name(1)], ["snap-1-1"]])
def test_parts_of_a_directory_are_not_taken_for_an_empty_one(left: list[str]) -> None:
    disk = SimulatedDisk()
    for name in left:
        disk.replace(name, bytes(4096))
    with pytest.raises(IdentityError):
        read_identity(disk)


def test_the_file_can_be_read_by_a_person() -> None:
    disk = SimulatedDisk()
    write_identity(disk, WHO)
    assert b'"node_id":3' in disk.read(FILE)
    assert WHO.node_uuid.hex().encode() in disk.read(FILE)
