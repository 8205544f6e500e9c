"""Request heads: what is refused with which outcome, what is cut, what is kept byte for byte."""

import pytest

from balancer import errors
from balancer.http1.forwarding import remaining_lines
from balancer.http1.message import CHUNKED, NO_BODY, RequestHead
from balancer.http1.request import parse_request_head

HOST = b"Host: a.example\r\n"


def parse(lines: bytes, line: bytes = b"GET /x HTTP/1.1", *, uri_bytes: int = 8192, count: int = 100) -> RequestHead:
    return parse_request_head(line + b"\r\n" + lines + b"\r\n", uri_bytes, count)


def kept(head: RequestHead) -> bytes:
    return remaining_lines(head.raw, head.line_end, head.cuts)


def test_a_plain_head_is_kept_byte_for_byte() -> None:
    head = parse(b"hOsT:a.Example:81 \r\nX-A:  b\t\r\nCookie: \x85\xa0\r\n")
    assert (head.method, head.target, head.minor) == (b"GET", b"/x", 1)
    assert (head.host, head.host_field) == (b"a.example", b"a.Example:81")
    assert kept(head) == b"\r\nhOsT:a.Example:81 \r\nX-A:  b\t\r\nCookie: \x85\xa0"
    assert head.keep_alive
    assert head.length == NO_BODY


