"""Plain heads: the compiled reader says what its twin says, and the twin what the full parsers say."""

import pytest
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, HttpResponseParser
from hypothesis import example, given
from hypothesis import strategies as st

from balancer.errors import ProtocolError
from balancer.http1 import plain_heads, request, response
from balancer.http1.message import NO_BODY, PLAIN, RequestHead, ResponseHead
from balancer.http1.plain_heads import plain_request, plain_request_twin, plain_response, plain_response_twin

URI_BYTES, HEADER_COUNT = 24, 6

NAMES = (
    b"Host content-length CONTENT_LENGTH Connection X-Request-Id x_request_id Date Accept X-A "
    b"Transfer-Encoding TE Upgrade Keep-Alive Proxy-Connection Expect Via Forwarded Max-Forwards X-Real-IP "
    b"X-Forwarded-For x-forwarded_proto"
).split()
VALUES = b" a.example|a:1 | 0| 7| 07|7| +7| 7 | 9999999999999999999| keep-alive|\tKeep-Alive | close| chunked"
VALUES += b"| 100-continue|| | id-1| i d| \x85| a\nb"
FIELD = st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES.split(b"|"))).map(b":".join)
ODD_LINE = st.sampled_from((b"no colon", b" folded: a", b":no name", b"a b: c", b"a: b\rc", b"a: \0"))
PLAIN_LINES = st.permutations(
    [b"Content-Length: 7", b"Connection: keep-alive", b"X-Request-Id: id-1", b"Date: now", b"Accept: a", b"ACCEPT:\t"]
)
REQUEST_LINE = st.just(b"GET / HTTP/1.1") | st.sampled_from(
    b"GET / HTTP/1.1|POST /a?b=c HTTP/1.1|PUT /a HTTP/1.1|GET /a\\b HTTP/1.1|GET * HTTP/1.1|OPTIONS / HTTP/1.1|"
    b"CONNECT / HTTP/1.1|GET / HTTP/1.0|get / HTTP/1.1|GET /aaaaaaaaaaaaaaaaaaaaaaaaa HTTP/1.1|GET /|".split(b"|")
)
STATUS_LINE = st.just(b"HTTP/1.1 200 OK") | st.sampled_from(
    b"HTTP/1.1 200 OK|HTTP/1.1 404 Not Found|HTTP/1.1 500 \tX|HTTP/1.1 200 |HTTP/1.1 200|HTTP/1.1 204 No Content|"
    b"HTTP/1.1 100 Continue|HTTP/1.1 304 Not Modified|HTTP/1.0 200 OK|HTTP/1.1 700 X|HTTP/1.1 200 \x85".split(b"|")
)


@st.composite
def heads(draw: st.DrawFn, first: st.SearchStrategy[bytes], always: list[bytes]) -> bytes:
    """A head that is often plain, and else nearly so."""
    lines = always + draw(PLAIN_LINES)[: draw(st.integers(0, HEADER_COUNT))]
    odd = draw(st.lists(FIELD | FIELD | FIELD | ODD_LINE, max_size=2))
    for line in odd:
        lines.insert(draw(st.integers(0, len(lines))), line)
    return b"\r\n".join([draw(first), *lines, b"", b""])


REQUESTS = heads(REQUEST_LINE, [b"Host: a.example"]) | heads(REQUEST_LINE, [])
RESPONSES = heads(STATUS_LINE, [b"content-length: 7"]) | heads(STATUS_LINE, [])


def neighbours(first: bytes, always: list[bytes], line: bytes) -> list[bytes]:
    """Every head that is one line, one value or one step over a limit away from a plain one."""
    values = VALUES.split(b"|")
    values += [b" " + b"i" * size for size in (127, 128, 129)] + [b" " + b"1" * size for size in (17, 18, 19)]
    fields = [b"%b:%b" % (name, value) for name in NAMES for value in values]
    fields += [b"%b: a" % (b"n" * size) for size in (19, 20, 21, 64)] + [b"%cx: a" % byte for byte in range(256)]
    found = [[first, *always, field] for field in fields] + [[first, field, *always] for field in fields]
    found += [[first, *always, field, field] for field in fields]
    found += [[first, *always, *[b"A: b"] * count] for count in (4, 5, 6, 7, 198, 199, 200, 201)]
    found += [[line % (b"a" * size), *always] for size in range(26)]
    found += [[first[:at] + b"%c" % byte + first[at + 1 :], *always] for at in range(len(first)) for byte in range(256)]
    found += [[b"HTTP/1.1 %d X" % status, *always] for status in range(100, 1000)]
    found += [[b"%b / HTTP/1.1" % (b"M" * size), *always] for size in (1, 19, 20, 21)]
    return [b"\r\n".join([*lines, b"", b""]) for lines in found]


NEAR_REQUESTS = neighbours(b"GET /x HTTP/1.1", [b"Host: a"], b"GET /%b HTTP/1.1")
NEAR_RESPONSES = neighbours(b"HTTP/1.1 200 OK", [b"Content-Length: 7"], b"HTTP/1.1 200 %b")


