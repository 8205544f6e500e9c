"""Keys and values below a prefix as backends of a pool, and in words what of them cannot be used. Pure.

What follows the prefix is the backend's name, slashes and all: a program may register under a path of its own, as
those that use etcd's Go library or registrator do. The value is an address, or a JSON object with one.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, NamedTuple

import msgspec

from balancer.admin.changes import NewBackend, Weight
from balancer.config import addresses
from balancer.config.model import Backend
from balancer.config.scalars import shown
from balancer.coordination.responses import KeyValue
from balancer.daemon.shared_memory import REGISTERED_MAX
from balancer.errors import BalancerError

BACKENDS_MAX = REGISTERED_MAX
"""Registered backends in use in one pool: those that registered first."""
KEYS_MAX = 10_000
"""Keys of one pool that are kept in mind."""
VALUE_MAX = 4096
VERSION = 1
PROBLEMS_MAX = 20
"""Problems that are told at a time; more are counted."""

_HTTP, _HTTPS, _UNIX = "http://", "https://", "unix:"


class DamagedRegistrationsError(BalancerError):
    """What was saved cannot be read. The text says why."""


class _Value(msgspec.Struct, frozen=True):
    """A value as JSON. `Addr` is what etcd's Go library writes. What else a registration tells is for others."""

    address: str | None = None
    addr: str | None = msgspec.field(default=None, name="Addr")
    weight: Weight = 1
    max_connections: Annotated[int, msgspec.Meta(ge=1, le=10_000_000)] | None = None
    backup: bool = False


def name_of(prefix: bytes, key: bytes) -> str:
    """The name of the backend whose key this is. Raises ValueError that says what is wrong."""
    rest = key.removeprefix(prefix)
    if not rest:
        raise ValueError("the key ends with the prefix; what follows the prefix is the backend's name")
    try:
        return addresses.name(rest.decode())
    except UnicodeDecodeError:
        raise ValueError("the key is not UTF-8, so it cannot be a name") from None


def backend_of(name: str, value: bytes) -> Backend:
    """The backend that registered so, checked as one of the file. Raises ValueError that says what is wrong."""
    if len(value) > VALUE_MAX:
        raise ValueError(f"the value has {len(value):,} bytes; at most {VALUE_MAX:,} are taken")
    try:
        text = value.decode().strip()
        given = msgspec.json.decode(text, type=_Value) if text.startswith("{") else _Value(address=text)
    except UnicodeDecodeError:
        raise ValueError("the value is not UTF-8; write host:port, or JSON with an address") from None
    except (msgspec.DecodeError, RecursionError) as error:
        told = str(error)[:200]
        raise ValueError(f'{told}; JSON looks like {{"address": "10.0.0.7:80", "weight": 3}}') from None
    address = given.addr if given.address is None else given.address
    if address is None:
        raise ValueError('the value lacks its address; write such as {"address": "10.0.0.7:80"}')
    entry = NewBackend(
        address=_without_scheme(address),
        name=name,
        weight=given.weight,
        max_connections=given.max_connections,
        backup=given.backup,
    )
    return entry.entry()


def _without_scheme(address: str) -> str:
    """host:port of what may be a URL of it. Raises ValueError."""
    if address.startswith(_UNIX):
        raise ValueError("a Unix socket is reached on its own machine only; write host:port")
    if address.startswith(_HTTPS):
        raise ValueError("whether TLS is spoken says the pool's `tls`; write host:port")
    if not address.startswith(_HTTP):
        return address
    place = address.removeprefix(_HTTP).removesuffix("/")
    if any(sign in place for sign in "/?#@"):
        raise ValueError(f"{shown(address)} is more than an address; write host:port")
    return place if ":" in place.rpartition("]")[2] else f"{place}:80"


class _Entry(NamedTuple):
    """What a key says. `created`: the revision at which it came. `wrong`: hash of a value that cannot be used."""

    created: int
    backend: Backend | None  # None = it never had a value that can be used
    value: bytes  # ... of the backend
    wrong: int | None = None


