"""Answers of our own, read back by another parser."""

import json

import h11
import pytest

from balancer.errors import OUTCOMES
from balancer.http1.answers import REASONS, STATUS_LINE, answer, prefers_json

FINAL = [status for status in REASONS if status >= 200]


def read(wire: bytes, method: str = "GET") -> tuple[h11.Response, dict[bytes, bytes], bytes]:
    """The response as h11 understands it: head, fields, body; it must be complete, with nothing behind it."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(wire)
    response = connection.next_event()
    assert isinstance(response, h11.Response)
    body = b""
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        assert isinstance(event, h11.Data)
        body += bytes(event.data)
    assert connection.trailing_data[0] == b""
    return response, dict(response.headers), body


@pytest.mark.parametrize("status", FINAL)
@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_every_answer_is_complete_and_says_its_length(status: int, as_json: bool, method: str) -> None:
    response, fields, body = read(answer(status, json=as_json, head=method == "HEAD"), method)
    assert response.status_code == status
    assert response.reason == REASONS[status]
    whole = read(answer(status, json=as_json))[2]
    assert body == (b"" if method == "HEAD" else whole)
    if status in (204, 304):
        assert b"content-length" not in fields
        assert b"content-type" not in fields
        assert whole == b""
    else:
        assert fields[b"content-length"] == b"%d" % len(whole)
        assert (status == 205) == (whole == b"")


def test_the_default_body_is_the_status_in_words() -> None:
    _, fields, body = read(answer(404))
    assert body == b"404 Not Found\n"
    assert fields[b"content-type"] == b"text/plain; charset=utf-8"


@pytest.mark.parametrize("status", sorted(set(FINAL) - {204, 205, 304}))
def test_the_default_json_body_is_the_error_object_of_the_admin_api(status: int) -> None:
    _, fields, body = read(answer(status, json=True))
    assert json.loads(body) == {"error": {"code": status, "message": REASONS[status].decode()}}
    assert fields[b"content-type"] == b"application/json"


def test_an_answer_carries_what_it_is_given() -> None:
    wire = answer(
        405,
        close=True,
        date=b"Sat, 21 Nov 2026 12:00:00 GMT",
        fields=b"Allow: GET\r\nX: y\r\n",
        body=b"no",
        content_type=b"a/b",
    )
    assert wire.startswith(b"HTTP/1.1 405 Method Not Allowed\r\n")
    _, fields, body = read(wire)
    assert fields == {
        b"date": b"Sat, 21 Nov 2026 12:00:00 GMT",
        b"allow": b"GET",
        b"x": b"y",
        b"content-type": b"a/b",
        b"content-length": b"2",
        b"connection": b"close",
    }
    assert body == b"no"


def test_a_given_body_stays_what_it_is_when_json_is_preferred() -> None:
    _, fields, body = read(answer(200, json=True, body=b"plain"))
    assert body == b"plain"
    assert fields[b"content-type"] == b"text/plain; charset=utf-8"


def test_an_empty_body_has_no_type() -> None:
    _, fields, body = read(answer(302, body=b"", fields=b"Location: /x\r\n"))
    assert body == b""
    assert fields == {b"content-length": b"0", b"location": b"/x"}


def test_an_unregistered_status_has_an_empty_phrase_and_a_space() -> None:
    wire = answer(299)
    assert wire.startswith(b"HTTP/1.1 299 \r\n")
    assert read(wire)[2] == b"299 Unknown\n"


def test_every_status_that_an_outcome_asks_for_has_a_phrase() -> None:
    asked = {outcome.status for outcome in OUTCOMES.values()} - {0, 499}
    assert asked <= set(REASONS)


def test_status_lines_are_those_of_the_phrases() -> None:
    assert STATUS_LINE[200] == b"HTTP/1.1 200 OK\r\n"
    assert set(STATUS_LINE) == set(REASONS)


@pytest.mark.parametrize(
    "accept",
    [
        [b"application/json"],
        [b"APPLICATION/JSON"],
        [b"application/problem+json"],
        [b"application/json, */*"],
        [b"application/json, text/html"],
        [b"application/json;q=0.5, */*;q=0.1"],
        [b"text/html;q=0.5", b"application/json"],
        [b" application/json ; charset=utf-8 ; q=0.9 , text/*;q=0.9"],
        [b'application/json;a="b,c;q=0\\"";q=1.000'],
        [b",, application/json,"],
        [b"application/json;Q=0.2, image/png"],
        [b"application/json;q=0.1", b"application/vnd.a+json;q=0.8", b"text/plain;q=0.5"],
    ],
)
def test_json_is_preferred_when_it_is_named_with_at_least_the_weight_of_text(accept: list[bytes]) -> None:
    assert prefers_json(accept)


@pytest.mark.parametrize(
    "accept",
    [
        [],
        [b""],
        [b"*/*"],
        [b"text/html"],
        [b"application/*"],
        [b"application/jsonp"],
        [b"image/json"],
        [b"text/html, application/json;q=0.9"],
        [b"*/*, application/json;q=0.9"],
        [b"application/json;q=0"],
        [b"application/json;q=0.000"],
    ],
)
def test_text_is_given_otherwise(accept: list[bytes]) -> None:
    assert not prefers_json(accept)


@pytest.mark.parametrize(
    "extra",
    [
        *(b"json", b"/", b"a/", b"/b", b"a/b/c", b"a b/c", b"a/b;", b"a/b;q", b"a/b;q=", b"a/b;q=2", b"a/b;q=1.001"),
        *(b"a/b;q=0.1234", b"a/b;q=-1", b"a/b;q=.5", b'a/b;q="1"', b"a/b;q=nan", b'a/b;c="d', b"a/b;;q=1", b"a/b c/d"),
        *(b"a/b;q = 1", b"\xff/b", b"a/b\x00"),
    ],
)
def test_one_malformed_member_makes_the_preference_worthless(extra: bytes) -> None:
    assert not prefers_json([b"application/json", extra])
    assert not prefers_json([extra + b",application/json"])


@pytest.mark.parametrize(
    "accept",
    [b" " * 64_000, b"a/b" + b" " * 64_000 + b"x", b"a/b" + b";a=b" * 16_000 + b"\x00", b'a/b;c="' + b'\\"' * 32_000],
)
def test_long_nonsense_is_refused_in_linear_time(accept: bytes) -> None:
    """Quadratic matching of these would take minutes; the test's time limit would end it."""
    assert not prefers_json([accept])
