"""Reload after reload under load: nothing fails, nothing is cut, nothing is left of what was replaced."""

import asyncio
import gc
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
import uvloop
import yaml

from balancer.balancing.backend import LoadTable
from balancer.clock import monotonic
from balancer.config.load import load
from balancer.config.model import ResolvedBackend
from balancer.proxy.server import ProxyServer
from balancer.proxy.snapshot import Snapshot
from balancer.telemetry.registry import Registry
from tests.support.certificates import Pair, issued
from tests.support.daemon import Daemon, children_of, wait_until
from tests.support.echo_origin import running_origins
from tests.support.long_load import Clients, Entry, LongLoad
from tests.support.queries import PATIENCE, descriptors_of, get, in_flight, metric
from tests.support.reloads import ConfigFile, Reloaded, by_command, by_request, by_signal
from tests.support.websocket_origin import running_websocket_origins

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
FULL = (pytest.mark.full, pytest.mark.timeout(900))

MIB = 1 << 20
GROWTH_MAX = 8 * MIB
WARM_UP = 20  # reloads after which memory is looked at for the first time
WRK_CONNECTIONS = 16
WRK_PAUSE_MS = 10


# ---- what is changed, and what is true then


class Site:
    """The configuration in the file. Every step changes one thing of it, and `look` tells whether that is so."""

    def __init__(self, web: list[int], long: list[int], ws: list[int], folder: Path) -> None:
        self._ports = {"web": web, "long": long, "ws": ws}
        self._used = {name: len(ports) for name, ports in self._ports.items()}
        self._pairs = [issued("test.example", common_name=name) for name in ("one", "two")]
        self._cert, self._key = folder / "cert.pem", folder / "key.pem"
        self._extra_path = str(folder / "extra.sock")
        self._extra_port = port_beside_the_ephemeral()
        self._edits = 0
        self._turned = False
        self._extra = False
        self._more = False
        self._certificate = 0
        self._strategy = "round_robin"
        self._put_certificate()
        self.steps: list[Callable[[], None]] = [
            self._edit_a_header,
            lambda: self._add_or_remove_a_backend("web"),
            self._move_a_route,
            self._replace_the_certificate,
            self._add_or_remove_a_listener,
            lambda: self._add_or_remove_a_backend("long"),
            self._change_the_strategy,
            lambda: self._add_or_remove_a_backend("ws"),
            self._add_or_remove_a_pool,
            self._change_several_things,
        ]

    def step(self, number: int) -> None:
        """The change of this number; they take turns."""
        self.steps[number % len(self.steps)]()

    def config(self) -> dict[str, Any]:
        """The configuration as it is to be in the file."""
        tls = {"certificates": [{"cert": str(self._cert), "key": str(self._key)}]}
        listeners: dict[str, Any] = {
            name: {"bind": "127.0.0.1:0", **({"tls": tls} if "secure" in name else {})}
            for name in ("web", "web_secure", "long", "long_secure")
        }
        if self._extra:
            listeners["extra"] = {"bind": [f"127.0.0.1:{self._extra_port}", f"unix:{self._extra_path}"]}
        near = {"name": "near", "match": {"path": "/moved", "methods": ["GET"]}, "respond": {"body": "near"}}
        far = {"name": "far", "match": {"path": "/moved", "query": {"q": "*"}}, "respond": {"body": "far"}}
        headers = {"response": {"set": {"X-Edit": str(self._edits)}}}
        return {
            "workers": 2,
            "listeners": listeners,
            "routes": [
                {"name": "edited", "match": {"path": "/edited"}, "respond": {"body": str(self._edits)}},
                *([far, near] if self._turned else [near, far]),
                {"name": "ws", "match": {"path_prefix": "/ws"}, "pool": "ws"},
                {"name": "long", "match": {"path_prefix": "/long"}, "pool": "long"},
                *([{"name": "more", "match": {"path": "/more"}, "pool": "more"}] if self._more else []),
                {"name": "everything", "pool": "web", "headers": headers},
            ],
            "pools": {
                "web": {"strategy": self._strategy, "backends": self._backends("web")},
                "long": {"backends": self._backends("long")},
                "ws": {"backends": self._backends("ws")},
                **({"more": {"backends": self._backends("long")}} if self._more else {}),
            },
        }

    def _backends(self, pool: str) -> list[str]:
        return [f"127.0.0.1:{port}" for port in self._ports[pool][: self._used[pool]]]

    # ---- the steps

    def _edit_a_header(self) -> None:
        self._edits += 1

    def _add_or_remove_a_backend(self, pool: str) -> None:
        every = len(self._ports[pool])
        self._used[pool] = every - 1 if self._used[pool] == every else every

    def _move_a_route(self) -> None:
        self._turned = not self._turned

    def _replace_the_certificate(self) -> None:
        self._certificate = 1 - self._certificate
        self._put_certificate()

    def _put_certificate(self) -> None:
        """Other contents under the same names: the configuration itself stays as it is."""
        pair: Pair = self._pairs[self._certificate]
        self._cert.write_bytes(pair.cert)
        self._key.write_bytes(pair.key)

    def _add_or_remove_a_listener(self) -> None:
        self._extra = not self._extra

    def _change_the_strategy(self) -> None:
        self._strategy = {"round_robin": "least_connections", "least_connections": "random"}.get(
            self._strategy, "round_robin"
        )

    def _add_or_remove_a_pool(self) -> None:
        self._more = not self._more

    def _change_several_things(self) -> None:
        self._edit_a_header()
        self._move_a_route()
        self._change_the_strategy()

    # ---- what clients see of it

    def look(self, daemon: Daemon) -> list[str]:
        """What is not yet as the file says, asked on new connections; [] when all is."""
        entry = daemon.address("long")
        answers = {"/edited": str(self._edits), "/moved?q=1": "far" if self._turned else "near"}
        wrong = [path for path, due in answers.items() for _ in range(2) if get(entry, path) != (200, due.encode())]
        if served_certificate(daemon.address("long_secure")) != ssl.PEM_cert_to_DER_cert(
            self._pairs[self._certificate].cert.decode()
        ):
            wrong.append("certificate")
        if accepts(("127.0.0.1", self._extra_port)) != self._extra or accepts(self._extra_path) != self._extra:
            wrong.append("listener extra")
        shown = json.loads(get(daemon.admin_address, "/api/v1/pools")[1])["pools"]
        due = {
            name: (pool.get("strategy", "round_robin"), pool["backends"])
            for name, pool in self.config()["pools"].items()
        }
        if {pool["name"]: (pool["strategy"], [one["name"] for one in pool["backends"]]) for pool in shown} != due:
            wrong.append("pools")
        return wrong


