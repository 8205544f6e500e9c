"""Where responses end: with their connection, with their head, too early, and what stands behind them."""

from tests.conformance.build import (
    DATE,
    OK,
    OK_CLOSE,
    REPLY,
    Reply,
    bad_gateway,
    case,
    chunked,
    relayed,
    reply,
    request,
    sent_on,
)
from tests.conformance.model import AwaitClient, AwaitUpstreamEnd, Case, Cut, Send, Upstream
from tests.support.raw_origin import ClientSaw

_SPLITTING = "4.4/response-splitting"
_LINE = "HTTP/1.1 200 OK"
_TWO_BYTES = "Content-Length: 2"


_row = "4.1/9112-6.3-close-delimited 4.3/no-eof"
_short = "4.1/9112-6.3-incomplete-body 4.3/no-eof"
_ended = (Reply((reply(_LINE, DATE, body=b"hello"),), then="fin"),)
_chunked_head = (_LINE, DATE, "Transfer-Encoding: chunked")


def _cut(name: str, response: bytes, wanted: Cut, then: str) -> Case:
    script = (Reply((response,), then="fin" if then == "fin" else "rst"),)
    return case(
        f"truncated-{name}-{then}", _short, request(), sent_on(), wanted, "broken", script=script, upstream="closed"
    )


_sized = Cut(relayed(_LINE, DATE, "Content-Length: 10").head, b"hello", "length")
_in_chunks = Cut(relayed(*_chunked_head).head, b"hello", "chunked")
_UNTIL_CLOSE_CASES: list[Case] = [
    case(
        "until-close",
        _row,
        request(),
        sent_on(),
        relayed(*_chunked_head, body=b"hello", framing="chunked"),
        script=_ended,
        upstream="closed",
    ),
    case(
        "until-close-empty",
        _row,
        request(),
        sent_on(),
        relayed(*_chunked_head, body=b"", framing="chunked"),
        script=(Reply((reply(_LINE, DATE),), then="fin"),),
        upstream="closed",
    ),
    case(
        "until-close-http10-origin",
        _row,
        request(),
        sent_on(),
        relayed(*_chunked_head, body=b"hello", framing="chunked"),
        script=(Reply((reply("HTTP/1.0 200 OK", DATE, body=b"hello"),), then="fin"),),
        upstream="closed",
    ),
    case(
        "until-close-http10-client",
        f"{_row} 4.1/9112-9.3-http10-persistence",
        request("GET / HTTP/1.0"),
        sent_on(via="1.0 edge"),
        relayed(_LINE, DATE, "Connection: close", body=b"hello", framing="close"),
        "closed",
        script=_ended,
        upstream="closed",
    ),
    case(
        "until-close-http10-client-keep-alive",
        f"{_row} 4.1/9112-9.3-http10-persistence",
        request("GET / HTTP/1.0", "Connection: keep-alive"),
        sent_on(via="1.0 edge", forwarded="<forwarded>"),
        relayed(_LINE, DATE, "Connection: close", body=b"hello", framing="close"),
        "closed",
        script=_ended,
        upstream="closed",
        variant="lenient",
    ),
    case(
        "until-close-reset",
        f"{_short} 4.1/9112-6.3-close-delimited",
        request(),
        sent_on(),
        _in_chunks,
        "broken",
        script=(Reply((reply(_LINE, DATE, body=b"hello"),), then="rst"),),
        upstream="closed",
    ),
    case(
        "until-close-reset-http10",
        f"{_short} 4.1/9112-6.3-close-delimited",
        request("GET / HTTP/1.0"),
        sent_on(via="1.0 edge"),
        Cut(relayed(_LINE, DATE, "Connection: close").head, b"hello", "close"),
        "broken",
        script=(Reply((reply(_LINE, DATE, body=b"hello"),), then="rst"),),
        upstream="closed",
    ),
    *(_cut("length", reply(_LINE, DATE, "Content-Length: 10", body=b"hello"), _sized, then) for then in ("fin", "rst")),
    *(_cut("chunked", reply(*_chunked_head, body=b"5\r\nhello\r\n"), _in_chunks, then) for then in ("fin", "rst")),
    *(_cut("in-chunk", reply(*_chunked_head, body=b"a\r\nhello"), _in_chunks, then) for then in ("fin", "rst")),
    *(_cut("in-size", reply(*_chunked_head, body=b"5\r\nhello\r\n5"), _in_chunks, then) for then in ("fin", "rst")),
    *(
        _cut("last-chunk", reply(*_chunked_head, body=b"5\r\nhello\r\n0\r\n"), _in_chunks, then)
        for then in ("fin", "rst")
    ),
    *(_cut("no-body", reply(_LINE, DATE, "Content-Length: 10"), _sized, then) for then in ("fin", "rst")),
]


