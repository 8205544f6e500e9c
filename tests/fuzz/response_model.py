"""What must become of the bytes that a backend sent: responses read strictly from RFC 9112, with our decisions."""

import re
from dataclasses import dataclass, field
from http import HTTPStatus

from tests.fuzz.model import (
    CHUNKED,
    UNTIL_CLOSE,
    Body,
    Fields,
    Framing,
    Pairs,
    members,
    nominated,
    plain_number,
    read_body,
    read_fields,
)

HEAD_BYTES = 80 * 1024
HEADER_COUNT = 200
INTERIM_MAX = 20
DATE = b"<date>"
HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Asked:
    """The request that is answered, as far as the answer depends on it."""

    method: bytes = b"GET"
    minor: int = 1
    close: bool = False  # the client said so
    trailers: bool = False  # the client said TE: trailers
    upgrade: bool = False  # to websocket
    uploading: bool = False  # part of the request is still to come


@dataclass(slots=True)
class Head:
    """A response head as the client gets it."""

    status: int
    reason: bytes
    fields: Pairs


NO_BODY = Body("open", b"", [], -1)


@dataclass(slots=True)
class Expected:
    """What the client gets: `interims`, then what `ending` says.

    relayed: `final` and `body` whole · cut: `final` and a part of `body`, then a reset · open: the same, and no end yet
    bad: an answer 502 of ours · tunnel: `final` is the 101, then `body` as it came · waiting: nothing more yet
    lost: the backend closed, having said `said` bytes of a head.
    `reusable`: the backend's connection can serve another request.
    """

    interims: list[Head] = field(default_factory=list)
    ending: str = "waiting"
    final: Head | None = None
    framing: Framing = None
    body: Body = NO_BODY
    close: bool = False
    reusable: bool = False
    said: int = 0
    doomed: bool = False  # while waiting: what came can be seen to be no head


class _BadResponseError(Exception):
    """The response cannot be passed on."""


@dataclass(slots=True)
class _Parsed:
    status: int
    reason: bytes
    old: bool
    fields: Fields
    framing: Framing  # None: neither length nor coding
    options: list[bytes]


def read_responses(data: bytes, asked: Asked, *, ended: bool) -> Expected:
    """What the client is to see of `data`, which is all that the backend sent; `ended`: and then it closed."""
    expected = Expected()
    try:
        _read(data, asked, expected, ended=ended)
    except _BadResponseError:
        expected.ending = "bad"
    return expected


def _read(data: bytes, asked: Asked, expected: Expected, *, ended: bool) -> None:
    at = 0
    persists = True  # as far as interim responses say
    while True:
        end = data.find(b"\r\n\r\n", at) + 4
        if (end if end > 3 else len(data)) - at > HEAD_BYTES:
            raise _BadResponseError
        if end == 3:
            expected.said = len(data) - at
            expected.ending = "lost" if ended else "waiting"
            begun = data[at:]
            bare = begun.replace(b"\r\n", b"").count(b"\n")
            expected.doomed = not begun.startswith(b"HTTP/"[: expected.said]) or bare > 0
            return
        parsed = _parse(data[at : end - 4])
        at = end
        if parsed.status >= 200:
            _final(data[at:], parsed, asked, expected)
            expected.ending = _ending(expected.body, parsed.framing, ended=ended)
            expected.reusable = expected.reusable and persists
            return
        if parsed.status == 101:
            _switch(data[at:], parsed, asked, expected)
            return
        if len(expected.interims) == INTERIM_MAX:
            raise _BadResponseError
        persists = persists and _persists(parsed) and parsed.framing != CHUNKED
        expected.interims.append(_interim(parsed))


_status_line = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: ([\t -~\x80-\xff]*))?").fullmatch


def _parse(raw: bytes) -> _Parsed:
    first, *lines = raw.split(b"\r\n")
    line = _status_line(first)
    fields = read_fields(lines)
    if line is None or fields is None or len(lines) > HEADER_COUNT:
        raise _BadResponseError
    status = int(line[2])
    reason = line[3] or b""
    if not reason or not reason.isascii():
        reason = HTTPStatus(status).phrase.encode() if status in _PHRASES else b"Unknown"
        reason = _NEW_PHRASES.get(status, reason)
    lengths, codings = fields(b"content-length"), fields(b"transfer-encoding")
    if len(lengths) + len(codings) > 1:
        raise _BadResponseError
    framing: Framing = None
    if lengths:
        if not plain_number(lengths[0]):
            raise _BadResponseError
        framing = int(lengths[0])
    elif codings:
        if codings[0].lower() != b"chunked" or line[1] == b"0":
            raise _BadResponseError
        framing = CHUNKED
    return _Parsed(status, reason, line[1] == b"0", fields, framing, members(fields(b"connection")))


