"""The origin: nginx on three ports, with files of known sizes and a count of what it served."""

import http.client
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loadtest.processes import RunError, free_port, running, wait_listening
from loadtest.templates import fill

FILES = {"/64": 64, "/10k": 10 * 1024, "/1m": 1024 * 1024}  # target -> bytes
_SETTLE_SECONDS = 10.0


@dataclass(slots=True)
class Origin:
    """A running origin: its three service ports and the port of its counters."""

    ports: tuple[int, int, int]
    status_port: int
    _asked: int = 0

    def served(self) -> int:
        """Requests received so far, without those that asked for this figure."""
        connection = http.client.HTTPConnection("127.0.0.1", self.status_port, timeout=10)
        try:
            connection.request("GET", "/status")
            text = connection.getresponse().read().decode("ascii")
        finally:
            connection.close()
        counts = re.search(r"\n\s*(\d+)\s+(\d+)\s+(\d+)\s*\n", text)
        if counts is None:
            raise ValueError(f"stub_status answered without three counts: {text!r}")
        self._asked += 1
        return int(counts[3]) - self._asked

    def settled(self) -> int:
        """`served`, once nothing else arrives any more: what a load left behind must not count for the next one."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        before = self.served()
        while time.monotonic() < deadline:
            time.sleep(0.05)
            now = self.served()
            if now == before:
                return now
            before = now
        raise RunError(f"requests still reach the origin {_SETTLE_SECONDS:.0f} s after the load ended")


def nginx_user() -> str:
    """The `user` directive that lets nginx's worker read a private folder: none is due unless we are root."""
    return "user root;" if os.geteuid() == 0 else ""


@contextmanager
def running_origin(folder: Path, core: int) -> Iterator[Origin]:
    """Starts the origin on `core`; it is ended on leaving."""
    www = folder / "www"
    www.mkdir()
    for target, size in FILES.items():
        (www / target[1:]).write_bytes(b"d" * size)
    origin = Origin((free_port(), free_port(), free_port()), free_port())
    values: dict[str, object] = {f"PORT{number + 1}": port for number, port in enumerate(origin.ports)}
    values |= {"STATUS": origin.status_port, "USER": nginx_user()}
    config = fill("origin.conf", folder / "origin.conf", values)
    argv = ["nginx", "-p", str(folder), "-e", "stderr", "-c", str(config)]
    with running(argv, core=core, folder=folder, stdout=folder / "origin.out") as process:
        for port in (*origin.ports, origin.status_port):
            wait_listening(port, process, folder)
        yield origin
