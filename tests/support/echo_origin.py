"""An origin that says what it received: exchange id, method, target, and the SHA-256 of the body.

`running_origins(n)` starts n of them, each a process of its own on a free port. What an answer looks like stands in the
target's query, so that the client decides: `size` bytes of body from `offset` of the pattern, `as` = length | chunked |
close, `wait` seconds before it, `die` = after so many body bytes the connection is reset (-1: before the head),
`rate` = the request's body is read at so many bytes per second. `/stats` answers with counts.
The parser is our own, strict, and shares no code with the balancer: what it cannot read is a 599.
"""

import asyncio
import hashlib
import json
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import cast
from urllib.parse import parse_qsl

import uvloop

PERIOD = 1 << 20
_PATTERN = Random(20).randbytes(PERIOD)
_DOUBLE = _PATTERN + _PATTERN  # any PERIOD bytes from any offset are one slice
_PIECE = 256 * 1024
_PATIENCE = 20.0
_CHUNK_LINE, _CHUNK_END = -1, -2  # in the place of a length: what is due instead of content
_ROOT = Path(__file__).resolve().parents[2]


def pattern(offset: int, size: int) -> bytes:
    """`size` bytes (at most PERIOD) of the pattern, which repeats after PERIOD, from any offset."""
    start = offset % PERIOD
    return _DOUBLE[start : start + size]


@dataclass(slots=True)
class Plan:
    """What the answer to one request shall be."""

    size: int = 0
    offset: int = 0
    framing: str = "length"
    wait: float = 0.0
    die: int | None = None
    rate: float = 0.0  # 0 = as fast as it comes

    @classmethod
    def of(cls, target: str) -> "Plan":
        """From the query of a target; absent parameters keep their defaults."""
        query = dict(parse_qsl(target.partition("?")[2]))
        return cls(
            size=int(query.get("size", "0")),
            offset=int(query.get("offset", "0")),
            framing=query.get("as", "length"),
            wait=float(query.get("wait", "0")),
            die=int(query["die"]) if "die" in query else None,
            rate=float(query.get("rate", "0")),
        )


@dataclass(slots=True)
class Stats:
    """Counts of one origin process: connections open and accepted, requests, and requests it could not read."""

    open: int = 0
    accepted: int = 0
    requests: int = 0
    unreadable: int = 0


class BadMessageError(Exception):
    """The request is not HTTP/1.1 as this origin reads it."""


