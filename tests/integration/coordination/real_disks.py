"""A disk for each real member that can be filled, and freed again.

Best an ext4 of its own in a file (a loop device), whose fdatasync is that of a disk. Where there may be none a tmpfs:
it can be full as well, but makes nothing durable, so that a sync costs nothing. Where nothing may be mounted at all the
process is told to make no file longer (RLIMIT_FSIZE): another error number, in the same places.
"""

import contextlib
import os
import re
import resource
import subprocess
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Protocol

from tests.support.programs import find_program

SIZE = 64 * 1024 * 1024
_MARK = "balancer-disk"
_serial = count(1)


class NoMountError(Exception):
    """It cannot be mounted here. The text says why."""


class Disk(Protocol):
    """`folder`: where the member's files lie; `words`: what it is."""

    folder: Path
    words: str
    full: bool

    def started(self, pid: int) -> None:
        """This process uses it from now on."""

    def fill(self) -> None:
        """Leave no room."""

    def free(self) -> None:
        """As before."""

    def close(self) -> None:
        """Nothing of it is left but files."""


def make_disks(folder: Path, names: Sequence[str]) -> dict[str, Disk]:
    """One for each, of the best kind that there can be; says why it is not a better one."""
    _sweep()
    for kind in ("ext4", "tmpfs"):
        made: dict[str, Disk] = {}
        try:
            for name in names:
                made[name] = Mounted(folder, name, kind)
        except NoMountError as error:
            print(f"no disk of the kind {kind}: {error}")
            for disk in made.values():
                disk.close()
        except BaseException:
            for disk in made.values():
                disk.close()
            raise
        else:
            return made
    return {name: Limited(folder, name) for name in names}


class Mounted:
    """A file system of its own. Raises NoMountError, and then nothing is left."""

    def __init__(self, folder: Path, name: str, kind: str) -> None:
        self.full = False
        self.folder = folder / f"{_MARK}-{os.getpid()}-{next(_serial)}-{name}"
        self.folder.mkdir()
        self.words = f"{kind} of {SIZE >> 20} MiB"
        if kind == "ext4":
            image = folder / f"{self.folder.name}.img"
            with image.open("wb") as file:
                file.truncate(SIZE)
            # No blocks that are kept for root, who may run this.
            _run("mkfs.ext4", "-q", "-F", "-m", "0", str(image))
            _run("mount", "-t", "ext4", "-o", "loop", str(image), str(self.folder))
        else:
            _run("mount", "-t", "tmpfs", "-o", f"size={SIZE}", kind, str(self.folder))

    def started(self, pid: int) -> None:
        pass

    def fill(self) -> None:
        self.full = True
        file = os.open(self._ballast, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            size = 0
            for step in (16 << 20, 1 << 20, 64 << 10, 4 << 10):
                with contextlib.suppress(OSError):  # no room for so much more
                    while True:
                        os.posix_fallocate(file, size, step)
                        size += step
        finally:
            os.close(file)

    def free(self) -> None:
        self.full = False
        self._ballast.unlink(missing_ok=True)

    def close(self) -> None:
        _unmount(self.folder)

    @property
    def _ballast(self) -> Path:
        return self.folder / "ballast"


class Limited:
    """A folder, for a process that may be forbidden to make its files longer."""

    words = "a folder, full by RLIMIT_FSIZE"
    _least = 4096

    def __init__(self, folder: Path, name: str) -> None:
        self.full = False
        self.folder = folder / f"{_MARK}-{name}"
        self.folder.mkdir()
        self._pid = 0

    def started(self, pid: int) -> None:
        self._pid = pid
        self._limit()

    def fill(self) -> None:
        self.full = True
        self._limit()

    def free(self) -> None:
        self.full = False
        self._limit()

    def close(self) -> None:
        pass

    def _limit(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            _, most = resource.prlimit(self._pid, resource.RLIMIT_FSIZE)
            resource.prlimit(self._pid, resource.RLIMIT_FSIZE, (self._least if self.full else most, most))


def _run(name: str, *arguments: str) -> None:
    program = find_program(name)
    if program is None:
        raise NoMountError(f"no program `{name}`")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise NoMountError(f"{name}: {said[0] if said else done.returncode}")


def _unmount(folder: Path) -> None:
    program = find_program("umount")
    if program is not None and os.path.ismount(folder):
        subprocess.run([program, "-l", str(folder)], capture_output=True, check=False)


def _sweep() -> None:
    """Unmount what a run that was killed has left; its processes ended with it."""
    for line in Path("/proc/mounts").read_text().splitlines():
        folder = Path(line.split()[1])
        found = re.fullmatch(rf"{_MARK}-(\d+)-\d+-\w+", folder.name)
        if found and not Path(f"/proc/{found[1]}").exists():
            _unmount(folder)
