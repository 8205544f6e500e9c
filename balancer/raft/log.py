"""The log in memory: everything above the last compaction (Raft section 5.3).

Entries at or below `commit` never change; `truncate_from` is for its caller to get right. Sizes are kept as running
sums, so that any range's bytes are known at once.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import attrgetter

from balancer.raft.limits import ENTRY_OVERHEAD
from balancer.raft.log_entry import Entry, EntryKind

UNKNOWN = -1
"""The term of an entry that was compacted, or does not exist: no message's term equals it."""

_COMMAND = EntryKind.COMMAND
_term_of = attrgetter("term")


class Log:
    """Entries `base_index` + 1 to `last_index`. `base_index` and `base_term` name the last entry that was dropped.

    `given` is up to where the driver was told to write. `membership_indexes` are those of MEMBERSHIP entries.
    """

    __slots__ = ("_ends", "_entries", "base_index", "base_term", "given", "last_index", "membership_indexes")

    def __init__(self, base_index: int, base_term: int, entries: Sequence[Entry] = ()) -> None:
        self.base_index = base_index
        self.base_term = base_term
        self.last_index = base_index
        self.given = base_index
        self.membership_indexes: list[int] = []
        self._entries: list[Entry] = []
        self._ends: list[int] = [0]  # _ends[k]: bytes of everything before _entries[k]
        if entries:
            self.append(entries)
            self.given = self.last_index

    @property
    def first_index(self) -> int:
        """Of the oldest entry that is here; `last_index` + 1 when none is."""
        return self.base_index + 1

    @property
    def last_term(self) -> int:
        """The term of the last entry."""
        return self._entries[-1].term if self._entries else self.base_term

    def term_at(self, index: int) -> int:
        """The term of the entry at `index`, or UNKNOWN."""
        position = index - self.base_index
        if position > 0:
            return self._entries[position - 1].term if index <= self.last_index else UNKNOWN
        return self.base_term if position == 0 else UNKNOWN

    def entry(self, index: int) -> Entry:
        """The entry at `index`, which must be here."""
        return self._entries[index - self.base_index - 1]

    def append(self, entries: Sequence[Entry]) -> None:
        """Adds entries that follow the last one without a gap. O(entries)."""
        ends = self._ends
        end = ends[-1]
        for entry in entries:
            end += ENTRY_OVERHEAD + len(entry.data)
            ends.append(end)
            if entry.kind is not _COMMAND:
                self.membership_indexes.append(entry.index)
        self._entries.extend(entries)
        self.last_index += len(entries)

    def truncate_from(self, index: int) -> None:
        """Drops `index` and everything after it. O(entries dropped)."""
        position = index - self.base_index - 1
        del self._entries[position:]
        del self._ends[position + 1 :]
        self.last_index = index - 1
        self.given = min(self.given, self.last_index)
        while self.membership_indexes and self.membership_indexes[-1] >= index:
            self.membership_indexes.pop()

    def compact(self, index: int) -> None:
        """Drops everything up to `index`, which is in the log and in a snapshot. O(entries kept)."""
        if index <= self.base_index:
            return
        position = index - self.base_index
        self.base_term = self._entries[position - 1].term
        self.base_index = index
        del self._entries[:position]
        del self._ends[:position]
        self.membership_indexes = [at for at in self.membership_indexes if at > index]

    def replace(self, index: int, term: int) -> None:
        """Drops everything: a snapshot that ends at (index, term) takes its place."""
        self.base_index = self.last_index = self.given = index
        self.base_term = term
        self.membership_indexes = []
        self._entries = []
        self._ends = [0]

    def take(self, first: int, last: int, bytes_max: int) -> tuple[Entry, ...]:
        """The entries `first` to `last`, at least one and else not more than `bytes_max` of them. O(result)."""
        start, stop = first - self.base_index - 1, last - self.base_index
        if self._ends[stop] - self._ends[start] > bytes_max:
            fitting = bisect_right(self._ends, self._ends[start] + bytes_max, start, stop + 1) - 1
            stop = max(fitting, start + 1)
        return tuple(self._entries[start:stop])

    def unwritten(self) -> tuple[Entry, ...]:
        """Those which the driver was not told to write yet. They count as told from now on."""
        if self.given == self.last_index:
            return ()
        entries = tuple(self._entries[self.given - self.base_index :])
        self.given = self.last_index
        return entries

    def bytes_of(self, first: int, last: int) -> int:
        """The size of the entries `first` to `last`; those that were dropped count nothing."""
        start = max(0, first - self.base_index - 1)
        stop = max(start, last - self.base_index)
        return self._ends[stop] - self._ends[start]

    def index_within(self, last: int, count_max: int, bytes_max: int) -> int:
        """The lowest index after which at most `count_max` entries of at most `bytes_max` stand up to `last`."""
        stop = last - self.base_index
        fitting = bisect_left(self._ends, self._ends[stop] - bytes_max, 0, stop)
        return self.base_index + max(0, stop - count_max, fitting)

    def last_not_after(self, index: int, term: int) -> tuple[int, int]:
        """The newest entry up to `index` whose term is at most `term`, as (index, term). O(log entries).

        It is the last place where a log with `term` at `index` may agree with this one. Term 0: compacted, not known.
        """
        index = min(index, self.last_index)
        if index < self.base_index:
            return max(index, 0), 0
        position = bisect_right(self._entries, term, 0, index - self.base_index, key=_term_of)
        if position:
            return self.base_index + position, self._entries[position - 1].term
        if self.base_term <= term:
            return self.base_index, self.base_term
        return max(self.base_index - 1, 0), 0

    def up_to_date(self, last_index: int, last_term: int) -> bool:
        """Whether a log that ends so is at least as up to date as this one (Raft section 5.4.1)."""
        own = self.last_term
        return last_term > own or (last_term == own and last_index >= self.last_index)
