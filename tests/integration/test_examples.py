"""Every file of config/ serves: started as it is, but for ports and paths, it answers requests for its routes."""

import http.client
import re
import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import ThreadingUnixStreamServer

import pytest

from tests.support.certificates import issued
from tests.support.daemon import Daemon

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(file.name for file in (ROOT / "config").glob("*.yaml"))

# example -> listener, Host, target -> the status and what the answer or its Location has.
REQUESTS = {
    "minimal.yaml": [("web", "a.example", "/", 200, "saw /")],
    "production.yaml": [
        ("web", "a.example", "/balancer-live", 200, "ok"),
        ("web", "a.example", "/uploads/x", 200, "saw /uploads/x"),
        ("web", "a.example", "/", 200, "saw /"),
    ],
    "resilience.yaml": [
        ("web", "a.example", "/jobs/1", 200, "saw /jobs/1"),
        ("web", "a.example", "/", 200, "saw /"),
    ],
    "routing.yaml": [
        ("web", "a.example", "/robots.txt", 200, "Disallow: /"),
        ("web", "old.example.com", "/a?b=c", 308, "https://www.example.com/a?b=c"),
        ("web", "a.example", "/2024/05/x", 308, "/archive"),
        ("web", "admin.example.com", "/", 200, "saw /"),
        ("web", "a.example", "/api/users", 200, "saw /v2/users"),
        ("web", "a.example", "/orders/1", 200, "saw /orders/1"),
        ("web", "a.example", "/x?preview=1", 200, "saw /x?preview=1"),
    ],
    "tls.yaml": [
        ("plain", "site.example.com", "/a", 308, "https://site.example.com:8443/a"),
        ("secure", "site.example.com", "/", 200, "saw /"),
        ("secure", "api.example.com", "/", 200, "saw /"),
    ],
    "unix.yaml": [("web", "a.example", "/", 200, "saw /")] * 3,
}


class Answer(BaseHTTPRequestHandler):
    """Says which target it saw."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = f"saw {self.path}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""

    def address_string(self) -> str:
        return "-"


@contextmanager
def serving(server: ThreadingHTTPServer | ThreadingUnixStreamServer) -> Iterator[None]:
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def here(text: str, ports: list[int]) -> str:
    """The example with free ports instead of its own; backends at `ports`."""
    if not has_ipv6():
        text = text.replace(', "[::1]:8080"', "")
    text = re.sub(r"(127\.0\.0\.1|\[::1\]):(8080|8443|9901)\b", r"\1:0", text)
    return re.sub(r"127\.0\.0\.1:900([1-4])\b", lambda found: f"127.0.0.1:{ports[int(found[1]) - 1]}", text)


def ask(address: tuple[str, int], host: str, target: str, tls: bool) -> tuple[int, str, str]:
    """Status, Location and body."""
    connection = http.client.HTTPConnection(*address, timeout=10)
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        raw = socket.create_connection(address, timeout=10)
        connection.sock = context.wrap_socket(raw, server_hostname=host)
    try:
        connection.request("GET", target, headers={"Host": host})
        response = connection.getresponse()
        return response.status, response.headers.get("Location", ""), response.read().decode()
    finally:
        connection.close()


def test_every_example_has_requests() -> None:
    assert sorted(REQUESTS) == EXAMPLES


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_serves(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ADMIN_BIND", raising=False)
    if example == "tls.yaml":
        for name in ("site", "api"):
            pair = issued(f"{name}.example.com")
            shutil.copy(pair.cert_path, tmp_path / f"{name}.pem")
            shutil.copy(pair.key_path, tmp_path / f"{name}.key")
    with ExitStack() as stack:
        servers = [ThreadingHTTPServer(("127.0.0.1", 0), Answer) for _ in range(4)]
        unix = [ThreadingUnixStreamServer(str(tmp_path / f"app-{number}.sock"), Answer) for number in (1, 2)]
        for server in (*servers, *unix):
            stack.enter_context(serving(server))
        text = here((ROOT / "config" / example).read_text(encoding="utf-8"), [each.server_port for each in servers])
        if "shutdown_delay" in text:
            text = text.replace("shutdown_delay: 5s", "shutdown_delay: 10ms")
        daemon = stack.enter_context(Daemon(text, tmp_path))
        for listener, host, target, status, wanted in REQUESTS[example]:
            tls = daemon.listening[listener][0].startswith("https:")
            found, location, body = ask(daemon.address(listener), host, target, tls)
            assert (found, wanted in (location or body)) == (status, True), (target, found, location, body)
        assert daemon.stop() == 0
