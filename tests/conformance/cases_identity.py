"""Who asked, and content on its way: X-Forwarded-*, Forwarded, X-Request-Id, TE, bytes that must not change."""

from tests.conformance.build import (
    DATE,
    OK,
    REPLY,
    TWO,
    Reply,
    case,
    chunked,
    passes,
    relayed,
    reply,
    request,
    sent_on,
)
from tests.conformance.model import Case, Forwarded, Own

_X = "4.2/x-forwarded"
_NAMED = frozenset(
    b"via x-forwarded-for x-forwarded-proto x-forwarded-host x-forwarded-port forwarded x-request-id".split()
)


def _untrusted(name: str, *fields: str) -> Case:
    return passes(f"untrusted-{name}", _X, "GET / HTTP/1.1", *fields, "A: 1", kept=("A: 1",), compared=_NAMED)


def _trusted(name: str, fields: tuple[str, ...], wanted: Forwarded) -> Case:
    return passes(
        f"trusted-{name}", _X, "GET / HTTP/1.1", *fields, "A: 1", wanted=wanted, variant="trusted", compared=_NAMED
    )


_by_client = Own((200,), body=b"by-client")


def _seen_as(name: str, chain: str, *, matches: bool) -> Case:
    head = request("GET / HTTP/1.1", f"X-Forwarded-For: {chain}")
    if matches:
        return case(f"client-{name}", _X, head, (), _by_client, "stated", variant="trusted")
    return case(f"client-{name}", _X, head, sent_on(xff=f"{chain}, <client>"), OK, variant="trusted")


def _kept_id(name: str, value: str) -> Case:
    line = f"X-Request-Id: {value}"
    return passes(
        f"request-id-{name}",
        _X,
        "GET / HTTP/1.1",
        line,
        "A: 1",
        wanted=sent_on("GET / HTTP/1.1", line, "A: 1", made_id=False),
        compared=_NAMED,
    )


_bad_ids = {
    "empty": "",
    "space": "a b",
    "long": "x" * 129,
    "markup": "<script>",
    "quote": 'a"b',
    "obs-text": "a\xe9",
    "semicolon": "a;b",
}
_FORWARDED_CASES: list[Case] = [
    passes("forwarded-added", _X, "GET / HTTP/1.1", "A: 1", compared=_NAMED),
    _untrusted("for", "X-Forwarded-For: 6.6.6.6"),
    _untrusted("for-list", "X-Forwarded-For: 6.6.6.6, 127.0.0.1", "x-forwarded-for: 7.7.7.7"),
    _untrusted("proto", "X-Forwarded-Proto: https"),
    _untrusted("host-and-port", "X-Forwarded-Host: evil", "X-Forwarded-Port: 1"),
    _untrusted("forwarded", "Forwarded: for=6.6.6.6;proto=https"),
    _untrusted("real-ip", "X-Real-IP: 6.6.6.6"),
    _untrusted(
        "everything",
        "X-Forwarded-For: 6.6.6.6",
        "Forwarded: for=6.6.6.6",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: e",
    ),
    _trusted("none", (), sent_on("GET / HTTP/1.1", "A: 1")),
    _trusted("for", ("X-Forwarded-For: 203.0.113.9",), sent_on("GET / HTTP/1.1", "A: 1", xff="203.0.113.9, <client>")),
    _trusted(
        "for-lines",
        ("X-Forwarded-For: 203.0.113.9", "X-Forwarded-For: 10.0.0.1"),
        sent_on("GET / HTTP/1.1", "A: 1", xff="203.0.113.9, 10.0.0.1, <client>"),
    ),
    _trusted("proto", ("X-Forwarded-Proto: https",), sent_on("GET / HTTP/1.1", "A: 1", proto="https")),
    _trusted(
        "host-and-port",
        ("X-Forwarded-Host: shop.example", "X-Forwarded-Port: 443"),
        sent_on("GET / HTTP/1.1", "A: 1", xhost="shop.example", port="443"),
    ),
    _seen_as("last", "198.51.100.7", matches=True),
    _seen_as("behind-trusted", "198.51.100.7, 10.1.2.3", matches=True),
    _seen_as("behind-two-trusted", "6.6.6.6, 198.51.100.7, 10.1.2.3, 10.1.2.4", matches=True),
    _seen_as("spoofed", "198.51.100.7, 203.0.113.9", matches=False),
    _seen_as("spoofed-behind-trusted", "198.51.100.7, 203.0.113.9, 10.1.2.3", matches=False),
    _seen_as("garbage-ends-the-walk", "198.51.100.7, unknown, 10.1.2.3", matches=False),
    passes("client-untrusted", _X, "GET / HTTP/1.1", "X-Forwarded-For: 198.51.100.7", kept=(), compared=_NAMED),
    case(
        "forwarded-rfc7239",
        _X,
        request("GET / HTTP/1.1", "Forwarded: for=6.6.6.6", "A: 1"),
        sent_on("GET / HTTP/1.1", "A: 1", forwarded="<forwarded>"),
        OK,
        variant="lenient",
        compared=frozenset([b"forwarded"]),
    ),
    _kept_id("kept", "abc"),
    _kept_id("kept-128", "x" * 128),
    _kept_id("kept-alphabet", "aZ09._:/+=-"),
    *(
        passes(
            f"request-id-replaced-{name}",
            _X,
            "GET / HTTP/1.1",
            f"X-Request-Id: {value}",
            "A: 1",
            kept=("A: 1",),
            compared=_NAMED,
        )
        for name, value in _bad_ids.items()
    ),
]


