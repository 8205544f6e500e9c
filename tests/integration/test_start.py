"""How a daemon starts, what it says when it cannot, and the signals that do not stop it."""

import os
import re
import signal
import socket
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.support.daemon import Daemon, DaemonFailedError, wait_until
from tests.support.queries import HELLO, PATIENCE, configuration, get, metric

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_when_it_is_ready_it_says_where_and_serves_there(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    listeners = {"web": {"bind": ["127.0.0.1:0", f"unix:{path}"]}, "other": {"bind": "127.0.0.1:0"}}
    with Daemon(configuration(listeners=listeners), tmp_path) as daemon:
        assert daemon.stdout.splitlines() == [
            f"listening web {daemon.listening['web'][0]}",
            f"listening web unix:{path}",
            f"listening other {daemon.listening['other'][0]}",
            f"admin {daemon.admin}",
        ]
        for listener in ("web", "other"):
            assert get(daemon.address(listener), "/hello") == (200, HELLO)
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(str(path))
            client.sendall(b"GET /hello HTTP/1.0\r\n\r\n")
            assert client.makefile("rb").read().endswith(HELLO)
        assert get(daemon.admin_address, "/readyz") == (200, b"ready\n")
        assert (daemon.runtime_dir / "admin.url").read_text() == f"{daemon.admin}\n"
        assert sorted(daemon.workers()) == [0, 1]
        assert metric(daemon, "balancer_worker_up") == 2
        assert daemon.stop() == 0
        assert not path.exists()
        assert os.listdir(daemon.runtime_dir) == ["lock"]


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"listeners": {"web": {"bind": "192.0.2.1:80"}}}, 2, "cannot bind 192.0.2.1:80: this machine has no such"),
        ({"admin": {"bind": "unix:/nonexistent/folder/s"}}, 2, "there is no folder /nonexistent/folder"),
        ({"log": {"access": "/nonexistent/folder/access.log"}}, 1, "there is no folder /nonexistent/folder"),
        ({"user": "no-such-user"}, 1, "user: there is no user 'no-such-user'"),
    ],
)
def test_what_cannot_start_says_why_and_leaves_nothing(
    tmp_path: Path, change: dict[str, Any], code: int, says: str
) -> None:
    daemon = Daemon({**configuration(), **change}, tmp_path, ready_within=0)
    with daemon:
        assert daemon.process.wait(PATIENCE) == code
        assert says in daemon.stderr
        assert "Traceback" not in daemon.stderr
        assert "listening" not in daemon.stdout
        assert not (daemon.runtime_dir / "running").exists()


def test_a_second_daemon_is_refused_the_runtime_folder_and_the_port(tmp_path: Path) -> None:
    with Daemon(configuration(), tmp_path) as first:
        with pytest.raises(DaemonFailedError, match=r"(?s)ended with 2.*another balancer uses it") as caught:
            Daemon(configuration(), tmp_path)
        assert f"process {first.pid}" in str(caught.value)
        host, port = first.address("web")
        other = tmp_path / "other"
        other.mkdir()
        listeners = {"web": {"bind": f"{host}:{port}"}}
        with pytest.raises(DaemonFailedError, match=r"(?s)ended with 2.*address already in use"):
            Daemon(configuration(listeners=listeners), other)
        assert get(first.address("web"), "/hello") == (200, HELLO)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change its user")
def test_root_is_given_up_after_binding() -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        with Daemon(configuration(user="nobody"), folder, ready_within=0) as daemon:
            assert wait_until(lambda: daemon.is_ready() or daemon.process.poll() is not None, PATIENCE)
            if "may not execute" in daemon.stderr:
                assert daemon.process.wait(PATIENCE) == 1
                pytest.skip("this interpreter lies where only root can go")
            for pid in (daemon.pid, *daemon.workers().values()):
                status = Path(f"/proc/{pid}/status").read_text()
                assert "0" not in re.findall(r"^Uid:\s+(.*)$", status, re.MULTILINE)[0].split()
            assert get(daemon.address("web"), "/hello") == (200, HELLO)
            assert daemon.stop() == 0
            assert os.listdir(daemon.runtime_dir) == ["lock"]


# ---- other signals


def test_signals_that_change_nothing(tmp_path: Path) -> None:
    """A terminal's Ctrl-C reaches the workers too: they leave it to the supervisor. SIGHUP reads the file again."""
    with Daemon(configuration(shutdown_delay="60s"), tmp_path) as daemon:
        for pid in daemon.workers().values():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
                os.kill(pid, number)
        daemon.process.send_signal(signal.SIGHUP)
        assert wait_until(lambda: daemon.events("config.reload_unneeded"), PATIENCE)
        for _ in range(10):
            assert get(daemon.address("web"), "/hello") == (200, HELLO)
        assert not daemon.events("worker.ended")


def test_sigusr1_opens_the_access_log_anew_in_every_worker(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    with Daemon(configuration(log={"access": str(path)}), tmp_path) as daemon:
        assert get(daemon.address("web"), "/hello")[0] == 200
        assert wait_until(lambda: path.exists() and path.read_text().count("\n") == 1, PATIENCE)
        path.rename(tmp_path / "old.log")
        daemon.process.send_signal(signal.SIGUSR1)
        assert wait_until(lambda: len(daemon.events("access_log.reopened")) == 2, PATIENCE)
        for _ in range(20):
            get(daemon.address("web"), "/hello")
        assert wait_until(lambda: path.read_text().count("\n") == 20, PATIENCE)
        assert (tmp_path / "old.log").read_text().count("\n") == 1


def test_a_stop_tells_of_the_end_of_every_worker(tmp_path: Path) -> None:
    with Daemon(configuration(workers=3), tmp_path) as daemon:
        assert daemon.stop() == 0
        ended = daemon.events("worker.ended")
    assert sorted(event["worker"] for event in ended) == [0, 1, 2]
    assert all(event["asked"] for event in ended)
