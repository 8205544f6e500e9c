"""Request lines: empty lines before them, line ends, versions, methods and targets."""

from tests.conformance.build import OK, OK_CLOSE, TWO, case, passes, refused, request, sent_on
from tests.conformance.model import Case, Own

_GET = request()
_EMPTY = "4.1/9112-2.2-leading-empty-lines"
_LF = "4.1/9112-2.2-bare-lf 4.3/strict-list"
_CR = "4.1/9112-2.2-bare-cr 4.3/strict-list"
_VERSION = "4.1/9112-2.3-version"
_V09 = "4.3/http09 4.4/http09 4.1/9112-2.3-version"
_TARGET = "4.1/9112-3-whitespace-in-target"


def _empty_lines() -> list[Case]:
    return [
        case("empty-line-1", _EMPTY, b"\r\n" + _GET, sent_on(), OK),
        case("empty-line-4", _EMPTY, b"\r\n" * 4 + _GET, sent_on(), OK),
        refused("empty-line-5", _EMPTY, b"\r\n" * 5 + _GET),
        refused("empty-line-only", _EMPTY, b"\r\n" * 6),
        refused("empty-line-lf", f"{_EMPTY} {_LF}", b"\n" + _GET),
        refused("empty-line-cr", f"{_EMPTY} {_CR}", b"\r\r\n" + _GET),
        refused("empty-line-space", _EMPTY, b" \r\n" + _GET),
        case(
            "empty-line-between",
            f"{_EMPTY} 4.1/9112-9.3.2-pipelining",
            _GET + b"\r\n" + _GET,
            (sent_on(), sent_on()),
            (OK, OK),
            script=TWO,
        ),
        case(
            "empty-line-after-post",
            _EMPTY,
            request("POST / HTTP/1.1", "Content-Length: 1", body=b"x\r\n") + _GET,
            (sent_on("POST / HTTP/1.1", "Content-Length: 1", body=b"x", framing="length"), sent_on()),
            (OK, OK),
            script=TWO,
        ),
        case(
            "empty-lines-then-silence",
            f"{_EMPTY} 4.2/limits",
            b"\r\n\r\n",
            (),
            (),
            "closed",
            variant="tight",
            splits=False,
            note="a trickle of empty lines does not keep a connection",
        ),
    ]


def _line_ends() -> list[Case]:
    lf = {
        "request-line": b"GET / HTTP/1.1\nHost: a\r\n\r\n",
        "field": b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
        "last-field": b"GET / HTTP/1.1\r\nHost: a\n\r\n",
        "empty-line": b"GET / HTTP/1.1\r\nHost: a\r\n\n",
        "everywhere": b"GET / HTTP/1.1\nHost: a\n\n",
        "smuggles-a-field": b"GET / HTTP/1.1\r\nHost: a\r\nX: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "request-line-unfinished": b"GET / HTTP/1.1\n",
        "field-unfinished": b"GET / HTTP/1.1\r\nHost: a\n",
        "lf-cr": b"GET / HTTP/1.1\n\rHost: a\n\r\n\r",
    }
    cr = {
        "request-line": b"GET / HTTP/1.1\rHost: a\r\n\r\n",
        "field-end": b"GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n",
        "in-value": b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
        "in-name": b"GET / HTTP/1.1\r\nHost: a\r\nX\rY: a\r\n\r\n",
        "twice": b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\r\n\r\n",
        "before-empty-line": b"GET / HTTP/1.1\r\nHost: a\r\n\r\r\n\r\n",
        "smuggles-a-field": b"GET / HTTP/1.1\r\nHost: a\r\nX: y\rContent-Length: 5\r\n\r\nhello",
        "in-target": b"GET /a\rb HTTP/1.1\r\nHost: a\r\n\r\n",
    }
    return [
        *(refused(f"bare-lf-{name}", _LF, data) for name, data in lf.items()),
        *(refused(f"bare-cr-{name}", _CR, data) for name, data in cr.items()),
        *(
            refused(f"space-before-first-field-{name}", "4.1/9112-2.2-space-before-first-field 4.4/colon", data)
            for name, data in {
                "space": b"GET / HTTP/1.1\r\n Host: a\r\nHost: b\r\n\r\n",
                "tab": b"GET / HTTP/1.1\r\n\tHost: a\r\nHost: b\r\n\r\n",
                "alone": b"GET / HTTP/1.1\r\n \r\nHost: a\r\n\r\n",
                "framing": b"POST / HTTP/1.1\r\n Content-Length: 5\r\nHost: a\r\n\r\nhello",
            }.items()
        ),
    ]


