"""What a reload costs: when a new backend gets traffic, and who has to wait while a large configuration is replaced.

    python -m loadtest.reload [--rounds N] [--backends N] [--routes N] [--only newcomer|large]

Newcomer: a daemon with two workers and two backends serves a few clients. Again and again a further backend is added
to the file; the time is taken from the answer to `POST /api/v1/reload` to the first request that arrives there.
Gate: 100 ms at the 99th percentile of 50 rounds, with every setting of the pool at its default.

Large: 10,000 backends in 100 pools, 1,000 routes, two workers. While reloads run, clients ask each worker for an
answer that it makes itself, and the supervisor for /livez, every 5 ms each; a stall shows as an answer that comes late.
Some reloads change one backend, some a setting of every pool, so that all of it is built anew. Gates: the answer to
the reload within 3 s, a worker's answers within 50 ms, the supervisor's within 100 ms. The time for which a process
could have gone on but had no core (/proc/PID/schedstat) does not count as a stall of it and is printed beside it:
here five processes share the machine with whatever else runs there.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import uvloop

from loadtest.processes import environment, tree

TRAFFIC_GATE_MS = 100.0
RELOAD_GATE_S = 3.0
WORKER_GATE_MS = 50.0
SUPERVISOR_GATE_MS = 100.0
PROBE_EVERY = 0.005
PROBES = 4  # connections to the workers, which are shared out evenly
CLIENTS = 8
PAUSE = 0.002  # seconds between a client's requests
QUIET = 3.0  # seconds of watching while nothing happens
AFTER = 1.0  # seconds of watching after a reload's answer: what is replaced is tidied up then
PATIENCE = 60.0
_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Address = tuple[str, int]


# ---- a daemon, and clients of it


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> tuple[int, bytes]:
    """One request on a connection that stays: status and body."""
    writer.write(request)
    async with asyncio.timeout(PATIENCE):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
        return int(head.split(b" ", 2)[1]), await reader.readexactly(length)


@dataclass
class Daemon:
    """A running daemon, its file, and where it is."""

    pid: int
    file: Path
    web: Address
    admin: Address

    async def reload(self, text: str) -> tuple[float, float]:
        """Write the file and have it put to use: (when that was asked for, when the answer came), monotonic seconds.

        Ends the program when it is refused.
        """
        self.file.write_text(text)
        reader, writer = await asyncio.open_connection(*self.admin)
        head = b"POST /api/v1/reload HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        began = time.monotonic()
        status, body = await ask(reader, writer, head + b"Content-Length: 0\r\n\r\n")
        ended = time.monotonic()
        writer.close()
        if status != 200 or not json.loads(body)["changes"]:
            raise SystemExit(f"the reload was answered with {status}: {body[:2000].decode()}")
        return began, ended


@asynccontextmanager
async def running(folder: Path, text: str) -> AsyncIterator[Daemon]:
    """`balancer run` with this configuration, ready."""
    file = folder / "balancer.yaml"
    file.write_text(text)
    command = [sys.executable, "-m", "balancer", "run", str(file)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment())
    try:
        assert process.stdout is not None
        where: list[Address] = []
        for _ in range(2):
            line = (await asyncio.to_thread(process.stdout.readline)).decode()
            if not line.startswith(("listening ", "admin ")):
                raise SystemExit(f"the daemon did not start: {(folder / 'log').read_text()}")
            where.append(("127.0.0.1", int(line.rstrip("/\n").rsplit(":", 1)[1])))
        yield Daemon(process.pid, file, *where)
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 30)


@asynccontextmanager
async def tasks(*coroutines: Awaitable[None]) -> AsyncIterator[None]:
    """They run inside. One that fails ends the program when we leave."""
    made = [asyncio.ensure_future(each) for each in coroutines]
    try:
        yield
    finally:
        for task in made:
            task.cancel()
        for outcome in await asyncio.gather(*made, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome


def head_of(folder: Path) -> list[str]:
    """The lines that every configuration here begins with."""
    return [
        "workers: 2",
        "admin: {bind: 127.0.0.1:0}",
        "log: {access: off}",
        "shutdown_delay: 10ms",
        f"runtime_dir: {folder / 'run'}",
        "listeners: {web: {bind: 127.0.0.1:0}}",
    ]


# ---- a new backend


class Backend:
    """One backend in this process; `first` is when the first request came since it was forgotten."""

    def __init__(self) -> None:
        self.first: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self.port = 0

    async def start(self) -> asyncio.Server:
        server = await asyncio.get_running_loop().create_server(lambda: _Connection(self), "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    def forget(self) -> None:
        """Wait for a first request again."""
        self.first = asyncio.get_running_loop().create_future()


class _Connection(asyncio.Protocol):
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit from it

    def data_received(self, data: bytes) -> None:
        if not self._backend.first.done():
            self._backend.first.set_result(time.monotonic())
        self._transport.write(_OK * data.count(b"\r\n\r\n"))


async def _client(web: Address, failed: list[int]) -> None:
    request = b"GET / HTTP/1.1\r\nHost: test.example\r\n\r\n"
    while True:
        reader, writer = await asyncio.open_connection(*web)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            for _ in range(9_000):  # the daemon closes after 10,000
                status, _ = await ask(reader, writer, request)
                failed[0] += status != 200
                await asyncio.sleep(PAUSE)
            writer.close()
            continue
        failed[0] += 1


async def measure_newcomer(rounds: int, folder: Path) -> bool:
    """Print when a new backend got its first request. True when the gate is met."""
    backends = [Backend() for _ in range(3)]
    servers = [await backend.start() for backend in backends]

    def text(count: int) -> str:
        addresses = ", ".join(f'"127.0.0.1:{backend.port}"' for backend in backends[:count])
        lines = ["routes: [{name: all, pool: web}]", f"pools: {{web: {{backends: [{addresses}]}}}}"]
        return "\n".join([*head_of(folder), *lines]) + "\n"

    took: list[float] = []
    failed = [0]
    async with running(folder, text(2)) as daemon, tasks(*(_client(daemon.web, failed) for _ in range(CLIENTS))):
        new = backends[2]
        for _ in range(rounds):
            new.forget()
            _, answered = await daemon.reload(text(3))
            async with asyncio.timeout(PATIENCE):
                came = await new.first
            took.append(max(0.0, came - answered) * 1000)
            await daemon.reload(text(2))
    for server in servers:
        server.close()
    took.sort()
    p50, p99 = took[len(took) // 2], took[min(len(took) - 1, int(len(took) * 0.99))]
    print(f"newcomer: {rounds} rounds: first request after p50 {p50:.1f} ms, p99 {p99:.1f} ms, failed {failed[0]}")
    met = p99 <= TRAFFIC_GATE_MS and not failed[0]
    print(f"gate: p99 at most {TRAFFIC_GATE_MS:g} ms, no request fails: {_ruling(met)}")
    return met


# ---- a large configuration


@dataclass
class Worst:
    """Of all answers since `forget` the one that took longest, in seconds without the wait for a core, and with it."""

    stall: float = 0.0
    whole: float = 0.0

    def took(self, seconds: float, without_core: float) -> None:
        """An answer came."""
        self.stall = max(self.stall, seconds - without_core)
        self.whole = max(self.whole, seconds)

    def __str__(self) -> str:
        return f"{self.stall * 1000:.0f} ms ({self.whole * 1000:.0f} with the wait for a core)"


@dataclass
class Seen:
    """What the probes saw since `forget`; `own` is how late they were to ask."""

    workers: Worst = field(default_factory=Worst)
    supervisor: Worst = field(default_factory=Worst)
    own: float = 0.0
    failed: list[str] = field(default_factory=list)

    def forget(self) -> None:
        """Begin anew, but for what failed."""
        self.workers, self.supervisor, self.own = Worst(), Worst(), 0.0


def without_core(pid: int) -> float:
    """Seconds for which the process's first thread could have run and had no core, since its start."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


