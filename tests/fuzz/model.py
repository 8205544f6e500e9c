"""What both models share: field lines, chunked bodies and trailers, read strictly and naively.

The models are the second opinion of the fuzzer. They are written from RFC 9110 and 9112 and from the decisions that
the conformance rows list, and use nothing of `balancer.http1`; where they and the code differ, one of them is wrong.
"""

import re
import socket
from typing import NamedTuple

token = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
text = re.compile(rb"[\t -~\x80-\xff]*").fullmatch  # SP, HTAB, VCHAR and obs-text: RFC 9110 section 5.5
plain_number = re.compile(rb"0|[1-9][0-9]{0,17}").fullmatch

CHUNKED = "chunked"
UNTIL_CLOSE = "until close"
Framing = int | str | None
Pairs = list[tuple[bytes, bytes]]

EMPTY_LINES = 4
SIZE_MAX = 2**53
EXTENSION_MAX = 256
EXTENSIONS_MAX = 16 * 1024
TRAILER_BYTES = 8 * 1024
TRAILER_FIELDS = 64
HOST_BYTES = 255

# What a client may not have removed by naming it in Connection.
PROTECTED = frozenset(
    b"host content-length transfer-encoding content-type content-encoding authorization cookie cache-control expect "
    b"forwarded via x-request-id x-real-ip x-forwarded-for x-forwarded-proto x-forwarded-host x-forwarded-port "
    b"date".split()
)
CONNECTION_WORDS = frozenset((b"close", b"keep-alive", b"upgrade", b"te", b""))


class Field(NamedTuple):
    """A field line: the value without the white space around it, and `raw`, all that stands behind the colon."""

    name: bytes
    key: bytes  # the name in lower case
    value: bytes
    raw: bytes


class Fields:
    """Field lines in their order, and the values under each name."""

    __slots__ = ("_values", "lines")

    def __init__(self, lines: list[Field]) -> None:
        self.lines = lines
        self._values: dict[bytes, list[bytes]] = {}
        for line in lines:
            self._values.setdefault(line.key, []).append(line.value)

    def __call__(self, key: bytes) -> list[bytes]:
        """The values of all lines of a name."""
        return self._values.get(key, [])


NO_FIELDS = Fields([])


def read_fields(lines: list[bytes]) -> Fields | None:
    """The field lines, or None if one of them is none (RFC 9112 section 5)."""
    fields = []
    for line in lines:
        name, colon, raw = line.partition(b":")
        if not colon or not token(name) or not text(raw):
            return None
        fields.append(Field(name, name.lower(), raw.strip(b" \t"), raw))
    return Fields(fields)


def members(lines: list[bytes]) -> list[bytes]:
    """The members of a list that may stand on several lines, in lower case (RFC 9110 section 5.6.1)."""
    return [member.strip(b" \t").lower() for line in lines for member in line.split(b",")]


def nominated(options: list[bytes]) -> set[bytes]:
    """The names of fields that these options of Connection take with them."""
    return {option for option in options if option not in PROTECTED and option not in CONNECTION_WORDS}


class Body(NamedTuple):
    """A body as far as it came. `end` is the offset behind it, -1 unless `state` is "complete"."""

    state: str  # complete | open | bad
    content: bytes
    trailers: Pairs
    end: int


def read_body(data: bytes, at: int, framing: Framing) -> Body:
    """The body at `at` of the message with this framing."""
    if framing == CHUNKED:
        return read_chunks(data, at)
    if framing == UNTIL_CLOSE:
        return Body("open", data[at:], [], -1)
    assert not isinstance(framing, str)
    size = framing or 0
    if len(data) - at < size:
        return Body("open", data[at:], [], -1)
    return Body("complete", data[at : at + size], [], at + size)


_size_line = re.compile(
    rb"([0-9A-Fa-f]{1,16})"
    rb"((?:;[!#$%&'*+\-.^_`|~0-9A-Za-z]+(?:=(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
    rb'|"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"))?)*)'
).fullmatch
trailer_start = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+(?::[\t -~\x80-\xff]*\r?)?|\r)?").fullmatch
_COMPLETIONS = (b"", b"0", b"a", b'"', b'a"')


def _may_become_size_line(line: bytes) -> bool:
    """Whether something can follow that makes a good line of it."""
    if line.endswith(b"\r"):
        return _good_size(_size_line(line[:-1]))
    return any(_good_size(_size_line(line + more)) for more in _COMPLETIONS)


