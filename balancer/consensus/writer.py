"""One thread that makes durable what a member's core decided, while the core goes on.

Group commit: everything that came while the disk was busy is written and synced together. The first failure is the
last thing that is written: a disk that failed once cannot be trusted to say so again (Rebello et al., USENIX ATC 2020).
"""

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from balancer.clock import monotonic
from balancer.raft.ready import Ready

IDLE_AFTER = 0.5
"""Seconds without anything to write after which the disk is told so (`Wal.seal`), which costs a sync."""


class Storage(Protocol):
    """What blocks. Used by the writer's thread only, once that runs."""

    def write(self, readys: Sequence[Ready]) -> None:
        """Make durable, in order, with one sync if any of them asks for it. Raises on the first failure."""

    def idle(self) -> None:
        """There is nothing more to write for the moment."""


class Writer:
    """`persisted(number, seconds)` is called in the loop: how long writing took. `failed(error)` likewise, once."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        storage: Storage,
        *,
        persisted: Callable[[int, float], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._loop = loop
        self._storage = storage
        self._persisted = persisted
        self._failed = failed
        self._queue: queue.SimpleQueue[Ready | Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="balancer-wal", daemon=True)
        self._thread.start()

    def put(self, ready: Ready) -> None:
        """Write this after all that came before it. Bounded by the core: it stops taking proposals (`Limits`)."""
        self._queue.put(ready)

    def call(self, work: Callable[[], None]) -> None:
        """Run `work` in the thread, after all that came before it; what it raises ends the writer."""
        self._queue.put(work)

    def close(self) -> None:
        """Write what there is and end. Blocks for as long as that takes."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._once():
                pass
        except BaseException as error:  # noqa: BLE001 - it is for the loop to judge, nothing is swallowed
            self._in_loop(self._failed, error)

    def _once(self) -> bool:
        try:
            item = self._queue.get(timeout=IDLE_AFTER)
        except queue.Empty:
            self._storage.idle()
            item = self._queue.get()
        readys: list[Ready] = []
        while isinstance(item, Ready):
            readys.append(item)
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                self._write(readys)
                return True
        if readys:
            self._write(readys)
        if item is None:
            return False
        item()
        return True

    def _write(self, readys: Sequence[Ready]) -> None:
        began = monotonic()
        self._storage.write(readys)
        self._in_loop(self._persisted, readys[-1].number, monotonic() - began)

    def _in_loop(self, function: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop is closed: nobody is left to be told
            self._queue.put(None)
