"""What reading a head costs: llhttp's verdict, the full reader, and the one for plain heads, compiled and in Python.

    python -m loadtest.micro.heads [--no-gate]

The gate: compiled, a plain head is read at no more than a third of what the full reader takes after the verdict; else
the trick goes. CPU time of this thread, the best of several rounds. "whole" is what the data path calls per message.
"""

import sys
import time
from collections.abc import Callable

from httptools import HttpRequestParser, HttpResponseParser

from balancer.http1 import plain_heads, request, response

GATE = 1 / 3
READS, ROUNDS = 20_000, 9

REQUEST = (
    b"GET /v1/items/7?page=2 HTTP/1.1\r\nHost: api.example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n"
    b"Accept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en-GB,en;q=0.5\r\n"
    b"Accept-Encoding: gzip, deflate, br\r\nReferer: https://www.example.com/\r\nCookie: session=0123456789abcdef\r\n"
    b"X-Tenant: blue\r\nX-Request-Id: 3f2504e0-4f89-41d3-9a0c-0305e82c3301\r\nCache-Control: no-cache\r\n\r\n"
)
RESPONSE = (
    b"HTTP/1.1 200 OK\r\nServer: origin\r\nDate: Sat, 21 Nov 2026 12:00:00 GMT\r\nContent-Type: text/plain\r\n"
    b"Content-Length: 64\r\nConnection: keep-alive\r\n\r\n"
)


def microseconds(read: Callable[[], object]) -> float:
    """Per call, the best round, less what an empty call costs."""
    return _best(read) - _best(lambda: None)


def _best(read: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.thread_time()
        for _ in range(READS):
            read()
        best = min(best, time.thread_time() - start)
    return best / READS * 1e6


class _NoCallbacks:
    __slots__ = ()


def cases() -> dict[str, dict[str, Callable[[], object]]]:
    """What is measured, by kind of head and reader."""
    quiet = _NoCallbacks()
    return {
        "request, 10 fields": {
            "llhttp": lambda: HttpRequestParser(quiet).feed_data(REQUEST),
            "full": lambda: request._read_head(REQUEST, 8192, 100),
            "twin": lambda: plain_heads.plain_request_twin(REQUEST, 8192, 100),
            "compiled": lambda: plain_heads.plain_request(REQUEST, 8192, 100),
            "whole": lambda: request.parse_request_head(REQUEST, 8192, 100),
        },
        "response, 5 fields": {
            "llhttp": lambda: HttpResponseParser(quiet).feed_data(RESPONSE),
            "full": lambda: response._read_head(RESPONSE, b"GET"),
            "twin": lambda: plain_heads.plain_response_twin(RESPONSE),
            "compiled": lambda: plain_heads.plain_response(RESPONSE),
            "whole": lambda: response.parse_response_head(RESPONSE, b"GET"),
        },
    }


def main() -> int:
    """Print one row per kind of head; 1 when the gate is missed or nothing is compiled."""
    if not plain_heads.COMPILED:
        print("balancer.http1._plain_heads is not built; with a compiler and Python's headers: pip install -e .")
        return 1
    missed = False
    for kind, readers in cases().items():
        costs = {name: microseconds(read) for name, read in readers.items()}
        print(f"{kind}: " + ", ".join(f"{name} {cost:.2f} us" for name, cost in costs.items()))
        missed |= costs["compiled"] > GATE * costs["full"]
    if missed and "--no-gate" not in sys.argv[1:]:
        print(f"missed: the compiled reader costs more than {GATE:.2f} of the full one")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
