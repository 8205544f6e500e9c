"""What an intermediary removes and adds: Connection and what it names, Via, Max-Forwards."""

from tests.conformance.build import (
    DATE,
    OK,
    case,
    passes,
    relayed,
    reply,
    request,
    sent_on,
)
from tests.conformance.model import Case, Own, Upstream

_CONNECTION = "4.2/9110-7.6.1-connection"
_PROTECTED = f"{_CONNECTION} 4.4/connection-nominates"
_VIA = "4.2/9110-7.6.3-via"
_HOPS = frozenset(b"connection keep-alive proxy-connection te upgrade".split())
_NAMED = frozenset(
    b"via x-forwarded-for x-forwarded-proto x-forwarded-host x-forwarded-port forwarded x-request-id".split()
)


def _stays(name: str, option: str, line: str) -> Case:
    return passes(
        f"nominated-{name}",
        _PROTECTED,
        "GET / HTTP/1.1",
        f"Connection: {option}",
        line,
        "A: 1",
        kept=(line, "A: 1"),
    )


_CONNECTION_CASES: list[Case] = [
    passes(
        "hop-connection",
        _CONNECTION,
        "GET / HTTP/1.1",
        "Connection: keep-alive",
        "A: 1",
        kept=("A: 1",),
        compared=_HOPS,
    ),
    passes("hop-nominated", _CONNECTION, "GET / HTTP/1.1", "Connection: X-Hop", "X-Hop: 1", "A: 1", kept=("A: 1",)),
    passes(
        "hop-nominated-before",
        _CONNECTION,
        "GET / HTTP/1.1",
        "X-Hop: 1",
        "A: 1",
        "Connection: X-Hop",
        kept=("A: 1",),
    ),
    passes(
        "hop-nominated-many",
        _CONNECTION,
        "GET / HTTP/1.1",
        "Connection: X-A, keep-alive ,\tX-B",
        "X-A: 1",
        "X-B: 2",
        "X-C: 3",
        "x-a: 4",
        kept=("X-C: 3",),
    ),
    passes(
        "hop-nominated-two-lines",
        _CONNECTION,
        "GET / HTTP/1.1",
        "Connection: X-A",
        "Connection: X-B",
        "X-A: 1",
        "X-B: 2",
        kept=(),
    ),
    passes("hop-nominated-case", _CONNECTION, "GET / HTTP/1.1", "CONNECTION: x-hop", "X-HOP: 1", kept=()),
    passes("hop-nominated-absent", _CONNECTION, "GET / HTTP/1.1", "Connection: X-None", "A: 1", kept=("A: 1",)),
    passes("hop-nominated-prefix", _CONNECTION, "GET / HTTP/1.1", "Connection: X-Ho", "X-Hop: 1", kept=("X-Hop: 1",)),
    passes("hop-nominated-suffix", _CONNECTION, "GET / HTTP/1.1", "Connection: Hop", "X-Hop: 1", kept=("X-Hop: 1",)),
    passes(
        "hop-nominated-regex",
        _CONNECTION,
        "GET / HTTP/1.1",
        "Connection: X.Hop, X*",
        "X-Hop: 1",
        kept=("X-Hop: 1",),
    ),
    passes("hop-nominated-empty", _CONNECTION, "GET / HTTP/1.1", "Connection:", "A: 1", kept=("A: 1",)),
    passes(
        "hop-nominated-commas",
        _CONNECTION,
        "GET / HTTP/1.1",
        "Connection: ,, X-A,,",
        "X-A: 1",
        "A: 1",
        kept=("A: 1",),
    ),
    passes(
        "hop-keep-alive",
        _CONNECTION,
        "GET / HTTP/1.1",
        "Keep-Alive: timeout=5",
        "A: 1",
        kept=("A: 1",),
        compared=_HOPS,
    ),
    passes(
        "hop-proxy-connection",
        f"{_CONNECTION} 4.3/proxy-connection",
        "GET / HTTP/1.1",
        "Proxy-Connection: keep-alive",
        "A: 1",
        kept=("A: 1",),
    ),
    passes(
        "hop-proxy-connection-close",
        "4.3/proxy-connection",
        "GET / HTTP/1.1",
        "Proxy-Connection: close",
        "A: 1",
        kept=("A: 1",),
    ),
    passes("hop-te", f"{_CONNECTION} 4.2/9110-10.1.4-te", "GET / HTTP/1.1", "TE: gzip", "A: 1", kept=("A: 1",)),
    passes(
        "hop-upgrade",
        f"{_CONNECTION} 4.2/9110-7.8-upgrade",
        "GET / HTTP/1.1",
        "Upgrade: h2c",
        "A: 1",
        kept=("A: 1",),
    ),
    _stays("host", "Host", "X: 1"),
    _stays("authorization", "Authorization", "Authorization: Basic eA=="),
    _stays("cookie", "Cookie", "Cookie: a=b"),
    _stays("cache-control", "cache-control", "Cache-Control: no-store"),
    _stays("content-type", "Content-Type", "Content-Type: text/plain"),
    passes(
        "nominated-x-forwarded",
        _PROTECTED,
        "GET / HTTP/1.1",
        "Connection: X-Forwarded-For, X-Forwarded-Host, X-Forwarded-Proto, X-Forwarded-Port, Via, X-Request-Id",
        kept=(),
        compared=_NAMED,
    ),
    passes(
        "nominated-request-id",
        _PROTECTED,
        "GET / HTTP/1.1",
        "Connection: X-Request-Id",
        "X-Request-Id: abc",
        wanted=sent_on("GET / HTTP/1.1", "X-Request-Id: abc", made_id=False),
    ),
    passes(
        "nominated-authorization-with-hop",
        _PROTECTED,
        "GET / HTTP/1.1",
        "Connection: close-not, X-Hop, Authorization",
        "X-Hop: 1",
        "Authorization: Basic eA==",
        kept=("Authorization: Basic eA==",),
    ),
    case(
        "nominated-content-length",
        _PROTECTED,
        request("POST / HTTP/1.1", "Connection: Content-Length", "Content-Length: 5", body=b"hello"),
        sent_on("POST / HTTP/1.1", "Content-Length: 5", body=b"hello", framing="length"),
        OK,
    ),
]


