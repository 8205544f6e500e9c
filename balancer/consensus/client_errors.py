"""What the coordination client raises: every text says what is known to be done, and what to do now."""

from balancer.coordination.errors import Code, CoordinationError


class RefusedError(CoordinationError):
    """The cluster answered, and did nothing. `doubtful`: an earlier attempt of the same call may have been done."""

    def __init__(self, code: Code, message: str, *, doubtful: bool = False) -> None:
        super().__init__(code, message)
        self.doubtful = doubtful


class NotReachedError(CoordinationError):
    """No endpoint could be asked, or none can serve now. Nothing was changed."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.UNAVAILABLE, message)


class OutcomeUnknownError(CoordinationError):
    """A change was sent, and no answer came: it is done, or will be done, or never is.

    Read before you repeat it, or write by a transaction that compares first: that may be repeated.
    """

    def __init__(self, message: str) -> None:
        super().__init__(Code.UNAVAILABLE, message)


class UnsupportedError(CoordinationError):
    """The server does not have this call."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.UNIMPLEMENTED, message)


class CompactedError(CoordinationError):
    """A watch asked for revisions that are compacted away. `compact_revision` is the first that can still be read."""

    def __init__(self, compact_revision: int) -> None:
        super().__init__(
            Code.OUT_OF_RANGE,
            f"events before revision {compact_revision} are compacted away: read the keys anew, then watch from the "
            "revision of that answer + 1",
        )
        self.compact_revision = compact_revision


class LeaseLostError(CoordinationError):
    """A lease ended, or may have: keys bound to it may be gone."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.NOT_FOUND, message)


class LockLostError(LeaseLostError):
    """A lock or a leadership was lost while it was held; it is not taken again by itself."""


class NotAcquiredError(CoordinationError):
    """A lock or a leadership was not got in the time given. Nothing is left behind."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.DEADLINE_EXCEEDED, message)
