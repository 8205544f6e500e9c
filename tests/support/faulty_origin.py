"""Origins that fail on command, each a process of its own that writes down every request before it does anything else.

`running_faulty_origins(n, folder)` starts n of them. Their ports stay reserved while a process is dead or refuses, so
that a connection to it is refused and nobody else gets the port. A journal line is in the file before an answer leaves
and survives a SIGKILL: `GET 17 200`, `POST 18 500`, `GET 19 silent`, `POST 20 reset`, `- - idle_closed`.
"""

import asyncio
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from random import Random
from typing import cast

import uvloop

WORK = 0.005  # seconds that an answer takes, so that exchanges overlap as they do before real backends
BODY_BYTES = 1024
WARM_UP, HEALTH = "/warm", "/healthz"  # answered, not written down
RESET_PREFIX = "/reset/"  # such a request is reset in the middle of its answer
_RESET_AFTER = 0.02  # what was written has been read by then: the reset comes inside the answer, not before it
_PATIENCE = 20.0
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How an origin behaves from now on. The health check passes unless the origin is silent: it may lie."""

    listening: bool = True  # False: new connections are refused, idle ones end now, busy ones with their answer
    silent: bool = False  # requests are read and never answered
    fail: float = 0.0  # share of the answers that are 500
    at_once: bool = False  # a 500 comes without the work
    close_idle: float = 0.0  # mean seconds after which an idle connection is closed; 0 = never
    slowness: float = 1.0  # factor on WORK


NORMAL = Behaviour()


def body_of(number: str) -> bytes:
    """What a right answer to request `number` holds."""
    return (number.encode("ascii") + b"\n").ljust(BODY_BYTES, b".")


# The process.


class _Connection(asyncio.Protocol):
    """Requests one after the other; what comes while one is being answered waits."""

    def __init__(self, server: "_Server") -> None:
        self.server = server
        self.buffer = bytearray()
        self.busy = False
        self.closing_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass of it
        self.server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.connections.discard(self)
        self._no_timer()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        self._no_timer()
        if not self.busy:
            self._next()

    def _no_timer(self) -> None:
        if self.closing_timer is not None:
            self.closing_timer.cancel()
            self.closing_timer = None

    def _next(self) -> None:
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        lines = bytes(self.buffer[:end]).decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        whole = end + 4 + int(fields.get("content-length", "0"))
        if "transfer-encoding" in fields:
            self.transport.close()  # the load never sends such a body
            return
        if len(self.buffer) < whole:
            return
        del self.buffer[:whole]
        method, target = lines[0].split(" ")[:2]
        self.busy = True
        self._serve(method, target)

    def _serve(self, method: str, target: str) -> None:
        server, now = self.server, self.server.behaviour
        number = target.rpartition("/")[2]
        counted = target not in (WARM_UP, HEALTH)
        if now.silent:
            kind = "silent"
        elif target.startswith(RESET_PREFIX):
            kind = "reset"
        else:
            kind = "500" if counted and now.fail and server.rng.random() < now.fail else "200"
        if counted:
            server.write_down(f"{method} {number} {kind}")
        if kind == "silent":
            return
        wait = 0.0 if target == HEALTH or (kind == "500" and now.at_once) else WORK * now.slowness
        server.loop.call_later(wait, self._answer, kind, body_of(number))

    def _answer(self, kind: str, body: bytes) -> None:
        if self.transport.is_closing():
            return
        status = "500 Internal Server Error" if kind == "500" else "200 OK"
        closes = not self.server.behaviour.listening
        head = (
            f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{'Connection: close' if closes else 'X-A: b'}\r\n\r\n"
        )
        if kind == "reset":
            self.transport.write(head.encode() + body[: len(body) // 2])
            self.server.loop.call_later(_RESET_AFTER, self.reset)
            return
        self.transport.write(head.encode() + body)
        self.busy = False
        if closes:
            self.transport.close()
        elif self.buffer:
            self._next()
        elif self.server.behaviour.close_idle:
            wait = self.server.rng.expovariate(1 / self.server.behaviour.close_idle)
            self.closing_timer = self.server.loop.call_later(wait, self.close_if_idle, True)

    def close_if_idle(self, at_random: bool) -> None:
        if not self.busy and not self.transport.is_closing():
            if at_random:
                self.server.write_down("- - idle_closed")
            self.transport.close()

    def reset(self) -> None:
        if not self.transport.is_closing():
            raw = self.transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()


class _Server:
    """One origin: its connections, its behaviour, and the journal."""

    def __init__(self, port: int, journal: Path) -> None:
        self.loop = asyncio.get_running_loop()
        self.port = port
        self.rng = Random(port)
        self.behaviour = replace(NORMAL, listening=False)
        self.connections: set[_Connection] = set()
        self._journal = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._listener: asyncio.Server | None = None

    def write_down(self, line: str) -> None:
        os.write(self._journal, f"{line}\n".encode("ascii"))

    async def behave(self, behaviour: Behaviour) -> None:
        was, self.behaviour = self.behaviour, behaviour
        if was.silent and not behaviour.silent:
            for connection in [one for one in self.connections if one.busy]:
                connection.reset()  # nobody waits for what they asked any more
        if behaviour.listening and self._listener is None:
            self._listener = await self.loop.create_server(
                lambda: _Connection(self), sock=_bound(self.port), backlog=512
            )
        if not behaviour.listening and self._listener is not None:
            self._listener.close()
            self._listener = None
            for connection in list(self.connections):
                connection.close_if_idle(False)


def _bound(port: int) -> socket.socket:
    """A socket bound beside others of the same port; without a listen it refuses."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", port))
    return sock


