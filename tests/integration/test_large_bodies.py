"""Bodies stream: whole and unchanged at any size, while the worker holds no more than its bound of them."""

import asyncio
import fcntl
import hashlib
import termios
from array import array
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop

from tests.support.daemon import Daemon
from tests.support.echo_origin import PERIOD, pattern, running_origins
from tests.support.load_client import scrape

MIB = 1 << 20
FULL = (pytest.mark.full, pytest.mark.timeout(1800))
SIZES = [
    pytest.param(64 * MIB, 100 * MIB, id="64MiB"),
    pytest.param(2048 * MIB, 20 * MIB, id="2GiB", marks=FULL),
]
GROWTH_MAX = 16 * MIB
HELD_MAX = 64 * 1024 + 2 * 256_000  # per stalled exchange: high-water mark and one read, for each direction
PATIENCE = 30.0


def resident(pid: int) -> int:
    """Resident bytes of a process, exact (smaps_rollup; the counters behind VmRSS lag)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("smaps_rollup has no line Rss")


def before(port: int) -> dict[str, object]:
    """One worker before one backend; nothing ends a transfer that is slow on purpose."""
    return {
        "listeners": {"web": {"bind": "127.0.0.1:0", "timeouts": {"send": "120s", "body_idle": "120s"}}},
        "routes": [{"name": "all", "pool": "web"}],
        "pools": {"web": {"backends": [f"127.0.0.1:{port}"], "timeouts": {"body_idle": "120s"}}},
    }


async def upload(port: int, size: int, rate: int) -> tuple[str, str]:
    """PUT `size` bytes to an origin that reads `rate` a second; the digest of what was sent, and the origin's."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    sent = hashlib.sha256()
    writer.write(f"PUT /u?rate={rate} HTTP/1.1\r\nHost: a.example\r\nContent-Length: {size}\r\n\r\n".encode())
    for start in range(0, size, PERIOD):
        piece = pattern(start, min(PERIOD, size - start))
        sent.update(piece)
        writer.write(piece)
        await writer.drain()
    status, fields = await _head(reader)
    assert status == 200
    assert int(fields["x-echo-bytes"]) == size
    writer.close()
    return sent.hexdigest(), fields["x-echo-digest"]


async def download(port: int, size: int, rate: int) -> tuple[str, str]:
    """GET `size` bytes and read `rate` a second of them; the digest that is due, and that of what came."""
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET /d?size={size} HTTP/1.1\r\nHost: a.example\r\n\r\n".encode())
    status, fields = await _head(reader)
    assert (status, fields["content-length"]) == (200, str(size))
    due, got, received, began = hashlib.sha256(), hashlib.sha256(), 0, loop.time()
    while received < size:
        piece = await reader.read(min(256 * 1024, size - received))
        assert piece, f"the body ends after {received} of {size} bytes"
        got.update(piece)
        received += len(piece)
        await asyncio.sleep(max(0.0, began + received / rate - loop.time()))  # the reader's pace, not a wait
    for start in range(0, size, PERIOD):
        due.update(pattern(start, min(PERIOD, size - start)))
    writer.close()
    return due.hexdigest(), got.hexdigest()


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines[1:-2])
    return int(lines[0].split(" ")[1]), {name.lower(): value.strip() for name, _, value in pairs}


async def peak_during(pid: int, work: Coroutine[Any, Any, tuple[str, str]]) -> tuple[int, tuple[str, str]]:
    """The most that `pid` held while `work` ran, looked at every 50 ms, and the result of `work`."""
    task, peak = asyncio.create_task(work), resident(pid)
    while not task.done():
        await asyncio.wait({task}, timeout=0.05)
        peak = max(peak, resident(pid))
    return peak, task.result()


@pytest.mark.parametrize("transfer", [upload, download])
@pytest.mark.parametrize(("size", "rate"), SIZES)
def test_a_large_body_arrives_whole_and_is_never_held(
    transfer: Callable[[int, int, int], Coroutine[Any, Any, tuple[str, str]]], size: int, rate: int, tmp_path: Path
) -> None:
    with running_origins(1) as origins, Daemon(before(origins[0]), tmp_path) as daemon:
        port, worker = daemon.address("web")[1], daemon.workers()[0]

        async def scenario() -> None:
            await transfer(port, 4 * MIB, 1024 * MIB)  # what loads once is not growth
            base = resident(worker)
            peak, (due, got) = await peak_during(worker, transfer(port, size, rate))
            print(f"{transfer.__name__} of {size // MIB} MiB: the worker grew by {(peak - base) / MIB:.1f} MiB at most")
            assert got == due
            assert peak - base < GROWTH_MAX, f"grew by {(peak - base) / MIB:.1f} MiB"

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(scenario())


