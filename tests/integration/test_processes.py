"""The daemon as processes: what is shared, what survives a death, and how all of it ends."""

import json
import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import issued
from tests.support.daemon import Daemon, is_alive, wait_until
from tests.support.echo_origin import running_origins
from tests.support.queries import (
    HELLO,
    PATIENCE,
    client_ports_of,
    configuration,
    descriptors_of,
    event_time,
    get,
    in_flight,
    metric,
    sockets_of,
)
from tests.support.steady_load import SteadyLoad

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

# ---- who serves what


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


# ---- deaths of workers


@pytest.fixture(scope="module")
def origins() -> Iterator[list[int]]:
    with running_origins(2) as ports:
        yield ports


@pytest.fixture(scope="module")
def origin(origins: list[int]) -> int:
    return origins[0]


def requests_at(ports: list[int]) -> list[int]:
    """How many requests each origin has had."""
    return [int(json.loads(get(("127.0.0.1", port), "/stats")[1])["requests"]) for port in ports]


def kill_round(daemon: Daemon, load: SteadyLoad, victim: int, origins: list[int]) -> float:
    """Kill a worker under load: its exchanges fail, and nothing else does. Returns the wall time of the kill."""
    _, port = daemon.address("web")
    load.go_on(20)
    counted = metric(daemon, "balancer_requests_total")
    pid = daemon.workers()[victim]
    os.kill(pid, signal.SIGSTOP)  # so that the set of its connections stands still
    assert wait_until(lambda: is_stopped(pid), PATIENCE)
    doomed = client_ports_of(pid, port)
    before = len(load.failures)
    killed = time.time()
    os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: not is_alive(pid), PATIENCE)
    load.go_on(20)
    failed = load.failures[before:]
    assert {failure.port for failure in failed} <= doomed, "nobody else's"
    assert len(failed) == len({failure.port for failure in failed}), "each once"
    assert {failure.kind for failure in failed} <= {"reset", "unanswered", "truncated"}
    assert metric(daemon, "balancer_requests_total") >= counted, "counters never go back"
    assert get(daemon.admin_address, "/readyz")[0] == 200
    had = requests_at(origins)
    load.go_on(200)
    picked = [now - then for now, then in zip(requests_at(origins), had, strict=True)]
    assert min(picked) > 0.3 * sum(picked), "what the dead one had in flight weighs no more"
    return killed


def ready_events(daemon: Daemon, worker: int) -> list[dict[str, Any]]:
    return [event for event in daemon.events("worker.became_ready") if event["worker"] == worker]


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.mark.timeout(120)
def test_a_killed_worker_takes_only_its_own_exchanges_along(tmp_path: Path, origins: list[int]) -> None:
    with Daemon(configuration(ports=origins), tmp_path) as daemon:
        get(daemon.admin_address, "/readyz")
        descriptors = descriptors_of(daemon.pid) + 1  # a connection to the admin address that is about to end
        with SteadyLoad(daemon.address("web"), clients=16, target="/?size=100") as load:
            for number in range(4):
                assert wait_until(lambda: len(ready_events(daemon, 0)) == number + 1, PATIENCE)  # noqa: B023
                kill_round(daemon, load, 0, origins)
        assert wait_until(lambda: in_flight(daemon) == 0, PATIENCE), "a dead worker's row is zeroed"
        assert wait_until(lambda: len(ready_events(daemon, 0)) == 5, PATIENCE)
        assert metric(daemon, "balancer_worker_restarts_total") == 4
        assert wait_until(lambda: descriptors_of(daemon.pid) <= descriptors, PATIENCE), "none is left of the dead"
        assert [event["delay_ms"] for event in daemon.events("worker.restart_delayed")] == [100, 200, 400]


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_30_rounds_of_killing_under_load(tmp_path: Path, origins: list[int]) -> None:
    with Daemon(configuration(ports=origins), tmp_path) as daemon:
        with SteadyLoad(daemon.address("web"), clients=16, target="/?size=100", pause=0.02) as load:
            for number in range(30):
                assert wait_until(lambda: len(ready_events(daemon, 0)) == number + 1, 60.0)  # noqa: B023
                killed = kill_round(daemon, load, 0, origins)
                if number == 0:  # no death before it: it is back at once
                    assert wait_until(lambda: len(ready_events(daemon, 0)) == 2, PATIENCE)
                    assert event_time(ready_events(daemon, 0)[1]) - killed < 1.0
        delays = [event["delay_ms"] for event in daemon.events("worker.restart_delayed")]
        assert max(delays) == 30_000, "rounds of the longest wait are among them"
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
