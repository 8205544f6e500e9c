"""Request heads: validated by llhttp, then read once for the fields that an intermediary must understand.

Hot path: every request passes here once. llhttp judges the grammar of the bytes up to and including the empty
line (never a body). A plain head is then read by `plain_heads`; in any other one case-sensitive search over the
lower-cased head finds our fields. What must not travel on is kept as spans to cut, so that every other byte is
forwarded as it came. RFC 9112 sections 2-6, RFC 9110 7.6.1.
"""

import re

from httptools import (
    HttpParserCallbackError,
    HttpParserError,
    HttpParserInvalidMethodError,
    HttpParserUpgrade,
    HttpRequestParser,
)

from balancer.errors import (
    BAD_REQUEST,
    HEAD_TOO_LARGE,
    METHOD_REFUSED,
    METHOD_UNKNOWN,
    URI_TOO_LONG,
    VERSION_UNSUPPORTED,
    ProtocolError,
)
from balancer.http1.message import PLAIN, RareFields, RequestHead
from balancer.http1.partial import REQUEST_LINE
from balancer.http1.plain_heads import plain_request
from balancer.http1.request_fields import RequestFields
from balancer.http1.target import check_host, parse_target

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=\-]{1,128}")

# One byte in front of the names, so that the search is a memchr from line to line. The names that backends
# fold onto ours ("_" for "-" in a CGI environment) are found by the same pass.
_FIELDS = re.compile(
    rb"\n(host|con(?:nection|tent[-_]length)|x[-_]re(?:quest[-_]id|al[-_]ip)|x[-_]forwarded[-_](?:for|proto|host|port)"
    rb"|t(?:e|ransfer[-_]encoding)|upgrade|expect|via|forwarded|keep[-_]alive|proxy[-_]connection|max-forwards):([^\r]*)"
)


class _NoCallbacks:
    """llhttp is asked for a verdict only; a callback per field would cost more than the rest of this module."""

    __slots__ = ()


_VERDICT_ONLY = _NoCallbacks()


def parse_request_head(raw: bytes, uri_bytes: int, header_count: int) -> RequestHead:
    """The head in `raw`, which ends with its empty line and starts with its request line.

    Raises ProtocolError with the outcome to answer. O(head).
    """
    try:
        HttpRequestParser(_VERDICT_ONLY).feed_data(raw)
    except HttpParserUpgrade:
        pass  # whether it is one is decided below, by our own rules
    except (HttpParserError, HttpParserCallbackError) as error:
        raise _verdict(raw, error) from None
    plain = plain_request(raw, uri_bytes, header_count)
    if plain is None:
        return _read_head(raw, uri_bytes, header_count)
    line_end, method, target, minor, host_field, request_id, length, cuts = plain
    return RequestHead(
        raw, line_end, method, target, minor, host_field, request_id, length, cuts, check_host(host_field)
    )


def _read_head(raw: bytes, uri_bytes: int, header_count: int) -> RequestHead:
    """Any head that llhttp accepted, with whatever it says."""
    line_end = raw.find(b"\r\n")
    parts = raw[:line_end].split(b" ")
    if len(parts) != 3 or raw[0] < 33:  # llhttp skips CR and LF in front of a method
        raise ProtocolError(BAD_REQUEST, "request line is not METHOD SP target SP version")
    method, target, version = parts
    minor = 1
    if version != b"HTTP/1.1":
        if version != b"HTTP/1.0":
            raise _version_error(version)
        minor = 0
    if len(target) > uri_bytes:
        raise ProtocolError(URI_TOO_LONG, "request target is longer than uri_bytes")
    if raw.count(b"\n") - 2 > header_count:
        raise ProtocolError(HEAD_TOO_LARGE, "more fields than header_count")
    if method == b"PRI":  # llhttp takes it with HTTP/1.0; RFC 9113 section 3.4 keeps it from meaning anything
        raise ProtocolError(METHOD_UNKNOWN, "PRI is no method of HTTP/1")
    if method in _REFUSED:
        raise ProtocolError(METHOD_REFUSED, "CONNECT and TRACE are not proxied")
    head = RequestHead(raw, line_end, method, target, minor)
    if minor == 0:
        head.keep_alive = False
    _read_fields(head, raw)
    if not _PLAIN_TARGET(target):
        _apply_target(head, method, target)
    if head.host_field:
        head.host = check_host(head.host_field)
    elif minor:
        raise ProtocolError(BAD_REQUEST, "HTTP/1.1 without Host")
    else:
        head.host = b""
    return head


_REFUSED = frozenset((b"CONNECT", b"TRACE"))
# Origin-form without anything that parse_target or the path's normal form would refuse.
_PLAIN_TARGET = re.compile(rb"/(?:[!\"$&-\[\]-~]|%(?!00)[0-9A-Fa-f]{2})*").fullmatch


def _apply_target(head: RequestHead, method: bytes, target: bytes) -> None:
    parsed = parse_target(method, target)
    head.target = parsed.path_and_query
    _ = head.path  # a path without a normal form is refused, whether a route asks for it or not
    if parsed.authority is not None:
        # RFC 9112 3.2.2 says ignore Host; a Host that differs is refused instead, as routing confusion.
        if head.host_field and head.host_field.lower() != parsed.authority.lower():
            raise ProtocolError(BAD_REQUEST, "Host differs from the authority of the target")
        if not head.host_field and head.minor:
            raise ProtocolError(BAD_REQUEST, "HTTP/1.1 without Host")
        if head.host_field != parsed.authority:  # there is none, or one in another case
            if head.rare is PLAIN:
                head.rare = RareFields()
            head.rare.host_from_target = True
            head.host_field = parsed.authority


def _read_fields(head: RequestHead, raw: bytes) -> None:
    rare: list[tuple[bytes, int, int, bytes]] | None = None
    for match in _FIELDS.finditer(raw.lower()):
        name = match[1]
        start, end = match.span(2)
        value = raw[start:end].strip(b" \t")
        if name == b"host":
            if head.host_field or not value:
                raise ProtocolError(BAD_REQUEST, "Host is repeated or empty")
            head.host_field = value
        elif name == b"x-request-id" and not head.request_id and _REQUEST_ID.fullmatch(value):
            head.request_id = value
        else:
            if rare is None:
                rare = []
            rare.append((name, match.start() - 1, end, value))
    if rare is not None:
        RequestFields(head).read(rare)


def _version_error(version: bytes) -> ProtocolError:
    if re.fullmatch(rb"HTTP/\d\.\d", version):
        return ProtocolError(VERSION_UNSUPPORTED, "only HTTP/1.0 and HTTP/1.1 are spoken")
    return ProtocolError(BAD_REQUEST, "not an HTTP version")


def _verdict(raw: bytes, error: Exception) -> ProtocolError:
    """The outcome for a head that llhttp refused: a lawful line may still ask for what we do not speak."""
    line = REQUEST_LINE.fullmatch(raw[: raw.find(b"\r\n")])
    if line is not None:
        if (line[3], line[4]) not in ((b"1", b"0"), (b"1", b"1")):
            return ProtocolError(VERSION_UNSUPPORTED, "only HTTP/1.0 and HTTP/1.1 are spoken")
        if isinstance(error, HttpParserInvalidMethodError):
            return ProtocolError(METHOD_UNKNOWN, "the method is not known")
        if line[1] in _REFUSED:
            return ProtocolError(METHOD_REFUSED, "CONNECT and TRACE are not proxied")
    return ProtocolError(BAD_REQUEST, str(error))
