"""Clients that never stop: each asks, reads the whole answer, asks again, and reconnects when told to close.

They run in a thread with a loop of their own, so that a test can do things to the daemon meanwhile. Whatever goes wrong
is kept with its time, its kind and the client's own port: `refused` (no connection), `reset`, `unanswered` (closed
before the first byte of an answer), `truncated` (closed inside one), `wrong` (not the answer that is due), `late`.
"""

import asyncio
import threading
import time
from dataclasses import dataclass
from types import TracebackType

_PATIENCE = 20.0
_PAUSE = 0.02  # after a refusal


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that a client of a perfect server never sees. `at` is wall time, `port` the client's (0: none)."""

    at: float
    kind: str
    port: int
    detail: str = ""


class SteadyLoad:
    """`clients` clients of host:port, asking for `target`; an answer has status 200 and, if given, `body`."""

    def __init__(
        self,
        address: tuple[str, int],
        *,
        clients: int,
        target: str = "/",
        body: bytes | None = None,
        pause: float = 0.0,
    ) -> None:
        self._address = address
        self._target = target
        self._body = body
        self._pause = pause
        self.failures: list[Failure] = []
        self.answered = 0
        self.connected = 0
        self.in_flight: set[int] = set()  # ports of clients that wait for an answer
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(clients)), name="steady-load")

    def __enter__(self) -> "SteadyLoad":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """No new requests; returns when those under way ended."""
        self._stopping.set()
        self._thread.join()

    def go_on(self, answers: int) -> None:
        """Return when so many more answers came. AssertionError when they do not."""
        target, until = self.answered + answers, time.monotonic() + _PATIENCE
        while self.answered < target:
            assert time.monotonic() < until, f"{target - self.answered} of {answers} answers did not come"
            time.sleep(0.005)

    def kinds(self) -> dict[str, int]:
        """How many failures of each kind."""
        kinds = [failure.kind for failure in self.failures]
        return {kind: kinds.count(kind) for kind in set(kinds)}

    async def _run(self, clients: int) -> None:
        await asyncio.gather(*(self._keep_going() for _ in range(clients)))

    async def _keep_going(self) -> None:
        while not self._stopping.is_set():
            try:
                async with asyncio.timeout(_PATIENCE):
                    reader, writer = await asyncio.open_connection(*self._address)
            except (OSError, TimeoutError) as error:
                self._failed("late" if isinstance(error, TimeoutError) else "refused", 0, error)
                await asyncio.sleep(_PAUSE)
                continue
            self.connected += 1
            port = int(writer.get_extra_info("sockname")[1])
            try:
                await self._converse(reader, writer, port)
            finally:
                self.in_flight.discard(port)
                writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        request = f"GET {self._target} HTTP/1.1\r\nHost: test.example\r\n\r\n".encode()
        while not self._stopping.is_set():
            head = b""
            self.in_flight.add(port)
            try:
                async with asyncio.timeout(_PATIENCE):
                    writer.write(request)
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = _length(head)
                    body = await reader.readexactly(length)
            except asyncio.IncompleteReadError as error:
                self._failed("truncated" if head or error.partial else "unanswered", port, error)
                return
            except TimeoutError as error:
                self._failed("late", port, error)
                return
            except OSError as error:
                self._failed("reset", port, error)
                return
            self.in_flight.discard(port)
            if not head.startswith(b"HTTP/1.1 200 ") or (self._body is not None and body != self._body):
                self._failed("wrong", port, head.split(b"\r\n")[0].decode())
                return
            self.answered += 1
            if b"\r\nconnection: close\r\n" in head.lower():
                return
            if self._pause:
                await asyncio.sleep(self._pause)

    def _failed(self, kind: str, port: int, why: object) -> None:
        self.failures.append(Failure(time.time(), kind, port, repr(why)))


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    raise ValueError(f"an answer without Content-Length: {head!r}")
