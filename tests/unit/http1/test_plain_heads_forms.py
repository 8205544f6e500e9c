"""Plain heads: which heads are plain, what is read in them, and the same from both forms of the readers."""

import sys
from collections.abc import Callable
from typing import Any

import pytest

from balancer.http1 import plain_heads, response
from balancer.http1.plain_heads import (
    PlainRequest,
    PlainResponse,
    head_end_twin,
    plain_request_twin,
    plain_response_twin,
)
from tests.support.programs import in_ci

HOST = b"Host: a.example\r\n"
LENGTH = b"Content-Length: 5\r\n"

ReadRequest = Callable[[bytes, int, int], PlainRequest | None]
ReadResponse = Callable[[bytes], PlainResponse | None]

needs_compiled = pytest.mark.skipif(not plain_heads.COMPILED, reason="balancer.http1._plain_heads is not built")
FORMS = ["twin", pytest.param("compiled", marks=needs_compiled)]


@pytest.fixture(params=FORMS)
def read_request(request: pytest.FixtureRequest) -> ReadRequest:
    return plain_request_twin if request.param == "twin" else plain_heads.plain_request


@pytest.fixture(params=FORMS)
def read_response(request: pytest.FixtureRequest) -> ReadResponse:
    return plain_response_twin if request.param == "twin" else plain_heads.plain_response


def request_with(lines: bytes = HOST, line: bytes = b"GET /x HTTP/1.1") -> bytes:
    return line + b"\r\n" + lines + b"\r\n"


