"""What finding a route costs; the gate: with 10,000 hosts at most 1.5 times what it costs with ten.

    python -m loadtest.micro.routing [--no-gate]

CPU time of this thread, the best of several rounds.
"""

import sys
import time

from balancer.config.model import Match
from balancer.routing.table import RoutingTable

HOSTS = (10, 10_000)
GATE = 1.5
FINDS, ROUNDS = 20_000, 7


class Request:
    """A request whose path is in its normal form already."""

    method = b"GET"
    query = b""

    def __init__(self, host: bytes, path: bytes = b"/v1/items/7") -> None:
        self.host = host
        self.path = path

    def field(self, name: bytes) -> list[bytes]:
        """No fields."""
        return []


def microseconds(table: RoutingTable[int], request: Request) -> float:
    """Per look-up, the best round."""
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.thread_time()
        for _ in range(FINDS):
            table.find(request, "192.0.2.1")
        best = min(best, time.thread_time() - start)
    return best / FINDS * 1e6


def table_of(hosts: int) -> RoutingTable[int]:
    """Half exact names with two routes each, half wildcards, and a few routes for every host."""
    routes = [(Match(hosts=(f"h{number}.example.com",), path_prefix="/v1"), number) for number in range(hosts // 2)]
    routes += [(Match(hosts=(f"h{number}.example.com",)), number) for number in range(hosts // 2)]
    routes += [(Match(hosts=(f"*.w{number}.example.com",), path_prefix="/v1"), number) for number in range(hosts // 2)]
    routes += [(Match(path_prefix=f"/static{number}"), number) for number in range(3)]
    return RoutingTable([*routes, (Match(), -1)])


def main() -> int:
    """Print one row per kind of look-up; 1 when the gate is missed."""
    missed = False
    everything = microseconds(RoutingTable([(Match(), 0)]), Request(b"h1.example.com"))
    print(f"one route for everything: {everything:.2f} us")
    tables = {hosts: table_of(hosts) for hosts in HOSTS}
    cases = {"exact host": b"h3.example.com", "wildcard": b"a.b.w3.example.com", "other host": b"nobody.test"}
    for name, host in cases.items():
        few, many = (microseconds(tables[hosts], Request(host)) for hosts in HOSTS)
        print(f"{name:12} {few:6.2f} us with {HOSTS[0]} hosts, {many:6.2f} us with {HOSTS[1]}")
        missed |= many > GATE * few
    if missed and "--no-gate" not in sys.argv[1:]:
        print(f"missed: the cost grows by more than {GATE} with the number of hosts")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