class EchoConnection(asyncio.Protocol):
    """One connection: requests one after the other, each answered when its body has arrived whole."""

    def __init__(self, stats: Stats) -> None:
        self.stats = stats
        self.buffer = bytearray()
        self.left: int | None = None  # body bytes still to come; None = between requests
        self.chunked = False
        self.answering = False
        self.writable = asyncio.Event()
        self.writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass of it
        self.stats.open += 1
        self.stats.accepted += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self.stats.open -= 1
        self.writable.set()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not self.answering:
            self._advance()

    def _advance(self) -> None:
        try:
            while not self.answering and (self._read_head() if self.left is None else self._read_body()):
                pass
        except BadMessageError as why:
            self.stats.unreadable += 1
            text = f"{why}\n".encode()
            self.transport.write(b"HTTP/1.1 599 Unreadable\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text))
            self.transport.close()

    def _read_head(self) -> bool:
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        lines = bytes(self.buffer[:end]).decode("latin-1").split("\r\n")
        del self.buffer[: end + 4]
        words = lines[0].split(" ")
        if len(words) != 3 or words[2] != "HTTP/1.1":
            raise BadMessageError(f"request line {lines[0]!r}")
        self.method, self.target = words[0], words[1]
        self.fields: dict[str, str] = {}
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if not colon or name != name.strip() or name.lower() in self.fields:
                raise BadMessageError(f"field line {line!r}")
            self.fields[name.lower()] = value.strip()
        self.digest = hashlib.sha256()
        self.received = 0
        self.plan = Plan.of(self.target)
        self.began = asyncio.get_running_loop().time()
        self.stats.requests += 1
        self._begin_body()
        return True

    def _begin_body(self) -> None:
        coding, length = self.fields.get("transfer-encoding"), self.fields.get("content-length")
        if coding is not None and (coding != "chunked" or length is not None):
            raise BadMessageError(f"framing {coding!r} with {length!r}")
        self.chunked = coding is not None
        self.left = 0 if length is None else int(length)
        if self.fields.get("expect", "").lower() == "100-continue":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self.chunked:
            self.left = _CHUNK_LINE
        elif self.left == 0:
            self._answer()

    def _read_body(self) -> bool:
        if self.left == _CHUNK_LINE:
            return self._read_chunk_line()
        if self.left == _CHUNK_END:
            return self._read_chunk_end()
        assert self.left is not None
        taken = min(self.left, len(self.buffer))
        if taken == 0:
            return False
        piece = bytes(self.buffer[:taken])
        del self.buffer[:taken]
        self.digest.update(piece)
        self.received += taken
        self.left -= taken
        if self.plan.rate:
            self._slow_down()
        if self.left:
            return False
        if self.chunked:
            self.left = _CHUNK_END
            return self._read_chunk_end()
        self._answer()
        return True

    def _read_chunk_line(self) -> bool:
        end = self.buffer.find(b"\r\n")
        if end < 0:
            return False
        size = int(bytes(self.buffer[:end]), 16)
        if size:
            del self.buffer[: end + 2]
            self.left = size
            return True
        trailers_end = self.buffer.find(b"\r\n\r\n")
        if trailers_end < 0:
            return False
        del self.buffer[: trailers_end + 4]
        self._answer()
        return True

    def _slow_down(self) -> None:
        """Stop reading until what was received is no more than the rate allows."""
        loop = asyncio.get_running_loop()
        due = self.began + self.received / self.plan.rate
        if due > loop.time() and not self.transport.is_closing():
            self.transport.pause_reading()
            loop.call_at(due, self._read_on)

    def _read_on(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def _read_chunk_end(self) -> bool:
        if len(self.buffer) < 2:
            return False
        if self.buffer[:2] != b"\r\n":
            raise BadMessageError(f"a chunk ends with {bytes(self.buffer[:2])!r}")
        del self.buffer[:2]
        self.left = _CHUNK_LINE
        return True

    def _answer(self) -> None:
        self.answering = True
        self.left = None
        plan = self.plan
        if self.target.startswith("/stats"):
            body = json.dumps(asdict(self.stats)).encode()
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            self.answering = False
        elif plan.wait == 0 and plan.die is None and plan.size <= _PIECE and plan.framing == "length":
            self.transport.write(self._head(plan) + (pattern(plan.offset, plan.size) if self.method != "HEAD" else b""))
            self.answering = False
        else:
            self.slow = asyncio.get_running_loop().create_task(self._answer_slowly(plan))

    def _head(self, plan: Plan) -> bytes:
        framing = {
            "length": f"Content-Length: {plan.size}\r\n",
            "chunked": "Transfer-Encoding: chunked\r\n",
            "close": "Connection: close\r\n",
        }[plan.framing]
        return (
            f"HTTP/1.1 200 OK\r\nX-Echo-Exchange: {self.fields.get('x-exchange', '')}\r\n"
            f"X-Echo-Method: {self.method}\r\nX-Echo-Target: {self.target}\r\n"
            f"X-Echo-Digest: {self.digest.hexdigest()}\r\nX-Echo-Bytes: {self.received}\r\n{framing}\r\n"
        ).encode("latin-1")

    async def _answer_slowly(self, plan: Plan) -> None:
        if plan.wait:
            await asyncio.sleep(plan.wait)
        if self.transport.is_closing():
            return
        if plan.die is not None and plan.die < 0:
            self._reset()
            return
        self.transport.write(self._head(plan))
        sent, end = 0, 0 if self.method == "HEAD" else plan.size
        while sent < (end if plan.die is None else min(end, plan.die)):
            await self.writable.wait()
            if self.transport.is_closing():
                return
            piece = pattern(plan.offset + sent, min(_PIECE, (end if plan.die is None else plan.die) - sent))
            framed = b"%x\r\n%b\r\n" % (len(piece), piece) if plan.framing == "chunked" else piece
            self.transport.write(framed)
            sent += len(piece)
        if plan.die is not None:
            await self._die()
            return
        if plan.framing == "chunked" and self.method != "HEAD":
            self.transport.write(b"0\r\nX-Echo-Trailer: whole\r\n\r\n")
        if plan.framing == "close":
            self.transport.close()
            return
        self.answering = False
        self._advance()

    async def _die(self) -> None:
        """Reset the connection once what was written has left."""
        while self.transport.get_write_buffer_size() and not self.transport.is_closing():
            await asyncio.sleep(0.001)
        self._reset()

    def _reset(self) -> None:
        raw = self.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


async def _serve() -> None:
    loop, stats = asyncio.get_running_loop(), Stats()
    server = await loop.create_server(lambda: EchoConnection(stats), "127.0.0.1", 0, backlog=4096)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    server.close()


@contextmanager
def _running_origin() -> Iterator[int]:
    argv = [sys.executable, "-m", "tests.support.echo_origin"]
    process = subprocess.Popen(argv, cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        deadline = time.monotonic() + _PATIENCE
        ready, _, _ = select.select([process.stdout], [], [], deadline - time.monotonic())
        line = process.stdout.readline() if ready else b""
        if not line:
            raise TimeoutError(f"the echo origin did not start within {_PATIENCE:.0f} s")
        yield int(line)
    finally:
        process.terminate()
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


@contextmanager
def running_origins(count: int) -> Iterator[list[int]]:
    """The ports of `count` origins on 127.0.0.1, each in a process of its own; ended on leaving."""
    with ExitStack() as stack:
        yield [stack.enter_context(_running_origin()) for _ in range(count)]


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve())
