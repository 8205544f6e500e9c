"""Faults on either side end as the table of outcomes says, over many rounds, and leave nothing behind."""

import asyncio
import gc
import os
import socket
import stat
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop
import yaml

from balancer.balancing.backend import LoadTable
from balancer.config.load import load
from balancer.config.model import ResolvedBackend
from balancer.proxy.downstream import Downstream
from balancer.proxy.exchange import Exchange
from balancer.proxy.server import ProxyServer
from balancer.proxy.upstream import Upstream
from balancer.telemetry.registry import Registry
from tests.support.daemon import Daemon
from tests.support.echo_origin import pattern, running_origins
from tests.support.load_client import scrape

FULL = (pytest.mark.full, pytest.mark.timeout(3600))
PATIENCE = 30.0
BODY = 200_000
HUGE = 64 * 1024 * 1024  # more than all buffers between origin and client hold


def before(ports: list[int], **listener: object) -> dict[str, object]:
    """A daemon that gives idle upstream connections up at once, so that every descriptor comes back."""
    return {
        "listeners": {"web": {"bind": "127.0.0.1:0", **listener}},
        "routes": [{"name": "all", "pool": "web"}],
        "pools": {"web": {"backends": [f"127.0.0.1:{port}" for port in ports], "keepalive": {"idle": "300ms"}}},
    }


def run(scenario: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario)


# What is left behind.


def descriptors(daemon: Daemon) -> int:
    """Open descriptors of all workers."""
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in daemon.workers().values())


def leftovers(daemon: Daemon) -> dict[str, float]:
    """What must be 0 when nobody talks to the daemon."""
    families = ("balancer_backend_in_flight", "balancer_downstream_connections", "balancer_upstream_connections")
    return {family: scrape(daemon.admin, family) for family in families}


async def quiet(daemon: Daemon, descriptors_due: int | None = None) -> None:
    """Returns once no connection and nothing in flight is left, and the descriptors are those of the beginning."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE
    while True:
        left = await asyncio.to_thread(leftovers, daemon)
        open_now = descriptors(daemon)
        if not any(left.values()) and descriptors_due in (None, open_now):
            return
        assert loop.time() < deadline, f"left behind: {left}, {open_now} descriptors of {descriptors_due}"
        await asyncio.sleep(0.05)


async def baseline(daemon: Daemon) -> int:
    """Descriptors of a daemon that has served something and is idle again."""
    port = daemon.address("web")[1]
    for _ in range(8):
        assert (await answer_to(port, b"GET /x?size=10 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"))[0] == 200
    await quiet(daemon)
    return descriptors(daemon)


def ended(daemon: Daemon, *reasons: str) -> float:
    return sum(scrape(daemon.admin, "balancer_terminations_total", reason=reason) for reason in reasons)


# The client's side.


async def answer_to(port: int, request: bytes) -> tuple[int, bytes]:
    """The status and all that follows the head until the end, however it ends; status 0 = nothing came."""
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        got = bytearray()
        try:
            while piece := await reader.read(65536):
                got += piece
        except ConnectionResetError:
            got += b"<reset>"
        finally:
            writer.transport.abort()
    head, _, body = bytes(got).partition(b"\r\n\r\n")
    return (int(head.split(b" ")[1]) if head.startswith(b"HTTP/1.1 ") else 0), body


async def backend_dies_in_body(port: int, framing: str) -> None:
    """The head has gone out, so the client must be able to see that the body is not whole."""
    die = 100_000
    target = f"/x?size={BODY}&die={die}&as={framing}"
    status, body = await answer_to(port, f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    assert status == 200
    assert not body.endswith(b"0\r\n\r\n"), "the last chunk would say that the body is whole"
    assert len(body) < BODY


async def backend_dies_before_head(port: int) -> None:
    status, _ = await answer_to(port, b"GET /x?die=-1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert status == 502


async def _begin_upload(port: int, size: int) -> asyncio.StreamWriter:
    """An upload whose head has reached the backend: it said 100."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"PUT /x?wait=20 HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\nExpect: 100-continue\r\n\r\n"
    writer.write(head.encode())
    async with asyncio.timeout(PATIENCE):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
    return writer


