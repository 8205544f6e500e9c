"""How soon nobody picks a failing backend any more: the gate is 50 ms at the 99th percentile.

    python -m loadtest.ejection [--ejections N] [--pools N]

A daemon with two workers serves several pools of three backends, all in this process. Again and again one backend of a
pool begins to close every connection unanswered. The time is taken from the failure that decides (the fifth in a row,
the default of `consecutive_failures`) to the last request that still arrives there within the next 300 ms. Each
worker counts successes that it had not told yet before its first failure, so that the deciding failure may be one or
two later than the fifth: what is measured is an upper bound.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import cast

import uvloop

from loadtest.processes import environment

FAILURES = 5
GATE_MS = 50.0
QUIET = 0.3  # seconds without an arrival that end a round
CLIENTS = 6  # per pool
PAUSE = 0.004  # seconds between a client's requests
_ROUND_MAX = 20.0
_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
_REQUEST = b"GET / HTTP/1.1\r\nHost: %s\r\n\r\n"


class Backend:
    """One backend in this process. While it fails it writes down when requests come, and closes their connections."""

    def __init__(self) -> None:
        self.failing = False
        self.arrivals: list[float] = []
        self.served = 0
        self.port = 0

    def has_served(self, count: int) -> bool:
        """At least so many requests were answered."""
        return self.served >= count

    async def start(self) -> asyncio.Server:
        server = await asyncio.get_running_loop().create_server(lambda: _Connection(self), "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server


class _Connection(asyncio.Protocol):
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit from it

    def data_received(self, data: bytes) -> None:
        if self._backend.failing:
            self._backend.arrivals.append(time.monotonic())
            self._transport.abort()
        else:
            self._backend.served += 1
            self._transport.write(_OK * data.count(b"\r\n\r\n"))


async def _client(port: int, host: str, failed: list[int]) -> None:
    reader: asyncio.StreamReader | None = None
    writer: asyncio.StreamWriter | None = None
    while True:
        if writer is None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert reader is not None
        writer.write(_REQUEST % host.encode())
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
            await reader.readexactly(length)
            if b" 200 " not in head[:20]:
                failed[0] += 1
        except (asyncio.IncompleteReadError, ConnectionError):
            failed[0] += 1
            writer = None
        await asyncio.sleep(PAUSE)


async def _until(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        await asyncio.sleep(0.01)
    return False


async def _rounds(backends: list[Backend], count: int, rng: Random) -> list[float]:
    """Milliseconds from the deciding failure to the last pick, `count` times."""
    took: list[float] = []
    while len(took) < count:
        for backend in backends:  # everybody in use
            if not await _until(partial(backend.has_served, backend.served + 3), _ROUND_MAX):
                raise SystemExit(f"a backend gets no traffic {_ROUND_MAX:g} s after it recovered")
        victim = rng.choice(backends)
        victim.arrivals = []
        victim.failing = True

        def quiet(victim: Backend = victim) -> bool:
            came = victim.arrivals
            return len(came) >= FAILURES and time.monotonic() - came[-1] > QUIET

        if not await _until(quiet, _ROUND_MAX):
            raise SystemExit(f"a failing backend was still picked after {_ROUND_MAX:g} s")
        took.append((victim.arrivals[-1] - victim.arrivals[FAILURES - 1]) * 1000)
        victim.failing = False
    return took


def _configuration(pools: list[list[Backend]]) -> str:
    lines = ["workers: 2", "admin: {bind: 127.0.0.1:0}", "log: {access: off}", "shutdown_delay: 10ms"]
    lines += ["listeners: {web: {bind: 127.0.0.1:0}}", "routes:"]
    lines += [f"  - {{name: r{n}, match: {{hosts: [p{n}.test]}}, pool: p{n}}}" for n in range(len(pools))]
    lines.append("pools:")
    for number, pool in enumerate(pools):
        addresses = ", ".join(f'"127.0.0.1:{backend.port}"' for backend in pool)
        lines.append(
            f"  p{number}: {{backends: [{addresses}], slow_start: off, retry: {{when: [connect_failure, reset]}},"
            " outlier_detection: {base_ejection: 500ms, max_ejection: 1s, failure_rate: false, latency: false}}"
        )
    return "\n".join(lines) + "\n"


async def _measure(ejections: int, pool_count: int, folder: Path) -> tuple[list[float], int]:
    pools = [[Backend() for _ in range(3)] for _ in range(pool_count)]
    servers = [await backend.start() for pool in pools for backend in pool]
    file = folder / "balancer.yaml"
    file.write_text(_configuration(pools) + f"runtime_dir: {folder / 'run'}\n")
    command = [sys.executable, "-m", "balancer", "run", str(file)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment())
    clients: list[asyncio.Task[None]] = []
    try:
        assert process.stdout is not None
        line = (await asyncio.to_thread(process.stdout.readline)).decode()
        if not line.startswith("listening "):
            raise SystemExit(f"the daemon did not start: {(folder / 'log').read_text()}")
        port = int(line.rsplit(":", 1)[1])
        failed = [0]
        clients = [
            asyncio.create_task(_client(port, f"p{n}.test", failed)) for n in range(pool_count) for _ in range(CLIENTS)
        ]
        share = -(-ejections // pool_count)
        every = await asyncio.gather(*(_rounds(pool, share, Random(n)) for n, pool in enumerate(pools)))
        return [each for part in every for each in part], failed[0]
    finally:
        for client in clients:
            client.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*clients, return_exceptions=True)
        process.terminate()
        await asyncio.to_thread(process.wait, 20)
        for server in servers:
            server.close()


def main() -> int:
    """Measure, print, and judge: 1 when the gate is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ejections", type=int, default=200)
    parser.add_argument("--pools", type=int, default=4)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        took, failed = runner.run(_measure(chosen.ejections, chosen.pools, Path(folder)))
    took.sort()
    p50, p99 = took[len(took) // 2], took[min(len(took) - 1, int(len(took) * 0.99))]
    print(
        f"{len(took)} ejections: p50 {p50:.1f} ms, p99 {p99:.1f} ms, max {took[-1]:.1f} ms; failed requests: {failed}"
    )
    print(f"gate: p99 at most {GATE_MS:g} ms: {'met' if p99 <= GATE_MS else 'UNMET'}")
    return 0 if p99 <= GATE_MS else 1


if __name__ == "__main__":
    sys.exit(main())