@pytest.mark.parametrize(
    ("line", "lines", "outcome"),
    [
        (b"GET /x", HOST, errors.BAD_REQUEST),
        (b"GET  /x HTTP/1.1", HOST, errors.BAD_REQUEST),
        (b"GET /x HTTP/2.0", HOST, errors.VERSION_UNSUPPORTED),
        (b"GET /x HTTP/1.2", HOST, errors.VERSION_UNSUPPORTED),
        (b"PRI * HTTP/2.0", b"", errors.VERSION_UNSUPPORTED),
        (b"SOURCE / ICE/1.0", HOST, errors.BAD_REQUEST),
        (b"PRI /x HTTP/1.0", b"", errors.METHOD_UNKNOWN),
        (b"PRI /x HTTP/1.1", HOST, errors.BAD_REQUEST),
        (b"get /x HTTP/1.1", HOST, errors.METHOD_UNKNOWN),
        (b"BREW /x HTTP/1.1", HOST, errors.METHOD_UNKNOWN),
        (b"G@T /x HTTP/1.1", HOST, errors.BAD_REQUEST),
        (b"CONNECT a:1 HTTP/1.1", HOST, errors.METHOD_REFUSED),
        (b"TRACE /x HTTP/1.1", HOST, errors.METHOD_REFUSED),
        (b"GET /x HTTP/1.1", b"", errors.BAD_REQUEST),
        (b"GET /x HTTP/1.1", HOST + HOST, errors.BAD_REQUEST),
        (b"GET /x HTTP/1.1", b"Host:\r\n", errors.BAD_REQUEST),
        (b"GET /x HTTP/1.1", b"Host: a/b\r\n", errors.BAD_REQUEST),
        (b"GET /x#f HTTP/1.1", HOST, errors.BAD_REQUEST),
        # llhttp takes a bare LF for the end of a line of HTTP/0.9, and what follows for a field.
        (b"GET /x\nA:/ HTTP/1.1", HOST, errors.BAD_REQUEST),
        (b"GET /x?y\nhttp://z/ HTTP/1.1", HOST, errors.BAD_REQUEST),
        (b"GET http://a.example/\nA:/ HTTP/1.1", HOST, errors.BAD_REQUEST),
        (b"GET /x\x7f HTTP/1.1", HOST, errors.BAD_REQUEST),
        # It also skips CR and LF in front of a method.
        (b"\nGET /x HTTP/1.1", HOST, errors.BAD_REQUEST),
        (b"\rTRACE /x HTTP/1.1", HOST, errors.BAD_REQUEST),
        (b"\n\nCONNECT /x HTTP/1.1", HOST, errors.BAD_REQUEST),
        (b"GET /\xc3\xa9 HTTP/1.1", HOST, errors.BAD_REQUEST),
        (b"GET * HTTP/1.1", HOST, errors.BAD_REQUEST),
        (b"GET http://b/ HTTP/1.1", HOST, errors.BAD_REQUEST),
        (b"GET http://a.example/ HTTP/1.1", b"", errors.BAD_REQUEST),
        (b"GET /x HTTP/1.1", HOST + b"A : b\r\n", errors.BAD_REQUEST),
        (b"GET /x HTTP/1.1", HOST + b"A: b\r\n c\r\n", errors.BAD_REQUEST),
        (b"GET /x HTTP/1.1", HOST + b"A: b\nC: d\r\n", errors.BAD_REQUEST),
        (b"GET /x HTTP/1.1", HOST + b"A: b\x00\r\n", errors.BAD_REQUEST),
        (b"POST /x HTTP/1.1", HOST + b"Content-Length: 010\r\n", errors.BAD_REQUEST),
        (b"POST /x HTTP/1.1", HOST + b"Content-Length: 5\r\nContent-Length: 5\r\n", errors.BAD_REQUEST),
        (b"POST /x HTTP/1.1", HOST + b"Content-Length: 5, 5\r\n", errors.BAD_REQUEST),
        (b"POST /x HTTP/1.1", HOST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", errors.BAD_REQUEST),
        (b"POST /x HTTP/1.0", HOST + b"Transfer-Encoding: chunked\r\n", errors.BAD_REQUEST),
        (b"POST /x HTTP/1.1", HOST + b"Transfer-Encoding: gzip, chunked\r\n", errors.CODING_UNKNOWN),
        (b"POST /x HTTP/1.1", HOST + b"Transfer-Encoding: ,chunked\r\n", errors.CODING_UNKNOWN),
        (
            b"POST /x HTTP/1.1",
            HOST + b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
            errors.CODING_UNKNOWN,
        ),
        (b"POST /x HTTP/1.1", HOST + b"Transfer_Encoding: chunked\r\n", errors.BAD_REQUEST),
        (b"POST /x HTTP/1.1", HOST + b"content_length: 1\r\n", errors.BAD_REQUEST),
        (b"POST /x HTTP/1.1", HOST + b"Content-Length: 1\r\nExpect: tea\r\n", errors.EXPECTATION_FAILED),
        (
            b"POST /x HTTP/1.1",
            HOST + b"Content-Length: 1\r\nExpect: 100-continue\r\nExpect: 100-continue\r\n",
            errors.EXPECTATION_FAILED,
        ),
        (
            b"GET /x HTTP/1.1",
            HOST + b"Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n",
            errors.BAD_REQUEST,
        ),
        (b"OPTIONS /x HTTP/1.1", HOST + b"Max-Forwards: x\r\n", errors.BAD_REQUEST),
    ],
)
def test_what_cannot_be_served_is_refused_with_its_outcome(line: bytes, lines: bytes, outcome: errors.Outcome) -> None:
    with pytest.raises(errors.ProtocolError) as refusal:
        parse(lines, line)
    assert refusal.value.outcome is outcome


def test_limits_are_counted_by_us() -> None:
    with pytest.raises(errors.ProtocolError) as refusal:
        parse(HOST, b"GET /" + b"x" * 100 + b" HTTP/1.1", uri_bytes=100)
    assert refusal.value.outcome is errors.URI_TOO_LONG
    assert parse(HOST + b"A: b\r\n" * 9, count=10).host == b"a.example"
    with pytest.raises(errors.ProtocolError) as refusal:
        parse(HOST + b"A: b\r\n" * 10, count=10)
    assert refusal.value.outcome is errors.HEAD_TOO_LARGE


def test_connection_and_all_that_it_names_is_cut_but_protected_fields_stay() -> None:
    head = parse(
        HOST
        + b"X-One: 1\r\nAuthorization: k\r\nConnection: close, x-one, authorization, host, @\r\nKeep-Alive: 5\r\n"
        + b"Proxy-Connection: close\r\nX-One: 2\r\n"
    )
    assert kept(head) == b"\r\nHost: a.example\r\nAuthorization: k"
    assert not head.keep_alive


def test_connection_names_trailer_fields_too() -> None:
    assert parse(HOST + b"Connection: close, X-Sum\r\nconnection:\tx-More \r\n").nominated == {
        b"close",
        b"x-sum",
        b"x-more",
    }
    assert not parse(HOST).nominated


def test_forwarding_fields_are_cut_and_remembered_and_their_twins_dropped() -> None:
    head = parse(
        HOST
        + b"X-Forwarded-For: 1.1.1.1\r\nX_Forwarded_For: 9.9.9.9\r\nForwarded: for=2\r\nVia: 1.0 a\r\nVia: 1.1 b\r\n"
    )
    assert kept(head) == b"\r\nHost: a.example"
    assert head.rare.forwarding == [(b"x-forwarded-for", b"1.1.1.1"), (b"forwarded", b"for=2")]
    assert head.rare.via == b"1.0 a, 1.1 b"


def test_a_valid_request_id_stays_and_any_other_is_cut() -> None:
    head = parse(HOST + b"X-Request-Id: abc-1\r\nX-Request-Id: second\r\n")
    assert head.request_id == b"abc-1"
    assert kept(head) == b"\r\nHost: a.example\r\nX-Request-Id: abc-1"
    head = parse(HOST + b"X-Request-Id: a b\r\n")
    assert head.request_id == b""
    assert kept(head) == b"\r\nHost: a.example"


def test_framing_is_read_and_written_anew() -> None:
    head = parse(HOST + b"Content-Length: 12\r\n", b"POST /x HTTP/1.1")
    assert (head.length, head.rare.rewritten_length, head.cuts) == (12, False, [])
    for value in (b"  12 ", b"12", b"12 ", b"\t12"):
        head = parse(HOST + b"Content-Length:" + value + b"\r\n", b"POST /x HTTP/1.1")
        assert (head.length, head.rare.rewritten_length) == (12, True)
        assert kept(head) == b"\r\nHost: a.example"
    head = parse(HOST + b"Transfer-Encoding: Chunked\r\n", b"POST /x HTTP/1.1")
    assert head.length == CHUNKED
    assert kept(head) == b"\r\nHost: a.example"


def test_http10_is_not_persistent_unless_it_asks() -> None:
    assert not parse(b"", b"GET /x HTTP/1.0").keep_alive
    assert parse(b"", b"GET /x HTTP/1.0").host == b""
    assert parse(b"Connection: keep-alive\r\n", b"GET /x HTTP/1.0").keep_alive


def test_only_websocket_is_an_upgrade_and_any_other_offer_is_dropped() -> None:
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: %b\r\nHTTP2-Settings: x\r\n"
    assert parse(HOST + offer % b"websocket").rare.upgrade
    for head in (
        parse(HOST + offer % b"h2c"),
        parse(HOST + b"Upgrade: websocket\r\n"),
        parse(HOST + offer % b"websocket", b"POST /x HTTP/1.1"),
        parse(HOST + offer % b"h2c" + b"Content-Length: 1\r\n", b"POST /x HTTP/1.1"),
    ):
        assert not head.rare.upgrade
        assert b"pgrade" not in kept(head)


def test_expect_travels_only_with_a_body() -> None:
    head = parse(HOST + b"Content-Length: 1\r\nExpect: 100-Continue\r\n", b"POST /x HTTP/1.1")
    assert head.rare.continues
    assert b"Expect" in kept(head)
    for head in (
        parse(HOST + b"Expect: 100-continue\r\n"),
        parse(HOST + b"Content-Length: 1\r\nExpect: 100-continue\r\n", b"POST /x HTTP/1.0"),
        parse(HOST + b"Content-Length: 1\r\nExpect: tea\r\nExpect: 100-continue\r\n", b"POST /x HTTP/1.0"),
    ):
        assert not head.rare.continues
        assert b"Expect" not in kept(head)


def test_te_trailers_is_remembered_and_every_te_cut() -> None:
    head = parse(HOST + b"TE: gzip, Trailers\r\nConnection: TE\r\n")
    assert head.rare.te_trailers
    assert kept(head) == b"\r\nHost: a.example"


def test_an_absolute_target_rules_over_host() -> None:
    head = parse(HOST, b"GET http://a.example/y?z HTTP/1.1")
    assert (head.target, head.host, head.rare.host_from_target) == (b"/y?z", b"a.example", False)
    head = parse(HOST, b"GET http://A.example/y?z HTTP/1.1")
    assert (head.host, head.host_field, head.rare.host_from_target) == (b"a.example", b"A.example", True)
    head = parse(b"", b"GET http://b.example/y HTTP/1.0")
    assert (head.host, head.rare.host_from_target) == (b"b.example", True)


def test_max_forwards_counts_for_options_only() -> None:
    assert parse(HOST + b"Max-Forwards: 3\r\n", b"OPTIONS * HTTP/1.1").rare.max_forwards == 3
    head = parse(HOST + b"Max-Forwards: 3\r\n")
    assert head.rare.max_forwards == -1
    assert b"Max-Forwards: 3" in kept(head)


def test_fields_path_and_query_are_there_for_routes_that_ask() -> None:
    head = parse(HOST + b"X-A: 1\r\nx-a:2 \r\nX-AB: 3\r\n", b"GET /a/../%62?q=1 HTTP/1.1")
    assert head.field(b"x-a") == [b"1", b"2"]
    assert (head.path, head.path, head.query) == (b"/b", b"/b", b"q=1")


@pytest.mark.parametrize("target", [b"/a%00b", b"/a%zz", b"/a%4", b"/a\\b", b"http://a.example/a%00"])
def test_a_path_without_a_normal_form_is_refused_though_no_route_asks_for_it(target: bytes) -> None:
    with pytest.raises(errors.ProtocolError) as refusal:
        parse(HOST, b"GET " + target + b" HTTP/1.1")
    assert refusal.value.outcome is errors.BAD_REQUEST


def test_odd_escapes_are_the_backends_matter_behind_the_question_mark() -> None:
    assert parse(HOST, b"GET /a?b=%zz&c=\\ HTTP/1.1").target == b"/a?b=%zz&c=\\"
    assert parse(HOST, b"GET /a%2fb%C3%a4 HTTP/1.1").target == b"/a%2fb%C3%a4"
