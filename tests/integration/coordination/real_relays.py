"""The network between real members where there may be no namespaces: relays on loopback that can fall silent.

Each member is known to the others by the address of a relay before it. Who connects says his name in his first frame;
so the relay knows which link the connection belongs to, and holds back the bytes of a direction that is cut. Held
bytes go on when it is mended, as TCP would send them again. Clients are not cut off.
"""

import asyncio
import contextlib
import socket
from collections.abc import Iterable, Sequence

import msgspec

from balancer.config.model import Bind
from balancer.consensus.peer_frames import FrameError, FrameReader
from balancer.consensus.peer_hello import HELLO_MAX, Hello
from tests.integration.coordination.real_network import Link
from tests.support.ports import free_ports

_LOOPBACK = "127.0.0.1"
_READ = 64 * 1024


class Relays:
    """See the module. Made by `open`."""

    cuts_clients = False
    words = "relays on loopback"

    def __init__(self, names: Sequence[str]) -> None:
        ports = iter(free_ports(3 * len(names)))
        self._relays = {name: next(ports) for name in names}
        self._peers = {name: Bind(host=_LOOPBACK, port=next(ports)) for name in names}
        self._clients = {name: Bind(host=_LOOPBACK, port=next(ports)) for name in names}
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._cut: set[Link] = set()
        self._news = asyncio.Condition()

    @classmethod
    async def open(cls, names: Sequence[str]) -> "Relays":
        """Listening."""
        made = cls(names)
        for name in names:
            made._servers.append(await made._listen(name))
        return made

    def address(self, name: str) -> str:
        return f"{_LOOPBACK}:{self._relays[name]}"

    def peer(self, name: str) -> Bind:
        return self._peers[name]

    def client(self, name: str) -> Bind:
        return self._clients[name]

    def command(self, name: str) -> Sequence[str]:
        return ()

    async def cut(self, links: Iterable[Link]) -> None:
        self._cut.update(links)

    async def mend(self, links: Iterable[Link]) -> None:
        self._cut.difference_update(links)
        async with self._news:
            self._news.notify_all()

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _listen(self, name: str) -> asyncio.Server:
        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.get_running_loop().create_task(self._serve(name, reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return await asyncio.start_server(connected, _LOOPBACK, self._relays[name])

    async def _serve(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, FrameError, msgspec.MsgspecError):
                said, caller = await _first_frame(reader)
                await self._whole((caller, name))
                there = await asyncio.open_connection(_LOOPBACK, self._peers[name].port)
                try:
                    for end in (writer, there[1]):
                        end.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    there[1].write(said)
                    await self._relay((caller, name), (reader, writer), there)
                finally:
                    there[1].transport.abort()
        finally:
            writer.transport.abort()

    async def _relay(
        self,
        link: Link,
        here: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        there: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        """Until one of them ends."""
        ways = [
            asyncio.ensure_future(self._pass(link, here[0], there[1])),
            asyncio.ensure_future(self._pass((link[1], link[0]), there[0], here[1])),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _pass(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Its end is held back as well: a cut link does not say that somebody hung up."""
        data = b"-"
        while data:
            data = await reader.read(_READ)
            await self._whole(link)
            writer.write(data)
            await writer.drain()

    async def _whole(self, link: Link) -> None:
        async with self._news:
            await self._news.wait_for(lambda: link not in self._cut)


async def _first_frame(reader: asyncio.StreamReader) -> tuple[bytes, str]:
    """What was read, and the name of who wrote it. Raises FrameError, MsgspecError, EOFError's kin as OSError."""
    frames, read = FrameReader(HELLO_MAX), b""
    while (payload := frames.take()) is None:
        data = await reader.read(_READ)
        if not data:
            raise ConnectionError("it hung up")
        read += data
        frames.feed(data)
    return read, msgspec.msgpack.decode(payload, type=Hello).name