def _good_size(match: re.Match[bytes] | None) -> bool:
    return match is not None and int(match[1], 16) <= SIZE_MAX and len(match[2]) <= EXTENSION_MAX


def read_chunks(data: bytes, at: int) -> Body:
    """A chunked body (RFC 9112 section 7.1), without the white space that some readers tolerate."""
    content = b""
    extensions = 0
    while True:
        behind = data.find(b"\r\n", at)
        if behind < 0:
            return Body("open" if _may_become_size_line(data[at:]) else "bad", content, [], -1)
        match = _size_line(data[at:behind])
        if match is None or not _good_size(match):
            return Body("bad", content, [], -1)
        extensions += len(match[2])
        if extensions > EXTENSIONS_MAX:
            return Body("bad", content, [], -1)
        at = behind + 2
        size = int(match[1], 16)
        if not size:
            return _read_trailers(data, at, content)
        content += data[at : at + size]
        at += size
        if not b"\r\n".startswith(data[at : at + 2]):
            return Body("bad", content, [], -1)
        if len(data) < at + 2:
            return Body("open", content, [], -1)
        at += 2


def _read_trailers(data: bytes, at: int, content: bytes) -> Body:
    trailers: Pairs = []
    start = at
    while True:
        behind = data.find(b"\r\n", at)
        if behind < 0:
            good = trailer_start(data[at:]) and len(data) - start <= TRAILER_BYTES + 1
            return Body("open" if good else "bad", content, [], -1)
        if behind == at:
            return Body("complete", content, [pair for pair in trailers if may_be_trailer(pair[0])], behind + 2)
        name, colon, value = data[at:behind].partition(b":")
        trailers.append((name, value.strip(b" \t")))
        at = behind + 2
        if not colon or not token(name) or not text(value):
            return Body("bad", content, [], -1)
        if at - start > TRAILER_BYTES or len(trailers) > TRAILER_FIELDS:
            return Body("bad", content, [], -1)


# RFC 9110 section 6.5.1, name by name: framing, routing, authentication, controls of the request and of the response.
_NOT_TRAILERS = re.compile(
    rb"transfer-encoding|te|trailer|connection|keep-alive|upgrade|proxy-.*|content-(?!digest$).*"
    rb"|host|via|forwarded|max-forwards|x-forwarded-.*|x-real-ip|x-request-id"
    rb"|authorization|www-authenticate|authentication-info|(?:set-)?cookie2?"
    rb"|expect|range|if-.*|cache-control|pragma|vary|age|date|expires|location|retry-after|warning|allow"
).fullmatch


def may_be_trailer(name: bytes) -> bool:
    """Whether a trailer field of this name may travel on; `_` counts as `-`: some backends cannot tell them apart."""
    key = name.lower()
    return not _NOT_TRAILERS(key.replace(b"_", b"-")) or key == b"content-digest"


_host_port = re.compile(rb"(\[[^\[\]]*\]|[^:\[\]]*)(?::([0-9]{0,5}))?").fullmatch
_name = re.compile(rb"(?:[A-Za-z0-9\-._~!$&'()*+;=]|%[0-9A-Fa-f]{2})+").fullmatch
_escape = re.compile(rb"%([0-9A-Fa-f]{2})")
_unreserved = re.compile(rb"[A-Za-z0-9\-._~]").fullmatch


def valid_host(value: bytes) -> bool:
    """`uri-host [":" port]` of RFC 3986 section 3.2.2, without what two readers would take for two hosts."""
    match = _host_port(value)
    if match is None:
        return False
    host, port = match[1], match[2]
    if port and int(port) > 65535:
        return False
    if host.startswith(b"["):
        try:
            socket.inet_pton(socket.AF_INET6, host[1:-1].decode("ascii"))
        except (OSError, ValueError):  # also what is no ASCII, or holds a NUL
            return False
        return True
    if not _name(host):
        return False
    host = _escape.sub(_readable, host).removesuffix(b".")
    reserved = any(int(escape[1], 16) < 0x80 for escape in _escape.finditer(host))
    return 0 < len(host) <= HOST_BYTES and not reserved


def _readable(match: re.Match[bytes]) -> bytes:
    octet = bytes((int(match[1], 16),))
    return octet if _unreserved(octet) else match[0]