def _versions() -> list[Case]:
    other = ("HTTP/1.2", "HTTP/0.9", "HTTP/3.0", "HTTP/9.9", "HTTP/2.1")
    malformed = (
        "HTTP/1",
        "HTTP/11",
        "HTTP/1.1x",
        "HTTP/01.1",
        "HTTP/1.10",
        "http/1.1",
        "HTTP/1,1",
        "HTTP/+1.1",
        "HTTP/1.",
        "HTTP/.1",
        "XTTP/1.1",
        "HTTP/a.b",
        "HTTP 1.1",
        "HTTP//1.1",
        "HTTP/1.1/",
    )
    return [
        passes("version-11", _VERSION),
        case("version-10", _VERSION, request("GET / HTTP/1.0"), sent_on(via="1.0 edge"), OK_CLOSE, "closed"),
        *(refused(f"version-{v[5:]}", _VERSION, request(f"GET / {v}"), 505) for v in other),
        refused("version-2.0", f"{_VERSION} 4.3/http2-version", request("GET / HTTP/2.0"), 505),
        *(refused(f"version-malformed-{n}", _VERSION, request(f"GET / {v}")) for n, v in enumerate(malformed)),
        refused("version-space-behind", _VERSION, b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n"),
        *(
            refused(f"http09-{name}", _V09, data)
            for name, data in {
                "crlf": b"GET /x\r\n\r\n",
                "lf": b"GET /x\n",
                "crlf-alone": b"GET /x\r\n",
                "space": b"GET /x \r\n\r\n",
                "fields": b"GET /x\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
                "lf-fields": b"GET /x\nHost: a\n\n",
                "post": b"POST /x\r\nHost: a\r\n\r\n",
                "no-target": b"GET\r\n\r\n",
            }.items()
        ),
        refused("pri-preface", "4.3/pri", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, 505),
        refused("foreign-ice", "4.3/foreign-protocol", b"SOURCE / ICE/1.0\r\nHost: a\r\n\r\n", 400, 501, 505),
        refused("foreign-rtsp", "4.3/foreign-protocol", b"OPTIONS /m RTSP/1.0\r\nHost: a\r\n\r\n", 400, 505),
        refused("foreign-rtsp-setup", "4.3/foreign-protocol", b"SETUP /m RTSP/1.0\r\nHost: a\r\n\r\n", 400, 501, 505),
        refused("foreign-sip", "4.3/foreign-protocol", b"INVITE sip:a@b SIP/2.0\r\n\r\n", 400, 501, 505),
        refused(
            "foreign-tls", "4.3/foreign-protocol", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", tls=False
        ),
    ]


def _methods() -> list[Case]:
    own_405 = Own((405,), ((b"allow", rb".*GET.*"),), close=None)
    connect = "4.2/9110-9.3.6-connect 4.1/9112-3.2.3-authority-form"
    return [
        *(
            passes(f"method-{method.lower()}", "4.3/foreign-protocol", f"{method} / HTTP/1.1")
            for method in ("DELETE", "PATCH", "PUT", "POST", "PROPFIND", "OPTIONS")
        ),
        *(
            refused(f"method-unknown-{n}", "4.4/path-confusion 4.1/9112-3-long-target", request(f"{m} / HTTP/1.1"), 501)
            for n, m in enumerate(("get", "Get", "FOO", "GETT", "G", "X-Y", "A" * 40))
        ),
        *(
            refused(f"method-malformed-{n}", "4.4/path-confusion", lines.encode("latin-1") + b"\r\nHost: a\r\n\r\n")
            for n, lines in enumerate(
                (
                    "GE(T / HTTP/1.1",
                    " GET / HTTP/1.1",
                    "G\x00T / HTTP/1.1",
                    "GET: / HTTP/1.1",
                    "/ HTTP/1.1",
                    "G\xc9T / HTTP/1.1",
                    '"GET" / HTTP/1.1',
                )
            )
        ),
        refused("connect", connect, request("CONNECT a:443 HTTP/1.1", host="a:443"), 405),
        case("connect-allow", connect, request("CONNECT a:443 HTTP/1.1", host="a:443"), (), own_405, "closed"),
        refused(
            "connect-body",
            f"{connect} 4.4/upgrade-body",
            request("CONNECT a:443 HTTP/1.1", "Content-Length: 5", host="a:443", body=b"hello"),
            405,
            400,
        ),
        refused(
            "connect-chunked",
            f"{connect} 4.4/upgrade-body",
            request("CONNECT a:443 HTTP/1.1", "Transfer-Encoding: chunked", host="a:443", body=b"0\r\n\r\n"),
            405,
            400,
        ),
        refused("connect-then-bytes", connect, request("CONNECT a:443 HTTP/1.1", host="a:443") + request(), 405),
        refused("connect-origin-form", connect, request("CONNECT / HTTP/1.1"), 405, 400),
        case("trace", "4.2/9110-7.6.2-max-forwards", request("TRACE / HTTP/1.1"), (), own_405, "stated"),
        case(
            "trace-max-forwards",
            "4.2/9110-7.6.2-max-forwards",
            request("TRACE / HTTP/1.1", "Max-Forwards: 0"),
            (),
            own_405,
            "stated",
        ),
    ]


def _targets() -> list[Case]:
    bad = {
        "space": "/a b",
        "two-spaces": "/a  b",
        "tab": "/a\tb",
        "nul": "/a\x00b",
        "control": "/a\x01b",
        "del": "/a\x7fb",
        "vt": "/a\x0bb",
        "latin-1": "/a\xe9b",
        "utf-8": "/\xc3\xa9",
        "nbsp": "/a\xa0b",
    }
    no_form = {"name": "a", "question": "?x", "relative": "../a", "colon": "http:/a", "scheme-only": "http://"}
    return [
        *(
            refused(f"target-{name}", f"{_TARGET} 4.3/strict-list", request(f"GET {t} HTTP/1.1"))
            for name, t in bad.items()
        ),
        refused("target-double-space", f"{_TARGET} 4.3/line-oddities", request("GET  / HTTP/1.1")),
        refused("target-double-space-version", f"{_TARGET} 4.3/line-oddities", request("GET /  HTTP/1.1")),
        refused("target-tab-separator", _TARGET, request("GET\t/\tHTTP/1.1")),
        refused("target-missing", _TARGET, request("GET  HTTP/1.1")),
        *(
            refused(f"target-form-{name}", "4.1/9112-3.2.3-authority-form", request(f"GET {t} HTTP/1.1"))
            for name, t in no_form.items()
        ),
        refused("target-authority-form", "4.1/9112-3.2.3-authority-form", request("GET a:80 HTTP/1.1")),
        refused(
            "target-authority-form-post",
            "4.1/9112-3.2.3-authority-form",
            request("POST a:80 HTTP/1.1", "Content-Length: 5", body=b"hello"),
        ),
        refused("target-fragment", "4.1/9112-3.2-fragment 4.3/line-oddities", request("GET /a#b HTTP/1.1")),
        refused("target-fragment-query", "4.1/9112-3.2-fragment", request("GET /a?b#c HTTP/1.1")),
        refused("target-fragment-alone", "4.1/9112-3.2-fragment", request("GET # HTTP/1.1")),
        refused("target-fragment-absolute", "4.1/9112-3.2-fragment", request("GET http://a/b#c HTTP/1.1")),
        refused("asterisk-get", "4.1/9112-3.2.4-asterisk-form 4.3/line-oddities", request("GET * HTTP/1.1")),
        refused("asterisk-post", "4.1/9112-3.2.4-asterisk-form", request("POST * HTTP/1.1", "Content-Length: 0")),
        refused("asterisk-more", "4.1/9112-3.2.4-asterisk-form", request("OPTIONS *x HTTP/1.1")),
        passes("asterisk-options", "4.1/9112-3.2.4-asterisk-form", "OPTIONS * HTTP/1.1"),
        passes(
            "asterisk-from-absolute",
            "4.1/9112-3.2.4-asterisk-form",
            "OPTIONS http://a HTTP/1.1",
            out="OPTIONS * HTTP/1.1",
        ),
        passes(
            "asterisk-not-with-path",
            "4.1/9112-3.2.4-asterisk-form",
            "OPTIONS http://a/ HTTP/1.1",
            out="OPTIONS / HTTP/1.1",
        ),
    ]


def _confusion() -> list[Case]:
    row = "4.4/path-confusion"
    private = Own((403,), body=b"private")
    hidden = {
        "plain": "/private",
        "below": "/private/x",
        "dots": "/public/../private/x",
        "dot": "/./private",
        "encoded-letter": "/%70rivate",
        "encoded-dots": "/public/%2e%2e/private",
        "query": "/private?x=/../y",
    }
    raw = ("/..%2fprivate", "/a//b/../c", "/a;b/c", "/%7Euser?x=%zz", "/a%2Fb", "/a'()*,b", "/privateer", "/a?b/../c?d")
    return [
        *(
            case(f"path-{name}", row, request(f"GET {target} HTTP/1.1"), (), private, "stated")
            for name, target in hidden.items()
        ),
        refused("path-encoded-nul", row, request("GET /a%00b HTTP/1.1")),
        refused("path-encoded-nul-private", row, request("GET /private%00 HTTP/1.1")),
        refused("path-backslash", row, request("GET /a\\b HTTP/1.1")),
        refused("path-backslash-dots", row, request("GET /public\\..\\private HTTP/1.1")),
        *(
            passes(f"path-raw-{n}", f"{row} 4.2/9110-7.7-transformation", f"GET {target} HTTP/1.1")
            for n, target in enumerate(raw)
        ),
        case(
            "redirect-double-slash",
            "4.3/double-slash-redirect",
            request("GET //evil/x HTTP/1.1"),
            (),
            Own((308,), ((b"location", rb"/[^/\\].*"),)),
            "stated",
        ),
        case(
            "redirect-many-slashes",
            "4.3/double-slash-redirect",
            request("GET ////evil/x HTTP/1.1"),
            (),
            Own((308,), ((b"location", rb"/[^/\\].*"),)),
            "stated",
        ),
        passes("target-in-pieces", "4.3/fragmented-target", "GET /one/two/three?four=five HTTP/1.1"),
        case(
            "target-in-pieces-private",
            "4.3/fragmented-target",
            request("GET /private/two/three HTTP/1.1"),
            (),
            private,
            "stated",
        ),
    ]


def _long() -> list[Case]:
    row = "4.1/9112-3-long-target 4.3/no-limits 4.2/limits"
    return [
        passes("target-at-limit", row, f"GET /{'a' * 255} HTTP/1.1", variant="tight"),
        refused("target-over-limit", row, request(f"GET /{'a' * 256} HTTP/1.1"), 414, variant="tight"),
        refused("target-over-limit-unfinished", row, b"GET /" + b"a" * 3000, 414, variant="tight", splits=False),
        refused("target-over-limit-absolute", row, request(f"GET http://a/{'a' * 256} HTTP/1.1"), 414, variant="tight"),
        passes("target-at-default-limit", row, f"GET /{'a' * 8191} HTTP/1.1", splits=False),
        refused("target-over-default-limit", row, request(f"GET /{'a' * 8192} HTTP/1.1"), 414, splits=False),
        refused("target-without-end", row, b"GET /" + b"a" * 70_000, 414, splits=False),
        refused("method-without-end", row, b"A" * 70_000, 400, 414, 431, 501, splits=False),
    ]


CASES = [*_empty_lines(), *_line_ends(), *_versions(), *_methods(), *_targets(), *_confusion(), *_long()]
