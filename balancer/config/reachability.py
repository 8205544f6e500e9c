"""Routes that no request can reach, because an earlier route takes everything that they match.

Only whole coverage by one earlier route is found, not coverage by several together, and after COMPARISONS_MAX
comparisons no more.
"""

import ipaddress
from collections.abc import Iterable, Iterator, Sequence

from balancer.config.model import Match

COMPARISONS_MAX = 200_000  # about a second; only thousands of routes that differ in nothing but fields need more
_ANY = ""  # as a host or a path key: no condition


def first_covers(routes: Sequence[tuple[str, Match]]) -> dict[str, str]:
    """Name of every unreachable route -> name of the first route that takes all its requests.

    `routes` are in order of priority. O(routes x (labels x segments + earlier routes with the same host and path)).
    """
    seen: dict[tuple[str, str], list[int]] = {}
    found: dict[str, str] = {}
    compared = 0
    for index, (name, match) in enumerate(routes):
        candidates = sorted(place for key in _keys_above(match) for place in seen.get(key, ()))
        compared += len(candidates)
        if compared > COMPARISONS_MAX:
            break
        cover = next((routes[place][0] for place in candidates if covers(routes[place][1], match)), None)
        if cover is not None:
            found[name] = cover
        else:
            for host in match.hosts or (_ANY,):
                seen.setdefault((host, _path_key(match)), []).append(index)
    return found


def covers(above: Match, below: Match) -> bool:
    """Whether every request that meets `below` meets `above`; False also when that cannot be told."""
    return (
        (not above.hosts or (bool(below.hosts) and all(_host_in(host, above.hosts) for host in below.hosts)))
        and _path_covers(above, below)
        and (not above.methods or (bool(below.methods) and _methods(below) <= _methods(above)))
        and _pairs_cover(above.headers, below.headers)
        and _pairs_cover(above.query, below.query)
        and (not above.client or (bool(below.client) and all(_network_in(net, above.client) for net in below.client)))
    )


def below_prefix(prefix: str, path: str) -> bool:
    """Whether `path` is `prefix` or below it, on a segment boundary; `/v1/` takes only what lies below."""
    return prefix == "/" or path.startswith(prefix if prefix.endswith("/") else prefix + "/") or path == prefix


def _keys_above(match: Match) -> Iterator[tuple[str, str]]:
    """Under which (host, path) keys a route that covers `match` may stand."""
    hosts = [_ANY]
    if match.hosts:
        first = match.hosts[0]
        hosts += [first, *_wildcards(first)]
    paths = [_ANY, *_prefixes(match.path or match.path_prefix or "")]
    if match.path is not None:
        paths.append(f"={match.path}")
    if match.path_regex is not None:
        paths.append(f"~{match.path_regex}")
    return ((host, path) for host in hosts for path in paths)


def _path_key(match: Match) -> str:
    """The path condition that any route below must meet too, in the form of `_keys_above`."""
    if match.path is not None:
        return f"={match.path}"
    if match.path_prefix is not None:
        return f"^{match.path_prefix}"
    return _ANY if match.path_regex is None else f"~{match.path_regex}"


def _prefixes(path: str) -> Iterator[str]:
    if path:
        yield "^/"
        yield f"^{path}"
    for place in range(1, len(path)):
        if path[place] == "/":
            yield f"^{path[:place]}"
            yield f"^{path[: place + 1]}"


def _wildcards(host: str) -> Iterator[str]:
    rest = host.removeprefix("*.")
    while "." in rest:
        rest = rest.partition(".")[2]
        yield f"*.{rest}"


def _host_in(host: str, patterns: Iterable[str]) -> bool:
    return any(pattern == host or (pattern.startswith("*.") and host.endswith(pattern[1:])) for pattern in patterns)


def _path_covers(above: Match, below: Match) -> bool:
    if above.path is not None and above.path != below.path:
        return False
    if above.path_prefix is not None and above.path_prefix != "/":
        inner = below.path if below.path is not None else below.path_prefix
        if inner is None or not below_prefix(above.path_prefix, inner):
            return False
    return above.path_regex is None or above.path_regex == below.path_regex


def _methods(match: Match) -> set[str]:
    """What the route takes: GET lets HEAD through too."""
    return {*match.methods, "HEAD"} if "GET" in match.methods else set(match.methods)


def _pairs_cover(above: dict[str, str], below: dict[str, str]) -> bool:
    return all(name in below and value in ("*", below[name]) for name, value in above.items())


def _network_in(inner: str, networks: Iterable[str]) -> bool:
    version, low, high = _span(inner)
    spans = map(_span, networks)
    return any(version == other and first <= low and high <= last for other, first, last in spans)


def _span(text: str) -> tuple[int, int, int]:
    """IP version, first and last address of a network."""
    network = ipaddress.ip_network(text)
    return network.version, int(network.network_address), int(network.broadcast_address)
