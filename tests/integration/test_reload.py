"""Another configuration while traffic goes on: nothing is lost, and a file that cannot be used changes nothing."""

import http.client
import json
import os
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.certificates import issued
from tests.support.daemon import Daemon, is_alive, wait_until
from tests.support.echo_origin import running_origins
from tests.support.queries import (
    HELLO,
    PATIENCE,
    configuration,
    descriptors_of,
    get,
    in_flight,
    metric,
)
from tests.support.steady_load import SteadyLoad

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

ENDS = ("config.reloaded", "config.reload_unneeded", "config.reload_refused")


@pytest.fixture(scope="module")
def origins() -> Iterator[list[int]]:
    with running_origins(3) as ports:
        yield ports


def write(daemon: Daemon, new: dict[str, Any] | str) -> None:
    """The file as it is to be from now on, put there as an editor does."""
    text = new if isinstance(new, str) else daemon._with_defaults(yaml.safe_dump(new, sort_keys=False))
    partial = daemon.config_path.with_suffix(".new")
    partial.write_text(text)
    partial.rename(daemon.config_path)


def ends(daemon: Daemon) -> list[dict[str, Any]]:
    return [event for event in daemon.events() if event["event"] in ENDS]


def reload(daemon: Daemon, new: dict[str, Any] | str | None = None) -> dict[str, Any]:
    """Write the file, send SIGHUP, and give the event that tells how it ended."""
    if new is not None:
        write(daemon, new)
    before = len(ends(daemon))
    daemon.process.send_signal(signal.SIGHUP)
    assert wait_until(lambda: len(ends(daemon)) > before, PATIENCE), daemon.stderr
    return ends(daemon)[before]


def ask_for_reload(daemon: Daemon) -> None:
    """By the admin API; returns with its answer, whatever that is."""
    with closing(http.client.HTTPConnection(*daemon.admin_address, timeout=PATIENCE)) as connection:
        connection.request("POST", "/api/v1/reload", b"", {"Content-Type": "application/json"})
        connection.getresponse().read()


def reloaded(daemon: Daemon, new: dict[str, Any]) -> list[str]:
    """Reload, which must go well. Returns what changed, in words."""
    event = reload(daemon, new)
    assert event["event"] == "config.reloaded", event
    changes: list[str] = event["changes"]
    return changes


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def served(daemon: Daemon) -> set[str]:
    """Backends with attempts that were counted."""
    _, text = get(daemon.admin_address, "/metrics")
    lines = [line for line in text.decode().splitlines() if line.startswith("balancer_backend_requests_total{")]
    return {line.partition('backend="')[2].partition('"')[0] for line in lines if not line.endswith(" 0")}


def named(daemon: Daemon, label: str) -> set[str]:
    """Every value that a label has in the metrics."""
    _, text = get(daemon.admin_address, "/metrics")
    return {part.partition('"')[0] for part in text.decode().split(f'{label}="')[1:]}


# ---- backends and routes


def test_reloads_under_keep_alive_requests_lose_nothing(tmp_path: Path, origins: list[int]) -> None:
    with Daemon(configuration(ports=origins[:2]), tmp_path) as daemon:
        pids = daemon.workers()
        with SteadyLoad(daemon.address("web"), clients=16, target="/?size=100") as load:
            for number in range(40):
                load.go_on(5)
                more = {"strategy": "round_robin" if number % 2 else "weighted", "tunnel_idle": f"{10 + number}s"}
                new = configuration(ports=origins[number % 2 :][:2])
                new["pools"]["origins"] |= more
                new["listeners"]["web"] |= {
                    "forwarded": number % 3 == 0,
                    "timeouts": {"keepalive_idle": f"{60 + number}s"},
                }
                assert reloaded(daemon, new)
            load.go_on(50)
        assert not daemon.events("library.logged")
        assert not daemon.events("worker.ended")
        assert load.failures == []
        assert load.connected == 16, "not one connection was closed"
        assert daemon.workers() == pids
        assert metric(daemon, "balancer_config_generation") == 41
        assert metric(daemon, "balancer_config_reloads_total") == 40
        assert metric(daemon, "balancer_config_last_reload_success") == 1
        assert in_flight(daemon) == 0
        assert not daemon.events("worker.failed")


