"""Blocking peers for tests of the running daemon: a client that says what it is told, and an origin of scripts.

Everything that waits has a deadline and fails with what it saw instead. A script is a function of the origin's
connection and the request; it may answer, stay silent, reset, or wait for the test.
"""

import json
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.daemon import Daemon, wait_until
from tests.support.load_client import scrape

PATIENCE = 8.0
"""Seconds that anything here is waited for: longer than every timeout that the tests configure."""
_RESET = struct.pack("ii", 1, 0)
_READ = 256 * 1024


class CutError(AssertionError):
    """The peer ended in the middle. `how` is fin or reset, `got` what had come."""

    def __init__(self, how: str, got: bytes) -> None:
        super().__init__(f"{how} after {len(got)} bytes: {got[:200]!r}")
        self.how = how
        self.got = got


@dataclass(frozen=True)
class Message:
    """A request or response: its first line, fields in order, and body as decoded."""

    line: str
    fields: list[tuple[str, str]]
    body: bytes
    raw_head: bytes
    connection: int = 0  # which of the origin's connections it came on, from 1

    @property
    def status(self) -> int:
        return int(self.line.split(" ")[1])

    @property
    def method(self) -> str:
        return self.line.split(" ")[0]

    @property
    def target(self) -> str:
        return self.line.split(" ")[1]

    def all(self, name: str) -> list[str]:
        """All values of a field."""
        return [value for key, value in self.fields if key.lower() == name.lower()]

    def field(self, name: str) -> str:
        """The one value of a field; "" when it is not there."""
        values = self.all(name)
        assert len(values) < 2, f"{name} is repeated: {values}"
        return values[0] if values else ""


class Talk:
    """One end of a connection, either side. All calls block, for at most `patience` seconds each."""

    def __init__(self, sock: socket.socket, patience: float = PATIENCE) -> None:
        self.sock = sock
        self.patience = patience
        self.buffer = b""
        self.ended = ""
        self.number = 0
        sock.settimeout(patience)

    def send(self, data: bytes | str) -> "Talk":
        self.sock.sendall(data.encode("latin-1") if isinstance(data, str) else data)
        return self

    def more(self) -> bool:
        """Wait for bytes or the end; False at the end, which `ended` tells (fin, reset)."""
        if self.ended:
            return False
        try:
            data = self.sock.recv(_READ)
        except (ConnectionError, ssl.SSLError) as error:
            if isinstance(error, ssl.SSLWantReadError):
                return True
            self.ended = "reset"
            return False
        self.buffer += data
        if not data:
            self.ended = "fin"
        return bool(data)

    def until(self, mark: bytes) -> bytes:
        """Everything up to and including `mark`."""
        at = self.buffer.find(mark)
        while at < 0:
            if not self.more():
                raise CutError(self.ended, self.buffer)
            at = self.buffer.find(mark)
        end = at + len(mark)
        taken, self.buffer = self.buffer[:end], self.buffer[end:]
        return taken

    def exactly(self, count: int) -> bytes:
        """The next `count` bytes."""
        pieces, have = [self.buffer], len(self.buffer)
        self.buffer = b""
        while have < count:
            if not self.more():
                raise CutError(self.ended, b"".join(pieces))
            pieces.append(self.buffer)
            have += len(self.buffer)
            self.buffer = b""
        whole = b"".join(pieces)
        self.buffer = whole[count:]
        return whole[:count]

    def rest(self) -> tuple[bytes, str]:
        """All that comes until the end, and how it ended."""
        pieces = [self.buffer]
        self.buffer = b""
        while self.more():
            pieces.append(self.buffer)
            self.buffer = b""
        return b"".join(pieces), self.ended

    def head(self) -> Message:
        """A head without its body."""
        raw = self.until(b"\r\n\r\n")
        line, *rest = raw.decode("latin-1").split("\r\n")[:-2]
        pairs = (field.partition(":") for field in rest)
        return Message(line, [(name, value.strip()) for name, _, value in pairs], b"", raw, self.number)

    def response(self, method: str = "GET", *, interim: bool = False) -> Message:
        """The next final response (`interim`: the next of any kind), whole."""
        message = self.head()
        while message.status < 200 and not interim:
            message = self.head()
        if message.status < 200 or message.status in (204, 304) or method == "HEAD":
            return message
        return self._with_body(message, until_close=True)

    def request(self) -> Message:
        """The next request, whole."""
        return self._with_body(self.head(), until_close=False)

    def _with_body(self, message: Message, *, until_close: bool) -> Message:
        if message.field("transfer-encoding"):
            body = self.chunks()
        elif message.field("content-length"):
            body = self.exactly(int(message.field("content-length")))
        else:
            body = self.rest()[0] if until_close else b""
        return Message(message.line, message.fields, body, message.raw_head, message.connection)

    def chunks(self) -> bytes:
        """A chunked body."""
        pieces = []
        while size := int(self.until(b"\r\n")[:-2].partition(b";")[0], 16):
            pieces.append(self.exactly(size))
            assert self.exactly(2) == b"\r\n"
        while self.until(b"\r\n") != b"\r\n":
            pass
        return b"".join(pieces)

    def finish(self) -> None:
        """FIN; reading goes on."""
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        """Close with RST."""
        with suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.sock.close()

    def __enter__(self) -> "Talk":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


