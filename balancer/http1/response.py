"""Response heads: validated by llhttp, then read once for framing and hop-by-hop fields.

Hot path: every response passes here once. RFC 9112 sections 4 and 6.3, RFC 9110 sections 7.6.1 and 15.
"""

import re

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from balancer.errors import BAD_RESPONSE, RESPONSE_HEAD_TOO_LARGE, ProtocolError
from balancer.http1.answers import REASONS, STATUS_LINE
from balancer.http1.message import CHUNKED, NO_BODY, PLAIN_LENGTH, UNTIL_CLOSE, ResponseHead, cut_nominated
from balancer.http1.plain_heads import plain_response

HEAD_BYTES = 80 * 1024  # h11's and llhttp's own order; nginx's 4 KiB is a famous 502
HEADER_COUNT = 200

_FIELDS = re.compile(
    rb"\n(con(?:nection|tent-length)|transfer-encoding|keep-alive|proxy-connection|upgrade|te):([^\r]*)"
)


_KNOWN_LINES = frozenset(line[:-2] for line in STATUS_LINE.values())  # what nearly every backend sends
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: ([\t -~\x80-\xff]*))?").fullmatch


class _NoCallbacks:
    __slots__ = ()


_VERDICT_ONLY = _NoCallbacks()


def parse_response_head(raw: bytes, method: bytes) -> ResponseHead:
    """The head in `raw`, which ends with its empty line, of the answer to a request with `method`.

    Raises ProtocolError(BAD_RESPONSE) for everything that leaves the end of the message in doubt. O(head).
    """
    try:
        HttpResponseParser(_VERDICT_ONLY).feed_data(raw)
    except HttpParserUpgrade:
        pass  # 101 and answers to CONNECT: judged by the exchange
    except HttpParserError as error:
        raise ProtocolError(BAD_RESPONSE, str(error)) from None
    if len(raw) > HEAD_BYTES:
        raise ProtocolError(RESPONSE_HEAD_TOO_LARGE, "the response head is over 80 KiB")
    plain = plain_response(raw) if method != b"HEAD" else None
    if plain is None:
        return _read_head(raw, method)
    status, line_end, length, cuts, has_date = plain
    return ResponseHead(raw, status, line_end, raw[:line_end], length, cuts, has_date)


def _read_head(raw: bytes, method: bytes) -> ResponseHead:
    """Any head that llhttp accepted, with whatever it says."""
    line_end = raw.find(b"\r\n")
    line = raw[:line_end]
    if line not in _KNOWN_LINES:
        line = _lawful_line(line)
    status = int(raw[9:12])
    if raw.count(b"\n") - 2 > HEADER_COUNT:
        raise ProtocolError(RESPONSE_HEAD_TOO_LARGE, "more than 200 fields")
    head = ResponseHead(raw, status, line_end, line)
    _read_fields(head, raw, raw[7] == 48)  # "0" of HTTP/1.0
    if status < 200 or status == 204:
        if head.length > 0 and status == 204:
            raise ProtocolError(BAD_RESPONSE, "204 with content")
        _without_body(head)
    elif method == b"HEAD" or status == 304:
        if head.rewritten_length:  # it frames nothing here, so the line stays as it came
            head.cuts = [cut for cut in head.cuts if raw[cut[0] + 2 : cut[0] + 17].lower() != b"content-length:"]
            head.rewritten_length = False
        head.length = NO_BODY
    elif status == 205 and head.length != NO_BODY:
        if head.length != UNTIL_CLOSE:
            raise ProtocolError(BAD_RESPONSE, "205 with content")  # RFC 9110 15.3.6
        head.length = NO_BODY
        head.rewritten_length = True
        head.keep_alive = False
    elif head.length == UNTIL_CLOSE:
        head.keep_alive = False
    return head


def _lawful_line(line: bytes) -> bytes:
    """The status line to send on: our version, the backend's code and reason, ours where there is none to show.

    llhttp reads on over any byte of a reason, and takes codes below 100. Raises ProtocolError(BAD_RESPONSE).
    """
    match = _STATUS_LINE(line)
    if match is None:
        raise ProtocolError(BAD_RESPONSE, "not an HTTP/1 status line")
    code, reason = match.groups()
    if not reason or not reason.isascii():
        reason = REASONS.get(int(code), b"Unknown")
    return b"HTTP/1.1 %b %b" % (code, reason)


def _without_body(head: ResponseHead) -> None:
    """1xx and 204 have no body and say no length, whatever came (RFC 9112 6.1, 6.3; RFC 9110 8.6)."""
    if head.length == CHUNKED:
        head.keep_alive = False  # who frames what cannot be there may send it, too
    elif head.length >= 0 and not head.rewritten_length:
        for match in re.finditer(rb"\r\ncontent-length:[^\r]*", head.raw.lower()):
            head.cuts.append(match.span())
        head.cuts.sort()
    head.length = NO_BODY
    head.rewritten_length = False


def _read_fields(head: ResponseHead, raw: bytes, old: bool) -> None:
    cuts = head.cuts
    keep_alive = not old
    length = UNTIL_CLOSE
    options: bytes | None = None
    lowered = raw.lower()
    head.has_date = b"\ndate:" in lowered
    for match in _FIELDS.finditer(lowered):
        name, text = match.groups()
        value = text.strip(b" \t")
        if name == b"content-length":
            if length != UNTIL_CLOSE or not PLAIN_LENGTH.fullmatch(value):
                raise ProtocolError(BAD_RESPONSE, "Content-Length is repeated, not a plain number, or beside chunked")
            length = int(value)
            if text != b" " + value:
                cuts.append((match.start() - 1, match.end()))
                head.rewritten_length = True
            continue
        cuts.append((match.start() - 1, match.end()))
        if name == b"connection":
            options = value if options is None else options + b"," + value
        elif name == b"transfer-encoding":
            if old or length != UNTIL_CLOSE or value != b"chunked":
                raise ProtocolError(BAD_RESPONSE, "a transfer coding other than one 'chunked' of HTTP/1.1")
            length = CHUNKED
        elif name == b"upgrade":
            head.upgrade = head.upgrade + b"," + value if head.upgrade else value
    if options is not None:
        keep_alive = options == b"keep-alive" or _connection_options(head, options, keep_alive)
    head.length = length
    head.keep_alive = keep_alive
    if len(cuts) > 1:
        cuts.sort()


def _connection_options(head: ResponseHead, value: bytes, keep_alive: bool) -> bool:
    """Cut every field that Connection names (RFC 9110 7.6.1) and say whether the connection persists."""
    options = [option.strip(b" \t") for option in value.split(b",")]
    cut_nominated(head.raw.lower(), options, head.cuts)
    if b"close" in options:
        return False
    return keep_alive or b"keep-alive" in options