def port_beside_the_ephemeral() -> int:
    """A port that is free, and that the kernel gives to nobody who does not ask for it."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    rng = Random(os.getpid())
    for _ in range(100):
        port = rng.randrange(10_000, min(lowest, 32_768))
        if not accepts(("127.0.0.1", port)):
            return port
    raise AssertionError("no free port was found")


def accepts(where: tuple[str, int] | str) -> bool:
    """Somebody listens there."""
    with socket.socket(socket.AF_UNIX if isinstance(where, str) else socket.AF_INET) as client:
        client.settimeout(PATIENCE)
        return client.connect_ex(where) == 0


def unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def served_certificate(address: tuple[str, int]) -> bytes | None:
    """What a new client is shown, DER."""
    with socket.create_connection(address, PATIENCE) as raw, unverified().wrap_socket(raw) as client:
        return client.getpeercert(binary_form=True)


# ---- the load


@dataclass
class Wrk:
    """One run of wrk: `completed` requests, and what it complained of."""

    completed: int = 0
    complaints: str = ""


@contextmanager
def wrk(program: Path, script: Path, url: str) -> Iterator[Wrk]:
    """wrk from entering to leaving. Each connection rests between requests: so does the pace of reloads stay up."""
    script.write_text(f"function delay() return {WRK_PAUSE_MS} end\n")
    argv = [str(program), "-t1", f"-c{WRK_CONNECTIONS}", "-d3600s", "--timeout", "20s", "-s", str(script), url]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    run = Wrk()
    try:
        yield run
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
        found = re.search(r"(\d+) requests in", said)
        assert found is not None, said
        run.completed = int(found[1])
        run.complaints = "\n".join(re.findall(r".*(?:Socket errors|Non-2xx).*", said))
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def assert_counts_agree(daemon: Daemon, listener: str, run: Wrk) -> None:
    """wrk says nothing of connections that end before an answer: the daemon's own counts must agree with it."""
    assert not run.complaints
    assert run.completed > 0
    good = metric(daemon, rf'balancer_requests_total{{listener="{listener}",[^}}]*code="2xx"}}')
    every = metric(daemon, rf'balancer_requests_total{{listener="{listener}",[^}}]*}}')
    assert run.completed <= good <= every <= run.completed + WRK_CONNECTIONS


