"""What must become of the bytes that a client sent: requests read strictly from RFC 9112, with our decisions.

A verdict says what reaches the backend and what the client is told. Where several things are wrong with a request,
any of their statuses will do; where we may refuse what the RFC allows, `may_refuse` says with which.
"""

import re
from dataclasses import dataclass

from tests.fuzz.forwarding_model import Listener, RequestHead, offers_websocket, sent_fields
from tests.fuzz.model import (
    CHUNKED,
    EMPTY_LINES,
    Body,
    Framing,
    Pairs,
    members,
    nominated,
    plain_number,
    read_body,
    read_fields,
    token,
    trailer_start,
    valid_host,
)

FRAMING_TWINS = frozenset((b"content-length", b"transfer-encoding"))
# RFC 9110 section 9 and the registry, as far as WebDAV, UPnP and HTTP caches use it.
METHODS = frozenset(
    b"GET HEAD POST PUT DELETE OPTIONS PATCH ACL BIND CHECKOUT COPY LINK LOCK M-SEARCH MERGE MKACTIVITY MKCALENDAR "
    b"MKCOL MOVE NOTIFY PROPFIND PROPPATCH PURGE QUERY REBIND REPORT SEARCH SOURCE SUBSCRIBE UNBIND UNLINK UNLOCK "
    b"UNSUBSCRIBE".split()
)
# Methods of RTSP and of the preface of HTTP/2: not HTTP's, and refused as such or as unknown.
FOREIGN = frozenset(
    b"PRI DESCRIBE ANNOUNCE SETUP PLAY PAUSE TEARDOWN GET_PARAMETER SET_PARAMETER REDIRECT RECORD FLUSH".split()
)


@dataclass(slots=True)
class Forwarded:
    """A request that reaches the backend. `body` tells whether it is complete, still open, or broken."""

    method: bytes
    target: bytes
    fields: Pairs
    framing: Framing
    body: Body
    close: bool
    statuses: frozenset[int] = frozenset()  # with which a broken body is refused
    may_refuse: frozenset[int] = frozenset()


@dataclass(slots=True)
class Rejected:
    """Nothing reaches the backend; the client gets one of the statuses and the connection ends."""

    statuses: frozenset[int]
    head: bool = False


@dataclass(slots=True)
class Answered:
    """Nothing reaches the backend, but it is a good request. `close` None: it depends on how the body came."""

    statuses: frozenset[int]
    close: bool | None
    head: bool
    end: int  # behind its body; -1 = no further request can follow


@dataclass(slots=True)
class Unfinished:
    """The beginning of a head. It must, or may, be refused already."""

    must: frozenset[int]
    may: frozenset[int]


Verdict = Forwarded | Rejected | Answered | Unfinished


def read_requests(data: bytes, listener: Listener) -> list[Verdict]:
    """The verdicts on what `data` holds, one after the other, up to the one behind which nothing counts."""
    verdicts: list[Verdict] = []
    at = 0
    while True:
        skipped = 0
        while data.startswith(b"\r\n", at):
            at += 2
            skipped += 1
        if skipped > EMPTY_LINES:
            return [*verdicts, Rejected(frozenset((400,)))]
        if at >= len(data):
            return verdicts
        end = data.find(b"\r\n\r\n", at) + 4
        if end == 3:
            return [*verdicts, _unfinished(data[at:], listener)]
        verdict = _request(data, at, end, listener)
        verdicts.append(verdict)
        at = _behind(verdict)
        if at < 0:
            return verdicts


def _behind(verdict: Verdict) -> int:
    """Where the next request begins, -1 = there will be none."""
    if isinstance(verdict, Answered):
        return -1 if verdict.close else verdict.end
    if isinstance(verdict, Forwarded) and not verdict.close:
        return verdict.body.end
    return -1


