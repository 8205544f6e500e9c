"""One route's conditions, compiled to functions that look at a request.

Hosts are not here: `table` finds routes by host without trying them one by one. Conditions come in the order of
their price: the path first, then the client, the query, and the fields, which cost a search of the head.
"""

import functools
import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol
from urllib.parse import unquote_to_bytes

from balancer.config.model import Match
from balancer.http1.target import normalise_path

CLIENTS_REMEMBERED = 1024  # parsed addresses, some 200 bytes each: connections keep sending from the same ones


class Request(Protocol):
    """What a route may ask of a request. `path`, `query` and `field` cost time and are used only when needed."""

    @property
    def method(self) -> bytes:
        """As received; methods are case-sensitive (RFC 9110 section 9.1)."""

    @property
    def host(self) -> bytes:
        """Lower case, without port and trailing dot; b"" = none."""

    @property
    def path(self) -> bytes:
        """In the normal form of http1.target. May raise ProtocolError."""

    @property
    def query(self) -> bytes:
        """Raw, without its question mark."""

    def field(self, name: bytes) -> Sequence[bytes]:
        """All values of the field with that lower-case name."""


Condition = Callable[[Request, str], bool]
"""Whether it holds for a request from a client address ("" = a Unix socket)."""


def compile_methods(methods: Sequence[str]) -> frozenset[bytes] | None:
    """The methods let through, None = all. GET lets HEAD through too, since HEAD is GET without the content."""
    if not methods:
        return None
    wanted = {method.encode("ascii") for method in methods}
    if b"GET" in wanted:
        wanted.add(b"HEAD")
    return frozenset(wanted)


def compile_conditions(match: Match) -> tuple[Condition, ...]:
    """Every condition of `match` but hosts and methods, the cheap ones first; () = none."""
    found = [
        _path_is(match.path) if match.path is not None else None,
        _path_begins(match.path_prefix) if match.path_prefix is not None else None,
        _path_matches(match.path_regex) if match.path_regex is not None else None,
        _client_in(match.client) if match.client else None,
        _query_has(match.query) if match.query else None,
        _fields_have(match.headers) if match.headers else None,
    ]
    return tuple(condition for condition in found if condition is not None)


def normal_pattern(path: str) -> bytes:
    """A path as a configuration has it, in the form in which requests' paths are compared.

    What cannot stand in a request's target unescaped is escaped, as UTF-8: `/café` is `/caf%C3%A9`.
    Raises ProtocolError where no request could have that path: a backslash, `%00`, a `%` without two hex digits.
    """
    raw = path.encode("utf-8")
    return normalise_path(b"".join(b"%c" % octet if 0x20 < octet < 0x7F else b"%%%02X" % octet for octet in raw))


def _path_is(path: str) -> Condition:
    wanted = normal_pattern(path)
    return lambda request, client: request.path == wanted


def _path_begins(prefix: str) -> Condition | None:
    """On segment boundaries: /v1 takes /v1 and /v1/x, not /v10; /v1/ takes only what lies below; / takes all."""
    wanted = normal_pattern(prefix)
    if wanted == b"/":
        return None
    if wanted.endswith(b"/"):
        return lambda request, client: request.path.startswith(wanted)
    below = wanted + b"/"

    def holds(request: Request, client: str) -> bool:
        path = request.path
        return path.startswith(below) or path == wanted

    return holds


def _path_matches(pattern: str) -> Condition:
    fullmatch = re.compile(pattern.encode("utf-8")).fullmatch
    return lambda request, client: fullmatch(request.path) is not None


IpNumber = tuple[int, int]
"""Version (4 or 6) and the address as a number. IPv4-mapped IPv6 addresses count as IPv4."""


@functools.lru_cache(maxsize=CLIENTS_REMEMBERED)
def _number(client: str) -> IpNumber | None:
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return None  # a Unix socket, or a name from a trusted proxy that is no address (RFC 7239 section 6)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.version, int(address)


def _client_in(cidrs: Sequence[str]) -> Condition:
    """O(distinct prefix lengths), whatever the number of networks."""
    networks: dict[tuple[int, int], set[int]] = {}
    for cidr in cidrs:
        network = ipaddress.ip_network(cidr, strict=False)
        if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:
            mapped = network.network_address.ipv4_mapped
            if mapped is not None:
                network = ipaddress.IPv4Network((mapped, network.prefixlen - 96))
        shift = network.max_prefixlen - network.prefixlen
        networks.setdefault((network.version, shift), set()).add(int(network.network_address) >> shift)
    by_shift = [(version, shift, prefixes) for (version, shift), prefixes in networks.items()]

    def holds(request: Request, client: str) -> bool:
        number = _number(client)
        if number is None:
            return False
        version, value = number
        return any(version == of and value >> shift in prefixes for of, shift, prefixes in by_shift)

    return holds


@functools.lru_cache(maxsize=1)
def _query_values(query: bytes) -> Mapping[bytes, Sequence[bytes]]:
    """Names and values decoded once, `+` as a space (WHATWG URL, urlencoded parsing).

    Only the last one is remembered: the routes tried for one request ask for the same.
    """
    values: dict[bytes, list[bytes]] = {}
    for pair in query.replace(b"+", b" ").split(b"&"):
        name, _, value = pair.partition(b"=")
        if pair:
            values.setdefault(unquote_to_bytes(name), []).append(unquote_to_bytes(value))
    return values


def _query_has(wanted: Mapping[str, str]) -> Condition:
    pairs = _wanted_pairs(wanted)

    def holds(request: Request, client: str) -> bool:
        values = _query_values(request.query)
        return all(_satisfies(values.get(name, ()), value) for name, value in pairs)

    return holds


def _fields_have(wanted: Mapping[str, str]) -> Condition:
    pairs = [(name.lower(), value) for name, value in _wanted_pairs(wanted)]
    return lambda request, client: all(_satisfies(request.field(name), value) for name, value in pairs)


def _wanted_pairs(wanted: Mapping[str, str]) -> list[tuple[bytes, bytes | None]]:
    """Names and values; the value None stands for "*", any value."""
    return [(name.encode("utf-8"), None if value == "*" else value.encode("utf-8")) for name, value in wanted.items()]


def _satisfies(values: Sequence[bytes], wanted: bytes | None) -> bool:
    """Whether one of the values is the wanted one; a name given several times may carry it in any place."""
    return bool(values) if wanted is None else wanted in values
