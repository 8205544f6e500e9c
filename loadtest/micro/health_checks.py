"""What active health checks cost the supervisor: 10,000 backends every 5 s; the gate: no loop stall over 50 ms.

    python -m loadtest.micro.health_checks [--kind http|tcp|tls] [--backends N] [--interval S] [--seconds S] [--no-gate]

The backends are slots on a few loopback listeners of a second process that answers at once. CPU is that of the
probing thread: on loopback the kernel does the backend's half of a connection in it, too. A stall is how late a
callback comes that asks to run every millisecond (which costs a few percent of CPU itself); `ours` is the worst
without the time in which this thread could have run but other programs had the cores, and what the gate is for. The
first round (all are due at once, and the configuration with them) is shown apart.
"""

import argparse
import asyncio
import multiprocessing
import os
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import NamedTuple, cast

import uvloop

from balancer.config.model import HealthCheck
from balancer.daemon.health_schedule import Check, HealthSchedule
from balancer.transport.probe import Target, Tls

LISTENERS = 4
GATE_MS = 50.0
SETTLE = 30.0  # seconds that the first round may take
_ANSWER = (
    b"HTTP/1.1 200 OK\r\nServer: o\r\nContent-Type: text/plain\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n"
)
_NEW_PAIR = (
    "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=b -addext subjectAltName=DNS:b"
)


class Phase(NamedTuple):
    """Figures of a span of time."""

    name: str
    seconds: float
    probes: int
    failed: int
    cpu: float
    worst_stall: float
    own_stall: float

    def __str__(self) -> str:
        each = self.cpu / max(1, self.probes) * 1e6
        return (
            f"{self.name:12} {self.seconds:7.1f} {self.probes:8} {self.failed:7} {self.probes / self.seconds:9.0f}"
            f" {each:10.0f} {self.cpu / self.seconds:9.0%} {self.worst_stall * 1e3:10.1f}"
            f" {self.own_stall * 1e3:10.1f}"
        )


class _Backend(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(_ANSWER)
        self.transport.close()


def serve(pipe: Connection, pair: Path | None) -> None:
    """Listen, tell the ports, and answer until the other end of the pipe closes."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)  # resets in the middle of a handshake
        context = None
        if pair is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(pair)
        ports = []
        for _ in range(LISTENERS):
            server = await loop.create_server(_Backend, "127.0.0.1", 0, backlog=4096, ssl=context)
            ports.append(server.sockets[0].getsockname()[1])
        ended = asyncio.Event()
        loop.add_reader(pipe.fileno(), ended.set)
        pipe.send(ports)
        await ended.wait()

    uvloop.run(main())


class _Steady:
    """The tracker of a healthy backend."""

    def __init__(self, interval: float) -> None:
        self.interval = interval

    def next_delay(self, rng: Random) -> float:
        return self.interval * rng.uniform(0.9, 1.1)


class _Stalls:
    """The worst gap between two runs of a callback that asks to run every millisecond, and the worst of our doing."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._schedstat = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        self.begin()
        self._tick()

    def begin(self) -> None:
        """Forget what was."""
        self.worst = self.own = 0.0
        self._last, self._waited = time.monotonic(), self._waiting()

    def _waiting(self) -> float:
        """Seconds for which this thread has waited for a core, since it began."""
        return int(os.pread(self._schedstat, 100, 0).split()[1]) / 1e9

    def _tick(self) -> None:
        now, waited = time.monotonic(), self._waiting()
        self.worst = max(self.worst, now - self._last)
        self.own = max(self.own, now - self._last - (waited - self._waited))
        self._last, self._waited = now, waited
        self._loop.call_later(0.001, self._tick)


async def measure(checks: dict[int, Check], seconds: float) -> list[Phase]:
    """The first round, and `seconds` after it."""
    stalls = _Stalls(asyncio.get_running_loop())
    seen: set[int] = set()
    first_round = asyncio.Event()
    probes = failed = 0

    def result(slot: int, passed: bool, evidence: str) -> None:
        nonlocal probes, failed
        probes += 1
        if not passed:
            failed += 1
            if failed == 1:
                print(f"the first that failed: {evidence}")
        seen.add(slot)
        if len(seen) == len(checks):
            first_round.set()

    async def phase(name: str, wait: Callable[[], object]) -> Phase:
        nonlocal probes, failed
        began, cpu = time.monotonic(), time.thread_time()
        probes = failed = 0
        stalls.begin()
        await wait()  # type: ignore[misc]
        used = time.thread_time() - cpu
        return Phase(name, time.monotonic() - began, probes, failed, used, stalls.worst, stalls.own)

    schedule = HealthSchedule(result=result, rng=Random(1))
    running = asyncio.ensure_future(schedule.run())
    await asyncio.sleep(0)

    async def all_once() -> None:
        schedule.configure(checks)
        await asyncio.wait_for(first_round.wait(), SETTLE)

    async def again() -> None:
        schedule.configure(dict(checks))  # as a reload that changes nothing
        await asyncio.sleep(seconds)

    phases = [await phase("first round", all_once), await phase("afterwards", again)]
    running.cancel()
    await asyncio.wait([running])
    return phases


def checks_for(ports: list[int], options: argparse.Namespace, tls: Tls | None) -> dict[int, Check]:
    """One check per slot."""
    check = HealthCheck(type="tcp" if options.kind == "tcp" else "http", path="/healthz", interval=options.interval)
    return {
        slot: Check(
            slot, Target(("127.0.0.1", ports[slot % LISTENERS], ""), "b"), check, tls, _Steady(options.interval)
        )
        for slot in range(options.backends)
    }


def main() -> int:
    """Print the figures; 1 when the gate is missed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kind", choices=("http", "tcp", "tls"), default="http")
    parser.add_argument("--backends", type=int, default=10_000)
    parser.add_argument("--interval", type=float, default=5.0)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--no-gate", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pair, tls = None, None
        if options.kind == "tls":
            pair = Path(folder, "pair.pem")
            command = ["openssl", *_NEW_PAIR.split(), "-keyout", str(pair), "-out", f"{folder}/cert.pem"]
            subprocess.run(command, check=True, capture_output=True)
            certificate = Path(folder, "cert.pem").read_text(encoding="ascii")
            pair.write_text(pair.read_text(encoding="ascii") + certificate, encoding="ascii")
            tls = ssl.create_default_context(cadata=certificate), "b"
        spawn = multiprocessing.get_context("spawn")
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=serve, args=(theirs, pair), daemon=True)
        process.start()
        theirs.close()
        phases = uvloop.run(measure(checks_for(ours.recv(), options, tls), options.seconds))
        ours.close()
        process.join()
    print(f"{options.backends} backends, {options.kind}, every {options.interval:g} s")
    print("                   s   probes  failed  probes/s   us/probe       CPU   stall ms    ours ms")
    print("\n".join(map(str, phases)))
    missed = [phase.name for phase in phases if phase.failed or phase.own_stall * 1e3 > GATE_MS]
    if missed and not options.no_gate:
        print(f"missed: a stall of more than {GATE_MS:g} ms, or a probe that failed: {', '.join(missed)}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
