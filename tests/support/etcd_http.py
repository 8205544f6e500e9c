"""A plain client of etcd's HTTP API that hides nothing: statuses, types, texts, and chunks as they came."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

DEADLINE = 20.0
_LIMIT = 64 * 1024 * 1024


@dataclass(frozen=True)
class Answer:
    """A whole answer. Status 0: the connection ended without one."""

    status: int
    fields: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def content_type(self) -> str:
        """What the body is said to be."""
        return self.fields.get("content-type", "")

    @property
    def json(self) -> Any:
        """The body as JSON; None where it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


class EtcdHttp:
    """One server, asked over one connection for calls and one for each stream."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self.url = url
        self._address = (parts.hostname, parts.port)
        self._host = parts.netloc
        self._connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._streams: list[EtcdStream] = []

    async def call(
        self, path: str, body: Any = None, *, method: str = "POST", fields: Sequence[tuple[str, str]] = ()
    ) -> Answer:
        """One request and its answer. `body`: a JSON value, or bytes as they are. `fields`: a Host replaces ours."""
        if self._connection is None:
            self._connection = await asyncio.open_connection(*self._address, limit=_LIMIT)
        reader, writer = self._connection
        try:
            async with asyncio.timeout(DEADLINE):
                writer.write(self._request(method, path, body, fields))
                answer, keep = await _read_answer(reader)
        except BaseException:
            keep = False
            raise
        finally:
            if not keep:
                writer.close()
                self._connection = None
        return answer

    async def call_apart(self, path: str, body: Any = None) -> Answer:
        """The same over a connection of its own, which is closed when this is cancelled."""
        reader, writer = await asyncio.open_connection(*self._address, limit=_LIMIT)
        try:
            writer.write(self._request("POST", path, body))
            return (await _read_answer(reader))[0]
        finally:
            writer.close()

    async def stream(self, path: str, *requests: Any) -> "EtcdStream":
        """Open a stream with these requests, all at once."""
        reader, writer = await asyncio.open_connection(*self._address, limit=_LIMIT)
        writer.write(self._request("POST", path, b"".join(json.dumps(request).encode() for request in requests)))
        stream = EtcdStream(reader, writer)
        self._streams.append(stream)
        return stream

    async def close(self) -> None:
        """Close everything."""
        for stream in self._streams:
            await stream.close()
        self._streams.clear()
        if self._connection is not None:
            self._connection[1].close()
            self._connection = None

    def _request(self, method: str, path: str, body: Any, fields: Sequence[tuple[str, str]] = ()) -> bytes:
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        all_fields = {"Host": self._host, **dict(fields)}
        if data or method == "POST":
            all_fields["Content-Length"] = str(len(data))
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in all_fields.items()), "", ""]
        return "\r\n".join(lines).encode() + data


@dataclass
class EtcdStream:
    """A stream: `messages` are the answers so far, as JSON. `status` 0: there is no answer yet."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    messages: list[Any] = field(default_factory=list)
    status: int = 0
    ended: bool = False

    def __post_init__(self) -> None:
        self._task = asyncio.create_task(self._collect())

    async def close(self) -> None:
        """Leave."""
        self._task.cancel()
        self.writer.transport.abort()
        await asyncio.wait([self._task])

    async def _collect(self) -> None:
        try:
            self.status, fields = await _read_head(self.reader)
            text = b""
            if fields.get("transfer-encoding") == "chunked":
                while chunk := await _read_chunk(self.reader):
                    # etcd sends the line end of a large message as a chunk of its own, so lines count.
                    *lines, text = (text + chunk).split(b"\n")
                    self.messages += map(json.loads, lines)
            else:
                text = await self.reader.readexactly(int(fields["content-length"]))
            if text:
                self.messages.append(json.loads(text))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except ValueError as error:
            self.messages.append({"no JSON": str(error)})
        finally:
            self.ended = True


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
    return int(lines[0].split()[1]), fields


async def _read_chunk(reader: asyncio.StreamReader) -> bytes:
    """The next chunk; b"" is the last one, whose trailers are read."""
    size = int(await reader.readline(), 16)
    if not size:
        while await reader.readline() != b"\r\n":
            pass
        return b""
    data = await reader.readexactly(size)
    await reader.readexactly(2)
    return data


async def _read_answer(reader: asyncio.StreamReader) -> tuple[Answer, bool]:
    """An answer, and whether the connection can be used again."""
    try:
        status, fields = await _read_head(reader)
        body = b""
        if fields.get("transfer-encoding") == "chunked":
            while chunk := await _read_chunk(reader):
                body += chunk
        else:
            body = await reader.readexactly(int(fields.get("content-length", "0")))
    except (asyncio.IncompleteReadError, ConnectionError):
        return Answer(0), False
    return Answer(status, fields, body), fields.get("connection", "").lower() != "close"
