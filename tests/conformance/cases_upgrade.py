"""Upgrade and tunnels."""

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
from tests.conformance.model import AwaitClient, AwaitOrigin, Case, Interim, Own, Send
from tests.support.raw_origin import OriginSaw

_UPGRADE = "4.2/9110-7.8-upgrade"
_HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"
_KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
_ACCEPT = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
_WS = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
)
_WS_KEPT = _WS[2:]
_OURS = ("Connection: upgrade", "Upgrade: websocket")
_101 = reply(
    "HTTP/1.1 101 Switching Protocols",
    "Connection: Upgrade",
    "Upgrade: websocket",
    _ACCEPT,
)
_101_OUT = (
    "HTTP/1.1 101 Switching Protocols",
    _ACCEPT,
    "Connection: upgrade",
    "Upgrade: websocket",
)


_ws = sent_on("GET /ws HTTP/1.1", *_WS_KEPT, before=_OURS)
_offer = request("GET /ws HTTP/1.1", *_WS)
_body = "4.4/upgrade-body 4.3/upgrade-ignores-framing"
_premature = f"{_UPGRADE} 4.4/premature-tunnel"
_second = request("GET /second HTTP/1.1")


def _tunnel(name: str, fields: tuple[str, ...], first: bytes = _101) -> Case:
    steps = (
        Send(request("GET /ws HTTP/1.1", *fields)),
        AwaitClient(b"\r\n\r\n"),
        Send(b"\x81\x05hello"),
        AwaitClient(b"\x81\x05world"),
        Send(b"\r\n\r\nGET / HTTP/1.1\r\n\r\n"),
        AwaitOrigin(b"\r\n\r\nGET / HTTP/1.1"),
    )
    wanted = sent_on("GET /ws HTTP/1.1", *_WS_KEPT, before=_OURS, raw=b"\x81\x05hello\r\n\r\nGET / HTTP/1.1\r\n\r\n")
    script = (Reply((first, OriginSaw(b"\x81\x05hello"), b"\x81\x05world"), then="raw"),)
    answer = relayed(*_101_OUT, body=b"", framing="none", raw=b"\x81\x05world")
    return case(f"upgrade-{name}", _UPGRADE, steps, wanted, answer, "tunnel", script=script)


def _dropped(name: str, *fields: str, rows: str = _UPGRADE) -> Case:
    return passes(f"upgrade-dropped-{name}", rows, "GET / HTTP/1.1", *fields, "X: 1", kept=("X: 1",))


def _no_tunnel(name: str, first: bytes, answers: Own) -> Case:
    return case(
        f"upgrade-{name}",
        f"{_premature} 4.4/response-splitting",
        _offer,
        _ws,
        answers,
        "stated",
        script=first,
        upstream="closed",
    )