def valid(raw: bytes, parser: type[HttpRequestParser] | type[HttpResponseParser]) -> bool:
    """Whether llhttp takes it, which is asked before any of this."""
    try:
        parser(object()).feed_data(raw)
    except HttpParserUpgrade:
        return True
    except HttpParserError:
        return False
    return True


compiled = pytest.mark.skipif(not plain_heads.COMPILED, reason="the compiled reader was not built: no C compiler here")


@compiled
@given(REQUESTS | RESPONSES | st.binary(max_size=60))
@example(b"GET / HTTP/1.1\r\n\r\n")
@example(b"GET / HTTP/1.1\r\nHost: a\r\n")
@example(b"\r\n\r\n")
@example(b"")
def test_the_compiled_reader_says_what_its_twin_says(raw: bytes) -> None:
    for piece in (raw, raw[:-1], raw + b"\r\n", raw * 2):
        assert plain_request(piece, URI_BYTES, HEADER_COUNT) == plain_request_twin(piece, URI_BYTES, HEADER_COUNT)
        assert plain_response(piece) == plain_response_twin(piece)


@compiled
def test_the_compiled_reader_draws_every_line_where_its_twin_draws_it() -> None:
    for raw in NEAR_REQUESTS + NEAR_RESPONSES:
        assert plain_request(raw, URI_BYTES, HEADER_COUNT) == plain_request_twin(raw, URI_BYTES, HEADER_COUNT), raw
        assert plain_response(raw) == plain_response_twin(raw), raw


@compiled
@pytest.mark.parametrize("arguments", [(), (b"",), (b"", 1), (b"", 1, 1, 1), ("", 1, 1), (None, 1, 1), (b"", "1", 1)])
def test_the_compiled_reader_takes_bytes_and_two_numbers_only(arguments: tuple[object, ...]) -> None:
    with pytest.raises(TypeError):
        plain_request(*arguments)


@given(REQUESTS)
@example(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nContent-Length: 7\r\nX-Request-Id: i\r\n\r\n")
def test_a_plain_request_is_what_the_full_parser_makes_of_it(raw: bytes) -> None:
    compare_request(raw)


def test_no_request_is_plain_that_the_full_parser_reads_otherwise() -> None:
    for raw in NEAR_REQUESTS:
        if valid(raw, HttpRequestParser):
            compare_request(raw)


def compare_request(raw: bytes) -> None:
    plain = plain_request_twin(raw, URI_BYTES, HEADER_COUNT)
    if plain is None:
        return
    try:
        full = request._read_head(raw, URI_BYTES, HEADER_COUNT)
    except ProtocolError as error:  # what the caller checks after a plain head
        assert error.detail.startswith("Host")  # noqa: PT017
        return
    head = RequestHead(raw, *plain)
    said = (head.line_end, head.method, head.target, head.minor, head.host_field, head.request_id, head.length)
    assert said == (
        full.line_end, full.method, full.target, full.minor, full.host_field, full.request_id, full.length
    )  # fmt: skip
    assert head.cuts == full.cuts
    assert head.keep_alive == full.keep_alive
    rare = full.rare
    assert rare is PLAIN or all(getattr(rare, name) == getattr(PLAIN, name) for name in rare.__slots__)


@given(RESPONSES)
@example(b"HTTP/1.1 200 OK\r\nDate: now\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n")
def test_a_plain_response_is_what_the_full_parser_makes_of_it(raw: bytes) -> None:
    compare_response(raw)


def test_no_response_is_plain_that_the_full_parser_reads_otherwise() -> None:
    for raw in NEAR_RESPONSES:
        if valid(raw, HttpResponseParser):
            compare_response(raw)


def compare_response(raw: bytes) -> None:
    plain = plain_response_twin(raw)
    if plain is None:
        return
    full = response._read_head(raw, b"GET")
    status, line_end, length, cuts, has_date = plain
    head = ResponseHead(raw, status, line_end, raw[:line_end], length, cuts, has_date)
    for name in head.__slots__:
        assert getattr(head, name) == getattr(full, name), name


@pytest.mark.parametrize(
    ("lines", "length", "cuts"),
    [
        (b"Host: a\r\n", NO_BODY, []),
        (b"Host: a\r\nContent-Length: 12\r\n", 12, []),
        (b"Host: a\r\nConnection: Keep-Alive\r\nX: y\r\n", NO_BODY, [(24, 48)]),
    ],
)
def test_the_usual_heads_are_plain(lines: bytes, length: int, cuts: list[tuple[int, int]]) -> None:
    plain = plain_request_twin(b"GET /x HTTP/1.1\r\n" + lines + b"\r\n", 100, 10)
    assert plain is not None
    assert (plain[1], plain[2], plain[4], plain[6], plain[7]) == (b"GET", b"/x", b"a", length, cuts)
