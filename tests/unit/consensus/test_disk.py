"""The real disk, and that the simulated one behaves as it does where nothing fails."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from balancer.consensus.disk import Disk, OsDisk
from balancer.consensus.storage import Storage
from balancer.consensus.storage_errors import EXIT_TRANSIENT, DirectoryLockedError, StorageFailedError
from balancer.consensus.wal import Wal
from balancer.raft.log_entry import Entry, HardState, SnapshotMark
from tests.support.simulated_disk import SimulatedDisk
from tests.support.storage_workload import FIRST, WHO, snapshot_bytes

SEGMENT = 8192


@pytest.fixture(params=["os", "simulated"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    """Both of them."""
    return OsDisk(str(tmp_path / "data")) if request.param == "os" else SimulatedDisk()


def test_files_are_made_written_and_read(disk: Disk) -> None:
    file = disk.create("b")
    file.allocate(5000)
    file.write(b"abc", 4998)
    file.write(b"start", 0)
    file.sync()
    file.close()
    disk.create("a").close()
    disk.sync_directory()
    assert disk.names() == ["a", "b"]
    assert (disk.size("a"), disk.size("b")) == (0, 5001)
    assert disk.read("b") == b"start" + bytes(4993) + b"abc"
    assert disk.read("b", 4990) == bytes(8) + b"abc"
    assert disk.read("b", 2, 2) == b"ar"
    assert disk.read("b", 4999, 100) == b"bc"
    assert disk.read("b", 9999, 1) == b""
    file = disk.open("b")
    file.write(b"S", 0)
    file.close()
    disk.drop_cache("b")
    assert disk.read("b", 0, 5) == b"Start"


def test_names_are_changed_as_a_directory_does(disk: Disk) -> None:
    for name in ("one", "two"):
        file = disk.create(name)
        file.write(name.encode(), 0)
        file.close()
    with pytest.raises(FileExistsError):
        disk.create("one")
    disk.rename("one", "two")
    assert disk.names() == ["two"]
    assert disk.read("two") == b"one"
    disk.unlink("two")
    missing: list[Callable[[], object]] = [
        lambda: disk.open("two"),
        lambda: disk.read("two"),
        lambda: disk.size("two"),
        lambda: disk.unlink("two"),
        lambda: disk.rename("two", "three"),
        lambda: disk.drop_cache("two"),
    ]
    for call in missing:
        with pytest.raises(FileNotFoundError):
            call()
    assert disk.names() == []


def test_a_closed_file_is_not_written(disk: Disk) -> None:
    file = disk.create("a")
    file.close()
    with pytest.raises(OSError):
        file.write(b"x", 0)


def test_a_whole_life_on_a_disk(disk: Disk) -> None:
    storage = Storage.create(disk, WHO, FIRST, segment_bytes=SEGMENT)
    written = [Entry(index, 1, data=b"%d" % index * 20) for index in range(1, 400)]
    for at in range(0, len(written), 10):
        storage.append(HardState(1, 1, at), written[at : at + 10])
        storage.sync()
        if at in (100, 200, 300):
            assert storage.save(SnapshotMark(at, 1, FIRST.membership), [b"state at %d" % at])
    storage.idle()
    storage.close()
    opened = Storage.open(disk, segment_bytes=SEGMENT)
    assert opened is not None
    storage, recovered = opened
    assert recovered.mark == SnapshotMark(300, 1, FIRST.membership)
    assert list(recovered.entries) == written[300:]
    assert recovered.hard_state == HardState(1, 1, 390)
    assert b"".join(storage.snapshots.pieces(recovered.mark)) == b"state at 300"
    assert storage.wal.segment_count < 6
    mark = SnapshotMark(1000, 2, FIRST.membership)
    data = snapshot_bytes(mark, 5000)
    storage.snapshots.begin(mark, len(data))
    storage.snapshots.write(0, data)
    assert storage.snapshots.finish(mark)
    storage.append(HardState(2, 0, 1000), [Entry(1001, 2)], mark)
    storage.sync()
    storage.close()
    opened = Storage.open(disk, segment_bytes=SEGMENT)
    assert opened is not None
    assert (opened[1].mark, opened[1].entries) == (mark, (Entry(1001, 2),))
    opened[0].close()


def test_a_directory_that_somebody_uses_is_refused(tmp_path: Path) -> None:
    first = OsDisk(str(tmp_path))
    storage = Storage.create(first, WHO, FIRST, segment_bytes=SEGMENT)
    second = OsDisk(str(tmp_path))
    with pytest.raises(DirectoryLockedError, match=str(tmp_path)) as raised:
        Storage.open(second)
    assert raised.value.exit_code == EXIT_TRANSIENT
    first.lock()
    storage.close()
    opened = Storage.open(second)
    assert opened is not None
    opened[0].close()


def test_the_lock_ends_with_the_process(tmp_path: Path) -> None:
    code = (
        "import os, sys; from balancer.consensus.disk import OsDisk\n"
        f"disk = OsDisk({str(tmp_path)!r}); disk.lock(); print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(DirectoryLockedError):
            OsDisk(str(tmp_path)).lock()
        process.kill()
        process.wait(10)
    disk = OsDisk(str(tmp_path))
    disk.lock()
    disk.unlock()
    disk.unlock()


def test_nobody_else_can_read_what_it_makes(tmp_path: Path) -> None:
    disk = OsDisk(str(tmp_path / "deep" / "data"))
    Storage.create(disk, WHO, FIRST, segment_bytes=SEGMENT).close()
    directory = Path(disk.directory)
    assert directory.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o077 == 0 for path in directory.iterdir())


def test_a_segment_reserves_its_blocks(tmp_path: Path) -> None:
    """So that a full disk shows when a segment is made, and not in the middle of it."""
    Wal.create(OsDisk(str(tmp_path)), WHO, segment_bytes=1024 * 1024).close()
    (segment,) = tmp_path.glob("wal-*.log")
    assert segment.stat().st_size == 1024 * 1024
    assert segment.stat().st_blocks * 512 >= 1024 * 1024


def test_a_write_in_several_steps_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = OsDisk(str(tmp_path))
    file = disk.create("a")
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: real(descriptor, bytes(data[:3]), offset))
    file.write(b"0123456789", 5)
    assert disk.read("a") == bytes(5) + b"0123456789"


def test_a_full_disk_stops_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = OsDisk(str(tmp_path))
    log = Wal.create(disk, WHO, segment_bytes=SEGMENT)
    log.append(HardState(1), [Entry(1, 1)])
    log.sync()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageFailedError, match="No space left"):
        log.append(None, [Entry(index, 1, data=bytes(100)) for index in range(2, 200)])
    monkeypatch.undo()
    assert "suspect" in disk.names()
    _, recovered = Wal.open(disk, WHO, segment_bytes=SEGMENT)
    assert recovered.entries[0] == Entry(1, 1)
