"""The grammar of chunked bodies, in requests and in responses, and trailers both ways."""

from tests.conformance.build import DATE, OK, Reply, bad_body, case, chunked, relayed, reply, request, sent_on
from tests.conformance.model import Case, Cut

_SIZE = "4.1/9112-7.1-chunk-size 4.4/chunk-size 4.3/strict-list"
_EXTENSION = "4.1/9112-7.1.1-chunk-extension"
_ENDS = "4.4/chunk-line-ends 4.3/strict-list"
_SPILL = "4.4/chunk-spill 4.3/strict-list"
_TRAILERS = "4.1/9112-7.1.2-trailers"
_RECHUNK = "4.1/9112-7.1.3-rechunk"

SIZES = {
    "plus": b"+5",
    "minus": b"-5",
    "hex": b"0x5",
    "space-behind": b"5 ",
    "space-front": b" 5",
    "tab": b"5\t",
    "letter": b"g",
    "empty": b"",
    "seventeen": b"FFFFFFFFFFFFFFFFF",
    "sixteen": b"FFFFFFFFFFFFFFFF",
    "huge": b"1" + b"0" * 30,
    "underscore": b"0_5",
    "comma": b"5,",
    "nul": b"5\x00",
    "obs-text": b"5\xa0",
    "quote": b'"5"',
    "point": b"5.0",
    "h": b"5h",
    "zeros-seventeen": b"00000000000000005",
    "space-extension": b"5 x",
}

LINE_ENDS = {
    "lf": b"5\nhello\r\n0\r\n\r\n",
    "cr": b"5\rhello\r\n0\r\n\r\n",
    "cr-cr-lf": b"5\r\r\nhello\r\n0\r\n\r\n",
    "extension-lf": b"5;\nx\r\nhello\r\n0\r\n\r\n",
    "extension-cr": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "extension-quoted-lf": b'5;a="\n"\r\nhello\r\n0\r\n\r\n',
    "extension-quoted-crlf": b'5;a="\r\n"\r\nhello\r\n0\r\n\r\n',
    "extension-nul": b"5;a=\x00\r\nhello\r\n0\r\n\r\n",
    "extension-control": b"5;a=\x01b\r\nhello\r\n0\r\n\r\n",
    "last-lf": b"5\r\nhello\r\n0\n\r\n",
    "end-lf": b"5\r\nhello\r\n0\r\n\n",
    "end-cr": b"5\r\nhello\r\n0\r\n\rX",
    "trailer-lf": b"5\r\nhello\r\n0\r\nX: 1\n\r\n",
}

SPILLS = {
    "too-long": b"5\r\nhellox\r\n0\r\n\r\n",
    "too-short": b"5\r\nhell\r\n0\r\n\r\n",
    "lf": b"5\r\nhello\n0\r\n\r\n",
    "cr": b"5\r\nhello\r0\r\n\r\n",
    "none": b"5\r\nhello0\r\n\r\n",
    "two-octets": b"5\r\nhelloXX0\r\n\r\n",
    "cr-cr": b"5\r\nhello\r\r\n0\r\n\r\n",
    "lf-cr": b"5\r\nhello\n\r0\r\n\r\n",
    "empty-line": b"5\r\nhello\r\n\r\n0\r\n\r\n",
}

BAD_TRAILERS = {
    "no-colon": b"0\r\nX\r\n\r\n",
    "space-colon": b"0\r\nX : 1\r\n\r\n",
    "no-name": b"0\r\n: 1\r\n\r\n",
    "fold": b"0\r\nX: 1\r\n 2\r\n\r\n",
    "space-first": b"0\r\n X: 1\r\n\r\n",
    "nul": b"0\r\nX: \x00\r\n\r\n",
    "cr": b"0\r\nX: a\rb\r\n\r\n",
    "bad-name": b"0\r\nX(Y: 1\r\n\r\n",
    "looks-like-request": b"0\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
}


def _good(
    name: str, rows: str, body: bytes, *, data: bytes = b"hello", trailers: bytes = b"", splits: bool = True
) -> Case:
    sent = sent_on("POST /in HTTP/1.1", body=data, framing="chunked", trailers=trailers)
    return case(
        name, rows, request("POST /in HTTP/1.1", "Transfer-Encoding: chunked", body=body), sent, OK, splits=splits
    )