def owner_of(root: int, port: int, writer: asyncio.StreamWriter) -> int:
    """The process of the tree at `root` that has the other end of this connection to `port`."""
    ours = int(writer.get_extra_info("sockname")[1])
    ends = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    inodes = {
        f"socket:[{end[9]}]" for end in ends if end[1].endswith(f":{port:04X}") and end[2].endswith(f":{ours:04X}")
    }
    for pid in tree(root):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                if os.readlink(descriptor) in inodes:
                    return pid
    raise SystemExit(f"no process of {root} has our connection to port {port}")


async def _probe(daemon: Daemon, where: Address, path: str, seen: Seen) -> None:
    """Ask every 5 ms for as long as we run."""
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    while True:
        reader, writer = await asyncio.open_connection(*where)
        await ask(reader, writer, request)
        pid = owner_of(daemon.pid, where[1], writer)
        due = time.monotonic()
        try:
            for _ in range(9_000):  # the daemon closes after 10,000
                due = max(due + PROBE_EVERY, time.monotonic())
                await asyncio.sleep(due - time.monotonic())
                began, waited = time.monotonic(), without_core(pid)
                seen.own = max(seen.own, began - due)
                status, _ = await ask(reader, writer, request)
                took = time.monotonic() - began
                (seen.supervisor if pid == daemon.pid else seen.workers).took(took, without_core(pid) - waited)
                if status != 200:
                    seen.failed.append(f"{path}: {status}")
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            seen.failed.append(f"{path}: {error!r}")
        writer.close()


