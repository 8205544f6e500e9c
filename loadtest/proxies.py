"""The proxies under measurement, each started from its configuration in loadtest/peers/."""

import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loadtest.origin import Origin, nginx_user
from loadtest.processes import RunError, free_port, running, said, wait_listening
from loadtest.templates import fill

OURS = "balancer"
# An access log to a file; larger buffers, for the peers only; without and with all that watches backends, ours only.
VARIANTS = ("log", "buffers", "bare", "guarded")
_READY_SECONDS = 20.0
_NGINX_BUFFERS = (
    "proxy_buffer_size 64k; proxy_buffers 4 256k; proxy_busy_buffers_size 512k; proxy_max_temp_file_size 0;"
    " client_body_buffer_size 256k;"
)
_GUARDS = {
    "bare": "outlier_detection: off\n    retry: off",
    "guarded": "outlier_detection: {}\n    retry: {}\n    health_check: {type: tcp, interval: 1s, timeout: 900ms}",
}


@dataclass(frozen=True, slots=True)
class Site:
    """What every proxy of a run is given: the origin, a certificate, the core, and a folder for its files."""

    origin: Origin
    cert: Path
    key: Path
    folder: Path
    core: int

    def values(self) -> dict[str, object]:
        """The names that all configurations share."""
        ports: dict[str, object] = {f"PORT{number + 1}": port for number, port in enumerate(self.origin.ports)}
        return ports | {"CERT": self.cert, "KEY": self.key, "USER": nginx_user()}


@dataclass(frozen=True, slots=True)
class RunningProxy:
    """A started proxy: the pid whose whole family is measured, its two ports, and the file that it logs to, if any."""

    name: str
    pid: int
    plain_port: int
    tls_port: int
    access_log: Path | None


@contextmanager
def _nginx(site: Site, folder: Path, variant: str) -> Iterator[RunningProxy]:
    plain, tls = free_port(), free_port()
    access = f"access_log {folder}/access.log combined buffer=64k flush=1s;" if variant == "log" else "access_log off;"
    buffers = _NGINX_BUFFERS if variant == "buffers" else ""
    values = site.values() | {"PLAIN": plain, "TLS": tls, "ACCESS": access, "BUFFERS": buffers}
    config = fill("peers/bench_nginx.conf", folder / "nginx.conf", values)
    argv = ["nginx", "-p", str(folder), "-e", "stderr", "-c", str(config)]
    with running(argv, core=site.core, folder=folder, stdout=folder / "nginx.out") as process:
        wait_listening(plain, process, folder)
        yield RunningProxy("nginx", process.pid, plain, tls, folder / "access.log" if variant == "log" else None)


@contextmanager
def _haproxy(site: Site, folder: Path, variant: str) -> Iterator[RunningProxy]:
    plain, tls = free_port(), free_port()
    pem = folder / "both.pem"
    pem.write_bytes(site.cert.read_bytes() + site.key.read_bytes())
    values = site.values() | {
        "PLAIN": plain,
        "TLS": tls,
        "PEM": pem,
        "BUFFERS": "tune.bufsize 65536" if variant == "buffers" else "",
        "LOG": "log stdout format raw local0" if variant == "log" else "",
        "OPTIONS": "log global\n  option httplog" if variant == "log" else "",
    }
    config = fill("peers/bench_haproxy.conf", folder / "haproxy.cfg", values)
    argv = ["haproxy", "-db", "-f", str(config)]
    with running(argv, core=site.core, folder=folder, stdout=folder / "access.log") as process:
        wait_listening(plain, process, folder)
        yield RunningProxy("haproxy", process.pid, plain, tls, folder / "access.log" if variant == "log" else None)


@contextmanager
def _balancer(site: Site, folder: Path, variant: str) -> Iterator[RunningProxy]:
    access = str(folder / "access.log") if variant == "log" else "off"
    values = site.values() | {"RUNTIME": folder / "runtime", "ACCESS": access, "GUARDS": _GUARDS.get(variant, "")}
    config = fill("peers/bench_balancer.yaml", folder / "balancer.yaml", values)
    argv = [sys.executable, "-m", "balancer", "run", str(config)]
    with running(argv, core=site.core, folder=folder, stdout=subprocess.PIPE) as process:
        ports = _announced(process, folder)
        yield RunningProxy(
            OURS, process.pid, ports["plain"], ports["secure"], folder / "access.log" if variant == "log" else None
        )


def _announced(process: subprocess.Popen[bytes], folder: Path) -> dict[str, int]:
    """listener -> port, from the lines that `balancer run` prints when it is ready."""
    assert process.stdout is not None
    deadline = time.monotonic() + _READY_SECONDS
    ports: dict[str, int] = {}
    while len(ports) < 2:
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        line = process.stdout.readline().decode("utf-8") if ready else ""
        if not line:
            raise RunError(f"`balancer run` was not ready within {_READY_SECONDS:.0f} s: {said(folder)}")
        listening = re.match(r"listening (\S+) https?://.*:(\d+)/?\s*$", line)
        if listening:
            ports[listening[1]] = int(listening[2])
    return ports


_STARTERS = {OURS: _balancer, "nginx": _nginx, "haproxy": _haproxy}
NAMES = tuple(_STARTERS)
PEERS = tuple(name for name in NAMES if name != OURS)


@contextmanager
def running_proxy(name: str, site: Site, variant: str = "") -> Iterator[RunningProxy]:
    """Starts the proxy `name` on the site's core in its own folder, as `variant` (one of VARIANTS) or as packaged."""
    folder = site.folder / f"{name}-{time.monotonic_ns()}"
    folder.mkdir()
    with _STARTERS[name](site, folder, variant) as proxy:
        yield proxy