def _te() -> list[Case]:
    row = "4.2/9110-10.1.4-te"
    kept = sent_on("GET / HTTP/1.1", "A: 1", before=("TE: trailers", "Connection: TE"))
    te = frozenset([b"te"])
    return [
        passes(
            "te-trailers", row, "GET / HTTP/1.1", "TE: trailers", "Connection: TE", "A: 1", wanted=kept, compared=te
        ),
        passes(
            "te-trailers-case",
            row,
            "GET / HTTP/1.1",
            "te: Trailers",
            "connection: te",
            "A: 1",
            wanted=kept,
            compared=te,
        ),
        passes(
            "te-trailers-among-others",
            row,
            "GET / HTTP/1.1",
            "TE: gzip;q=0.5, trailers",
            "Connection: TE",
            "A: 1",
            wanted=kept,
        ),
        passes(
            "te-gzip",
            row,
            "GET / HTTP/1.1",
            "TE: gzip, deflate;q=0.5",
            "Connection: TE",
            "A: 1",
            kept=("A: 1",),
            compared=te,
        ),
        passes("te-without-value", row, "GET / HTTP/1.1", "TE:", "Connection: TE", "A: 1", kept=("A: 1",), compared=te),
    ]


_row = "4.2/9110-7.7-transformation"
_cache = "4.2/9111-cache"
_packed = ("HTTP/1.1 200 OK", DATE, "Content-Encoding: gzip", "Cache-Control: no-transform", "Content-Length: 4")
_fresh = ("HTTP/1.1 200 OK", DATE, "Cache-Control: public, max-age=3600", "ETag: x", "Age: 5", "Content-Length: 2")
_get = request("GET /cached HTTP/1.1", "A: 1")
_once = sent_on("GET /cached HTTP/1.1", "A: 1")
_conditional = (
    "If-None-Match: x",
    "If-Modified-Since: Sat, 21 Nov 2026 10:00:00 GMT",
    "Range: bytes=0-1",
    "Cache-Control: only-if-cached",
)
_UNCHANGED_CASES: list[Case] = [
    passes(
        "fields-untouched",
        _row,
        "GET / HTTP/1.1",
        "Accept-Encoding: gzip, br;q=0.5",
        "User-Agent: x",
        "Accept: */*",
        "Cache-Control: no-transform",
        "Referer: http://x/",
    ),
    case(
        "content-untouched",
        _row,
        request(),
        sent_on(),
        relayed(*_packed, body=b"\x1f\x8b\x00\xff"),
        script=reply(*_packed, body=b"\x1f\x8b\x00\xff"),
    ),
    case(
        "content-untouched-up",
        _row,
        request("POST /in HTTP/1.1", "Content-Encoding: gzip", "Content-Length: 4", body=b"\x1f\x8b\x00\xff"),
        sent_on(
            "POST /in HTTP/1.1",
            "Content-Encoding: gzip",
            "Content-Length: 4",
            body=b"\x1f\x8b\x00\xff",
            framing="length",
        ),
        OK,
    ),
    passes("target-unchanged-query", _row, "GET /a?b=c%20d+e&&=%ff HTTP/1.1"),
    passes("target-unchanged-double-slash", f"{_row} 4.3/double-slash-redirect", "GET //a//b HTTP/1.1"),
    case(
        "not-cached",
        _cache,
        _get + _get,
        (_once, _once),
        (relayed(*_fresh), OK),
        script=(Reply((reply(*_fresh, body=b"ok"),)), Reply((REPLY,))),
    ),
    passes("conditions-forwarded", _cache, "GET / HTTP/1.1", *_conditional),
    case(
        "not-merged",
        f"{_cache} 4.1/9112-9.3.2-pipelining",
        request() + request(),
        (sent_on(), sent_on()),
        (OK, OK),
        script=TWO,
    ),
    case(
        "trailers-in-no-body",
        "4.1/9112-7.1.2-trailers",
        request("GET / HTTP/1.1", "Trailer: X"),
        sent_on("GET / HTTP/1.1", "Trailer: X"),
        OK,
    ),
    case(
        "rechunked-both-ways",
        "4.1/9112-7.1.3-rechunk",
        request("POST / HTTP/1.1", "Transfer-Encoding: chunked", body=chunked(b"a", b"b")),
        sent_on("POST / HTTP/1.1", body=b"ab", framing="chunked"),
        relayed("HTTP/1.1 200 OK", DATE, "Transfer-Encoding: chunked", body=b"cd", framing="chunked"),
        script=reply("HTTP/1.1 200 OK", DATE, "Transfer-Encoding: chunked", body=chunked(b"c", b"d")),
    ),
]


CASES = [*_FORWARDED_CASES, *_te(), *_UNCHANGED_CASES]
