"""The gateway over a state machine in memory, in a thread of its own, for clients that block."""

import asyncio
import threading
from types import TracebackType
from typing import Self

from tests.support.etcd_memory_service import MemoryEtcd

START_SECONDS = 20.0


class ThreadedEtcd:
    """`with ThreadedEtcd() as etcd: etcd.url ...`."""

    def __init__(self) -> None:
        self.url = ""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(START_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(START_SECONDS)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with MemoryEtcd() as etcd:
            self.url = etcd.url
            self._ready.set()
            await self._over.wait()
