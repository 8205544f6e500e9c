"""Responses 1xx and Expect."""

from tests.conformance.build import (
    DATE,
    OK,
    OK_CLOSE,
    REPLY,
    Reply,
    bad_gateway,
    case,
    chunked,
    passes,
    refused,
    relayed,
    reply,
    request,
    sent_on,
)
from tests.conformance.model import AwaitClient, AwaitOrigin, Case, Interim, Own, Partial, Send
from tests.support.raw_origin import ClientSaw, RequestComplete

_INTERIM = "4.2/9110-15.2-interim 4.3/interim-whole-messages"
_EXPECT = "4.2/9110-10.1.1-expect 4.4/expect"
_HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_PROCESSING = b"HTTP/1.1 102 Processing\r\n\r\n"


def _partial_of(kept: tuple[str, ...]) -> tuple[Partial, ...]:
    return (Partial(sent_on("POST /in HTTP/1.1", *kept).head, b"hell", "length"),)


def _forwarded(name: str, *heads: bytes, rows: str = _INTERIM) -> Case:
    return case(
        f"interim-{name}",
        rows,
        request(),
        sent_on(),
        (*(Interim(head) for head in heads), OK),
        script=b"".join(heads) + REPLY,
    )


_odd = "4.3/204-with-length 4.1/9112-6.1-te-where-forbidden"
_INTERIM_CASES: list[Case] = [
    _forwarded("103", _HINTS),
    _forwarded("102", _PROCESSING),
    _forwarded("100-unasked", _CONTINUE),
    _forwarded("199", b"HTTP/1.1 199 Odd\r\nX: 1\r\n\r\n"),
    _forwarded("several", _HINTS, _PROCESSING, _HINTS),
    _forwarded("twenty", *([_PROCESSING] * 20)),
    bad_gateway(
        "interim-flood",
        f"{_INTERIM} 4.4/response-splitting",
        _PROCESSING * 21 + REPLY,
        (*[Interim(_PROCESSING)] * 20, Own((502,))),
        splits=False,
    ),
    case(
        "interim-before-answer",
        _INTERIM,
        request(),
        sent_on(),
        (Interim(_HINTS), OK),
        script=(Reply((_HINTS, ClientSaw(_HINTS), REPLY)),),
        note="not held back until the answer",
    ),
    case(
        "interim-http10",
        _INTERIM,
        request("GET / HTTP/1.0"),
        sent_on(via="1.0 edge"),
        OK_CLOSE,
        "closed",
        script=_HINTS + _CONTINUE + REPLY,
    ),
    case(
        "interim-with-length",
        f"{_INTERIM} {_odd}",
        request(),
        sent_on(),
        (Interim(_HINTS), OK),
        script=_HINTS.replace(b"Link", b"Content-Length: 5\r\nLink") + REPLY,
    ),
    case(
        "interim-with-coding",
        f"{_INTERIM} {_odd}",
        request(),
        sent_on(),
        (Interim(_HINTS), OK),
        script=_HINTS.replace(b"Link", b"Transfer-Encoding: chunked\r\nLink") + REPLY,
        upstream="any",
    ),
    case(
        "interim-connection",
        f"{_INTERIM} 4.2/9110-7.6.1-connection",
        request(),
        sent_on(),
        (Interim(_HINTS), OK),
        script=_HINTS.replace(b"Link", b"Connection: X\r\nX: 1\r\nLink") + REPLY,
    ),
    case(
        "interim-head",
        f"{_INTERIM} 4.2/9110-9.3.2-bodiless",
        request("HEAD / HTTP/1.1"),
        sent_on("HEAD / HTTP/1.1"),
        (Interim(_HINTS), relayed(method="HEAD", body=b"", framing="none")),
        script=_HINTS + reply("HTTP/1.1 200 OK", DATE, "Content-Length: 2"),
    ),
    bad_gateway(
        "interim-then-end",
        f"{_INTERIM} 4.1/9112-6.3-incomplete-body",
        (Reply((_HINTS,), then="fin"),),
        (Interim(_HINTS), Own((502,))),
    ),
    bad_gateway("interim-bad", f"{_INTERIM} 4.4/response-splitting", b"HTTP/1.1 103 Early\r\nX : 1\r\n\r\n" + REPLY),
    case(
        "interim-pipelined",
        f"{_INTERIM} 4.1/9112-9.3.2-pipelining",
        request() + request("GET /second HTTP/1.1"),
        (sent_on(), sent_on("GET /second HTTP/1.1")),
        (Interim(_HINTS), OK, OK),
        script=(Reply((_HINTS + REPLY,)), Reply((REPLY,))),
    ),
]


