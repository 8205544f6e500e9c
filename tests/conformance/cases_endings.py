"""Endings: half-closes, resets, retries, limits in size and time."""

from tests.conformance.build import (
    DATE,
    OK,
    REPLY,
    Reply,
    case,
    chunked,
    proxy_status,
    refused,
    relayed,
    request,
    sent_on,
)
from tests.conformance.model import (
    AwaitClient,
    AwaitOrigin,
    AwaitUpstreamEnd,
    Case,
    Finish,
    Own,
    Partial,
    Reset,
    Send,
)
from tests.support.raw_origin import RequestComplete

_LINE = "HTTP/1.1 200 OK"
_MAYBE_CLOSE = relayed(_LINE, DATE, "Content-Length: 2", "<maybe-close>")


_row = "4.2/half-close"
_post = request("POST /in HTTP/1.1", "Content-Length: 10", body=b"01234")
_sized = Partial(sent_on("POST /in HTTP/1.1", "Content-Length: 10").head, b"01234", "length")
_in_chunks = Partial(sent_on("POST /in HTTP/1.1", framing="chunked").head, b"hello")
_hold = (Reply((), then="hold"),)
_marker = b"GET / HTTP/1.1"
_HALF_CLOSE_CASES: list[Case] = [
    case(
        "half-close-cancels",
        _row,
        (Send(request()), AwaitOrigin(_marker), Finish()),
        sent_on(),
        (),
        "closed",
        script=_hold,
        upstream="closed",
        tls=False,
        note="nothing is answered, the upstream connection is ended",
    ),
    case(
        "half-close-allowed",
        _row,
        (Send(request()), Finish()),
        sent_on(forwarded="<forwarded>"),
        _MAYBE_CLOSE,
        "closed",
        variant="lenient",
        tls=False,
        upstream="any",
    ),
    case(
        "half-close-allowed-chunked",
        _row,
        (Send(request("POST /in HTTP/1.1", "Transfer-Encoding: chunked", body=chunked(b"hello"))), Finish()),
        sent_on("POST /in HTTP/1.1", body=b"hello", framing="chunked", forwarded="<forwarded>"),
        _MAYBE_CLOSE,
        "closed",
        variant="lenient",
        tls=False,
    ),
    case("half-close-in-head", _row, (Send(b"GET / HTTP/1.1\r\nHost: a\r\n"), Finish()), (), (), "closed", tls=False),
    case(
        "half-close-in-body",
        _row,
        (Send(_post), Finish()),
        (_sized,),
        (),
        "any",
        script=_hold,
        upstream="closed",
        tls=False,
    ),
    case(
        "half-close-in-body-although-allowed",
        _row,
        (Send(_post), Finish()),
        (
            Partial(
                sent_on("POST /in HTTP/1.1", "Content-Length: 10", forwarded="<forwarded>").head, b"01234", "length"
            ),
        ),
        (),
        "any",
        script=_hold,
        upstream="closed",
        variant="lenient",
        tls=False,
    ),
    case(
        "half-close-in-chunked",
        _row,
        (Send(request("POST /in HTTP/1.1", "Transfer-Encoding: chunked") + b"5\r\nhello\r\n"), Finish()),
        (_in_chunks,),
        (),
        "any",
        script=_hold,
        upstream="closed",
        tls=False,
    ),
    case(
        "reset-cancels",
        _row,
        (Send(request()), AwaitOrigin(_marker), Reset()),
        sent_on(),
        (),
        "any",
        script=_hold,
        upstream="closed",
        tls=False,
    ),
    case(
        "reset-in-body",
        _row,
        (Send(_post), AwaitOrigin(_marker.replace(b"GET /", b"POST /in")), Reset()),
        (_sized,),
        (),
        "any",
        script=_hold,
        upstream="closed",
        tls=False,
    ),
    case(
        "reset-cancels-although-allowed",
        _row,
        (Send(request()), AwaitOrigin(_marker), Reset()),
        sent_on(forwarded="<forwarded>"),
        (),
        "any",
        script=_hold,
        upstream="closed",
        variant="lenient",
        tls=False,
    ),
]


_retries_row = "4.2/9110-9.2.2-retry"
_lost = Reply((), then="fin")
_reset = Reply((), then="rst")
_second = request("GET /second HTTP/1.1")
_first = (Send(request()), AwaitClient(b"\r\n\r\nok"))
_seen = sent_on("GET /second HTTP/1.1")


def _reused(
    name: str, line: str, *fields: str, body: bytes = b"", framing: str = "none", again: bool, how: Reply = _lost
) -> Case:
    sent = sent_on(line, *fields, body=body, framing="length" if framing == "length" else "none")
    wanted = (sent_on(), sent, sent) if again else (sent_on(), sent)
    last = OK if again else Own((502,))
    return case(
        f"retry-{name}",
        _retries_row,
        (*_first, Send(request(line, *fields, body=body))),
        wanted,
        (OK, last),
        "kept" if again else "stated",
        script=(Reply((REPLY,)), how, Reply((REPLY,))),
        upstream="reused" if again else "any",
    )


