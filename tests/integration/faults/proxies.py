"""The proxies that the suite runs: our daemon, nginx and HAProxy with equal settings, and none at all."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loadtest.origin import nginx_user
from loadtest.processes import environment, tree
from loadtest.templates import fill
from tests.support.daemon import Daemon, children_of
from tests.support.programs import find_program

OURS = "balancer"
PEERS = ("nginx", "haproxy")
NOBODY = "none"  # the client talks to the first origin: what the suite says about a proxy that does nothing
_STRATEGIES = {
    "round_robin": {"nginx": "", "haproxy": "roundrobin"},
    "least_connections": {"nginx": "least_conn;", "haproxy": "leastconn"},
}
_START_SECONDS, _STOP_SECONDS = 20.0, 10.0


class MissingProxyError(Exception):
    """The program is not installed."""


@dataclass(frozen=True, slots=True)
class RunningProxy:
    """Where it listens, and which processes of it carry traffic and may die alone (none: it is one process)."""

    address: tuple[str, int]
    workers: Callable[[], list[int]]


@contextmanager
def running_proxy(name: str, ports: Sequence[int], strategy: str, folder: Path) -> Iterator[RunningProxy]:
    """The proxy before the origins on `ports`; its files go to `folder`. Ended on leaving, by its process id."""
    if name == NOBODY:
        yield RunningProxy(("127.0.0.1", ports[0]), list)
        return
    with {OURS: _balancer, "nginx": _nginx, "haproxy": _haproxy}[name](ports, strategy, folder) as proxy:
        yield proxy


@contextmanager
def _balancer(ports: Sequence[int], strategy: str, folder: Path) -> Iterator[RunningProxy]:
    backends = ", ".join(f'"127.0.0.1:{port}"' for port in ports)
    filled = fill("peers/faults_balancer.yaml", folder / "filled.yaml", {"STRATEGY": strategy, "BACKENDS": backends})
    with Daemon(filled.read_text(encoding="utf-8"), folder) as daemon:
        yield RunningProxy(daemon.address("web"), lambda: list(daemon.workers().values()))


@contextmanager
def _nginx(ports: Sequence[int], strategy: str, folder: Path) -> Iterator[RunningProxy]:
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        servers = [f"server 127.0.0.1:{port} max_fails=5 fail_timeout=10s;" for port in ports]
        values: dict[str, object] = {
            "USER": nginx_user(),
            "FOLDER": folder,
            "STRATEGY": _STRATEGIES[strategy]["nginx"],
            "SERVERS": "\n    ".join(servers),
            "PORT": listener.getsockname()[1],
        }
        config = fill("peers/faults_nginx.conf", folder / "nginx.conf", values)
        argv = [_program("nginx"), "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(config)]
        with _running(argv, folder, listener, {"NGINX": f"{listener.fileno()};"}) as process:
            yield RunningProxy(listener.getsockname(), lambda: children_of(process.pid))


@contextmanager
def _haproxy(ports: Sequence[int], strategy: str, folder: Path) -> Iterator[RunningProxy]:
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        values: dict[str, object] = {
            "FD": listener.fileno(),
            "STRATEGY": _STRATEGIES[strategy]["haproxy"],
            "SERVERS": "\n  ".join(f"server s{number} 127.0.0.1:{port}" for number, port in enumerate(ports)),
        }
        config = fill("peers/faults_haproxy.conf", folder / "haproxy.conf", values)
        with _running([_program("haproxy"), "-db", "-f", str(config)], folder, listener, {}):
            yield RunningProxy(listener.getsockname(), list)


def _program(name: str) -> str:
    found = find_program(name)
    if found is None:
        raise MissingProxyError(f"{name} is not installed: apt-get install {name}")
    return str(found)


@contextmanager
def _running(
    argv: Sequence[str], folder: Path, listener: socket.socket, more: dict[str, str]
) -> Iterator["subprocess.Popen[bytes]"]:
    """A peer with a socket that it inherits."""
    said = folder / "stderr"
    with said.open("wb") as stderr:
        process = subprocess.Popen(
            argv,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            pass_fds=[listener.fileno()],
            env={**environment(), **more},
        )
    try:
        _wait_accepting(process, listener.getsockname(), said)
        yield process
    finally:
        family = tree(process.pid)
        process.terminate()  # both end at once: nothing is asked any more
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pid, started in family.items():
            if tree(pid).get(pid) == started:  # a pid counts as ours only while its start time is the one that we saw
                os.kill(pid, signal.SIGKILL)


def _wait_accepting(process: "subprocess.Popen[bytes]", address: tuple[str, int], said: Path) -> None:
    """It answers something, if only that nobody is there. The kernel alone would accept for it."""
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            with socket.create_connection(address, timeout=1.0) as probe:
                probe.sendall(b"GET /warm HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                if probe.recv(16).startswith(b"HTTP/1.1 "):
                    return
        except OSError:
            time.sleep(0.02)
    raise AssertionError(f"{process.args!r} does not answer: {said.read_text(errors='replace')[-2000:]}")
