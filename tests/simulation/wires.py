"""Connections in memory: a client with one request at a time, and a backend's end of an upstream connection.

The wires know what is in flight by what was written to them and not yet answered; they never ask the proxy.
"""

import asyncio
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from balancer.proxy.downstream import Downstream
from balancer.proxy.upstream import Upstream

if TYPE_CHECKING:
    from tests.simulation.worker import SimulatedWorker

REQUESTS = (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",) * 4 + (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",)
CLOSES_AFTER = 0.01  # seconds that a client takes to see that we are done
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


class _Socket:
    """A socket of which there is nothing to be learned."""

    def setsockopt(self, *_: object) -> None:
        """Options are not simulated."""

    def fileno(self) -> int:
        """None."""
        return -1


_EXTRA = {"peername": ("192.0.2.7", 50000), "sockname": ("127.0.0.1", 8080), "socket": _Socket()}


class Wire(asyncio.Transport):
    """A transport. `closed`: by us; `lost`: the protocol was told that it is gone."""

    def __init__(self, worker: "SimulatedWorker") -> None:
        self.worker = worker
        self.loop = worker.loop
        self.protocol: Any = None
        self.closed = self.lost = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return _EXTRA.get(name, default)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is buffered."""

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.loop.call_later(CLOSES_AFTER, self.lose)

    def pause_reading(self) -> None:
        """Nothing is sent that could be left unread."""

    def resume_reading(self) -> None:
        """As above."""

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True
        self.loop.call_soon(self.lose)

    def abort(self) -> None:
        self.close()

    def lose(self, error: Exception | None = None) -> None:
        """It is gone, by whoever's doing."""
        if not self.lost:
            self.lost = self.closed = True
            self.protocol.connection_lost(error)


class Client(Wire):
    """A client's connection."""

    def __init__(self, worker: "SimulatedWorker") -> None:
        super().__init__(worker)
        server = worker.server
        self.protocol: Downstream = Downstream(server, server.snapshot.listeners["web"])
        self.protocol.connection_made(self)
        self.busy = False
        self.number = 0  # of requests
        self.asked_at = 0.0
        self.status = 0  # of its last answer; 499 = it did not wait for it
        self.joined_at: float | None = None  # the line, if it waited there
        self._answer = b""
        self._length = -1

    def ask(self, request: bytes, now: float) -> None:
        """A request."""
        self.busy = True
        self.number += 1
        self.asked_at = now
        self._answer = b""
        self._length = -1
        self.protocol.data_received(request)

    def write(self, data: Any) -> None:
        if not self.busy:
            self.worker.world.broken("a client got an answer for which it did not ask")
        self._answer += data
        if self._length < 0:
            end = self._answer.find(b"\r\n\r\n")
            if end < 0:
                return
            found = _LENGTH.search(self._answer, 0, end)
            self._length = end + 4 + (int(found[1]) if found else 0)
        if len(self._answer) >= self._length:
            self.busy = False
            self.worker.answered(self, int(self._answer[9:12]))

    def hang_up(self, number: int) -> None:
        """The client does not want its answer any more."""
        if self.busy and self.number == number and not self.lost:
            self.busy = False
            self.status = 499
            self.worker.cancelled(self)
            self.protocol.eof_received()
            self.lose()

    def lose(self, error: Exception | None = None) -> None:
        if not self.lost:
            super().lose(error)
            self.worker.client_lost(self, began=bool(self._answer))


class BackendWire(Wire):
    """A connection to a backend, as that sees it. `open`: a request came that it has not answered."""

    protocol: Upstream

    def __init__(self, worker: "SimulatedWorker", protocol: Upstream) -> None:
        super().__init__(worker)
        self.protocol = protocol
        self.backend = protocol.connections.backend
        self.open = False
        self.number = 0  # of requests
        self.silent = True  # nothing of the answer was sent

    def write(self, data: Any) -> None:
        if self.open or self.lost:
            self.worker.world.broken("a request is sent where another one is not answered")
        self.open = self.silent = True
        self.number += 1
        self.worker.asked(self)

    def plan(self, after: float, action: Callable[..., None], *args: Any) -> None:
        """Do it, unless the request is over by then."""
        self.loop.call_later(after, self._do, self.number, action, args)

    def _do(self, number: int, action: Callable[..., None], args: tuple[Any, ...]) -> None:
        if self.open and number == self.number:
            action(*args)

    def answer(self, data: bytes, last: bool) -> None:
        """Say something."""
        self.silent = False
        if last:
            self._over()
        self.protocol.data_received(data)

    def reset(self) -> None:
        """Break off."""
        self._leave(ConnectionResetError())

    def go(self) -> None:
        """Close, whatever there may be to do."""
        if not self.lost and not self.closed:
            self.protocol.eof_received()
            self._leave(None)

    def _leave(self, error: Exception | None) -> None:
        if self.open and self.silent:
            self.worker.may_resend(self)
        self.lose(error)

    def close(self) -> None:
        self._over()
        super().close()

    def lose(self, error: Exception | None = None) -> None:
        self._over()
        super().lose(error)

    def _over(self) -> None:
        if self.open:
            self.open = False
            self.worker.over(self.backend.slot)
