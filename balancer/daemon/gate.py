"""A gate that lets either many through at a time, or one alone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Gate:
    """Starts of workers go through together, a change of the configuration alone: who asked first goes first."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._through = 0
        self._nobody = asyncio.Event()
        self._nobody.set()

    @asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        """With others of this kind."""
        async with self._turn:
            self._through += 1
            self._nobody.clear()
        try:
            yield
        finally:
            self._through -= 1
            if not self._through:
                self._nobody.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """With nobody else."""
        async with self._turn:
            await self._nobody.wait()
            yield
