"""Three real balancers share their health checks: each backend is probed by one, and nobody depends on that one."""

import asyncio
import base64
import http.client
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from balancer.daemon.cluster.check_results import PREFIX, place_of, publication_in
from tests.support.coordination_etcd import Etcd
from tests.support.daemon import Daemon, wait_until
from tests.support.etcd_versions import require_etcd
from tests.support.ports import free_ports
from tests.support.queries import event_time, metric
from tests.support.steady_load import SteadyLoad
from tests.support.three_balancers import PATIENCE, Three, ask, members_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

COUNT = 6
INTERVAL = 0.5
AGAIN_WITHIN = 3.0
"""Seconds from a balancer's death to the next probe of what it checked."""


class Backends:
    """Servers that answer everything with "ok" and note when they were asked for /healthz. In a thread of their own."""

    def __init__(self, count: int) -> None:
        self.ports = free_ports(count)
        self.probed: dict[int, list[float]] = {port: [] for port in self.ports}
        self._servers: dict[int, asyncio.Server] = {}
        self._writers: dict[int, set[asyncio.StreamWriter]] = {port: set() for port in self.ports}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="backends")

    def __enter__(self) -> Self:
        self._thread.start()
        for port in self.ports:
            self.start(port)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for port in list(self._servers):
            self.die(port)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def start(self, port: int) -> None:
        """It listens, for the first time or again."""

        async def begin() -> None:
            self._servers[port] = await asyncio.start_server(
                lambda reader, writer: self._serve(port, reader, writer), "127.0.0.1", port
            )

        asyncio.run_coroutine_threadsafe(begin(), self._loop).result(PATIENCE)

    def die(self, port: int) -> None:
        """It refuses from now on, and its connections break."""

        async def end() -> None:
            self._servers.pop(port).close()
            for writer in list(self._writers[port]):
                writer.transport.abort()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(PATIENCE)

    def probes(self, since: float) -> dict[int, int]:
        """By port, how many came since then."""
        return {port: len([at for at in self.probed[port] if at >= since]) for port in self.ports}

    async def _serve(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers[port].add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"GET /healthz "):
                    self.probed[port].append(time.monotonic())
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers[port].discard(writer)
            writer.close()


def extra(backends: Backends) -> dict[str, Any]:
    """What each of them has beside its coordination."""
    return {
        "routes": [{"name": "all", "pool": "web"}],
        "pools": {
            "web": {
                "backends": [{"name": f"b{port}", "address": f"127.0.0.1:{port}"} for port in backends.ports],
                "slow_start": "off",
                "health_check": {
                    "path": "/healthz",
                    "interval": f"{INTERVAL}s",
                    "fast_interval": "100ms",
                    "timeout": f"{INTERVAL}s",
                    "unhealthy_after": 2,
                },
            }
        },
        "coordination": {"share_checks": True},
    }


@contextmanager
def sharing(folder: Path, backends: Backends, etcd: Sequence[str] = ()) -> Iterator[Three]:
    """Three that have divided the checks."""
    with Three(folder, extra=lambda _: extra(backends), etcd=etcd) as three:
        assert wait_until(lambda: is_divided(list(three.daemons.values())), PATIENCE), three.said()
        yield three


@pytest.fixture(scope="module")
def backends() -> Iterator[Backends]:
    with Backends(COUNT) as made:
        yield made


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory, backends: Backends) -> Iterator[Three]:
    with sharing(tmp_path_factory.mktemp("three"), backends) as made:
        yield made


def checks(daemon: Daemon, how: str) -> int:
    """The metric."""
    return int(metric(daemon, rf'balancer_cluster_checks{{how="{how}"}}'))


def is_divided(daemons: Sequence[Daemon]) -> bool:
    """Each backend is checked by one of these, and the others are told."""
    own = [checks(daemon, "own") for daemon in daemons]
    return sum(own) == COUNT and all(
        checks(daemon, "others") == COUNT - n for daemon, n in zip(daemons, own, strict=True)
    )


def checked_by(client: int) -> dict[int, str]:
    """By port of the backend, the balancer that publishes its results."""

    def encoded(text: str) -> str:
        return base64.b64encode(text.encode()).decode()

    answer = ask(client, "/v3/kv/range", {"key": encoded(PREFIX), "range_end": encoded(PREFIX[:-1] + "0")})
    found = {}
    for kv in (answer or {}).get("kvs", ()):
        node = place_of(base64.b64decode(kv["key"])).node
        for result in publication_in(base64.b64decode(kv["value"])).results:
            found[int(result.backend[1:])] = node
    return found


def backends_at(daemon: Daemon) -> dict[int, dict[str, Any]]:
    """What the admin address tells, by port."""
    with closing(http.client.HTTPConnection(*daemon.admin_address, timeout=30)) as connection:
        connection.request("GET", "/api/v1/pools")
        (pool,) = json.load(connection.getresponse())["pools"]
    return {int(backend["name"][1:]): backend for backend in pool["backends"]}


def in_state(daemons: Sequence[Daemon], port: int, state: str) -> bool:
    return all(backends_at(daemon)[port]["state"] == state for daemon in daemons)


