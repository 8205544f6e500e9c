"""What a cluster says of backends, at all its balancers: a weight, a drain, or both. Keys, values, and what is known.

Each backend has a key of its own, `/balancer/changes/POOL/NAME`, both names percent-encoded; the value is JSON. An
entry of a backend that this balancer does not have is kept and does nothing: a reload or a registration may bring it.
Decides only: asking the cluster and putting to use is for `shared_changes`.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple
from urllib.parse import quote, unquote_to_bytes

import msgspec

from balancer.admin.changes import LiveWeight, Weight
from balancer.config import model
from balancer.config.scalars import shown
from balancer.errors import BalancerError

PREFIX = "/balancer/changes/"
VERSION = 1
ENTRIES_MAX = 10_000
VALUE_MAX = 4096  # bytes; what we write has a hundred
_BY_MAX = 200

Place = tuple[str, str]  # pool, backend name


class UnreadableChangeError(BalancerError):
    """A key or its value is none of ours, or of another version. The text says why."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What one key says. `by`: the balancer where it was last said, and `at`: when (RFC 3339); both for people."""

    version: int = VERSION
    weight: Weight | None = None
    drained: bool = False
    by: str = ""
    at: str = ""

    def to_bytes(self) -> bytes:
        """The value."""
        return msgspec.json.encode(self)


class _Version(msgspec.Struct):
    version: int


class _SavedChange(msgspec.Struct, frozen=True):
    pool: str
    name: str
    change: Change


class _Saved(msgspec.Struct, frozen=True, kw_only=True):
    version: int
    changes: tuple[_SavedChange, ...]


def key_of(pool: str, name: str) -> str:
    """The key of a backend."""
    return f"{PREFIX}{quote(pool, safe='')}/{quote(name, safe='')}"


def place_of(key: bytes) -> Place:
    """The pool and the backend that a key means. Raises UnreadableChangeError."""
    encoded = key.decode("utf-8", "replace").removeprefix(PREFIX).split("/")
    if len(encoded) == 2:
        try:
            pool, name = (unquote_to_bytes(part).decode() for part in encoded)
        except UnicodeDecodeError:
            pool = name = ""
        # One key for a backend, so that nothing is said of it twice.
        if pool and name and key_of(pool, name).encode() == key:
            return pool, name
    raise UnreadableChangeError(f"a key looks like {PREFIX}POOL/NAME, both percent-encoded")


def change_of(value: bytes) -> Change:
    """What a value says. Raises UnreadableChangeError."""
    if len(value) > VALUE_MAX:
        raise UnreadableChangeError(f"it has more than {VALUE_MAX} bytes")
    try:
        version = msgspec.json.decode(value, type=_Version).version
        if version != VERSION:
            raise UnreadableChangeError(f"it has version {version}; this balancer knows {VERSION}")
        return msgspec.json.decode(value, type=Change)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnreadableChangeError(str(error)) from None


def changed(
    before: Change | None, *, weight: LiveWeight | None, drained: bool | None, by: str, at: str
) -> Change | None:
    """What a backend's key is to say; None = nothing any more. `weight` and `drained` None = as it is.

    The very same `before` where it says all that already: who said it first is told.
    """
    old = before or Change()
    new_weight = old.weight if weight is None else None if weight == "file" else weight
    new_drained = old.drained if drained is None else drained
    if new_weight is None and not new_drained:
        return None
    if (new_weight, new_drained) == (old.weight, old.drained):
        return before
    return Change(weight=new_weight, drained=new_drained, by=by[:_BY_MAX], at=at)


class Taken(NamedTuple):
    """What some news made of it: whose entries changed, and what could not be used (key, why).

    `anew`: there was no room for all keys and now there is, so that they have to be read once more.
    """

    changed: list[Place]
    ignored: list[tuple[str, str]]
    anew: bool = False