Script = Callable[[Talk, Message], bool | None]


def ok(body: bytes = b"ok", *fields: str, status: str = "200 OK") -> bytes:
    """A response with a length."""
    lines = "".join(field + "\r\n" for field in fields)
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{lines}\r\n".encode("latin-1") + body


class Origin:
    """Serves scripts by the path of the target, on a free port or a Unix socket; a thread per connection.

    A script gets the request, its body read unless the path is in `heads` (then the script reads it), and returns
    True to keep the connection. A path without a script is answered 200 with the request as JSON.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None, path: Path | None = None, host: str = "127.0.0.1") -> None:
        self.scripts: dict[str, Script] = {}
        self.fallback: Script | None = None  # for paths without a script of their own
        self.heads: set[str] = set()
        self.requests: list[Message] = []
        self.talks: list[Talk] = []
        self.tls = tls
        self.handshakes_failed = 0
        family = socket.AF_UNIX if path else socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        self._listener.bind(str(path) if path else (host, 0))
        self._listener.listen(128)
        self.port: int = 0 if path else self._listener.getsockname()[1]
        self._stopped = False
        threading.Thread(target=self._accept, daemon=True).start()

    def on(self, path: str, script: Script, *, head_only: bool = False) -> None:
        """Answer requests for `path` by `script`."""
        self.scripts[path] = script
        if head_only:
            self.heads.add(path)

    def seen(self, path: str) -> list[Message]:
        """The requests that came for `path`."""
        return [message for message in self.requests if message.target.partition("?")[0] == path]

    def _accept(self) -> None:
        while not self._stopped:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        talk = Talk(sock, patience=30.0)
        self.talks.append(talk)
        talk.number = len(self.talks)
        try:
            if self.tls is not None:
                sock.settimeout(PATIENCE)
                talk.sock = self.tls.wrap_socket(sock, server_side=True)
            while self._one(talk):
                pass
        except (CutError, OSError) as error:
            if self.tls is not None and isinstance(error, ssl.SSLError):
                self.handshakes_failed += 1
        finally:
            talk.close()

    def _one(self, talk: Talk) -> bool:
        request = talk.head()
        path = request.target.partition("?")[0]
        if path not in self.heads:
            request = talk._with_body(request, until_close=False)
        self.requests.append(request)
        script = self.scripts.get(path, self.fallback)
        if script is not None:
            return bool(script(talk, request))
        told = {"line": request.line, "fields": request.fields, "body": request.body.decode("latin-1")}
        talk.send(ok(b"" if request.method == "HEAD" else json.dumps(told).encode(), f"X-Connection: {talk.number}"))
        return True

    def open_connections(self) -> int:
        """Accepted and not closed on our side."""
        return sum(talk.sock.fileno() >= 0 for talk in self.talks)

    def close(self) -> None:
        """Stop accepting and close every connection."""
        self._stopped = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for talk in self.talks:
            with suppress(OSError):
                talk.sock.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> "Origin":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


@contextmanager
def full_backlog() -> Iterator[int]:
    """A port where connecting neither succeeds nor fails."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port = listener.getsockname()[1]
        waiting = []
        for _ in range(4):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
            waiting.append(sock)
        yield port
        for sock in waiting:
            sock.close()