def _request(data: bytes, at: int, end: int, listener: Listener) -> Verdict:
    head = _read_head(data[at : end - 4], listener)
    faults = head.faults
    if end - at > listener.head_bytes:
        faults.add(431)
    if faults and data.find(b"\r\n", at) - at > listener.uri_bytes:
        faults.add(414)
    if faults and b" " not in data[at : at + 21]:  # no method is that long
        faults.add(501)
    if data.count(b"\n", at, end) - 2 > listener.header_count:
        faults.add(431)
    if head.fields.lines or not faults:
        _framing(head)
        _host(head)
        _rest(head)
        if isinstance(head.framing, int) and listener.max_body is not None and head.framing > listener.max_body:
            faults.add(413)
    if faults:
        return Rejected(frozenset(faults | head.may_refuse), head.method == b"HEAD")
    return _settle(head, data, end, listener)


_bare_lf = re.compile(rb"(?<!\r)\n").search
_line_start = re.compile(
    rb"\r?|[!#$%&'*+\-.^_`|~0-9A-Za-z]+(?: (?:[!-~]+(?: (?:H(?:T(?:T(?:P(?:/(?:\d(?:\.(?:\d\r?)?)?)?)?)?)?)?)?)?)?)?"
).fullmatch
_line = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+ [^ ]+ HTTP/\d\.\d").fullmatch


def _unfinished(rest: bytes, listener: Listener) -> Unfinished:
    """No empty line yet. A line ended by LF alone, or one without end, is refused before it gets any longer."""
    must: set[int] = set()
    may: set[int] = set()
    if _bare_lf(rest):
        must.add(400)
    if len(rest) > listener.head_bytes:
        must.add(431)
    if b" " not in rest[:21] and len(rest) > 20:  # no method is that long
        may.add(501)
    first, ended, lines = rest.partition(b"\r\n")
    if not ended:
        if len(rest) > listener.uri_bytes + 32:
            must.add(414)
        if not _line_start(rest):
            may.add(400)
    elif not _line(first):
        must.add(400)
    else:
        complete, _, start = lines.rpartition(b"\r\n")
        may |= _read_head(first + b"\r\n" + complete if complete else first, listener).faults
        if not trailer_start(start):
            may.add(400)
    return Unfinished(frozenset(must), frozenset(may))


def _settle(head: RequestHead, data: bytes, end: int, listener: Listener) -> Verdict:
    options = members(head.fields(b"connection"))
    close = head.minor == 0 or b"close" in options
    body = read_body(data, end, head.framing)
    gone = nominated(options)
    body = body._replace(trailers=[pair for pair in body.trailers if pair[0].lower() not in gone])
    statuses: set[int] = {400} if body.state == "bad" else set()
    if listener.max_body is not None and len(body.content) > listener.max_body:
        statuses.add(413)
        body = Body("bad", body.content, [], -1)
    has_body = head.framing not in (None, 0)
    is_head = head.method == b"HEAD"
    forwards = head.fields(b"max-forwards") if head.method == b"OPTIONS" else []
    if forwards and int(forwards[0]) == 0:
        return Answered(
            frozenset({200} | statuses | head.may_refuse), None if has_body and not close else close, is_head, body.end
        )
    if _passages(head, listener) >= 2:
        return Answered(frozenset({508} | head.may_refuse), close or has_body, is_head, end)
    return Forwarded(
        head.method,
        head.target,
        sent_fields(head, options, listener),
        head.framing,
        body,
        close,
        frozenset(statuses),
        frozenset(head.may_refuse),
    )


_version = re.compile(rb"HTTP/[0-9]\.[0-9]").fullmatch
_visible = re.compile(rb"[!-~]+").fullmatch


def _read_head(raw: bytes, listener: Listener) -> RequestHead:
    """The parts of a head without its last two CRLF, with the faults of their grammar."""
    head = RequestHead()
    line, *lines = raw.split(b"\r\n")
    fields = read_fields(lines)
    if fields is None:
        head.faults.add(400)
    else:
        head.fields = fields
    _read_line(head, line, listener.uri_bytes)
    return head


