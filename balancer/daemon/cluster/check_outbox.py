"""What a node publishes of the checks that it does for others, and when. Pure.

Laws: a verdict that changed, or that readers may still have to count up to a threshold, goes out at once (`GATHER`);
everything else waits until its chunk was put one interval ago. A chunk without results has no key. What is written per
second is bounded (`pause`): when thousands of backends fail in the same moment, chunks wait, and carry newer results.
"""

from collections.abc import Mapping
from math import inf
from typing import Final, NamedTuple

from balancer.daemon.cluster.check_results import CHUNK_MAX, CHUNKS_MAX, Own, Place, Result, key_of, value_of

GATHER: Final = 0.02
"""Seconds that something urgent waits for others."""
ROUND: Final = 0.05
"""Seconds between two rounds of puts."""
BYTES_PER_SECOND: Final = 512 * 1024
OPERATIONS_MAX: Final = 100
"""Keys written in one round: an etcd takes 128 in a transaction."""
ROUND_BYTES: Final = 128 * 1024
"""Where a round ends, so that no message about it holds anybody up."""
TAKEN_ALONG: Final = 0.25
"""Of the interval: what is due within that goes along with what is due."""


class Terms(NamedTuple):
    """What the outbox has to know of a pool. `most`: its larger threshold, in results."""

    digest: str
    interval: float
    most: int


class Write(NamedTuple):
    """A key to be written; `value` None = to be deleted."""

    key: str
    value: bytes | None


class _Entry:
    """A backend whose results are published."""

    __slots__ = ("address", "backend", "chunk", "own")

    def __init__(self, chunk: "_Chunk", backend: str, address: str, own: Own) -> None:
        self.chunk = chunk
        self.backend = backend
        self.address = address
        self.own = own


class _Chunk:
    """A key and the backends in its value. `stored`: it may stand in the cluster; `put_at`: since when."""

    __slots__ = ("due", "entries", "key", "number", "pool", "put_at", "stored")

    def __init__(self, pool: str, number: int, key: str) -> None:
        self.pool = pool
        self.number = number
        self.key = key
        self.entries: dict[int, _Entry] = {}
        self.due = inf
        self.put_at = -inf
        self.stored = False


class Outbox:
    """The chunks of all pools. `now` is in seconds and never goes back."""

    def __init__(self, node: str, incarnation: str) -> None:
        self._node = node
        self._incarnation = incarnation
        self._terms: dict[str, Terms] = {}
        self._entries: dict[int, _Entry] = {}  # by slot
        self._chunks: dict[str, list[_Chunk]] = {}  # by pool
        self._deleting: list[_Chunk] = []  # in the round that is under way
        self._count = 0  # the highest so far: where that of the next backend begins, which may be one that was here
        self.due = inf
        """When the next round is due; too early at worst."""

    def __contains__(self, slot: int) -> bool:
        return slot in self._entries

    def set_terms(self, terms: Mapping[str, Terms], now: float) -> None:
        """These are the pools. Chunks of others are deleted, those of other terms are put anew."""
        changed = {pool for pool, before in self._terms.items() if terms.get(pool) != before}
        self._terms = dict(terms)
        for pool in changed:
            for chunk in self._chunks.get(pool, ()):
                if pool not in terms:
                    for slot in chunk.entries:
                        del self._entries[slot]
                    chunk.entries.clear()
                self._is_due(chunk, now)

    def add(self, slot: int, pool: str, backend: str, address: str) -> None:
        """Publish the results of this backend from its next one on. O(chunks of the pool)."""
        if slot in self._entries:
            return
        chunks = self._chunks.setdefault(pool, [])
        chunk = next((chunk for chunk in chunks if len(chunk.entries) < CHUNK_MAX), None)
        if chunk is None:
            number = len(chunks)
            if number >= CHUNKS_MAX:
                return  # nobody reads further chunks: everybody checks those backends
            chunk = _Chunk(pool, number, key_of(Place(self._node, pool, number)))
            chunks.append(chunk)
        entry = chunk.entries[slot] = _Entry(chunk, backend, address, Own(self._count))
        self._entries[slot] = entry

    def remove(self, slot: int, now: float) -> None:
        """Publish them no more. What stands there of this backend goes with the next put."""
        entry = self._entries.pop(slot, None)
        if entry is not None:
            chunk = entry.chunk
            del chunk.entries[slot]
            if chunk.stored and not any(other.own.streak for other in chunk.entries.values()):
                self._is_due(chunk, now)

    def result(self, slot: int, passed: bool, evidence: str, now: float) -> None:
        """A check by this node ended; for a backend whose results are not published, nothing."""
        entry = self._entries.get(slot)
        if entry is None:
            return
        own, chunk = entry.own, entry.chunk
        own.add(passed, evidence)
        self._count = max(self._count, own.count)
        terms = self._terms[chunk.pool]
        if own.streak <= terms.most:
            self._is_due(chunk, now + GATHER)
        else:
            self._is_due(chunk, max(now, chunk.put_at + terms.interval))

    def begin_anew(self, now: float) -> None:
        """Nobody knows what is stored: the last round failed, or what is put is bound to something new."""
        self._deleting = []
        for chunks in self._chunks.values():
            for chunk in chunks:
                self._is_due(chunk, now)

    def take(self, now: float) -> list[Write]:
        """What is to be written in this round; then `done`, or `begin_anew`. O(n log n) in the chunks."""
        if self.due > now:
            return []
        self.due = inf
        ready: list[_Chunk] = []
        for pool, chunks in self._chunks.items():
            until = now + (self._terms[pool].interval * TAKEN_ALONG if pool in self._terms else 0.0)
            for chunk in chunks:
                if chunk.due <= until:
                    ready.append(chunk)
                else:
                    self.due = min(self.due, chunk.due)
        writes: list[Write] = []
        size = 0
        for chunk in sorted(ready, key=lambda chunk: chunk.due):  # else the first would always be first
            if size >= ROUND_BYTES or len(writes) >= OPERATIONS_MAX:
                self.due = min(self.due, chunk.due)
                continue
            write = self._write(chunk, now)
            if write is not None:
                writes.append(write)
                size += len(write.key) + len(write.value or b"")
        self._drop_empty()
        return writes

    def done(self) -> None:
        """What was taken last is written."""
        for chunk in self._deleting:
            chunk.stored = False
        self._deleting = []
        self._drop_empty()

    def _is_due(self, chunk: _Chunk, when: float) -> None:
        chunk.due = min(chunk.due, when)
        self.due = min(self.due, when)

    def _write(self, chunk: _Chunk, now: float) -> Write | None:
        chunk.due = inf
        chunk.put_at = now
        results = [
            Result(entry.backend, entry.address, own.passed, own.evidence, own.streak, own.count)
            for entry in chunk.entries.values()
            if (own := entry.own).streak
        ]
        if not results:
            if not chunk.stored:
                return None
            self._deleting.append(chunk)
            return Write(chunk.key, None)
        chunk.stored = True
        return Write(chunk.key, value_of(self._terms[chunk.pool].digest, self._incarnation, results))

    def _drop_empty(self) -> None:
        """The last chunks of a pool go when nobody is in them; one between others keeps its number."""
        for pool, chunks in list(self._chunks.items()):
            while chunks and not chunks[-1].entries and not chunks[-1].stored and chunks[-1].due == inf:
                chunks.pop()
            if not chunks:
                del self._chunks[pool]


def pause(writes: list[Write]) -> float:
    """Seconds from the beginning of a round to that of the next."""
    return max(ROUND, sum(len(write.key) + len(write.value or b"") for write in writes) / BYTES_PER_SECOND)