_bodiless_row = "4.2/9110-9.3.2-bodiless 4.3/head-response"
_bodiless_behind = "4.4/bodiless-with-body 4.3/extra-bytes"
_none = "HTTP/1.1 204 No Content"
_fresh = "HTTP/1.1 304 Not Modified"


def _head(name: str, fields: tuple[str, ...], wanted: tuple[str, ...], body: bytes = b"") -> Case:
    answer = relayed(_LINE, *wanted, body=b"", framing="none", method="HEAD")
    rows = f"{_bodiless_row} {_bodiless_behind}" if body else _bodiless_row
    return case(
        f"head-{name}",
        rows,
        request("HEAD / HTTP/1.1"),
        sent_on("HEAD / HTTP/1.1"),
        answer,
        script=reply(_LINE, *fields, body=body),
        upstream="closed" if body else "reused",
    )


def _empty(
    name: str,
    rows: str,
    line: str,
    fields: tuple[str, ...],
    wanted: tuple[str, ...],
    *,
    upstream: Upstream = "reused",
    body: bytes = b"",
) -> Case:
    answer = relayed(line, *wanted, body=b"", framing="none")
    return case(
        name,
        rows,
        request(),
        sent_on(),
        answer,
        script=reply(line, *fields, body=body),
        upstream=upstream,
    )


_odd = "4.3/204-with-length 4.2/9110-9.3.2-bodiless"
_BODILESS_CASES: list[Case] = [
    _head("length", (DATE, "Content-Length: 5"), (DATE, "Content-Length: 5")),
    _head("length-0", (DATE, "Content-Length: 0"), (DATE, "Content-Length: 0")),
    _head("chunked", (DATE, "Transfer-Encoding: chunked"), (DATE,)),
    _head("neither", (DATE,), (DATE,)),
    _head("with-body", (DATE, "Content-Length: 5"), (DATE, "Content-Length: 5"), b"hello"),
    _head("with-response", (DATE, "Content-Length: 5"), (DATE, "Content-Length: 5"), REPLY),
    _empty("204", _bodiless_row, _none, (DATE,), (DATE,)),
    _empty("204-length-0", _odd, _none, (DATE, "Content-Length: 0"), (DATE,)),
    _empty(
        "204-chunked",
        f"{_odd} 4.1/9112-6.1-te-where-forbidden",
        _none,
        (DATE, "Transfer-Encoding: chunked"),
        (DATE,),
        upstream="closed",
    ),
    _empty("204-with-body", _bodiless_behind, _none, (DATE,), (DATE,), upstream="closed", body=b"hello"),
    _empty("204-with-response", _bodiless_behind, _none, (DATE,), (DATE,), upstream="closed", body=REPLY),
    bad_gateway("204-length-5", _odd, reply(_none, DATE, "Content-Length: 5", body=b"hello")),
    _empty("304", _bodiless_row, _fresh, (DATE, "ETag: x"), (DATE, "ETag: x")),
    _empty(
        "304-length",
        f"{_bodiless_row} 4.2/9110-8.6-content-length",
        _fresh,
        (DATE, "Content-Length: 5"),
        (DATE, "Content-Length: 5"),
    ),
    _empty(
        "304-with-body",
        _bodiless_behind,
        _fresh,
        (DATE, "Content-Length: 5"),
        (DATE, "Content-Length: 5"),
        upstream="closed",
        body=b"hello",
    ),
    case(
        "205",
        "4.2/9110-15.3.6-205",
        request(),
        sent_on(),
        relayed("HTTP/1.1 205 Reset Content", DATE, "Content-Length: 0", body=b""),
        script=reply("HTTP/1.1 205 Reset Content", DATE, "Content-Length: 0"),
    ),
    case(
        "205-without-length",
        "4.2/9110-15.3.6-205",
        request(),
        sent_on(),
        relayed("HTTP/1.1 205 Reset Content", DATE, "Content-Length: 0", body=b""),
        script=(Reply((reply("HTTP/1.1 205 Reset Content", DATE),), then="fin"),),
        upstream="closed",
    ),
    bad_gateway(
        "205-length-5",
        "4.2/9110-15.3.6-205",
        reply("HTTP/1.1 205 Reset Content", "Content-Length: 5", body=b"hello"),
    ),
    case(
        "head-204",
        _bodiless_row,
        request("HEAD / HTTP/1.1"),
        sent_on("HEAD / HTTP/1.1"),
        relayed(_none, DATE, body=b"", framing="none", method="HEAD"),
        script=reply(_none, DATE),
    ),
    case(
        "head-pipelined",
        f"{_bodiless_row} 4.1/9112-9.3.2-pipelining",
        request("HEAD / HTTP/1.1") + request("GET /second HTTP/1.1"),
        (sent_on("HEAD / HTTP/1.1"), sent_on("GET /second HTTP/1.1")),
        (relayed(_LINE, DATE, "Content-Length: 5", body=b"", framing="none", method="HEAD"), OK),
        script=(Reply((reply(_LINE, DATE, "Content-Length: 5"),)), Reply((REPLY,))),
    ),
]


