"""Who watches a key: looked up for every change, so it must not cost what all watchers cost.

Nearly every watch is of one key or of one prefix. Those are found by look-ups: one for the key, and one for each
length that a watched prefix has. Other ranges are compared one by one.
"""

from collections.abc import Iterator
from typing import Generic, TypeVar

from balancer.coordination.key_space import bounds

W = TypeVar("W")


def prefix_end(prefix: bytes) -> bytes:
    """The range_end with which a range has exactly the keys that begin with `prefix`."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else b"\0"


class WatchIndex(Generic[W]):
    """Ranges, each with those who watch it. Looking up costs O(watched prefix lengths + ranges that are no prefix)."""

    def __init__(self) -> None:
        self._keys: dict[bytes, dict[W, None]] = {}
        self._prefixes: dict[bytes, dict[W, None]] = {}
        self._lengths: dict[int, int] = {}  # of the prefixes, with how many there are
        self._others: dict[tuple[bytes, bytes | None], dict[W, None]] = {}

    def add(self, watcher: W, key: bytes, range_end: bytes) -> None:
        """`watcher` watches this range from now on."""
        if not range_end:
            self._keys.setdefault(key, {})[watcher] = None
        elif _is_prefix(key, range_end):
            if key not in self._prefixes:
                self._prefixes[key] = {}
                self._lengths[len(key)] = self._lengths.get(len(key), 0) + 1
            self._prefixes[key][watcher] = None
        else:
            self._others.setdefault(bounds(key, range_end), {})[watcher] = None

    def remove(self, watcher: W, key: bytes, range_end: bytes) -> None:
        """What `add` was given."""
        if not range_end:
            _remove(self._keys, key, watcher)
        elif not _is_prefix(key, range_end):
            _remove(self._others, bounds(key, range_end), watcher)
        elif _remove(self._prefixes, key, watcher):
            self._lengths[len(key)] -= 1
            if not self._lengths[len(key)]:
                del self._lengths[len(key)]

    def watching(self, key: bytes) -> Iterator[W]:
        """Who watches this key, each once: a watcher has one range."""
        yield from self._keys.get(key, ())
        for length in self._lengths:
            if length <= len(key):
                yield from self._prefixes.get(key[:length], ())
        for (start, end), watchers in self._others.items():
            if start <= key and (end is None or key < end):
                yield from watchers


def _is_prefix(key: bytes, range_end: bytes) -> bool:
    return range_end != b"\0" and range_end == prefix_end(key)


K = TypeVar("K")


def _remove(table: dict[K, dict[W, None]], key: K, watcher: W) -> bool:
    """Whether nobody is left there."""
    watchers = table[key]
    del watchers[watcher]
    if not watchers:
        del table[key]
    return not watchers
