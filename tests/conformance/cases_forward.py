"""What an intermediary removes, adds and leaves alone: Connection, Via, X-Forwarded-*, Max-Forwards, content."""

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
from tests.conformance.model import Case, Forwarded, Own, Upstream

_CONNECTION = "4.2/9110-7.6.1-connection"
_PROTECTED = f"{_CONNECTION} 4.4/connection-nominates"
_VIA = "4.2/9110-7.6.3-via"
_X = "4.2/x-forwarded"
_HOPS = frozenset(b"connection keep-alive proxy-connection te upgrade".split())
_NAMED = frozenset(b"via x-forwarded-for x-forwarded-proto x-forwarded-host x-forwarded-port forwarded x-request-id".split())


def _connection() -> list[Case]:
    def stays(name: str, option: str, line: str) -> Case:
        return passes(f"nominated-{name}", _PROTECTED, "GET / HTTP/1.1", f"Connection: {option}", line, "A: 1",
                      kept=(line, "A: 1"))  # fmt: skip

    return [
        passes("hop-connection", _CONNECTION, "GET / HTTP/1.1", "Connection: keep-alive", "A: 1", kept=("A: 1",), compared=_HOPS),
        passes("hop-nominated", _CONNECTION, "GET / HTTP/1.1", "Connection: X-Hop", "X-Hop: 1", "A: 1", kept=("A: 1",)),
        passes("hop-nominated-before", _CONNECTION, "GET / HTTP/1.1", "X-Hop: 1", "A: 1", "Connection: X-Hop", kept=("A: 1",)),
        passes("hop-nominated-many", _CONNECTION, "GET / HTTP/1.1", "Connection: X-A, keep-alive ,\tX-B", "X-A: 1", "X-B: 2",
               "X-C: 3", "x-a: 4", kept=("X-C: 3",)),
        passes("hop-nominated-two-lines", _CONNECTION, "GET / HTTP/1.1", "Connection: X-A", "Connection: X-B", "X-A: 1", "X-B: 2",
               kept=()),
        passes("hop-nominated-case", _CONNECTION, "GET / HTTP/1.1", "CONNECTION: x-hop", "X-HOP: 1", kept=()),
        passes("hop-nominated-absent", _CONNECTION, "GET / HTTP/1.1", "Connection: X-None", "A: 1", kept=("A: 1",)),
        passes("hop-nominated-prefix", _CONNECTION, "GET / HTTP/1.1", "Connection: X-Ho", "X-Hop: 1", kept=("X-Hop: 1",)),
        passes("hop-nominated-suffix", _CONNECTION, "GET / HTTP/1.1", "Connection: Hop", "X-Hop: 1", kept=("X-Hop: 1",)),
        passes("hop-nominated-regex", _CONNECTION, "GET / HTTP/1.1", "Connection: X.Hop, X*", "X-Hop: 1", kept=("X-Hop: 1",)),
        passes("hop-nominated-empty", _CONNECTION, "GET / HTTP/1.1", "Connection:", "A: 1", kept=("A: 1",)),
        passes("hop-nominated-commas", _CONNECTION, "GET / HTTP/1.1", "Connection: ,, X-A,,", "X-A: 1", "A: 1", kept=("A: 1",)),
        passes("hop-keep-alive", _CONNECTION, "GET / HTTP/1.1", "Keep-Alive: timeout=5", "A: 1", kept=("A: 1",), compared=_HOPS),
        passes("hop-proxy-connection", f"{_CONNECTION} 4.3/proxy-connection", "GET / HTTP/1.1", "Proxy-Connection: keep-alive",
               "A: 1", kept=("A: 1",)),
        passes("hop-proxy-connection-close", "4.3/proxy-connection", "GET / HTTP/1.1", "Proxy-Connection: close", "A: 1",
               kept=("A: 1",)),
        passes("hop-te", f"{_CONNECTION} 4.2/9110-10.1.4-te", "GET / HTTP/1.1", "TE: gzip", "A: 1", kept=("A: 1",)),
        passes("hop-upgrade", f"{_CONNECTION} 4.2/9110-7.8-upgrade", "GET / HTTP/1.1", "Upgrade: h2c", "A: 1", kept=("A: 1",)),
        stays("host", "Host", "X: 1"),
        stays("authorization", "Authorization", "Authorization: Basic eA=="),
        stays("cookie", "Cookie", "Cookie: a=b"),
        stays("cache-control", "cache-control", "Cache-Control: no-store"),
        stays("content-type", "Content-Type", "Content-Type: text/plain"),
        passes("nominated-x-forwarded", _PROTECTED, "GET / HTTP/1.1",
               "Connection: X-Forwarded-For, X-Forwarded-Host, X-Forwarded-Proto, X-Forwarded-Port, Via, X-Request-Id", kept=(),
               compared=_NAMED),
        passes("nominated-request-id", _PROTECTED, "GET / HTTP/1.1", "Connection: X-Request-Id", "X-Request-Id: abc",
               wanted=sent_on("GET / HTTP/1.1", "X-Request-Id: abc", made_id=False)),
        passes("nominated-authorization-with-hop", _PROTECTED, "GET / HTTP/1.1", "Connection: close-not, X-Hop, Authorization",
               "X-Hop: 1", "Authorization: Basic eA==", kept=("Authorization: Basic eA==",)),
        case("nominated-content-length", _PROTECTED,
             request("POST / HTTP/1.1", "Connection: Content-Length", "Content-Length: 5", body=b"hello"),
             sent_on("POST / HTTP/1.1", "Content-Length: 5", body=b"hello", framing="length"), OK),
    ]  # fmt: skip


