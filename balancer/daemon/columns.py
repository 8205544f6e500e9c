"""Which backend and which listener has which column of the shared memory, and when a column may be another's.

A column is given away anew only when every worker has let go of every generation that knew it, and when its cells say
that nothing is under way there. Then the metrics of what is gone are forgotten, too.
"""

import asyncio
from collections.abc import Awaitable, Callable

from balancer.config.model import Config, ResolvedBackend
from balancer.daemon.resolve import Resolution, with_slots
from balancer.daemon.shared_memory import (
    CONNECTION_COLUMNS,
    Allocator,
    Area,
    SharedMemory,
    SlotAllocator,
    SlotsExhaustedError,
)
from balancer.telemetry.aggregate import Aggregate
from balancer.telemetry.registry import Known

EVERY = 1.0  # seconds between two looks at what became free


class Columns:
    """The columns of one daemon. `pull` is awaited before metrics are forgotten: it brings what workers told last."""

    def __init__(self, memory: SharedMemory, counted: Aggregate, pull: Callable[[], Awaitable[None]]) -> None:
        self._memory = memory
        self._counted = counted
        self._pull = pull
        self._backends: SlotAllocator = Allocator(memory.backend_columns)
        self._listeners: Allocator[str] = Allocator(CONNECTION_COLUMNS - 1, "listeners")
        self._series_due = False

    def take(
        self, generation: int, config: Config, resolution: Resolution
    ) -> tuple[tuple[ResolvedBackend, ...], dict[str, int]]:
        """Columns for a generation. Raises SlotsExhaustedError and then takes nothing."""
        backends = with_slots(config, resolution, self._backends, generation)
        names = [listener.name for listener in config.listeners]
        try:
            columns = self._listeners.take(generation, names)
        except SlotsExhaustedError:
            self._backends.release(generation, self._busy_backend)
            raise
        return backends, {name: column + 1 for name, column in zip(names, columns, strict=True)}

    def release(self, generation: int) -> None:
        """Nobody uses a generation, any more or at all."""
        self._backends.release(generation, self._busy_backend)
        self._listeners.release(generation, self._busy_listener)
        self._series_due = True

    async def tidy(self, current: Callable[[], tuple[int, Config]], oldest: Callable[[], int]) -> None:
        """Free what nobody uses, every second until cancelled.

        `current()` is the generation in use, `oldest()` the oldest that any worker uses something of.
        """
        while True:
            await asyncio.sleep(EVERY)
            if not self._series_due and self._backends.settled() and self._listeners.settled():
                continue
            limit = min(oldest(), current()[0])
            for generation in [each for each in self._backends.living() if each < limit]:
                self.release(generation)
            freed = self._backends.sweep(self._busy_backend) + self._listeners.sweep(self._busy_listener)
            if freed:
                self._series_due = True
            if self._series_due and len(self._backends.living()) == 1:
                self._series_due = False
                await self._forget(current)

    async def _forget(self, current: Callable[[], tuple[int, Config]]) -> None:
        await self._pull()
        generation, config = current()
        known = Known(config, [(pool, name) for pool, name, _ in self._backends.names()])
        for _ in self._counted.forget(known):
            await asyncio.sleep(0)
            if current()[0] != generation or len(self._backends.living()) > 1:
                self._series_due = True  # another generation came: what is known is no longer that
                return

    def _busy_backend(self, slot: int) -> bool:
        return self._memory.total(Area.IN_FLIGHT, slot) > 0

    def _busy_listener(self, slot: int) -> bool:
        return self._memory.total(Area.CONNECTIONS, slot + 1) > 0
