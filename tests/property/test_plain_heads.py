"""Plain heads: both forms of the readers agree on any bytes, and with the full readers on every head that is plain."""

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.errors import ProtocolError
from balancer.http1 import plain_heads, request, response
from balancer.http1.message import RareFields
from balancer.http1.plain_heads import head_end_twin, plain_request_twin, plain_response_twin
from balancer.http1.target import check_host

URI_BYTES, HEADER_COUNT = 64, 5  # small, so that heads lie on both sides
QUICK, FULL = 50_000, 3_000_000

FIRST_LINES = {
    "request": (
        *(
            b"GET / HTTP/1.1",
            b"GET /%2fa%C3?b=c%0a HTTP/1.1",
            b"POST /x/y.z~|[] HTTP/1.1",
            b"DELETE //a/../b%2e HTTP/1.1",
        ),
        *(
            b"OPTIONS /x HTTP/1.1",
            b"TRACE / HTTP/1.1",
            b"PRI / HTTP/1.1",
            b"GET http://a/ HTTP/1.1",
            b"GET /# HTTP/1.1",
        ),
        *(b"GET /x HTTP/1.0", b"OPTIONS * HTTP/1.1", b"M-SEARCH / HTTP/1.1", b"HEAD /" + b"a" * 63 + b" HTTP/1.1"),
    ),
    "response": (
        *(b"HTTP/1.1 200 OK", b"HTTP/1.1 404 Not Found", b"HTTP/1.1 206 Partial Content", b"HTTP/1.1 599 \t"),
        *(b"HTTP/1.1 204 No Content", b"HTTP/1.1 304 Not Modified", b"HTTP/1.1 205 Reset", b"HTTP/1.1 101 Switching"),
        *(b"HTTP/1.0 200 OK", b"HTTP/1.1 200", b"HTTP/1.1 200 ", b"HTTP/1.1 200 \xc3\xa9", b"HTTP/1.1 600 X"),
    ),
}
PLAIN_LINES = (
    *(b"Host: a.example", b"Content-Length: 5", b"Connection: keep-alive", b"X-Request-Id: 3f._:/+=-Z", b"Date: Sat"),
    *(
        b"Accept: */*",
        b"user-agent:x",
        b"Cookie: \x85\xa0\xff",
        b"X-Empty:",
        b"Accept-Encoding: gzip, br ",
        b"X_A: \t b",
    ),
)
OTHER_LINES = (
    *(
        b"hOST:b:81",
        b"Host:",
        b"Host: a/b",
        b"Host: [::1]",
        b"Content-Length: 0",
        b"content-length:5",
        b"CONTENT-LENGTH: 05",
    ),
    *(b"Content-Length: 999999999999999999", b"Content-Length: 1234567890123456789", b"Content_Length: 5", b"Ho_st: x"),
    *(
        b"connection:KEEP-ALIVE\t",
        b"Connection: close",
        b"Connection: keep-alive, x-a",
        b"x-request-id: a b",
        b"X_Request_Id: a",
    ),
    *(
        b"X-Request-ID:" + b"a" * 129,
        b"Transfer-Encoding: chunked",
        b"Transfer_Encoding: chunked",
        b"TE: trailers",
        b"te:",
    ),
    *(
        b"Upgrade: websocket",
        b"Expect: 100-continue",
        b"Via: 1.1 x",
        b"Forwarded: for=x",
        b"Keep-Alive: 5",
        b"Max-Forwards: 1",
    ),
    *(b"Proxy-Connection: x", b"Proxy_Connection: x", b"X-Real-IP: x", b"X_Real_IP: x", b"X-Forwarded-For: x", b"via"),
    *(
        b"X-Forwarded-Proto: x",
        b"X_Forwarded_Host: x",
        b"X-Forwarded-Port: 1",
        b" folded",
        b": x",
        b"A b: c",
        b"date:",
        b"",
    ),
)
PIECES = (
    *(
        b"\r",
        b"\n",
        b"\r\n",
        b"\0",
        b" ",
        b"\t",
        b":",
        b"_",
        b"-",
        b"#",
        b"%",
        b"%00",
        b"%4",
        b"\\",
        b"\x7f",
        b"\x80",
        b"0",
        b"a",
        b"\r\n\r\n",
    ),
)


@given(data=st.binary(max_size=12) | st.text(alphabet="\r\na", max_size=24).map(str.encode), offset=st.integers(0, 30))
def test_both_forms_find_the_same_end_of_a_head(data: bytes, offset: int) -> None:
    assert plain_heads.head_end(data, offset) == head_end_twin(data, offset)