def _response_connection() -> list[Case]:
    def relays(name: str, *fields: str, kept: tuple[str, ...] = (), upstream: Upstream = "reused") -> Case:
        full = ("HTTP/1.1 200 OK", DATE, *fields, "Content-Length: 2")
        return case(f"response-hop-{name}", _CONNECTION, request(), sent_on(),
                    relayed("HTTP/1.1 200 OK", DATE, *kept, "Content-Length: 2"), script=reply(*full, body=b"ok"),
                    upstream=upstream)  # fmt: skip

    return [
        relays("keep-alive", "Connection: keep-alive", "Keep-Alive: timeout=5"),
        relays("nominated", "Connection: X-Hop", "X-Hop: 1", "X: 2", kept=("X: 2",)),
        relays("nominated-before", "X-Hop: 1", "Connection: X-Hop, keep-alive"),
        relays("close", "Connection: close", upstream="closed"),
        relays("close-and-nominated", "Connection: X-Hop, close", "X-Hop: 1", upstream="closed"),
        relays("proxy-connection", "Proxy-Connection: close", "A: 1", kept=("A: 1",)),
        relays("te", "TE: trailers", "A: 1", kept=("A: 1",)),
        relays("upgrade", "Upgrade: h2c", "Connection: Upgrade", "A: 1", kept=("A: 1",)),
        relays("nominated-protected", "Connection: Content-Length, Content-Type", "Content-Type: text/plain",
               kept=("Content-Type: text/plain",)),
    ]  # fmt: skip