# ---- the soak


@dataclass(frozen=True)
class Size:
    """How much of everything. `seconds` is what the reloads are spread over."""

    reloads: int
    seconds: float
    clients: Clients
    wrk: bool


# Both end with the listener `extra` removed, so that descriptors can be compared.
SMALL = Size(15, 5.0, Clients(sockets=5, uploads=2, downloads=2, keepalive=8), wrk=False)
LARGE = Size(200, 60.0, Clients(sockets=50, uploads=10, downloads=10, keepalive=4, pause=0.1, rate=64 * 1024), wrk=True)


def resident(daemon: Daemon) -> dict[int, int]:
    """Resident bytes of the supervisor and all its children, exact."""
    found = {}
    for pid in (daemon.pid, *children_of(daemon.pid)):
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        found[pid] = int(re.findall(r"^Rss:\s+(\d+)", text, re.MULTILINE)[0]) * 1024
    return found


def way_of(number: int) -> Callable[[Daemon], Reloaded]:
    """Most by request, as that is the fastest; a shell's command costs a start of Python each time."""
    return by_command if number % 10 == 7 else (by_signal, by_request)[number % 2]


def reload_all(size: Size, site: Site, daemon: Daemon) -> dict[int, int]:
    """Every reload, each checked; returns the memory after the first ones."""
    file, memory, began = ConfigFile(daemon), {}, time.monotonic()
    given = file.content()
    for number in range(size.reloads):
        pause = began + number * size.seconds / size.reloads - time.monotonic()
        wait_until(lambda: False, pause)  # the pace that is asked for
        site.step(number)
        file.write(given | site.config())
        result = way_of(number)(daemon)
        assert result.ok, result.text
        assert result.generation == number + 2, "each is one generation"
        assert result.text, "what changed is told"
        in_effect(site, daemon)
        if number + 1 == min(WARM_UP, size.reloads):
            memory = resident(daemon)
    print(f"{size.reloads} reloads in {time.monotonic() - began:.1f} s")
    return memory


def in_effect(site: Site, daemon: Daemon) -> None:
    """Returns when clients see what the file says; workers may differ for a moment."""
    wrong: list[str] = []

    def right() -> bool:
        wrong[:] = site.look(daemon)
        return not wrong

    assert wait_until(right, PATIENCE), wrong


@contextmanager
def running_site(folder: Path) -> Iterator[tuple[Site, Daemon]]:
    """A daemon with two workers before all kinds of backends."""
    with running_origins(5) as ports, running_websocket_origins(2) as ws:
        site = Site(ports[:3], ports[3:], ws, folder)
        with Daemon(site.config(), folder) as daemon:
            yield site, daemon


