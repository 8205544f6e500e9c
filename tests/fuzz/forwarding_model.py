"""Which fields a backend gets: the client's that stay, then ours, in their order."""

import re
from dataclasses import dataclass, field

from tests.fuzz.model import CHUNKED, NO_FIELDS, Fields, Framing, Pairs, members, nominated

MADE_ID = b"<made id>"
FORWARDING = (
    b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port", b"x-real-ip", b"forwarded",
)  # fmt: skip
HOP_BY_HOP = frozenset((b"connection", b"te", b"upgrade", b"keep-alive", b"proxy-connection", b"transfer-encoding"))
# Names that a backend may fold onto ours: dropped when written with "_", and the framing ones refused.
TWINS = frozenset((*FORWARDING[:5], b"x-request-id", b"keep-alive", b"proxy-connection"))


@dataclass(frozen=True, slots=True)
class Listener:
    """What the model must know of a listener and its pool."""

    peer: bytes
    port: bytes
    trusted: bool
    forwarded: bool
    via: bytes
    backend: bytes
    uri_bytes: int
    header_count: int
    head_bytes: int
    max_body: int | None


@dataclass(slots=True)
class RequestHead:
    """A request head under examination; `faults` are the statuses that fit what is wrong."""

    faults: set[int] = field(default_factory=set)
    may_refuse: set[int] = field(default_factory=set)
    method: bytes = b""
    target: bytes = b""
    authority: bytes | None = None
    minor: int = 1
    fields: Fields = NO_FIELDS
    framing: Framing = None


def offers_websocket(head: RequestHead) -> bool:
    """Whether the request asks, lawfully, to become a tunnel (RFC 9110 section 7.8)."""
    offers = [value.lower() for value in head.fields(b"upgrade")]
    options = members(head.fields(b"connection"))
    return head.minor == 1 and offers == [b"websocket"] and b"upgrade" in options


_request_id = re.compile(rb"[A-Za-z0-9._:/+=\-]{1,128}").fullmatch


def sent_fields(head: RequestHead, options: list[bytes], listener: Listener) -> Pairs:
    """The fields that the backend gets, in their order: the client's that stay, then ours."""
    gone = nominated(options)
    sent: Pairs = []
    number: list[bytes] = []
    request_id = False
    for line in head.fields.lines:
        key = line.key
        if key in HOP_BY_HOP or key in FORWARDING or key == b"via" or key in gone:
            continue
        if b"_" in key and key.replace(b"_", b"-") in TWINS:
            continue
        if key == b"x-request-id":
            if request_id or not _request_id(line.value):
                continue
            request_id = True
        elif (key == b"expect" and (head.minor == 0 or head.framing in (None, 0))) or (
            key == b"max-forwards" and head.method == b"OPTIONS"
        ):
            continue
        elif key == b"content-length" and line.raw != b" " + line.value:
            number.append(line.value)
            continue
        elif key == b"host" and head.authority not in (None, line.value):
            sent.append((b"Host", head.authority or b""))
            continue
        sent.append((line.name, line.value))
    if not head.fields(b"host"):
        sent.insert(0, (b"Host", listener.backend if head.authority is None else head.authority))
    if head.framing == CHUNKED:
        sent.append((b"Transfer-Encoding", b"chunked"))
    sent += [(b"Content-Length", value) for value in number]
    sent += _connection_fields(head)
    sent += _client_fields(head, listener)
    if not request_id:
        sent.append((b"X-Request-Id", MADE_ID))
    return sent


def _connection_fields(head: RequestHead) -> Pairs:
    ours: Pairs = []
    if offers_websocket(head) and head.method == b"GET":
        ours += [(b"Connection", b"upgrade"), (b"Upgrade", b"websocket")]
    elif head.minor and b"trailers" in members(head.fields(b"te")):
        ours += [(b"TE", b"trailers"), (b"Connection", b"TE")]
    forwards = head.fields(b"max-forwards")
    if head.method == b"OPTIONS" and forwards:
        ours.append((b"Max-Forwards", b"%d" % (int(forwards[0]) - 1)))
    return ours


def _client_fields(head: RequestHead, listener: Listener) -> Pairs:
    """Who asks, by which way: RFC 9110 section 7.6.3, RFC 7239 and the X-Forwarded fields."""
    received = {key: b", ".join(head.fields(key)) if listener.trusted else b"" for key in FORWARDING}
    hosts = head.fields(b"host") if head.authority is None else [head.authority]
    host = hosts[0] if hosts else b""
    chain = received[b"x-forwarded-for"]
    ours = [
        (b"X-Forwarded-For", chain + b", " + listener.peer if chain else listener.peer),
        (b"X-Forwarded-Proto", received[b"x-forwarded-proto"] or b"http"),
    ]
    if received[b"x-forwarded-host"] or host:
        ours.append((b"X-Forwarded-Host", received[b"x-forwarded-host"] or host))
    ours.append((b"X-Forwarded-Port", received[b"x-forwarded-port"] or listener.port))
    if received[b"x-real-ip"]:
        ours.append((b"X-Real-IP", received[b"x-real-ip"]))
    before = received[b"forwarded"]
    if listener.forwarded:
        quoted = b'"' + host + b'"' if b":" in host or b"[" in host else host
        mine = b"for=" + listener.peer + b";proto=http" + (b";host=" + quoted if host else b"")
        ours.append((b"Forwarded", before + b", " + mine if before else mine))
    elif before:
        ours.append((b"Forwarded", before))
    passed = [*head.fields(b"via"), b"1.%d %b" % (head.minor, listener.via)]
    ours.append((b"Via", b", ".join(passed)))
    return ours