class Scene:
    """A daemon with its access log in a file, and clients for its listeners.

    One attempt per exchange, no ejection and no waiting, unless a pool says otherwise: faults are seen as they are.
    """

    def __init__(self, configuration: dict[str, Any], folder: Path) -> None:
        self.log_path = folder / "access.log"
        bare = {"retry": "off", "outlier_detection": "off", "queue_timeout": "off"}
        pools = {name: {**bare, **pool} for name, pool in configuration.get("pools", {}).items()}
        self.daemon = Daemon({**configuration, "pools": pools, "log": {"access": str(self.log_path)}}, folder)
        self.started_with = self.descriptors()

    def connect(self, listener: str, *, small: bool = False) -> Talk:
        """A connection to a listener; `small`: a receive buffer that fills at once."""
        host, port = self.daemon.address(listener)
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        if small:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(PATIENCE)
        sock.connect((host, port))
        return Talk(sock)

    def ask(self, listener: str, target: str = "/", *fields: str, method: str = "GET", body: bytes = b"") -> Message:
        """One exchange on a connection of its own."""
        with self.connect(listener) as client:
            client.send(request(target, *fields, method=method, body=body))
            return client.response(method)

    def logged(self, **expected: object) -> dict[str, Any]:
        """The first line of the access log with these values, as soon as it is there."""
        found: list[dict[str, Any]] = []

        def look() -> bool:
            found[:] = [line for line in self.log() if all(line[key] == value for key, value in expected.items())]
            return bool(found)

        assert wait_until(look, PATIENCE), f"no line with {expected} in\n" + "\n".join(map(str, self.log()[-8:]))
        return found[0]

    def log(self) -> list[dict[str, Any]]:
        """The access log so far."""
        text = self.log_path.read_text() if self.log_path.exists() else ""
        return [json.loads(line) for line in text.splitlines()]

    def metric(self, family: str, **labels: str) -> float:
        return scrape(self.daemon.admin, family, **labels)

    def ended(self, listener: str, reason: str) -> float:
        """How many times something ended for this reason."""
        return self.metric("balancer_terminations_total", listener=listener, reason=reason)

    def descriptors(self) -> int:
        """Open descriptors of all workers."""
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in self.daemon.workers().values())

    def left_over(self) -> dict[str, float]:
        """What is not 0, or more than at the start, though nobody talks any more."""
        families = ("balancer_backend_in_flight", "balancer_downstream_connections", "balancer_upstream_connections")
        left = {family: self.metric(family) for family in families}
        left["descriptors"] = self.descriptors() - self.started_with
        return {name: value for name, value in left.items() if value > 0}

    def assert_at_rest(self) -> None:
        """Nothing is in flight, no connection and no descriptor is left. Pools need a short `keepalive.idle`."""
        assert wait_until(lambda: not self.left_over(), PATIENCE + 4), self.left_over()
        assert self.metric("balancer_worker_restarts_total") == 0, self.daemon.stderr
        assert "Traceback" not in self.daemon.stderr, self.daemon.stderr

    def close(self) -> None:
        self.daemon.kill()


def request(target: str = "/", *fields: str, method: str = "GET", body: bytes = b"") -> bytes:
    """A request; a body gets its Content-Length."""
    length = [f"Content-Length: {len(body)}"] if body else []
    lines = "".join(f"{field}\r\n" for field in ("Host: a", *fields, *length))
    return f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body


def eventually(condition: Callable[[], object], seconds: float = PATIENCE) -> bool:
    """`wait_until` with the patience of this module."""
    return wait_until(condition, seconds)


def elapsed_since(start: float) -> float:
    """Seconds since `start`, a value of time.monotonic()."""
    return time.monotonic() - start