def large(folder: Path, backends: int, routes: int, number: int) -> str:
    """The large configuration; from one odd `number` to the next even one everything changes, else one backend."""
    pools = 100
    lines = [*head_of(folder), "routes:", "  - {name: probe, match: {path: /probe}, respond: {body: probe}}"]
    lines += [
        f"  - {{name: r{n}, match: {{hosts: [h{n % 50}.test], path_prefix: /p{n}}}, pool: p{n % pools}}}"
        for n in range(routes)
    ]
    lines.append("pools:")
    for pool in range(pools):
        count = backends // pools + (1 if pool == 7 and number % 2 else 0)
        lines.append(f"  p{pool}:")
        lines.append(f"    timeouts: {{first_byte: {30 + number // 2}s}}")
        lines.append("    backends:")
        lines += [f"      - 10.{pool}.{n // 250}.{n % 250}:80" for n in range(count)]
    return "\n".join(lines) + "\n"


async def measure_large(rounds: int, backends: int, routes: int, folder: Path) -> bool:
    """Print what reloads of a large configuration cost whom. True when the gates are met."""
    print(f"large: {backends:,} backends, {routes:,} routes, 2 workers")
    seen, met = Seen(), True
    with suppress(PermissionError):  # else what we measure is also how long we wait for a core
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    async with running(folder, large(folder, backends, routes, 0)) as daemon:
        probes = [_probe(daemon, daemon.web, "/probe", seen) for _ in range(PROBES)]
        async with tasks(*probes, _probe(daemon, daemon.admin, "/livez", seen)):
            await asyncio.sleep(QUIET)
            seen.forget()
            await asyncio.sleep(QUIET)
            _print_row("nothing", None, seen)
            for number in range(1, rounds + 1):
                text = large(folder, backends, routes, number)
                await asyncio.sleep(0.1)  # what making the text cost us is over
                seen.forget()
                began, ended = await daemon.reload(text)
                await asyncio.sleep(AFTER)
                _print_row("one backend" if number % 2 else "every pool", ended - began, seen)
                met &= ended - began <= RELOAD_GATE_S
                met &= seen.workers.stall * 1000 <= WORKER_GATE_MS
                met &= seen.supervisor.stall * 1000 <= SUPERVISOR_GATE_MS
    for failure in seen.failed[:5]:
        print(f"failed: {failure}")
    met &= not seen.failed
    print(
        f"gates: reload at most {RELOAD_GATE_S:g} s, a worker's stall {WORKER_GATE_MS:g} ms,"
        f" the supervisor's {SUPERVISOR_GATE_MS:g} ms, no request fails: {_ruling(met)}"
    )
    return met


def _print_row(what: str, seconds: float | None, seen: Seen) -> None:
    reload = "" if seconds is None else f"{seconds:.2f} s, "
    print(
        f"  {what:<11} {reload}workers {seen.workers}, supervisor {seen.supervisor}; we: {seen.own * 1000:.0f} ms late"
    )


def _ruling(met: bool) -> str:
    return "met" if met else "UNMET"


def main() -> int:
    """Measure, print, and judge: 1 when a gate is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50, help="new backends (default 50)")
    parser.add_argument("--reloads", type=int, default=6, help="reloads of the large configuration (default 6)")
    parser.add_argument("--backends", type=int, default=10_000)
    parser.add_argument("--routes", type=int, default=1_000)
    parser.add_argument("--only", choices=("newcomer", "large"))
    chosen = parser.parse_args()
    met = True
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for name in ("newcomer", "large"):
            place = Path(folder) / name
            place.mkdir()
            if chosen.only in (None, "newcomer") and name == "newcomer":
                met &= runner.run(measure_newcomer(chosen.rounds, place))
            if chosen.only in (None, "large") and name == "large":
                met &= runner.run(measure_large(chosen.reloads, chosen.backends, chosen.routes, place))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