@pytest.mark.parametrize("size", [SMALL, pytest.param(LARGE, marks=FULL)], ids=["small", "full"])
def test_reloads_under_load_fail_nothing_cut_nothing_and_leave_nothing(
    size: Size, tmp_path: Path, require_program: Callable[[str], Path]
) -> None:
    with running_site(tmp_path) as (site, daemon):
        entries = [Entry(daemon.address("long")), Entry(daemon.address("long_secure"), unverified())]
        assert site.look(daemon) == []
        get(daemon.admin_address, "/readyz")
        descriptors = [descriptors_of(pid) for pid in (daemon.pid, *daemon.workers().values())]
        workers = daemon.workers()
        with LongLoad(entries, size.clients) as clients:
            clients.go_on()
            runs = []
            if size.wrk:
                program, script = require_program("wrk"), tmp_path / "rest.lua"
                host, port = daemon.address("web")
                secure = daemon.address("web_secure")[1]
                with (
                    wrk(program, script, f"http://{host}:{port}/?size=64") as plain,
                    wrk(program, script, f"https://{host}:{secure}/?size=64") as tls,
                ):
                    first = reload_all(size, site, daemon)
                    clients.go_on()
                    last = resident(daemon)
                runs = [("web", plain), ("web_secure", tls)]
            else:
                first = reload_all(size, site, daemon)
                clients.go_on()
                last = resident(daemon)
            assert clients.failures == []
            assert clients.finished == set(), "the transfers have lasted to the end"
        assert clients.failures == []
        assert len(clients.finished) == size.clients.uploads + size.clients.downloads, "each to its last byte"
        for listener, run in runs:
            assert_counts_agree(daemon, listener, run)
        grown = {pid: round((last[pid] - was) / MIB, 1) for pid, was in first.items() if pid in last}
        print(f"memory since reload {min(WARM_UP, size.reloads)}, MiB: {grown}")
        assert {daemon.pid, *workers.values()} <= set(grown)
        assert size.reloads <= WARM_UP or max(grown.values()) * MIB <= GROWTH_MAX
        assert_nothing_is_left(daemon, workers, descriptors)
        assert metric(daemon, 'balancer_config_reloads_total{result="ok"}') == size.reloads
        assert metric(daemon, 'balancer_config_reloads_total{result="refused"}') == 0
        assert metric(daemon, "balancer_config_generation") == size.reloads + 1


def assert_nothing_is_left(daemon: Daemon, workers: dict[int, int], descriptors: list[int]) -> None:
    """When nobody talks to it any more it is as it was at the beginning, in the same processes."""
    assert daemon.workers() == workers
    assert metric(daemon, r'balancer_requests_total{[^}]*code="5xx"}') == 0
    assert metric(daemon, r'balancer_terminations_total{[^}]*ended_by="(?:upstream|internal)"[^}]*}') == 0
    assert wait_until(lambda: in_flight(daemon) == 0, PATIENCE)
    assert wait_until(lambda: metric(daemon, "balancer_downstream_connections") == 0, PATIENCE)
    assert wait_until(lambda: metric(daemon, "balancer_upstream_connections") == 0, PATIENCE)
    pids = (daemon.pid, *workers.values())
    # The process that reads files is kept for a while; its pipes, and a connection to the admin address, are ours.
    allowed = [descriptors[0] + 8, *descriptors[1:]]

    def none_more() -> bool:
        return all(descriptors_of(pid) <= most for pid, most in zip(pids, allowed, strict=True))

    assert wait_until(none_more, PATIENCE), [descriptors_of(pid) for pid in pids]


# ---- objects, which only their own process can count