# What Python's table calls otherwise than RFC 9110 and the registry, or lacks.
_NEW_PHRASES = {
    104: b"Upload Resumption Supported", 413: b"Content Too Large", 414: b"URI Too Long", 416: b"Range Not Satisfiable",
    422: b"Unprocessable Content", 418: b"Unknown", 306: b"Unknown", 302: b"Found",
}  # fmt: skip
_PHRASES = {status.value for status in HTTPStatus}


def _passed(parsed: _Parsed, *, drop_length: bool, frames: bool = True) -> tuple[Pairs, Pairs]:
    """The backend's fields that travel on, and the Content-Length that is written anew because of its white space."""
    gone = nominated(parsed.options)
    kept: Pairs = []
    anew: Pairs = []
    for line in parsed.fields.lines:
        if line.key in HOP_BY_HOP or line.key in gone:
            continue
        if line.key == b"content-length":
            if drop_length:
                continue
            if frames and line.raw != b" " + line.value:
                anew.append((b"Content-Length", line.value))
                continue
        kept.append((line.name, line.value))
    return kept, anew


def _persists(parsed: _Parsed) -> bool:
    return b"close" not in parsed.options and (not parsed.old or b"keep-alive" in parsed.options)


def _interim(parsed: _Parsed) -> Head:
    kept, _ = _passed(parsed, drop_length=True)
    return Head(parsed.status, parsed.reason, kept)


def _switch(behind: bytes, parsed: _Parsed, asked: Asked, expected: Expected) -> None:
    """RFC 9110 section 7.8: only to what was offered, and only if it says so in both fields."""
    offer = [value.lower() for value in parsed.fields(b"upgrade")]
    if not asked.upgrade or offer != [b"websocket"] or b"upgrade" not in parsed.options:
        raise _BadResponseError
    kept, _ = _passed(parsed, drop_length=True)
    kept += [(b"Connection", b"upgrade"), (b"Upgrade", b"websocket")]
    expected.final = Head(101, parsed.reason, kept)
    expected.ending = "tunnel"
    expected.body = Body("open", behind, [], -1)


def _final(behind: bytes, parsed: _Parsed, asked: Asked, expected: Expected) -> None:
    status, framing = parsed.status, parsed.framing
    bodiless = asked.method == b"HEAD" or status in (204, 304)
    keep = _persists(parsed)
    if status == 204:
        if framing not in (None, 0, CHUNKED):
            raise _BadResponseError
        keep = keep and framing != CHUNKED
    elif status == 205 and not bodiless and framing not in (None, 0):
        raise _BadResponseError
    kept, anew = _passed(parsed, drop_length=status == 204, frames=not bodiless)
    sent: Framing = framing
    if bodiless:
        sent = framing = None
    elif status == 205:
        keep = keep and framing is not None
        if framing is None:
            anew.append((b"Content-Length", b"0"))
        sent = framing = 0
    elif framing is None:
        framing = UNTIL_CLOSE
        keep = False
        sent = CHUNKED if asked.minor else UNTIL_CLOSE
    elif framing == CHUNKED and not asked.minor:
        sent = UNTIL_CLOSE
    parsed.framing = framing
    body = read_body(behind, 0, framing)
    expected.close = asked.close or asked.minor == 0 or asked.uploading
    if sent == CHUNKED:
        kept.append((b"Transfer-Encoding", b"chunked"))
    kept += anew
    if not parsed.fields(b"date"):
        kept.append((b"Date", DATE))
    if expected.close:
        kept.append((b"Connection", b"close"))
    expected.final = Head(status, parsed.reason, kept)
    expected.framing = sent
    gone = nominated(parsed.options)
    trailers = [pair for pair in body.trailers if pair[0].lower() not in gone]
    expected.body = body._replace(trailers=trailers if asked.trailers and sent == CHUNKED else [])
    expected.reusable = keep and not asked.uploading and body.state == "complete" and body.end == len(behind)


def _ending(body: Body, framing: Framing, *, ended: bool) -> str:
    if body.state == "complete":
        return "relayed"
    if body.state == "bad":
        return "cut"
    if not ended:
        return "open"
    return "relayed" if framing == UNTIL_CLOSE else "cut"
