"""Responses: status lines, heads and framing."""

from tests.conformance.build import (
    DATE,
    REPLY,
    Reply,
    bad_gateway,
    case,
    chunked,
    proxy_status,
    relayed,
    reply,
    request,
    sent_on,
)
from tests.conformance.model import Case, Own

_SPLITTING = "4.4/response-splitting"
_LINE = "HTTP/1.1 200 OK"
_TWO_BYTES = "Content-Length: 2"
_CONNECTION = proxy_status("connection_terminated")


def _simple(name: str, rows: str, response: bytes, *wanted: str, **options: str) -> Case:
    """A response that is relayed with this line and these fields, and body `ok`."""
    return case(name, rows, request(), sent_on(), relayed(*wanted), script=response)


def _status_lines() -> list[Case]:
    row = "4.4/status-text"
    bad = {
        "two-digits": "HTTP/1.1 20 OK",
        "four-digits": "HTTP/1.1 2000 OK",
        "letters": "HTTP/1.1 abc OK",
        "no-code": "HTTP/1.1 OK",
        "protocol": "HTP/1.1 200 OK",
        "version-2": "HTTP/2 200 OK",
        "version-2.0": "HTTP/2.0 200 OK",
        "version-0.9": "HTTP/0.9 200 OK",
        "lower": "http/1.1 200 OK",
        "space-front": " HTTP/1.1 200 OK",
        "two-spaces": "HTTP/1.1  200 OK",
        "tab": "HTTP/1.1\t200 OK",
        "nul-in-reason": "HTTP/1.1 200 O\x00K",
        "cr-in-reason": "HTTP/1.1 200 O\rK",
        "control-in-reason": "HTTP/1.1 200 O\x01K",
        "plus": "HTTP/1.1 +20 OK",
        "zero": "HTTP/1.1 099 OK",
        "icy": "ICY 200 OK",
        "nothing": "",
    }
    good = {
        "no-reason": ("HTTP/1.1 200", "HTTP/1.1 200 OK"),
        "empty-reason": ("HTTP/1.1 200 ", "HTTP/1.1 200 OK"),
        "other-reason": ("HTTP/1.1 200 Fine By Me", "HTTP/1.1 200 Fine By Me"),
        "obs-text-reason": ("HTTP/1.1 200 \xc9a", "HTTP/1.1 200 OK"),
        "404": ("HTTP/1.1 404 Not Found", "HTTP/1.1 404 Not Found"),
        "500": ("HTTP/1.1 500 Internal Server Error", "HTTP/1.1 500 Internal Server Error"),
        "502": ("HTTP/1.1 502 From Behind", "HTTP/1.1 502 From Behind"),
        "503-no-reason": ("HTTP/1.1 503", "HTTP/1.1 503 Service Unavailable"),
        "unregistered": ("HTTP/1.1 299 Odd", "HTTP/1.1 299 Odd"),
    }
    return [
        *(
            bad_gateway(f"status-line-{name}", f"{row} {_SPLITTING}", reply(line, _TWO_BYTES, body=b"ok"))
            for name, line in bad.items()
        ),
        *(
            _simple(f"status-{name}", row, reply(line, DATE, _TWO_BYTES, body=b"ok"), wanted, DATE, _TWO_BYTES)
            for name, (line, wanted) in good.items()
        ),
    ]