def assert_probed_once(backends: Backends, seconds: float) -> None:
    """About once per interval, and not once by each of three."""
    began = time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    for port, count in backends.probes(began).items():
        assert 0.5 * took / INTERVAL <= count <= 1.5 * took / INTERVAL + 1, (port, count, took)


@pytest.mark.full
def test_each_backend_is_probed_once_per_interval_and_not_by_each(three: Three, backends: Backends) -> None:
    assert_probed_once(backends, 10 * INTERVAL)
    assert set(checked_by(three.clients["n1"])) == set(backends.ports)


@pytest.mark.full
def test_a_backend_that_dies_and_comes_back_is_known_to_all_with_who_saw_it(three: Three, backends: Backends) -> None:
    port = backends.ports[0]
    by = checked_by(three.clients["n1"])[port]
    backends.die(port)
    try:
        assert wait_until(lambda: in_state(list(three.daemons.values()), port, "unhealthy"), PATIENCE), three.said()
        for name, daemon in three.daemons.items():
            evidence = backends_at(daemon)[port]["evidence"]
            assert evidence.startswith(f"by {by}: ") is (name != by), evidence
            assert "connection refused" in evidence
        told = [event_time(daemon.events("backend.became_unhealthy")[-1]) for daemon in three.daemons.values()]
        assert max(told) - min(told) < 2 * INTERVAL
    finally:
        backends.start(port)
    assert wait_until(lambda: in_state(list(three.daemons.values()), port, "up"), PATIENCE), three.said()


@pytest.mark.full
def test_traffic_flows_and_each_checks_for_itself_while_no_quorum_is_left(three: Three, backends: Backends) -> None:
    daemons = list(three.daemons.values())
    assert wait_until(lambda: is_divided(daemons), PATIENCE), three.said()
    stopped = [pid for name in ("n1", "n2") for pid in members_of(three.daemons[name])]
    loads = [SteadyLoad(daemon.address("web"), clients=2, body=b"ok", pause=0.02) for daemon in daemons]
    for load in loads:
        load.__enter__()
    try:
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        assert wait_until(lambda: all(checks(daemon, "own") == COUNT for daemon in daemons), PATIENCE), three.said()
        began = time.monotonic()
        time.sleep(6 * INTERVAL)
        took = time.monotonic() - began
        assert all(count >= 2 * took / INTERVAL for count in backends.probes(began).values())  # by three
        for load in loads:
            load.go_on(50)
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    try:
        assert wait_until(lambda: is_divided(daemons), PATIENCE), three.said()
        for load in loads:
            load.go_on(50)
    finally:
        for load in loads:
            load.stop()
    assert [load.failures for load in loads] == [[]] * 3
    for daemon in daemons:
        assert daemon.events("checks.fell_back")
        assert wait_until(lambda one=daemon: one.events("checks.were_shared_again"), PATIENCE)  # type: ignore[misc]
    assert_probed_once(backends, 10 * INTERVAL)


def kill_the_one_that_checks(three: Three, backends: Backends) -> None:
    """Kill -9, with a backend that dies in the same moment."""
    assert wait_until(lambda: len(checked_by(three.clients["n1"])) == COUNT, PATIENCE)
    by = checked_by(three.clients["n1"])
    names = list(by.values())
    port = max((port for port in backends.ports if by[port] != "n1"), key=lambda port: names.count(by[port]))
    victim = three.daemons[by[port]]
    left = [daemon for daemon in three.daemons.values() if daemon is not victim]
    orphans = [each for each in backends.ports if by[each] == by[port]]
    os.kill(victim.pid, signal.SIGKILL)
    began = time.monotonic()
    backends.die(port)
    try:
        others = [each for each in orphans if each != port]
        assert wait_until(lambda: all(backends.probes(began + 0.1)[each] for each in others), AGAIN_WITHIN), (
            three.said()
        )
        assert wait_until(lambda: in_state(left, port, "unhealthy"), began + AGAIN_WITHIN + 1.0 - time.monotonic())
        assert wait_until(lambda: is_divided(left), PATIENCE), three.said()
    finally:
        backends.start(port)
    assert wait_until(lambda: in_state(left, port, "up"), PATIENCE), three.said()
    three.start(by[port])
    assert wait_until(lambda: is_divided(list(three.daemons.values())), PATIENCE), three.said()


def test_what_a_killed_balancer_checked_is_probed_by_others_within_three_seconds(
    three: Three, backends: Backends
) -> None:
    kill_the_one_that_checks(three, backends)
    assert_probed_once(backends, 10 * INTERVAL)


@pytest.mark.full
def test_the_same_with_an_etcd(tmp_path: Path) -> None:
    require_etcd("3.4")
    folder = tmp_path / "etcd"
    folder.mkdir()
    with Backends(COUNT) as backends, Etcd(folder) as etcd, sharing(tmp_path, backends, etcd.urls) as three:
        assert_probed_once(backends, 10 * INTERVAL)
        kill_the_one_that_checks(three, backends)
