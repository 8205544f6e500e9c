"""Proxies under test: our daemon, nginx and HAProxy, each with the same listeners before the same origins.

A target gets the ports of the lanes' origins and gives, for each lane, the address of every (variant, tls) of
VARIANTS. Sockets are bound by us to port 0 and inherited, so that no port is guessed.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tests.support.programs import find_program

Address = tuple[str, int]
Lane = dict[tuple[str, bool], Address]
"""(variant, tls) -> address."""

START_PATIENCE = 20.0
STOP_PATIENCE = 10.0

VARIANTS: dict[str, dict[str, object]] = {
    "plain": {},
    "trusted": {"trusted_proxies": ["127.0.0.0/8", "10.0.0.0/8"]},
    "lenient": {"http10_keepalive": True, "half_close": "allow", "forwarded": True},
    "tight": {
        "limits": {"head_bytes": "2048B", "header_count": 20, "uri_bytes": "256B", "max_body": "1000B",
                   "max_requests_per_connection": 3},
        # 2s: a head of some thousand bytes that come one by one takes long enough on a busy machine.
        "timeouts": {"head": "2s", "body_idle": "1s", "keepalive_idle": "1s"},
    },
}  # fmt: skip
"""The listeners of every lane, in the words of our configuration."""

ROUTES = """\
routes:
  - {{name: private, match: {{path_prefix: /private}}, respond: {{status: 403, body: "private"}}}}
  - {{name: evil, match: {{path_regex: "/+evil/.*"}}, redirect: {{to: "{{path}}", status: 308}}}}
  - {{name: by-client, match: {{client: [198.51.100.0/24]}}, respond: {{status: 200, body: "by-client"}}}}
{lanes}"""


class Target(Protocol):
    """A proxy that can be started and stopped."""

    name: str

    @property
    def version(self) -> str:
        """Name and version, for the table."""

    def start(self, origins: Sequence[int], folder: Path) -> list[Lane]:
        """Run before the origins at these ports of 127.0.0.1; files go to `folder`."""

    def stop(self) -> None:
        """End it by its process id."""


class TargetError(Exception):
    """The proxy did not start, or not as asked."""


@dataclass
class _Process:
    """A child with its output in files."""

    process: "subprocess.Popen[bytes] | None" = None
    log: Path = field(default_factory=lambda: Path(os.devnull))

    def run(self, command: list[str], folder: Path, fds: Sequence[int] = (), env: dict[str, str] | None = None) -> Path:
        self.log = folder / "stderr.log"
        output = folder / "stdout.log"
        with output.open("wb") as out, self.log.open("wb") as err:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                pass_fds=fds,
                env={**os.environ, **(env or {})},
                cwd=folder,
            )
        return output

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def why(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]

    def stop(self) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for `a` and its key, made by openssl."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    openssl = find_program("openssl")
    if openssl is None:
        raise TargetError("openssl is not installed: apt-get install openssl")
    request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=a"
    subprocess.run(
        [str(openssl), *request.split(), "-addext", "subjectAltName=DNS:a", "-keyout", str(key), "-out", str(cert)],
        check=True,
        capture_output=True,
    )
    return cert, key


def _first_line(command: list[str]) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return (done.stdout + done.stderr).strip().partition("\n")[0]


def _bound_sockets(lanes: int) -> list[dict[tuple[str, bool], socket.socket]]:
    return [
        {
            (variant, tls): socket.create_server(("127.0.0.1", 0), backlog=256)
            for variant in VARIANTS
            for tls in (False, True)
        }
        for _ in range(lanes)
    ]


def _wait_until_answering(process: _Process, address: Address) -> None:
    """Send a request that every target answers by itself, until it does. Polls with a deadline."""
    deadline = time.monotonic() + START_PATIENCE
    while time.monotonic() < deadline:
        if not process.alive():
            raise TargetError(f"ended at once: {process.why()}")
        try:
            with socket.create_connection(address, timeout=1.0) as probe:
                probe.sendall(b"GET /private HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                if probe.recv(12).startswith(b"HTTP/1.1 403"):
                    return
        except OSError:
            continue
    raise TargetError(f"did not answer within {START_PATIENCE} s: {process.why()}")


class BalancerTarget:
    """Our daemon with one worker."""

    name = "balancer"

    def __init__(self) -> None:
        self._process = _Process()

    @property
    def version(self) -> str:
        """What `balancer --version` says."""
        return _first_line([sys.executable, "-m", "balancer", "--version"]).replace(", version", "")

    def start(self, origins: Sequence[int], folder: Path) -> list[Lane]:
        """Write the configuration, start, read the addresses that it prints."""
        cert, key = make_certificate(folder)
        config = folder / "balancer.yaml"
        config.write_text(self._config(origins, folder, cert, key))
        root = Path(__file__).resolve().parents[2]
        output = self._process.run(
            [sys.executable, "-m", "balancer", "run", str(config)], folder, env={"PYTHONPATH": str(root)}
        )
        wanted = len(origins) * len(VARIANTS) * 2
        deadline = time.monotonic() + START_PATIENCE
        while True:
            lines = output.read_text().splitlines()
            ready = [line.split() for line in lines if line.startswith("listening ")]
            if len(ready) >= wanted:
                break
            if not self._process.alive() or time.monotonic() > deadline:
                raise TargetError(f"{len(ready)} of {wanted} listeners: {lines[-5:]} {self._process.why()}")
            time.sleep(0.02)
        lanes: list[Lane] = [{} for _ in origins]
        for _, name, url in ready:
            lane, variant, kind = name.split("-")
            lanes[int(lane[4:])][variant, kind == "tls"] = ("127.0.0.1", int(url.rstrip("/").rpartition(":")[2]))
        return lanes

    def _config(self, origins: Sequence[int], folder: Path, cert: Path, key: Path) -> str:
        listeners, routes, pools = [], [], []
        for number, port in enumerate(origins):
            names = f"[private, evil, by-client, lane{number}-backend, lane{number}-named, lane{number}]"
            for variant, settings in VARIANTS.items():
                body = "".join(f", {name}: {_flow(value)}" for name, value in settings.items())
                start = f"bind: 127.0.0.1:0, routes: {names}{body}"
                tls = f"tls: {{certificates: [{{cert: {cert}, key: {key}}}]}}"
                listeners.append(f"  lane{number}-{variant}-tcp: {{{start}}}")
                listeners.append(f"  lane{number}-{variant}-tls: {{{start}, {tls}}}")
            for suffix, match in (("-backend", "{path: /host-backend}"), ("-named", "{path: /host-named}"), ("", "{}")):
                routes.append(f"  - {{name: lane{number}{suffix}, match: {match}, pool: lane{number}{suffix}}}")
            for suffix, host in (("", "keep"), ("-backend", "backend"), ("-named", "api.internal")):
                bare = f'host: {host}, retry: off, outlier_detection: off, backends: ["127.0.0.1:{port}"]'
                pools.append(f"  lane{number}{suffix}: {{{bare}}}")
        head = [
            "workers: 1",
            "via: edge",
            f"runtime_dir: {folder / 'run'}",
            "log: {level: warning, access: off}",
            "admin: {bind: 127.0.0.1:0}",
            "shutdown_delay: 100ms",
            "shutdown_grace: 1s",
            "tunnel_grace: 1s",
        ]
        routing = ROUTES.format(lanes="\n".join(routes))
        return "\n".join([*head, "listeners:", *listeners, routing, "pools:", *pools, ""])

    def stop(self) -> None:
        """SIGTERM, later SIGKILL."""
        self._process.stop()


def _flow(value: object) -> str:
    """A value as YAML in one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_flow(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(f'"{item}"' for item in value) + "]"
    return str(value)


class _InheritingTarget:
    """What nginx and HAProxy share: sockets that we bound, handed over by descriptor."""

    program = ""

    def __init__(self) -> None:
        self._process = _Process()
        self._sockets: list[dict[tuple[str, bool], socket.socket]] = []

    def _path(self) -> str:
        found = find_program(self.program)
        if found is None:
            raise TargetError(f"{self.program} is not installed: apt-get install {self.program}")
        return str(found)

    def _bind(self, lanes: int) -> list[int]:
        self._sockets = _bound_sockets(lanes)
        return [sock.fileno() for lane in self._sockets for sock in lane.values()]

    def _addresses(self) -> list[Lane]:
        lanes: list[Lane] = [{key: sock.getsockname() for key, sock in lane.items()} for lane in self._sockets]
        _wait_until_answering(self._process, lanes[0]["plain", False])
        return lanes

    def stop(self) -> None:
        """SIGTERM, later SIGKILL; then our copies of the sockets are closed."""
        self._process.stop()
        for lane in self._sockets:
            for sock in lane.values():
                sock.close()


def _template(name: str) -> str:
    return (Path(__file__).resolve().parents[2] / "loadtest" / "peers" / name).read_text()


class NginxTarget(_InheritingTarget):
    """nginx, one worker, with what most deployments set: keep-alive upstream, X-Forwarded-*, Via, request id."""

    name = "nginx"
    program = "nginx"

    @property
    def version(self) -> str:
        """From `nginx -v`."""
        return _first_line([self._path(), "-v"]).replace("nginx version: ", "").replace("/", " ")

    def start(self, origins: Sequence[int], folder: Path) -> list[Lane]:
        """Run in the foreground with the sockets named in NGINX, as its own binary upgrade does."""
        cert, key = make_certificate(folder)
        fds = self._bind(len(origins))
        blocks = []
        for number, port in enumerate(origins):
            blocks.append(f"upstream lane{number} {{ server 127.0.0.1:{port}; keepalive 8; }}")
            for (variant, tls), sock in self._sockets[number].items():
                listen = f"listen 127.0.0.1:{sock.getsockname()[1]}{' ssl' if tls else ''};"
                secure = f"ssl_certificate {cert}; ssl_certificate_key {key};" if tls else ""
                blocks.append(
                    f"server {{ {listen} {secure} {self._VARIANTS[variant]}\n"
                    f"  set $lane lane{number}; set $backend 127.0.0.1:{port};\n  include {folder}/server.conf;\n}}"
                )
        (folder / "server.conf").write_text(_template("nginx_server.conf"))
        config = _template("nginx.conf").replace("@FOLDER@", str(folder)).replace("@SERVERS@", "\n".join(blocks))
        path = folder / "nginx.conf"
        path.write_text(config)
        command = [self._path(), "-p", str(folder), "-c", str(path), "-e", str(folder / "error.log")]
        self._process.run(command, folder, fds, {"NGINX": "".join(f"{fd};" for fd in fds)})
        return self._addresses()

    _VARIANTS = {  # noqa: RUF012
        "plain": "",
        "trusted": "set_real_ip_from 127.0.0.0/8; set_real_ip_from 10.0.0.0/8; real_ip_header X-Forwarded-For;"
        " real_ip_recursive on;",
        "lenient": "proxy_ignore_client_abort on;",
        "tight": "large_client_header_buffers 2 1k; client_max_body_size 1000; keepalive_requests 3;"
        " client_header_timeout 1s; client_body_timeout 1s; keepalive_timeout 1s;",
    }


class HAProxyTarget(_InheritingTarget):
    """HAProxy, one thread, with the equivalents of our defaults."""

    name = "haproxy"
    program = "haproxy"

    @property
    def version(self) -> str:
        """From `haproxy -v`."""
        return "HAProxy " + _first_line([self._path(), "-v"]).split()[2]

    def start(self, origins: Sequence[int], folder: Path) -> list[Lane]:
        """Run in the foreground; every frontend binds a descriptor."""
        cert, key = make_certificate(folder)
        pem = folder / "both.pem"
        pem.write_text(cert.read_text() + key.read_text())
        fds = self._bind(len(origins))
        blocks = []
        for number, port in enumerate(origins):
            for (variant, tls), sock in self._sockets[number].items():
                secure = f" ssl crt {pem} alpn http/1.1" if tls else ""
                blocks.append(f"frontend lane{number}-{variant}-{'tls' if tls else 'tcp'}")
                blocks.append(f"  bind fd@{sock.fileno()}{secure}")
                blocks += [f"  {line}" for line in (*self._VARIANTS[variant], *self._FRONTEND)]
                blocks.append(f"  use_backend lane{number}-named if {{ path /host-named }}")
                blocks.append(f"  use_backend lane{number}-backend if {{ path /host-backend }}")
                blocks.append(f"  default_backend lane{number}")
            for suffix, rule in (
                ("", ""),
                ("-backend", f"http-request set-header Host 127.0.0.1:{port}"),
                ("-named", "http-request set-header Host api.internal"),
            ):
                blocks += [f"backend lane{number}{suffix}", f"  {rule}", f"  server one 127.0.0.1:{port}"]
        config = _template("haproxy.conf").replace("@SECTIONS@", "\n".join(blocks))
        path = folder / "haproxy.conf"
        path.write_text(config)
        self._process.run([self._path(), "-db", "-f", str(path)], folder, fds)
        return self._addresses()

    _FRONTEND = (
        "http-request deny deny_status 403 if { path /private } || { path_beg /private/ }",
        "http-request return status 200 content-type text/plain string by-client if { src 198.51.100.0/24 }",
        "http-request set-header X-Forwarded-Proto http if !{ ssl_fc }",
        "http-request set-header X-Forwarded-Proto https if { ssl_fc }",
        "http-request set-header X-Forwarded-Host %[req.hdr(host)]",
        "http-request set-header X-Forwarded-Port %[dst_port]",
        'http-request add-header Via "1.1 edge"',
        "http-request set-header X-Request-Id %[uuid()] unless { req.hdr(x-request-id) -m found }",
    )
    _VARIANTS = {  # noqa: RUF012
        "plain": (),
        "trusted": ("http-request set-src hdr_ip(x-forwarded-for,-1) if { src 127.0.0.0/8 }",),
        "lenient": (),
        "tight": (
            "timeout http-request 1s",
            "timeout http-keep-alive 1s",
            "timeout client 1s",
            "http-request deny deny_status 413 if { req.body_size gt 1000 }",
        ),
    }


TARGETS: dict[str, type[BalancerTarget] | type[NginxTarget] | type[HAProxyTarget]] = {
    "balancer": BalancerTarget,
    "nginx": NginxTarget,
    "haproxy": HAProxyTarget,
}


def fresh_folder(folder: Path) -> Path:
    """An empty folder in place of whatever stood there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
