"""Connections: persistence, pipelining, closing, early answers, half-closes, retries, limits in time."""

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
    proxy_status,
    refused,
    relayed,
    reply,
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

_PIPELINING = "4.1/9112-9.3.2-pipelining"
_CLOSE = "4.1/9112-9.6-close 4.4/after-close 4.3/data-after-close"
_HTTP10 = "4.1/9112-9.3-http10-persistence"
_EARLY = "4.2/early-response"
_LINE = "HTTP/1.1 200 OK"
_MAYBE_CLOSE = relayed(_LINE, DATE, "Content-Length: 2", "<maybe-close>")


def _persistence() -> list[Case]:
    second = request("GET /second HTTP/1.1")
    two_wanted = (sent_on(), sent_on("GET /second HTTP/1.1"))
    bodies = [b"first", b"second", b"third", b"fourth"]
    many = [request(f"GET /{n} HTTP/1.1") for n in range(4)]
    kept = relayed(_LINE, DATE, "Content-Length: 2", "Connection: keep-alive")
    http10 = request("GET / HTTP/1.0", "Connection: keep-alive")
    with_forwarded = sent_on(via="1.0 edge", forwarded="<forwarded>")
    return [
        case("keep-alive", _PIPELINING, (Send(request()), AwaitClient(b"\r\n\r\nok"), Send(second)), two_wanted, (OK, OK), script=TWO),
        case("pipelined-two", _PIPELINING, request() + second, two_wanted, (OK, OK), script=TWO),
        case("pipelined-in-order", _PIPELINING, b"".join(many), [sent_on(f"GET /{n} HTTP/1.1") for n in range(4)],
             [relayed(_LINE, DATE, f"Content-Length: {len(b)}", body=b) for b in bodies],
             script=tuple(Reply((reply(_LINE, DATE, f"Content-Length: {len(b)}", body=b),)) for b in bodies)),
        case("pipelined-own-answers", _PIPELINING, request("GET /private HTTP/1.1") + request() + request("GET /private HTTP/1.1"),
             sent_on(), (Own((403,), body=b"private"), OK, Own((403,), body=b"private")), "stated"),
        case("pipelined-chunked", _PIPELINING,
             request("POST /1 HTTP/1.1", "Transfer-Encoding: chunked", body=chunked(b"hello"))
             + request("POST /2 HTTP/1.1", "Transfer-Encoding: chunked", body=chunked(b"world")),
             (sent_on("POST /1 HTTP/1.1", body=b"hello", framing="chunked"), sent_on("POST /2 HTTP/1.1", body=b"world", framing="chunked")),
             (OK, OK), script=TWO),
        case("pipelined-then-broken", f"{_PIPELINING} 4.4/answer-before-error", request() + b"GET / HTTP/1.1\r\nX : y\r\n\r\n", sent_on(),
             (OK, Own((400,), close=True)), "closed"),
        case("pipelined-junk-behind-chunked", "4.4/answer-before-error",
             request("POST / HTTP/1.1", "Transfer-Encoding: chunked", body=chunked(b"hello")) + b"\x00junk\r\n\r\n",
             sent_on("POST / HTTP/1.1", body=b"hello", framing="chunked"), (OK, Own((400, 501), close=True)), "closed"),
        case("body-longer-than-length", "4.4/answer-before-error 4.4/cl-cl",
             request("POST / HTTP/1.1", "Content-Length: 5", body=b"hello\x01\x02\r\n\r\n"),
             sent_on("POST / HTTP/1.1", "Content-Length: 5", body=b"hello", framing="length"), (OK, Own((400, 501), close=True)), "closed"),
        case("close", _CLOSE, request("GET / HTTP/1.1", "Connection: close"), sent_on(), OK_CLOSE, "closed"),
        case("close-case", _CLOSE, request("GET / HTTP/1.1", "connection: CLOSE"), sent_on(), OK_CLOSE, "closed"),
        case("close-among-options", _CLOSE, request("GET / HTTP/1.1", "Connection: keep-alive, close, X", "X: 1"), sent_on(),
             OK_CLOSE, "closed"),
        case("close-two-lines", _CLOSE, request("GET / HTTP/1.1", "Connection: keep-alive", "Connection: close"), sent_on(),
             OK_CLOSE, "closed"),
        case("close-then-request", _CLOSE, request("GET / HTTP/1.1", "Connection: close") + second, sent_on(), OK_CLOSE, "closed", extra=True),
        case("close-then-junk", f"{_CLOSE} 4.4/answer-before-error", request("GET / HTTP/1.1", "Connection: close") + b"\x00\xff\r\n\r\n",
             sent_on(), OK_CLOSE, "closed", extra=True),
        case("close-with-body-then-request", _CLOSE,
             request("POST / HTTP/1.1", "Connection: close", "Content-Length: 5", body=b"hello") + second,
             sent_on("POST / HTTP/1.1", "Content-Length: 5", body=b"hello", framing="length"), OK_CLOSE, "closed", extra=True),
        case("close-second-of-three", f"{_CLOSE} {_PIPELINING}",
             request() + request("GET /second HTTP/1.1", "Connection: close") + request("GET /third HTTP/1.1"), two_wanted,
             (OK, OK_CLOSE), "closed", extra=True, script=TWO),
        passes("upstream-gets-no-close", _CLOSE, "GET / HTTP/1.1", "Connection: keep-alive", kept=(), compared=frozenset([b"connection"])),
        case("http10-closed", _HTTP10, request("GET / HTTP/1.0"), sent_on(via="1.0 edge"), OK_CLOSE, "closed"),
        case("http10-keep-alive-refused", _HTTP10, http10, sent_on(via="1.0 edge"), OK_CLOSE, "closed"),
        case("http10-keep-alive-then-request", f"{_HTTP10} 4.4/te-on-http10", http10 + second, sent_on(via="1.0 edge"), OK_CLOSE, "closed", extra=True),
        case("http10-keep-alive-allowed", _HTTP10, http10, with_forwarded, kept, variant="lenient"),
        case("http10-keep-alive-twice", _HTTP10, http10 + http10, (with_forwarded, with_forwarded), (kept, kept), script=TWO,
             variant="lenient"),
        case("http10-closed-where-allowed", _HTTP10, request("GET / HTTP/1.0"), with_forwarded, OK_CLOSE, "closed", variant="lenient"),
        case("http10-own-answer", _HTTP10, request("GET /private HTTP/1.0"), (), Own((403,), close=True, body=b"private"), "closed"),
        case("requests-per-connection", "4.2/limits 4.1/9112-9.6-close", request() + second + request("GET /third HTTP/1.1") + request(),
             (*two_wanted, sent_on("GET /third HTTP/1.1")), (OK, OK, OK_CLOSE), "closed", extra=True, script=(*TWO, *TWO), variant="tight"),
    ]  # fmt: skip