def _via() -> list[Case]:
    def via(name: str, *values: str, out: str) -> Case:
        return passes(f"via-{name}", _VIA, "GET / HTTP/1.1", *(f"Via: {value}" for value in values), "A: 1",
                      wanted=sent_on("GET / HTTP/1.1", "A: 1", via=out), compared=frozenset([b"via"]))  # fmt: skip

    return [
        via("none", out="1.1 edge"),
        via("one", "1.0 fred", out="1.0 fred, 1.1 edge"),
        via("comment", "1.1 p.example.net (Apache/2.4)", out="1.1 p.example.net (Apache/2.4), 1.1 edge"),
        via("two-lines", "1.0 fred", "HTTP/1.1 q:8080", out="1.0 fred, HTTP/1.1 q:8080, 1.1 edge"),
        via("list", "1.0 fred, 1.1 p", out="1.0 fred, 1.1 p, 1.1 edge"),
        via("ours-once", "1.1 edge", out="1.1 edge, 1.1 edge"),
        via("ours-in-comment", "1.1 x (edge edge)", out="1.1 x (edge edge), 1.1 edge"),
        case("via-loop", _VIA, request("GET / HTTP/1.1", "Via: 1.1 edge, 1.1 edge"), (), Own((508,)), "stated"),
        case("via-loop-lines", _VIA, request("GET / HTTP/1.1", "Via: 1.1 edge", "Via: 1.0 x, 1.1 edge"), (), Own((508,)), "stated"),
        case("via-http10", _VIA, request("GET / HTTP/1.0", "Connection: keep-alive"),
             sent_on("GET / HTTP/1.1", via="1.0 edge", forwarded="<forwarded>"),
             relayed("HTTP/1.1 200 OK", DATE, "Content-Length: 2", "Connection: keep-alive"), "kept",
             variant="lenient", compared=frozenset([b"via"]), note="Via names the version that was received"),
        case("via-not-in-response", _VIA, request(), sent_on(), relayed("HTTP/1.1 200 OK", DATE, "Via: 1.1 app", "Content-Length: 2"),
             script=reply("HTTP/1.1 200 OK", DATE, "Via: 1.1 app", "Content-Length: 2", body=b"ok"), compared=frozenset([b"via"])),
    ]  # fmt: skip


def _max_forwards() -> list[Case]:
    row = "4.2/9110-7.6.2-max-forwards"
    return [
        case("max-forwards-0", row, request("OPTIONS / HTTP/1.1", "Max-Forwards: 0"), (), Own((200, 204), ((b"allow", rb".*GET.*"),)),
             "stated"),
        case("max-forwards-0-asterisk", row, request("OPTIONS * HTTP/1.1", "Max-Forwards: 0"), (),
             Own((200, 204), ((b"allow", rb".*GET.*"),)), "stated"),
        *(passes(f"max-forwards-{n}", row, "OPTIONS / HTTP/1.1", f"Max-Forwards: {n}", "A: 1",
                 wanted=sent_on("OPTIONS / HTTP/1.1", "A: 1", before=(f"Max-Forwards: {n - 1}",))) for n in (1, 10, 255)),
        passes("max-forwards-get", row, "GET / HTTP/1.1", "Max-Forwards: 0", "A: 1"),
        passes("max-forwards-post", row, "POST / HTTP/1.1", "Max-Forwards: 5", "A: 1"),
    ]  # fmt: skip


