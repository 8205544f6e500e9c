"""Answers of our own: whole responses that say little and reflect nothing of the request.

Law: Content-Length is always right, and no octet of a request can get into an answer except through `fields`
and `body`, which only configuration and code fill.
"""

import re
from typing import Final

REASONS: Final[dict[int, bytes]] = {
    100: b"Continue",
    101: b"Switching Protocols",
    102: b"Processing",
    103: b"Early Hints",
    104: b"Upload Resumption Supported",
    200: b"OK",
    201: b"Created",
    202: b"Accepted",
    203: b"Non-Authoritative Information",
    204: b"No Content",
    205: b"Reset Content",
    206: b"Partial Content",
    207: b"Multi-Status",
    208: b"Already Reported",
    226: b"IM Used",
    300: b"Multiple Choices",
    301: b"Moved Permanently",
    302: b"Found",
    303: b"See Other",
    304: b"Not Modified",
    305: b"Use Proxy",
    307: b"Temporary Redirect",
    308: b"Permanent Redirect",
    400: b"Bad Request",
    401: b"Unauthorized",
    402: b"Payment Required",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    406: b"Not Acceptable",
    407: b"Proxy Authentication Required",
    408: b"Request Timeout",
    409: b"Conflict",
    410: b"Gone",
    411: b"Length Required",
    412: b"Precondition Failed",
    413: b"Content Too Large",
    414: b"URI Too Long",
    415: b"Unsupported Media Type",
    416: b"Range Not Satisfiable",
    417: b"Expectation Failed",
    421: b"Misdirected Request",
    422: b"Unprocessable Content",
    423: b"Locked",
    424: b"Failed Dependency",
    425: b"Too Early",
    426: b"Upgrade Required",
    428: b"Precondition Required",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    451: b"Unavailable For Legal Reasons",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
    506: b"Variant Also Negotiates",
    507: b"Insufficient Storage",
    508: b"Loop Detected",
    510: b"Not Extended",
    511: b"Network Authentication Required",
}
"""Registered status codes and their phrases (IANA, HTTP Status Codes; 306 and 418 are reserved without meaning)."""

STATUS_LINE: Final[dict[int, bytes]] = {
    status: b"HTTP/1.1 %d %b\r\n" % (status, reason) for status, reason in REASONS.items()
}


def answer(
    status: int,
    *,
    json: bool = False,
    close: bool = False,
    head: bool = False,
    date: bytes = b"",
    fields: bytes = b"",
    body: bytes | None = None,
    content_type: bytes = b"text/plain; charset=utf-8",
) -> bytes:
    """A whole final response: head and body in one piece.

    Without `body` it is the status in words, as JSON if `json`. `head`: the answer to a HEAD request, which
    keeps Content-Length (RFC 9110 section 9.3.2). 204 and 304 have no body, nor the fields that describe one
    (sections 8.6, 15.3.5, 15.4.5); that of 205 is empty (15.3.6). `fields` are further lines, each ended by
    CRLF; `date` is the value of Date. A status without registered phrase gets an empty one.
    """
    lines = [STATUS_LINE.get(status) or b"HTTP/1.1 %d \r\n" % status]
    if date:
        lines.append(b"Date: %b\r\n" % date)
    if status in (204, 304):
        body = b""
    else:
        if status == 205:
            body = b""
        elif body is None:
            body, content_type = _default_body(status, json=json, content_type=content_type)
        if body:
            lines.append(b"Content-Type: %b\r\n" % content_type)
        lines.append(b"Content-Length: %d\r\n" % len(body))
    if close:
        lines.append(b"Connection: close\r\n")
    lines.append(fields)
    lines.append(b"\r\n")
    if not head:
        lines.append(body)
    return b"".join(lines)


def _default_body(status: int, *, json: bool, content_type: bytes) -> tuple[bytes, bytes]:
    reason = REASONS.get(status, b"Unknown")
    if json:
        return b'{"error":{"code":%d,"message":"%b"}}' % (status, reason), b"application/json"
    return b"%d %b\n" % (status, reason), content_type


_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*+"'
_PARAMETER = rb"(?:[qQ]=(?P<weight>" + _TOKEN + rb")|(?![qQ]=)" + _TOKEN + rb"=(?:" + _TOKEN + rb"|" + _QUOTED + rb"))"
# One member of Accept and what must follow it (RFC 9110 section 12.5.1). Possessive: linear, whatever is sent.
_member = re.compile(
    rb"[ \t]*+(?:(?P<type>" + _TOKEN + rb")/(?P<subtype>" + _TOKEN + rb")(?:[ \t]*+;[ \t]*+" + _PARAMETER + rb")*+)?+"
    rb"[ \t]*+(?:,|\Z)"
).match
_qvalue = re.compile(rb"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?").fullmatch


def prefers_json(accept: list[bytes]) -> bool:
    """Whether the lines of Accept name JSON with at least the weight of text and of anything.

    JSON is application/json and types ending in +json, named outright: a client that takes all gets text. One
    malformed member makes the whole preference worthless: False. Linear in the lines' length.
    """
    named = 0.0
    others = 0.0
    for line in accept:
        position = 0
        while position < len(line):
            match = _member(line, position)
            if match is None:
                return False
            position = match.end()
            if match["type"] is None:
                continue  # empty list members are legal (RFC 9110 section 5.6.1)
            if match["weight"] is not None and _qvalue(match["weight"]) is None:
                return False
            weight = float(match["weight"] or 1)
            kind, subtype = match["type"].lower(), match["subtype"].lower()
            if kind == b"application" and (subtype == b"json" or subtype.endswith(b"+json")):
                named = max(named, weight)
            elif kind in (b"text", b"*"):
                others = max(others, weight)
    return named > 0 and named >= others
