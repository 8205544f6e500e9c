"""Responses 1xx, Expect, Upgrade and tunnels."""

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
from tests.support.raw_origin import ClientSaw, OriginSaw, RequestComplete

_INTERIM = "4.2/9110-15.2-interim 4.3/interim-whole-messages"
_EXPECT = "4.2/9110-10.1.1-expect 4.4/expect"
_UPGRADE = "4.2/9110-7.8-upgrade"
_HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_PROCESSING = b"HTTP/1.1 102 Processing\r\n\r\n"


def _interim() -> list[Case]:
    def forwarded(name: str, *heads: bytes, rows: str = _INTERIM) -> Case:
        return case(f"interim-{name}", rows, request(), sent_on(), (*(Interim(head) for head in heads), OK),
                    script=b"".join(heads) + REPLY)  # fmt: skip

    odd = "4.3/204-with-length 4.1/9112-6.1-te-where-forbidden"
    return [
        forwarded("103", _HINTS),
        forwarded("102", _PROCESSING),
        forwarded("100-unasked", _CONTINUE),
        forwarded("199", b"HTTP/1.1 199 Odd\r\nX: 1\r\n\r\n"),
        forwarded("several", _HINTS, _PROCESSING, _HINTS),
        forwarded("twenty", *([_PROCESSING] * 20)),
        bad_gateway("interim-flood", f"{_INTERIM} 4.4/response-splitting", _PROCESSING * 21 + REPLY,
                    (*[Interim(_PROCESSING)] * 20, Own((502,))), splits=False),
        case("interim-before-answer", _INTERIM, request(), sent_on(), (Interim(_HINTS), OK),
             script=(Reply((_HINTS, ClientSaw(_HINTS), REPLY)),), note="not held back until the answer"),
        case("interim-http10", _INTERIM, request("GET / HTTP/1.0"), sent_on(via="1.0 edge"), OK_CLOSE, "closed",
             script=_HINTS + _CONTINUE + REPLY),
        case("interim-with-length", f"{_INTERIM} {odd}", request(), sent_on(), (Interim(_HINTS), OK),
             script=_HINTS.replace(b"Link", b"Content-Length: 5\r\nLink") + REPLY),
        case("interim-with-coding", f"{_INTERIM} {odd}", request(), sent_on(), (Interim(_HINTS), OK),
             script=_HINTS.replace(b"Link", b"Transfer-Encoding: chunked\r\nLink") + REPLY, upstream="any"),
        case("interim-connection", f"{_INTERIM} 4.2/9110-7.6.1-connection", request(), sent_on(), (Interim(_HINTS), OK),
             script=_HINTS.replace(b"Link", b"Connection: X\r\nX: 1\r\nLink") + REPLY),
        case("interim-head", f"{_INTERIM} 4.2/9110-9.3.2-bodiless", request("HEAD / HTTP/1.1"), sent_on("HEAD / HTTP/1.1"),
             (Interim(_HINTS), relayed(method="HEAD", body=b"", framing="none")),
             script=_HINTS + reply("HTTP/1.1 200 OK", DATE, "Content-Length: 2")),
        bad_gateway("interim-then-end", f"{_INTERIM} 4.1/9112-6.3-incomplete-body", (Reply((_HINTS,), then="fin"),),
                    (Interim(_HINTS), Own((502,)))),
        bad_gateway("interim-bad", f"{_INTERIM} 4.4/response-splitting", b"HTTP/1.1 103 Early\r\nX : 1\r\n\r\n" + REPLY),
        case("interim-pipelined", f"{_INTERIM} 4.1/9112-9.3.2-pipelining", request() + request("GET /second HTTP/1.1"),
             (sent_on(), sent_on("GET /second HTTP/1.1")), (Interim(_HINTS), OK, OK),
             script=(Reply((_HINTS + REPLY,)), Reply((REPLY,)))),
    ]  # fmt: skip


