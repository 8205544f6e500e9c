"""Host, the authority in the target, and what the two make of each other."""

from tests.conformance.build import OK, OK_CLOSE, case, passes, refused, request, sent_on
from tests.conformance.model import Case, Own

_HOST = "4.1/9112-3.2-host 4.3/host"
_ABSOLUTE = "4.1/9112-3.2.2-absolute-form"

_INVALID = {
    "space": "a b",
    "tab": "a\tb",
    "slash": "a/b",
    "userinfo": "u@a",
    "password": "u:p@a",
    "comma": "a, b",
    "two-ports": "a:80:80",
    "word-port": "a:http",
    "negative-port": "a:-1",
    "query": "a?b",
    "fragment": "a#b",
    "backslash": "a\\b",
    "quote": '"a"',
    "open-bracket": "[::1",
    "bare-v6": "::1",
    "no-v6": "[gg::1]",
    "behind-bracket": "[::1]x",
    "obs-text": "a\xe9",
    "nbsp": "a\xa0",
    "nel": "\x85a",
    "empty": "",
    "percent": "a%zz",
    "angle": "<a>",
    "brace": "{a}",
    "url": "http://a",
}

_VALID = (
    "A.Example",
    "a:8080",
    "127.0.0.1",
    "127.0.0.1:80",
    "[::1]",
    "[::1]:8080",
    "a_b.example",
    "a-b.c",
    "a.",
    "x" * 63,
)


def _private() -> Own:
    return Own((403,), body=b"private")


def _hosts() -> list[Case]:
    authority = f"{_HOST} 4.4/authority"
    return [
        refused("host-missing", _HOST, request(host=None)),
        refused("host-missing-with-fields", _HOST, request("GET / HTTP/1.1", "Accept: */*", host=None)),
        refused("host-twice-equal", authority, request("GET / HTTP/1.1", "Host: a")),
        refused("host-twice-different", authority, request("GET / HTTP/1.1", "Host: b")),
        refused("host-twice-case", authority, request("GET / HTTP/1.1", "HOST: a")),
        refused("host-twice-empty-first", authority, request("GET / HTTP/1.1", "Host: a", host="")),
        refused("host-twice-empty-second", authority, request("GET / HTTP/1.1", "Host:")),
        *(
            refused(f"host-invalid-{name}", f"{_HOST} 4.4/authority", request(host=value))
            for name, value in _INVALID.items()
        ),
        *(
            case(f"host-valid-{n}", _HOST, request(host=value), sent_on(host=value), OK)
            for n, value in enumerate(_VALID)
        ),
        case(
            "host-white-space-around",
            _HOST,
            request("GET / HTTP/1.1", "Host:  a \t", host=None),
            sent_on("GET / HTTP/1.1", "Host:  a \t", host=None, xhost="a"),
            OK,
        ),
        case(
            "host-last",
            _HOST,
            request("GET / HTTP/1.1", "Accept: */*", "hOST: a", host=None),
            sent_on("GET / HTTP/1.1", "Accept: */*", "hOST: a", host=None, xhost="a"),
            OK,
        ),
        case(
            "host-missing-http10",
            _HOST,
            request("GET / HTTP/1.0", host=None),
            sent_on(host="<backend>", xhost="", via="1.0 edge"),
            OK_CLOSE,
            "closed",
            note="HTTP/1.1 needs a Host: the backend's own, as there is none to keep",
        ),
        refused("host-twice-http10", _HOST, request("GET / HTTP/1.0", "Host: b")),
        refused("host-invalid-http10", _HOST, request("GET / HTTP/1.0", host="u@a")),
    ]