_head = request("POST /in HTTP/1.1", "Content-Length: 5", "Expect: 100-continue")
_kept = ("Content-Length: 5", "Expect: 100-continue")
_whole = sent_on("POST /in HTTP/1.1", *_kept, body=b"hello", framing="length")
_waiting = (Send(_head), AwaitClient(b"100 Continue\r\n\r\n"), Send(b"hello"))
_asked = (Reply((_CONTINUE, RequestComplete(), REPLY), when="head"),)
_EXPECT_CASES: list[Case] = [
    case("expect", _EXPECT, _waiting, _whole, (Interim(_CONTINUE), OK), script=_asked),
    case(
        "expect-case",
        _EXPECT,
        (Send(_head.replace(b"100-c", b"100-C")), *_waiting[1:]),
        sent_on("POST /in HTTP/1.1", "Content-Length: 5", "Expect: 100-Continue", body=b"hello", framing="length"),
        (Interim(_CONTINUE), OK),
        script=_asked,
    ),
    case(
        "expect-chunked",
        _EXPECT,
        (
            Send(request("POST /in HTTP/1.1", "Expect: 100-continue", "Transfer-Encoding: chunked")),
            _waiting[1],
            Send(chunked(b"hello")),
        ),
        sent_on("POST /in HTTP/1.1", "Expect: 100-continue", body=b"hello", framing="chunked"),
        (Interim(_CONTINUE), OK),
        script=_asked,
    ),
    case("expect-body-at-once", _EXPECT, _head + b"hello", _whole, (Interim(_CONTINUE), OK), script=_asked),
    case(
        "expect-origin-says-nothing",
        _EXPECT,
        _head + b"hello",
        _whole,
        OK,
        note="the body follows after a while although no 100 came",
        splits=False,
    ),
    case(
        "expect-origin-refuses",
        f"{_EXPECT} 4.2/early-response",
        (Send(_head),),
        _partial_of(_kept),
        relayed("HTTP/1.1 413 Too Much", DATE, "Content-Length: 2", "Connection: close"),
        "closed",
        script=(
            Reply((reply("HTTP/1.1 413 Too Much", DATE, "Content-Length: 2", body=b"ok"),), when="head", then="hold"),
        ),
        upstream="closed",
    ),
    case(
        "expect-origin-refuses-body-follows",
        f"{_EXPECT} 4.2/early-response",
        (Send(_head), AwaitClient(b"\r\n\r\nok"), Send(b"hello" + request("GET /second HTTP/1.1"))),
        _partial_of(_kept),
        relayed("HTTP/1.1 413 Too Much", DATE, "Content-Length: 2", "Connection: close"),
        "closed",
        script=(
            Reply((reply("HTTP/1.1 413 Too Much", DATE, "Content-Length: 2", body=b"ok"),), when="head", then="hold"),
        ),
        upstream="closed",
    ),
    case(
        "expect-two-100",
        _EXPECT,
        _waiting,
        _whole,
        (Interim(_CONTINUE), Interim(_CONTINUE), OK),
        script=(Reply((_CONTINUE, RequestComplete(), _CONTINUE, REPLY), when="head"),),
    ),
    *(
        refused(
            f"expect-unknown-{n}",
            _EXPECT,
            request("POST /in HTTP/1.1", "Content-Length: 5", f"Expect: {value}", body=b"hello"),
            417,
        )
        for n, value in enumerate(("x", "100-continue, y", "100-continue=z", "200-ok", "100-continued"))
    ),
    refused(
        "expect-twice",
        _EXPECT,
        request("POST /in HTTP/1.1", "Content-Length: 5", "Expect: 100-continue", "Expect: x", body=b"hello"),
        417,
    ),
    passes("expect-get", _EXPECT, "GET / HTTP/1.1", "Expect: 100-continue", "X: 1", kept=("X: 1",)),
    case(
        "expect-get-length-0",
        _EXPECT,
        request("POST /in HTTP/1.1", "Content-Length: 0", "Expect: 100-continue"),
        sent_on("POST /in HTTP/1.1", "Content-Length: 0", framing="length"),
        OK,
    ),
    case(
        "expect-http10",
        _EXPECT,
        request("POST /in HTTP/1.0", "Content-Length: 5", "Expect: 100-continue", body=b"hello"),
        sent_on("POST /in HTTP/1.1", "Content-Length: 5", body=b"hello", framing="length", via="1.0 edge"),
        OK_CLOSE,
        "closed",
    ),
    case(
        "expect-nominated",
        f"{_EXPECT} 4.4/connection-nominates",
        (
            Send(request("POST /in HTTP/1.1", "Content-Length: 5", "Connection: Expect", "Expect: 100-continue")),
            *_waiting[1:],
        ),
        _whole,
        (Interim(_CONTINUE), OK),
        script=_asked,
    ),
    case(
        "expect-smuggling",
        f"{_EXPECT} 4.4/cl-te",
        request(
            "POST /in HTTP/1.1",
            "Expect: 100-continue",
            "Content-Length: 5",
            "Transfer-Encoding: chunked",
            body=b"0\r\n\r\n",
        ),
        (),
        Own((400,), close=True),
        "closed",
    ),
    case(
        "expect-then-next",
        _EXPECT,
        (*_waiting, Send(request("GET /second HTTP/1.1"))),
        (_whole, sent_on("GET /second HTTP/1.1")),
        (Interim(_CONTINUE), OK, OK),
        script=(*_asked, Reply((REPLY,))),
    ),
    case(
        "expect-body-in-pieces",
        _EXPECT,
        (*_waiting[:2], Send(b"he"), AwaitOrigin(b"he"), Send(b"llo")),
        _whole,
        (Interim(_CONTINUE), OK),
        script=_asked,
    ),
]


CASES = [*_INTERIM_CASES, *_EXPECT_CASES]