def _forwarded() -> list[Case]:
    def untrusted(name: str, *fields: str) -> Case:
        return passes(f"untrusted-{name}", _X, "GET / HTTP/1.1", *fields, "A: 1", kept=("A: 1",), compared=_NAMED)

    def trusted(name: str, fields: tuple[str, ...], wanted: Forwarded) -> Case:
        return passes(f"trusted-{name}", _X, "GET / HTTP/1.1", *fields, "A: 1", wanted=wanted, variant="trusted", compared=_NAMED)

    by_client = Own((200,), body=b"by-client")

    def seen_as(name: str, chain: str, *, matches: bool) -> Case:
        head = request("GET / HTTP/1.1", f"X-Forwarded-For: {chain}")
        if matches:
            return case(f"client-{name}", _X, head, (), by_client, "stated", variant="trusted")
        return case(f"client-{name}", _X, head, sent_on(xff=f"{chain}, <client>"), OK, variant="trusted")

    def kept_id(name: str, value: str) -> Case:
        line = f"X-Request-Id: {value}"
        return passes(f"request-id-{name}", _X, "GET / HTTP/1.1", line, "A: 1",
                      wanted=sent_on("GET / HTTP/1.1", line, "A: 1", made_id=False), compared=_NAMED)  # fmt: skip

    bad_ids = {"empty": "", "space": "a b", "long": "x" * 129, "markup": "<script>", "quote": 'a"b', "obs-text": "a\xe9", "semicolon": "a;b"}
    return [
        passes("forwarded-added", _X, "GET / HTTP/1.1", "A: 1", compared=_NAMED),
        untrusted("for", "X-Forwarded-For: 6.6.6.6"),
        untrusted("for-list", "X-Forwarded-For: 6.6.6.6, 127.0.0.1", "x-forwarded-for: 7.7.7.7"),
        untrusted("proto", "X-Forwarded-Proto: https"),
        untrusted("host-and-port", "X-Forwarded-Host: evil", "X-Forwarded-Port: 1"),
        untrusted("forwarded", "Forwarded: for=6.6.6.6;proto=https"),
        untrusted("real-ip", "X-Real-IP: 6.6.6.6"),
        untrusted("everything", "X-Forwarded-For: 6.6.6.6", "Forwarded: for=6.6.6.6", "X-Forwarded-Proto: https", "X-Forwarded-Host: e"),
        trusted("none", (), sent_on("GET / HTTP/1.1", "A: 1")),
        trusted("for", ("X-Forwarded-For: 203.0.113.9",), sent_on("GET / HTTP/1.1", "A: 1", xff="203.0.113.9, <client>")),
        trusted("for-lines", ("X-Forwarded-For: 203.0.113.9", "X-Forwarded-For: 10.0.0.1"),
                sent_on("GET / HTTP/1.1", "A: 1", xff="203.0.113.9, 10.0.0.1, <client>")),
        trusted("proto", ("X-Forwarded-Proto: https",), sent_on("GET / HTTP/1.1", "A: 1", proto="https")),
        trusted("host-and-port", ("X-Forwarded-Host: shop.example", "X-Forwarded-Port: 443"),
                sent_on("GET / HTTP/1.1", "A: 1", xhost="shop.example", port="443")),
        seen_as("last", "198.51.100.7", matches=True),
        seen_as("behind-trusted", "198.51.100.7, 10.1.2.3", matches=True),
        seen_as("behind-two-trusted", "6.6.6.6, 198.51.100.7, 10.1.2.3, 10.1.2.4", matches=True),
        seen_as("spoofed", "198.51.100.7, 203.0.113.9", matches=False),
        seen_as("spoofed-behind-trusted", "198.51.100.7, 203.0.113.9, 10.1.2.3", matches=False),
        seen_as("garbage-ends-the-walk", "198.51.100.7, unknown, 10.1.2.3", matches=False),
        passes("client-untrusted", _X, "GET / HTTP/1.1", "X-Forwarded-For: 198.51.100.7", kept=(), compared=_NAMED),
        case("forwarded-rfc7239", _X, request("GET / HTTP/1.1", "Forwarded: for=6.6.6.6", "A: 1"),
             sent_on("GET / HTTP/1.1", "A: 1", forwarded="<forwarded>"), OK, variant="lenient", compared=frozenset([b"forwarded"])),
        kept_id("kept", "abc"),
        kept_id("kept-128", "x" * 128),
        kept_id("kept-alphabet", "aZ09._:/+=-"),
        *(passes(f"request-id-replaced-{name}", _X, "GET / HTTP/1.1", f"X-Request-Id: {value}", "A: 1", kept=("A: 1",), compared=_NAMED)
          for name, value in bad_ids.items()),
    ]  # fmt: skip


