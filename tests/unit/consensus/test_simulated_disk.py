"""The disk that loses things: that it does, and only those that were not synced."""

import errno
from collections import Counter
from random import Random

import pytest

from tests.support.simulated_disk import SECTOR, PowerLoss, SimulatedDisk

OLD, NEW, SIZE = b"o", b"n", 8


def written(*, synced: bool) -> SimulatedDisk:
    """A durable file of eight sectors, and all of them written again."""
    disk = SimulatedDisk()
    file = disk.create("a")
    file.write(OLD * SECTOR * SIZE, 0)
    file.sync()
    disk.sync_directory()
    file.write(NEW * SECTOR * SIZE, 0)
    if synced:
        file.sync()
    return disk


def sectors(disk: SimulatedDisk, name: str = "a") -> str:
    """o, n, or ? for each."""
    data = disk.read(name)
    found = (data[at : at + SECTOR] for at in range(0, len(data), SECTOR))
    return "".join(chr(sector[0]) if sector == sector[:1] * SECTOR else "?" for sector in found)


def after_crash(disk: SimulatedDisk, seed: int, **how: object) -> str:
    """What a copy has."""
    twin = disk.copy()
    twin.crash(Random(seed), **how)  # type: ignore[arg-type]
    return sectors(twin)


def test_what_was_synced_stays() -> None:
    disk = written(synced=True)
    assert {after_crash(disk, seed, garble=1.0) for seed in range(100)} == {"n" * SIZE}


def test_what_was_not_is_kept_lost_or_torn_at_sectors() -> None:
    disk = written(synced=False)
    found = Counter(after_crash(disk, seed) for seed in range(400))
    assert found["n" * SIZE] > 50
    assert found["o" * SIZE] > 50
    assert all(set(one) <= {"o", "n"} for one in found)
    in_order = {"n" * count + "o" * (SIZE - count) for count in range(SIZE + 1)}
    assert in_order <= set(found)
    assert len(set(found) - in_order) > 20, "any sector may be the one that is missing"


def test_it_may_be_noise_when_that_is_wanted() -> None:
    disk = written(synced=False)
    assert {"?"} <= set("".join(after_crash(disk, seed, garble=0.5) for seed in range(20)))
    assert after_crash(disk, 1, garble=1.0, tearing="lose") == "?" * SIZE
    assert after_crash(disk, 1, tearing="keep") == "n" * SIZE


def test_a_file_that_grew_may_be_short_or_empty() -> None:
    disk = SimulatedDisk()
    file = disk.create("a")
    disk.sync_directory()
    file.write(b"x" * SECTOR * 3, 0)
    found = {after_crash(disk, seed) for seed in range(200)}
    assert {"", "xxx", "\0\0\0"} <= found


def test_a_killed_process_loses_nothing_but_its_files() -> None:
    disk = written(synced=False)
    file = disk.open("a")
    disk.kill()
    assert sectors(disk) == "n" * SIZE
    with pytest.raises(OSError) as raised:
        file.write(b"x", 0)
    assert raised.value.errno == errno.EBADF


def test_names_are_durable_when_the_directory_is_synced() -> None:
    disk = SimulatedDisk()
    for name in ("a", "b"):
        disk.create(name).sync()
    disk.sync_directory()
    disk.rename("a", "c")
    disk.unlink("b")
    disk.create("d")
    found = set()
    for seed in range(300):
        twin = disk.copy()
        twin.crash(Random(seed))
        names = twin.names()
        assert ("a" in names) != ("c" in names), "a rename is atomic"
        found.add("".join(names))
    possible = {
        "".join(sorted(first + second + third)) for first in "ac" for second in ("b", "") for third in ("d", "")
    }
    assert found == possible
    disk.sync_directory()
    disk.crash(Random(1), tearing="lose")
    assert disk.names() == ["c", "d"]


def test_a_failed_sync_loses_some_and_the_next_one_succeeds_without_it() -> None:
    found = set()
    for seed in range(50):
        disk = written(synced=False)
        disk.seed(seed)
        disk.fail("sync")
        file = disk.open("a")
        with pytest.raises(OSError) as raised:
            file.sync()
        assert raised.value.errno == errno.EIO
        file.sync()
        assert sectors(disk) == "n" * SIZE, "the page cache has it all"
        device = after_crash(disk, seed)
        disk.drop_cache("a")
        assert sectors(disk) == device, "and the device has what it has"
        found.add(device)
    assert len(found) > 20


def test_a_failed_write_may_be_done_in_part() -> None:
    found = set()
    for seed in range(50):
        disk = written(synced=True)
        disk.seed(seed)
        disk.fail("write", code=errno.ENOSPC)
        with pytest.raises(OSError) as raised:
            disk.open("a").write(b"x" * SECTOR * SIZE, 0)
        assert raised.value.errno == errno.ENOSPC
        found.add(sectors(disk))
    assert found <= {"x" * count + "n" * (SIZE - count) for count in range(SIZE + 1)}
    assert len(found) > 4


def test_failures_are_counted_by_operation_and_name() -> None:
    disk = SimulatedDisk()
    disk.fail("create", after=1, times=2, name="a")
    disk.create("a1")
    disk.create("b1")
    for _ in range(2):
        with pytest.raises(OSError):
            disk.create("a2")
    disk.create("a2")
    disk.fail("any")
    disk.heal()
    disk.create("a3")
    assert disk.names() == ["a1", "a2", "a3", "b1"]


def test_power_goes_off_at_the_operation_that_was_named() -> None:
    disk = SimulatedDisk()
    disk.crash_at(2)
    file = disk.create("a")
    disk.sync_directory()
    with pytest.raises(PowerLoss):
        file.write(b"x" * SECTOR, 0)
    disk.crash(Random(1))
    assert disk.names() == ["a"]
    disk.create("b")


def test_the_same_seed_does_the_same() -> None:
    disk = written(synced=False)
    for seed in range(20):
        assert after_crash(disk, seed, garble=0.3) == after_crash(disk, seed, garble=0.3)


def test_a_flip_is_on_the_device_and_in_the_cache() -> None:
    disk = written(synced=True)
    disk.flip("a", 700, 3)
    assert sectors(disk) == "n?" + "n" * (SIZE - 2) == after_crash(disk, 1)


def test_a_copy_lives_on_its_own() -> None:
    disk = written(synced=False)
    twin = disk.copy()
    twin.crash(Random(1), tearing="lose")
    twin.unlink("a")
    assert sectors(disk) == "n" * SIZE
    assert disk.unsynced == SIZE
