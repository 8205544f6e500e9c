"""The routing table finds what trying every route in order finds."""

from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.config.model import Match
from balancer.routing.match import compile_conditions
from balancer.routing.table import RoutingTable
from tests.support.requests import FakeRequest

UNTIMED = settings(deadline=None)  # how long an example takes says something about the machine only

LABELS = st.sampled_from(["a", "b", "com"])
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(".".join)
HOSTS = st.one_of(NAMES, NAMES.map(lambda name: f"*.{name}"))
PATHS = st.sampled_from([None, "/", "/a", "/a/b", "/b"])
METHODS = st.lists(st.sampled_from(["GET", "POST"]), max_size=2, unique=True).map(tuple)
MATCHES = st.builds(
    Match,
    hosts=st.lists(HOSTS, max_size=3).map(tuple),
    path_prefix=PATHS,
    methods=METHODS,
    headers=st.sampled_from([{}, {}, {"x": "1"}, {"x": "*"}]),
    client=st.sampled_from([(), (), ("10.0.0.0/8",)]),
)
REQUESTS = st.builds(
    FakeRequest,
    st.sampled_from([b"/", b"/a", b"/a/b/c", b"/b?x=1", b"*"]),
    method=st.sampled_from([b"GET", b"HEAD", b"POST", b"PUT"]),
    host=st.one_of(NAMES.map(str.encode), st.sampled_from([b"", b"x", b".com", b"a.com.x"])),
    fields=st.sampled_from([{}, {b"x": [b"1"]}, {b"x": [b"2"]}]),
)


def host_matches(patterns: tuple[str, ...], host: str) -> bool:
    def one(pattern: str) -> bool:
        if pattern.startswith("*."):
            return host.endswith(pattern[1:]) and host != pattern[1:] and not host.startswith(".")
        return host == pattern

    return not patterns or any(map(one, patterns))


def method_matches(methods: tuple[str, ...], method: str) -> bool:
    return not methods or method in methods or (method == "HEAD" and "GET" in methods)


def but_for_the_method(match: Match, request: FakeRequest, client: str) -> bool:
    return host_matches(match.hosts, request.host.decode()) and all(
        condition(request, client) for condition in compile_conditions(match)
    )


@given(st.lists(MATCHES, max_size=12), st.lists(REQUESTS, min_size=1, max_size=8), st.sampled_from(["", "10.1.1.1"]))
@UNTIMED
def test_find_equals_trying_every_route_in_order(
    matches: list[Match], requests: list[FakeRequest], client: str
) -> None:
    table = RoutingTable((match, index) for index, match in enumerate(matches))
    for request in requests:
        method = request.method.decode()
        near = [index for index, match in enumerate(matches) if but_for_the_method(match, request, client)]
        expected = next((index for index in near if method_matches(matches[index].methods, method)), None)
        assert table.find(request, client) == expected
        if expected is None:
            allowed = {name for index in near for name in matches[index].methods}
            if "GET" in allowed:
                allowed.add("HEAD")
            assert table.allowed_methods(request, client) == tuple(sorted(name.encode() for name in allowed))