def _early() -> list[Case]:
    refusal = ("HTTP/1.1 413 Too Much", DATE, "Content-Length: 2")
    answer = relayed(*refusal, "Connection: close")
    early = (Reply((reply(*refusal, body=b"ok"),), when="head", then="hold"),)
    head = request("POST /in HTTP/1.1", "Content-Length: 10")
    sized = Partial(sent_on("POST /in HTTP/1.1", "Content-Length: 10").head, b"0123456789"[:9], "length")
    chunked_head = request("POST /in HTTP/1.1", "Transfer-Encoding: chunked")
    in_chunks = Partial(sent_on("POST /in HTTP/1.1", framing="chunked").head, b"hello")
    pause = f"{_EARLY} 4.4/pause-based 4.4/te0-cl0"
    closing = (Reply((reply(*refusal, "Connection: close", body=b"ok"),), when="head", then="fin"),)
    return [
        case("early-no-body-yet", pause, head, (sized,), answer, "closed", script=early, upstream="closed"),
        case("early-part-of-body", pause, head + b"01234", (sized,), answer, "closed", script=early, upstream="closed"),
        case("early-then-rest-of-body", pause, (Send(head + b"01234"), AwaitClient(b"\r\n\r\nok"), Send(b"56789")), (sized,), answer,
             "closed", script=early, upstream="closed"),
        case("early-then-rest-and-request", f"{pause} 4.4/after-close",
             (Send(head + b"01234"), AwaitClient(b"\r\n\r\nok"), Send(b"56789" + request("GET /second HTTP/1.1"))), (sized,), answer,
             "closed", script=early, upstream="closed"),
        case("early-chunked", pause, chunked_head + b"5\r\nhello\r\n", (in_chunks,), answer, "closed", script=early, upstream="closed"),
        case("early-origin-closes", pause, head + b"01234", (sized,), answer, "closed", script=closing, upstream="closed"),
        case("early-get-with-body", f"{pause}", request("GET / HTTP/1.1", "Content-Length: 10", body=b"01234"),
             (Partial(sent_on("GET / HTTP/1.1", "Content-Length: 10").head, b"012345678", "length"),), OK_CLOSE, "closed",
             script=(Reply((REPLY,), when="head", then="hold"),), upstream="closed"),
        case("early-options-with-chunks", pause, request("OPTIONS / HTTP/1.1", "Transfer-Encoding: chunked", body=b"5\r\nhel"),
             (Partial(sent_on("OPTIONS / HTTP/1.1", framing="chunked").head, b"hello"),), OK_CLOSE, "closed",
             script=(Reply((REPLY,), when="head", then="hold"),), upstream="closed"),
        case("early-own-answer", "4.4/pause-based 4.2/error-form", request("POST /private HTTP/1.1", "Content-Length: 10"), (),
             Own((403,), close=True, body=b"private"), "closed"),
        case("early-own-answer-then-body", "4.4/pause-based 4.2/error-form 4.4/after-close",
             (Send(request("POST /private HTTP/1.1", "Content-Length: 36")), AwaitClient(b"private"), Send(request("GET /smuggled HTTP/1.1"))), (),
             Own((403,), close=True, body=b"private"), "closed"),
        case("own-answer-with-whole-body", "4.4/pause-based 4.4/te0-cl0",
             request("POST /private HTTP/1.1", "Content-Length: 5", body=b"hello"), (), Own((403,), body=b"private"), "stated"),
    ]  # fmt: skip


