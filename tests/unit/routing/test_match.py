"""Conditions of one route."""

import pytest

from balancer.config.model import Match
from balancer.errors import ProtocolError
from balancer.routing.match import compile_conditions, compile_methods, normal_pattern
from tests.support.requests import FakeRequest


def holds(match: Match, target: bytes = b"/", client: str = "", **fields: bytes) -> bool:
    request = FakeRequest(target, fields={name.replace("_", "-").encode(): [value] for name, value in fields.items()})
    return all(condition(request, client) for condition in compile_conditions(match))


@pytest.mark.parametrize(
    ("prefix", "target", "taken"),
    [
        ("/v1", b"/v1", True),
        ("/v1", b"/v1/", True),
        ("/v1", b"/v1/x", True),
        ("/v1", b"/v1?x", True),
        ("/v1", b"/v10", False),
        ("/v1", b"/v", False),
        ("/v1", b"/V1", False),
        ("/v1", b"/x/../v1/y", True),
        ("/v1", b"/%761", True),
        ("/v1", b"/v1%2Fx", False),
        ("/v1/", b"/v1/x", True),
        ("/v1/", b"/v1/", True),
        ("/v1/", b"/v1", False),
        ("/", b"/anything", True),
        ("/", b"*", True),
        ("/v1", b"*", False),
        ("/café", b"/caf%c3%a9/x", True),
        ("/a b", b"/a%20b", True),
    ],
)
def test_path_prefix_holds_on_segment_boundaries(prefix: str, target: bytes, taken: bool) -> None:
    assert holds(Match(path_prefix=prefix), target) is taken


def test_the_prefix_of_every_path_is_no_condition() -> None:
    assert compile_conditions(Match(path_prefix="/")) == ()
    assert compile_conditions(Match()) == ()


@pytest.mark.parametrize(
    ("path", "target", "taken"),
    [("/a", b"/a", True), ("/a", b"/a?q", True), ("/a", b"/a/", False), ("/a", b"/./a", True), ("*", b"*", True)],
)
def test_path_is_exact(path: str, target: bytes, taken: bool) -> None:
    assert holds(Match(path=path), target) is taken


@pytest.mark.parametrize(
    ("regex", "target", "taken"),
    [
        (r"/items/\d+", b"/items/42", True),
        (r"/items/\d+", b"/items/42/x", False),
        (r"/items/\d+", b"/x/items/42", False),
        (r"/a|/b", b"/b", True),
    ],
)
def test_path_regex_matches_the_whole_path(regex: str, target: bytes, taken: bool) -> None:
    assert holds(Match(path_regex=regex), target) is taken


@pytest.mark.parametrize("path", ["/a\\b", "/%00", "/%zz"])
def test_a_pattern_that_no_request_can_have_is_refused(path: str) -> None:
    with pytest.raises(ProtocolError):
        normal_pattern(path)


def test_get_lets_head_through_and_nothing_else_does() -> None:
    assert compile_methods(()) is None
    assert compile_methods(("GET", "POST")) == {b"GET", b"HEAD", b"POST"}
    assert compile_methods(("POST",)) == {b"POST"}
    assert compile_methods(("HEAD",)) == {b"HEAD"}


@pytest.mark.parametrize(
    ("cidrs", "client", "taken"),
    [
        (("10.0.0.0/8",), "10.1.2.3", True),
        (("10.0.0.0/8",), "11.1.2.3", False),
        (("10.0.0.0/8",), "::ffff:10.1.2.3", True),
        (("::ffff:10.0.0.0/104",), "10.1.2.3", True),
        (("::/96",), "0.0.0.1", False),
        (("::/0",), "10.1.2.3", False),
        (("0.0.0.0/0",), "2001:db8::1", False),
        (("2001:db8::/32",), "2001:db8::1", True),
        (("fe80::/10",), "fe80::1%eth0", True),
        (("192.0.2.7",), "192.0.2.7", True),
        (("192.0.2.7/24",), "192.0.2.200", True),
        (("10.0.0.0/8", "192.0.2.0/24"), "192.0.2.9", True),
        (("0.0.0.0/0", "::/0"), "", False),
        (("0.0.0.0/0",), "unknown", False),
    ],
)
def test_client_is_in_one_of_the_networks(cidrs: tuple[str, ...], client: str, taken: bool) -> None:
    assert holds(Match(client=cidrs), b"/", client) is taken


@pytest.mark.parametrize(
    ("query", "target", "taken"),
    [
        ({"a": "1"}, b"/?a=1", True),
        ({"a": "1"}, b"/?a=2", False),
        ({"a": "1"}, b"/?a=2&a=1", True),
        ({"a": "1"}, b"/?b=1", False),
        ({"a": "1"}, b"/", False),
        ({"a": "*"}, b"/?a", True),
        ({"a": "*"}, b"/?a=", True),
        ({"a": "*"}, b"/?b", False),
        ({"a": ""}, b"/?a", True),
        ({"a": "x y"}, b"/?a=x+y", True),
        ({"a": "x y"}, b"/?a=x%20y", True),
        ({"a": "x+y"}, b"/?a=x%2By", True),
        ({"a": "%41"}, b"/?a=%2541", True),
        ({"a": "A"}, b"/?a=%2541", False),
        ({"ä": "ö"}, b"/?%c3%a4=%c3%b6", True),
        ({"a": "1", "b": "2"}, b"/?b=2&&a=1", True),
        ({"a": "1", "b": "2"}, b"/?a=1", False),
    ],
)
def test_query_is_compared_decoded_once(query: dict[str, str], target: bytes, taken: bool) -> None:
    assert holds(Match(query=query), target) is taken


def test_fields_are_compared_exactly_or_for_presence() -> None:
    assert holds(Match(headers={"x-canary": "1"}), x_canary=b"1")
    assert not holds(Match(headers={"x-canary": "1"}), x_canary=b"12")
    assert not holds(Match(headers={"x-canary": "1"}))
    assert holds(Match(headers={"X-Canary": "*"}), x_canary=b"")
    assert not holds(Match(headers={"x-canary": "*"}))
    assert not holds(Match(headers={"x-canary": "1", "x-b": "*"}), x_canary=b"1")


def test_any_of_several_values_of_a_field_may_be_the_wanted_one() -> None:
    (condition,) = compile_conditions(Match(headers={"x": "2"}))
    assert condition(FakeRequest(fields={b"x": [b"1", b"2"]}), "")


def test_the_dear_parts_of_a_request_are_not_touched_when_the_path_already_fails() -> None:
    conditions = compile_conditions(Match(path="/a", headers={"x": "1"}, query={"q": "1"}))
    request = FakeRequest(b"/b")
    assert not all(condition(request, "") for condition in conditions)
    assert request.touched == {"path"}
