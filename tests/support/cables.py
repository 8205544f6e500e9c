"""A TCP relay that can be cut, held, and told to alter what passes: a bad network between two members."""

import asyncio
import contextlib
import socket
from collections.abc import Callable


class Cable:
    """Relays connections to one address. `address` is where it listens."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._going = asyncio.Event()
        self._going.set()
        self._cut = False
        self.address = ""
        self.connections = 0
        self.refused = 0
        self.trick: Callable[[bytes], bytes] | None = None
        """Alters every piece on its way to the target."""

    @classmethod
    async def to(cls, target: str) -> "Cable":
        """A cable to `host:port`."""
        cable = cls(target)
        cable._server = await asyncio.start_server(cable._connected, "127.0.0.1", 0, limit=4096)
        cable.address = f"127.0.0.1:{cable._server.sockets[0].getsockname()[1]}"
        return cable

    def snap(self) -> None:
        """Cut: every connection is reset, and further ones at once."""
        self._cut = True
        for writer in self._writers:
            writer.transport.abort()

    def mend(self) -> None:
        """Whole again, for new connections."""
        self._cut = False
        self._going.set()

    def hold(self) -> None:
        """Take no more bytes, in silence."""
        self._going.clear()

    async def close(self) -> None:
        """End it."""
        if self._server is not None:
            self._server.close()
        self.snap()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._cut:
            self.refused += 1
            writer.transport.abort()
            return
        host, port = self._target.rsplit(":", 1)
        try:
            far_reader, far_writer = await asyncio.open_connection(host, int(port), limit=4096)
        except OSError:
            writer.transport.abort()
            return
        self.connections += 1
        for end in (writer, far_writer):
            self._writers.add(end)
            sock = end.get_extra_info("socket")
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ways = [self._relay(reader, far_writer, there=True), self._relay(far_reader, writer, there=False)]
        for way in ways:
            task = asyncio.get_running_loop().create_task(way)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, there: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(4096):
                await self._going.wait()
                writer.write(self.trick(data) if there and self.trick is not None else data)
                await writer.drain()
        self._writers.discard(writer)
        writer.transport.abort()