def _half_close() -> list[Case]:
    row = "4.2/half-close"
    post = request("POST /in HTTP/1.1", "Content-Length: 10", body=b"01234")
    sized = Partial(sent_on("POST /in HTTP/1.1", "Content-Length: 10").head, b"01234", "length")
    in_chunks = Partial(sent_on("POST /in HTTP/1.1", framing="chunked").head, b"hello")
    hold = (Reply((), then="hold"),)
    marker = b"GET / HTTP/1.1"
    return [
        case("half-close-cancels", row, (Send(request()), AwaitOrigin(marker), Finish()), sent_on(), (), "closed", script=hold,
             upstream="closed", tls=False, note="nothing is answered, the upstream connection is ended"),
        case("half-close-allowed", row, (Send(request()), Finish()), sent_on(forwarded="<forwarded>"), _MAYBE_CLOSE, "closed",
             variant="lenient", tls=False, upstream="any"),
        case("half-close-allowed-chunked", row,
             (Send(request("POST /in HTTP/1.1", "Transfer-Encoding: chunked", body=chunked(b"hello"))), Finish()),
             sent_on("POST /in HTTP/1.1", body=b"hello", framing="chunked", forwarded="<forwarded>"), _MAYBE_CLOSE, "closed",
             variant="lenient", tls=False),
        case("half-close-in-head", row, (Send(b"GET / HTTP/1.1\r\nHost: a\r\n"), Finish()), (), (), "closed", tls=False),
        case("half-close-in-body", row, (Send(post), Finish()), (sized,), (), "any", script=hold, upstream="closed", tls=False),
        case("half-close-in-body-although-allowed", row, (Send(post), Finish()),
             (Partial(sent_on("POST /in HTTP/1.1", "Content-Length: 10", forwarded="<forwarded>").head, b"01234", "length"),), (),
             "any", script=hold, upstream="closed", variant="lenient", tls=False),
        case("half-close-in-chunked", row, (Send(request("POST /in HTTP/1.1", "Transfer-Encoding: chunked") + b"5\r\nhello\r\n"), Finish()),
             (in_chunks,), (), "any", script=hold, upstream="closed", tls=False),
        case("reset-cancels", row, (Send(request()), AwaitOrigin(marker), Reset()), sent_on(), (), "any", script=hold,
             upstream="closed", tls=False),
        case("reset-in-body", row, (Send(post), AwaitOrigin(marker.replace(b"GET /", b"POST /in")), Reset()), (sized,), (), "any",
             script=hold, upstream="closed", tls=False),
        case("reset-cancels-although-allowed", row, (Send(request()), AwaitOrigin(marker), Reset()), sent_on(forwarded="<forwarded>"),
             (), "any", script=hold, upstream="closed", variant="lenient", tls=False),
    ]  # fmt: skip


