"""Clients that hold on to their connections for the whole of a test, whatever is done to the daemon meanwhile.

WebSockets that echo all the time, uploads and downloads that go on slowly, and keep-alive clients that ask again and
again; plain or over TLS. They run in a thread with a loop of their own. Whatever a client of a perfect server never
sees is kept: `refused`, `reset`, `truncated`, `wrong` (not the bytes or the status that are due), `late`.
"""

import asyncio
import hashlib
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from types import TracebackType

import uvloop
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from tests.support.echo_origin import pattern

PATIENCE = 30.0  # seconds for one answer, message or piece
STOP_SECONDS = 120.0
_PIECE = 16 * 1024
_READ_BUFFER = 64 * 1024  # of a slow reader's socket: what is behind it has to wait
_ECHO_MAX = 4096
_LENGTH_UPLOAD = 32 * 1024 * 1024
_NAME = "test.example"  # in Host and SNI


@dataclass(frozen=True, slots=True)
class Entry:
    """Where clients come in; with `tls` they speak it."""

    address: tuple[str, int]
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """What a client saw. `at` is wall time, `port` the client's own (0 = it had no connection)."""

    at: float
    kind: str
    port: int
    client: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Clients:
    """How many of each kind, and their pace: seconds between messages and requests, bytes per second of a transfer."""

    sockets: int = 0
    uploads: int = 0
    downloads: int = 0
    keepalive: int = 0
    pause: float = 0.02
    rate: int = 256 * 1024
    download_bytes: int = 64 * 1024 * 1024  # far more than buffers on the way hold and a test's time takes
    target: str = "/?size=100"
    ws_target: str = "/ws"
    long_target: str = "/long"


class WrongError(Exception):
    """Not the bytes or the status that are due."""


class RefusedError(Exception):
    """No connection."""


