"""A set of keys that is given as ranges: what the deletions of a transaction cover."""

from bisect import bisect_right


class Covered:
    """Single keys, and ranges merged into disjoint ascending ones. With n ranges: a look-up is O(log n)."""

    __slots__ = ("_ends", "_keys", "_open", "_starts")

    def __init__(self) -> None:
        self._keys: set[bytes] = set()
        self._starts: list[bytes] = []
        self._ends: list[bytes] = []
        self._open: bytes | None = None  # every key from here on

    def add(self, key: bytes) -> None:
        """Cover one key."""
        self._keys.add(key)

    def add_range(self, start: bytes, end: bytes | None) -> None:
        """Cover the keys from `start` on, below `end` (None = to the last)."""
        if end is None:
            self._open = start if self._open is None else min(self._open, start)
        elif start < end:
            self._merge(start, end)

    def update(self, other: "Covered") -> None:
        """Cover what `other` covers."""
        self._keys |= other._keys
        if other._open is not None:
            self.add_range(other._open, None)
        for start, end in zip(other._starts, other._ends, strict=True):
            self._merge(start, end)

    def __contains__(self, key: bytes) -> bool:
        if key in self._keys or (self._open is not None and key >= self._open):
            return True
        at = bisect_right(self._starts, key)
        return at > 0 and key < self._ends[at - 1]

    def _merge(self, start: bytes, end: bytes) -> None:
        first = bisect_right(self._ends, start)
        last = bisect_right(self._starts, end)
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]
