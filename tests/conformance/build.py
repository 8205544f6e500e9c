"""Words for writing cases: requests, what our rules make of them, and the answers expected.

What we append to a request and in which order stands here and nowhere else in the suite.
"""

from collections.abc import Iterable
from typing import TypedDict, Unpack

from tests.conformance.model import (
    Answer,
    Case,
    End,
    Forwarded,
    Framing,
    Own,
    Partial,
    Relayed,
    Send,
    Step,
    Upstream,
)
from tests.support.raw_origin import Reply as Reply

DATE = "Date: Sat, 21 Nov 2026 10:00:00 GMT"
REPLY = f"HTTP/1.1 200 OK\r\n{DATE}\r\nContent-Length: 2\r\n\r\nok".encode()
DEFAULT_SCRIPT = (Reply((REPLY,)),)
TWO = (Reply((REPLY,)), Reply((REPLY,)))


def lines(*items: str) -> bytes:
    """Lines, each ended by CRLF, then the empty line."""
    return "".join(f"{item}\r\n" for item in (*items, "")).encode("latin-1")


def request(line: str = "GET / HTTP/1.1", *fields: str, host: str | None = "a", body: bytes = b"") -> bytes:
    """A request with Host first."""
    return lines(line, *([f"Host: {host}"] if host is not None else []), *fields) + body


def chunked(*pieces: bytes, trailers: str = "") -> bytes:
    """A chunked body of these pieces."""
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return body + b"0\r\n" + trailers.encode("latin-1") + b"\r\n"


def sent_on(
    line: str = "GET / HTTP/1.1",
    *fields: str,
    host: str | None = "a",
    body: bytes = b"",
    framing: Framing = "none",
    trailers: bytes = b"",
    before: Iterable[str] = (),
    xff: str = "<client>",
    xhost: str | None = None,
    proto: str = "<proto>",
    port: str = "<port>",
    forwarded: str | None = None,
    via: str = "1.1 edge",
    made_id: bool = True,
    raw: bytes = b"",
) -> Forwarded:
    """What the origin gets: the request line, Host, `fields`, then ours in their order.

    `before` are lines of ours between the framing and X-Forwarded-For; `host` None = no Host line of the client's
    stands first (it is among `fields`, or there is none).
    """
    shown = xhost if xhost is not None else host
    ours = ["Transfer-Encoding: chunked"] if framing == "chunked" else []
    ours += [*before, f"X-Forwarded-For: {xff}", f"X-Forwarded-Proto: {proto}"]
    ours += [f"X-Forwarded-Host: {shown}"] if shown else []
    ours += [f"X-Forwarded-Port: {port}"]
    ours += [f"Forwarded: {forwarded}"] if forwarded is not None else []
    ours += [f"Via: {via}"]
    ours += ["X-Request-Id: <id>"] if made_id else []
    first = [f"Host: {host}"] if host is not None else []
    return Forwarded(lines(line, *first, *fields, *ours), body, framing, trailers, raw)


def relayed(
    line: str = "HTTP/1.1 200 OK",
    *fields: str,
    body: bytes = b"ok",
    framing: Framing = "length",
    trailers: bytes = b"",
    method: str = "GET",
    raw: bytes = b"",
) -> Relayed:
    """What the client gets: the line, the fields (DATE and Content-Length: 2 without any)."""
    if not fields:
        fields = (DATE, "Content-Length: 2")
    return Relayed(lines(line, *fields), body, framing, trailers, method, raw)


OK = relayed()
OK_CLOSE = relayed("HTTP/1.1 200 OK", DATE, "Content-Length: 2", "Connection: close")


def reply(line: str = "HTTP/1.1 200 OK", *fields: str, body: bytes = b"") -> bytes:
    """Bytes of an origin's response."""
    return lines(line, *fields) + body


class Options(TypedDict, total=False):
    """What any case may say beside its steps and expectations; see Case."""

    script: bytes | tuple[Reply, ...]
    upstream: Upstream
    variant: str
    tls: bool
    splits: bool
    extra: bool
    compared: frozenset[bytes]
    note: str


def case(
    name: str,
    rows: str,
    steps: bytes | Iterable[Step],
    forwarded: Iterable[Forwarded | Partial] | Forwarded,
    answers: Iterable[Answer] | Answer,
    end: End = "kept",
    **options: Unpack[Options],
) -> Case:
    """A case; `rows` are ids separated by spaces. Without a script the origin answers with REPLY."""
    if isinstance(steps, bytes):
        steps = (Send(steps),)
    if isinstance(forwarded, Forwarded):
        forwarded = (forwarded,)
    if isinstance(answers, Answer):
        answers = (answers,)
    forwarded = tuple(forwarded)
    script = options.get("script", DEFAULT_SCRIPT)
    return Case(
        name=name,
        rows=tuple(rows.split()),
        steps=tuple(steps),
        forwarded=forwarded,
        answers=tuple(answers),
        end=end,
        script=(Reply((script,)),) if isinstance(script, bytes) else script,
        upstream=options.get("upstream", "reused" if end == "kept" and forwarded else "any"),
        variant=options.get("variant", "plain"),
        tls=options.get("tls", True),
        splits=options.get("splits", True),
        extra=options.get("extra", False),
        compared=options.get("compared", frozenset()),
        note=options.get("note", ""),
    )


def passes(
    name: str,
    rows: str,
    line: str = "GET / HTTP/1.1",
    *fields: str,
    kept: Iterable[str] | None = None,
    out: str | None = None,
    wanted: Forwarded | None = None,
    **options: Unpack[Options],
) -> Case:
    """A bodiless request that is forwarded: its fields as they came or as `kept`, its line as it came or `out`."""
    if wanted is None:
        wanted = sent_on(out or line, *(fields if kept is None else kept))
    return case(name, rows, request(line, *fields), wanted, OK, **options)


def refused(name: str, rows: str, steps: bytes | Iterable[Step], *statuses: int, **options: Unpack[Options]) -> Case:
    """A request that is answered with one of the statuses (400) and a close; nothing of it reaches the origin."""
    return case(name, rows, steps, (), Own(statuses or (400,), close=True), "closed", **options)


def bad_body(name: str, rows: str, body: bytes, *, valid: bytes = b"", **options: Unpack[Options]) -> Case:
    """A chunked POST whose body breaks: 400 and close, and the origin never sees the body's end.

    `valid` is what the sound beginning of the body carries: the origin may have got that much, or nothing.
    """
    head = request("POST /in HTTP/1.1", "Transfer-Encoding: chunked")
    partial = Partial(sent_on("POST /in HTTP/1.1", framing="chunked").head, valid)
    return case(name, rows, head + body, (partial,), Own((400,), close=True), "closed", **options)


def proxy_status(error: str) -> tuple[tuple[bytes, bytes], ...]:
    """The Proxy-Status field of an answer of ours: some name for us, then `error` (RFC 9209)."""
    return ((b"proxy-status", rb"[A-Za-z][A-Za-z0-9_.\-]*; ?error=" + error.encode() + rb"(?:;.*)?"),)


BAD_GATEWAY = Own((502,), proxy_status("http_protocol_error"))


def bad_gateway(
    name: str,
    rows: str,
    response: bytes | tuple[Reply, ...],
    answer: Answer | tuple[Answer, ...] = BAD_GATEWAY,
    **options: Unpack[Options],
) -> Case:
    """A response of the origin that cannot be passed on: 502, and that upstream connection is not used again."""
    options.setdefault("upstream", "closed")
    options["script"] = response
    return case(name, rows, request(), sent_on(), answer, "stated", **options)