async def _serve(port: int, journal: Path) -> None:
    """Obeys one line of JSON after the other; ends with its standard input: it never outlives who started it."""
    server = _Server(port, journal)
    reader = asyncio.StreamReader()
    await server.loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        await server.behave(Behaviour(**json.loads(line)))
        sys.stdout.write("done\n")
        sys.stdout.flush()


# Who starts it.


@dataclass(slots=True)
class Journal:
    """What reached the origins: requests, what became of them, and how often each POST was processed."""

    requests: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    posts: Counter[int] = field(default_factory=Counter)

    def read(self, path: Path) -> None:
        """Adds the lines of one origin."""
        for line in path.read_text(encoding="ascii").splitlines():
            method, number, kind = line.split(" ")
            self.kinds[kind] += 1
            self.requests += method != "-"
            if method == "POST":
                self.posts[int(number)] += 1

    @property
    def duplicates(self) -> int:
        """POSTs that were processed more than once, each time beyond the first counted."""
        return sum(count - 1 for count in self.posts.values())


class FaultyOrigin:
    """One origin. Every method returns when the origin is as told; AssertionError when it does not get there."""

    def __init__(self, journal: Path) -> None:
        self._reserved = _bound(0)
        self.port: int = self._reserved.getsockname()[1]
        self.journal = journal
        journal.touch()
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Start the process; it listens once told how to behave."""
        argv = [sys.executable, "-m", "tests.support.faulty_origin", str(self.port), str(self.journal)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(argv, cwd=_ROOT, stdin=pipe, stdout=pipe, bufsize=0)

    def behave(self, behaviour: Behaviour = NORMAL) -> None:
        """From now on."""
        assert self.process is not None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(asdict(behaviour)).encode() + b"\n")
        ready, _, _ = select.select([self.process.stdout], [], [], _PATIENCE)
        answer = self.process.stdout.readline() if ready else b""
        assert answer == b"done\n", f"origin {self.port} does not obey: {answer!r}"

    def restart(self) -> None:
        """A new process after `kill`."""
        self.launch()
        self.behave()

    def kill(self) -> None:
        """SIGKILL: every connection is gone, the port refuses."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self.process = None

    def pause(self) -> None:
        """SIGSTOP: the kernel still accepts, nobody answers. Returns when it has stopped."""
        self._signal(signal.SIGSTOP, "T")

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT, "SR")

    def _signal(self, number: signal.Signals, states: str) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        until = time.monotonic() + _PATIENCE
        while Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] not in states:
            assert time.monotonic() < until, f"origin {self.port} did not take {number.name}"
            time.sleep(0.001)

    def close(self) -> None:
        """End the process, whatever its state, and give the port back."""
        if self.process is not None:
            self.kill()
        self._reserved.close()


@contextmanager
def running_faulty_origins(count: int, folder: Path) -> Iterator[list[FaultyOrigin]]:
    """`count` origins that behave; their journals lie in `folder`. Ended on leaving."""
    with ExitStack() as stack:
        origins = []
        for number in range(count):
            origins.append(FaultyOrigin(folder / f"origin{number}.journal"))
            stack.callback(origins[-1].close)
            origins[-1].launch()
        for origin in origins:
            origin.behave()
        yield origins


def journal_of(origins: list[FaultyOrigin]) -> Journal:
    """What the origins have written down so far."""
    journal = Journal()
    for origin in origins:
        journal.read(origin.journal)
    return journal


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(int(sys.argv[1]), Path(sys.argv[2])))
