"""The routing table: order, hosts, methods, cost."""

import pytest

from balancer.config.model import Match
from balancer.routing import table as table_module
from balancer.routing.table import RoutingTable
from tests.support.requests import FakeRequest


def find(routes: list[Match], host: bytes = b"", target: bytes = b"/", method: bytes = b"GET") -> int | None:
    table = RoutingTable((match, index) for index, match in enumerate(routes))
    return table.find(FakeRequest(target, host=host, method=method), "")


def test_the_first_match_in_the_order_written_wins() -> None:
    routes = [Match(path_prefix="/a"), Match(hosts=("h",)), Match(hosts=("*.h",), path="/b"), Match()]
    assert find(routes, b"h", b"/a/x") == 0
    assert find(routes, b"h", b"/c") == 1
    assert find(routes, b"x.h", b"/b") == 2
    assert find(routes, b"x.h", b"/c") == 3
    assert find(routes, b"", b"/c") == 3


def test_no_match_is_none() -> None:
    assert find([]) is None
    assert find([Match(hosts=("h",))], b"other") is None
    assert find([Match(path="/a")], b"h", b"/b") is None


@pytest.mark.parametrize(
    ("host", "taken"),
    [
        (b"a.example.com", True),
        (b"a.b.example.com", True),
        (b"example.com", False),
        (b".example.com", False),
        (b"aexample.com", False),
        (b"a.example.org", False),
        (b"example.com.evil", False),
        (b"com", False),
        (b"", False),
    ],
)
def test_a_wildcard_takes_every_name_below_and_not_the_name_itself(host: bytes, taken: bool) -> None:
    assert (find([Match(hosts=("*.example.com",))], host) == 0) is taken


def test_an_exact_host_does_not_hide_wildcards_and_routes_for_all_hosts() -> None:
    routes = [
        Match(hosts=("*.b.c",), path="/1"),
        Match(hosts=("a.b.c",), path="/2"),
        Match(hosts=("*.c", "a.b.c"), path="/3"),
        Match(path="/4"),
    ]
    for index in range(4):
        assert find(routes, b"a.b.c", b"/%d" % (index + 1)) == index
    assert find(routes, b"z.c", b"/3") == 2
    assert find(routes, b"z.c", b"/1") is None


def test_a_first_route_that_takes_all_is_found_without_looking_at_the_request() -> None:
    class Untouchable:
        def __getattr__(self, name: str) -> object:
            raise AssertionError(name)

    table: RoutingTable[str] = RoutingTable([(Match(path_prefix="/"), "all"), (Match(path="/a"), "never")])
    assert table.find(Untouchable(), "") == "all"


def test_the_path_is_not_touched_when_the_host_alone_decides() -> None:
    table = RoutingTable([(Match(hosts=("h",)), 0), (Match(path="/a"), 1)])
    request = FakeRequest(host=b"h")
    assert table.find(request, "") == 0
    assert request.touched == set()


def test_methods_decide_and_get_takes_head() -> None:
    routes = [Match(methods=("GET",)), Match(methods=("POST", "PUT"))]
    assert find(routes, method=b"GET") == 0
    assert find(routes, method=b"HEAD") == 0
    assert find(routes, method=b"PUT") == 1
    assert find(routes, method=b"get") is None
    assert find(routes, method=b"DELETE") is None


def test_allowed_methods_are_those_of_routes_that_match_but_for_the_method() -> None:
    table = RoutingTable(
        [
            (Match(path="/a", methods=("GET",)), 0),
            (Match(path="/a", methods=("PUT",)), 1),
            (Match(path="/b", methods=("POST",)), 2),
            (Match(hosts=("h",), methods=("PATCH",)), 3),
        ]
    )
    request = FakeRequest(b"/a", method=b"DELETE")
    assert table.find(request, "") is None
    assert table.allowed_methods(request, "") == (b"GET", b"HEAD", b"PUT")
    assert table.allowed_methods(FakeRequest(b"/a", method=b"DELETE", host=b"h"), "") == (
        b"GET",
        b"HEAD",
        b"PATCH",
        b"PUT",
    )
    assert table.allowed_methods(FakeRequest(b"/c", method=b"DELETE"), "") == ()


def test_conditions_see_the_client() -> None:
    table = RoutingTable([(Match(client=("10.0.0.0/8",)), "inside"), (Match(), "outside")])
    assert table.find(FakeRequest(), "10.0.0.1") == "inside"
    assert table.find(FakeRequest(), "192.0.2.1") == "outside"


def test_a_route_added_after_a_look_up_is_found() -> None:
    table: RoutingTable[int] = RoutingTable([(Match(hosts=("h",), path="/a"), 0)])
    assert table.find(FakeRequest(b"/b", host=b"h"), "") is None
    table.add(Match(hosts=("h",)), 1)
    assert table.find(FakeRequest(b"/b", host=b"h"), "") == 1


def test_names_that_clients_make_up_are_not_remembered() -> None:
    table = RoutingTable([(Match(hosts=("*.h", "x.h")), 0), (Match(path="/a"), 1)])
    for number in range(50):
        assert table.find(FakeRequest(host=b"n%d.h" % number), "") == 0
        assert table.find(FakeRequest(host=b"n%d" % number), "") is None
    assert set(table._merged) == set()
    assert set(table._merged_below) == {b"h", b""}


def test_merged_lists_are_dropped_when_they_would_grow_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "MERGED_ENTRIES_MAX", 10)
    hosts = [f"h{number}" for number in range(20)]
    routes = [(Match(hosts=(host,), path="/own"), host) for host in hosts]
    table = RoutingTable([*routes, (Match(path="/1"), "one"), (Match(path="/2"), "two")])
    for _ in range(2):
        for host in hosts:
            assert table.find(FakeRequest(b"/own", host=host.encode()), "") == host
            assert table.find(FakeRequest(b"/2", host=host.encode()), "") == "two"
            assert sum(map(len, table._merged.values())) <= 10
