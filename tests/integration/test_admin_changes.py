"""Runtime changes from a shell's point of view: commands as processes, requests as bytes on a connection."""

import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from balancer.admin.api import AdminApi
from balancer.admin.changes import ReloadResult
from tests.support.admin_address import Supervisor, served

PATIENCE = 30.0


class Address:
    """An admin address with the supervisor behind it, found by commands as a daemon's is: by its runtime folder."""

    def __init__(self, supervisor: Supervisor, url: str, runtime: Path) -> None:
        self.supervisor = supervisor
        parts = urlsplit(url)
        self.host, self.port = str(parts.hostname), int(parts.port or 0)
        folder = runtime / "balancer-test"
        folder.mkdir()
        (folder / "admin.url").write_text(f"{url}\n")
        kept = {name: value for name, value in os.environ.items() if not name.startswith("BALANCER_")}
        self._environ = {**kept, "XDG_RUNTIME_DIR": str(runtime), "TMPDIR": str(runtime)}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "balancer", *arguments],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env=self._environ,
            check=False,
        )

    def ask(self, method: str, path: str, body: str = "") -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE)
        with closing(connection):
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, json.loads(response.read())


@pytest.fixture
def address(tmp_path: Path) -> Iterator[Address]:
    supervisor = Supervisor()
    with served(AdminApi(supervisor, None, frozenset(), supervisor)) as url:
        yield Address(supervisor, url, tmp_path)


def test_an_operators_day(address: Address) -> None:
    """Weight, drain, a further backend, what differs, a reload, and back to the file."""
    assert address.run("weight", "api", "a", "7").returncode == 0
    assert address.run("drain", "api", "b").returncode == 0
    status, _ = address.ask("POST", "/api/v1/pools/api/backends", '{"address": "10.0.0.7:80"}')
    assert status == 201
    shown = json.loads(address.run("status", "--json").stdout)["pools"][0]["backends"]
    assert [(one["name"], one["state"], one["weight"], one["file_weight"], one["source"]) for one in shown] == [
        ("a", "up", 7, 3, "file"),
        ("b", "draining", 1, 1, "file"),
        ("10.0.0.7:80", "up", 1, None, "api"),
    ]
    assert address.ask("GET", "/api/v1/config")[1]["differs"] == [
        "pool api: backend 10.0.0.7:80: added, 10.0.0.7:80, weight 1",
        "pool api: backend a: live weight 7 instead of 3",
        "pool api: backend b: drained",
    ]
    assert address.run("reload", "--dry-run").stdout.startswith("pool api: +1 backend\n")
    assert address.run("undrain", "api", "b").returncode == 0
    assert address.run("weight", "api", "a", "3").returncode == 0
    assert address.ask("DELETE", "/api/v1/pools/api/backends/10.0.0.7%3A80")[0] == 200
    assert address.ask("GET", "/api/v1/config")[1]["differs"] == []


def test_a_refused_reload_is_told_to_the_shell(address: Address) -> None:
    address.supervisor.result = ReloadResult(False, 1, [], ["balancer.yaml:3:1: pools: is wrong"])
    result = address.run("reload")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("balancer.yaml:3:1: pools: is wrong\n")


def test_without_a_daemon_every_command_says_so(tmp_path: Path) -> None:
    environ = {**os.environ, "BALANCER_ADMIN": f"unix:{tmp_path}/none"}
    for arguments in (["reload"], ["drain", "api", "a"], ["undrain", "api", "a"], ["weight", "api", "a", "1"]):
        result = subprocess.run(
            [sys.executable, "-m", "balancer", *arguments],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env=environ,
            check=False,
        )
        assert result.returncode == 2
        assert "is the daemon running" in result.stderr


def test_the_connection_lives_on_after_every_kind_of_answer(address: Address) -> None:
    """An error leaves no byte of its request behind that the next one would be read from."""
    path = "/api/v1/pools/api/backends"
    connection = http.client.HTTPConnection(address.host, address.port, timeout=PATIENCE)
    with closing(connection):
        connection.connect()
        sock = connection.sock
        for method, target, body, kind, status in (
            ("PATCH", f"{path}/a", b'{"weight": 7}', "application/json", 200),
            ("PATCH", f"{path}/a", b'{"weight": "7"}', "application/json", 400),
            ("PATCH", f"{path}/z", b'{"weight": 7}', "application/json", 404),
            ("PUT", f"{path}/a", b'{"weight": 7}', "application/json", 405),
            ("DELETE", f"{path}/a", b"", "application/json", 409),
            ("POST", path, b" " * (64 * 1024 + 1), "application/json", 413),
            ("POST", path, b"address=10.0.0.7:80", "application/x-www-form-urlencoded", 415),
            ("POST", "/api/v1/reload", b"", "application/json", 200),
        ):
            connection.request(method, target, body, {"Content-Type": kind})
            response = connection.getresponse()
            response.read()
            assert (response.status, connection.sock) == (status, sock)


def test_a_body_that_is_cut_changes_nothing(address: Address) -> None:
    body = b'{"weight": 7}'
    head = (
        b"PATCH /api/v1/pools/api/backends/a HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % (len(body) + 1)
    )
    with socket.create_connection((address.host, address.port), PATIENCE) as client:
        client.sendall(head + body)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(65536) == b""
    assert not address.supervisor.live
