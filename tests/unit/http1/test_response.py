"""Response heads: framing by status and method, what is cut, what puts the end of the message in doubt."""

import pytest

from balancer import errors
from balancer.http1.forwarding import remaining_lines
from balancer.http1.message import CHUNKED, NO_BODY, UNTIL_CLOSE, ResponseHead
from balancer.http1.response import parse_response_head


def parse(lines: bytes, line: bytes = b"HTTP/1.1 200 OK", method: bytes = b"GET") -> ResponseHead:
    return parse_response_head(line + b"\r\n" + lines + b"\r\n", method)


def kept(head: ResponseHead) -> bytes:
    return remaining_lines(head.raw, head.line_end, head.cuts)


@pytest.mark.parametrize(
    ("line", "lines", "method", "length", "keep_alive"),
    [
        (b"HTTP/1.1 200 OK", b"Content-Length: 5\r\n", b"GET", 5, True),
        (b"HTTP/1.1 200 OK", b"Content-Length: 5\r\nConnection: close\r\n", b"GET", 5, False),
        (b"HTTP/1.0 200 OK", b"Content-Length: 5\r\n", b"GET", 5, False),
        (b"HTTP/1.0 200 OK", b"Content-Length: 5\r\nConnection: keep-alive\r\n", b"GET", 5, True),
        (b"HTTP/1.0 200 OK", b"Content-Length: 5\r\nConnection: x, keep-alive\r\n", b"GET", 5, True),
        (b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked\r\n", b"GET", CHUNKED, True),
        (b"HTTP/1.1 200 OK", b"", b"GET", UNTIL_CLOSE, False),
        (b"HTTP/1.1 200 OK", b"Content-Length: 5\r\n", b"HEAD", NO_BODY, True),
        (b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked\r\n", b"HEAD", NO_BODY, True),
        (b"HTTP/1.1 200 OK", b"", b"HEAD", NO_BODY, True),
        (b"HTTP/1.1 304 Not Modified", b"Content-Length: 5\r\n", b"GET", NO_BODY, True),
        (b"HTTP/1.1 204 No Content", b"", b"GET", NO_BODY, True),
        (b"HTTP/1.1 204 No Content", b"Content-Length: 0\r\n", b"GET", NO_BODY, True),
        (b"HTTP/1.1 204 No Content", b"Transfer-Encoding: chunked\r\n", b"GET", NO_BODY, False),
        (b"HTTP/1.1 205 Reset Content", b"", b"GET", NO_BODY, False),
        (b"HTTP/1.1 103 Early Hints", b"Link: x\r\n", b"GET", NO_BODY, True),
    ],
)
def test_where_a_response_ends(line: bytes, lines: bytes, method: bytes, length: int, keep_alive: bool) -> None:
    head = parse(lines, line, method)
    assert (head.length, head.keep_alive) == (length, keep_alive)


@pytest.mark.parametrize(
    ("line", "lines"),
    [
        (b"HTTP/2.0 200 OK", b""),
        (b"HTTP/1.1 20 OK", b""),
        (b"HTTP/1.1 099 OK", b""),
        (b"HTTP/1.1 000 OK", b""),
        (b"HTTP/1.1 200 O\x00K", b""),
        (b"HTTP/1.1 200 O\x01K", b""),
        (b"HTTP/1.1 200 OK\x7f", b""),
        (b"HTTP/1.1 200 OK", b"Content-Length: 5\r\nContent-Length: 5\r\n"),
        (b"HTTP/1.1 200 OK", b"Content-Length: 05\r\n"),
        (b"HTTP/1.1 200 OK", b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
        (b"HTTP/1.1 200 OK", b"Transfer-Encoding: gzip, chunked\r\n"),
        (b"HTTP/1.1 200 OK", b"Transfer-Encoding: ,chunked\r\n"),
        (b"HTTP/1.0 200 OK", b"Transfer-Encoding: chunked\r\n"),
        (b"HTTP/1.1 200 OK", b"A : b\r\n"),
        (b"HTTP/1.1 200 OK", b"A: b\x00\r\n"),
        (b"HTTP/1.1 205 Reset Content", b"Content-Length: 3\r\n"),
        (b"HTTP/1.1 204 No Content", b"Content-Length: 3\r\n"),
    ],
)
def test_doubt_about_the_end_is_a_bad_response(line: bytes, lines: bytes) -> None:
    with pytest.raises(errors.ProtocolError) as refusal:
        parse(lines, line)
    assert refusal.value.outcome is errors.BAD_RESPONSE


def test_too_many_fields_are_refused() -> None:
    with pytest.raises(errors.ProtocolError) as refusal:
        parse(b"A: b\r\n" * 201)
    assert refusal.value.outcome is errors.RESPONSE_HEAD_TOO_LARGE


def test_hop_by_hop_and_named_fields_are_cut() -> None:
    head = parse(
        b"Server: s\r\nX-Hop: 1\r\nConnection: X-Hop, Cache-Control\r\nKeep-Alive: timeout=5\r\n"
        b"Cache-Control: no-store\r\n"
        b"Date: d\r\nContent-Length: 5\r\n"
    )
    assert kept(head) == b"\r\nServer: s\r\nCache-Control: no-store\r\nDate: d\r\nContent-Length: 5"
    assert head.has_date


@pytest.mark.parametrize("value", [b" 5 ", b"5", b"5 ", b"\t5", b"  5"])
def test_a_length_that_is_not_canonical_is_written_anew(value: bytes) -> None:
    head = parse(b"Content-Length:" + value + b"\r\n")
    assert (head.length, head.rewritten_length) == (5, True)
    assert kept(head) == b""


def test_a_length_that_frames_nothing_stays_as_it_came() -> None:
    for head in (
        parse(b"X: 1\r\ncontent-length:5 \r\n", method=b"HEAD"),
        parse(b"X: 1\r\ncontent-length:5 \r\n", b"HTTP/1.1 304 Not Modified"),
    ):
        assert (head.length, head.rewritten_length) == (NO_BODY, False)
        assert kept(head) == b"\r\nX: 1\r\ncontent-length:5 "


def test_close_is_final_on_whatever_line_it_stands() -> None:
    for lines in (b"close\r\nConnection: keep-alive", b"keep-alive\r\nConnection: x, close", b"Close\r\nConnection: x"):
        assert not parse(b"Content-Length: 5\r\nConnection: " + lines + b"\r\n").keep_alive


def test_framing_of_messages_without_a_body_is_dropped() -> None:
    assert kept(parse(b"Transfer-Encoding: chunked\r\nA: b\r\n", b"HTTP/1.1 204 No Content")) == b"\r\nA: b"
    assert kept(parse(b"Content-Length: 5\r\nA: b\r\n", b"HTTP/1.1 102 Processing")) == b"\r\nA: b"
    assert kept(parse(b"Transfer-Encoding: chunked\r\nA: b\r\n", method=b"HEAD")) == b"\r\nA: b"
    assert kept(parse(b"Content-Length: 5\r\n", method=b"HEAD")) == b"\r\nContent-Length: 5"


def test_101_is_parsed_with_its_upgrade() -> None:
    head = parse(b"Upgrade: WebSocket\r\nConnection: Upgrade\r\n", b"HTTP/1.1 101 Switching Protocols")
    assert (head.status, head.upgrade) == (101, b"websocket")


def test_two_lines_of_upgrade_are_one_list() -> None:
    line = b"HTTP/1.1 101 Switching Protocols"
    assert parse(b"Connection: upgrade\r\nUpgrade: h2c\r\nUpgrade: websocket\r\n", line).upgrade == b"h2c,websocket"


@pytest.mark.parametrize(
    ("line", "out"),
    [
        (b"HTTP/1.1 200 Fine", b"HTTP/1.1 200 Fine"),
        (b"HTTP/1.0 404 Gone Fishing", b"HTTP/1.1 404 Gone Fishing"),
        (b"HTTP/1.1 404 ", b"HTTP/1.1 404 Not Found"),
        (b"HTTP/1.1 404", b"HTTP/1.1 404 Not Found"),
        (b"HTTP/1.1 299 ", b"HTTP/1.1 299 Unknown"),
        (b"HTTP/1.1 200 \xe9", b"HTTP/1.1 200 OK"),
        (b"HTTP/1.1 200 Not\tOK", b"HTTP/1.1 200 Not\tOK"),
        (b"HTTP/1.0 200 OK", b"HTTP/1.1 200 OK"),
    ],
)
def test_the_status_line_is_ours_with_the_backends_reason(line: bytes, out: bytes) -> None:
    assert parse(b"", line).status_line == out
