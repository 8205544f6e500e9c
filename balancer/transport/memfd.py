"""Anonymous shared memory: a memfd of fixed size that is handed to children by descriptor.

Not multiprocessing.shared_memory: its tracker unlinks the memory when one attached process is killed.
"""

import fcntl
import mmap
import os

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def create(name: str, size: int) -> int:
    """A new descriptor of `size` zero bytes, close-on-exec. Its size is sealed, so that no reader can get SIGBUS."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except OSError:
        os.close(fd)
        raise
    return fd


def attach(fd: int) -> mmap.mmap:
    """The whole memory of `fd`, readable and writable, shared. The descriptor may be closed afterwards."""
    return mmap.mmap(fd, os.fstat(fd).st_size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