async def client_resets_in_upload(port: int) -> None:
    writer = await _begin_upload(port, BODY)
    writer.write(pattern(0, BODY // 2))
    await writer.drain()
    writer.transport.abort()


async def client_closes_in_upload(port: int) -> None:
    writer = await _begin_upload(port, BODY)
    writer.write(pattern(0, BODY // 2))
    writer.close()
    await writer.wait_closed()


async def client_gone_while_waiting(port: int) -> None:
    writer = await _begin_upload(port, 3)
    writer.write(b"abc")
    writer.close()
    await writer.wait_closed()


async def client_gone_in_download(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET /x?size={HUGE} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    async with asyncio.timeout(PATIENCE):
        await reader.readexactly(100_000)
    writer.transport.abort()


async def one_round(port: int) -> None:
    """Every fault once, all at the same time, beside an exchange that must not notice."""
    async with asyncio.TaskGroup() as group:
        for framing in ("length", "chunked", "close"):
            group.create_task(backend_dies_in_body(port, framing))
        for fault in (
            backend_dies_before_head,
            client_resets_in_upload,
            client_closes_in_upload,
            client_gone_while_waiting,
            client_gone_in_download,
        ):
            group.create_task(fault(port))
        group.create_task(_unharmed(port))


async def _unharmed(port: int) -> None:
    status, body = await answer_to(
        port, f"GET /x?size={BODY} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()
    )
    assert (status, body) == (200, pattern(0, BODY))


@pytest.mark.parametrize("rounds", [20, pytest.param(1_000, marks=FULL)])
def test_faults_end_as_specified_and_leave_nothing(rounds: int, tmp_path: Path) -> None:
    with running_origins(2) as ports, Daemon({**before(ports), "workers": 2}, tmp_path) as daemon:

        async def scenario() -> None:
            open_before = await baseline(daemon)
            for _ in range(rounds):
                await one_round(daemon.address("web")[1])
            await quiet(daemon, open_before)
            assert ended(daemon, "upstream_truncated") == 3 * rounds
            assert ended(daemon, "upstream_reset", "stale_connection") == rounds
            # Whether the three bytes or the FIN were read first decides between the two.
            assert ended(daemon, "client_gone", "client_gone_in_request") == 3 * rounds
            assert ended(daemon, "client_gone_in_response") == rounds
            assert scrape(daemon.admin, "balancer_terminations_total") == 8 * rounds
            assert scrape(daemon.admin, "balancer_worker_restarts_total") == 0

        run(scenario())


# Tasks and objects, which only the loop that has them can count.


class DataPath:
    """One worker's data path in this very loop."""

    def __init__(self, ports: list[int]) -> None:
        text = yaml.safe_dump(before(ports)).encode()
        config = load(text, "soak.yaml", {}).config
        table, connections = LoadTable([0] * len(ports)), LoadTable([0] * 2)
        self.server = ProxyServer(
            worker=0, loads=table, connections=connections, registry=Registry(), access_log=None, connection_budget=1000
        )
        backends = [
            ResolvedBackend(
                pool="web", name=f"127.0.0.1:{port}", host="127.0.0.1", address=("127.0.0.1", port, ""), slot=n
            )
            for n, port in enumerate(ports)
        ]
        self.server.commit(self.server.prepare(config, backends, {}))
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.bind = config.listeners[0].bind[0]

    def left(self) -> dict[str, int]:
        """Connections, in-flight counts, tasks beside the caller's, and objects of the data path that still exist."""
        gc.collect()
        kinds = [type(one).__name__ for one in gc.get_objects() if isinstance(one, Downstream | Upstream | Exchange)]
        return {
            "clients": len(self.server.downstreams),
            "in flight": self.server.in_flight(),
            "tasks": len(asyncio.all_tasks()) - 1,
            "objects": len(kinds),
        }


@pytest.mark.parametrize("rounds", [10, pytest.param(300, marks=FULL)])
def test_faults_leave_no_task_and_no_object(rounds: int) -> None:
    with running_origins(2) as ports:

        async def scenario() -> None:
            path = DataPath(ports)
            await path.server.listen("web", path.bind, path.socket)
            for _ in range(rounds):
                await one_round(path.socket.getsockname()[1])
            loop = asyncio.get_running_loop()
            deadline = loop.time() + PATIENCE
            while any(left := path.left().values()):
                assert loop.time() < deadline, path.left()
                await asyncio.sleep(0.1)
            assert not any(left)
            await path.server.stop_listening()

        run(scenario())


# Slowloris.


async def slowloris(port: int, go_on: asyncio.Event) -> bytes:
    """Sends a head byte by byte for ever; what comes back before the other side closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ")
    reading = asyncio.create_task(reader.read(-1))
    try:
        async with asyncio.timeout(PATIENCE * 2):
            while not reading.done():
                writer.write(b"a")  # keeps an idle timeout from firing: only an absolute one ends this
                await asyncio.wait({reading}, timeout=0.4)
        return reading.result()
    except ConnectionResetError:
        return b"<reset>"
    finally:
        reading.cancel()
        writer.transport.abort()
        go_on.set()


@pytest.mark.parametrize("count", [200, pytest.param(5_000, marks=FULL)])
def test_slowloris_connections_get_408_and_harm_nobody(count: int, tmp_path: Path) -> None:
    with running_origins(1) as ports, Daemon(before(ports, timeouts={"head": "2s"}), tmp_path) as daemon:
        port = daemon.address("web")[1]

        async def scenario() -> None:
            open_before = await baseline(daemon)
            first_ended = asyncio.Event()
            attacks = [asyncio.create_task(slowloris(port, first_ended)) for _ in range(count)]
            served = 0
            while not first_ended.is_set():
                await _unharmed(port)
                served += 1
            answers = await asyncio.gather(*attacks)
            assert served > 0, "nothing was asked for while the attack went on"
            refused = [answer for answer in answers if answer.startswith(b"HTTP/1.1 408 ")]
            assert len(refused) == count, next(answer for answer in answers if answer not in refused)
            await quiet(daemon, open_before)
            assert ended(daemon, "head_timeout") == count

        run(scenario())


# Descriptors.

LIMIT = 400
BUDGET = (LIMIT - 256) // 2  # what is left of the limit, two for each client


def limited_python(folder: Path) -> Path:
    """A Python whose hard limit of descriptors is LIMIT: the daemon raises the soft one only up to it."""
    script = folder / "python"
    script.write_text(f'#!/bin/sh\nulimit -n {LIMIT}\nexec "{sys.executable}" "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return script


async def storm(port: int, clients: int) -> None:
    """Far more connections than there are descriptors, each with a request; some end without an answer."""

    async def one() -> None:
        try:
            status, _ = await answer_to(port, b"GET /x?size=10 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        except (ConnectionError, BrokenPipeError):
            return
        assert status in (0, 200, 503)

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(one())


async def exhaust(daemon: Daemon, clients: int) -> tuple[int, int]:
    """`clients` connections at once, each held open after its answer; (how many got 200, how many 503)."""
    port = daemon.address("web")[1]
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(clients)]
    statuses = []
    try:
        for reader, writer in connections:
            writer.write(b"GET /x?size=10 HTTP/1.1\r\nHost: a\r\n\r\n")
            async with asyncio.timeout(PATIENCE):
                statuses.append((await reader.readuntil(b"\r\n\r\n"))[9:12])
    finally:
        for _, writer in connections:
            writer.transport.abort()
    return statuses.count(b"200"), statuses.count(b"503")


@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=FULL)])
def test_connections_beyond_the_descriptors_get_503(
    rounds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_origins(1) as ports:
        monkeypatch.setattr("sys.executable", str(limited_python(tmp_path)))
        with Daemon(before(ports), tmp_path) as daemon:
            clients = BUDGET + 60

            async def scenario() -> None:
                open_before = await baseline(daemon)
                for _ in range(rounds):
                    rejected_before = scrape(daemon.admin, "balancer_limit_rejections_total", limit="descriptors")
                    served, refused = await exhaust(daemon, clients)
                    assert (served, refused) == (BUDGET, clients - BUDGET)
                    rejected = scrape(daemon.admin, "balancer_limit_rejections_total", limit="descriptors")
                    assert rejected - rejected_before == clients - BUDGET
                    await storm(daemon.address("web")[1], 2 * LIMIT)
                    await quiet(daemon, open_before)
                    await _unharmed(daemon.address("web")[1])
                await quiet(daemon, open_before)
                assert scrape(daemon.admin, "balancer_worker_restarts_total") == 0

            run(scenario())