_different = f"{_ABSOLUTE} 4.3/host 4.4/authority"
_bad = {
    "userinfo": "http://u@a/",
    "password": "http://u:p@a/",
    "no-host": "http:///x",
    "port-only": "http://:80/",
    "word-port": "http://a:x/",
    "ftp": "ftp://a/",
    "file": "file:///etc/passwd",
    "javascript": "javascript:x",
    "bare-v6": "http://::1/",
    "backslash": "http://a\\@b/",
    "data": "data:,x",
    "two-slashes-missing": "http:a/",
}
_ABSOLUTE_CASES: list[Case] = [
    passes("absolute", _ABSOLUTE, "GET http://a/b?c=d HTTP/1.1", out="GET /b?c=d HTTP/1.1"),
    passes(
        "absolute-no-path",
        f"{_ABSOLUTE} 4.2/9110-7.7-transformation",
        "GET http://a HTTP/1.1",
        out="GET / HTTP/1.1",
    ),
    passes("absolute-query-only", _ABSOLUTE, "GET http://a?c=d HTTP/1.1", out="GET /?c=d HTTP/1.1"),
    passes("absolute-https", _ABSOLUTE, "GET https://a/b HTTP/1.1", out="GET /b HTTP/1.1"),
    passes("absolute-scheme-case", _ABSOLUTE, "GET HTTP://a/b HTTP/1.1", out="GET /b HTTP/1.1"),
    case(
        "absolute-port",
        _ABSOLUTE,
        request("GET http://a:8080/b HTTP/1.1", host="a:8080"),
        sent_on("GET /b HTTP/1.1", host="a:8080"),
        OK,
    ),
    case(
        "absolute-v6",
        _ABSOLUTE,
        request("GET http://[::1]:80/b HTTP/1.1", host="[::1]:80"),
        sent_on("GET /b HTTP/1.1", host="[::1]:80"),
        OK,
    ),
    case(
        "absolute-host-case",
        _ABSOLUTE,
        request("GET http://Example.COM/b HTTP/1.1", host="example.com"),
        sent_on("GET /b HTTP/1.1", host="Example.COM"),
        OK,
        note="Host is made anew from the target",
    ),
    refused("absolute-host-differs", _different, request("GET http://b/ HTTP/1.1")),
    refused("absolute-port-differs", _different, request("GET http://a:81/ HTTP/1.1")),
    refused("absolute-host-has-port", _different, request("GET http://a/ HTTP/1.1", host="a:81")),
    refused("absolute-host-missing", f"{_ABSOLUTE} {_HOST}", request("GET http://a/ HTTP/1.1", host=None)),
    refused("absolute-host-twice", _different, request("GET http://a/ HTTP/1.1", "Host: b")),
    refused("absolute-host-invalid", _different, request("GET http://a/ HTTP/1.1", host="u@a")),
    *(refused(f"absolute-bad-{name}", _ABSOLUTE, request(f"GET {target} HTTP/1.1")) for name, target in _bad.items()),
    case(
        "absolute-http10-without-host",
        _ABSOLUTE,
        request("GET http://a/b HTTP/1.0", host=None),
        sent_on("GET /b HTTP/1.1", host="a", via="1.0 edge"),
        OK_CLOSE,
        "closed",
    ),
    refused("absolute-http10-host-differs", _different, request("GET http://b/ HTTP/1.0")),
    case(
        "absolute-private",
        f"{_ABSOLUTE} 4.4/path-confusion",
        request("GET http://a/private HTTP/1.1"),
        (),
        _private(),
        "stated",
    ),
]


def _passed_on() -> list[Case]:
    row = "4.2/9110-7.2-host"
    return [
        passes("host-kept", row, "GET /x HTTP/1.1", compared=frozenset([b"host"])),
        case(
            "host-of-backend",
            row,
            request("GET /host-backend HTTP/1.1", "Accept: */*"),
            sent_on("GET /host-backend HTTP/1.1", "Accept: */*", host="<backend>", xhost="a"),
            OK,
            upstream="any",
        ),
        case(
            "host-named",
            row,
            request("GET /host-named HTTP/1.1", "Accept: */*"),
            sent_on("GET /host-named HTTP/1.1", "Accept: */*", host="api.internal", xhost="a"),
            OK,
            upstream="any",
        ),
        case(
            "host-named-in-place",
            row,
            request("GET /host-named HTTP/1.1", "Accept: */*", "Host: a", "X: y", host=None),
            sent_on("GET /host-named HTTP/1.1", "Accept: */*", "Host: api.internal", "X: y", host=None, xhost="a"),
            OK,
            upstream="any",
        ),
    ]


CASES = [*_hosts(), *_ABSOLUTE_CASES, *_passed_on()]