def _response_connection() -> list[Case]:
    def relays(name: str, *fields: str, kept: tuple[str, ...] = (), upstream: Upstream = "reused") -> Case:
        full = ("HTTP/1.1 200 OK", DATE, *fields, "Content-Length: 2")
        return case(
            f"response-hop-{name}",
            _CONNECTION,
            request(),
            sent_on(),
            relayed("HTTP/1.1 200 OK", DATE, *kept, "Content-Length: 2"),
            script=reply(*full, body=b"ok"),
            upstream=upstream,
        )

    return [
        relays("keep-alive", "Connection: keep-alive", "Keep-Alive: timeout=5"),
        relays("nominated", "Connection: X-Hop", "X-Hop: 1", "X: 2", kept=("X: 2",)),
        relays("nominated-before", "X-Hop: 1", "Connection: X-Hop, keep-alive"),
        relays("close", "Connection: close", upstream="closed"),
        relays("close-and-nominated", "Connection: X-Hop, close", "X-Hop: 1", upstream="closed"),
        relays("proxy-connection", "Proxy-Connection: close", "A: 1", kept=("A: 1",)),
        relays("te", "TE: trailers", "A: 1", kept=("A: 1",)),
        relays("upgrade", "Upgrade: h2c", "Connection: Upgrade", "A: 1", kept=("A: 1",)),
        relays(
            "nominated-protected",
            "Connection: Content-Length, Content-Type",
            "Content-Type: text/plain",
            kept=("Content-Type: text/plain",),
        ),
    ]


def _via() -> list[Case]:
    def via(name: str, *values: str, out: str) -> Case:
        return passes(
            f"via-{name}",
            _VIA,
            "GET / HTTP/1.1",
            *(f"Via: {value}" for value in values),
            "A: 1",
            wanted=sent_on("GET / HTTP/1.1", "A: 1", via=out),
            compared=frozenset([b"via"]),
        )

    return [
        via("none", out="1.1 edge"),
        via("one", "1.0 fred", out="1.0 fred, 1.1 edge"),
        via("comment", "1.1 p.example.net (Apache/2.4)", out="1.1 p.example.net (Apache/2.4), 1.1 edge"),
        via("two-lines", "1.0 fred", "HTTP/1.1 q:8080", out="1.0 fred, HTTP/1.1 q:8080, 1.1 edge"),
        via("list", "1.0 fred, 1.1 p", out="1.0 fred, 1.1 p, 1.1 edge"),
        via("ours-once", "1.1 edge", out="1.1 edge, 1.1 edge"),
        via("ours-in-comment", "1.1 x (edge edge)", out="1.1 x (edge edge), 1.1 edge"),
        case("via-loop", _VIA, request("GET / HTTP/1.1", "Via: 1.1 edge, 1.1 edge"), (), Own((508,)), "stated"),
        case(
            "via-loop-lines",
            _VIA,
            request("GET / HTTP/1.1", "Via: 1.1 edge", "Via: 1.0 x, 1.1 edge"),
            (),
            Own((508,)),
            "stated",
        ),
        case(
            "via-http10",
            _VIA,
            request("GET / HTTP/1.0", "Connection: keep-alive"),
            sent_on("GET / HTTP/1.1", via="1.0 edge", forwarded="<forwarded>"),
            relayed("HTTP/1.1 200 OK", DATE, "Content-Length: 2", "Connection: keep-alive"),
            "kept",
            variant="lenient",
            compared=frozenset([b"via"]),
            note="Via names the version that was received",
        ),
        case(
            "via-not-in-response",
            _VIA,
            request(),
            sent_on(),
            relayed("HTTP/1.1 200 OK", DATE, "Via: 1.1 app", "Content-Length: 2"),
            script=reply("HTTP/1.1 200 OK", DATE, "Via: 1.1 app", "Content-Length: 2", body=b"ok"),
            compared=frozenset([b"via"]),
        ),
    ]


def _max_forwards() -> list[Case]:
    row = "4.2/9110-7.6.2-max-forwards"
    return [
        case(
            "max-forwards-0",
            row,
            request("OPTIONS / HTTP/1.1", "Max-Forwards: 0"),
            (),
            Own((200, 204), ((b"allow", rb".*GET.*"),)),
            "stated",
        ),
        case(
            "max-forwards-0-asterisk",
            row,
            request("OPTIONS * HTTP/1.1", "Max-Forwards: 0"),
            (),
            Own((200, 204), ((b"allow", rb".*GET.*"),)),
            "stated",
        ),
        *(
            passes(
                f"max-forwards-{n}",
                row,
                "OPTIONS / HTTP/1.1",
                f"Max-Forwards: {n}",
                "A: 1",
                wanted=sent_on("OPTIONS / HTTP/1.1", "A: 1", before=(f"Max-Forwards: {n - 1}",)),
            )
            for n in (1, 10, 255)
        ),
        passes("max-forwards-get", row, "GET / HTTP/1.1", "Max-Forwards: 0", "A: 1"),
        passes("max-forwards-post", row, "POST / HTTP/1.1", "Max-Forwards: 5", "A: 1"),
    ]


CASES = [*_CONNECTION_CASES, *_response_connection(), *_via(), *_max_forwards()]