_RETRIES_CASES: list[Case] = [
    _reused("get", "GET /second HTTP/1.1", again=True),
    _reused("get-reset", "GET /second HTTP/1.1", again=True, how=_reset),
    _reused("delete", "DELETE /second HTTP/1.1", again=True),
    _reused("options", "OPTIONS /second HTTP/1.1", again=True),
    _reused("post", "POST /second HTTP/1.1", "Content-Length: 5", body=b"hello", framing="length", again=False),
    _reused(
        "post-reset",
        "POST /second HTTP/1.1",
        "Content-Length: 5",
        body=b"hello",
        framing="length",
        again=False,
        how=_reset,
    ),
    _reused("patch", "PATCH /second HTTP/1.1", "Content-Length: 5", body=b"hello", framing="length", again=False),
    case(
        "retry-not-on-fresh",
        _retries_row,
        request(),
        sent_on(),
        Own((502,)),
        "stated",
        script=(_lost, Reply((REPLY,))),
        upstream="closed",
    ),
    case(
        "retry-once-only",
        _retries_row,
        (*_first, Send(_second)),
        (sent_on(), _seen, _seen),
        (OK, Own((502,))),
        "stated",
        script=(Reply((REPLY,)), _lost, _lost, Reply((REPLY,))),
    ),
    case(
        "retry-not-after-bytes",
        _retries_row,
        (*_first, Send(_second)),
        (sent_on(), _seen),
        (OK, Own((502,))),
        "stated",
        script=(Reply((REPLY,)), Reply((b"HTTP/1.1 200 OK\r\n",), then="fin"), Reply((REPLY,))),
    ),
    case(
        "closed-while-idle",
        f"{_retries_row} 4.1/9112-9.2-unsolicited",
        (*_first, AwaitUpstreamEnd(), Send(request("POST /second HTTP/1.1"))),
        (sent_on(), sent_on("POST /second HTTP/1.1")),
        (OK, OK),
        script=(Reply((REPLY,), then="fin"), Reply((REPLY,))),
    ),
]


_limits_row = "4.2/limits 4.2/error-form"
_slow = Own((408,), close=True)
_big = request("POST /in HTTP/1.1", "Content-Length: 1001", body=b"x" * 1001)
_fits = request("POST /in HTTP/1.1", "Content-Length: 1000", body=b"x" * 1000)
_head = request("POST /in HTTP/1.1", "Content-Length: 10", body=b"0123")
_LIMITS_CASES: list[Case] = [
    refused("body-over-limit", _limits_row, _big, 413, variant="tight", splits=False),
    refused(
        "body-over-limit-declared",
        _limits_row,
        request("POST /in HTTP/1.1", "Content-Length: 1001"),
        413,
        variant="tight",
    ),
    refused(
        "body-over-limit-huge",
        _limits_row,
        request("POST /in HTTP/1.1", "Content-Length: 999999999999999999"),
        413,
        variant="tight",
    ),
    refused(
        "body-over-limit-expect",
        f"{_limits_row} 4.2/9110-10.1.1-expect",
        request("POST /in HTTP/1.1", "Content-Length: 1001", "Expect: 100-continue"),
        413,
        variant="tight",
    ),
    case(
        "body-at-limit",
        _limits_row,
        _fits,
        sent_on("POST /in HTTP/1.1", "Content-Length: 1000", body=b"x" * 1000, framing="length"),
        OK,
        variant="tight",
        splits=False,
    ),
    case(
        "body-over-limit-chunked",
        _limits_row,
        request("POST /in HTTP/1.1", "Transfer-Encoding: chunked", body=chunked(*[b"x" * 100] * 11)),
        (Partial(sent_on("POST /in HTTP/1.1", framing="chunked").head, b"x" * 1000),),
        Own((413,), close=True),
        "closed",
        variant="tight",
        splits=False,
    ),
    case(
        "body-at-limit-chunked",
        _limits_row,
        request("POST /in HTTP/1.1", "Transfer-Encoding: chunked", body=chunked(*[b"x" * 100] * 10)),
        sent_on("POST /in HTTP/1.1", body=b"x" * 1000, framing="chunked"),
        OK,
        variant="tight",
        splits=False,
    ),
    case(
        "head-too-slow",
        _limits_row,
        b"GET / HTTP/1.1\r\nHost: a\r\n",
        (),
        _slow,
        "closed",
        variant="tight",
        splits=False,
    ),
    case(
        "body-too-slow",
        _limits_row,
        _head,
        (Partial(sent_on("POST /in HTTP/1.1", "Content-Length: 10").head, b"0123", "length"),),
        _slow,
        "closed",
        variant="tight",
        splits=False,
    ),
    case(
        "idle-too-long",
        "4.2/limits",
        (),
        (),
        (),
        "closed",
        variant="tight",
        splits=False,
        note="closed without a word",
    ),
    case(
        "idle-too-long-after-answer",
        "4.2/limits",
        request(),
        sent_on(),
        OK,
        "closed",
        variant="tight",
        splits=False,
    ),
    case(
        "error-in-json",
        "4.2/error-form",
        request("GET / HTTP/1.1", "Accept: application/json", "X : y"),
        (),
        Own((400,), close=True),
        "closed",
    ),
    case(
        "error-says-nothing",
        "4.2/error-form",
        request("GET /<script>alert(1)</script> HTTP/1.1", "Evil : <b>"),
        (),
        Own((400,), ((b"content-type", rb"text/plain.*|application/json.*"),), close=True, body=None),
        "closed",
    ),
    case(
        "error-type",
        "4.2/error-form",
        request("FOO / HTTP/1.1"),
        (),
        Own((501,), ((b"content-type", rb"text/plain.*"), (b"content-length", rb"[1-9][0-9]*")), close=True),
        "closed",
    ),
    case(
        "error-head",
        "4.2/error-form 4.2/9110-9.3.2-bodiless",
        request("HEAD /private HTTP/1.1"),
        (),
        Own((403,), method="HEAD"),
        "stated",
    ),
    case(
        "unreachable",
        "4.2/9209-proxy-status",
        request(),
        sent_on(),
        Own((502,), proxy_status("connection_terminated")),
        "stated",
        script=(Reply((RequestComplete(),), then="rst"),),
    ),
]


CASES = [*_HALF_CLOSE_CASES, *_RETRIES_CASES, *_LIMITS_CASES]
