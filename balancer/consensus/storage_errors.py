"""How the member's storage fails. Each error says with which code the member exits, and what its operator does next.

BalancerError
`-- StorageError
    |-- StorageFailedError    the disk refused an operation: stop at once; the next start reads everything again
    |-- DirectoryLockedError  another process uses the directory
    |-- IdentityError         the directory is not this member's, or of another format
    `-- CorruptError          what was written is not what is read
        |-- WalCorruptError
        `-- SnapshotCorruptError
"""

from typing import ClassVar

from balancer.errors import BalancerError

EXIT_TRANSIENT = 75
EXIT_SUSPECT = 78

REJOIN = (
    "The member does not vote with it, since it may have lost what it promised. To rejoin: `balancer cluster members "
    "remove NAME` at a healthy member, move the data directory away, start with `join: true`, then `balancer cluster "
    "members add http://ADDRESS` and `... promote NAME`"
)


class StorageError(BalancerError):
    """Root of the errors of the member's storage."""

    exit_code: ClassVar[int] = EXIT_SUSPECT


class StorageFailedError(StorageError):
    """The first write or sync that failed. Nothing may be sent, voted or written after it (fsync does not fail twice
    for one loss: Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020).
    """

    exit_code = EXIT_TRANSIENT

    def __init__(self, operation: str, cause: OSError | None = None) -> None:
        super().__init__(f"the storage failed: {operation}: {cause}" if cause else f"the storage failed: {operation}")
        self.operation = operation
        self.cause = cause


class DirectoryLockedError(StorageError):
    """Another process holds the data directory's lock."""

    exit_code = EXIT_TRANSIENT


class IdentityError(StorageError):
    """The data directory belongs to another member or cluster, is incomplete, or has another format."""


class CorruptError(StorageError):
    """Bytes that were written are missing or changed. `offset`: where in `file` reading stopped."""

    def __init__(self, file: str, offset: int, expected: str, found: str) -> None:
        super().__init__(f"{file}, byte {offset}: expected {expected}, found {found}. {REJOIN}")
        self.file = file
        self.offset = offset
        self.expected = expected
        self.found = found


class WalCorruptError(CorruptError):
    """The write-ahead log may have lost something that was durable."""


class SnapshotCorruptError(CorruptError):
    """No snapshot is whole from which the log goes on."""