def _same(client: "Stalled") -> "Stalled":
    return client


async def settled(read: Callable[[], object]) -> None:
    """Returns once the value of `read` stayed the same for a second."""
    loop = asyncio.get_running_loop()
    deadline, value, since = loop.time() + PATIENCE, read(), loop.time()
    while loop.time() < since + 1.0:
        assert loop.time() < deadline, f"still changing after {PATIENCE:.0f} s"
        await asyncio.sleep(0.1)
        now = read()
        if now != value:
            value, since = now, loop.time()


def _stalled_download() -> bytes:
    return b"GET /d?size=%d HTTP/1.1\r\nHost: a.example\r\n\r\n" % (64 * MIB)


def _stalled_upload() -> bytes:
    # The origin takes one byte a second: the body waits with us.
    return b"PUT /u?rate=1 HTTP/1.1\r\nHost: a.example\r\nContent-Length: %d\r\n\r\n" % (64 * MIB)


class Stalled(asyncio.Protocol):
    """A client that never reads. What `body` has is written as far as the other side takes it."""

    def __init__(self, head: bytes, body_bytes: int) -> None:
        self.head, self.left = head, body_bytes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass of it
        self.transport.write(self.head)
        self.writing = True
        self._fill()

    def _fill(self) -> None:
        while self.writing and self.left:
            piece = pattern(0, min(256 * 1024, self.left))
            self.left -= len(piece)
            self.transport.write(piece)

    def data_received(self, data: bytes) -> None:
        # The answer's first bytes: from now on nothing more is read.
        self.transport.pause_reading()

    def progress(self) -> tuple[int, int]:
        """Bytes that we still have to send, and bytes that wait in our socket unread."""
        waiting = array("i", [0])
        fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.FIONREAD, waiting)
        return self.left, waiting[0]

    def pause_writing(self) -> None:
        self.writing = False

    def resume_writing(self) -> None:
        self.writing = True
        self._fill()


@pytest.mark.parametrize("direction", ["download", "upload"])
@pytest.mark.parametrize("clients", [20, pytest.param(200, marks=FULL)])
def test_a_stalled_reader_costs_no_more_than_its_bound(direction: str, clients: int, tmp_path: Path) -> None:
    with ExitStack() as backend, ExitStack() as front:
        daemon = front.enter_context(Daemon(before(backend.enter_context(running_origins(1))[0]), tmp_path))
        port, worker = daemon.address("web")[1], daemon.workers()[0]
        body_bytes = 64 * MIB if direction == "upload" else 0

        async def scenario() -> None:
            await download(port, 4 * MIB, 1024 * MIB)
            await upload(port, 4 * MIB, 1024 * MIB)
            base = resident(worker)
            head = _stalled_download() if direction == "download" else _stalled_upload()
            with ExitStack() as stack:
                stalled = [Stalled(head, body_bytes) for _ in range(clients)]
                for client in stalled:
                    await asyncio.get_running_loop().create_connection(partial(_same, client), "127.0.0.1", port)
                    stack.callback(client.transport.abort)
                await settled(lambda: [client.progress() for client in stalled])
                assert all(client.progress() != (body_bytes, 0) for client in stalled), "a client was not served at all"
                held = (resident(worker) - base) / clients
                print(f"{clients} stalled clients, {direction}: {held:,.0f} bytes each")
                assert held <= HELD_MAX, f"{held:,.0f} bytes are held for each client, {HELD_MAX:,} is the bound"
                assert scrape(daemon.admin, "balancer_backend_in_flight") == clients
            if direction == "upload":
                # A client's FIN stands behind bytes that nobody reads; the backend's end is seen at once.
                backend.close()
            await _all_ended(daemon)

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(scenario())


async def _all_ended(daemon: Daemon) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE
    while await asyncio.to_thread(scrape, daemon.admin, "balancer_backend_in_flight"):
        assert loop.time() < deadline, "exchanges are in flight although their clients are gone"
        await asyncio.sleep(0.05)