def _requests() -> list[Case]:
    valid = {"trailer-lf": b"hello", "end-lf": b"hello", "end-cr": b"hello", "last-lf": b"hello"}
    return [
        *(bad_body(f"chunk-size-{name}", _SIZE, size + b"\r\nhello\r\n0\r\n\r\n") for name, size in SIZES.items()),
        bad_body("chunk-size-second", _SIZE, b"5\r\nhello\r\n+5\r\nworld\r\n0\r\n\r\n", valid=b"hello"),
        bad_body("chunk-size-without-end", f"{_SIZE} 4.3/no-limits", b"0" * 5000, splits=False),
        *(
            bad_body(
                f"chunk-line-{name}",
                f"{_ENDS} 4.1/9112-2.2-bare-lf 4.1/9112-2.2-bare-cr",
                body,
                valid=valid.get(name, b""),
            )
            for name, body in LINE_ENDS.items()
        ),
        *(
            bad_body(f"chunk-spill-{name}", _SPILL, body, valid=b"hell\r" if name == "too-short" else b"hello")
            for name, body in SPILLS.items()
        ),
        *(
            bad_body(f"chunk-trailer-{name}", f"{_TRAILERS} 4.4/trailer-fields", body)
            for name, body in BAD_TRAILERS.items()
        ),
        _good("chunk-one", _RECHUNK, b"5\r\nhello\r\n0\r\n\r\n"),
        _good("chunk-two", _RECHUNK, b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"),
        _good("chunk-each-octet", _RECHUNK, chunked(b"h", b"e", b"l", b"l", b"o")),
        _good("chunk-none", _RECHUNK, b"0\r\n\r\n", data=b""),
        _good("chunk-zeros", _SIZE, b"005\r\nhello\r\n000\r\n\r\n"),
        _good("chunk-hex-lower", _SIZE, b"a\r\n0123456789\r\n0\r\n\r\n", data=b"0123456789"),
        _good("chunk-hex-upper", _SIZE, b"A\r\n0123456789\r\n0\r\n\r\n", data=b"0123456789"),
        _good("chunk-data-like-chunks", _RECHUNK, b"7\r\n0\r\n\r\nGE\r\n0\r\n\r\n", data=b"0\r\n\r\nGE"),
        _good("extension", _EXTENSION, b"5;a=b\r\nhello\r\n0;c\r\n\r\n"),
        _good("extension-quoted", _EXTENSION, b'5;a="b;c\\"d"\r\nhello\r\n0\r\n\r\n'),
        _good("extension-many", _EXTENSION, b"5;a;b=c;d=e\r\nhello\r\n0\r\n\r\n"),
        bad_body("extension-too-long", f"{_EXTENSION} 4.3/no-limits", b"5;a=" + b"b" * 300 + b"\r\nhello\r\n0\r\n\r\n"),
        bad_body("extension-without-end", f"{_EXTENSION} 4.3/no-limits", b"5;a=" + b"b" * 70_000, splits=False),
        bad_body(
            "extension-sum-too-long",
            f"{_EXTENSION} 4.3/no-limits",
            (b"1;a=" + b"b" * 200 + b"\r\nx\r\n") * 100 + b"0\r\n\r\n",
            valid=b"x" * 100,
            splits=False,
        ),
    ]


def _request_trailers() -> list[Case]:
    dropped = (
        "Host: evil",
        "Content-Length: 5",
        "Transfer-Encoding: chunked",
        "Authorization: Basic eA==",
        "Cookie: a=b",
        "X-Forwarded-For: 6.6.6.6",
        "Connection: close",
        "Via: 1.1 evil",
        "Content-Type: text/html",
        "Expect: 100-continue",
        "Forwarded: for=6.6.6.6",
        "X_Forwarded_For: 6.6.6.6",
        "Content_Length: 5",
        "Trailer: X",
    )
    row = f"{_TRAILERS} 4.4/trailer-fields 4.3/trailers-as-fields"
    return [
        _good("trailer", _TRAILERS, chunked(b"hello", trailers="X-Sum: abc\r\n"), trailers=b"X-Sum: abc\r\n"),
        _good(
            "trailer-two",
            _TRAILERS,
            chunked(b"hello", trailers="X-Sum: abc\r\nX-More: 1\r\n"),
            trailers=b"X-Sum: abc\r\nX-More: 1\r\n",
        ),
        *(
            _good(
                f"trailer-dropped-{n}",
                row,
                chunked(b"hello", trailers=f"X-A: 1\r\n{line}\r\nX-B: 2\r\n"),
                trailers=b"X-A: 1\r\nX-B: 2\r\n",
            )
            for n, line in enumerate(dropped)
        ),
        _good("trailer-only-dropped", row, chunked(b"hello", trailers="Host: evil\r\n")),
        bad_body("trailer-without-end", f"{_TRAILERS} 4.3/no-limits", b"0\r\nX: " + b"v" * 70_000, splits=False),
    ]


def _response(name: str, rows: str, body: bytes, valid: bytes = b"") -> Case:
    head = reply("HTTP/1.1 200 OK", DATE, "Transfer-Encoding: chunked")
    cut = Cut(relayed("HTTP/1.1 200 OK", DATE, "Transfer-Encoding: chunked").head, valid)
    return case(name, rows, request(), sent_on(), cut, "broken", script=head + body, upstream="closed")


_split = "4.4/response-splitting"
_valid = {"trailer-lf": b"hello", "end-lf": b"hello", "end-cr": b"hello", "last-lf": b"hello"}
_head = reply("HTTP/1.1 200 OK", DATE, "Transfer-Encoding: chunked")
_wanted = "HTTP/1.1 200 OK", DATE, "Transfer-Encoding: chunked"


def _responses_good(
    name: str, rows: str, body: bytes, *fields: str, trailers: bytes = b"", data: bytes = b"hello"
) -> Case:
    kept = ("TE: trailers", "Connection: TE") if fields else ()
    answer = relayed(*_wanted, body=data, framing="chunked", trailers=trailers)
    return case(name, rows, request("GET / HTTP/1.1", *fields), sent_on(before=kept), answer, script=_head + body)


_te = "TE: trailers", "Connection: TE"
_row = f"{_TRAILERS} 4.4/trailer-fields 4.3/trailers-as-fields"
_dropped = (
    "Content-Length: 5",
    "Set-Cookie: a=b",
    "Transfer-Encoding: chunked",
    "Content-Type: text/html",
    "Connection: x",
    "Location: http://evil/",
    "Cache-Control: public",
)
_RESPONSES_CASES: list[Case] = [
    *(
        _response(f"response-chunk-size-{name}", f"{_SIZE} {_split}", size + b"\r\nhello\r\n0\r\n\r\n")
        for name, size in SIZES.items()
    ),
    *(
        _response(f"response-chunk-line-{name}", f"{_ENDS} {_split} 4.1/9112-2.2-bare-lf", body, _valid.get(name, b""))
        for name, body in LINE_ENDS.items()
    ),
    *(
        _response(
            f"response-chunk-spill-{name}",
            f"{_SPILL} {_split}",
            body,
            b"hell\r" if name == "too-short" else b"hello",
        )
        for name, body in SPILLS.items()
    ),
    *(_response(f"response-trailer-{name}", f"{_TRAILERS} {_split}", body) for name, body in BAD_TRAILERS.items()),
    _responses_good("response-chunked", _RECHUNK, chunked(b"he", b"llo")),
    _responses_good("response-chunked-empty", _RECHUNK, chunked(), data=b""),
    _responses_good("response-extension", _EXTENSION, b"5;a=b\r\nhello\r\n0;c\r\n\r\n"),
    _responses_good("response-trailer-without-te", _TRAILERS, chunked(b"hello", trailers="X-Sum: 1\r\n")),
    _responses_good(
        "response-trailer-with-te",
        f"{_TRAILERS} 4.2/9110-10.1.4-te",
        chunked(b"hello", trailers="X-Sum: 1\r\n"),
        *_te,
        trailers=b"X-Sum: 1\r\n",
    ),
    *(
        _responses_good(
            f"response-trailer-dropped-{n}",
            _row,
            chunked(b"hello", trailers=f"{line}\r\nX-Sum: 1\r\n"),
            *_te,
            trailers=b"X-Sum: 1\r\n",
        )
        for n, line in enumerate(_dropped)
    ),
    case(
        "response-chunked-http10",
        f"{_RECHUNK} 4.1/9112-6.3-close-delimited 4.1/9112-9.3-http10-persistence",
        request("GET / HTTP/1.0"),
        sent_on(via="1.0 edge"),
        relayed("HTTP/1.1 200 OK", DATE, "Connection: close", body=b"hello", framing="close"),
        "closed",
        script=_head + chunked(b"he", b"llo"),
    ),
    case(
        "response-chunked-http10-broken",
        f"4.1/9112-6.3-incomplete-body {_SPILL}",
        request("GET / HTTP/1.0"),
        sent_on(via="1.0 edge"),
        Cut(relayed("HTTP/1.1 200 OK", DATE, "Connection: close").head, b"hello", "close"),
        "broken",
        script=(Reply((_head + b"5\r\nhello\r\n",), then="fin"),),
    ),
]


CASES = [*_requests(), *_request_trailers(), *_RESPONSES_CASES]
