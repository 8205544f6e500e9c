"""Responses: status lines, heads, framing, bodiless ones, broken ones, and what stands behind them."""

from tests.conformance.build import (
    DATE,
    OK,
    OK_CLOSE,
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
from tests.conformance.model import AwaitClient, AwaitUpstreamEnd, Case, Cut, Own, Send
from tests.support.raw_origin import ClientSaw

_SPLITTING = "4.4/response-splitting"
_LINE = "HTTP/1.1 200 OK"
_TWO_BYTES = "Content-Length: 2"


def _simple(name: str, rows: str, response: bytes, *wanted: str, **options: str) -> Case:
    """A response that is relayed with this line and these fields, and body `ok`."""
    return case(name, rows, request(), sent_on(), relayed(*wanted), script=response)


def _status_lines() -> list[Case]:
    row = "4.4/status-text"
    bad = {
        "two-digits": "HTTP/1.1 20 OK", "four-digits": "HTTP/1.1 2000 OK", "letters": "HTTP/1.1 abc OK", "no-code": "HTTP/1.1 OK",
        "protocol": "HTP/1.1 200 OK", "version-2": "HTTP/2 200 OK", "version-2.0": "HTTP/2.0 200 OK", "version-0.9": "HTTP/0.9 200 OK",
        "lower": "http/1.1 200 OK", "space-front": " HTTP/1.1 200 OK", "two-spaces": "HTTP/1.1  200 OK", "tab": "HTTP/1.1\t200 OK",
        "nul-in-reason": "HTTP/1.1 200 O\x00K", "cr-in-reason": "HTTP/1.1 200 O\rK", "control-in-reason": "HTTP/1.1 200 O\x01K",
        "plus": "HTTP/1.1 +20 OK", "zero": "HTTP/1.1 099 OK", "icy": "ICY 200 OK", "nothing": "",
    }  # fmt: skip
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
        *(bad_gateway(f"status-line-{name}", f"{row} {_SPLITTING}", reply(line, _TWO_BYTES, body=b"ok")) for name, line in bad.items()),
        *(_simple(f"status-{name}", row, reply(line, DATE, _TWO_BYTES, body=b"ok"), wanted, DATE, _TWO_BYTES)
          for name, (line, wanted) in good.items()),
    ]  # fmt: skip


