"""Coverage of routes: what is called unreachable is, and plain cases are found."""

from dataclasses import dataclass
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.config import reachability
from balancer.config.model import Match
from balancer.config.reachability import below_prefix, covers, first_covers


@pytest.mark.parametrize(
    ("above", "below"),
    [
        (Match(), Match()),
        (Match(), Match(hosts=("a.b",), path="/x", methods=("GET",), headers={"a": "1"}, client=("10.0.0.0/8",))),
        (Match(hosts=("*.b",)), Match(hosts=("a.b", "*.a.b"))),
        (Match(hosts=("*.b",)), Match(hosts=("*.b",))),
        (Match(hosts=("a", "b")), Match(hosts=("b",))),
        (Match(path_prefix="/"), Match(path="/x")),
        (Match(path_prefix="/a"), Match(path_prefix="/a/b")),
        (Match(path_prefix="/a"), Match(path="/a")),
        (Match(path_prefix="/a/"), Match(path_prefix="/a/b")),
        (Match(path_prefix="/a"), Match(path_prefix="/a", path_regex=".*x")),
        (Match(path="/a"), Match(path="/a", methods=("GET",))),
        (Match(path_regex="/x.*"), Match(path_regex="/x.*")),
        (Match(methods=("GET", "POST")), Match(methods=("POST", "HEAD"))),
        (Match(headers={"x": "*"}), Match(headers={"x": "1", "y": "2"})),
        (Match(query={"x": "1"}), Match(query={"x": "1"})),
        (Match(client=("10.0.0.0/8",)), Match(client=("10.1.0.0/16", "10.2.0.1/32"))),
    ],
)
def test_a_wider_route_covers_a_narrower_one(above: Match, below: Match) -> None:
    assert covers(above, below)
    assert first_covers([("above", above), ("below", below)]) == {"below": "above"}


@pytest.mark.parametrize(
    ("above", "below"),
    [
        (Match(hosts=("a",)), Match()),
        (Match(hosts=("*.b",)), Match(hosts=("b",))),
        (Match(hosts=("*.b",)), Match(hosts=("a.b", "c"))),
        (Match(hosts=("*.b",)), Match(hosts=("ab",))),
        (Match(path="/a"), Match(path_prefix="/a")),
        (Match(path_prefix="/a"), Match(path_prefix="/ab")),
        (Match(path_prefix="/a/"), Match(path="/a")),
        (Match(path_prefix="/a/"), Match(path_prefix="/a")),
        (Match(path_prefix="/a"), Match(path_regex="/a/.*")),
        (Match(path_regex="/a.*"), Match(path_prefix="/a")),
        (Match(methods=("GET",)), Match()),
        (Match(methods=("HEAD",)), Match(methods=("GET",))),
        (Match(headers={"x": "1"}), Match(headers={"x": "*"})),
        (Match(headers={"x": "1"}), Match(query={"x": "1"})),
        (Match(client=("10.0.0.0/8",)), Match(client=("10.0.0.0/8", "11.0.0.0/8"))),
        (Match(client=("::/0",)), Match(client=("10.0.0.0/8",))),
        (Match(client=("10.0.0.0/8",)), Match()),
    ],
)
def test_a_route_that_leaves_something_over_does_not_cover(above: Match, below: Match) -> None:
    assert not covers(above, below)
    assert first_covers([("above", above), ("below", below)]) == {}


def test_the_first_route_that_covers_is_named() -> None:
    routes = [("a", Match(path_prefix="/x")), ("b", Match()), ("c", Match(path="/x/y")), ("d", Match(path="/z"))]
    assert first_covers(routes) == {"c": "a", "d": "b"}


def test_an_end_is_put_to_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reachability, "COMPARISONS_MAX", 10)
    routes = [(f"r{index}", Match(headers={"x": str(index)})) for index in range(100)]
    assert first_covers([*routes, ("last", Match(headers={"x": "0"}))]) == {}


@dataclass
class Request:
    """What conditions look at."""

    host: str
    path: str
    method: str


HOSTS = ["a.b", "c.a.b", "b"]
PATHS = ["/", "/x", "/x/", "/x/y", "/xy"]
METHODS = ["GET", "HEAD", "POST"]
REQUESTS = [Request(*parts) for parts in product(HOSTS, PATHS, METHODS)]


def meets(match: Match, request: Request) -> bool:
    """A plain reading of the conditions, independent of the code under test."""
    host = not match.hosts or any(
        request.host == pattern or (pattern[0] == "*" and request.host.endswith(pattern[1:])) for pattern in match.hosts
    )
    prefix = match.path_prefix
    path = match.path is None or match.path == request.path
    if prefix is not None:
        path = path and (prefix == request.path or f"{request.path}/".startswith(f"{prefix.rstrip('/')}/"))
        if prefix == "/x/":
            path = path and request.path != "/x"
    methods = {*match.methods, "HEAD"} if "GET" in match.methods else match.methods
    return host and path and (not match.methods or request.method in methods)


MATCHES = st.builds(
    Match,
    hosts=st.lists(st.sampled_from([*HOSTS, "*.b", "*.a.b"]), max_size=2).map(tuple),
    path=st.none() | st.sampled_from(PATHS),
    path_prefix=st.none() | st.sampled_from(["/", "/x", "/x/", "/x/y"]),
    methods=st.lists(st.sampled_from(METHODS), max_size=2).map(tuple),
)


@settings(max_examples=300)
@given(st.lists(MATCHES, min_size=2, max_size=6))
def test_no_request_comes_first_to_a_route_called_unreachable(matches: list[Match]) -> None:
    routes = [(f"r{index}", match) for index, match in enumerate(matches)]
    unreachable = first_covers(routes)
    for request in REQUESTS:
        taken = next((name for name, match in routes if meets(match, request)), None)
        assert taken not in unreachable


def test_prefixes_end_at_segments() -> None:
    assert below_prefix("/", "/anything")
    assert not below_prefix("/a", "/ab")