class LongLoad:
    """`with LongLoad(entries, clients) as load`: they run inside, and end what they do on leaving.

    Client n comes in at the entry n modulo their number. `progress`: how far each client has come, by its name.
    """

    def __init__(self, entries: Sequence[Entry], clients: Clients) -> None:
        self._entries = entries
        self._clients = clients
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._main, name="long-load")
        self.failures: list[Failure] = []
        self.progress: dict[str, int] = {}
        self.connects = 0
        self.finished: set[str] = set()  # uploads and downloads that were checked to the last byte
        self.crash: BaseException | None = None
        self._ports: dict[str, int] = {}

    def __enter__(self) -> "LongLoad":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Sockets close, uploads send their last byte, downloads read on at full speed; returns when all ended."""
        self._stopping.set()
        self._thread.join(STOP_SECONDS)
        assert not self._thread.is_alive(), f"clients did not end within {STOP_SECONDS:.0f} s"
        if self.crash is not None:
            raise self.crash

    def go_on(self, steps: int = 3) -> None:
        """Return when every client has come further by so many steps. AssertionError when one does not."""
        names = self.names()
        before = {name: self.progress.get(name, 0) for name in names}
        until = time.monotonic() + PATIENCE
        while behind := [name for name in names if self.progress.get(name, 0) < before[name] + steps]:
            assert time.monotonic() < until, f"no further: {behind}; {self.failures[:5]}"
            time.sleep(0.005)

    def names(self) -> list[str]:
        """Every client's."""
        counts = self._clients
        kinds = (
            ("socket", counts.sockets),
            ("upload", counts.uploads),
            ("download", counts.downloads),
            ("keepalive", counts.keepalive),
        )
        return [f"{kind} {number}" for kind, count in kinds for number in range(count)]

    # ---- in the thread

    def _main(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._run())
        except BaseException as error:  # a defect of this load: told to the test by `stop`
            self.crash = error
            raise

    async def _run(self) -> None:
        kinds: dict[str, Callable[[str, Entry, int], Awaitable[None]]] = {
            "socket": self._socket,
            "upload": self._upload,
            "download": self._download,
            "keepalive": self._keepalive,
        }
        async with asyncio.TaskGroup() as group:
            for name in self.names():
                kind, _, number = name.partition(" ")
                entry = self._entries[int(number) % len(self._entries)]
                group.create_task(self._client(kinds[kind], name, entry, int(number)))

    async def _client(
        self, run: Callable[[str, Entry, int], Awaitable[None]], name: str, entry: Entry, number: int
    ) -> None:
        """One client to its end, which is ours or a failure."""
        try:
            await run(name, entry, number)
        except TimeoutError as error:
            self._failed("late", name, error)
        except asyncio.IncompleteReadError as error:
            self._failed("truncated", name, error)
        except WrongError as error:
            self._failed("wrong", name, error)
        except WebSocketException as error:
            self._failed("cut", name, error)
        except RefusedError as error:
            self._failed("refused", name, error)
        except OSError as error:
            self._failed("reset", name, error)

    def _failed(self, kind: str, name: str, error: BaseException) -> None:
        self.failures.append(Failure(time.time(), kind, self._ports.get(name, 0), name, repr(error)))

    @asynccontextmanager
    async def _connected(
        self, name: str, entry: Entry, *, read_buffer: int | None = None
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        sock = socket.socket()
        try:
            if read_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, read_buffer)
            sock.setblocking(False)
            async with asyncio.timeout(PATIENCE):
                await asyncio.get_running_loop().sock_connect(sock, entry.address)
                reader, writer = await asyncio.open_connection(
                    sock=sock, ssl=entry.tls, server_hostname=_NAME if entry.tls else None
                )
        except OSError as error:
            sock.close()
            raise RefusedError(repr(error)) from error
        self._ports[name] = int(writer.get_extra_info("sockname")[1])
        self.connects += 1
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def _pause(self, seconds: float) -> None:
        """Wait, but not longer than until the end."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while (left := until - loop.time()) > 0 and not self._stopping.is_set():
            await asyncio.sleep(min(left, 0.1))

    # ---- the clients

    async def _socket(self, name: str, entry: Entry, number: int) -> None:
        rng, (host, port) = Random(number), entry.address
        uri = f"{'wss' if entry.tls else 'ws'}://{host}:{port}{self._clients.ws_target}/{number}"
        async with connect(
            uri, ssl=entry.tls, proxy=None, compression=None, ping_interval=None, open_timeout=PATIENCE
        ) as connection:
            self._ports[name] = int(connection.local_address[1])
            while not self._stopping.is_set():
                message = rng.randbytes(rng.randrange(1, _ECHO_MAX))
                async with asyncio.timeout(PATIENCE):
                    await connection.send(message)
                    if await connection.recv() != message:
                        raise WrongError("an echo is not what was sent")
                self._step(name)
                await self._pause(self._clients.pause)

    async def _upload(self, name: str, entry: Entry, number: int) -> None:
        """A chunked body that ends when the test does; every second one has a Content-Length and then hurries."""
        loop, sent, digest = asyncio.get_running_loop(), 0, hashlib.sha256()
        size = _LENGTH_UPLOAD if number % 2 else None
        framing = "Transfer-Encoding: chunked" if size is None else f"Content-Length: {size}"
        async with self._connected(name, entry) as (reader, writer):
            writer.write(f"PUT {self._clients.long_target} HTTP/1.1\r\nHost: {_NAME}\r\n{framing}\r\n\r\n".encode())
            began = loop.time()
            while sent < size if size is not None else not self._stopping.is_set():
                if reader.at_eof() or writer.transport.is_closing():
                    raise WrongError(f"closed after {sent} bytes of an upload")
                piece = pattern(sent, _PIECE if size is None else min(_PIECE, size - sent))
                sent += len(piece)
                digest.update(piece)
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if size is None else piece)
                async with asyncio.timeout(PATIENCE):
                    await writer.drain()
                self._step(name)
                await self._pause(began + sent / self._clients.rate - loop.time())
            writer.write(b"0\r\n\r\n" if size is None else b"")
            async with asyncio.timeout(PATIENCE):
                fields = await _head(reader)
            got = (fields.get("x-echo-bytes"), fields.get("x-echo-digest"))
            if got != (str(sent), digest.hexdigest()):
                raise WrongError(f"{sent} bytes were sent, {got[0]} arrived, or others")
        self.finished.add(name)

    async def _download(self, name: str, entry: Entry, number: int) -> None:
        loop, size, got = asyncio.get_running_loop(), self._clients.download_bytes, 0
        framing = "chunked" if number % 2 else "length"
        target = f"{self._clients.long_target}?size={size}&as={framing}"
        async with self._connected(name, entry, read_buffer=_READ_BUFFER) as (reader, writer):
            writer.write(f"GET {target} HTTP/1.1\r\nHost: {_NAME}\r\n\r\n".encode())
            async with asyncio.timeout(PATIENCE):
                await _head(reader)
            began = loop.time()
            async for piece in _body(reader, size, chunked=framing == "chunked"):
                if piece != pattern(got, len(piece)):
                    raise WrongError(f"a download is wrong after {got} bytes")
                got += len(piece)
                self._step(name)
                await self._pause(began + got / self._clients.rate - loop.time())
        if got != size:
            raise WrongError(f"a download has {got} bytes instead of {size}")
        self.finished.add(name)

    async def _keepalive(self, name: str, entry: Entry, number: int) -> None:
        request = f"GET {self._clients.target} HTTP/1.1\r\nHost: {_NAME}\r\n\r\n".encode()
        while not self._stopping.is_set():
            async with self._connected(name, entry) as (reader, writer):
                told_to_close = False
                while not told_to_close and not self._stopping.is_set():
                    writer.write(request)
                    async with asyncio.timeout(PATIENCE):
                        fields = await _head(reader)
                        await reader.readexactly(int(fields["content-length"]))
                    self._step(name)
                    told_to_close = fields.get("connection", "").lower() == "close"
                    await self._pause(self._clients.pause)

    def _step(self, name: str) -> None:
        self.progress[name] = self.progress.get(name, 0) + 1


async def _head(reader: asyncio.StreamReader) -> dict[str, str]:
    """The fields of an answer, which must be a 200."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
    if lines[0].split(" ")[1] != "200":
        raise WrongError(lines[0])
    pairs = (line.partition(":") for line in lines[1:])
    return {name.lower(): value.strip() for name, _, value in pairs}


async def _body(reader: asyncio.StreamReader, size: int, *, chunked: bool) -> AsyncIterator[bytes]:
    """The pieces of a body as they come."""
    left = 0 if chunked else size
    while True:
        async with asyncio.timeout(PATIENCE):
            if chunked and not left:
                left = int((await reader.readuntil(b"\r\n"))[:-2], 16)
                if not left:
                    while await reader.readuntil(b"\r\n") != b"\r\n":
                        pass  # trailers
            if not left:
                return
            piece = await reader.read(min(left, _PIECE))
            if not piece:
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(piece)
            if chunked and not left and await reader.readexactly(2) != b"\r\n":
                raise WrongError("a chunk does not end where its size says")
        yield piece
