"""Virtual time: what is to happen, in order. What is planned for one moment happens in the order of planning."""

import heapq
from collections.abc import Callable
from typing import Any


class Timeline:
    """`now` in seconds since the history began: true time, which no member and no client can read."""

    __slots__ = ("_count", "_heap", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def after(self, seconds: float, call: Callable[..., None], *args: Any) -> None:
        """Plan a call."""
        self._count += 1
        heapq.heappush(self._heap, (self.now + seconds, self._count, call, args))

    def run(self, until: float) -> None:
        """Let everything happen that is due by then."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            self.now, _, call, args = heapq.heappop(heap)
            call(*args)
        self.now = until
