"""Which backend and which listener has which column of the shared memory, and when a column may be another's.

A column is given away anew only when every worker has let go of every generation that knew it, and when its cells say
that nothing is under way there. Then the metrics of what is gone are forgotten, too.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection

import msgspec

from balancer.config.model import Config, ResolvedBackend
from balancer.daemon.resolve import Resolution, is_name, with_slots
from balancer.daemon.shared_memory import (
    CONNECTION_COLUMNS,
    REGISTERED_MAX,
    Allocator,
    Area,
    SharedMemory,
    SlotAllocator,
    SlotsExhaustedError,
)
from balancer.telemetry.aggregate import Aggregate
from balancer.telemetry.registry import Known

EVERY = 1.0  # seconds between two looks at what became free
RESERVED = 8  # one of so many columns is kept free of backends that need not be: for what the file gets later
ADDRESSES_OF_A_NAME = 16  # for which there is room; each is a backend with a column


def room_for(config: Config) -> int:
    """How many backends there may be at a time, by the file at the start. O(backends)."""
    written = sum(ADDRESSES_OF_A_NAME if is_name(one) else 1 for pool in config.pools for one in pool.backends)
    return written + REGISTERED_MAX * sum(pool.backends_from is not None for pool in config.pools)


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

    def fitting(self, config: Config, resolution: Resolution, optional: Collection[tuple[str, str]]) -> Config:
        """`config` without those of the `optional` backends (by pool and name) for which no column is left.

        Those that have one stay, then the first ones come, up to what is reserved for others. O(backends), and O(1)
        without optional ones.
        """
        if not optional:
            return config
        needed: dict[tuple[str, str], int] = {}  # columns that are not theirs yet
        for place, addresses in resolution.addresses.items():
            new = self._backends.new((*place, address) for address in addresses)
            if new:
                needed[place] = new
        left = self._backends.left - self._backends.capacity // RESERVED
        left -= sum(count for place, count in needed.items() if place not in optional)
        without = set()
        for place, count in needed.items():
            if place in optional:
                if count > left:
                    without.add(place)
                else:
                    left -= count
        return _without(config, without) if without else config

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


def _without(config: Config, backends: Collection[tuple[str, str]]) -> Config:
    """`config` without these backends."""
    pools = tuple(
        msgspec.structs.replace(
            pool, backends=tuple(one for one in pool.backends if (pool.name, one.name) not in backends)
        )
        for pool in config.pools
    )
    return msgspec.structs.replace(config, pools=pools)
