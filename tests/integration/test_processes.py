"""The daemon as processes: what starts, what is shared, what survives a death, and how all of it ends."""

import http.client
import json
import os
import re
import signal
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.support.certificates import issued
from tests.support.daemon import Daemon, DaemonFailedError, is_alive, wait_until
from tests.support.echo_origin import running_origins
from tests.support.steady_load import SteadyLoad

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

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
    _, text = get(daemon.admin_address, "/api/v1/pools")
    return sum(backend["in_flight"] for pool in json.loads(text)["pools"] for backend in pool["backends"])


def sockets_of(pid: int) -> int:
    """Sockets that a process has open."""
    return len(inodes_of(pid))


def descriptors_of(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def inodes_of(pid: int) -> set[str]:
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
    return datetime.fromisoformat(event["time"].replace("Z", "+00:00")).timestamp()


# ---- starting


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


def test_64_connections_on_4_workers_leave_none_with_fewer_than_8(tmp_path: Path) -> None:
    with Daemon(configuration(workers=4), tmp_path) as daemon:
        workers = list(daemon.workers().values())
        before = [sockets_of(pid) for pid in workers]
        for _ in range(5):
            clients = [socket.create_connection(daemon.address("web"), timeout=PATIENCE) for _ in range(64)]
            for client in clients:
                client.sendall(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
            for client in clients:
                assert client.recv(65536).endswith(HELLO)
            counts = [sockets_of(pid) - base for pid, base in zip(workers, before, strict=True)]
            assert sum(counts) == 64
            assert min(counts) >= 8, counts
            for client in clients:
                client.close()
            assert wait_until(lambda: [sockets_of(pid) for pid in workers] == before, PATIENCE)


def test_tls_connections_are_evened_out_before_their_handshake(tmp_path: Path) -> None:
    pair = issued("test.example")
    listeners = {
        "web": {
            "bind": "127.0.0.1:0",
            "tls": {"certificates": [{"cert": str(pair.cert_path), "key": str(pair.key_path)}]},
        }
    }
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with Daemon(configuration(workers=4, listeners=listeners), tmp_path) as daemon:
        workers = list(daemon.workers().values())
        before = [sockets_of(pid) for pid in workers]
        raw = [socket.create_connection(daemon.address("web"), timeout=PATIENCE) for _ in range(32)]
        clients = [context.wrap_socket(client) for client in raw]
        for client in clients:
            client.sendall(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(65536).endswith(HELLO)
        counts = [sockets_of(pid) - base for pid, base in zip(workers, before, strict=True)]
        assert sum(counts) == 32
        assert min(counts) >= 4, counts
        for client in clients:
            client.close()
        assert wait_until(lambda: [sockets_of(pid) for pid in workers] == before, PATIENCE)


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"listeners": {"web": {"bind": "192.0.2.1:80"}}}, 2, "cannot bind 192.0.2.1:80: this machine has no such"),
        ({"admin": {"bind": "unix:/nonexistent/folder/s"}}, 2, "there is no folder /nonexistent/folder"),
        ({"log": {"access": "/nonexistent/folder/access.log"}}, 1, "/nonexistent/folder/access.log"),
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


# ---- deaths of workers


@pytest.fixture(scope="module")
def origin() -> Iterator[int]:
    with running_origins(1) as [port]:
        yield port


def kill_rounds(daemon: Daemon, load: SteadyLoad, rounds: int) -> None:
    """Kill a worker under load, again and again: its exchanges fail, and nothing else does."""
    victim = 0
    _, port = daemon.address("web")
    for number in range(rounds):
        assert wait_until(lambda: victim in daemon.workers(), 60.0)
        ready = number + 1
        assert wait_until(lambda: len(ready_events(daemon, victim)) == ready, 60.0)  # noqa: B023
        answered = load.answered
        assert wait_until(lambda: load.answered > answered + 20, PATIENCE)  # noqa: B023
        counted = metric(daemon, "balancer_requests_total")
        pid = daemon.workers()[victim]
        os.kill(pid, signal.SIGSTOP)  # so that the set of its connections stands still
        wait_until(lambda: is_stopped(pid), PATIENCE)  # noqa: B023
        doomed = client_ports_of(pid, port)
        before = len(load.failures)
        os.kill(pid, signal.SIGKILL)
        assert wait_until(lambda: not is_alive(pid), PATIENCE)  # noqa: B023
        answered = load.answered
        assert wait_until(lambda: load.answered > answered + 20, PATIENCE)  # noqa: B023
        failed = load.failures[before:]
        assert {failure.port for failure in failed} <= doomed, "nobody else's"
        assert len(failed) == len({failure.port for failure in failed})
        assert {failure.kind for failure in failed} <= {"reset", "unanswered", "truncated"}
        assert metric(daemon, "balancer_requests_total") >= counted, "counters never go back"
        assert get(daemon.admin_address, "/readyz")[0] == 200


def ready_events(daemon: Daemon, worker: int) -> list[dict[str, Any]]:
    return [event for event in daemon.events("worker.became_ready") if event["worker"] == worker]


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.mark.timeout(120)
def test_a_killed_worker_takes_only_its_own_exchanges_along(tmp_path: Path, origin: int) -> None:
    with Daemon(configuration(ports=[origin]), tmp_path) as daemon:
        get(daemon.admin_address, "/readyz")
        descriptors = descriptors_of(daemon.pid) + 1  # a connection to the admin address that is about to end
        with SteadyLoad(daemon.address("web"), clients=16, target="/?size=100") as load:
            kill_rounds(daemon, load, 4)
        assert metric(daemon, "balancer_worker_restarts_total") >= 3
        assert wait_until(lambda: in_flight(daemon) == 0, PATIENCE), "a dead worker's row is zeroed"
        assert wait_until(lambda: len(ready_events(daemon, 0)) == 5, PATIENCE)
        assert wait_until(lambda: descriptors_of(daemon.pid) <= descriptors, PATIENCE), "none is left of the dead"
        waits = [event["delay_ms"] for event in daemon.events("worker.restart_delayed")]
        assert waits == [100, 200, 400][: len(waits)]
        assert len(waits) >= 2


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_30_rounds_of_killing_under_load(tmp_path: Path, origin: int) -> None:
    with Daemon(configuration(ports=[origin]), tmp_path) as daemon:
        with SteadyLoad(daemon.address("web"), clients=16, target="/?size=100") as load:
            kill_rounds(daemon, load, 30)
        assert wait_until(lambda: in_flight(daemon) == 0, PATIENCE)


def test_connections_of_a_slot_without_worker_are_served_by_another(tmp_path: Path) -> None:
    with Daemon(configuration(), tmp_path) as daemon:
        for round_number in range(5):  # until the next restart waits for more than a second
            wait_until(lambda: len(ready_events(daemon, 0)) == round_number + 1, PATIENCE)  # noqa: B023
            os.kill(daemon.workers()[0], signal.SIGKILL)
        assert wait_until(lambda: daemon.events("worker.restart_delayed")[-1]["delay_ms"] >= 800, PATIENCE)
        began = time.monotonic()
        for _ in range(40):  # half of them are hashed to the socket of the empty slot
            assert get(daemon.address("web"), "/hello", timeout=0.7) == (200, HELLO)
        if time.monotonic() - began < 0.7:
            assert 0 not in daemon.workers(), "all of this happened while the slot was empty"
        assert wait_until(lambda: len(ready_events(daemon, 0)) == 6, PATIENCE)
        for _ in range(40):
            assert get(daemon.address("web"), "/hello") == (200, HELLO)
        assert daemon.stop() == 0
        assert not daemon.events("worker.failed")


def test_exchanges_of_a_dead_worker_stop_counting_as_load(tmp_path: Path) -> None:
    with running_origins(1) as [port], Daemon(configuration(ports=[port]), tmp_path) as daemon:
        clients = [socket.create_connection(daemon.address("web"), timeout=PATIENCE) for _ in range(12)]
        for client in clients:
            client.sendall(b"GET /?wait=60 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert wait_until(lambda: in_flight(daemon) == 12, PATIENCE)
        victim = daemon.workers()[1]
        held = len(client_ports_of(victim, daemon.address("web")[1]))
        assert 0 < held < 12
        os.kill(victim, signal.SIGKILL)
        assert wait_until(lambda: in_flight(daemon) == 12 - held, PATIENCE)
        for client in clients:
            client.close()
        assert wait_until(lambda: in_flight(daemon) == 0, PATIENCE)


def test_a_silent_worker_is_killed_and_replaced(tmp_path: Path) -> None:
    with Daemon(configuration(), tmp_path) as daemon:
        silent = daemon.workers()[1]
        os.kill(silent, signal.SIGSTOP)
        assert wait_until(lambda: daemon.events("worker.killed"), 15.0)
        [event] = daemon.events("worker.killed")
        assert event["pid"] == silent
        assert 5000 <= event["silence_ms"] < 8000
        assert wait_until(lambda: len(ready_events(daemon, 1)) == 2, PATIENCE)
        assert not is_alive(silent)
        assert get(daemon.admin_address, "/readyz")[0] == 200


# ---- death of the supervisor


def test_after_the_supervisor_was_killed_nothing_is_left_and_it_runs_again(tmp_path: Path, origin: int) -> None:
    with Daemon(configuration(ports=[origin]), tmp_path) as daemon:
        host, port = daemon.address("web")
        workers = list(daemon.workers().values())
        with socket.create_connection((host, port), timeout=PATIENCE) as client:
            client.sendall(b"GET /?wait=1&size=5 HTTP/1.1\r\nHost: x\r\n\r\n")
            assert wait_until(lambda: in_flight(daemon) == 1, PATIENCE)
            killed = time.monotonic()
            daemon.process.kill()
            daemon.process.wait()
            listeners = {"web": {"bind": f"{host}:{port}"}}
            with Daemon(configuration(ports=[origin], listeners=listeners), tmp_path) as again:
                assert get(again.address("web"), "/hello") == (200, HELLO)
                assert time.monotonic() - killed < 7.0
                assert b" 200 " in client.recv(65536), "an exchange under way was finished"
                assert wait_until(lambda: not any(map(is_alive, workers)), killed + 7.0 - time.monotonic())
                assert again.stop() == 0


# ---- the end


def test_a_stop_under_load_loses_nothing_before_the_listeners_close(tmp_path: Path, origin: int) -> None:
    with Daemon(configuration(ports=[origin], shutdown_delay="1s"), tmp_path) as daemon:
        with SteadyLoad(daemon.address("web"), clients=16, target="/?size=20000") as load:
            assert wait_until(lambda: load.answered > 200, PATIENCE)
            daemon.process.send_signal(signal.SIGTERM)
            assert wait_until(lambda: get(daemon.admin_address, "/readyz")[0] == 503, PATIENCE)
            assert daemon.process.wait(PATIENCE) == 0
        closing = next(e for e in daemon.events("daemon.stop_requested") if e["phase"] == "stop_listening")
        assert load.connected > 32, "they were told to close, and came again"
        assert [failure for failure in load.failures if failure.kind != "refused"] == []
        assert [failure for failure in load.failures if failure.at < event_time(closing)] == []


def test_a_worker_that_dies_during_the_stop_is_stood_in_for(tmp_path: Path) -> None:
    with Daemon(configuration(shutdown_delay="60s"), tmp_path) as daemon:
        daemon.process.send_signal(signal.SIGTERM)
        assert wait_until(lambda: daemon.events("daemon.stop_requested"), PATIENCE)
        os.kill(daemon.workers()[1], signal.SIGKILL)
        assert wait_until(lambda: daemon.events("worker.ended"), PATIENCE)
        for _ in range(20):  # half of them are hashed to the socket of the dead one
            assert get(daemon.address("web"), "/hello") == (200, HELLO)
        assert list(daemon.workers()) == [0], "it is not replaced any more"
        # Nobody comes any more: 2 s later it goes on, long before the delay is over.
        assert daemon.process.wait(PATIENCE) == 0


def test_exchanges_under_way_are_finished_and_then_it_is_gone(tmp_path: Path, origin: int) -> None:
    with Daemon(configuration(ports=[origin]), tmp_path) as daemon:
        pids = [daemon.pid, *daemon.workers().values()]
        with socket.create_connection(daemon.address("web"), timeout=PATIENCE) as client:
            client.sendall(b"GET /?wait=1&size=5 HTTP/1.1\r\nHost: x\r\n\r\n")
            assert wait_until(lambda: in_flight(daemon) == 1, PATIENCE)
            daemon.process.send_signal(signal.SIGINT)
            answer = client.makefile("rb").read()
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert b"\r\nconnection: close\r\n" in answer.lower()
        assert daemon.process.wait(PATIENCE) == 0
        assert not any(map(is_alive, pids))


def test_the_grace_ends_what_does_not_end_by_itself(tmp_path: Path, origin: int) -> None:
    more = configuration(ports=[origin], shutdown_grace="300ms", tunnel_grace="300ms")
    with Daemon(more, tmp_path) as daemon:
        with socket.create_connection(daemon.address("web"), timeout=PATIENCE) as client:
            client.sendall(b"GET /?wait=60 HTTP/1.1\r\nHost: x\r\n\r\n")
            assert wait_until(lambda: in_flight(daemon) == 1, PATIENCE)
            assert daemon.stop(timeout=PATIENCE) == 0


def test_a_second_signal_ends_at_once(tmp_path: Path, origin: int) -> None:
    with Daemon(configuration(ports=[origin], shutdown_delay="60s"), tmp_path) as daemon:
        pids = list(daemon.workers().values())
        with socket.create_connection(daemon.address("web"), timeout=PATIENCE) as client:
            client.sendall(b"GET /?wait=60 HTTP/1.1\r\nHost: x\r\n\r\n")
            assert wait_until(lambda: in_flight(daemon) == 1, PATIENCE)
            daemon.process.send_signal(signal.SIGTERM)
            assert wait_until(lambda: daemon.events("daemon.stop_requested"), PATIENCE)
            assert daemon.stop(timeout=PATIENCE) == 0
        assert not any(map(is_alive, pids))
        assert os.listdir(daemon.runtime_dir) == ["lock"]


def test_a_stop_while_it_starts_ends_it_too(tmp_path: Path) -> None:
    with Daemon(configuration(), tmp_path, ready_within=0) as daemon:
        assert wait_until(lambda: daemon.events("worker.started"), PATIENCE)
        pids = list(daemon.workers().values())
        assert daemon.stop(timeout=PATIENCE) == 0
        assert not any(map(is_alive, pids))
        assert "listening" not in daemon.stdout


# ---- other signals


def test_signals_that_change_nothing(tmp_path: Path) -> None:
    """A terminal's Ctrl-C reaches the workers too: they leave it to the supervisor. SIGHUP is answered in the log."""
    with Daemon(configuration(shutdown_delay="60s"), tmp_path) as daemon:
        for pid in daemon.workers().values():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
                os.kill(pid, number)
        daemon.process.send_signal(signal.SIGHUP)
        assert wait_until(lambda: daemon.events("config.reload_unsupported"), PATIENCE)
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
