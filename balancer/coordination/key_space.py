"""etcd's key space: every change has a revision, and the past can be read until it is compacted.

Rules (etcd's data model): an empty store is at revision 1; each transaction that changes something adds exactly 1; a
key's create_revision and version begin anew with the first put after a deletion.

A key's newest version stands in `_current`, unless the key is deleted. All versions whose revision is still in the
log stand in `_histories`, deletions included; the newest one before that, if it was no deletion, in `_bases`. So a key
is found at once at the newest revision, and by bisection at an older one. Keys that exist and keys that only the past
knows are sorted apart: a range over keys that come and go, such as a lock's, never walks over the gone ones.
"""

from bisect import bisect_left, bisect_right
from itertools import groupby
from operator import attrgetter
from typing import Protocol

from balancer.coordination import digests
from balancer.coordination.refusals import COMPACTED, FUTURE_REVISION
from balancer.coordination.responses import KeyValue
from balancer.coordination.revision_log import Changes, RevisionLog
from balancer.coordination.sorted_keys import SortedKeys

VERSION_COST = 256
"""Bytes counted for a version beside its key and value: what its objects and places take here, and as etcd's quota."""

NOT_COMPACTED = -1
"""etcd's first compacted revision: revision 0 can be compacted once."""

EVERYTHING_ON = b"\0"
"""As a range_end: every key from the first one on."""

_mod_revision = attrgetter("mod_revision")


class Attachments(Protocol):
    """Who must know which lease a key hangs on."""

    def attach(self, lease: int, key: bytes, /) -> None: ...

    def detach(self, lease: int, key: bytes, /) -> None: ...


def bounds(key: bytes, range_end: bytes) -> tuple[bytes, bytes | None]:
    """The range as first key and first key after it, None = there is none."""
    if not range_end:
        return key, key + b"\0"
    return key, None if range_end == EVERYTHING_ON else range_end


