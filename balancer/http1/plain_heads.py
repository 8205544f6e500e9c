"""Plain heads: read at once where nothing in them asks for thought; the parsers of request.py and response.py do the
rest.

Nearly every head is plain: one Host, one plain length, no field that changes framing, names the client or concerns
one connection only, but for `Connection: keep-alive`. `plain_request` and `plain_response` say what the full parser
would say of such a head, and None of any other. They take any bytes, but are no judge of grammar: llhttp is asked
first, as for every head, and the caller checks the host.

The twins in this module are the specification. `_plain_heads.c` does the same at a fraction of the cost where it
could be built (COMPILED); tests hold it to the twins, and the twins to the full parsers. The twins are written to be
read and slower than those: where COMPILED is false no head counts as plain.
"""

import re
from collections.abc import Callable
from typing import Final

from balancer.http1.message import NO_BODY, PLAIN_LENGTH, TOKEN

RESPONSE_FIELDS: Final = 200
"""As HEADER_COUNT of response.py."""

PlainRequest = tuple[int, bytes, bytes, int, bytes, bytes, int, list[tuple[int, int]]]
"""line_end, method, target, minor (1), host_field, request_id (b"" = none), length, cuts: as in RequestHead."""
PlainResponse = tuple[int, int, int, list[tuple[int, int]], bool]
"""status, line_end, length, cuts, has_date: as in ResponseHead."""

_request_line = re.compile(rb"([A-Z]{1,20}) (/(?:[!\"$&-\[\]-~]|%(?!00)[0-9A-Fa-f]{2})*) HTTP/1\.1").fullmatch
_status_line = re.compile(rb"HTTP/1\.1 ([2-5][0-9]{2}) [\t -~]+").fullmatch
_field_line = re.compile(rb"(" + TOKEN + rb"):([^\0\r\n]*)").fullmatch
_request_id = re.compile(rb"[A-Za-z0-9._:/+=\-]{1,128}").fullmatch

_OTHER_METHODS: Final = frozenset((b"CONNECT", b"TRACE", b"OPTIONS", b"PRI"))
_OTHER_STATUSES: Final = frozenset((204, 205, 304))  # no body, whatever the fields say
_OTHER_FIELDS: Final = frozenset((b"transfer-encoding", b"te", b"upgrade", b"keep-alive", b"proxy-connection"))
_OTHER_REQUEST_FIELDS: Final = _OTHER_FIELDS | frozenset(
    b"expect via forwarded max-forwards x-real-ip x-forwarded-for x-forwarded-proto x-forwarded-host x-forwarded-port"
    b"".split()
)
_SINGLE: Final = frozenset((b"host", b"connection", b"content-length", b"x-request-id"))

_Line = tuple[bytes, bytes, int, int]
"""Name in lower case, text behind the colon, start (at the CRLF in front), end (at the CRLF behind)."""


def head_end_twin(data: bytes, offset: int) -> int:
    """The offset behind the first empty line that ends in data[offset:], with the CRLF in front of it; -1 = none."""
    found = data.find(b"\r\n\r\n", offset)
    return found + 4 if found >= 0 else -1


def plain_request_twin(raw: bytes, uri_bytes: int, header_count: int) -> PlainRequest | None:
    """The head in `raw` if it is plain. O(head)."""
    first, fields = _lines(raw)
    start = _request_line(first)
    if start is None or fields is None or len(fields) > header_count:
        return None
    method, target = start.groups()
    if method in _OTHER_METHODS or len(target) > uri_bytes:
        return None
    single: dict[bytes, _Line] = {}
    for line in fields:
        name = line[0].replace(b"_", b"-")  # what a CGI environment makes of it
        if name in _OTHER_REQUEST_FIELDS:
            return None
        if name in _SINGLE:
            if name in single or name != line[0]:
                return None
            single[name] = line
    host, request_id = (single[name][1].strip(b" \t") if name in single else b"" for name in (b"host", b"x-request-id"))
    length, cuts = _length(single), _cuts(single)
    if not host or length is None or cuts is None:
        return None
    if b"x-request-id" in single and not _request_id(request_id):
        return None
    return len(first), method, target, 1, host, request_id, length, cuts


def plain_response_twin(raw: bytes) -> PlainResponse | None:
    """The head in `raw` if it is plain, and not an answer to HEAD, which the caller knows. O(head)."""
    first, fields = _lines(raw)
    start = _status_line(first)
    if start is None or fields is None or len(fields) > RESPONSE_FIELDS or int(start[1]) in _OTHER_STATUSES:
        return None
    single: dict[bytes, _Line] = {}
    for line in fields:
        name = line[0]
        if name in _OTHER_FIELDS:
            return None
        if name in (b"content-length", b"connection"):
            if name in single:
                return None
            single[name] = line
    length, cuts = _length(single), _cuts(single)
    if b"content-length" not in single or length is None or cuts is None:
        return None
    return int(start[1]), len(first), length, cuts, any(line[0] == b"date" for line in fields)


def _lines(raw: bytes) -> tuple[bytes, list[_Line] | None]:
    """The first line, and the field lines; None for these unless each is one and an empty line ends them."""
    first, *rest = raw.removesuffix(b"\r\n\r\n").split(b"\r\n")
    if not raw.endswith(b"\r\n\r\n"):
        return first, None
    fields = []
    start = len(first)
    for line in rest:
        match = _field_line(line)
        if match is None:
            return first, None
        end = start + 2 + len(line)
        fields.append((match[1].lower(), match[2], start, end))
        start = end
    return first, fields


def _length(single: dict[bytes, _Line]) -> int | None:
    """The body's length if the line says it as we would write it; None if not."""
    if b"content-length" not in single:
        return NO_BODY
    text = single[b"content-length"][1]
    return int(text) if text.startswith(b" ") and PLAIN_LENGTH.fullmatch(text, 1) else None


def _cuts(single: dict[bytes, _Line]) -> list[tuple[int, int]] | None:
    """What does not travel on: a Connection line that says what is so anyway; None if it says more."""
    if b"connection" not in single:
        return []
    _, text, start, end = single[b"connection"]
    return [(start, end)] if text.strip(b" \t").lower() == b"keep-alive" else None


def _no_request(_raw: bytes, _uri_bytes: int, _header_count: int) -> None:
    """Not compiled: the full parser is faster than the twin."""


def _no_response(_raw: bytes) -> None:
    """Not compiled: the full parser is faster than the twin."""


head_end: Callable[[bytes, int], int] = head_end_twin
plain_request: Callable[[bytes, int, int], PlainRequest | None] = _no_request
plain_response: Callable[[bytes], PlainResponse | None] = _no_response
COMPILED = False
try:
    from balancer.http1 import _plain_heads as _compiled

    _functions = _compiled.head_end, _compiled.plain_request, _compiled.plain_response
except (ImportError, AttributeError):  # not built (no compiler, no Python headers), or built of an older source
    pass
else:
    head_end, plain_request, plain_response = _functions
    COMPILED = True