class Registrations:
    """Everything below the prefix of one pool.

    A key whose new value cannot be used keeps the backend that it was; each such value is a problem once.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.more = False
        """There are keys that were not taken in for want of room: read anew once some have left."""
        self._prefix = _encoded(prefix)
        self._entries: dict[bytes, _Entry] = {}
        self._backends: tuple[Backend, ...] | None = ()
        self._problems: dict[bytes, str] = {}
        self._untold = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def backends(self) -> tuple[Backend, ...]:
        """Those to use, in the order in which they came. O(keys) after a change, else O(1)."""
        if self._backends is None:
            self._backends = tuple(backend for _, backend in self._good()[:BACKENDS_MAX])
        return self._backends

    @property
    def wrong(self) -> int:
        """How many keys have a value that cannot be used. O(keys)."""
        return sum(entry.wrong is not None for entry in self._entries.values())

    @property
    def left_out(self) -> int:
        """How many backends are beyond BACKENDS_MAX, of those keys that are kept in mind. O(keys)."""
        return max(0, sum(entry.backend is not None for entry in self._entries.values()) - BACKENDS_MAX)

    @property
    def has_problems(self) -> bool:
        """`take_problems` has something."""
        return bool(self._problems)

    # ---- what happens in the cluster

    def put(self, found: KeyValue) -> bool:
        """A key was written. True when that may change the backends."""
        before = self._entries.get(found.key)
        if before is None and len(self._entries) >= KEYS_MAX:
            self.more = True
            return False
        after = self._taken(found, before)
        self._entries[found.key] = after
        if before is not None and before.backend == after.backend and before.created == after.created:
            return False
        if before is None and after.backend is None:
            return False
        self._backends = None
        return True

    def delete(self, key: bytes) -> bool:
        """A key was deleted, or its lease ended. True when that may change the backends."""
        gone = self._entries.pop(key, None)
        self._problems.pop(key, None)
        if gone is None or gone.backend is None:
            return False
        self._backends = None
        return True

    def replace(self, found: Iterable[KeyValue]) -> bool:
        """These are all keys. True when that may change the backends."""
        now = {one.key: one for one in found}
        changed = [self.delete(key) for key in self._entries.keys() - now.keys()]
        self.more = False
        changed += [self.put(one) for one in now.values()]
        return any(changed)

    def take_problems(self) -> tuple[list[tuple[str, str]], int]:
        """What became wrong since this was asked last: keys with a text each, and how many further ones."""
        told = [(key.decode("utf-8", "backslashreplace"), text) for key, text in self._problems.items()]
        untold, self._untold = self._untold, 0
        self._problems.clear()
        return told, untold

    # ---- inside

    def _taken(self, found: KeyValue, before: _Entry | None) -> _Entry:
        if before is not None and before.created != found.create_revision:
            before = None  # it was deleted meanwhile: this is another registration
        if before is not None and before.backend is not None and before.value == found.value:
            self._problems.pop(found.key, None)
            return before._replace(wrong=None)
        try:
            backend = backend_of(name_of(self._prefix, found.key), found.value)
        except ValueError as error:
            wrong = hash(found.value)
            if before is None or before.wrong != wrong:
                self._tell(found.key, str(error))
            if before is None:
                return _Entry(found.create_revision, None, b"", wrong)
            return before._replace(wrong=wrong)
        self._problems.pop(found.key, None)
        return _Entry(found.create_revision, backend, found.value)

    def _tell(self, key: bytes, problem: str) -> None:
        if key in self._problems or len(self._problems) < PROBLEMS_MAX:
            self._problems[key] = problem
        else:
            self._untold += 1

    def _good(self) -> list[tuple[bytes, Backend]]:
        """Keys and backends, those first that registered first."""
        order = sorted((entry.created, key) for key, entry in self._entries.items() if entry.backend is not None)
        found = ((key, self._entries[key].backend) for _, key in order)
        return [(key, backend) for key, backend in found if backend is not None]

    # ---- the saved form

    def to_saved(self) -> "SavedPool":
        """Those to use. O(keys)."""
        keys = [key for key, _ in self._good()[:BACKENDS_MAX]]
        return SavedPool(
            prefix=self.prefix,
            keys=tuple(
                SavedKey(key.removeprefix(self._prefix).decode(), entry.value.decode(), entry.created)
                for key in keys
                for entry in [self._entries[key]]
            ),
        )

    @classmethod
    def from_saved(cls, saved: "SavedPool") -> "Registrations":
        """What `to_saved` gave. What of it cannot be used any more is left out."""
        made = cls(saved.prefix)
        made.replace(
            KeyValue(key=_encoded(saved.prefix + one.name), value=_encoded(one.value), create_revision=one.created)
            for one in saved.keys
        )
        return made


class SavedKey(msgspec.Struct, frozen=True, array_like=True):
    """A key without its prefix, its value, and the revision at which it came."""

    name: str
    value: str
    created: int


class SavedPool(msgspec.Struct, frozen=True, kw_only=True):
    """What was registered for one pool."""

    prefix: str
    keys: tuple[SavedKey, ...] = ()


class _Saved(msgspec.Struct, frozen=True, kw_only=True):
    version: int
    pools: dict[str, SavedPool]


class _Version(msgspec.Struct, frozen=True):
    version: int


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # a file may hold anything


def to_bytes(pools: Mapping[str, Registrations]) -> bytes:
    """What is registered for each pool, as JSON for a file that is written whole. O(keys)."""
    saved = _Saved(version=VERSION, pools={name: known.to_saved() for name, known in pools.items()})
    return msgspec.json.encode(saved) + b"\n"


def from_bytes(data: bytes) -> dict[str, Registrations]:
    """What `to_bytes` saved. Raises DamagedRegistrationsError."""
    try:
        version = msgspec.json.decode(data, type=_Version).version
        if version != VERSION:
            raise DamagedRegistrationsError(f"its version is {version}, this program knows {VERSION}")
        saved = msgspec.json.decode(data, type=_Saved)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DamagedRegistrationsError(str(error)) from None
    return {name: Registrations.from_saved(pool) for name, pool in saved.pools.items()}