def _retries() -> list[Case]:
    row = "4.2/9110-9.2.2-retry"
    lost = Reply((), then="fin")
    reset = Reply((), then="rst")
    second = request("GET /second HTTP/1.1")
    first = (Send(request()), AwaitClient(b"\r\n\r\nok"))
    seen = sent_on("GET /second HTTP/1.1")

    def reused(name: str, line: str, *fields: str, body: bytes = b"", framing: str = "none", again: bool, how: Reply = lost) -> Case:
        sent = sent_on(line, *fields, body=body, framing="length" if framing == "length" else "none")
        wanted = (sent_on(), sent, sent) if again else (sent_on(), sent)
        last = OK if again else Own((502,))
        return case(f"retry-{name}", row, (*first, Send(request(line, *fields, body=body))), wanted, (OK, last),
                    "kept" if again else "stated", script=(Reply((REPLY,)), how, Reply((REPLY,))),
                    upstream="reused" if again else "any")  # fmt: skip

    return [
        reused("get", "GET /second HTTP/1.1", again=True),
        reused("get-reset", "GET /second HTTP/1.1", again=True, how=reset),
        reused("delete", "DELETE /second HTTP/1.1", again=True),
        reused("options", "OPTIONS /second HTTP/1.1", again=True),
        reused("post", "POST /second HTTP/1.1", "Content-Length: 5", body=b"hello", framing="length", again=False),
        reused("post-reset", "POST /second HTTP/1.1", "Content-Length: 5", body=b"hello", framing="length", again=False, how=reset),
        reused("patch", "PATCH /second HTTP/1.1", "Content-Length: 5", body=b"hello", framing="length", again=False),
        case("retry-not-on-fresh", row, request(), sent_on(), Own((502,)), "stated", script=(lost, Reply((REPLY,))), upstream="closed"),
        case("retry-once-only", row, (*first, Send(second)), (sent_on(), seen, seen), (OK, Own((502,))), "stated",
             script=(Reply((REPLY,)), lost, lost, Reply((REPLY,)))),
        case("retry-not-after-bytes", row, (*first, Send(second)), (sent_on(), seen), (OK, Own((502,))), "stated",
             script=(Reply((REPLY,)), Reply((b"HTTP/1.1 200 OK\r\n",), then="fin"), Reply((REPLY,)))),
        case("closed-while-idle", f"{row} 4.1/9112-9.2-unsolicited", (*first, AwaitUpstreamEnd(), Send(request("POST /second HTTP/1.1"))),
             (sent_on(), sent_on("POST /second HTTP/1.1")), (OK, OK), script=(Reply((REPLY,), then="fin"), Reply((REPLY,)))),
    ]  # fmt: skip


