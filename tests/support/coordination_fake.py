"""A server that says what a test told it to: for what a real member does only at a bad moment."""

import asyncio
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

_CHUNK = "{:x}\r\n{}\r\n"


@dataclass
class Reply:
    """`lines` go out as a stream, a chunk each; then it ends, is cut off, or stays open."""

    status: int = 200
    body: Any = None
    lines: Sequence[Any] | None = None
    then: str = "end"  # end, cut, stay


def ok(**body: Any) -> Reply:
    """A good answer."""
    return Reply(200, body)


def refused(status: int, code: int, message: str) -> Reply:
    """etcd's refusal."""
    return Reply(status, {"error": message, "message": message, "code": code})


def stream(*lines: Any, then: str = "stay") -> Reply:
    """Lines of a stream."""
    return Reply(lines=lines, then=then)


CUT = Reply(then="cut")
"""The connection ends without an answer."""
SILENCE = Reply(then="stay")
"""No answer, ever."""


@dataclass
class FakeGateway:
    """Replies in their order by path, the last one again and again; a path without any is 404. `asked`: all bodies."""

    replies: dict[str, list[Reply]] = field(default_factory=lambda: defaultdict(list))
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    connections: int = 0
    url: str = ""

    def on(self, path: str, *replies: Reply) -> None:
        """What to say to requests for `path` from now on."""
        self.replies[path] = [*replies]

    def bodies(self, path: str) -> list[dict[str, Any]]:
        """What was asked of `path`."""
        return [body for asked, body in self.asked if asked == path]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for writer in [*self._writers]:
            writer.transport.abort()
        await asyncio.gather(*self._tasks)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        path = head.split(" ")[1]
        lengths = [line for line in head.lower().split("\r\n") if line.startswith("content-length:")]
        body = await reader.readexactly(int(lengths[0].split(":")[1])) if lengths else b""
        self.asked.append((path, json.loads(body or b"{}")))
        waiting = self.replies[path]
        reply = Reply(404, {"code": 5, "message": "Not Found"}) if not waiting else waiting[0]
        if len(waiting) > 1:
            waiting.pop(0)
        if reply.lines is not None:
            self._send_lines(writer, reply)
        elif reply.body is not None:
            data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            writer.write(f"HTTP/1.1 {reply.status} X\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
            await writer.drain()
            return True
        if reply.then == "stay":
            await reader.read()
        return reply.then == "end"

    def _send_lines(self, writer: asyncio.StreamWriter, reply: Reply) -> None:
        writer.write(f"HTTP/1.1 {reply.status} X\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for line in reply.lines or ():
            text = json.dumps(line) + "\n"
            writer.write(_CHUNK.format(len(text), text).encode())
        if reply.then == "end":
            writer.write(b"0\r\n\r\n")
