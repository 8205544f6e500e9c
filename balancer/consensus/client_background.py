"""The tasks of a client that nobody awaits: renewals, and what is still to be taken back. They end with the client."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


class Background:
    """Tasks; none outlives `close`."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._last_words: set[asyncio.Task[Any]] = set()
        self._closed = False

    def task(self, work: Coroutine[Any, Any, T], name: str) -> "asyncio.Task[T]":
        """Start a task that is cancelled at the end."""
        return self._started(work, name, self._tasks)

    def last_word(self, work: Coroutine[Any, Any, T], name: str) -> "asyncio.Task[T]":
        """Start a task that gets some time at the end: it gives something back."""
        return self._started(work, name, self._last_words)

    async def close(self, grace: float) -> None:
        """End all tasks, those with last words within `grace` seconds."""
        await _ended(self._tasks)
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                while self._last_words:  # one may have another
                    await asyncio.wait(self._last_words)
        self._closed = True
        await _ended(self._last_words)

    def _started(self, work: Coroutine[Any, Any, T], name: str, where: "set[asyncio.Task[Any]]") -> "asyncio.Task[T]":
        task = asyncio.get_running_loop().create_task(work, name=name)
        if self._closed:  # what a cancelled one still had to say
            task.cancel()
        where.add(task)
        task.add_done_callback(where.discard)
        # Its error is told to who awaits it, if anybody still does.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task


async def _ended(tasks: "set[asyncio.Task[Any]]") -> None:
    for task in [*tasks]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