def check_request(raw: bytes) -> bool:
    """Whether the head is plain, after every form was asked."""
    twin = plain_request_twin(raw, URI_BYTES, HEADER_COUNT)
    assert plain_heads.plain_request(raw, URI_BYTES, HEADER_COUNT) == twin, raw
    if twin is None:
        return False
    line_end, method, target, minor, host_field, request_id, length, cuts = twin
    try:
        host = check_host(host_field)
    except ProtocolError as error:
        with pytest.raises(ProtocolError, match=re.escape(str(error))):
            request._read_head(raw, URI_BYTES, HEADER_COUNT)
        return True
    head = request._read_head(raw, URI_BYTES, HEADER_COUNT)
    assert (head.line_end, head.method, head.target, head.minor) == (line_end, method, target, minor), raw
    assert (head.host_field, head.host, head.request_id) == (host_field, host, request_id), raw
    assert (head.length, head.cuts, head.keep_alive) == (length, cuts, True), raw
    said = {name: getattr(head.rare, name) for name in RareFields.__slots__}
    assert said == {name: getattr(RareFields(), name) for name in RareFields.__slots__}, raw
    return True


def check_response(raw: bytes) -> bool:
    """As check_request."""
    twin = plain_response_twin(raw)
    compiled = plain_heads.plain_response(raw)
    assert compiled == twin, raw
    if twin is None or compiled is None:
        return False
    status, line_end, length, cuts, has_date = twin
    assert compiled[4] is has_date
    head = response._read_head(raw, b"GET")
    assert (head.status, head.line_end, head.length, head.cuts) == (status, line_end, length, cuts), raw
    assert (head.has_date, head.keep_alive, head.status_line) == (has_date, True, raw[:line_end]), raw
    assert (head.upgrade, head.rewritten_length) == (b"", False), raw
    return True


def head_of(rng: random.Random, kind: str) -> bytes:
    """A head that is plain in about a third of all cases, and near to it in most."""
    lines = [*rng.sample(PLAIN_LINES[2:], rng.randrange(6)), PLAIN_LINES[kind == "response"]]
    if rng.random() < 0.3:
        lines.append(rng.choice(PLAIN_LINES))
    if rng.random() < 0.4:
        lines.append(rng.choice(OTHER_LINES))
    rng.shuffle(lines)
    first = FIRST_LINES[kind][rng.randrange(4)] if rng.random() < 0.8 else rng.choice(FIRST_LINES[kind])
    raw = b"\r\n".join([first, *lines, b"", b""])
    while rng.random() < 0.4:
        at = rng.randrange(len(raw))
        replaced = rng.randrange(3)
        piece = rng.choice(PIECES) if rng.random() < 0.7 else rng.randbytes(1)
        raw = raw[:at] + piece + raw[at + replaced :]
    return raw


def campaign(seed: int, heads: int) -> None:
    """Both kinds, many times; the shares say that the generator still makes both sides."""
    rng = random.Random(seed)
    for kind, check in (("request", check_request), ("response", check_response)):
        plain = sum(check(head_of(rng, kind)) for _ in range(heads // 2))
        assert heads // 2 * 0.2 < plain < heads // 2 * 0.7, kind


def test_the_readers_agree_on_many_heads() -> None:
    campaign(20261121, QUICK)


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_the_readers_agree_on_very_many_heads() -> None:
    campaign(7, FULL)


LINE = st.one_of(
    st.sampled_from(PLAIN_LINES + OTHER_LINES),
    st.builds(
        lambda name, value: name + b":" + value, st.sampled_from([b"x", b"host", b"date"]), st.binary(max_size=12)
    ),
)


@pytest.mark.parametrize("kind", ["request", "response"])
@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_the_readers_agree_on_any_lines(kind: str, data: st.DataObject) -> None:
    first = data.draw(st.sampled_from(FIRST_LINES[kind]) | st.binary(max_size=30))
    raw = b"\r\n".join([first, *data.draw(st.lists(LINE, max_size=10)), b"", b""])
    check_request(raw)
    check_response(raw)


@given(st.binary(max_size=80), st.sampled_from([b"", b"\r\n\r\n", b"\r\n\r\n\r\n\r\n"]))
@settings(max_examples=300, deadline=None)
def test_the_readers_agree_on_any_bytes(data: bytes, tail: bytes) -> None:
    for start in (
        b"",
        b"GET / HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n",
    ):
        check_request(start + data + tail)
        check_response(start + data + tail)
