"""Connections: persistence, pipelining, closing, early answers."""

from tests.conformance.build import (
    DATE,
    OK,
    OK_CLOSE,
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
from tests.conformance.model import (
    AwaitClient,
    Case,
    Own,
    Partial,
    Send,
)

_PIPELINING = "4.1/9112-9.3.2-pipelining"
_CLOSE = "4.1/9112-9.6-close 4.4/after-close 4.3/data-after-close"
_HTTP10 = "4.1/9112-9.3-http10-persistence"
_EARLY = "4.2/early-response"
_LINE = "HTTP/1.1 200 OK"


_second = request("GET /second HTTP/1.1")
_two_wanted = (sent_on(), sent_on("GET /second HTTP/1.1"))
_bodies = [b"first", b"second", b"third", b"fourth"]
_many = [request(f"GET /{n} HTTP/1.1") for n in range(4)]
_kept = relayed(_LINE, DATE, "Content-Length: 2", "Connection: keep-alive")
_http10 = request("GET / HTTP/1.0", "Connection: keep-alive")
_with_forwarded = sent_on(via="1.0 edge", forwarded="<forwarded>")
_PERSISTENCE_CASES: list[Case] = [
    case(
        "keep-alive",
        _PIPELINING,
        (Send(request()), AwaitClient(b"\r\n\r\nok"), Send(_second)),
        _two_wanted,
        (OK, OK),
        script=TWO,
    ),
    case("pipelined-two", _PIPELINING, request() + _second, _two_wanted, (OK, OK), script=TWO),
    case(
        "pipelined-in-order",
        _PIPELINING,
        b"".join(_many),
        [sent_on(f"GET /{n} HTTP/1.1") for n in range(4)],
        [relayed(_LINE, DATE, f"Content-Length: {len(b)}", body=b) for b in _bodies],
        script=tuple(Reply((reply(_LINE, DATE, f"Content-Length: {len(b)}", body=b),)) for b in _bodies),
    ),
    case(
        "pipelined-own-answers",
        _PIPELINING,
        request("GET /private HTTP/1.1") + request() + request("GET /private HTTP/1.1"),
        sent_on(),
        (Own((403,), body=b"private"), OK, Own((403,), body=b"private")),
        "stated",
    ),
    case(
        "pipelined-chunked",
        _PIPELINING,
        request("POST /1 HTTP/1.1", "Transfer-Encoding: chunked", body=chunked(b"hello"))
        + request("POST /2 HTTP/1.1", "Transfer-Encoding: chunked", body=chunked(b"world")),
        (
            sent_on("POST /1 HTTP/1.1", body=b"hello", framing="chunked"),
            sent_on("POST /2 HTTP/1.1", body=b"world", framing="chunked"),
        ),
        (OK, OK),
        script=TWO,
    ),
    case(
        "pipelined-then-broken",
        f"{_PIPELINING} 4.4/answer-before-error",
        request() + b"GET / HTTP/1.1\r\nX : y\r\n\r\n",
        sent_on(),
        (OK, Own((400,), close=True)),
        "closed",
    ),
    case(
        "pipelined-junk-behind-chunked",
        "4.4/answer-before-error",
        request("POST / HTTP/1.1", "Transfer-Encoding: chunked", body=chunked(b"hello")) + b"\x00junk\r\n\r\n",
        sent_on("POST / HTTP/1.1", body=b"hello", framing="chunked"),
        (OK, Own((400, 501), close=True)),
        "closed",
    ),
    case(
        "body-longer-than-length",
        "4.4/answer-before-error 4.4/cl-cl",
        request("POST / HTTP/1.1", "Content-Length: 5", body=b"hello\x01\x02\r\n\r\n"),
        sent_on("POST / HTTP/1.1", "Content-Length: 5", body=b"hello", framing="length"),
        (OK, Own((400, 501), close=True)),
        "closed",
    ),
    case("close", _CLOSE, request("GET / HTTP/1.1", "Connection: close"), sent_on(), OK_CLOSE, "closed"),
    case("close-case", _CLOSE, request("GET / HTTP/1.1", "connection: CLOSE"), sent_on(), OK_CLOSE, "closed"),
    case(
        "close-among-options",
        _CLOSE,
        request("GET / HTTP/1.1", "Connection: keep-alive, close, X", "X: 1"),
        sent_on(),
        OK_CLOSE,
        "closed",
    ),
    case(
        "close-two-lines",
        _CLOSE,
        request("GET / HTTP/1.1", "Connection: keep-alive", "Connection: close"),
        sent_on(),
        OK_CLOSE,
        "closed",
    ),
    case(
        "close-then-request",
        _CLOSE,
        request("GET / HTTP/1.1", "Connection: close") + _second,
        sent_on(),
        OK_CLOSE,
        "closed",
        extra=True,
    ),
    case(
        "close-then-junk",
        f"{_CLOSE} 4.4/answer-before-error",
        request("GET / HTTP/1.1", "Connection: close") + b"\x00\xff\r\n\r\n",
        sent_on(),
        OK_CLOSE,
        "closed",
        extra=True,
    ),
    case(
        "close-with-body-then-request",
        _CLOSE,
        request("POST / HTTP/1.1", "Connection: close", "Content-Length: 5", body=b"hello") + _second,
        sent_on("POST / HTTP/1.1", "Content-Length: 5", body=b"hello", framing="length"),
        OK_CLOSE,
        "closed",
        extra=True,
    ),
    case(
        "close-second-of-three",
        f"{_CLOSE} {_PIPELINING}",
        request() + request("GET /second HTTP/1.1", "Connection: close") + request("GET /third HTTP/1.1"),
        _two_wanted,
        (OK, OK_CLOSE),
        "closed",
        extra=True,
        script=TWO,
    ),
    passes(
        "upstream-gets-no-close",
        _CLOSE,
        "GET / HTTP/1.1",
        "Connection: keep-alive",
        kept=(),
        compared=frozenset([b"connection"]),
    ),
    case("http10-closed", _HTTP10, request("GET / HTTP/1.0"), sent_on(via="1.0 edge"), OK_CLOSE, "closed"),
    case("http10-keep-alive-refused", _HTTP10, _http10, sent_on(via="1.0 edge"), OK_CLOSE, "closed"),
    case(
        "http10-keep-alive-then-request",
        f"{_HTTP10} 4.4/te-on-http10",
        _http10 + _second,
        sent_on(via="1.0 edge"),
        OK_CLOSE,
        "closed",
        extra=True,
    ),
    case("http10-keep-alive-allowed", _HTTP10, _http10, _with_forwarded, _kept, variant="lenient"),
    case(
        "http10-keep-alive-twice",
        _HTTP10,
        _http10 + _http10,
        (_with_forwarded, _with_forwarded),
        (_kept, _kept),
        script=TWO,
        variant="lenient",
    ),
    case(
        "http10-closed-where-allowed",
        _HTTP10,
        request("GET / HTTP/1.0"),
        _with_forwarded,
        OK_CLOSE,
        "closed",
        variant="lenient",
    ),
    case(
        "http10-own-answer",
        _HTTP10,
        request("GET /private HTTP/1.0"),
        (),
        Own((403,), close=True, body=b"private"),
        "closed",
    ),
    case(
        "requests-per-connection",
        "4.2/limits 4.1/9112-9.6-close",
        request() + _second + request("GET /third HTTP/1.1") + request(),
        (*_two_wanted, sent_on("GET /third HTTP/1.1")),
        (OK, OK, OK_CLOSE),
        "closed",
        extra=True,
        script=(*TWO, *TWO),
        variant="tight",
    ),
]


_refusal = ("HTTP/1.1 413 Too Much", DATE, "Content-Length: 2")
_answer = relayed(*_refusal, "Connection: close")
_early_early = (Reply((reply(*_refusal, body=b"ok"),), when="head", then="hold"),)
_head = request("POST /in HTTP/1.1", "Content-Length: 10")
_sized = Partial(sent_on("POST /in HTTP/1.1", "Content-Length: 10").head, b"0123456789"[:9], "length")
_chunked_head = request("POST /in HTTP/1.1", "Transfer-Encoding: chunked")
_in_chunks = Partial(sent_on("POST /in HTTP/1.1", framing="chunked").head, b"hello")
_pause = f"{_EARLY} 4.4/pause-based 4.4/te0-cl0"
_closing = (Reply((reply(*_refusal, "Connection: close", body=b"ok"),), when="head", then="fin"),)
_EARLY_CASES: list[Case] = [
    case("early-no-body-yet", _pause, _head, (_sized,), _answer, "closed", script=_early_early, upstream="closed"),
    case(
        "early-part-of-body",
        _pause,
        _head + b"01234",
        (_sized,),
        _answer,
        "closed",
        script=_early_early,
        upstream="closed",
    ),
    case(
        "early-then-rest-of-body",
        _pause,
        (Send(_head + b"01234"), AwaitClient(b"\r\n\r\nok"), Send(b"56789")),
        (_sized,),
        _answer,
        "closed",
        script=_early_early,
        upstream="closed",
    ),
    case(
        "early-then-rest-and-request",
        f"{_pause} 4.4/after-close",
        (Send(_head + b"01234"), AwaitClient(b"\r\n\r\nok"), Send(b"56789" + request("GET /second HTTP/1.1"))),
        (_sized,),
        _answer,
        "closed",
        script=_early_early,
        upstream="closed",
    ),
    case(
        "early-chunked",
        _pause,
        _chunked_head + b"5\r\nhello\r\n",
        (_in_chunks,),
        _answer,
        "closed",
        script=_early_early,
        upstream="closed",
    ),
    case(
        "early-origin-closes",
        _pause,
        _head + b"01234",
        (_sized,),
        _answer,
        "closed",
        script=_closing,
        upstream="closed",
    ),
    case(
        "early-get-with-body",
        f"{_pause}",
        request("GET / HTTP/1.1", "Content-Length: 10", body=b"01234"),
        (Partial(sent_on("GET / HTTP/1.1", "Content-Length: 10").head, b"012345678", "length"),),
        OK_CLOSE,
        "closed",
        script=(Reply((REPLY,), when="head", then="hold"),),
        upstream="closed",
    ),
    case(
        "early-options-with-chunks",
        _pause,
        request("OPTIONS / HTTP/1.1", "Transfer-Encoding: chunked", body=b"5\r\nhel"),
        (Partial(sent_on("OPTIONS / HTTP/1.1", framing="chunked").head, b"hello"),),
        OK_CLOSE,
        "closed",
        script=(Reply((REPLY,), when="head", then="hold"),),
        upstream="closed",
    ),
    case(
        "early-own-answer",
        "4.4/pause-based 4.2/error-form",
        request("POST /private HTTP/1.1", "Content-Length: 10"),
        (),
        Own((403,), close=True, body=b"private"),
        "closed",
    ),
    case(
        "early-own-answer-then-body",
        "4.4/pause-based 4.2/error-form 4.4/after-close",
        (
            Send(request("POST /private HTTP/1.1", "Content-Length: 36")),
            AwaitClient(b"private"),
            Send(request("GET /smuggled HTTP/1.1")),
        ),
        (),
        Own((403,), close=True, body=b"private"),
        "closed",
    ),
    case(
        "own-answer-with-whole-body",
        "4.4/pause-based 4.4/te0-cl0",
        request("POST /private HTTP/1.1", "Content-Length: 5", body=b"hello"),
        (),
        Own((403,), body=b"private"),
        "stated",
    ),
]


CASES = [*_PERSISTENCE_CASES, *_EARLY_CASES]
