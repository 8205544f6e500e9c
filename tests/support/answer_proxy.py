"""A proxy before one server that loses answers: what was asked is done by then, and nobody is told."""

import asyncio
import contextlib
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit


class AnswerProxy:
    """`url` is where it listens. `caught`: the answers that it kept to itself."""

    def __init__(self, server: str) -> None:
        parts = urlsplit(server)
        self._server_address = (parts.hostname, parts.port)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._held: list[asyncio.StreamWriter] = []
        self._path = b""
        self._left = 0
        self._cut = True
        self.caught: asyncio.Queue[bytes] = asyncio.Queue()
        self.url = ""

    def lose(self, path: str, number: int = 1) -> None:
        """Cut the connection in place of the next so many answers to requests for this path."""
        self._path, self._left, self._cut = path.encode(), number, True

    def hold(self, path: str) -> None:
        """Say nothing in place of the next answer, until `cut`."""
        self._path, self._left, self._cut = path.encode(), 1, False

    def cut(self) -> None:
        """End the connections whose answers are held."""
        for writer in self._held:
            writer.transport.abort()
        self._held.clear()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._server_address)
        except OSError:
            writer.transport.abort()
            return
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                while await self._exchange((reader, writer), (far_reader, far_writer)):
                    pass
        finally:
            far_writer.transport.abort()
            if writer not in self._held:
                writer.transport.abort()

    async def _exchange(
        self,
        near: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        far: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> bool:
        """One request and its answer, which has a length. False: the connection is over."""
        path = await _pass_on(near[0], far[1])
        if path != self._path or not self._left:
            await _pass_on(far[0], near[1])
            return True
        head = await far[0].readuntil(b"\r\n\r\n")
        answer = await far[0].readexactly(_length(head))
        if not self._left:  # another one was lost meanwhile
            near[1].write(head + answer)
            return True
        self._left -= 1
        if self._cut:
            near[1].transport.abort()
        else:
            self._held.append(near[1])
        self.caught.put_nowait(answer)
        return False


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Hand a whole message on; of a request its path."""
    head = await reader.readuntil(b"\r\n\r\n")
    writer.write(head + await reader.readexactly(_length(head)))
    await writer.drain()
    return head.split(b" ", 2)[1]


def _length(head: bytes) -> int:
    fields = (line.partition(b":") for line in head.lower().split(b"\r\n")[1:])
    return next((int(value) for name, _, value in fields if name == b"content-length"), 0)