class KnownChanges:
    """All that the cluster is known to say, at most ENTRIES_MAX keys. Not thread-safe.

    News comes from a watch, and from this balancer's own writes, whose answers may come before or after the watch
    tells of them: for each key the later revision counts.
    """

    def __init__(self, saved: Iterable[tuple[Place, Change]] = ()) -> None:
        self._entries = dict(saved)
        self._unreadable: dict[bytes, int] = {}  # key -> the revision whose value was told to be so
        self._own: dict[Place, int] = {}  # revisions of own writes that the watch has not told of
        self._revision = 0  # everything up to here was heard of
        self._cluster_id = 0
        self._left_out = False

    def __len__(self) -> int:
        return len(self._entries)

    def of(self, pool: str, name: str) -> Change | None:
        """What is said of a backend; None = nothing."""
        return self._entries.get((pool, name))

    def places(self) -> list[Place]:
        """Of whom something is said. O(entries)."""
        return [*self._entries]

    def has_room_for(self, place: Place) -> bool:
        """A key of this backend would be taken in."""
        there = place in self._entries or key_of(*place).encode() in self._unreadable
        return there or len(self._entries) + len(self._unreadable) < ENTRIES_MAX

    # ---- news

    def read(self, keys: Iterable[tuple[bytes, bytes, int]], revision: int, cluster_id: int) -> Taken:
        """These keys are there at `revision` (key, value, revision of its last change), and no others. O(keys)."""
        if cluster_id != (self._cluster_id or cluster_id):  # revisions of another cluster mean nothing here
            self._own.clear()
        self._cluster_id, self._revision = cluster_id, revision
        before, told = self._entries, self._unreadable
        self._own = {place: own for place, own in self._own.items() if own > revision}
        self._entries = {place: change for place, change in before.items() if place in self._own}
        self._unreadable = {}
        ignored = []
        had_room, self._left_out = not self._left_out, False
        for key, value, changed_at in keys:
            if len(self._entries) + len(self._unreadable) >= ENTRIES_MAX:
                self._left_out = True
                if had_room:
                    ignored.append(_no_room(key))
                break
            try:
                place, change = place_of(key), change_of(value)
            except UnreadableChangeError as error:
                self._unreadable[key] = changed_at
                if told.get(key) != changed_at:
                    ignored.append((_key_text(key), str(error)))
                continue
            if place not in self._own and _says_something(change):
                self._entries[place] = change
        changed = [place for place in before.keys() | self._entries.keys() if self._differs(place, before)]
        return Taken(sorted(changed), ignored)

    def heard(self, key: bytes, value: bytes | None, revision: int) -> Taken:
        """A key was written (None: deleted) at `revision`. O(own writes that were not heard of)."""
        self._revision = revision
        if self._own:  # changes come in order, so that what is older was heard of
            self._own = {place: own for place, own in self._own.items() if own > revision}
        ignored: list[tuple[str, str]] = []
        self._unreadable.pop(key, None)
        try:
            place = place_of(key)
        except UnreadableChangeError as error:
            if value is not None and self._room(key, ignored):
                self._unreadable[key] = revision
                ignored.append((_key_text(key), str(error)))
            return Taken([], ignored, anew=value is None and self._left_out)
        if revision < self._own.get(place, 0):
            return Taken([], ignored)
        change = None
        if value is not None and (place in self._entries or self._room(key, ignored)):
            try:
                change = change_of(value)
            except UnreadableChangeError as error:
                self._unreadable[key] = revision
                ignored.append((_key_text(key), str(error)))
        differs = self._set(place, change)
        return Taken([place] if differs else [], ignored, anew=value is None and self._left_out)

    def wrote(self, place: Place, change: Change | None, revision: int) -> Taken:
        """This balancer made or found it so at `revision`; the watch may tell of it later, or did already."""
        if revision <= self._revision or revision < self._own.get(place, 0):
            return Taken([], [])
        self._own[place] = revision
        self._unreadable.pop(key_of(*place).encode(), None)
        return Taken([place] if self._set(place, change) else [], [])

    # ---- for people, and the next start

    def words(self, entries: dict[str, dict[str, model.Backend]]) -> Iterator[str]:
        """All of it, one line for each backend; `entries`: the backends in use, by pool and name."""
        for (pool, name), change in sorted(self._entries.items(), key=lambda each: each[0]):
            entry = entries.get(pool, {}).get(name)
            weight = [] if change.weight is None else [f"weight {change.weight}"]
            if weight and entry is not None and entry.weight != change.weight:
                weight = [f"{weight[0]} instead of {entry.weight}"]
            said = ", ".join([*weight, *(["drained"] if change.drained else [])])
            unknown = ", and there is no such backend here" if entry is None else ""
            yield f"pool {pool}: backend {name}: {said} in the whole cluster, {said_by(change)}{unknown}"

    def to_bytes(self) -> bytes:
        """As JSON, for a file that is written whole. O(entries)."""
        saved = tuple(_SavedChange(*place, change) for place, change in self._entries.items())
        return msgspec.json.encode(_Saved(version=VERSION, changes=saved))

    @classmethod
    def from_bytes(cls, saved: bytes) -> "KnownChanges":
        """What `to_bytes` wrote. Raises UnreadableChangeError."""
        try:
            version = msgspec.json.decode(saved, type=_Version).version
            if version != VERSION:
                raise UnreadableChangeError(f"it has version {version}; this balancer reads {VERSION}")
            found = msgspec.json.decode(saved, type=_Saved)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UnreadableChangeError(str(error)) from None
        return cls(((one.pool, one.name), one.change) for one in found.changes[:ENTRIES_MAX])

    # ---- inside

    def _set(self, place: Place, change: Change | None) -> bool:
        """Whether that makes a difference to the backend."""
        before = self._entries.get(place)
        if change is None or not _says_something(change):
            self._entries.pop(place, None)
        else:
            self._entries[place] = change
        return self._differs(place, {} if before is None else {place: before})

    def _differs(self, place: Place, before: dict[Place, Change]) -> bool:
        """The weight or the drain is another; who said it when does not matter."""
        old, new = before.get(place), self._entries.get(place)
        if old is None or new is None:
            return old is not new
        return (old.weight, old.drained) != (new.weight, new.drained)

    def _room(self, key: bytes, ignored: list[tuple[str, str]]) -> bool:
        if len(self._entries) + len(self._unreadable) < ENTRIES_MAX:
            return True
        if not self._left_out:
            ignored.append(_no_room(key))
        self._left_out = True
        return False


def said_by(change: Change) -> str:
    """Who said it, and when, as a part of a sentence."""
    by = f"said at {shown(change.by)}" if change.by else "nobody knows by whom"
    return f"{by} ({shown(change.at)[1:-1]})" if change.at else by


def _says_something(change: Change) -> bool:
    return change.weight is not None or change.drained


def _no_room(key: bytes) -> tuple[str, str]:
    return _key_text(key), f"{ENTRIES_MAX:,} keys are known here; this one, and others, are left out"


def _key_text(key: bytes) -> str:
    return key[:VALUE_MAX].decode("utf-8", "backslashreplace")