def _read_line(head: RequestHead, line: bytes, uri_bytes: int) -> None:
    parts = line.split(b" ")
    if parts[0] == b"HEAD":
        head.method = b"HEAD"  # whatever else is wrong: such an answer has no content
    if len(parts) != 3 or not token(parts[0]) or not _version(parts[2]):
        head.faults.add(400)
        return
    head.method, target, version = parts
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        head.faults.add(505)
    head.minor = int(version[7:])
    if head.method in (b"CONNECT", b"TRACE"):
        head.faults.add(405)
    elif head.method in FOREIGN:
        head.faults |= {400, 501}
    elif head.method not in METHODS:
        head.faults.add(501)
    head.target = target
    if len(target) > uri_bytes:
        head.faults.add(414)
    if not _visible(target) or not _read_target(head, target):
        head.faults.add(400)


_absolute = re.compile(rb"https?://([^/?#]*)([/?].*)?", re.IGNORECASE | re.DOTALL).fullmatch
_bad_escape = re.compile(rb"%(?![0-9A-Fa-f]{2})|%00").search


def _read_target(head: RequestHead, target: bytes) -> bool:
    """RFC 9112 section 3.2; False if it is none of ours."""
    if b"#" in target:
        return False
    if target == b"*":
        return head.method == b"OPTIONS"
    match = _absolute(target)
    if match is not None:
        head.authority, rest = match[1], match[2] or b""
        if not rest:
            head.target = b"*" if head.method == b"OPTIONS" else b"/"
            return valid_host(head.authority)
        target = rest if rest.startswith(b"/") else b"/" + rest
        head.target = target
        if not valid_host(head.authority):
            return False
    path = target.partition(b"?")[0]
    return path.startswith(b"/") and b"\\" not in path and not _bad_escape(path)


def _host(head: RequestHead) -> None:
    hosts = head.fields(b"host")
    if (
        len(hosts) > 1
        or (not hosts and head.minor)
        or any(not valid_host(host) for host in hosts)
        or (hosts and head.authority is not None and hosts[0].lower() != head.authority.lower())
    ):
        head.faults.add(400)


def _framing(head: RequestHead) -> None:
    """RFC 9112 section 6; everything that two readers could read differently is refused."""
    lengths, codings = head.fields(b"content-length"), head.fields(b"transfer-encoding")
    if any(name.key.replace(b"_", b"-") in FRAMING_TWINS and b"_" in name.name for name in head.fields.lines):
        head.faults.add(400)
    if len(lengths) > 1 or any(not plain_number(length) for length in lengths) or (lengths and codings):
        head.faults.add(400)
    elif lengths:
        head.framing = int(lengths[0])
    if not codings:
        return
    if head.minor == 0:
        head.faults.add(400)
    if len(codings) > 1 or codings[0].lower() != b"chunked":
        head.faults |= {400, 501}
    head.framing = CHUNKED
    if any(b"\t" in field.raw for field in head.fields.lines if field.key == b"transfer-encoding"):
        head.may_refuse.add(400)  # lawful white space that hardly any sender uses, and that hides codings


def _rest(head: RequestHead) -> None:
    expected = head.fields(b"expect")
    if head.minor and expected and [value.lower() for value in expected] != [b"100-continue"]:
        head.faults.add(417)
    forwards = head.fields(b"max-forwards")
    if head.method == b"OPTIONS" and (len(forwards) > 1 or any(not plain_number(value) for value in forwards)):
        head.faults.add(400)
    if offers_websocket(head) and head.framing not in (None, 0):
        head.faults.add(400)


def _passages(head: RequestHead, listener: Listener) -> int:
    """How often the request passed us already (RFC 9110 section 7.6.3: protocol, white space, pseudonym)."""
    entries = b",".join(head.fields(b"via")).split(b",")
    passages = [re.split(rb"[ \t]+", entry.strip(b" \t")) for entry in entries]
    return sum(1 for words in passages if len(words) > 1 and words[1] == listener.via)
