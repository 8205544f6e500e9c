"""A directory in memory that loses what a machine loses: the disk of the simulator and of the storage's tests.

It keeps three views of a file, as Linux and a device do together: what reads see (page cache), which sectors of it are
dirty, and what the device has. A name is apart from its file, as in a directory: `sync_directory` makes names durable.

- `kill()`: the process ends, the machine goes on: nothing is lost but open files.
- `crash(rng)`: the machine loses power. Of the sectors that were not synced each crash keeps all, loses all, or keeps
  some, in order or not ("torn"), and with `garble` it leaves noise in some. Of the names since the last
  `sync_directory` it keeps some, in order or not. What was synced stays.
- `fail(...)`: an operation raises OSError. A failed sync loses some of the sectors and calls all of them clean, so that
  the next sync succeeds ("fsyncgate"); `drop_cache` then shows what the device has.
- `crash_at(...)`: PowerLoss instead of the n-th operation that changes something; the test then calls `crash`.

Deterministic: all choices are drawn from the given `rng`.
"""

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Literal

from balancer.consensus.storage_errors import DirectoryLockedError

SECTOR = 512
Operation = Literal["write", "sync", "create", "allocate", "rename", "unlink", "sync_directory", "drop_cache", "any"]
Tearing = Literal["keep", "lose", "prefix", "some"]


class PowerLoss(Exception):  # noqa: N818 (no error of the code under test: it must not be caught there)
    """The power goes off in the middle of an operation."""