def _te() -> list[Case]:
    row = "4.2/9110-10.1.4-te"
    kept = sent_on("GET / HTTP/1.1", "A: 1", before=("TE: trailers", "Connection: TE"))
    te = frozenset([b"te"])
    return [
        passes("te-trailers", row, "GET / HTTP/1.1", "TE: trailers", "Connection: TE", "A: 1", wanted=kept, compared=te),
        passes("te-trailers-case", row, "GET / HTTP/1.1", "te: Trailers", "connection: te", "A: 1", wanted=kept, compared=te),
        passes("te-trailers-among-others", row, "GET / HTTP/1.1", "TE: gzip;q=0.5, trailers", "Connection: TE", "A: 1", wanted=kept),
        passes("te-gzip", row, "GET / HTTP/1.1", "TE: gzip, deflate;q=0.5", "Connection: TE", "A: 1", kept=("A: 1",), compared=te),
        passes("te-without-value", row, "GET / HTTP/1.1", "TE:", "Connection: TE", "A: 1", kept=("A: 1",), compared=te),
    ]


def _unchanged() -> list[Case]:
    row = "4.2/9110-7.7-transformation"
    cache = "4.2/9111-cache"
    packed = ("HTTP/1.1 200 OK", DATE, "Content-Encoding: gzip", "Cache-Control: no-transform", "Content-Length: 4")
    fresh = ("HTTP/1.1 200 OK", DATE, "Cache-Control: public, max-age=3600", "ETag: x", "Age: 5", "Content-Length: 2")
    get = request("GET /cached HTTP/1.1", "A: 1")
    once = sent_on("GET /cached HTTP/1.1", "A: 1")
    conditional = ("If-None-Match: x", "If-Modified-Since: Sat, 21 Nov 2026 10:00:00 GMT", "Range: bytes=0-1", "Cache-Control: only-if-cached")
    return [
        passes("fields-untouched", row, "GET / HTTP/1.1", "Accept-Encoding: gzip, br;q=0.5", "User-Agent: x", "Accept: */*",
               "Cache-Control: no-transform", "Referer: http://x/"),
        case("content-untouched", row, request(), sent_on(), relayed(*packed, body=b"\x1f\x8b\x00\xff"),
             script=reply(*packed, body=b"\x1f\x8b\x00\xff")),
        case("content-untouched-up", row, request("POST /in HTTP/1.1", "Content-Encoding: gzip", "Content-Length: 4", body=b"\x1f\x8b\x00\xff"),
             sent_on("POST /in HTTP/1.1", "Content-Encoding: gzip", "Content-Length: 4", body=b"\x1f\x8b\x00\xff", framing="length"), OK),
        passes("target-unchanged-query", row, "GET /a?b=c%20d+e&&=%ff HTTP/1.1"),
        passes("target-unchanged-double-slash", f"{row} 4.3/double-slash-redirect", "GET //a//b HTTP/1.1"),
        case("not-cached", cache, get + get, (once, once),
             (relayed(*fresh), OK), script=(Reply((reply(*fresh, body=b"ok"),)), Reply((REPLY,)))),
        passes("conditions-forwarded", cache, "GET / HTTP/1.1", *conditional),
        case("not-merged", f"{cache} 4.1/9112-9.3.2-pipelining", request() + request(), (sent_on(), sent_on()), (OK, OK), script=TWO),
        case("trailers-in-no-body", "4.1/9112-7.1.2-trailers", request("GET / HTTP/1.1", "Trailer: X"),
             sent_on("GET / HTTP/1.1", "Trailer: X"), OK),
        case("rechunked-both-ways", "4.1/9112-7.1.3-rechunk", request("POST / HTTP/1.1", "Transfer-Encoding: chunked", body=chunked(b"a", b"b")),
             sent_on("POST / HTTP/1.1", body=b"ab", framing="chunked"),
             relayed("HTTP/1.1 200 OK", DATE, "Transfer-Encoding: chunked", body=b"cd", framing="chunked"),
             script=reply("HTTP/1.1 200 OK", DATE, "Transfer-Encoding: chunked", body=chunked(b"c", b"d"))),
    ]  # fmt: skip


CASES = [*_connection(), *_response_connection(), *_via(), *_max_forwards(), *_forwarded(), *_te(), *_unchanged()]
