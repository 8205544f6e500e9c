"""The few operations on files that the member's storage is made of, in one directory. All of them block.

Law: a name that was created, renamed or removed is durable after `sync_directory`, bytes that were written are after
`DiskFile.sync`; neither implies the other. Every operation may raise OSError.
"""

import errno
import fcntl
import os
from typing import Protocol

from balancer.consensus.storage_errors import DirectoryLockedError

_LOCK = "lock"


class DiskFile(Protocol):
    """An open file. Used by one thread at a time."""

    def write(self, data: bytes, offset: int) -> None:
        """Write all of `data` there; O(bytes)."""

    def sync(self) -> None:
        """Make what was written durable, and the size. After a failure the file's content is unknown."""

    def allocate(self, size: int) -> None:
        """Make it `size` zero bytes that writes will find room for."""

    def close(self) -> None:
        """Let go of it. Says nothing of durability."""


class Disk(Protocol):
    """A directory. Names have no folder in them."""

    def names(self) -> list[str]:
        """All files, sorted; without the lock."""

    def create(self, name: str) -> DiskFile:
        """A new, empty file. FileExistsError where there is one."""

    def open(self, name: str) -> DiskFile:
        """An existing file, to be written."""

    def read(self, name: str, offset: int = 0, size: int | None = None) -> bytes:
        """Up to `size` bytes (default: all) from `offset`; fewer only at the end of the file."""

    def size(self, name: str) -> int:
        """In bytes."""

    def rename(self, old: str, new: str) -> None:
        """Atomic; replaces `new`."""

    def unlink(self, name: str) -> None:
        """Remove it."""

    def sync_directory(self) -> None:
        """Make all names durable."""

    def drop_cache(self, name: str) -> None:
        """Write back what the page cache has of a file and forget it, so that the next read asks the device."""

    def lock(self) -> None:
        """Hold the directory for as long as the process lives; again: nothing. Raises DirectoryLockedError."""

    def unlock(self) -> None:
        """Let others have it."""


class OsDiskFile:
    """A file of the operating system."""

    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, data: bytes, offset: int) -> None:
        """See DiskFile."""
        written = os.pwrite(self._descriptor, data, offset)
        while written < len(data):  # a signal, or 2 GiB at once
            written += os.pwrite(self._descriptor, memoryview(data)[written:], offset + written)

    def sync(self) -> None:
        """See DiskFile. fdatasync: the size is written as well where it changed."""
        os.fdatasync(self._descriptor)

    def allocate(self, size: int) -> None:
        """See DiskFile. The blocks are reserved, so that a full disk shows here and not in the middle of a log."""
        os.posix_fallocate(self._descriptor, 0, size)

    def close(self) -> None:
        """See DiskFile."""
        os.close(self._descriptor)


class OsDisk:
    """A directory of the operating system. Made, with mode 0700, if it does not exist."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        if not os.path.isdir(directory):
            os.makedirs(directory, mode=0o700)
            self._sync(os.path.dirname(os.path.abspath(directory)))
        self._lock = -1

    def names(self) -> list[str]:
        """See Disk."""
        return sorted(name for name in os.listdir(self.directory) if name != _LOCK)

    def create(self, name: str) -> OsDiskFile:
        """See Disk. Mode 0600."""
        return OsDiskFile(os.open(self._path(name), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))

    def open(self, name: str) -> OsDiskFile:
        """See Disk."""
        return OsDiskFile(os.open(self._path(name), os.O_RDWR | os.O_CLOEXEC))

    def read(self, name: str, offset: int = 0, size: int | None = None) -> bytes:
        """See Disk."""
        with open(self._path(name), "rb", buffering=0) as file:
            file.seek(offset)
            if size is None:
                return file.readall()
            parts: list[bytes] = []
            while size and (part := file.read(size)):
                parts.append(part)
                size -= len(part)
            return b"".join(parts)

    def size(self, name: str) -> int:
        """See Disk."""
        return os.stat(self._path(name)).st_size

    def rename(self, old: str, new: str) -> None:
        """See Disk."""
        os.rename(self._path(old), self._path(new))

    def unlink(self, name: str) -> None:
        """See Disk."""
        os.unlink(self._path(name))

    def sync_directory(self) -> None:
        """See Disk."""
        self._sync(self.directory)

    def drop_cache(self, name: str) -> None:
        """See Disk. Only pages that are clean are dropped, therefore the sync."""
        descriptor = os.open(self._path(name), os.O_RDWR | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)

    def lock(self) -> None:
        """See Disk. flock(2): the kernel lets go of it when the process ends, however it does."""
        if self._lock >= 0:
            return
        descriptor = os.open(self._path(_LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise DirectoryLockedError(f"{self.directory}: another process uses it") from error
        self._lock = descriptor

    def unlock(self) -> None:
        """See Disk."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    @staticmethod
    def _sync(directory: str) -> None:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