@dataclass(slots=True)
class _Inode:
    cache: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    dirty: dict[int, None] = field(default_factory=dict)  # numbers of sectors, in the order of their writes

    def write(self, data: bytes, offset: int) -> None:
        if offset > len(self.cache):
            self.cache.extend(bytes(offset - len(self.cache)))
        self.cache[offset : offset + len(data)] = data
        for sector in range(offset // SECTOR, -(-(offset + len(data)) // SECTOR)):
            self.dirty[sector] = None

    def write_back(self, sector: int, noise: Random | None = None) -> None:
        """The device gets a sector, or with `noise` something else in its place."""
        start = sector * SECTOR
        data = self.cache[start : start + SECTOR]
        if noise is not None:
            data = bytearray(noise.randbytes(len(data)))
        if start > len(self.durable):
            self.durable.extend(bytes(start - len(self.durable)))
        self.durable[start : start + len(data)] = data

    def sync(self) -> None:
        if len(self.durable) < len(self.cache):
            self.durable.extend(bytes(len(self.cache) - len(self.durable)))
        cache, durable = self.cache, self.durable
        for sector in self.dirty:
            start = sector * SECTOR
            durable[start : start + SECTOR] = cache[start : start + SECTOR]
        self.dirty.clear()


@dataclass(slots=True)
class _Fault:
    operation: Operation
    name: str
    left: int  # operations that still succeed
    code: int
    times: int


class SimulatedFile:
    """An open file of a SimulatedDisk. Useless after a crash or kill."""

    def __init__(self, disk: "SimulatedDisk", inode: _Inode, name: str) -> None:
        self._disk = disk
        self._inode = inode
        self._name = name
        self._start = disk.starts
        self._open = True

    def write(self, data: bytes, offset: int) -> None:
        """See DiskFile. A failing write may have written a part, up to the end of a sector (Linux: of a page)."""
        self._check()
        self._disk.step("write", self._name, lambda rng: self._write_a_part(data, offset, rng))
        self._inode.write(data, offset)

    def _write_a_part(self, data: bytes, offset: int, rng: Random) -> None:
        end = offset + rng.randrange(len(data) + 1)
        self._inode.write(data[: max(end - end % SECTOR - offset, 0)], offset)

    def sync(self) -> None:
        """See DiskFile."""
        self._check()
        self._disk.step("sync", self._name, self._fail_to_sync)
        self._inode.sync()

    def _fail_to_sync(self, rng: Random) -> None:
        for sector in self._inode.dirty:
            if rng.random() < 0.5:
                self._inode.write_back(sector)
        self._inode.dirty.clear()

    def allocate(self, size: int) -> None:
        """See DiskFile."""
        self._check()
        self._disk.step("allocate", self._name)
        self._inode.cache.extend(bytes(size - len(self._inode.cache)))

    def close(self) -> None:
        """See DiskFile."""
        self._open = False

    def _check(self) -> None:
        if not self._open or self._start != self._disk.starts:
            raise OSError(errno.EBADF, "the file is closed", self._name)


class SimulatedDisk:
    """See the module's text. `operations` counts what changed something, for `crash_at` and `fail`."""

    def __init__(self) -> None:
        self.starts = 0
        self.operations = 0
        self._names: dict[str, _Inode] = {}
        self._durable_names: dict[str, _Inode] = {}
        self._changes: list[dict[str, _Inode | None]] = []  # of names, since the last sync_directory
        self.taken = False  # another process holds the lock
        self.faults: list[_Fault] = []
        self._crash_at = -1
        self._rng = Random(0)
        self.watch: Callable[[], None] | None = None  # called before each operation, e.g. to crash a copy

    # The Disk protocol.

    def names(self) -> list[str]:
        """See Disk."""
        return sorted(self._names)

    def create(self, name: str) -> SimulatedFile:
        """See Disk."""
        if name in self._names:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        self.step("create", name)
        inode = _Inode()
        self._change({name: inode})
        return SimulatedFile(self, inode, name)

    def open(self, name: str) -> SimulatedFile:
        """See Disk."""
        return SimulatedFile(self, self._find(name), name)

    def read(self, name: str, offset: int = 0, size: int | None = None) -> bytes:
        """See Disk."""
        cache = self._find(name).cache
        return bytes(cache[offset:] if size is None else cache[offset : offset + size])

    def size(self, name: str) -> int:
        """See Disk."""
        return len(self._find(name).cache)

    def rename(self, old: str, new: str) -> None:
        """See Disk."""
        inode = self._find(old)
        self.step("rename", old)
        self._change({old: None, new: inode})

    def unlink(self, name: str) -> None:
        """See Disk."""
        self._find(name)
        self.step("unlink", name)
        self._change({name: None})

    def sync_directory(self) -> None:
        """See Disk."""
        self.step("sync_directory", "")
        self._durable_names = dict(self._names)
        self._changes.clear()

    def drop_cache(self, name: str) -> None:
        """See Disk."""
        inode = self._find(name)
        self.step("drop_cache", name)
        inode.sync()
        inode.cache[:] = inode.durable

    def lock(self) -> None:
        """See Disk. One object is one process's view: nobody else can hold it, unless `taken` says so."""
        if self.taken:
            raise DirectoryLockedError("another process uses it")

    def unlock(self) -> None:
        """See Disk."""

    # What goes wrong.

    def kill(self) -> None:
        """The process ends; the next one finds the page cache as it was."""
        self.starts += 1

    def crash(self, rng: Random, *, garble: float = 0.0, tearing: Tearing | None = None) -> None:
        """The power goes off and comes back. `garble`: how likely a sector that is lost holds noise afterwards.

        `tearing`: what becomes of the sectors that were not synced; None: drawn for each file.
        """
        self.kill()
        self._crash_at = -1
        self.faults.clear()
        for change, kept in zip(self._changes, _kept(rng, tearing, len(self._changes)), strict=True):
            if kept:
                _apply(self._durable_names, change)
        self._changes.clear()
        for inode in {id(inode): inode for inode in self._durable_names.values()}.values():
            _crash_inode(inode, rng, garble, tearing)
        self._names = dict(self._durable_names)

    def crash_at(self, operation: int) -> None:
        """PowerLoss instead of the operation with this number (`operations` when it starts); what it does is lost."""
        self._crash_at = operation

    def fail(
        self, operation: Operation, *, after: int = 0, code: int = errno.EIO, name: str = "", times: int = 1
    ) -> None:
        """After so many that succeed, `times` operations of a kind, on files whose names begin so, raise OSError."""
        self.faults.append(_Fault(operation, name, after, code, times))

    def seed(self, seed: int) -> None:
        """How much a failing operation still does is drawn from this."""
        self._rng = Random(seed)

    def heal(self) -> None:
        """No more failures and no planned crash."""
        self.faults.clear()
        self._crash_at = -1

    def flip(self, name: str, offset: int, bit: int = 0) -> None:
        """Change a bit of a file, on the device and in the cache."""
        inode = self._find(name)
        for view in (inode.cache, inode.durable):
            if offset < len(view):
                view[offset] ^= 1 << bit

    def replace(self, name: str, data: bytes) -> None:
        """Give a file another content, or make it, durably."""
        inode = _Inode(bytearray(data), bytearray(data))
        self._names[name] = self._durable_names[name] = inode

    def remove(self, name: str) -> None:
        """Take a file away, durably."""
        self._names.pop(name)
        self._durable_names.pop(name, None)

    def wipe(self) -> None:
        """An empty disk in the place of this one."""
        self.kill()
        self._names, self._durable_names, self._changes = {}, {}, []

    def copy(self) -> "SimulatedDisk":
        """Another disk with the same content, durable and not; without faults and open files."""
        twin = SimulatedDisk()
        inodes = {id(inode): inode for names in (self._names, self._durable_names) for inode in names.values()}
        inodes |= {id(inode): inode for change in self._changes for inode in change.values() if inode is not None}
        copies = {
            key: _Inode(bytearray(inode.cache), bytearray(inode.durable), dict(inode.dirty))
            for key, inode in inodes.items()
        }
        twin._names = {name: copies[id(inode)] for name, inode in self._names.items()}
        twin._durable_names = {name: copies[id(inode)] for name, inode in self._durable_names.items()}
        twin._changes = [
            {name: inode and copies[id(inode)] for name, inode in change.items()} for change in self._changes
        ]
        return twin

    @property
    def unsynced(self) -> int:
        """Sectors and names that a crash may lose."""
        return sum(len(inode.dirty) for inode in self._names.values()) + len(self._changes)

    def step(self, operation: Operation, name: str, effect: "Callable[[Random], None] | None" = None) -> None:
        """One operation begins: raise what was planned for it. `effect`: what it does though it fails."""
        if self.watch is not None:
            self.watch()
        number = self.operations
        self.operations += 1
        if number == self._crash_at:
            if effect is not None and operation == "write":
                effect(self._rng)
            raise PowerLoss(f"operation {number}: {operation} {name}")
        for fault in self.faults:
            if fault.operation in (operation, "any") and name.startswith(fault.name):
                self._fail(fault, name, effect)

    def _fail(self, fault: _Fault, name: str, effect: "Callable[[Random], None] | None") -> None:
        if fault.left:
            fault.left -= 1
        elif fault.times:
            fault.times -= 1
            if effect is not None:
                effect(self._rng)
            raise OSError(fault.code, os.strerror(fault.code), name)

    def _find(self, name: str) -> _Inode:
        try:
            return self._names[name]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name) from None

    def _change(self, change: dict[str, _Inode | None]) -> None:
        self._changes.append(change)
        _apply(self._names, change)


