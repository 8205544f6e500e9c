"""What the operator changed while the daemon runs: live weights, drains, and backends that the file does not have.

A live weight or drain holds while the file's entry for that backend stays as it was; a changed entry wins. An added
backend stays until it is deleted, the file has one of its name, or its pool is gone. Decides only: putting it to use,
and writing it to a file, is for the supervisor.
"""

from collections.abc import Collection, Iterable, Iterator
from typing import Annotated, Literal, Protocol

import msgspec

from balancer.admin.changes import WEIGHT_MAX, LiveWeight, RefusedChangeError, UnknownBackendError
from balancer.admin.status import address_text
from balancer.config import model
from balancer.config.scalars import shown
from balancer.errors import BalancerError

VERSION = 1

_Key = tuple[str, str]  # pool, backend name


class DamagedChangesError(BalancerError):
    """The saved changes cannot be read. The text says why."""


class LiveChange(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A live weight (None = the entry's), a drain, or both. `entry` is what the backend was when it was set."""

    pool: str
    entry: model.Backend
    weight: Annotated[int, msgspec.Meta(ge=0, le=WEIGHT_MAX)] | None = None
    drained: bool = False


class AddedBackend(msgspec.Struct, frozen=True, kw_only=True):
    """A backend that the file does not have."""

    pool: str
    entry: model.Backend


class _Saved(msgspec.Struct, frozen=True, kw_only=True):
    version: int
    changes: tuple[LiveChange, ...]
    added: tuple[AddedBackend, ...]


class LiveChanges:
    """All of them; immutable, so that a change which cannot be put to use is simply not kept.

    Where a `file` is asked for it is the file's configuration, without additions.
    """

    def __init__(self, changes: Iterable[LiveChange] = (), added: Iterable[AddedBackend] = ()) -> None:
        self._changes: dict[_Key, LiveChange] = {(change.pool, change.entry.name): change for change in changes}
        self._added: dict[_Key, AddedBackend] = {(one.pool, one.entry.name): one for one in added}

    def __len__(self) -> int:
        return len(self._changes) + len(self._added)

    # ---- what holds for a backend

    def weight(self, pool: str, name: str) -> int | None:
        """The live weight; None = that of the backend's entry."""
        change = self._changes.get((pool, name))
        return None if change is None else change.weight

    def drained(self, pool: str, name: str) -> bool:
        """The operator drains it."""
        change = self._changes.get((pool, name))
        return change is not None and change.drained

    def weight_by(self, pool: str, name: str) -> Literal["balancer"] | None:
        """Who set the live weight; None = there is none."""
        return None if self.weight(pool, name) is None else "balancer"

    def drained_by(self, pool: str, name: str) -> tuple[Literal["balancer"], ...]:
        """Who drains it."""
        return ("balancer",) if self.drained(pool, name) else ()

    def source(self, pool: str, name: str) -> Literal["file", "api"]:
        """Who brought the backend in."""
        return "api" if (pool, name) in self._added else "file"

    def changed(self) -> list[tuple[str, str]]:
        """Pool and name of every backend with a live weight or a drain. O(changes)."""
        return [*self._changes]

    def of_entry(self, pool: str, entry: model.Backend) -> tuple[int | None, bool]:
        """The live weight and the drain that hold while the backend's entry is `entry`."""
        change = self._changes.get((pool, entry.name))
        return (None, False) if change is None or change.entry != entry else (change.weight, change.drained)

    # ---- what the operator does; each gives what holds afterwards

    def with_change(
        self, file: model.Config, pool: str, name: str, *, weight: LiveWeight | None, drained: bool | None
    ) -> "LiveChanges":
        """With another live weight or drain; None = as it is. O(backends). Raises UnknownBackendError.

        What equals the entry ("file" always does) is no change: it ends the one that was.
        """
        entry = self._entry(file, pool, name)
        if weight is None:
            weight = self.weight(pool, name)
        change = LiveChange(
            pool=pool,
            entry=entry,
            weight=None if isinstance(weight, str) or weight == entry.weight else weight,
            drained=self.drained(pool, name) if drained is None else drained,
        )
        others = [other for key, other in self._changes.items() if key != (pool, name)]
        kept = [change] if change.drained or change.weight is not None else []
        return LiveChanges([*others, *kept], self._added.values())

    def with_backend(self, file: model.Config, pool: str, entry: model.Backend) -> "LiveChanges":
        """With a further backend. O(backends). Raises UnknownBackendError and RefusedChangeError."""
        place = _pool_of(file, pool)
        if (pool, entry.name) in self._added or any(one.name == entry.name for one in place.backends):
            raise RefusedChangeError(f"there is a backend {shown(entry.name)}; give the new one another name")
        unfit = _unfit(entry, place)
        if unfit:
            raise RefusedChangeError(unfit)
        return LiveChanges(self._changes.values(), [*self._added.values(), AddedBackend(pool=pool, entry=entry)])

    def without_backend(self, file: model.Config, pool: str, name: str) -> "LiveChanges":
        """Without an added backend and what was changed of it. O(backends). Raises as `with_backend` does."""
        self._entry(file, pool, name)
        if (pool, name) not in self._added:
            raise RefusedChangeError(f"{shown(name)} is a backend of the file; drain it, or remove it there and reload")
        changes = [change for key, change in self._changes.items() if key != (pool, name)]
        return LiveChanges(changes, [one for key, one in self._added.items() if key != (pool, name)])

    # ---- what a reload does

    def carried_to(self, file: model.Config) -> "tuple[LiveChanges, list[str]]":
        """What still holds once `file` is in use, and in words what ends. O(backends)."""
        entries = {(pool.name, backend.name): backend for pool in file.pools for backend in pool.backends}
        pools = {pool.name: pool for pool in file.pools}
        ended: list[str] = []
        added = {}
        for key, one in self._added.items():
            if key in entries:
                ended.append(f"{_named(key)}: the file has it now, the one that was added ends")
            elif one.pool not in pools:
                ended.append(f"{_named(key)}: it was added, and ends with its pool")
            elif unfit := _unfit(one.entry, pools[one.pool]):
                ended.append(f"{_named(key)}: it was added, and ends: {unfit}")
            else:
                added[key] = one
                entries[key] = one.entry
        changes = []
        for key, change in self._changes.items():
            now = entries.get(key)
            if now == change.entry:
                changes.append(change)
            elif now is not None:
                ended.append(f"{_named(key)}: its entry changed, which ends: {_told(change)}")
            elif key not in self._added:
                ended.append(f"{_named(key)}: it is no more, which ends: {_told(change)}")
        return LiveChanges(changes, added.values()), ended

    def apply(self, file: model.Config) -> model.Config:
        """`file` with the added backends, after those of the file in each pool; its own win. O(backends)."""
        if not self._added:
            return file
        by_pool: dict[str, list[model.Backend]] = {}
        for one in self._added.values():
            by_pool.setdefault(one.pool, []).append(one.entry)
        pools = tuple(_extended(pool, by_pool.get(pool.name, [])) for pool in file.pools)
        return msgspec.structs.replace(file, pools=pools)

    def words(self) -> Iterator[str]:
        """How what is in use differs from the file, one line for each change."""
        for key, one in self._added.items():
            entry = one.entry
            yield f"{_named(key)}: added, {address_text(entry.host, entry.port, entry.path)}, weight {entry.weight}"
        for key, change in self._changes.items():
            yield f"{_named(key)}: {_told(change)}"

    # ---- the saved form

    def to_bytes(self) -> bytes:
        """As JSON, for a file that is written whole."""
        saved = _Saved(version=VERSION, changes=tuple(self._changes.values()), added=tuple(self._added.values()))
        return msgspec.json.encode(saved) + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> "LiveChanges":
        """What `to_bytes` saved. Raises DamagedChangesError. A reload may have come since: see `carried_to`."""
        try:
            version = msgspec.json.decode(data, type=_Version).version
            if version != VERSION:
                raise DamagedChangesError(f"its version is {version}, this program knows {VERSION}")
            saved = msgspec.json.decode(data, type=_Saved)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DamagedChangesError(str(error)) from None
        entries = [*(change.entry for change in saved.changes), *(one.entry for one in saved.added)]
        if not all(0 <= entry.weight <= WEIGHT_MAX for entry in entries):
            raise DamagedChangesError(f"a weight is not within 0 to {WEIGHT_MAX}")
        return cls(saved.changes, saved.added)

    def _entry(self, file: model.Config, pool: str, name: str) -> model.Backend:
        """What the file, or who added it, says of a backend. The file wins."""
        backends = _pool_of(file, pool).backends
        for backend in backends:
            if backend.name == name:
                return backend
        added = self._added.get((pool, name))
        if added is not None:
            return added.entry
        known = [backend.name for backend in backends]
        raise UnknownBackendError(pool, name, [*known, *(other for place, other in self._added if place == pool)])


class _Version(msgspec.Struct, frozen=True):
    version: int


class Everywhere(Protocol):
    """What holds at all balancers that share a coordination."""

    def weight(self, pool: str, name: str) -> int | None:
        """Its weight; None = nothing is said of it."""

    def drained(self, pool: str, name: str) -> bool:
        """It is drained."""


class Layers:
    """What holds for a backend: first what is said everywhere, then what is said here, then its entry.

    It is drained when either says so; a weight is set by one of them.
    """

    def __init__(
        self, here: LiveChanges, everywhere: Everywhere | None = None, registered: Collection[_Key] = ()
    ) -> None:
        self._here = here
        self._everywhere = everywhere
        self._registered = registered

    def weight(self, pool: str, name: str) -> int | None:
        """The live weight; None = that of the backend's entry."""
        wide = None if self._everywhere is None else self._everywhere.weight(pool, name)
        return self._here.weight(pool, name) if wide is None else wide

    def drained(self, pool: str, name: str) -> bool:
        """An operator drains it."""
        return self._here.drained(pool, name) or self._drained_everywhere(pool, name)

    def weight_by(self, pool: str, name: str) -> Literal["balancer", "cluster"] | None:
        """Who set the live weight; None = there is none."""
        if self._everywhere is not None and self._everywhere.weight(pool, name) is not None:
            return "cluster"
        return self._here.weight_by(pool, name)

    def drained_by(self, pool: str, name: str) -> tuple[Literal["balancer", "cluster"], ...]:
        """Who drains it: this balancer alone, the cluster, or both."""
        here = self._here.drained_by(pool, name)
        return (*here, "cluster") if self._drained_everywhere(pool, name) else here

    def source(self, pool: str, name: str) -> Literal["file", "api", "cluster"]:
        """Who brought the backend in; `registered` itself in the cluster, by pool and name."""
        return "cluster" if (pool, name) in self._registered else self._here.source(pool, name)

    def in_use(self, pool: str, entry: model.Backend) -> tuple[int, bool]:
        """The weight and the drain of a backend whose entry is `entry`; a change of another entry has ended."""
        weight, drained = self._here.of_entry(pool, entry)
        wide = None if self._everywhere is None else self._everywhere.weight(pool, entry.name)
        in_use = next((each for each in (wide, weight) if each is not None), entry.weight)
        return in_use, drained or self._drained_everywhere(pool, entry.name)

    def _drained_everywhere(self, pool: str, name: str) -> bool:
        return self._everywhere is not None and self._everywhere.drained(pool, name)


def _pool_of(file: model.Config, name: str) -> model.Pool:
    for pool in file.pools:
        if pool.name == name:
            return pool
    raise UnknownBackendError(name, None, [pool.name for pool in file.pools])


def _unfit(entry: model.Backend, pool: model.Pool) -> str:
    """Why a pool cannot have this backend; "" when it can. The same rules as for the file."""
    if entry.path and pool.host == "backend":
        return "a Unix socket has no host to send, and the pool's host is backend"
    if entry.path and pool.tls is not None and pool.tls.verify and pool.tls.server_name is None:
        return "a Unix socket has no name to verify, and the pool's tls has no server_name"
    return ""


def _extended(pool: model.Pool, added: list[model.Backend]) -> model.Pool:
    names = {backend.name for backend in pool.backends}
    further = tuple(backend for backend in added if backend.name not in names)
    return msgspec.structs.replace(pool, backends=pool.backends + further) if further else pool


def _named(key: _Key) -> str:
    return f"pool {key[0]}: backend {key[1]}"


def _told(change: LiveChange) -> str:
    weight = [] if change.weight is None else [f"live weight {change.weight} instead of {change.entry.weight}"]
    return ", ".join([*weight, *(["drained"] if change.drained else [])])