def _limits() -> list[Case]:
    row = "4.2/limits 4.2/error-form"
    slow = Own((408,), close=True)
    big = request("POST /in HTTP/1.1", "Content-Length: 1001", body=b"x" * 1001)
    fits = request("POST /in HTTP/1.1", "Content-Length: 1000", body=b"x" * 1000)
    head = request("POST /in HTTP/1.1", "Content-Length: 10", body=b"0123")
    return [
        refused("body-over-limit", row, big, 413, variant="tight", splits=False),
        refused("body-over-limit-declared", row, request("POST /in HTTP/1.1", "Content-Length: 1001"), 413, variant="tight"),
        refused("body-over-limit-huge", row, request("POST /in HTTP/1.1", "Content-Length: 999999999999999999"), 413, variant="tight"),
        refused("body-over-limit-expect", f"{row} 4.2/9110-10.1.1-expect",
                request("POST /in HTTP/1.1", "Content-Length: 1001", "Expect: 100-continue"), 413, variant="tight"),
        case("body-at-limit", row, fits, sent_on("POST /in HTTP/1.1", "Content-Length: 1000", body=b"x" * 1000, framing="length"), OK,
             variant="tight", splits=False),
        case("body-over-limit-chunked", row, request("POST /in HTTP/1.1", "Transfer-Encoding: chunked", body=chunked(*[b"x" * 100] * 11)),
             (Partial(sent_on("POST /in HTTP/1.1", framing="chunked").head, b"x" * 1000),), Own((413,), close=True), "closed",
             variant="tight", splits=False),
        case("body-at-limit-chunked", row, request("POST /in HTTP/1.1", "Transfer-Encoding: chunked", body=chunked(*[b"x" * 100] * 10)),
             sent_on("POST /in HTTP/1.1", body=b"x" * 1000, framing="chunked"), OK, variant="tight", splits=False),
        case("head-too-slow", row, b"GET / HTTP/1.1\r\nHost: a\r\n", (), slow, "closed", variant="tight", splits=False),
        case("body-too-slow", row, head, (Partial(sent_on("POST /in HTTP/1.1", "Content-Length: 10").head, b"0123", "length"),), slow,
             "closed", variant="tight", splits=False),
        case("idle-too-long", "4.2/limits", (), (), (), "closed", variant="tight", splits=False, note="closed without a word"),
        case("idle-too-long-after-answer", "4.2/limits", request(), sent_on(), OK, "closed", variant="tight", splits=False),
        case("error-in-json", "4.2/error-form", request("GET / HTTP/1.1", "Accept: application/json", "X : y"), (),
             Own((400,), close=True), "closed"),
        case("error-says-nothing", "4.2/error-form", request("GET /<script>alert(1)</script> HTTP/1.1", "Evil : <b>"), (),
             Own((400,), ((b"content-type", rb"text/plain.*|application/json.*"),), close=True, body=None), "closed"),
        case("error-type", "4.2/error-form", request("FOO / HTTP/1.1"), (),
             Own((501,), ((b"content-type", rb"text/plain.*"), (b"content-length", rb"[1-9][0-9]*")), close=True), "closed"),
        case("error-head", "4.2/error-form 4.2/9110-9.3.2-bodiless", request("HEAD /private HTTP/1.1"), (), Own((403,), method="HEAD"),
             "stated"),
        case("unreachable", "4.2/9209-proxy-status", request(), sent_on(),
             Own((502,), proxy_status("connection_terminated")), "stated",
             script=(Reply((RequestComplete(),), then="rst"),)),
    ]  # fmt: skip


CASES = [*_persistence(), *_early(), *_half_close(), *_retries(), *_limits()]
