"""Notices that the configuration file changed, however that was done.

Editors write in place or put another file there; Kubernetes swaps a symbolic link two folders up. So the path itself
and what it leads to are looked at, and a change counts when a further look finds the same: then the writing is over.
"""

import asyncio
import os
from collections.abc import Callable

EVERY = 0.5  # seconds between two looks

Look = tuple[tuple[int, int, int], tuple[int, int, int]] | None


def look(path: str) -> Look:
    """Inode, time of change and size of the path and of what it leads to; None while there is nothing."""
    try:
        own, target = os.lstat(path), os.stat(path)
    except OSError:
        return None
    return (own.st_ino, own.st_mtime_ns, own.st_size), (target.st_ino, target.st_mtime_ns, target.st_size)


class Watch:
    """One file. `changed` is called once for each change, when it has settled, while `wanted()`."""

    def __init__(self, path: str, changed: Callable[[], None], wanted: Callable[[], bool]) -> None:
        self._path = path
        self._changed = changed
        self._wanted = wanted
        self._known: Look = None
        self._last: Look = None

    def known(self, now: Look) -> None:
        """What is there now is no change."""
        self._known = self._last = now

    def seen(self, now: Look) -> None:
        """A look found this."""
        settled = now == self._last
        self._last = now
        if now is not None and settled and now != self._known:
            self._known = now
            self._changed()

    async def run(self) -> None:
        """Look until cancelled. The looks are made in a thread: a file system may hang."""
        began = False
        while True:
            if not self._wanted():
                began = False
            elif began:
                self.seen(await asyncio.to_thread(look, self._path))
            else:
                self.known(await asyncio.to_thread(look, self._path))
                began = True
            await asyncio.sleep(EVERY)