class KeySpace:
    """The store. Changes are made between two calls of `commit` and have one revision together.

    `size`: bytes that all versions count for, until a compaction has removed them.
    """

    def __init__(self, attachments: Attachments) -> None:
        self.revision = 1
        self.compacted = NOT_COMPACTED
        self.size = 0
        self.digest = 0
        self.log = RevisionLog()
        self._attachments = attachments
        self._current: dict[bytes, KeyValue] = {}
        self._histories: dict[bytes, list[KeyValue]] = {}
        self._bases: dict[bytes, KeyValue] = {}
        self._live = SortedKeys()
        self._dead = SortedKeys()
        self._changes: list[KeyValue] = []

    @property
    def changing(self) -> bool:
        """Whether a transaction has changed something that is not committed."""
        return bool(self._changes)

    @property
    def reading_revision(self) -> int:
        """What a range inside the transaction reads at: the coming revision once something has changed."""
        return self.revision + 1 if self._changes else self.revision

    # ---- changes

    def put(self, key: bytes, value: bytes, lease: int) -> KeyValue | None:
        """Set a key; answers what was there before. O(1), O(log n) for a new key."""
        revision = self.revision + 1
        before = self._current.get(key)
        history = self._histories.get(key)
        if before is None:
            kv = KeyValue(key, revision, revision, 1, value, lease)
            self._live.add(key)
            if history is not None:
                self._dead.remove(key)
        else:
            key = before.key  # the older object: versions share it
            kv = KeyValue(key, before.create_revision, revision, before.version + 1, value, lease)
            if before.lease:
                self._attachments.detach(before.lease, key)
        if lease:
            self._attachments.attach(lease, key)
        self._current[key] = kv
        if history is None:
            self._histories[key] = [kv]
        else:
            history.append(kv)
        self._changes.append(kv)
        self.size += cost(kv)
        return before

    def delete(self, key: bytes) -> KeyValue | None:
        """Delete one key; answers what was there, None = nothing, and nothing is done. O(log n)."""
        before = self._current.pop(key, None)
        if before is None:
            return None
        key = before.key
        tombstone = KeyValue(key=key, mod_revision=self.revision + 1)
        self._live.remove(key)
        self._dead.add(key)
        self._histories.setdefault(key, []).append(tombstone)
        if before.lease:
            self._attachments.detach(before.lease, key)
        self._changes.append(tombstone)
        self.size += cost(tombstone)
        return before

    def delete_range(self, key: bytes, range_end: bytes) -> list[KeyValue]:
        """Delete every key of a range, in ascending order; answers what was there."""
        if not range_end:
            before = self.delete(key)
            return [] if before is None else [before]
        return [kv for name in self._live.between(*bounds(key, range_end)) if (kv := self.delete(name)) is not None]

    def commit(self) -> Changes:
        """End a transaction: what changed since the last one becomes the next revision, if anything did."""
        if not self._changes:
            return ()
        changes = tuple(self._changes)
        self._changes.clear()
        self.revision += 1
        self.log.append(changes)
        digest = self.digest
        for kv in changes:
            digest += digests.of_version(kv)
        if len(changes) > 1:
            digest += digests.of_order(changes)
        self.digest = digest % digests.MODULUS
        return changes

    # ---- reads

    def get(self, key: bytes) -> KeyValue | None:
        """The newest version of a key, what the running transaction did included. O(1)."""
        return self._current.get(key)

    def get_at(self, key: bytes, revision: int) -> KeyValue | None:
        """The version of a key at a revision that is not compacted. O(log versions)."""
        newest = self._current.get(key)
        if newest is not None and newest.mod_revision <= revision:
            return newest
        history = self._histories.get(key)
        if history is not None and (at := bisect_right(history, revision, key=_mod_revision)):
            found = history[at - 1]
            return found if found.version else None
        return self._bases.get(key)

    def check_revision(self, revision: int) -> None:
        """Raises what a read at `revision` is refused with; 0 and below mean the newest."""
        if revision > self.reading_revision:
            raise FUTURE_REVISION.error()
        if 0 < revision < self.compacted:
            raise COMPACTED.error()

    def select(self, key: bytes, range_end: bytes, revision: int = 0, limit: int = 0) -> tuple[list[KeyValue], int]:
        """The pairs of a range in ascending order, at most `limit` (0 = all), and how many the range has.

        At the newest revision O(log n + result); at an older one O(keys of the range, deleted ones too).
        """
        newest = not 0 < revision < self.reading_revision
        if not range_end:
            kv = self._current.get(key) if newest else self.get_at(key, revision)
            return ([], 0) if kv is None else ([kv], 1)
        start, end = bounds(key, range_end)
        if newest:
            current = self._current
            keys = self._live.between(start, end, limit)
            total = self._live.count(start, end) if limit and len(keys) == limit else len(keys)
            return [current[key] for key in keys], total
        names = self._live.between(start, end) + self._dead.between(start, end)
        names.sort()  # two ascending runs: linear
        found = [kv for key in names if (kv := self.get_at(key, revision)) is not None]
        return (found[:limit] if limit else found), len(found)

    def count(self, key: bytes, range_end: bytes, revision: int = 0) -> int:
        """How many keys a range has. At the newest revision without walking over them."""
        if range_end and not 0 < revision < self.reading_revision:
            return self._live.count(*bounds(key, range_end))
        return self.select(key, range_end, revision)[1]

    def changes_of(self, key: bytes, first: int, last: int, limit: int) -> tuple[list[Changes], int]:
        """The changes of one key in the revisions `first` (not compacted) to `last`, by revision, and up to which
        revision these are all: at least the first `limit` changes. O(log versions + result).
        """
        history = self._histories.get(key, [])
        start = bisect_left(history, first, key=_mod_revision)
        stop = bisect_right(history, last, key=_mod_revision)
        if stop - start > limit:
            last = history[start + limit].mod_revision
            stop = bisect_right(history, last, key=_mod_revision)
        return [tuple(changes) for _, changes in groupby(history[start:stop], _mod_revision)], last

    # ---- compaction

    def compact(self, revision: int) -> None:
        """Give up the past before `revision`; that one itself stays readable. `sweep` frees the memory later."""
        if revision <= self.compacted:
            raise COMPACTED.error()
        if revision > self.revision:
            raise FUTURE_REVISION.error()
        self.compacted = revision

    @property
    def swept(self) -> bool:
        """Whether nothing before the compacted revision is left in memory."""
        return self.log.first >= self.compacted

    def sweep(self, changes: int) -> None:
        """Free at least so many changes that were compacted, as far as there are any, and no half revision.

        It is part of the state how far this is: the size decides about a put's refusal. So call it from applying only.
        """
        while changes > 0 and not self.swept:
            entry = self.log.take_first()
            if len(entry) > 1:
                self.digest = (self.digest - digests.of_order(entry)) % digests.MODULUS
            for kv in entry:
                self._sweep_version(kv)
            changes -= len(entry)

    def _sweep_version(self, kv: KeyValue) -> None:
        """A version leaves the log: it is the newest one before the log now, or was a deletion."""
        key = kv.key
        base = self._bases.pop(key, None)
        if base is not None:
            self._drop(base)
        if kv.version:
            self._bases[key] = kv
        else:
            self._drop(kv)
        self._shorten(key, kv)

    def _drop(self, kv: KeyValue) -> None:
        self.size -= cost(kv)
        self.digest = (self.digest - digests.of_version(kv)) % digests.MODULUS

    def _shorten(self, key: bytes, swept: KeyValue) -> None:
        """Take from a key's history what nobody can read; all at once, not one by one: a list's front is dear."""
        history = self._histories[key]
        hidden = bisect_left(history, self.compacted, key=_mod_revision)
        if history[hidden - 1] is not swept:
            hidden -= 1  # the newest of them is read until its own turn comes
        if hidden < len(history):
            del history[:hidden]
            return
        del self._histories[key]
        if key not in self._current:
            self._dead.remove(key)

    # ---- restoring, in the order in which a snapshot gives it

    def restore_base(self, kv: KeyValue) -> None:
        """Put back a version that is older than the log. Raises ValueError for what no store can hold."""
        if not kv.version or kv.key in self._current or kv.mod_revision >= self.log.first:
            raise ValueError(f"no base version: {kv.key!r} at revision {kv.mod_revision}")
        self._bases[kv.key] = kv
        self._live.add(kv.key)
        self._set_current(kv)

    def restore_revision(self, changes: Changes) -> None:
        """Put back the next revision of the log. Raises ValueError for what no store can hold."""
        if any(kv.mod_revision != self.log.last + 1 for kv in changes):
            raise ValueError(f"revision {self.log.last + 1} is missing")
        for kv in changes:
            self._restore_change(kv)
        self.log.append(changes)
        if len(changes) > 1:
            self.digest = (self.digest + digests.of_order(changes)) % digests.MODULUS

    def _restore_change(self, kv: KeyValue) -> None:
        before = self._current.pop(kv.key, None)
        if before is not None and before.lease:
            self._attachments.detach(before.lease, kv.key)
        history = self._histories.setdefault(kv.key, [])
        if kv.version:
            if before is None:
                self._live.add(kv.key)
                if history:
                    self._dead.remove(kv.key)
            self._set_current(kv)
        elif before is None:
            raise ValueError(f"a key is deleted that does not exist: {kv.key!r} at revision {kv.mod_revision}")
        else:
            self._live.remove(kv.key)
            self._dead.add(kv.key)
            self._keep(kv)
        history.append(kv)

    def _set_current(self, kv: KeyValue) -> None:
        self._current[kv.key] = kv
        if kv.lease:
            self._attachments.attach(kv.lease, kv.key)
        self._keep(kv)

    def _keep(self, kv: KeyValue) -> None:
        self.size += cost(kv)
        self.digest = (self.digest + digests.of_version(kv)) % digests.MODULUS

    def versions_before_log(self) -> list[KeyValue]:
        """What `restore_base` is to be given. O(keys), some 10 ns each: the one pause that a snapshot makes."""
        return list(self._bases.values())


def cost(kv: KeyValue) -> int:
    """What a version counts for in `size`."""
    return VERSION_COST + len(kv.key) + len(kv.value)