def _heads() -> list[Case]:
    bad = {
        "lf-line": ("4.1/9112-2.2-bare-lf", b"HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nok"),
        "lf-field": ("4.1/9112-2.2-bare-lf", b"HTTP/1.1 200 OK\r\nX: 1\nContent-Length: 2\r\n\r\nok"),
        "lf-end": ("4.1/9112-2.2-bare-lf", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\nok\r\n\r\n"),
        "lf-everywhere": ("4.1/9112-2.2-bare-lf", b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok"),
        "cr-in-value": ("4.1/9112-2.2-bare-cr", b"HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: b\r\nContent-Length: 2\r\n\r\nok"),
        "cr-cr-lf": ("4.1/9112-2.2-bare-cr", b"HTTP/1.1 200 OK\r\nX: a\r\r\nContent-Length: 2\r\n\r\nok"),
        "fold": ("4.1/9112-5.2-obs-fold", b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok"),
        "fold-tab": ("4.1/9112-5.2-obs-fold", b"HTTP/1.1 200 OK\r\nX: a\r\n\tb\r\nContent-Length: 2\r\n\r\nok"),
        "space-colon": ("4.1/9112-5.1-space-before-colon", b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok"),
        "space-colon-other": ("4.1/9112-5.1-space-before-colon", b"HTTP/1.1 200 OK\r\nX : 2\r\nContent-Length: 2\r\n\r\nok"),
        "no-colon": (_SPLITTING, b"HTTP/1.1 200 OK\r\nX\r\nContent-Length: 2\r\n\r\nok"),
        "nul": (_SPLITTING, b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 2\r\n\r\nok"),
        "control": (_SPLITTING, b"HTTP/1.1 200 OK\r\nX: a\x01b\r\nContent-Length: 2\r\n\r\nok"),
        "bad-name": (_SPLITTING, b"HTTP/1.1 200 OK\r\nX(Y: a\r\nContent-Length: 2\r\n\r\nok"),
        "space-first": (_SPLITTING, b"HTTP/1.1 200 OK\r\n X: a\r\nContent-Length: 2\r\n\r\nok"),
        "garbage": (_SPLITTING, b"\x16\x03\x01 garbage\r\n\r\n"),
        "http09": (_SPLITTING, b"<html>hello</html>\r\n\r\n"),
        "request": (_SPLITTING, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    }
    row = "4.3/no-limits 4.2/limits"
    return [
        *(bad_gateway(f"response-{name}", f"{rows} {_SPLITTING} 4.2/9209-proxy-status", data) for name, (rows, data) in bad.items()),
        bad_gateway("response-head-too-long", row, reply(_LINE, "X: " + "v" * 90_000, _TWO_BYTES, body=b"ok"),
                    Own((502,)), splits=False),
        bad_gateway("response-head-without-end", row, b"HTTP/1.1 200 OK\r\nX: " + b"v" * 200_000, Own((502,)), splits=False),
        bad_gateway("response-too-many-fields", row, reply(_LINE, *["X: 1"] * 201, body=b"ok"), Own((502,)), splits=False),
        bad_gateway("response-none", "4.2/9209-proxy-status", (Reply((), then="fin"),), Own((502,), _CONNECTION)),
        bad_gateway("response-reset", "4.2/9209-proxy-status", (Reply((), then="rst"),), Own((502,), _CONNECTION)),
        bad_gateway("response-half-a-head", "4.2/9209-proxy-status 4.1/9112-6.3-incomplete-body",
                    (Reply((b"HTTP/1.1 200 OK\r\nContent-Le",), then="fin"),), Own((502,), _CONNECTION)),
        _simple("response-obs-text", "4.1/9110-5.5-field-value", reply(_LINE, DATE, "X: \x85\xff", "Y:", _TWO_BYTES, body=b"ok"),
                _LINE, DATE, "X: \x85\xff", "Y:", _TWO_BYTES),
        _simple("response-field-bytes", "4.1/9110-5.5-field-value 4.2/9110-5.3-field-order",
                reply(_LINE, "b:1", DATE, "A:  2 ", _TWO_BYTES, "a:", body=b"ok"), _LINE, "b:1", DATE, "A:  2 ", _TWO_BYTES, "a:"),
        _simple("date-added", "4.2/9110-6.6.1-date", REPLY.replace(DATE.encode() + b"\r\n", b""), _LINE, _TWO_BYTES, "Date: <date>"),
        _simple("date-kept", "4.2/9110-6.6.1-date", REPLY, _LINE, DATE, _TWO_BYTES),
        _simple("date-added-chunked-last", "4.2/9110-6.6.1-date", reply("HTTP/1.1 404 Not Found", _TWO_BYTES, body=b"ok"),
                "HTTP/1.1 404 Not Found", _TWO_BYTES, "Date: <date>"),
    ]  # fmt: skip


_CONNECTION = proxy_status("connection_terminated")


def _framing() -> list[Case]:
    cl = "4.1/9112-6.3-invalid-cl"
    lengths = {"plus": "+2", "minus": "-2", "hex": "0x2", "empty": "", "list": "2,3", "list-equal": "2, 2", "letter": "2a",
               "huge": "9" * 40, "leading-zero": "02", "space": "2 2", "point": "2.0", "obs-text": "2\xa0"}  # fmt: skip
    codings = {"gzip": "gzip", "chunked-gzip": "chunked, gzip", "gzip-chunked": "gzip, chunked", "twice": "chunked, chunked",
               "comma": ",chunked", "identity": "identity", "empty": "", "x": "xchunked", "vt": "\x0bchunked"}  # fmt: skip
    both = "4.1/9112-6.1-te-and-cl"
    body = chunked(b"ok")
    return [
        *(bad_gateway(f"response-cl-{name}", f"{cl} {_SPLITTING}", reply(_LINE, DATE, f"Content-Length: {value}", body=b"ok"))
          for name, value in lengths.items()),
        bad_gateway("response-cl-twice", f"4.1/9112-6.3-repeated-cl {_SPLITTING}",
                    reply(_LINE, _TWO_BYTES, _TWO_BYTES, body=b"ok")),
        bad_gateway("response-cl-different", f"4.1/9112-6.3-repeated-cl {_SPLITTING}",
                    reply(_LINE, _TWO_BYTES, "Content-Length: 1", body=b"ok")),
        bad_gateway("response-cl-te", f"{both} {_SPLITTING}", reply(_LINE, "Content-Length: 12", "Transfer-Encoding: chunked", body=body)),
        bad_gateway("response-te-cl", f"{both} {_SPLITTING}", reply(_LINE, "Transfer-Encoding: chunked", _TWO_BYTES, body=body)),
        *(bad_gateway(f"response-te-{name}", f"4.3/response-coding {_SPLITTING}", reply(_LINE, f"Transfer-Encoding: {value}", body=body))
          for name, value in codings.items()),
        bad_gateway("response-te-two-lines", f"4.3/response-coding {_SPLITTING}",
                    reply(_LINE, "Transfer-Encoding: chunked", "Transfer-Encoding: chunked", body=body)),
        bad_gateway("response-te-http10", "4.3/response-coding 4.1/9112-6.1-te-on-http10",
                    reply("HTTP/1.0 200 OK", "Transfer-Encoding: chunked", body=body)),
        bad_gateway("response-te-http10-keep-alive", "4.3/response-coding 4.1/9112-6.1-te-on-http10",
                    reply("HTTP/1.0 200 OK", "Connection: keep-alive", "Transfer-Encoding: chunked", body=body)),
        _simple("response-cl-not-canonical", "4.2/9110-8.6-content-length", reply(_LINE, DATE, "Content-Length: 2 ", "X: 1", body=b"ok"),
                _LINE, DATE, "X: 1", _TWO_BYTES),
        case("response-large", "4.2/9110-8.6-content-length", request(), sent_on(),
             relayed(_LINE, DATE, "Content-Length: 300000", body=b"0123456789" * 30_000),
             script=reply(_LINE, DATE, "Content-Length: 300000", body=b"0123456789" * 30_000), splits=False),
    ]  # fmt: skip


def _until_close() -> list[Case]:
    row = "4.1/9112-6.3-close-delimited 4.3/no-eof"
    short = "4.1/9112-6.3-incomplete-body 4.3/no-eof"
    ended = (Reply((reply(_LINE, DATE, body=b"hello"),), then="fin"),)
    chunked_head = (_LINE, DATE, "Transfer-Encoding: chunked")

    def cut(name: str, response: bytes, wanted: Cut, then: str) -> Case:
        script = (Reply((response,), then="fin" if then == "fin" else "rst"),)
        return case(f"truncated-{name}-{then}", short, request(), sent_on(), wanted, "broken", script=script, upstream="closed")

    sized = Cut(relayed(_LINE, DATE, "Content-Length: 10").head, b"hello", "length")
    in_chunks = Cut(relayed(*chunked_head).head, b"hello", "chunked")
    return [
        case("until-close", row, request(), sent_on(), relayed(*chunked_head, body=b"hello", framing="chunked"),
             script=ended, upstream="closed"),
        case("until-close-empty", row, request(), sent_on(), relayed(*chunked_head, body=b"", framing="chunked"),
             script=(Reply((reply(_LINE, DATE),), then="fin"),), upstream="closed"),
        case("until-close-http10-origin", row, request(), sent_on(), relayed(*chunked_head, body=b"hello", framing="chunked"),
             script=(Reply((reply("HTTP/1.0 200 OK", DATE, body=b"hello"),), then="fin"),), upstream="closed"),
        case("until-close-http10-client", f"{row} 4.1/9112-9.3-http10-persistence", request("GET / HTTP/1.0"), sent_on(via="1.0 edge"),
             relayed(_LINE, DATE, "Connection: close", body=b"hello", framing="close"), "closed", script=ended, upstream="closed"),
        case("until-close-http10-client-keep-alive", f"{row} 4.1/9112-9.3-http10-persistence",
             request("GET / HTTP/1.0", "Connection: keep-alive"), sent_on(via="1.0 edge", forwarded="<forwarded>"),
             relayed(_LINE, DATE, "Connection: close", body=b"hello", framing="close"), "closed", script=ended, upstream="closed",
             variant="lenient"),
        case("until-close-reset", f"{short} 4.1/9112-6.3-close-delimited", request(), sent_on(), in_chunks, "broken",
             script=(Reply((reply(_LINE, DATE, body=b"hello"),), then="rst"),), upstream="closed"),
        case("until-close-reset-http10", f"{short} 4.1/9112-6.3-close-delimited", request("GET / HTTP/1.0"), sent_on(via="1.0 edge"),
             Cut(relayed(_LINE, DATE, "Connection: close").head, b"hello", "close"), "broken",
             script=(Reply((reply(_LINE, DATE, body=b"hello"),), then="rst"),), upstream="closed"),
        *(cut("length", reply(_LINE, DATE, "Content-Length: 10", body=b"hello"), sized, then) for then in ("fin", "rst")),
        *(cut("chunked", reply(*chunked_head, body=b"5\r\nhello\r\n"), in_chunks, then) for then in ("fin", "rst")),
        *(cut("in-chunk", reply(*chunked_head, body=b"a\r\nhello"), in_chunks, then) for then in ("fin", "rst")),
        *(cut("in-size", reply(*chunked_head, body=b"5\r\nhello\r\n5"), in_chunks, then) for then in ("fin", "rst")),
        *(cut("last-chunk", reply(*chunked_head, body=b"5\r\nhello\r\n0\r\n"), in_chunks, then) for then in ("fin", "rst")),
        *(cut("no-body", reply(_LINE, DATE, "Content-Length: 10"), sized, then) for then in ("fin", "rst")),
    ]  # fmt: skip


def _bodiless() -> list[Case]:
    row = "4.2/9110-9.3.2-bodiless 4.3/head-response"
    behind = "4.4/bodiless-with-body 4.3/extra-bytes"
    none = "HTTP/1.1 204 No Content"
    fresh = "HTTP/1.1 304 Not Modified"

    def head(name: str, fields: tuple[str, ...], wanted: tuple[str, ...], body: bytes = b"") -> Case:
        answer = relayed(_LINE, *wanted, body=b"", framing="none", method="HEAD")
        rows = f"{row} {behind}" if body else row
        return case(f"head-{name}", rows, request("HEAD / HTTP/1.1"), sent_on("HEAD / HTTP/1.1"), answer,
                    script=reply(_LINE, *fields, body=body), upstream="closed" if body else "reused")  # fmt: skip

    def empty(name: str, rows: str, line: str, fields: tuple[str, ...], wanted: tuple[str, ...], upstream: str = "reused",
              body: bytes = b"") -> Case:  # fmt: skip
        answer = relayed(line, *wanted, body=b"", framing="none")
        return case(name, rows, request(), sent_on(), answer, script=reply(line, *fields, body=body),
                    upstream="closed" if upstream == "closed" else "reused")  # fmt: skip

    odd = "4.3/204-with-length 4.2/9110-9.3.2-bodiless"
    return [
        head("length", (DATE, "Content-Length: 5"), (DATE, "Content-Length: 5")),
        head("length-0", (DATE, "Content-Length: 0"), (DATE, "Content-Length: 0")),
        head("chunked", (DATE, "Transfer-Encoding: chunked"), (DATE,)),
        head("neither", (DATE,), (DATE,)),
        head("with-body", (DATE, "Content-Length: 5"), (DATE, "Content-Length: 5"), b"hello"),
        head("with-response", (DATE, "Content-Length: 5"), (DATE, "Content-Length: 5"), REPLY),
        empty("204", row, none, (DATE,), (DATE,)),
        empty("204-length-0", odd, none, (DATE, "Content-Length: 0"), (DATE,)),
        empty("204-chunked", f"{odd} 4.1/9112-6.1-te-where-forbidden", none, (DATE, "Transfer-Encoding: chunked"), (DATE,), "closed"),
        empty("204-with-body", behind, none, (DATE,), (DATE,), "closed", b"hello"),
        empty("204-with-response", behind, none, (DATE,), (DATE,), "closed", REPLY),
        bad_gateway("204-length-5", odd, reply(none, DATE, "Content-Length: 5", body=b"hello")),
        empty("304", row, fresh, (DATE, "ETag: x"), (DATE, "ETag: x")),
        empty("304-length", f"{row} 4.2/9110-8.6-content-length", fresh, (DATE, "Content-Length: 5"), (DATE, "Content-Length: 5")),
        empty("304-with-body", behind, fresh, (DATE, "Content-Length: 5"), (DATE, "Content-Length: 5"), "closed", b"hello"),
        case("205", "4.2/9110-15.3.6-205", request(), sent_on(),
             relayed("HTTP/1.1 205 Reset Content", DATE, "Content-Length: 0", body=b""),
             script=reply("HTTP/1.1 205 Reset Content", DATE, "Content-Length: 0")),
        case("205-without-length", "4.2/9110-15.3.6-205", request(), sent_on(),
             relayed("HTTP/1.1 205 Reset Content", DATE, "Content-Length: 0", body=b""),
             script=(Reply((reply("HTTP/1.1 205 Reset Content", DATE),), then="fin"),), upstream="closed"),
        bad_gateway("205-length-5", "4.2/9110-15.3.6-205", reply("HTTP/1.1 205 Reset Content", "Content-Length: 5", body=b"hello")),
        case("head-204", row, request("HEAD / HTTP/1.1"), sent_on("HEAD / HTTP/1.1"),
             relayed(none, DATE, body=b"", framing="none", method="HEAD"), script=reply(none, DATE)),
        case("head-pipelined", f"{row} 4.1/9112-9.3.2-pipelining", request("HEAD / HTTP/1.1") + request("GET /second HTTP/1.1"),
             (sent_on("HEAD / HTTP/1.1"), sent_on("GET /second HTTP/1.1")),
             (relayed(_LINE, DATE, "Content-Length: 5", body=b"", framing="none", method="HEAD"), OK),
             script=(Reply((reply(_LINE, DATE, "Content-Length: 5"),)), Reply((REPLY,)))),
    ]  # fmt: skip


def _behind() -> list[Case]:
    row = f"4.3/extra-bytes 4.1/9112-9.2-unsolicited {_SPLITTING}"
    evil = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    idle = "4.1/9112-9.2-unsolicited 4.3/extra-bytes"

    def later(name: str, extra: bytes) -> Case:
        steps = (Send(request()), AwaitClient(b"\r\n\r\nok"), AwaitUpstreamEnd(), Send(request("GET /second HTTP/1.1")))
        script = (Reply((REPLY, ClientSaw(b"\r\n\r\nok"), extra)), Reply((REPLY,)))
        return case(f"unsolicited-{name}", idle, steps, (sent_on(), sent_on("GET /second HTTP/1.1")), (OK, OK), script=script)

    return [
        case("extra-octet", row, request(), sent_on(), OK, script=REPLY + b"x", upstream="closed"),
        case("extra-crlf", row, request(), sent_on(), OK, script=REPLY + b"\r\n", upstream="closed"),
        case("extra-response", row, request(), sent_on(), OK, script=REPLY + evil, upstream="closed"),
        case("extra-response-chunked", row, request(), sent_on(),
             relayed(_LINE, DATE, "Transfer-Encoding: chunked", framing="chunked"),
             script=reply(_LINE, DATE, "Transfer-Encoding: chunked", body=chunked(b"ok")) + evil, upstream="closed"),
        case("extra-response-pipelined", row, request() + request("GET /second HTTP/1.1"),
             (sent_on(), sent_on("GET /second HTTP/1.1")), (OK, OK), script=(Reply((REPLY + evil,)), Reply((REPLY,))), splits=False,
             note="in pieces, the second answer could not be told from a rightful one"),
        case("extra-interim", row, request(), sent_on(), OK, script=REPLY + b"HTTP/1.1 100 Continue\r\n\r\n", upstream="closed"),
        later("octet", b"x"),
        later("response", evil),
        later("408", b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"),
        case("upstream-close", "4.1/9112-9.6-close", request(), sent_on(), OK,
             script=reply(_LINE, DATE, _TWO_BYTES, "Connection: close", body=b"ok"), upstream="closed"),
        case("upstream-http10", "4.1/9112-9.3-http10-persistence", request(), sent_on(), OK,
             script=reply("HTTP/1.0 200 OK", DATE, _TWO_BYTES, body=b"ok"), upstream="closed"),
        case("upstream-close-client-http10", "4.1/9112-9.6-close", request("GET / HTTP/1.0"), sent_on(via="1.0 edge"), OK_CLOSE,
             "closed", script=reply(_LINE, DATE, _TWO_BYTES, "Connection: close", body=b"ok"), upstream="closed"),
    ]  # fmt: skip


CASES = [*_status_lines(), *_heads(), *_framing(), *_until_close(), *_bodiless(), *_behind()]
