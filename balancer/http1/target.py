"""Request targets and hosts: what is forwarded, and what is matched.

Law: the target is forwarded as it came (RFC 9110 section 7.7); only a copy made by `normalise_path` is matched,
so that `/a/%2e%2e/admin` finds the same route as `/admin`. What no two readers agree about is refused.

Sources: RFC 9112 section 3.2 (forms), RFC 3986 sections 3.2, 5.2.4 and 6.2.2 (grammar, dot segments,
equivalence), RFC 9110 sections 4.2 (http and https URIs) and 7.2 (Host).
"""

import functools
import ipaddress
import re
from typing import Final, NamedTuple

from balancer.errors import BAD_REQUEST, ProtocolError

HOST_BYTES_MAX: Final = 255
"""A DNS name has at most 253 octets (RFC 1035 section 2.3.4) and a dot at its end."""
HOSTS_REMEMBERED: Final = 1024
"""Entries of check_host's memory: at most some 400 bytes each, as HOST_BYTES_MAX bounds them."""


class Target(NamedTuple):
    """What is forwarded (origin-form or b"*"), and for absolute-form the authority, which replaces Host."""

    path_and_query: bytes
    authority: bytes | None


def _refuse(detail: str) -> ProtocolError:
    return ProtocolError(BAD_REQUEST, detail)


# Any VCHAR but "#": more than RFC 3986 allows, because browsers and people send `|`, `[`, `{`, `"` as they are
# and origins take them. A fragment is never sent; whitespace and other octets end a target for some reader.
_origin_form = re.compile(rb"/[!\"$-~]*").fullmatch
_absolute_form = re.compile(rb"(?i:https?)://([^/?#]*)([/?][!\"$-~]*)?").fullmatch


def parse_target(method: bytes, target: bytes) -> Target:
    """Read the target of any method but CONNECT, which the caller refuses before.

    `//evil/x` is a path, never an authority. Raises ProtocolError(BAD_REQUEST).
    """
    if _origin_form(target):
        return Target(target, None)
    if target == b"*":
        if method == b"OPTIONS":
            return Target(target, None)
        raise _refuse("target * is only for OPTIONS")
    match = _absolute_form(target)
    if match is None:
        raise _refuse("target is neither a path nor an http URI, or holds a byte that it must not")
    authority, path = match[1], match[2]
    check_host(authority)
    if path is None:
        # RFC 9112 section 3.2.4: the last proxy turns OPTIONS without path and query into "*".
        path = b"*" if method == b"OPTIONS" else b"/"
    elif path.startswith(b"?"):
        path = b"/" + path
    return Target(path, authority)


# uri-host [":" port]. No comma in a name: it is how lists of hosts look. Escapes are looked at one by one.
_host_and_port = re.compile(
    rb"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9\-._~!$&'()*+;=%]+))(?::([0-9]{0,5}))?",
).fullmatch
_escapes = re.compile(rb"%([0-9A-Fa-f]{2})?")
_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


@functools.lru_cache(maxsize=HOSTS_REMEMBERED)
def check_host(value: bytes) -> bytes:
    """The host in a Host value or an authority: lower case, without port and without one trailing dot.

    IPv6 comes back in brackets in its shortest form (RFC 5952). Escaped unreserved characters are decoded;
    octets above 0x7F stay escaped; any other escape is refused, since a reader that decodes it sees another
    authority. Empty is refused: an http URI must have a host (RFC 9110 section 4.2.1).
    Raises ProtocolError(BAD_REQUEST). Remembered, because a listener sees few names again and again and this
    costs a microsecond on every request; errors are not remembered.
    """
    match = _host_and_port(value)
    if match is None:
        raise _refuse("Host is empty" if not value else "Host is not host[:port]")
    literal, name, port = match.groups()
    if port and int(port) > 65535:
        raise _refuse("Host has a port above 65535")
    if literal is not None:
        try:
            return b"[%b]" % ipaddress.IPv6Address(literal.decode("ascii")).compressed.encode("ascii")
        except ValueError:
            raise _refuse("Host has a bad IPv6 address") from None
    if b"%" in name:
        name = _escapes.sub(_host_escape, name)
    name = name.lower().removesuffix(b".")
    if not name or len(name) > HOST_BYTES_MAX:
        raise _refuse("Host is empty" if not name else f"Host is longer than {HOST_BYTES_MAX} bytes")
    return name


def _host_escape(match: re.Match[bytes]) -> bytes:
    if match[1] is None:
        raise _refuse("Host has a % without two hex digits")
    octet = int(match[1], 16)
    if octet in _UNRESERVED:
        return bytes((octet,))
    if octet < 0x80:
        raise _refuse(f"Host has the escape %{octet:02X}")
    return match[0]


# A path in its normal form: no escape, no `\` or `#`, and no segment that is empty or begins with a dot. A few
# normal ones (`/.well-known`) fail this and take the long way to the same result.
_plain_path = re.compile(rb"(?:/[^%\\#/.][^%\\#/]*+)*+/?|\*").fullmatch
_slashes = re.compile(rb"//+")


def normalise_path(path: bytes) -> bytes:
    """The path for MATCHING only, never for forwarding; idempotent. b"*" stays.

    Escapes of unreserved characters are decoded, others are put in upper case (so `%2F` is no separator); runs
    of slashes become one; dot segments are removed, never above the root (RFC 3986 section 5.2.4).
    Raises ProtocolError(BAD_REQUEST) on `%00`, on `%` without two hex digits, on a raw backslash and on `#`.
    """
    if _plain_path(path) is not None:
        return path
    if b"\\" in path or b"#" in path:
        raise _refuse("path has a raw backslash or #")
    if b"%" in path:
        path = _escapes.sub(_path_escape, path)
    path = _slashes.sub(b"/", path)
    return _without_dot_segments(path) if b"/." in path else path


def _path_escape(match: re.Match[bytes]) -> bytes:
    if match[1] is None:
        raise _refuse("path has a % without two hex digits")
    octet = int(match[1], 16)
    if octet in _UNRESERVED:
        return bytes((octet,))
    if not octet:
        raise _refuse("path has the escape %00")
    return match[0].upper()


def _without_dot_segments(path: bytes) -> bytes:
    kept: list[bytes] = []
    segments = path.split(b"/")[1:]
    for segment in segments:
        if segment == b"..":
            if kept:
                kept.pop()
        elif segment != b".":
            kept.append(segment)
    if segments[-1] in (b".", b".."):
        kept.append(b"")  # it named a folder
    return b"/" + b"/".join(kept)


def split_query(path_and_query: bytes) -> tuple[bytes, bytes]:
    """The path, and the query without its `?` (b"" if there is none)."""
    path, _, query = path_and_query.partition(b"?")
    return path, query
