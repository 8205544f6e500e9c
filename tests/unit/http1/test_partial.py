"""Heads in pieces: kept, given back whole, or refused at the first byte that settles it, however they are cut."""

import pytest

from balancer import errors
from balancer.http1.partial import PartialRequest, PartialResponse

LIMIT = 2048
URI = 100


def feed(partial: PartialRequest | PartialResponse, data: bytes, step: int) -> bytes | errors.Outcome | None:
    whole = None
    for start in range(0, len(data), step):
        try:
            whole = partial.add(data[start : start + step])
        except errors.ProtocolError as refusal:
            return refusal.outcome
    return whole


@pytest.mark.parametrize("step", [1, 3, 10_000])
@pytest.mark.parametrize(
    ("data", "outcome"),
    [
        (b"GET /x HTTP/1.1\n", errors.BAD_REQUEST),
        (b"GET /x HTTP/1.1\r\nA: b\n", errors.BAD_REQUEST),
        (b"GET /x HTTP/1.1\r\nA: b\r\nC\n", errors.BAD_REQUEST),
        (b"GET /x\r\n", errors.BAD_REQUEST),
        (b"\x16\x03\x01\x02", errors.BAD_REQUEST),
        (b"GET /" + b"x" * 200, errors.URI_TOO_LONG),
        (b"GET /" + b"x" * 5000, errors.URI_TOO_LONG),
        (b"GET /" + b"x" * 200 + b" HTTP/1.1\r\nA: b", errors.URI_TOO_LONG),
        (b"GET /x HTTP/1.1\r\nA: " + b"b" * 3000, errors.HEAD_TOO_LARGE),
        (b"GET /x HTTP/1.1\r\nA: b", None),
        (b"M" * 500, errors.METHOD_UNKNOWN),
        (b"M" * 500 + b" /x HTTP/1.1\r\nA: b", errors.METHOD_UNKNOWN),
        (b"M" * 20 + b" /x HTTP/1.1\r\nA: b", None),  # judged with the rest of its head
        (b"GE", None),
        (b"\r", None),
        (b"GET /x HTTP/9.9\r", None),
    ],
)
def test_a_beginning_that_cannot_become_a_request_is_refused_at_once(
    data: bytes, outcome: errors.Outcome | None, step: int
) -> None:
    assert feed(PartialRequest(LIMIT, URI), data, step) is outcome


@pytest.mark.parametrize("step", [1, 2, 5])
def test_a_whole_request_comes_back_as_it_was_sent(step: int) -> None:
    head = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
    assert feed(PartialRequest(LIMIT, URI), head, step) is not None
    assert feed(PartialRequest(LIMIT, URI), head, 1) == head
    assert feed(PartialRequest(LIMIT, URI), b"\r\n", 1) == b"\r\n"


@pytest.mark.parametrize("step", [1, 3, 10_000])
@pytest.mark.parametrize(
    ("data", "outcome"),
    [
        (b"SSH-2.0", errors.BAD_RESPONSE),
        (b"HTTQ", errors.BAD_RESPONSE),
        (b"HTTP/1.1 200 OK\n", errors.BAD_RESPONSE),
        (b"HTTP/1.1 200 OK\r\nA: b\n\n", errors.BAD_RESPONSE),
        (b"HTTP/1.1 200 OK\r\nA: " + b"b" * 3000, errors.RESPONSE_HEAD_TOO_LARGE),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n", None),
        (b"HT", None),
    ],
)
def test_a_beginning_that_cannot_become_a_response_is_refused_at_once(
    data: bytes, outcome: errors.Outcome | None, step: int
) -> None:
    assert feed(PartialResponse(LIMIT), data, step) is outcome


def test_a_whole_response_comes_back_as_it_was_sent() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    assert feed(PartialResponse(LIMIT), head, 1) == head
