"""The mark that a data directory's content is not known: something failed while it was written.

Law: the mark goes only after everything was read from the device again and found whole.
"""

import contextlib

from balancer.consensus.disk import Disk

SUSPECT = "suspect"
"""The file's name. What it holds is for a person to read."""


def mark_suspect(disk: Disk, why: str) -> None:
    """Leave the mark if the disk still lets us. Without it nothing is lost: every start reads from the device."""
    with contextlib.suppress(OSError):
        if not is_suspect(disk):
            file = disk.create(SUSPECT)
            file.write(f"{why}\n".encode(), 0)
            file.sync()
            file.close()
        disk.sync_directory()


def is_suspect(disk: Disk) -> bool:
    """Whether the mark is there."""
    return SUSPECT in disk.names()


def clear_suspect(disk: Disk) -> None:
    """Take it away, durably. Raises OSError."""
    if is_suspect(disk):
        disk.unlink(SUSPECT)
        disk.sync_directory()
