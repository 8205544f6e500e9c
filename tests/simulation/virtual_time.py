"""Time that passes only when something is to happen, and a loop for each worker, driven by it.

The daemon's own code runs on it unchanged: `clock.monotonic` is replaced in every module that reads it.
"""

import asyncio
import heapq
import logging
import sys
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import Any, cast

import structlog

from balancer import clock

# A connection to a backend: protocol factory and port -> transport and protocol.
Dial = Callable[[Callable[[], asyncio.Protocol], int], Coroutine[Any, Any, tuple[asyncio.Transport, asyncio.Protocol]]]


class Planned:
    """A call that is to be made."""

    __slots__ = ("args", "callback", "context", "loop")

    def __init__(
        self,
        loop: "WorkerLoop | None",
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: Context | None = None,
    ) -> None:
        self.loop = loop
        self.callback: Callable[..., object] | None = callback
        self.args = args
        self.context = context

    def cancel(self) -> None:
        """Do not make it."""
        self.callback = None
        self.args = ()

    def make(self) -> None:
        """Make it, unless it was cancelled."""
        callback = self.callback
        if callback is None:
            return
        if self.context is None:
            callback(*self.args)
        else:
            self.context.run(callback, *self.args)


class Timeline:
    """Everything that is to happen, by time; what is planned for one moment happens in the order of planning."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Planned]] = []
        self._count = 0

    def time(self) -> float:
        """Seconds since the schedule began."""
        return self.now

    def at(self, when: float, callback: Callable[..., object], *args: Any, loop: "WorkerLoop | None" = None) -> Planned:
        """Plan a call; one of a worker's loop is made only while that worker lives."""
        planned = Planned(loop, callback, args)
        self.plan(when, planned)
        return planned

    def plan(self, when: float, planned: Planned) -> None:
        """The same for a call that is made already."""
        self._count += 1
        heapq.heappush(self._heap, (max(when, self.now), self._count, planned))

    def step(self) -> bool:
        """Let the next thing happen, and what follows from it at once. False: it was called off."""
        when, _, planned = heapq.heappop(self._heap)
        if planned.callback is None or (planned.loop is not None and not planned.loop.alive):
            return False
        self.now = when
        if planned.loop is None:
            planned.make()
        else:
            planned.loop.run(planned.make)
        return True


class WorkerLoop:
    """What a worker needs of an event loop. A killed worker's loop makes no further call."""

    def __init__(self, timeline: Timeline, dial: Dial) -> None:
        self.alive = True
        self.ran = False  # since whoever asks set it back
        self.errors: list[BaseException] = []  # of tasks
        self._timeline = timeline
        self._dial = dial
        self._ready: deque[Planned] = deque()

    def run(self, callback: Callable[..., object], *args: Any) -> None:
        """Make a call and all that follow from it before time passes."""
        self.ran = True
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(cast("Any", self))
        try:
            callback(*args)
            while self._ready:
                self._ready.popleft().make()
        finally:
            asyncio._set_running_loop(before)

    def time(self) -> float:
        """Seconds since the schedule began."""
        return self._timeline.now

    def get_debug(self) -> bool:
        """No."""
        return False

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Planned:
        """Make a call before time passes."""
        planned = Planned(self, callback, args, context)
        self._ready.append(planned)
        return planned

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any, context: Any = None) -> Planned:
        """Make a call in a while."""
        return self.call_at(self._timeline.now + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Callable[..., object], *args: Any, context: Any = None) -> Planned:
        """Make a call at a time."""
        planned = Planned(self, callback, args, context)
        self._timeline.plan(when, planned)
        return planned

    def create_future(self) -> "asyncio.Future[Any]":
        """A future of this loop."""
        return asyncio.Future(loop=cast("Any", self))

    def create_task(self, coro: Any) -> "asyncio.Task[Any]":
        """A task of this loop; its failure is told by `errors`."""
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=cast("Any", self))
        task.add_done_callback(self._ended)
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # a worker may be killed at any time
        return task

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.errors.append(error)

    async def create_connection(self, protocol_factory: Any, host: str, port: int, **_: Any) -> Any:
        """A connection to a backend."""
        return await self._dial(protocol_factory, port)


@contextmanager
def virtual_clock(now: Callable[[], float]) -> Iterator[None]:
    """Meanwhile every module of the daemon reads this clock, and none logs."""
    real = clock.monotonic
    modules = [module for name, module in sys.modules.items() if name.startswith("balancer.")]
    readers = [module for module in modules if getattr(module, "monotonic", None) is real]
    logging_before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    for module in readers:
        module.monotonic = now  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for module in readers:
            module.monotonic = real  # type: ignore[attr-defined]
        structlog.configure(**logging_before)
