"""What differs between two configurations: in words for people, and as data for whoever puts the new one to use."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from balancer.config import model
from balancer.config.scalars import shown

NAMES_MAX = 5
"""Backends of one pool that a line names one by one; more are counted."""
LIVE_FIELDS = frozenset(
    ("workers", "via", "max_connections", "watch", "shutdown_delay", "shutdown_grace", "tunnel_grace", "log.level")
)
"""Settings of the process that change while it runs; every other one needs a restart."""

_SHARES = frozenset(("panic_threshold", "max_ejected", "budget"))
_NUMBERS = frozenset(("budget_min",))  # every other fraction is a time in seconds
_SECTIONS = ("listeners", "routes", "pools")
_Named = TypeVar("_Named", model.Listener, model.Route, model.Pool, model.Backend)


@dataclass(frozen=True, slots=True)
class Difference:
    """From one configuration to another. Nothing differs where `changes` is empty.

    `needs_restart` names the settings that cannot change while the daemon runs; `changes` tells of them too.
    `rebound`: listeners that stay and listen elsewhere.
    """

    changes: tuple[str, ...] = ()
    needs_restart: tuple[str, ...] = ()
    listeners_added: tuple[str, ...] = ()
    listeners_removed: tuple[str, ...] = ()
    rebound: tuple[str, ...] = ()


def difference(old: model.Config, new: model.Config) -> Difference:
    """What leads from `old` to `new`, in the order process, listeners, routes, pools. O(size, times log for routes)."""
    if old == new:
        return Difference()
    process = list(_process(old, new))
    words = [text for _, text in process]
    listeners = _Sides(old.listeners, new.listeners)
    words += listeners.words("listener", _listener)
    words += _routes(old.routes, new.routes)
    words += _Sides(old.pools, new.pools).words("pool", _pool)
    if not words:
        words.append("the order of listeners, pools or backends in the file")
    return Difference(
        changes=tuple(words),
        needs_restart=tuple(name for name, _ in process if name not in LIVE_FIELDS),
        listeners_added=tuple(listeners.added),
        listeners_removed=tuple(listeners.removed),
        rebound=tuple(was.name for was, now in listeners.both if was.bind != now.bind),
    )


class _Sides(Generic[_Named]):
    """Named things of both sides, matched by name; in the new one's order, removed ones in the old one's."""

    def __init__(self, old: Sequence[_Named], new: Sequence[_Named]) -> None:
        before = {one.name: one for one in old}
        names = {one.name for one in new}
        self.added = [one.name for one in new if one.name not in before]
        self.removed = [one.name for one in old if one.name not in names]
        self.both: list[tuple[_Named, _Named]] = [(before[one.name], one) for one in new if one.name in before]

    def words(self, kind: str, compare: Callable[[_Named, _Named], Iterable[str]]) -> Iterator[str]:
        """One line for each that came, went or changed."""
        for name in self.added:
            yield f"{kind} {name}: new"
        for name in self.removed:
            yield f"{kind} {name}: removed"
        for was, now in self.both:
            told = [] if was == now else list(compare(was, now))
            if told:
                yield f"{kind} {now.name}: {', '.join(told)}"


def _process(old: model.Config, new: model.Config) -> Iterator[tuple[str, str]]:
    """The settings outside the three sections that differ: (path, in words)."""
    for path, was, now in _fields(old, new, "", _SECTIONS):
        restart = "" if path in LIVE_FIELDS else "; this needs a restart"
        yield path, f"{path}: {_becomes(path, was, now)}{restart}"


def _fields(
    old: msgspec.Struct, new: msgspec.Struct, prefix: str = "", left_out: Iterable[str] = ("name",)
) -> Iterator[tuple[str, object, object]]:
    """Every setting that differs, by its path; sections of one kind on both sides are looked into."""
    for field in old.__struct_fields__:
        was, now = getattr(old, field), getattr(new, field)
        if field in left_out or was == now:
            continue
        path = prefix + field
        if isinstance(was, msgspec.Struct) and type(was) is type(now) and not isinstance(was, model.Bind):
            yield from _fields(was, now, f"{path}.", ())
        else:
            yield path, was, now


def _settings(old: msgspec.Struct, new: msgspec.Struct, left_out: Sequence[str]) -> Iterator[str]:
    for path, was, now in _fields(old, new, "", left_out):
        yield f"{path} {_becomes(path, was, now)}"


def _becomes(path: str, was: object, now: object) -> str:
    if isinstance(was, msgspec.Struct) and now is None:
        return "goes"
    if was is None and isinstance(now, msgspec.Struct):
        return "comes"
    return f"{_value(was, path)} becomes {_value(now, path)}"


def _value(value: object, path: str = "") -> str:
    """A value as the file would have it; what is large is only named."""
    if value is None:
        return "off"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, model.Bind):
        return value.text
    if isinstance(value, float):
        name = path.rpartition(".")[2]
        if name in _SHARES:
            return "off" if value == 0 else f"{value * 100:.10g}%"
        if name in _NUMBERS:
            return f"{value:.10g}"
        return f"{value:.10g}s" if value >= 1 else f"{value * 1000:.10g}ms"
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, tuple | dict) and not value:
        return "nothing"
    if isinstance(value, tuple) and len(value) <= NAMES_MAX and all(isinstance(one, str) for one in value):
        return ", ".join(value)
    return "another value"


def _listener(old: model.Listener, new: model.Listener) -> Iterator[str]:
    more = [bind.text for bind in new.bind if bind not in old.bind]
    less = [bind.text for bind in old.bind if bind not in new.bind]
    if more:
        yield f"also listens on {' and '.join(more)}"
    if less:
        yield f"no longer listens on {' and '.join(less)}"
    if old.tls is not None and new.tls is not None and old.tls.certificates != new.tls.certificates:
        yield "other certificates"
        old = msgspec.structs.replace(old, tls=msgspec.structs.replace(old.tls, certificates=new.tls.certificates))
    elif (old.tls is None) is not (new.tls is None):
        yield "speaks TLS" if old.tls is None else "no longer speaks TLS"
        old = msgspec.structs.replace(old, tls=new.tls)
    more = [route for route in new.routes if route not in old.routes]
    less = [route for route in old.routes if route not in new.routes]
    if more:
        yield f"also serves {_named(more, 'routes')}"
    if less:
        yield f"no longer serves {_named(less, 'routes')}"
    yield from _settings(old, new, ("name", "bind", "routes"))


def _routes(old: Sequence[model.Route], new: Sequence[model.Route]) -> Iterator[str]:
    sides = _Sides(old, new)
    yield from sides.words("route", _route)
    places = {route.name: place for place, route in enumerate(old)}
    stayed = [now.name for _, now in sides.both]
    moved = _moved([places[name] for name in stayed])
    for index in sorted(moved):
        where = "last" if index + 1 == len(stayed) else f"before {stayed[index + 1]}"
        yield f"route {stayed[index]}: now comes {where}"


def _moved(places: Sequence[int]) -> set[int]:
    """The fewest indices without which `places` rises (the rest is a longest rising subsequence). O(n log n).

    Of two that changed places it is the first: it "now comes before" the other.
    """
    ends: list[int] = []  # of the best subsequence of each length: its last place
    at: list[int] = []  # ... and that one's index
    previous: list[int] = []
    for index, place in enumerate(places):
        length = bisect_left(ends, place)
        previous.append(at[length - 1] if length else -1)
        if length == len(ends):
            ends.append(place)
            at.append(index)
        else:
            ends[length], at[length] = place, index
    moved = set(range(len(places)))
    index = at[-1] if at else -1
    while index >= 0:
        moved.discard(index)
        index = previous[index]
    return moved


def _route(old: model.Route, new: model.Route) -> Iterator[str]:
    if old.match != new.match:
        yield "matches other requests"
    if old.action != new.action:
        yield f"now {_action(new.action)}"
    if old.headers != new.headers:
        yield "edits other header fields"
    if old.rewrite != new.rewrite:
        yield "rewrites otherwise"
    yield from _settings(old, new, ("name", "match", "action", "headers", "rewrite"))


def _action(action: model.Action) -> str:
    if isinstance(action, model.PoolAction):
        return f"leads to pool {action.pool}"
    if isinstance(action, model.SplitAction):
        return f"leads to pool {action.read} for reading and {action.write} for writing"
    if isinstance(action, model.RedirectAction):
        return f"redirects to {shown(action.to)} with {action.status}"
    return f"answers {action.status} itself"


def _pool(old: model.Pool, new: model.Pool) -> Iterator[str]:
    sides = _Sides(old.backends, new.backends)
    moved = [now.name for was, now in sides.both if _address(was) != _address(now)]
    if sides.added:
        count = len(sides.added)
        names = f" ({', '.join(sides.added)})" if count <= NAMES_MAX else ""
        yield f"+{count} {'backend' if count == 1 else 'backends'}{names}"
    if sides.removed:
        yield f"{_named(sides.removed, 'backends')} {'drains' if len(sides.removed) == 1 else 'drain'}"
    if moved:
        yield f"another address for {_named(moved, 'backends')}"
    changed = [
        f"{now.name}: {text}"
        for was, now in sides.both
        if was != now
        for text in _settings(was, now, ("name", "host", "port", "path"))
    ]
    yield from changed[:NAMES_MAX]
    if len(changed) > NAMES_MAX:
        yield f"and {len(changed) - NAMES_MAX:,} more changes of backends"
    yield from _settings(old, new, ("name", "backends"))


def _address(backend: model.Backend) -> tuple[str, int, str]:
    return backend.host, backend.port, backend.path


def _named(names: Sequence[str], kind: str) -> str:
    if len(names) > NAMES_MAX:
        return f"{len(names):,} {kind}"
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"