def _expect() -> list[Case]:
    head = request("POST /in HTTP/1.1", "Content-Length: 5", "Expect: 100-continue")
    kept = ("Content-Length: 5", "Expect: 100-continue")
    whole = sent_on("POST /in HTTP/1.1", *kept, body=b"hello", framing="length")
    waiting = (Send(head), AwaitClient(b"100 Continue\r\n\r\n"), Send(b"hello"))
    asked = (Reply((_CONTINUE, RequestComplete(), REPLY), when="head"),)
    return [
        case("expect", _EXPECT, waiting, whole, (Interim(_CONTINUE), OK), script=asked),
        case("expect-case", _EXPECT, (Send(head.replace(b"100-c", b"100-C")), *waiting[1:]),
             sent_on("POST /in HTTP/1.1", "Content-Length: 5", "Expect: 100-Continue", body=b"hello", framing="length"),
             (Interim(_CONTINUE), OK), script=asked),
        case("expect-chunked", _EXPECT,
             (Send(request("POST /in HTTP/1.1", "Expect: 100-continue", "Transfer-Encoding: chunked")), waiting[1],
              Send(chunked(b"hello"))),
             sent_on("POST /in HTTP/1.1", "Expect: 100-continue", body=b"hello", framing="chunked"),
             (Interim(_CONTINUE), OK), script=asked),
        case("expect-body-at-once", _EXPECT, head + b"hello", whole, (Interim(_CONTINUE), OK), script=asked),
        case("expect-origin-says-nothing", _EXPECT, head + b"hello", whole, OK,
             note="the body follows after a while although no 100 came", splits=False),
        case("expect-origin-refuses", f"{_EXPECT} 4.2/early-response", (Send(head),),
             _partial_of(kept), relayed("HTTP/1.1 413 Too Much", DATE, "Content-Length: 2", "Connection: close"), "closed",
             script=(Reply((reply("HTTP/1.1 413 Too Much", DATE, "Content-Length: 2", body=b"ok"),), when="head", then="hold"),),
             upstream="closed"),
        case("expect-origin-refuses-body-follows", f"{_EXPECT} 4.2/early-response",
             (Send(head), AwaitClient(b"\r\n\r\nok"), Send(b"hello" + request("GET /second HTTP/1.1"))),
             _partial_of(kept), relayed("HTTP/1.1 413 Too Much", DATE, "Content-Length: 2", "Connection: close"), "closed",
             script=(Reply((reply("HTTP/1.1 413 Too Much", DATE, "Content-Length: 2", body=b"ok"),), when="head", then="hold"),),
             upstream="closed"),
        case("expect-two-100", _EXPECT, waiting, whole, (Interim(_CONTINUE), Interim(_CONTINUE), OK),
             script=(Reply((_CONTINUE, RequestComplete(), _CONTINUE, REPLY), when="head"),)),
        *(refused(f"expect-unknown-{n}", _EXPECT,
                  request("POST /in HTTP/1.1", "Content-Length: 5", f"Expect: {value}", body=b"hello"), 417)
          for n, value in enumerate(("x", "100-continue, y", "100-continue=z", "200-ok", "100-continued"))),
        refused("expect-twice", _EXPECT,
                request("POST /in HTTP/1.1", "Content-Length: 5", "Expect: 100-continue", "Expect: x", body=b"hello"), 417),
        passes("expect-get", _EXPECT, "GET / HTTP/1.1", "Expect: 100-continue", "X: 1", kept=("X: 1",)),
        case("expect-get-length-0", _EXPECT, request("POST /in HTTP/1.1", "Content-Length: 0", "Expect: 100-continue"),
             sent_on("POST /in HTTP/1.1", "Content-Length: 0", framing="length"), OK),
        case("expect-http10", _EXPECT, request("POST /in HTTP/1.0", "Content-Length: 5", "Expect: 100-continue", body=b"hello"),
             sent_on("POST /in HTTP/1.1", "Content-Length: 5", body=b"hello", framing="length", via="1.0 edge"), OK_CLOSE, "closed"),
        case("expect-nominated", f"{_EXPECT} 4.4/connection-nominates",
             (Send(request("POST /in HTTP/1.1", "Content-Length: 5", "Connection: Expect", "Expect: 100-continue")), *waiting[1:]),
             whole, (Interim(_CONTINUE), OK), script=asked),
        case("expect-smuggling", f"{_EXPECT} 4.4/cl-te",
             request("POST /in HTTP/1.1", "Expect: 100-continue", "Content-Length: 5", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
             (), Own((400,), close=True), "closed"),
        case("expect-then-next", _EXPECT, (*waiting, Send(request("GET /second HTTP/1.1"))),
             (whole, sent_on("GET /second HTTP/1.1")), (Interim(_CONTINUE), OK, OK), script=(*asked, Reply((REPLY,)))),
        case("expect-body-in-pieces", _EXPECT, (*waiting[:2], Send(b"he"), AwaitOrigin(b"he"), Send(b"llo")), whole,
             (Interim(_CONTINUE), OK), script=asked),
    ]  # fmt: skip


def _partial_of(kept: tuple[str, ...]) -> tuple[Partial, ...]:
    return (Partial(sent_on("POST /in HTTP/1.1", *kept).head, b"hell", "length"),)


_WS = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x", "Sec-WebSocket-Version: 13")
_WS_KEPT = _WS[2:]
_OURS = ("Connection: upgrade", "Upgrade: websocket")
_101 = reply("HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Accept: y")
_101_OUT = ("HTTP/1.1 101 Switching Protocols", "Sec-WebSocket-Accept: y", "Connection: upgrade", "Upgrade: websocket")


def _upgrades() -> list[Case]:
    ws = sent_on("GET /ws HTTP/1.1", *_WS_KEPT, before=_OURS)
    offer = request("GET /ws HTTP/1.1", *_WS)
    body = "4.4/upgrade-body 4.3/upgrade-ignores-framing"
    premature = f"{_UPGRADE} 4.4/premature-tunnel"
    second = request("GET /second HTTP/1.1")

    def tunnel(name: str, fields: tuple[str, ...], first: bytes = _101) -> Case:
        steps = (Send(request("GET /ws HTTP/1.1", *fields)), AwaitClient(b"\r\n\r\n"), Send(b"\x81\x05hello"),
                 AwaitClient(b"\x81\x05world"), Send(b"\r\n\r\nGET / HTTP/1.1\r\n\r\n"), AwaitOrigin(b"\r\n\r\nGET / HTTP/1.1"))
        wanted = sent_on("GET /ws HTTP/1.1", *_WS_KEPT, before=_OURS, raw=b"\x81\x05hello\r\n\r\nGET / HTTP/1.1\r\n\r\n")
        script = (Reply((first, OriginSaw(b"\x81\x05hello"), b"\x81\x05world"), then="raw"),)
        answer = relayed(*_101_OUT, body=b"", framing="none", raw=b"\x81\x05world")
        return case(f"upgrade-{name}", _UPGRADE, steps, wanted, answer, "tunnel", script=script)  # fmt: skip

    def dropped(name: str, *fields: str, rows: str = _UPGRADE) -> Case:
        return passes(f"upgrade-dropped-{name}", rows, "GET / HTTP/1.1", *fields, "X: 1", kept=("X: 1",))

    def no_tunnel(name: str, first: bytes, answers: Own) -> Case:
        return case(f"upgrade-{name}", f"{premature} 4.4/response-splitting", offer, ws, answers, "stated", script=first, upstream="closed")

    ok_101 = relayed(*_101_OUT, body=b"", framing="none", raw=b"early")
    return [
        tunnel("websocket", _WS),
        tunnel("websocket-case", ("connection: keep-alive, UPGRADE", "upgrade: WebSocket", *_WS_KEPT)),
        tunnel("websocket-nominated", ("Connection: Upgrade, X", "X: 1", "Upgrade: websocket", *_WS_KEPT)),
        case("upgrade-bytes-behind-101", _UPGRADE, offer, ws, ok_101, "tunnel", script=(Reply((_101 + b"early",), then="raw"),)),
        case("upgrade-origin-ends", _UPGRADE, offer, ws, relayed(*_101_OUT, body=b"", framing="none", raw=b"bye"), "closed",
             script=(Reply((_101 + b"bye",), then="fin"),)),
        case("upgrade-after-100", f"{_UPGRADE} 4.2/9110-15.2-interim", offer, ws,
             (Interim(_HINTS), relayed(*_101_OUT, body=b"", framing="none")), "tunnel", script=(Reply((_HINTS + _101,), then="raw"),)),
        case("upgrade-answered-200", premature, offer, ws, OK, script=REPLY),
        case("upgrade-answered-200-pipelined", premature, offer + second, (ws, sent_on("GET /second HTTP/1.1")), (OK, OK),
             script=(Reply((REPLY,)), Reply((REPLY,)))),
        case("upgrade-answered-200-then-private", f"{premature} 4.4/path-confusion", offer + request("GET /private HTTP/1.1"),
             ws, (OK, Own((403,), body=b"private")), "stated"),
        case("upgrade-answered-403", premature, offer, ws, relayed("HTTP/1.1 403 No", DATE, "Content-Length: 2"),
             script=reply("HTTP/1.1 403 No", DATE, "Content-Length: 2", body=b"ok")),
        case("upgrade-answered-426", premature, offer, ws, relayed("HTTP/1.1 426 Upgrade Required", DATE, "Content-Length: 2"),
             script=reply("HTTP/1.1 426 Upgrade Required", DATE, "Connection: upgrade", "Upgrade: h2c", "Content-Length: 2", body=b"ok")),
        no_tunnel("answered-h2c", _101.replace(b"websocket", b"h2c"), Own((502,))),
        no_tunnel("answered-without-upgrade", reply("HTTP/1.1 101 Switching Protocols"), Own((502,))),
        no_tunnel("answered-two-upgrades", _101.replace(b"websocket", b"websocket, h2c"), Own((502,))),
        bad_gateway("101-unasked", f"{_UPGRADE} 4.4/response-splitting 4.4/premature-tunnel", _101, Own((502,))),
        bad_gateway("101-unasked-plain", "4.4/response-splitting 4.4/premature-tunnel", b"HTTP/1.1 101 X\r\n\r\n" + REPLY, Own((502,))),
        case("101-for-dropped-offer", f"{_UPGRADE} 4.4/premature-tunnel 4.4/upgrade-body",
             request("GET / HTTP/1.1", "Connection: Upgrade", "Upgrade: h2c"), sent_on(), Own((502,)), "stated",
             script=_101.replace(b"websocket", b"h2c"), upstream="closed"),
        dropped("h2c", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk",
                rows=f"{_UPGRADE} 4.4/upgrade-body 4.3/upgrade-ignores-framing"),
        dropped("h2", "Connection: Upgrade", "Upgrade: h2", rows=f"{_UPGRADE} 4.4/upgrade-body"),
        dropped("unknown", "Connection: Upgrade", "Upgrade: foo/2"),
        dropped("tls", "Connection: Upgrade", "Upgrade: TLS/1.0"),
        dropped("not-in-connection", "Upgrade: websocket"),
        dropped("two-offers", "Connection: Upgrade", "Upgrade: websocket, h2c"),
        dropped("two-lines", "Connection: Upgrade", "Upgrade: websocket", "Upgrade: h2c"),
        case("upgrade-dropped-h2c-with-body", body,
             request("POST /in HTTP/1.1", "Connection: Upgrade", "Upgrade: h2c", "Content-Length: 5", body=b"hello"),
             sent_on("POST /in HTTP/1.1", "Content-Length: 5", body=b"hello", framing="length"), OK),
        case("upgrade-dropped-h2c-chunked", body,
             request("POST /in HTTP/1.1", "Connection: Upgrade", "Upgrade: h2c", "Transfer-Encoding: chunked", body=chunked(b"hello")),
             sent_on("POST /in HTTP/1.1", body=b"hello", framing="chunked"), OK),
        case("upgrade-dropped-h2c-pipelined", body, request("GET / HTTP/1.1", "Connection: Upgrade", "Upgrade: h2c") + second,
             (sent_on(), sent_on("GET /second HTTP/1.1")), (OK, OK), script=(Reply((REPLY,)), Reply((REPLY,)))),
        refused("upgrade-with-length", body, request("GET /ws HTTP/1.1", *_WS, "Content-Length: 5", body=b"hello")),
        refused("upgrade-chunked", body, request("GET /ws HTTP/1.1", *_WS, "Transfer-Encoding: chunked", body=chunked(b"hello"))),
        refused("upgrade-post-with-length", body, request("POST /ws HTTP/1.1", *_WS, "Content-Length: 5", body=b"hello")),
        passes("upgrade-post", _UPGRADE, "POST /ws HTTP/1.1", *_WS, kept=_WS_KEPT),
        case("upgrade-http10", _UPGRADE, request("GET /ws HTTP/1.0", *_WS), sent_on("GET /ws HTTP/1.1", *_WS_KEPT, via="1.0 edge"),
             OK_CLOSE, "closed"),
    ]  # fmt: skip


CASES = [*_interim(), *_expect(), *_upgrades()]
