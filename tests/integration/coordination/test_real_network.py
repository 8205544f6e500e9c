"""What the faults of real members rest on: links are cut in the direction that was said, and disks are full."""

import asyncio
import errno
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from balancer.consensus.peer_frames import encode, frame_bytes
from balancer.consensus.peer_hello import Hello
from tests.integration.coordination.real_disks import Disk, Limited, make_disks
from tests.integration.coordination.real_network import Namespaces, NoNamespacesError, links_of
from tests.integration.coordination.real_relays import Relays

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="cuts networks and fills disks as Linux has them")

PATIENCE = 30.0
SILENCE = 0.3
"""Seconds for which nothing comes over a cut link; else something comes each PACE."""
PACE = 0.02

# Sends a datagram each PACE, and prints a line for each that comes.
CHATTER = f"""
import socket, sys
own, other = sys.argv[1:]
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((own, 7))
sock.settimeout({PACE})
while True:
    sock.sendto(b"-", (other, 7))
    try:
        sock.recv(10)
        print("heard", flush=True)
    except TimeoutError:
        pass
"""


class Chatter:
    """A process in a namespace that talks to another one; `heard` counts."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.heard = 0
        self.reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for _ in self.process.stdout:
            self.heard += 1

    async def hears(self) -> None:
        before = self.heard
        async with asyncio.timeout(PATIENCE):
            while self.heard < before + 3:
                await asyncio.sleep(PACE)

    async def hears_nothing(self) -> None:
        """From soon on: what was on its way may still come."""
        async with asyncio.timeout(PATIENCE):
            while True:
                before = self.heard
                await asyncio.sleep(SILENCE)
                if self.heard == before:
                    return


@asynccontextmanager
async def chatting(network: Namespaces, name: str, other: str) -> AsyncIterator[Chatter]:
    line = [*network.command(name), sys.executable, "-c", CHATTER, network.peer(name).host, network.peer(other).host]
    process = await asyncio.create_subprocess_exec(*line, stdout=asyncio.subprocess.PIPE)
    chatter = Chatter(process)
    try:
        yield chatter
    finally:
        process.kill()
        await chatter.reading
        await process.wait()


def test_a_link_between_namespaces_is_cut_in_one_direction_and_mended() -> None:
    asyncio.run(cut_namespaces())


async def cut_namespaces() -> None:
    try:
        network = Namespaces(["n1", "n2"])
    except NoNamespacesError as error:
        pytest.skip(f"no network namespaces: {error}")
    try:
        async with chatting(network, "n1", "n2") as one, chatting(network, "n2", "n1") as two:
            await asyncio.gather(one.hears(), two.hears())
            await network.cut([("n1", "n2")])
            await two.hears_nothing()
            await one.hears()
            await network.cut([("n2", "n1")])
            await one.hears_nothing()
            await network.mend([("n1", "n2"), ("n2", "n1")])
            await asyncio.gather(one.hears(), two.hears())
    finally:
        await network.close()
    assert not [name for name in os.listdir("/run/netns") if name.startswith(f"balancer-test-{os.getpid()}-")]


def test_a_relay_is_silent_in_the_direction_that_is_cut_and_loses_nothing() -> None:
    asyncio.run(cut_relays())


async def cut_relays() -> None:
    network = await Relays.open(["n1", "n2"])
    arrived: asyncio.Queue[bytes] = asyncio.Queue()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(1000):
                arrived.put_nowait(data)
                writer.write(data)

    server = await asyncio.start_server(echo, network.peer("n2").host, network.peer("n2").port)
    hello = frame_bytes(encode(Hello(1, 1, "link", 0, 0, bytes(16), "n1", bytes(32), False)), None)
    try:
        host, port = network.address("n2").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(hello)
        async with asyncio.timeout(PATIENCE):
            assert (await arrived.get(), await reader.readexactly(len(hello))) == (hello, hello)
            await network.cut([("n1", "n2")])
            writer.write(b"there")
            await silent(arrived.get())
            await network.mend([("n1", "n2")])
            assert (await arrived.get(), await reader.readexactly(5)) == (b"there", b"there")
            await network.cut([("n2", "n1")])
            writer.write(b"back")
            assert await arrived.get() == b"back"
            await silent(reader.readexactly(4))
            await network.mend([("n2", "n1")])
            assert await reader.readexactly(4) == b"back"
    finally:
        writer.transport.abort()
        server.close()
        await network.close()


async def silent(coming: "asyncio.Future[bytes] | object") -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(SILENCE):
            await coming  # type: ignore[misc]


def test_links_are_those_of_who_does_not_hear_or_is_not_heard() -> None:
    names = ["n1", "n2", "n3"]
    assert links_of("n1", names, hears=False, is_heard=True) == {("n2", "n1"), ("n3", "n1")}
    assert links_of("n1", names, hears=True, is_heard=False) == {("n1", "n2"), ("n1", "n3")}
    assert len(links_of("n1", names, hears=False, is_heard=False)) == 4


# Writes 64 KiB durably to each path that it reads, and prints the error number, or 0.
WRITER = """
import os, sys
for line in sys.stdin:
    try:
        with open(line.strip(), "wb", buffering=0) as file:
            os.posix_fallocate(file.fileno(), 0, 65_536)
            os.fdatasync(file.fileno())
        print(0, flush=True)
    except OSError as error:
        print(error.errno, flush=True)
"""


@pytest.mark.parametrize("best", [True, False], ids=["the best kind of disk", "a limit of the process"])
def test_a_disk_is_full_and_has_room_again(best: bool, tmp_path: Path) -> None:
    disk: Disk = make_disks(tmp_path, ["n1"])["n1"] if best else Limited(tmp_path, "n1")
    line = [sys.executable, "-c", WRITER]
    try:
        with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
            stdin, stdout = writer.stdin, writer.stdout
            assert stdin is not None
            assert stdout is not None

            def written(name: str) -> int:
                stdin.write(f"{disk.folder / name}\n")
                stdin.flush()
                return int(stdout.readline())

            disk.started(writer.pid)
            assert written("before") == 0
            disk.fill()
            assert written("full") in (errno.ENOSPC, errno.EFBIG)
            disk.free()
            assert written("after") == 0
            stdin.close()
    finally:
        disk.close()
    assert not os.path.ismount(disk.folder)
