"""Every revision's changes, as watches read them: from the oldest one that a compaction left to the newest."""

from collections.abc import Sequence

from balancer.coordination.responses import KeyValue

Changes = tuple[KeyValue, ...]
"""What one revision changed, in order. A deletion is a KeyValue of version 0."""

FIRST = 2
"""An empty store is at revision 1, so this is the first one that changes something."""

_TRIM = 1024


class RevisionLog:
    """A list without gaps: each revision has exactly one entry."""

    __slots__ = ("_entries", "_first", "_gone")

    def __init__(self, first: int = FIRST) -> None:
        self._entries: list[Changes] = []
        self._gone = 0  # entries at the front that are taken, but not yet cut off
        self._first = first

    @property
    def first(self) -> int:
        """The oldest revision kept; one more than the newest where none is."""
        return self._first

    @property
    def last(self) -> int:
        """The newest revision; one less than `first` where none is kept."""
        return self._first + len(self._entries) - self._gone - 1

    def append(self, changes: Changes) -> None:
        """The changes of revision `last` + 1."""
        self._entries.append(changes)

    def at(self, revision: int) -> Changes:
        """The changes of one revision between `first` and `last`. O(1)."""
        return self._entries[revision - self._first + self._gone]

    def between(self, first: int, end: int) -> Sequence[Changes]:
        """The entries of the revisions from `first` on, below `end`. O(result)."""
        offset = self._gone - self._first
        return self._entries[max(first, self._first) + offset : max(end, self._first) + offset]

    def take_first(self) -> Changes:
        """Remove the oldest entry. O(1) amortised."""
        changes = self._entries[self._gone]
        self._entries[self._gone] = ()
        self._gone += 1
        self._first += 1
        if self._gone >= _TRIM and self._gone * 2 >= len(self._entries):
            del self._entries[: self._gone]
            self._gone = 0
        return changes
