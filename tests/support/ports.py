"""Ports for programs that have to be told theirs: outside the range from which the kernel gives ports to others."""

import socket
from contextlib import suppress
from random import SystemRandom

FIRST, LAST = 20_000, 32_000  # Linux gives clients 32,768 and up (ip_local_port_range)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody has. Tests that run at the same time draw others, but for one in thousands."""
    found: set[int] = set()
    rng = SystemRandom()
    while len(found) < count:
        port = rng.randrange(FIRST, LAST)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.add(port)
    return sorted(found)