class Generations:
    """One worker's data path in this very loop, and configurations for it."""

    def __init__(self, ports: list[int], pairs: list[Pair]) -> None:
        self.ports, self._pairs = ports, pairs
        self.server = ProxyServer(
            worker=0,
            loads=LoadTable([0] * 64),
            connections=LoadTable([0] * 4),
            registry=Registry(),
            access_log=None,
            connection_budget=1000,
        )
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.number = 0

    def commit_next(self) -> None:
        """A generation that differs from the one before in its routes, pools, backends, strategy and certificate."""
        number = self.number = self.number + 1
        names = [f"b{slot}" for slot in range(8) if slot != number % 8]
        pair = self._pairs[number % 2]
        tls = {"certificates": [{"cert": str(pair.cert_path), "key": str(pair.key_path)}]}
        content = {
            "listeners": {"web": {"bind": "127.0.0.1:0"}, "secure": {"bind": "127.0.0.1:0", "tls": tls}},
            "routes": [
                {"name": f"r{number}", "match": {"path_regex": f"/r{number}x*"}, "pool": "web"},
                {"name": "all", "pool": "web", "headers": {"response": {"set": {"X-Number": str(number)}}}},
            ],
            "pools": {
                "web": {
                    "strategy": ("round_robin", "least_connections", "weighted_random")[number % 3],
                    "backends": [{"name": name, "address": f"127.0.0.1:{self.ports[0]}"} for name in names],
                    "keepalive": {"idle": "300ms"},
                },
                f"p{number % 3}": {"backends": [f"127.0.0.1:{self.ports[1]}"]},
            },
        }
        config = load(yaml.safe_dump(content, sort_keys=False).encode(), "soak.yaml", {}).config
        backends = [
            ResolvedBackend(
                pool=pool.name,
                name=one.name,
                host=one.host,
                address=(one.host, one.port, ""),
                slot=int(one.name[1:]) if pool.name == "web" else 8 + number % 3,
            )
            for pool in config.pools
            for one in pool.backends
        ]
        files = {str(path): path.read_bytes() for path in (pair.cert_path, pair.key_path)}
        self.bind = config.listeners[0].bind[0]
        self.server.commit(self.server.prepare(config, backends, files, generation=number))


OURS = tuple(f"balancer.{package}." for package in ("proxy", "balancing", "routing", "resilience", "config.model"))
OTHERS = {"ssl.SSLContext", "_asyncio.Task", "re.Pattern", TIMER := "uvloop.loop.TimerHandle"}
TIMERS_MORE = 2  # a deadline that is armed, or was cancelled and is still in the loop's hands


def objects() -> Counter[str]:
    """The objects of the data path that exist, and what they stand on, by type."""
    re.purge()  # a bounded store of the standard library
    kinds = Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.get_objects())
    return Counter({kind: count for kind, count in kinds.items() if kind.startswith(OURS) or kind in OTHERS})


@contextmanager
def without_collector() -> Iterator[None]:
    """What refers to itself stays, as it does in a worker for a long time."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("count", [12, pytest.param(600, marks=FULL)])
def test_no_object_of_an_old_generation_is_left(count: int) -> None:
    """After `count` generations, with exchanges under way through many of them, there are as many as after three."""
    pairs = [issued("test.example", common_name=name) for name in ("one", "two")]
    with running_origins(2) as ports, without_collector():

        async def scenario() -> None:
            path = Generations(ports, pairs)
            path.commit_next()
            await path.server.listen("web", path.bind, path.socket)
            port = path.socket.getsockname()[1]

            async def generations(rounds: int) -> Counter[str]:
                for _ in range(rounds):
                    lasting = await begun(port)
                    for _ in range(3):
                        path.commit_next()
                    await finished(lasting)
                await no_clients(path.server)
                path.server.leftovers.sweep(monotonic() + SWEPT_BY)
                return objects()

            first = await generations(2)
            assert first[f"{Snapshot.__module__}.{Snapshot.__qualname__}"] == 1, "the one in use"
            last = await generations(count // 3)
            assert last - first - Counter({TIMER: TIMERS_MORE}) == Counter(), "these are more now"
            await path.server.stop_listening()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(scenario())


SWEPT_BY = 3600.0  # seconds after which nothing is kept for what may still be coming
LARGE_BODY = 32 * MIB  # more than all buffers between origin and client hold


async def begun(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A download under way."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET /x?size={LARGE_BODY} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    async with asyncio.timeout(PATIENCE):
        head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    return reader, writer


async def finished(download: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
    """Its end, to the last byte."""
    reader, writer = download
    got = 0
    async with asyncio.timeout(PATIENCE):
        while piece := await reader.read(MIB):
            got += len(piece)
    writer.close()
    assert got == LARGE_BODY


async def no_clients(server: ProxyServer) -> None:
    """Returns when no client is connected, and nobody is on the way to a backend or keeps a connection to one."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE
    while (
        server.downstreams
        or server.in_flight()
        or any(
            backend.connections.idle or backend.connections.active
            for backend in (*server.snapshot.backends.values(), *server.leftovers.backends().values())
        )
    ):
        assert loop.time() < deadline, "connections are left"
        await asyncio.sleep(0.05)