_bad = {
    "lf-line": ("4.1/9112-2.2-bare-lf", b"HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nok"),
    "lf-field": ("4.1/9112-2.2-bare-lf", b"HTTP/1.1 200 OK\r\nX: 1\nContent-Length: 2\r\n\r\nok"),
    "lf-end": ("4.1/9112-2.2-bare-lf", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\nok\r\n\r\n"),
    "lf-everywhere": ("4.1/9112-2.2-bare-lf", b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok"),
    "cr-in-value": (
        "4.1/9112-2.2-bare-cr",
        b"HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: b\r\nContent-Length: 2\r\n\r\nok",
    ),
    "cr-cr-lf": ("4.1/9112-2.2-bare-cr", b"HTTP/1.1 200 OK\r\nX: a\r\r\nContent-Length: 2\r\n\r\nok"),
    "fold": ("4.1/9112-5.2-obs-fold", b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok"),
    "fold-tab": ("4.1/9112-5.2-obs-fold", b"HTTP/1.1 200 OK\r\nX: a\r\n\tb\r\nContent-Length: 2\r\n\r\nok"),
    "space-colon": ("4.1/9112-5.1-space-before-colon", b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok"),
    "space-colon-other": (
        "4.1/9112-5.1-space-before-colon",
        b"HTTP/1.1 200 OK\r\nX : 2\r\nContent-Length: 2\r\n\r\nok",
    ),
    "no-colon": (_SPLITTING, b"HTTP/1.1 200 OK\r\nX\r\nContent-Length: 2\r\n\r\nok"),
    "nul": (_SPLITTING, b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 2\r\n\r\nok"),
    "control": (_SPLITTING, b"HTTP/1.1 200 OK\r\nX: a\x01b\r\nContent-Length: 2\r\n\r\nok"),
    "bad-name": (_SPLITTING, b"HTTP/1.1 200 OK\r\nX(Y: a\r\nContent-Length: 2\r\n\r\nok"),
    "space-first": (_SPLITTING, b"HTTP/1.1 200 OK\r\n X: a\r\nContent-Length: 2\r\n\r\nok"),
    "garbage": (_SPLITTING, b"\x16\x03\x01 garbage\r\n\r\n"),
    "http09": (_SPLITTING, b"<html>hello</html>\r\n\r\n"),
    "request": (_SPLITTING, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
}
_row = "4.3/no-limits 4.2/limits"
_HEADS_CASES: list[Case] = [
    *(
        bad_gateway(f"response-{name}", f"{rows} {_SPLITTING} 4.2/9209-proxy-status", data)
        for name, (rows, data) in _bad.items()
    ),
    bad_gateway(
        "response-head-too-long",
        _row,
        reply(_LINE, "X: " + "v" * 90_000, _TWO_BYTES, body=b"ok"),
        Own((502,)),
        splits=False,
    ),
    bad_gateway(
        "response-head-without-end", _row, b"HTTP/1.1 200 OK\r\nX: " + b"v" * 200_000, Own((502,)), splits=False
    ),
    bad_gateway("response-too-many-fields", _row, reply(_LINE, *["X: 1"] * 201, body=b"ok"), Own((502,)), splits=False),
    bad_gateway("response-none", "4.2/9209-proxy-status", (Reply((), then="fin"),), Own((502,), _CONNECTION)),
    bad_gateway("response-reset", "4.2/9209-proxy-status", (Reply((), then="rst"),), Own((502,), _CONNECTION)),
    bad_gateway(
        "response-half-a-head",
        "4.2/9209-proxy-status 4.1/9112-6.3-incomplete-body",
        (Reply((b"HTTP/1.1 200 OK\r\nContent-Le",), then="fin"),),
        Own((502,), _CONNECTION),
    ),
    _simple(
        "response-obs-text",
        "4.1/9110-5.5-field-value",
        reply(_LINE, DATE, "X: \x85\xff", "Y:", _TWO_BYTES, body=b"ok"),
        _LINE,
        DATE,
        "X: \x85\xff",
        "Y:",
        _TWO_BYTES,
    ),
    _simple(
        "response-field-bytes",
        "4.1/9110-5.5-field-value 4.2/9110-5.3-field-order",
        reply(_LINE, "b:1", DATE, "A:  2 ", _TWO_BYTES, "a:", body=b"ok"),
        _LINE,
        "b:1",
        DATE,
        "A:  2 ",
        _TWO_BYTES,
        "a:",
    ),
    _simple(
        "date-added",
        "4.2/9110-6.6.1-date",
        REPLY.replace(DATE.encode() + b"\r\n", b""),
        _LINE,
        _TWO_BYTES,
        "Date: <date>",
    ),
    _simple("date-kept", "4.2/9110-6.6.1-date", REPLY, _LINE, DATE, _TWO_BYTES),
    _simple(
        "date-added-chunked-last",
        "4.2/9110-6.6.1-date",
        reply("HTTP/1.1 404 Not Found", _TWO_BYTES, body=b"ok"),
        "HTTP/1.1 404 Not Found",
        _TWO_BYTES,
        "Date: <date>",
    ),
]


_cl = "4.1/9112-6.3-invalid-cl"
_lengths = {
    "plus": "+2",
    "minus": "-2",
    "hex": "0x2",
    "empty": "",
    "list": "2,3",
    "list-equal": "2, 2",
    "letter": "2a",
    "huge": "9" * 40,
    "leading-zero": "02",
    "space": "2 2",
    "point": "2.0",
    "obs-text": "2\xa0",
}
_codings = {
    "gzip": "gzip",
    "chunked-gzip": "chunked, gzip",
    "gzip-chunked": "gzip, chunked",
    "twice": "chunked, chunked",
    "comma": ",chunked",
    "identity": "identity",
    "empty": "",
    "x": "xchunked",
    "vt": "\x0bchunked",
}
_both = "4.1/9112-6.1-te-and-cl"
_body = chunked(b"ok")
_FRAMING_CASES: list[Case] = [
    *(
        bad_gateway(
            f"response-cl-{name}", f"{_cl} {_SPLITTING}", reply(_LINE, DATE, f"Content-Length: {value}", body=b"ok")
        )
        for name, value in _lengths.items()
    ),
    bad_gateway(
        "response-cl-twice",
        f"4.1/9112-6.3-repeated-cl {_SPLITTING}",
        reply(_LINE, _TWO_BYTES, _TWO_BYTES, body=b"ok"),
    ),
    bad_gateway(
        "response-cl-different",
        f"4.1/9112-6.3-repeated-cl {_SPLITTING}",
        reply(_LINE, _TWO_BYTES, "Content-Length: 1", body=b"ok"),
    ),
    bad_gateway(
        "response-cl-te",
        f"{_both} {_SPLITTING}",
        reply(_LINE, "Content-Length: 12", "Transfer-Encoding: chunked", body=_body),
    ),
    bad_gateway(
        "response-te-cl", f"{_both} {_SPLITTING}", reply(_LINE, "Transfer-Encoding: chunked", _TWO_BYTES, body=_body)
    ),
    *(
        bad_gateway(
            f"response-te-{name}",
            f"4.3/response-coding {_SPLITTING}",
            reply(_LINE, f"Transfer-Encoding: {value}", body=_body),
        )
        for name, value in _codings.items()
    ),
    bad_gateway(
        "response-te-two-lines",
        f"4.3/response-coding {_SPLITTING}",
        reply(_LINE, "Transfer-Encoding: chunked", "Transfer-Encoding: chunked", body=_body),
    ),
    bad_gateway(
        "response-te-http10",
        "4.3/response-coding 4.1/9112-6.1-te-on-http10",
        reply("HTTP/1.0 200 OK", "Transfer-Encoding: chunked", body=_body),
    ),
    bad_gateway(
        "response-te-http10-keep-alive",
        "4.3/response-coding 4.1/9112-6.1-te-on-http10",
        reply("HTTP/1.0 200 OK", "Connection: keep-alive", "Transfer-Encoding: chunked", body=_body),
    ),
    _simple(
        "response-cl-not-canonical",
        "4.2/9110-8.6-content-length",
        reply(_LINE, DATE, "Content-Length: 2 ", "X: 1", body=b"ok"),
        _LINE,
        DATE,
        "X: 1",
        _TWO_BYTES,
    ),
    case(
        "response-large",
        "4.2/9110-8.6-content-length",
        request(),
        sent_on(),
        relayed(_LINE, DATE, "Content-Length: 300000", body=b"0123456789" * 30_000),
        script=reply(_LINE, DATE, "Content-Length: 300000", body=b"0123456789" * 30_000),
        splits=False,
    ),
]


CASES = [*_status_lines(), *_HEADS_CASES, *_FRAMING_CASES]