def test_backends_come_and_go_and_so_do_their_series(tmp_path: Path, origins: list[int]) -> None:
    a, b, c = (f"127.0.0.1:{port}" for port in origins)
    with Daemon(configuration(ports=origins[:2]), tmp_path) as daemon:
        for _ in range(20):
            assert get(daemon.address("web"), "/")[0] == 200
        assert served(daemon) == {a, b}
        assert reloaded(daemon, configuration(ports=origins[1:])) == [f"pool origins: +1 backend ({c}), {a} drains"]
        for _ in range(20):
            assert get(daemon.address("web"), "/")[0] == 200
        assert wait_until(lambda: served(daemon) == {b, c}, PATIENCE), "the series of what is gone are gone"
        assert wait_until(lambda: named(daemon, "backend") == {b, c}, PATIENCE)
        _, text = get(daemon.admin_address, "/api/v1/pools")
        [pool] = json.loads(text)["pools"]
        assert [backend["name"] for backend in pool["backends"]] == [b, c]


def test_a_new_backend_has_traffic_at_once(tmp_path: Path, origins: list[int]) -> None:
    with Daemon(configuration(ports=origins[:1]), tmp_path) as daemon:
        new = f"127.0.0.1:{origins[1]}"
        with SteadyLoad(daemon.address("web"), clients=8) as load:
            load.go_on(20)
            reloaded(daemon, configuration(ports=origins[:2]))
            load.go_on(40)
        assert new in served(daemon)
        assert load.failures == []


def test_routes_come_go_and_change_their_order(tmp_path: Path, origins: list[int]) -> None:
    first = {"name": "first", "match": {"headers": {"x-a": "*"}}, "respond": {"status": 201}}
    second = {"name": "second", "match": {"path_prefix": "/b"}, "respond": {"status": 202}}
    base = configuration(ports=origins[:1])
    rest = base["routes"]

    def with_both() -> bytes:
        with socket.create_connection(daemon.address("web"), timeout=PATIENCE) as client:
            client.sendall(b"GET /b HTTP/1.1\r\nHost: x\r\nX-A: 1\r\n\r\n")
            return client.recv(65536)[9:12]

    with Daemon(base, tmp_path) as daemon:
        assert reloaded(daemon, base | {"routes": [first, second, *rest]}) == [
            "listener web: also serves first and second",
            "route first: new",
            "route second: new",
        ]
        assert with_both() == b"201"
        assert reloaded(daemon, base | {"routes": [second, first, *rest]}) == ["route second: now comes before first"]
        assert with_both() == b"202"
        assert {"first", "second"} <= named(daemon, "route")
        del second["respond"]
        reloaded(daemon, base | {"routes": [second | {"redirect": {"to": "/c"}}, *rest]})
        assert with_both() == b"308"
        assert wait_until(lambda: "first" not in named(daemon, "route"), PATIENCE)


def test_nothing_new_in_the_file_is_no_new_generation(tmp_path: Path) -> None:
    with Daemon(configuration(), tmp_path) as daemon:
        assert reload(daemon)["event"] == "config.reload_unneeded"
        assert metric(daemon, "balancer_config_generation") == 1
        assert metric(daemon, "balancer_config_reloads_total") == 1


# ---- listeners


@contextmanager
def steady(daemon: Daemon, address: tuple[str, int], **more: Any) -> Iterator[SteadyLoad]:
    with SteadyLoad(address, clients=8, target="/hello", body=HELLO, **more) as load:
        load.go_on(20)
        yield load


def refused(address: tuple[str, int]) -> bool:
    try:
        with socket.create_connection(address, timeout=PATIENCE):
            return False
    except ConnectionRefusedError:
        return True