def _apply(names: dict[str, _Inode], change: dict[str, _Inode | None]) -> None:
    for name, inode in change.items():
        if inode is None:
            names.pop(name, None)
        else:
            names[name] = inode


def _kept(rng: Random, tearing: Tearing | None, count: int) -> list[bool]:
    """Which of so many things that were not synced are there after a crash."""
    how = tearing or rng.choice(("keep", "lose", "prefix", "some"))
    if how == "some":
        return [rng.random() < 0.5 for _ in range(count)]
    cut = count if how == "keep" else 0 if how == "lose" else rng.randrange(count + 1)
    return [at < cut for at in range(count)]


def _crash_inode(inode: _Inode, rng: Random, garble: float, tearing: Tearing | None) -> None:
    size = len(inode.durable)
    if len(inode.cache) > size and (tearing == "keep" or (tearing != "lose" and rng.random() < 0.5)):
        size = len(inode.cache)
    for sector, kept in zip(inode.dirty, _kept(rng, tearing, len(inode.dirty)), strict=True):
        if kept:
            inode.write_back(sector)
        elif garble and rng.random() < garble:
            inode.write_back(sector, rng)
    del inode.durable[size:]
    inode.durable.extend(bytes(size - len(inode.durable)))
    inode.dirty.clear()
    inode.cache[:] = inode.durable