def response_with(lines: bytes = LENGTH, line: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return line + b"\r\n" + lines + b"\r\n"


def test_continuous_integration_runs_the_compiled_form() -> None:
    """Without a compiler an install goes on in silence; here that would leave the compiled form untested."""
    assert plain_heads.COMPILED or not in_ci(), "not built: install a C compiler and Python's headers"


def test_the_names_are_those_of_the_compiled_form_where_there_is_one() -> None:
    names = (plain_heads.plain_request, plain_heads.plain_response)
    twins = (plain_request_twin, plain_response_twin)
    assert (names == twins) is not plain_heads.COMPILED


@pytest.mark.parametrize("form", FORMS)
def test_the_end_of_a_head_is_that_of_the_first_empty_line(form: str) -> None:
    head_end = head_end_twin if form == "twin" else plain_heads.head_end
    data = b"\r\nA\r\n\r\n\r\n\r\nB\r\r\n\r"
    assert [head_end(data, offset) for offset in (0, 3, 4, 5, 6, 7, 8, 9, 99)] == [7, 7, 9, 9, 11, 11, -1, -1, -1]
    assert head_end(b"", 0) == -1


@needs_compiled
def test_the_compiled_form_refuses_what_is_no_place_in_bytes() -> None:
    wrong: list[tuple[Any, ...]] = [(b"", "0"), ("", 0), (b"",)]
    for arguments in wrong:
        with pytest.raises(TypeError):
            plain_heads.head_end(*arguments)
    with pytest.raises(ValueError, match="not negative"):
        plain_heads.head_end(b"", -1)


def test_the_bound_on_fields_is_that_of_the_full_reader() -> None:
    assert plain_heads.RESPONSE_FIELDS == response.HEADER_COUNT


def test_a_plain_request_is_read(read_request: ReadRequest) -> None:
    raw = request_with(
        b"hOsT:a.Example:81 \t\r\nX-A:  b\t\r\nConnection: Keep-Alive\r\nCookie: \x85\xa0\r\nX-Empty:\r\n"
        b"X-Request-Id: Az09._:/+=-\r\nContent-Length: 17\r\nDate: x\r\nX_A: b\r\n",
        b'POST /a?b=%20|"{}~! HTTP/1.1',
    )
    start = raw.index(b"\r\nConnection")
    assert read_request(raw, 8192, 100) == (
        raw.index(b"\r\n"),
        b"POST",
        b'/a?b=%20|"{}~!',
        1,
        b"a.Example:81",
        b"Az09._:/+=-",
        17,
        [(start, start + len(b"\r\nConnection: Keep-Alive"))],
    )


def test_what_a_request_does_not_say_is_empty(read_request: ReadRequest) -> None:
    assert read_request(request_with(), 8192, 100) == (15, b"GET", b"/x", 1, b"a.example", b"", 0, [])


@pytest.mark.parametrize(
    "line",
    [
        b"CONNECT /x HTTP/1.1",
        b"TRACE /x HTTP/1.1",
        b"OPTIONS /x HTTP/1.1",
        b"PRI /x HTTP/1.1",
        b"M-SEARCH /x HTTP/1.1",
        b"get /x HTTP/1.1",
        b"A" * 21 + b" /x HTTP/1.1",
        b" GET /x HTTP/1.1",
        b"\r\nGET /x HTTP/1.1",
        b"\nGET /x HTTP/1.1",
        b" /x HTTP/1.1",
        b"/x HTTP/1.1",
        b"GET",
        b"GET ",
        b"GET /x",
        b"GET /x ",
        b"GET  /x HTTP/1.1",
        b"GET /x  HTTP/1.1",
        b"GET /x HTTP/1.1 ",
        b"GET /x HTTP/1.0",
        b"GET /x HTTP/1.10",
        b"GET /x HTTP/2.0",
        b"GET /x http/1.1",
        b"GET\t/x HTTP/1.1",
        b"GET x HTTP/1.1",
        b"GET * HTTP/1.1",
        b"GET http://a.example/ HTTP/1.1",
        b"GET /x#f HTTP/1.1",
        b"GET /x\\y HTTP/1.1",
        b"GET /x\x00 HTTP/1.1",
        b"GET /x\x7f HTTP/1.1",
        b"GET /\xc3\xa9 HTTP/1.1",
        b"GET /x\nA:/ HTTP/1.1",
        b"GET /x\rHTTP/1.1",
        b"",
    ],
)
def test_a_request_line_of_another_form_is_not_plain(read_request: ReadRequest, line: bytes) -> None:
    assert read_request(request_with(line=line), 8192, 100) is None


@pytest.mark.parametrize(
    "lines",
    [
        b"",
        b"Host:\r\n",
        b"Host: \t\r\n",
        HOST + HOST,
        b"Host : a\r\n",
        b" Host: a\r\n",
        b"Host\r\n",
        b": a\r\n" + HOST,
        b"A b: c\r\n" + HOST,
        b"A(: c\r\n" + HOST,
        b"\xc3: c\r\n" + HOST,
        HOST + b" folded\r\n",
        HOST + b"\tfolded\r\n",
        HOST + b"X: a\x00b\r\n",
        HOST + b"X: a\rb\r\n",
        HOST + b"X: a\r\r\n",
        HOST + b"X: a\nb\r\n",
        HOST + b"X: a\n",
        b"\n" + HOST,
        HOST + b"\r\n",
        HOST + b"\r\n\r\n",
        HOST + b"\r\nbody",
        *(
            HOST + b"X-Request-Id:" + value + b"\r\n"
            for value in (b"", b" ", b" a b", b" a,b", b" \xc3", b" " + b"a" * 129)
        ),
        HOST + 2 * b"X-Request-Id: a\r\n",
        *(
            HOST + b"Connection:" + value + b"\r\n"
            for value in (b"", b" close", b" keep-alive, x", b" keep_alive", b" x")
        ),
        HOST + 2 * b"Connection: keep-alive\r\n",
        *(
            HOST + b"Content-Length" + text + b"\r\n"
            for text in (b":5", b":  5", b":\t5", b": 5 ", b": 05", b": 00", b": +5", b": -5", b": 5_0", b": 5,5", b":")
        ),
        *(
            HOST + b"Content-Length: " + value + b"\r\n"
            for value in (b"", b"5 5", b"0x5", b"1" * 19, b"\xb2", b"5\x00")
        ),
        HOST + LENGTH + LENGTH,
        HOST + b"Content_Length: 5\r\n",
        HOST + b"X_Request-Id: a\r\n",
        HOST + b"X_Request_Id: a\r\n",
    ],
)
def test_fields_of_another_form_are_not_plain(read_request: ReadRequest, lines: bytes) -> None:
    assert read_request(request_with(lines), 8192, 100) is None


RARE_IN_BOTH = ["transfer-encoding", "te", "upgrade", "keep-alive", "proxy-connection"]
RARE_IN_REQUESTS = [
    *("expect", "via", "forwarded", "max-forwards", "x-real-ip"),
    *("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port"),
]


@pytest.mark.parametrize("name", RARE_IN_BOTH + RARE_IN_REQUESTS)
def test_fields_that_ask_for_thought_are_not_plain(
    read_request: ReadRequest, read_response: ReadResponse, name: str
) -> None:
    for spelling in {name, name.upper(), name.title(), name.replace("-", "_"), name.replace("-", "_", 1)}:
        line = spelling.encode() + b": 1\r\n"
        assert read_request(request_with(HOST + line), 8192, 100) is None, spelling
        rare = name in RARE_IN_BOTH and "_" not in spelling
        assert (read_response(response_with(LENGTH + line)) is None) is rare, spelling


@pytest.mark.parametrize(
    "name", [*RARE_IN_BOTH, *RARE_IN_REQUESTS, "host", "connection", "content-length", "x-request-id"]
)
def test_names_that_only_resemble_ours_are_plain(
    read_request: ReadRequest, read_response: ReadResponse, name: str
) -> None:
    for spelling in (f"x{name}", f"{name}x", f"{name}-", name.replace("-", ".") + ".", f"a-{name}-and-a-long-tail"):
        line = spelling.encode() + b": , \r\n"
        assert read_request(request_with(HOST + line), 8192, 100) is not None, spelling
        assert read_response(response_with(LENGTH + line)) is not None, spelling


def test_bounds_are_inclusive(read_request: ReadRequest, read_response: ReadResponse) -> None:
    raw = request_with(HOST + b"X: y\r\n", b"GET /abc HTTP/1.1")
    assert read_request(raw, 4, 2) is not None
    assert read_request(raw, 3, 2) is None
    assert read_request(raw, 4, 1) is None
    assert read_request(raw, -1, 2) is None
    assert read_request(raw, 4, -sys.maxsize - 1) is None
    longest = request_with(HOST + b"X-Request-Id: " + b"a" * 128 + b"\r\n", b"A" * 20 + b" / HTTP/1.1")
    assert (read_request(longest, 1, 2) or ())[1:6:4] == (b"A" * 20, b"a" * 128)
    most = response_with(LENGTH + b"X: y\r\n" * 199)
    assert read_response(most) is not None
    assert read_response(most[:-2] + b"X: y\r\n\r\n") is None


@pytest.mark.parametrize("number", [0, 1, 10, 10**18 - 1])
def test_a_length_is_read(read_request: ReadRequest, read_response: ReadResponse, number: int) -> None:
    line = b"content-length: %d\r\n" % number
    request = read_request(request_with(HOST + line), 8192, 100)
    answer = read_response(response_with(line))
    assert request is not None
    assert answer is not None
    assert (request[6], answer[2]) == (number, number)


def test_a_plain_response_is_read(read_response: ReadResponse) -> None:
    raw = response_with(b"Server:x\r\nCONNECTION:keep-alive \r\ndATE: \r\n" + LENGTH, b"HTTP/1.1 404 Not \t~Found")
    start = raw.index(b"\r\nCONN")
    assert read_response(raw) == (404, 24, 5, [(start, start + len(b"\r\nCONNECTION:keep-alive "))], True)
    assert read_response(response_with()) == (200, 15, 5, [], False)


def test_fields_of_requests_mean_nothing_in_a_response(read_response: ReadResponse) -> None:
    lines = b"Host:\r\nHost: a\r\nX-Request-Id: a b\r\nX-Request-Id:\r\nVia: x\r\nExpect: y\r\ndate_: z\r\n"
    assert read_response(response_with(lines + LENGTH)) == (200, 15, 5, [], False)


@pytest.mark.parametrize(
    "line",
    [
        *(b"HTTP/1.1 %d X" % status for status in (100, 101, 103, 199, 204, 205, 304, 600, 999)),
        b"HTTP/1.0 200 OK",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 ",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 2:0 OK",
        b"HTTP/1.1  200 OK",
        b"HTTP/1.1 200\tOK",
        b"HTTP/1.1 200 \xc3\xa9",
        b"HTTP/1.1 200 O\x7f",
        b"HTTP/1.1 200 O\x00",
        b"HTTP/1.1 200 O\nK",
        b"HTTP/1.1 200 O\rK",
        b"http/1.1 200 OK",
        b" HTTP/1.1 200 OK",
        b"ICY 200 OK",
        b"",
    ],
)
def test_a_status_line_of_another_form_is_not_plain(read_response: ReadResponse, line: bytes) -> None:
    assert read_response(response_with(line=line)) is None


@pytest.mark.parametrize("status", [200, 206, 301, 303, 305, 404, 500, 599])
def test_a_status_with_a_body_is_plain(read_response: ReadResponse, status: int) -> None:
    assert (read_response(response_with(line=b"HTTP/1.1 %d X" % status)) or ())[0] == status


@pytest.mark.parametrize(
    "lines",
    [
        b"",
        b"X: y\r\n",
        LENGTH + LENGTH,
        b"Content_Length: 5\r\n",
        b"Content-Length:5\r\n",
        LENGTH + b"Connection: close\r\n",
    ],
)
def test_a_response_without_one_plain_length_is_not_plain(read_response: ReadResponse, lines: bytes) -> None:
    assert read_response(response_with(lines)) is None


def test_a_head_that_ends_early_is_not_plain(read_request: ReadRequest, read_response: ReadResponse) -> None:
    question, answer = request_with(HOST + LENGTH), response_with(LENGTH + b"X: y\r\n")
    assert all(read_request(question[:end], 8192, 100) is None for end in range(len(question)))
    assert all(read_response(answer[:end]) is None for end in range(len(answer)))


@needs_compiled
def test_the_compiled_form_refuses_what_is_not_bytes_and_small_integers() -> None:
    read_request: Any = plain_heads.plain_request
    read_response: Any = plain_heads.plain_response
    for raw in ("GET / HTTP/1.1\r\n\r\n", bytearray(request_with()), memoryview(request_with()), None):
        with pytest.raises(TypeError, match="bytes"):
            read_request(raw, 8192, 100)
        with pytest.raises(TypeError, match="bytes"):
            read_response(raw)
    with pytest.raises(TypeError):
        read_request(request_with(), 8192)
    with pytest.raises(TypeError):
        read_request(request_with(), "8192", 100)
    with pytest.raises(OverflowError):
        read_request(request_with(), 2**64, 100)
    with pytest.raises(OverflowError):
        read_request(request_with(), 8192, -(2**64))


@needs_compiled
def test_the_compiled_form_keeps_nothing() -> None:
    keep_alive = b"Connection: keep-alive\r\n"
    heads = [request_with(HOST + LENGTH + keep_alive + b"X-Request-Id: abc\r\n"), request_with(b"X: y\r\n")]
    answers = [response_with(LENGTH + keep_alive, b"HTTP/1.1 404 No"), response_with(b"Te: y\r\n")]

    def read(times: int) -> int:
        for _ in range(times):
            for raw in heads:
                plain_heads.plain_request(raw, 8192, 100)
            for raw in answers:
                plain_heads.plain_response(raw)
        return sys.getallocatedblocks()

    before = read(100)
    assert read(5_000) - before < 1_000
