"""Which route takes a request: the first, in the order written, whose every condition holds."""

from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

from balancer.config.model import Match
from balancer.routing.match import Condition, Request, compile_conditions, compile_methods

T = TypeVar("T")

# Entries of merged lists kept, 8 bytes each: enough for 10,000 hosts among 25 routes for every host.
MERGED_ENTRIES_MAX = 262_144


class _Entry(Generic[T]):
    """One route; `order` is its place among all."""

    __slots__ = ("conditions", "hosts", "methods", "order", "target")

    def __init__(self, order: int, match: Match, target: T) -> None:
        self.order = order
        self.target = target
        self.hosts = match.hosts
        self.methods = compile_methods(match.methods)
        self.conditions: tuple[Condition, ...] = compile_conditions(match)

    @property
    def takes_all(self) -> bool:
        """Whether it takes every request for its hosts."""
        return self.methods is None and not self.conditions


class RoutingTable(Generic[T]):
    """Routes in order of priority, each with what it leads to.

    A look-up costs O(labels of the host, up to the most that a wildcard has) + O(routes for that host or for every
    host), whatever the number of hosts: exact names and the parents of wildcards are keys of dictionaries, and the
    routes that may take a host are merged, in order, when the first request for it comes. Only configured names
    become keys, never names that clients make up.
    """

    __slots__ = (
        "_all",
        "_count",
        "_exact",
        "_for_all_hosts",
        "_labels_max",
        "_merged",
        "_merged_below",
        "_merged_size",
        "_wild",
    )

    def __init__(self, routes: Iterable[tuple[Match, T]] = ()) -> None:
        self._all: _Entry[T] | None = None  # the first route, when it takes everything
        self._exact: dict[bytes, list[_Entry[T]]] = {}
        self._wild: dict[bytes, list[_Entry[T]]] = {}  # by the part behind "*."
        self._labels_max = 0  # of the keys of _wild
        self._for_all_hosts: list[_Entry[T]] = []
        self._merged: dict[bytes, tuple[_Entry[T], ...]] = {}  # by exact host
        self._merged_below: dict[bytes, tuple[_Entry[T], ...]] = {}  # by the longest key of _wild that covers it
        self._merged_size = 0
        self._count = 0
        for match, target in routes:
            self.add(match, target)

    def add(self, match: Match, target: T) -> None:
        """One more route, last in priority. For building a long table in slices; requests come afterwards.

        Raises ProtocolError, ValueError or re.error when a condition could never have passed validation.
        """
        entry = _Entry(self._count, match, target)
        self._count += 1
        self._merged.clear()
        self._merged_below.clear()
        self._merged_size = 0
        if not entry.hosts:
            self._for_all_hosts.append(entry)
            if entry.order == 0 and entry.takes_all:
                self._all = entry
        for host in entry.hosts:
            name = host.encode("utf-8")
            if name.startswith(b"*."):
                self._wild.setdefault(name[2:], []).append(entry)
                self._labels_max = max(self._labels_max, name.count(b"."))
            else:
                self._exact.setdefault(name, []).append(entry)

    def find(self, request: Request, client: str) -> T | None:
        """What the first matching route leads to, None without one. `client` is the client's address as text.

        Raises ProtocolError when a route asks for the path of a request whose path has no normal form.
        """
        if self._all is not None:
            return self._all.target
        candidates = self._merged.get(request.host)
        if candidates is None:
            candidates = self._candidates(request.host)
        method = request.method
        for entry in candidates:
            if entry.methods is not None and method not in entry.methods:
                continue
            for condition in entry.conditions:
                if not condition(request, client):
                    break
            else:
                return entry.target
        return None

    def allowed_methods(self, request: Request, client: str) -> tuple[bytes, ...]:
        """The methods, sorted, with which some route would take this request; () when none would with any.

        For the Allow field of a 405, after `find` gave None.
        """
        methods: set[bytes] = set()
        for entry in self._candidates(request.host):
            if entry.methods is not None and all(condition(request, client) for condition in entry.conditions):
                methods |= entry.methods
        return tuple(sorted(methods))

    def _candidates(self, host: bytes) -> tuple[_Entry[T], ...]:
        """The routes that may take `host`, in order."""
        parents = self._wild_parents(host)
        if host in self._exact:
            known, key = self._merged, host
        else:
            known, key = self._merged_below, parents[0] if parents else b""
        merged = known.get(key)
        if merged is None:
            merged = self._merge(host, parents)
            self._remember(known, key, merged)
        return merged

    def _remember(self, known: dict[bytes, tuple[_Entry[T], ...]], key: bytes, merged: tuple[_Entry[T], ...]) -> None:
        self._merged_size += len(merged)
        if self._merged_size > MERGED_ENTRIES_MAX:
            self._merged.clear()
            self._merged_below.clear()
            self._merged_size = len(merged)
        known[key] = merged

    def _wild_parents(self, host: bytes) -> Sequence[bytes]:
        """The keys of _wild that lie above `host`, the longest first. They all end the first, so it implies them."""
        if not self._wild:
            return ()
        labels = host.rsplit(b".", self._labels_max)
        if not labels[0]:
            return ()  # the name begins with a dot: nothing stands for the star
        tails = (b".".join(labels[start:]) for start in range(1, len(labels)))
        return [tail for tail in tails if tail in self._wild]

    def _merge(self, host: bytes, parents: Sequence[bytes]) -> tuple[_Entry[T], ...]:
        entries = {entry.order: entry for entry in self._exact.get(host, ())}
        for parent in parents:
            entries.update((entry.order, entry) for entry in self._wild[parent])
        entries.update((entry.order, entry) for entry in self._for_all_hosts)
        merged: list[_Entry[T]] = []
        for order in sorted(entries):
            merged.append(entries[order])
            if entries[order].takes_all:
                break  # no request comes past it
        return tuple(merged)
