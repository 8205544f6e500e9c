"""What tests of whole daemons ask: a configuration to begin with, answers, metrics, and which process holds what."""

import http.client
import json
import os
import re
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.support.daemon import Daemon

PATIENCE = 20.0
HELLO = b"hello\n"


def configuration(*, workers: int = 2, ports: list[int] | None = None, **more: Any) -> dict[str, Any]:
    """A listener `web` that answers /hello itself and sends everything else to the origins on `ports`."""
    return {
        "workers": workers,
        "listeners": {"web": {"bind": "127.0.0.1:0"}},
        "routes": [
            {"name": "hello", "match": {"path": "/hello"}, "respond": {"body": HELLO.decode()}},
            {"name": "everything", "pool": "origins"},
        ],
        "pools": {
            "origins": {
                "strategy": "least_connections",
                "backends": [f"127.0.0.1:{port}" for port in ports or [9]],
            }
        },
        **more,
    }


def get(address: tuple[str, int], target: str, timeout: float = PATIENCE) -> tuple[int, bytes]:
    """Status and body of a GET on a connection of its own."""
    connection = http.client.HTTPConnection(*address, timeout=timeout)
    with closing(connection):
        connection.request("GET", target)
        response = connection.getresponse()
        return response.status, response.read()


def metric(daemon: Daemon, pattern: str) -> float:
    """The sum of all samples whose name and labels match."""
    _, text = get(daemon.admin_address, "/metrics")
    found = re.findall(rf"^{pattern}(?:{{[^}}]*}})? (\S+)$", text.decode(), re.MULTILINE)
    return sum(float(value) for value in found)


def in_flight(daemon: Daemon) -> int:
    """Exchanges in flight at all backends, as the admin API tells."""
    _, text = get(daemon.admin_address, "/api/v1/pools")
    return sum(backend["in_flight"] for pool in json.loads(text)["pools"] for backend in pool["backends"])


def sockets_of(pid: int) -> int:
    """Sockets that a process has open."""
    return len(inodes_of(pid))


def descriptors_of(pid: int) -> int:
    """How many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def inodes_of(pid: int) -> set[str]:
    """The inodes of a process's sockets."""
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(entry)
        except OSError:
            continue  # closed meanwhile
        if target.startswith("socket:["):
            found.add(target[8:-1])
    return found


def client_ports_of(pid: int, port: int) -> set[int]:
    """The clients' ports of the connections to `port` that a process serves."""
    inodes = inodes_of(pid)
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[9] in inodes and int(fields[1].partition(":")[2], 16) == port and fields[3] == "01":
            found.add(int(fields[2].partition(":")[2], 16))
    return found


def event_time(event: dict[str, Any]) -> float:
    """When a logged event happened, in wall seconds."""
    return datetime.fromisoformat(event["time"].replace("Z", "+00:00")).timestamp()