_ok_101 = relayed(*_101_OUT, body=b"", framing="none", raw=b"early")
_UPGRADES_CASES: list[Case] = [
    _tunnel("websocket", _WS),
    _tunnel("websocket-case", ("connection: keep-alive, UPGRADE", "upgrade: WebSocket", *_WS_KEPT)),
    _tunnel("websocket-nominated", ("Connection: Upgrade, X", "X: 1", "Upgrade: websocket", *_WS_KEPT)),
    case(
        "upgrade-bytes-behind-101",
        _UPGRADE,
        _offer,
        _ws,
        _ok_101,
        "tunnel",
        script=(Reply((_101 + b"early",), then="raw"),),
    ),
    case(
        "upgrade-origin-ends",
        _UPGRADE,
        _offer,
        _ws,
        relayed(*_101_OUT, body=b"", framing="none", raw=b"bye"),
        "closed",
        script=(Reply((_101 + b"bye",), then="fin"),),
    ),
    case(
        "upgrade-after-100",
        f"{_UPGRADE} 4.2/9110-15.2-interim",
        _offer,
        _ws,
        (Interim(_HINTS), relayed(*_101_OUT, body=b"", framing="none")),
        "tunnel",
        script=(Reply((_HINTS + _101,), then="raw"),),
    ),
    case("upgrade-answered-200", _premature, _offer, _ws, OK, script=REPLY),
    case(
        "upgrade-answered-200-pipelined",
        _premature,
        _offer + _second,
        (_ws, sent_on("GET /second HTTP/1.1")),
        (OK, OK),
        script=(Reply((REPLY,)), Reply((REPLY,))),
    ),
    case(
        "upgrade-answered-200-then-private",
        f"{_premature} 4.4/path-confusion",
        _offer + request("GET /private HTTP/1.1"),
        _ws,
        (OK, Own((403,), body=b"private")),
        "stated",
    ),
    case(
        "upgrade-answered-403",
        _premature,
        _offer,
        _ws,
        relayed("HTTP/1.1 403 No", DATE, "Content-Length: 2"),
        script=reply("HTTP/1.1 403 No", DATE, "Content-Length: 2", body=b"ok"),
    ),
    case(
        "upgrade-answered-426",
        _premature,
        _offer,
        _ws,
        relayed("HTTP/1.1 426 Upgrade Required", DATE, "Content-Length: 2"),
        script=reply(
            "HTTP/1.1 426 Upgrade Required",
            DATE,
            "Connection: upgrade",
            "Upgrade: h2c",
            "Content-Length: 2",
            body=b"ok",
        ),
    ),
    _no_tunnel("answered-h2c", _101.replace(b"websocket", b"h2c"), Own((502,))),
    _no_tunnel("answered-without-upgrade", reply("HTTP/1.1 101 Switching Protocols"), Own((502,))),
    _no_tunnel("answered-two-upgrades", _101.replace(b"websocket", b"websocket, h2c"), Own((502,))),
    bad_gateway("101-unasked", f"{_UPGRADE} 4.4/response-splitting 4.4/premature-tunnel", _101, Own((502,))),
    bad_gateway(
        "101-unasked-plain",
        "4.4/response-splitting 4.4/premature-tunnel",
        b"HTTP/1.1 101 X\r\n\r\n" + REPLY,
        Own((502,)),
    ),
    case(
        "101-for-dropped-offer",
        f"{_UPGRADE} 4.4/premature-tunnel 4.4/upgrade-body",
        request("GET / HTTP/1.1", "Connection: Upgrade", "Upgrade: h2c"),
        sent_on(),
        Own((502,)),
        "stated",
        script=_101.replace(b"websocket", b"h2c"),
        upstream="closed",
    ),
    _dropped(
        "h2c",
        "Connection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABk",
        rows=f"{_UPGRADE} 4.4/upgrade-body 4.3/upgrade-ignores-framing",
    ),
    _dropped("h2", "Connection: Upgrade", "Upgrade: h2", rows=f"{_UPGRADE} 4.4/upgrade-body"),
    _dropped("unknown", "Connection: Upgrade", "Upgrade: foo/2"),
    _dropped("tls", "Connection: Upgrade", "Upgrade: TLS/1.0"),
    _dropped("not-in-connection", "Upgrade: websocket"),
    _dropped("two-offers", "Connection: Upgrade", "Upgrade: websocket, h2c"),
    _dropped("two-lines", "Connection: Upgrade", "Upgrade: websocket", "Upgrade: h2c"),
    case(
        "upgrade-dropped-h2c-with-body",
        _body,
        request("POST /in HTTP/1.1", "Connection: Upgrade", "Upgrade: h2c", "Content-Length: 5", body=b"hello"),
        sent_on("POST /in HTTP/1.1", "Content-Length: 5", body=b"hello", framing="length"),
        OK,
    ),
    case(
        "upgrade-dropped-h2c-chunked",
        _body,
        request(
            "POST /in HTTP/1.1",
            "Connection: Upgrade",
            "Upgrade: h2c",
            "Transfer-Encoding: chunked",
            body=chunked(b"hello"),
        ),
        sent_on("POST /in HTTP/1.1", body=b"hello", framing="chunked"),
        OK,
    ),
    case(
        "upgrade-dropped-h2c-pipelined",
        _body,
        request("GET / HTTP/1.1", "Connection: Upgrade", "Upgrade: h2c") + _second,
        (sent_on(), sent_on("GET /second HTTP/1.1")),
        (OK, OK),
        script=(Reply((REPLY,)), Reply((REPLY,))),
    ),
    refused("upgrade-with-length", _body, request("GET /ws HTTP/1.1", *_WS, "Content-Length: 5", body=b"hello")),
    refused(
        "upgrade-chunked",
        _body,
        request("GET /ws HTTP/1.1", *_WS, "Transfer-Encoding: chunked", body=chunked(b"hello")),
    ),
    refused("upgrade-post-with-length", _body, request("POST /ws HTTP/1.1", *_WS, "Content-Length: 5", body=b"hello")),
    passes("upgrade-post", _UPGRADE, "POST /ws HTTP/1.1", *_WS, kept=_WS_KEPT),
    case(
        "upgrade-http10",
        _UPGRADE,
        request("GET /ws HTTP/1.0", *_WS),
        sent_on("GET /ws HTTP/1.1", *_WS_KEPT, via="1.0 edge"),
        OK_CLOSE,
        "closed",
    ),
]


CASES = [*_UPGRADES_CASES]