def test_listeners_are_added_removed_and_rebound(tmp_path: Path) -> None:
    ports = [free_port() for _ in range(3)]
    with Daemon(configuration(), tmp_path) as daemon:
        with steady(daemon, daemon.address("web")) as load:
            more = {"bind": f"127.0.0.1:{ports[0]}"}
            listeners = {"web": {"bind": "127.0.0.1:0"}, "more": more}
            assert reloaded(daemon, configuration(listeners=listeners)) == ["listener more: new"]
            assert get(("127.0.0.1", ports[0]), "/hello") == (200, HELLO)
            with steady(daemon, ("127.0.0.1", ports[0])) as other:
                more["bind"] = [f"127.0.0.1:{ports[1]}", f"unix:{tmp_path}/s"]
                [words] = reloaded(daemon, configuration(listeners=listeners))
                assert words.startswith("listener more: also listens on 127.0.0.1:")
                assert get(("127.0.0.1", ports[1]), "/hello") == (200, HELLO)
                assert wait_until(lambda: refused(("127.0.0.1", ports[0])), PATIENCE)
                other.go_on(50)  # its connections live on, as the listener does
            assert other.failures == []
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(f"{tmp_path}/s")
                client.sendall(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
                assert client.recv(65536).endswith(HELLO)
            assert reloaded(daemon, configuration()) == ["listener more: removed"]
            assert wait_until(lambda: refused(("127.0.0.1", ports[1])), PATIENCE)
            assert not os.path.exists(f"{tmp_path}/s")
            assert get(daemon.address("web"), "/hello") == (200, HELLO)
            assert wait_until(lambda: "more" not in named(daemon, "listener"), PATIENCE)
            load.go_on(20)
        assert load.failures == []


def test_clients_of_a_removed_listener_are_refused_only_once_it_is_gone(tmp_path: Path) -> None:
    port = free_port()
    listeners = {"web": {"bind": "127.0.0.1:0"}, "old": {"bind": f"127.0.0.1:{port}"}}
    with Daemon(configuration(listeners=listeners), tmp_path) as daemon:
        with SteadyLoad(("127.0.0.1", port), clients=16, target="/hello", body=HELLO) as load:
            load.go_on(100)
            reloaded(daemon, configuration())
            closed = time.time()
            assert wait_until(lambda: refused(("127.0.0.1", port)), PATIENCE)
            assert wait_until(lambda: load.kinds().get("refused", 0) >= 16, PATIENCE)
        assert set(load.kinds()) == {"refused"}, "every connection was ended by an answer that said so"
        first = min(failure.at for failure in load.failures)
        [gone] = [event for event in daemon.events("listener.closed") if event["listener"] == "old"]
        assert first > closed - 2.0
        assert gone["address"] == f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("workers", [1, 2])
def test_an_address_changes_hands_without_a_gap(tmp_path: Path, workers: int) -> None:
    port = free_port()
    first = {"all": {"bind": f"0.0.0.0:{port}", "routes": ["hello"]}}
    then: list[dict[str, Any]] = [
        {"renamed": {"bind": f"0.0.0.0:{port}"}},
        {"renamed": {"bind": f"127.0.0.1:{port}"}},
        {"renamed": {"bind": f"0.0.0.0:{port}"}},
    ]
    with Daemon(configuration(workers=workers, listeners=first), tmp_path) as daemon:
        with SteadyLoad(("127.0.0.1", port), clients=8, target="/hello", body=HELLO) as load:
            for listeners in then:
                load.go_on(50)
                reloaded(daemon, configuration(workers=workers, listeners=listeners))
            load.go_on(50)
        assert load.failures == []
        assert not daemon.events("worker.failed")


def test_what_cannot_be_bound_is_refused_and_leaves_nothing_behind(tmp_path: Path) -> None:
    free = free_port()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Daemon(configuration(), tmp_path) as daemon:
            listeners = {"web": {"bind": ["127.0.0.1:0", f"127.0.0.1:{free}", f"127.0.0.1:{port}"]}}
            event = reload(daemon, configuration(listeners=listeners))
            assert event["event"] == "config.reload_refused"
            assert event["problems"][0].startswith(f"cannot bind 127.0.0.1:{port}: address already in use")
            assert refused(("127.0.0.1", free))
            assert get(daemon.address("web"), "/hello") == (200, HELLO)


# ---- certificates


def secure(cert: Path, key: Path) -> dict[str, Any]:
    tls = {"certificates": [{"cert": str(cert), "key": str(key)}]}
    return {"secure": {"bind": "127.0.0.1:0", "tls": tls}}


def tls_client(address: tuple[str, int]) -> ssl.SSLSocket:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(socket.create_connection(address, timeout=PATIENCE))


def asked(client: socket.socket, target: str = "/hello") -> bytes:
    client.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return client.recv(65536)


def test_a_renewed_certificate_is_served_to_new_connections_and_old_ones_live_on(tmp_path: Path) -> None:
    one, two = issued("one.example"), issued("two.example")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(one.cert)
    key.write_bytes(one.key)
    with Daemon(configuration(listeners=secure(cert, key)), tmp_path) as daemon:
        address = daemon.address("secure")
        with tls_client(address) as old:
            before = old.getpeercert(binary_form=True)
            assert asked(old).endswith(HELLO)
            cert.write_bytes(two.cert)
            event = reload(daemon)
            assert event["event"] == "config.reload_refused", "a certificate without its key"
            assert str(key) in event["problems"][0]
            key.write_bytes(two.key)
            assert reload(daemon)["changes"] == ["listener secure: its TLS files have changed"]
            for _ in range(4):
                with tls_client(address) as new:
                    assert new.getpeercert(binary_form=True) != before
                    assert asked(new).endswith(HELLO)
            assert asked(old).endswith(HELLO)


def test_a_listener_that_gets_tls_keeps_its_address(tmp_path: Path) -> None:
    pair = issued("one.example")
    port = free_port()
    plain = {"web": {"bind": f"127.0.0.1:{port}"}}
    tls = {"web": {**plain["web"], "tls": secure(pair.cert_path, pair.key_path)["secure"]["tls"]}}
    with Daemon(configuration(listeners=plain), tmp_path) as daemon:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
            assert asked(client).endswith(HELLO)
            assert reloaded(daemon, configuration(listeners=tls)) == ["listener web: speaks TLS"]
            answer = asked(client)
            assert answer.endswith(HELLO)
            assert b"\r\nconnection: close\r\n" in answer.lower()
        for _ in range(4):
            with tls_client(("127.0.0.1", port)) as secured:
                assert asked(secured).endswith(HELLO)
        reloaded(daemon, configuration(listeners=plain))
        assert get(("127.0.0.1", port), "/hello") == (200, HELLO)


# ---- what is refused


BAD: list[tuple[str, Callable[[dict[str, Any]], Any], str]] = [
    ("not YAML", lambda new: "listeners: [", "balancer.yaml:"),
    ("empty", lambda new: "", "balancer.yaml:1:1"),
    ("an unknown key", lambda new: new | {"listenres": {}}, "unknown key"),
    ("a pool that is not there", lambda new: new | {"pools": {}}, "origins"),
    ("a number that is none", lambda new: new | {"workers": "many"}, "workers"),
    ("another runtime_dir", lambda new: new | {"runtime_dir": "/tmp/elsewhere"}, "runtime_dir: "),
    ("another admin address", lambda new: new | {"admin": {"bind": "127.0.0.1:1"}}, "admin.bind: "),
    ("another access log", lambda new: new | {"log": {"access": "stdout"}}, "log.access: "),
    ("a TLS file that is missing", lambda new: new | {"listeners": secure(Path("/no/c"), Path("/no/k"))}, "/no/c"),
    ("more workers than there is room for", lambda new: new | {"workers": 200}, "workers: "),
]


def test_a_file_that_cannot_be_used_changes_nothing_and_says_why(tmp_path: Path, origins: list[int]) -> None:
    good = configuration(ports=origins[:2])
    with Daemon(good, tmp_path) as daemon:
        with SteadyLoad(daemon.address("web"), clients=8, target="/?size=100") as load:
            load.go_on(20)
            pids, open_before = daemon.workers(), descriptors_of(daemon.pid)
            for name, spoil, said in BAD:
                event = reload(daemon, spoil(dict(good)))
                assert event["event"] == "config.reload_refused", name
                assert any(said in problem for problem in event["problems"]), (name, event["problems"])
                assert event["generation"] == 1
                assert metric(daemon, "balancer_config_last_reload_success") == 0
                load.go_on(5)
            assert metric(daemon, "balancer_config_reloads_total") == len(BAD)
            assert metric(daemon, "balancer_config_generation") == 1
            good["pools"]["origins"]["tunnel_idle"] = "9s"
            assert reloaded(daemon, good) == ["pool origins: tunnel_idle 3600s becomes 9s"]
            assert metric(daemon, "balancer_config_last_reload_success") == 1
            assert daemon.workers() == pids
        assert load.failures == []
        assert wait_until(lambda: descriptors_of(daemon.pid) <= open_before + 3, PATIENCE), "none is left open"


def test_a_file_that_is_gone_is_refused(tmp_path: Path) -> None:
    with Daemon(configuration(), tmp_path) as daemon:
        daemon.config_path.rename(tmp_path / "away")
        event = reload(daemon)
        assert event["problems"] == [f"{daemon.config_path}: no such file; give the path of a configuration file"]
        (tmp_path / "away").rename(daemon.config_path)
        assert reload(daemon)["event"] == "config.reload_unneeded"


# ---- long exchanges and tunnels


@contextmanager
def tunnel_origin() -> Iterator[int]:
    """Answers every request with 101 and then sends back what comes."""
    listening = socket.create_server(("127.0.0.1", 0))

    def echo(sock: socket.socket) -> None:
        with sock:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                data = sock.recv(65536)
                if not data:
                    return
                head += data
            sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
            while data := sock.recv(65536):
                sock.sendall(data)

    def serve() -> None:
        while True:
            try:
                sock, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=echo, args=(sock,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()


def test_tunnels_and_slow_downloads_live_on_even_when_their_backend_is_removed(
    tmp_path: Path, origins: list[int]
) -> None:
    size = 30_000_000
    with tunnel_origin() as port:
        base = configuration(ports=origins[:1])
        base["pools"]["tunnels"] = {"backends": [f"127.0.0.1:{port}"]}
        base["routes"].insert(0, {"name": "tunnel", "match": {"path": "/tunnel"}, "pool": "tunnels"})
        with Daemon(base, tmp_path) as daemon:
            tunnel = socket.create_connection(daemon.address("web"), timeout=PATIENCE)
            tunnel.sendall(b"GET /tunnel HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
            assert tunnel.recv(65536).startswith(b"HTTP/1.1 101 ")
            download = socket.create_connection(daemon.address("web"), timeout=PATIENCE)
            download.sendall(f"GET /?size={size} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            got = len(download.recv(1000).partition(b"\r\n\r\n")[2])
            for number in range(4):
                without = configuration(ports=origins[1:2], shutdown_delay=f"{number + 1}s")
                assert reloaded(daemon, without if number % 2 == 0 else base)
                tunnel.sendall(b"still here")
                assert tunnel.recv(100) == b"still here"
                got += len(download.recv(100_000))
            reloaded(daemon, configuration(ports=origins[1:2]))
            assert in_flight(daemon) == 0, "at the backends that the configuration has"
            assert {"tunnels"} <= named(daemon, "pool"), "as long as something is in flight there"
            while got < size:
                data = download.recv(1_000_000)
                assert data, f"cut after {got} of {size} bytes"
                got += len(data)
            tunnel.sendall(b"and here")
            assert tunnel.recv(100) == b"and here"
            tunnel.close()
            download.close()
            assert wait_until(lambda: "tunnels" not in named(daemon, "pool"), PATIENCE)


# ---- workers


def test_the_number_of_workers_changes_while_it_serves(tmp_path: Path, origins: list[int]) -> None:
    with Daemon(configuration(workers=2, ports=origins), tmp_path) as daemon:
        with SteadyLoad(daemon.address("web"), clients=16, target="/?size=100") as load:
            for count in (4, 1, 3):
                load.go_on(50)
                assert reloaded(daemon, configuration(workers=count, ports=origins))[0].startswith("workers: ")
                assert wait_until(lambda: len(daemon.workers()) == count, PATIENCE)  # noqa: B023
                assert wait_until(lambda: metric(daemon, "balancer_worker_up") == count, PATIENCE)  # noqa: B023
                for _ in range(20):
                    assert get(daemon.address("web"), "/hello") == (200, HELLO)
            load.go_on(50)
        assert load.failures == []
        assert not daemon.events("worker.failed")
        assert metric(daemon, "balancer_worker_restarts_total") == 0
        assert wait_until(lambda: in_flight(daemon) == 0, PATIENCE)
        assert daemon.stop() == 0


def test_a_worker_that_is_to_end_waits_for_its_tunnels_and_another_serves_its_sockets(tmp_path: Path) -> None:
    with tunnel_origin() as port, Daemon(configuration(workers=3, ports=[port]), tmp_path) as daemon:
        tunnels = []
        for _ in range(12):
            tunnel = socket.create_connection(daemon.address("web"), timeout=PATIENCE)
            tunnel.sendall(b"GET /t HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
            assert tunnel.recv(65536).startswith(b"HTTP/1.1 101 ")
            tunnels.append(tunnel)
        reloaded(daemon, configuration(workers=1, ports=[port]))
        for _ in range(30):
            assert get(daemon.address("web"), "/hello") == (200, HELLO)
        for tunnel in tunnels:
            tunnel.sendall(b"x")
            assert tunnel.recv(10) == b"x"
        assert len(daemon.workers()) > 1, "they wait"
        assert in_flight(daemon) == 12
        for tunnel in tunnels:
            tunnel.close()
        assert wait_until(lambda: len(daemon.workers()) == 1, PATIENCE)
        for _ in range(30):
            assert get(daemon.address("web"), "/hello") == (200, HELLO)
        assert {event["asked"] for event in daemon.events("worker.ended")} == {True}


def test_the_log_level_changes_everywhere(tmp_path: Path) -> None:
    def told() -> list[dict[str, Any]]:
        return daemon.events("attempt.failed")

    with Daemon(configuration(ports=[free_port()]), tmp_path) as daemon:
        assert get(daemon.address("web"), "/")[0] in (502, 503)
        assert not told()
        reloaded(daemon, configuration(ports=[free_port()], log={"level": "debug", "access": "off"}))
        for _ in range(10):
            get(daemon.address("web"), "/")
        assert wait_until(told, PATIENCE)


# ---- deaths


def stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_a_worker_that_dies_while_it_prepares_leaves_everything_as_it_was(tmp_path: Path, origins: list[int]) -> None:
    with Daemon(configuration(ports=origins[:1]), tmp_path) as daemon:
        victim = daemon.workers()[1]
        os.kill(victim, signal.SIGSTOP)
        assert wait_until(lambda: stopped(victim), PATIENCE)
        port = free_port()
        new = configuration(ports=origins[1:2], listeners={"web": {"bind": ["127.0.0.1:0", f"127.0.0.1:{port}"]}})
        write(daemon, new)
        asking = threading.Thread(target=ask_for_reload, args=(daemon,))  # who waits for the answer tries again himself
        asking.start()
        assert wait_until(lambda: not refused(("127.0.0.1", port)), PATIENCE), "bound, and about to be prepared"
        assert not ends(daemon)
        os.kill(victim, signal.SIGKILL)
        asking.join(PATIENCE)
        [event] = ends(daemon)
        assert event["event"] == "config.reload_refused"
        assert event["problems"][0].startswith("worker 1")
        assert refused(("127.0.0.1", port)), "what was bound for it is closed"
        assert wait_until(lambda: 1 in daemon.workers() and daemon.workers()[1] != victim, PATIENCE)
        for _ in range(10):
            assert get(daemon.address("web"), "/")[0] == 200
        assert served(daemon) == {f"127.0.0.1:{origins[0]}"}
        assert reload(daemon)["event"] == "config.reloaded"
        assert get(("127.0.0.1", port), "/hello") == (200, HELLO)


def test_a_worker_that_dies_after_the_commit_comes_back_with_the_new_configuration(
    tmp_path: Path, origins: list[int]
) -> None:
    with Daemon(configuration(ports=origins[:1]), tmp_path) as daemon:
        reloaded(daemon, configuration(ports=origins[1:2]))
        victims = daemon.workers()
        for pid in victims.values():
            os.kill(pid, signal.SIGKILL)
        assert wait_until(lambda: not any(map(is_alive, victims.values())), PATIENCE)
        assert wait_until(lambda: get(daemon.admin_address, "/readyz")[0] == 200, PATIENCE)
        assert wait_until(lambda: len(daemon.events("worker.became_ready")) == 4, PATIENCE)
        assert {event["generation"] for event in daemon.events("worker.became_ready")[2:]} == {2}
        for _ in range(10):
            assert get(daemon.address("web"), "/")[0] == 200
        assert served(daemon) == {f"127.0.0.1:{origins[1]}"}


def test_reloads_while_workers_are_killed_end_with_one_truth(tmp_path: Path, origins: list[int]) -> None:
    with Daemon(configuration(workers=3, ports=origins[:1]), tmp_path) as daemon:
        for number in range(8):
            write(daemon, configuration(workers=3, ports=[origins[number % 2]]))
            os.kill(daemon.process.pid, signal.SIGHUP)
            victims = list(daemon.workers().values())
            if victims:
                os.kill(victims[number % len(victims)], signal.SIGKILL)
            time.sleep(0.05 * (number % 4))
        assert wait_until(lambda: len(daemon.workers()) == 3, PATIENCE)
        assert wait_until(lambda: metric(daemon, "balancer_worker_up") == 3, PATIENCE)
        while reload(daemon)["event"] != "config.reload_unneeded":
            continue
        for _ in range(30):
            assert get(daemon.address("web"), "/")[0] == 200
        assert wait_until(lambda: named(daemon, "backend") == {f"127.0.0.1:{origins[1]}"}, PATIENCE)


# ---- watching


def test_a_watched_file_is_reloaded_when_an_editor_or_a_link_swap_changes_it(tmp_path: Path) -> None:
    def generation() -> float:
        return metric(daemon, "balancer_config_generation")

    with Daemon(configuration(watch=True), tmp_path) as daemon:
        text = daemon.config_path.read_text()
        time.sleep(0.6)  # the first look is the one that others are compared with
        write(daemon, text.replace("hello", "hullo"))
        assert wait_until(lambda: generation() == 2, PATIENCE), "replaced"
        daemon.config_path.write_text(text)
        assert wait_until(lambda: generation() == 3, PATIENCE), "written in place"
        for name in ("first", "second"):
            (tmp_path / name).mkdir()
        (tmp_path / "first" / "f").write_text(text.replace("hello", "first"))
        (tmp_path / "second" / "f").write_text(text.replace("hello", "second"))
        (tmp_path / "..data").symlink_to("first")
        (tmp_path / "link").symlink_to("..data/f")
        (tmp_path / "link").rename(daemon.config_path)
        assert wait_until(lambda: generation() == 4, PATIENCE), "a link now"
        assert get(daemon.address("web"), "/first")[0] == 200
        (tmp_path / "..new").symlink_to("second")
        (tmp_path / "..new").rename(tmp_path / "..data")
        assert wait_until(lambda: generation() == 5, PATIENCE), "the link to the folder was swapped"
        assert get(daemon.address("web"), "/second")[0] == 200
        write(daemon, text.replace("watch: true", "watch: false"))
        assert wait_until(lambda: generation() == 6, PATIENCE)
        daemon.config_path.write_text(text.replace("watch: true", "").replace("hello", "more"))
        time.sleep(1.5)
        assert generation() == 6, "nobody watches any more"


def test_signals_that_come_together_are_answered_by_few_reloads(tmp_path: Path) -> None:
    with Daemon(configuration(), tmp_path) as daemon:
        write(daemon, configuration(shutdown_delay="1s"))
        for _ in range(50):
            daemon.process.send_signal(signal.SIGHUP)
            time.sleep(0.001)
        assert wait_until(lambda: daemon.events("config.reloaded"), PATIENCE)
        assert reload(daemon)["event"] == "config.reload_unneeded"
        assert len(ends(daemon)) <= 6
        assert len(daemon.events("config.reloaded")) == 1


def test_a_stop_during_a_reload_is_a_stop(tmp_path: Path) -> None:
    with Daemon(configuration(), tmp_path) as daemon:
        pids = daemon.workers()
        write(daemon, configuration(workers=1))
        daemon.process.send_signal(signal.SIGHUP)
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(PATIENCE) == 0
        assert not any(map(is_alive, pids.values()))


# ---- signals while it starts, and workers that fail in a reload


def _holds_back(pid: int, number: signal.Signals) -> bool:
    """The process has this signal blocked, or handles it."""
    status = Path(f"/proc/{pid}/status").read_text()
    masks = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigBlk:", "SigCgt:"))]
    return any(mask >> (number - 1) & 1 for mask in masks)


def test_a_sighup_while_it_starts_is_a_reload_once_it_serves(tmp_path: Path) -> None:
    with Daemon(configuration(), tmp_path, ready_within=0) as daemon:
        assert wait_until(lambda: _holds_back(daemon.process.pid, signal.SIGHUP), PATIENCE)
        daemon.process.send_signal(signal.SIGHUP)
        assert wait_until(daemon.is_ready, PATIENCE)
        assert wait_until(lambda: daemon.events("config.reload_unneeded"), PATIENCE)


def test_a_reload_that_only_a_worker_failed_is_tried_again(tmp_path: Path) -> None:
    """Nobody waits for the answer to a SIGHUP who could ask again."""
    with Daemon(configuration(), tmp_path) as daemon:
        pid = next(iter(daemon.workers().values()))
        os.kill(pid, signal.SIGSTOP)  # it is silent, and killed for it
        write(daemon, configuration(via="another"))
        daemon.process.send_signal(signal.SIGHUP)
        assert wait_until(lambda: daemon.events("config.reload_refused"), PATIENCE)
        assert wait_until(lambda: daemon.events("config.reloaded"), PATIENCE)