_behind_row = f"4.3/extra-bytes 4.1/9112-9.2-unsolicited {_SPLITTING}"
_evil = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
_idle = "4.1/9112-9.2-unsolicited 4.3/extra-bytes"


def _later(name: str, extra: bytes) -> Case:
    steps = (Send(request()), AwaitClient(b"\r\n\r\nok"), AwaitUpstreamEnd(), Send(request("GET /second HTTP/1.1")))
    script = (Reply((REPLY, ClientSaw(b"\r\n\r\nok"), extra)), Reply((REPLY,)))
    return case(
        f"unsolicited-{name}", _idle, steps, (sent_on(), sent_on("GET /second HTTP/1.1")), (OK, OK), script=script
    )


_BEHIND_CASES: list[Case] = [
    case("extra-octet", _behind_row, request(), sent_on(), OK, script=REPLY + b"x", upstream="closed"),
    case("extra-crlf", _behind_row, request(), sent_on(), OK, script=REPLY + b"\r\n", upstream="closed"),
    case("extra-response", _behind_row, request(), sent_on(), OK, script=REPLY + _evil, upstream="closed"),
    case(
        "extra-response-chunked",
        _behind_row,
        request(),
        sent_on(),
        relayed(_LINE, DATE, "Transfer-Encoding: chunked", framing="chunked"),
        script=reply(_LINE, DATE, "Transfer-Encoding: chunked", body=chunked(b"ok")) + _evil,
        upstream="closed",
    ),
    case(
        "extra-response-pipelined",
        _behind_row,
        request() + request("GET /second HTTP/1.1"),
        (sent_on(), sent_on("GET /second HTTP/1.1")),
        (OK, OK),
        script=(Reply((REPLY + _evil,)), Reply((REPLY,))),
        splits=False,
        note="in pieces, the second answer could not be told from a rightful one",
    ),
    case(
        "extra-interim",
        _behind_row,
        request(),
        sent_on(),
        OK,
        script=REPLY + b"HTTP/1.1 100 Continue\r\n\r\n",
        upstream="closed",
    ),
    _later("octet", b"x"),
    _later("response", _evil),
    _later("408", b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"),
    case(
        "upstream-close",
        "4.1/9112-9.6-close",
        request(),
        sent_on(),
        OK,
        script=reply(_LINE, DATE, _TWO_BYTES, "Connection: close", body=b"ok"),
        upstream="closed",
    ),
    case(
        "upstream-http10",
        "4.1/9112-9.3-http10-persistence",
        request(),
        sent_on(),
        OK,
        script=reply("HTTP/1.0 200 OK", DATE, _TWO_BYTES, body=b"ok"),
        upstream="closed",
    ),
    case(
        "upstream-close-client-http10",
        "4.1/9112-9.6-close",
        request("GET / HTTP/1.0"),
        sent_on(via="1.0 edge"),
        OK_CLOSE,
        "closed",
        script=reply(_LINE, DATE, _TWO_BYTES, "Connection: close", body=b"ok"),
        upstream="closed",
    ),
]


CASES = [*_UNTIL_CLOSE_CASES, *_BODILESS_CASES, *_BEHIND_CASES]
