"""How long a tick of the core's clock takes: longer where loop or disk are slow, so that nobody is deposed for it.

A member whose loop is held up for 100 ms answers a heartbeat that much later. On a machine where that is usual, an
election timeout of 300 ms would be reached by bad luck alone; so the tick is stretched until the usual delay is a tenth
of the shortest election timeout (openraft's rule for the latency of an append).
"""

from collections import deque

SEEN = 512
"""Samples that count: of ticks, some five seconds of them."""
SHARE = 0.1
"""Of an election timeout, which delays may take."""
MOST = 4.0
"""The longest stretch: beyond it a real failure would be noticed too late."""


class TickPace:
    """`tick` and `election` in seconds, as configured."""

    def __init__(self, tick: float, election: float) -> None:
        self.tick = tick
        self.election = election
        self.seconds = tick
        self._late: deque[float] = deque(maxlen=SEEN)
        self._syncs: deque[float] = deque(maxlen=SEEN)
        self._since = 0

    @property
    def stretch(self) -> float:
        """1.0 = as configured."""
        return self.seconds / self.tick

    @property
    def loop_lag(self) -> float:
        """Seconds: the 99th percentile of how late ticks came."""
        return _p99(self._late)

    @property
    def sync_p99(self) -> float:
        """Seconds: the 99th percentile of what a write to the log took."""
        return _p99(self._syncs)

    def ticked(self, late: float) -> None:
        """A tick came so many seconds after it was due."""
        self._late.append(max(0.0, late))
        self._since += 1
        if self._since >= SEEN // 8:
            self._since = 0
            usual = self.loop_lag + self.sync_p99
            self.seconds = self.tick * min(MOST, max(1.0, usual / (SHARE * self.election)))

    def synced(self, seconds: float) -> None:
        """A write to the log took so long."""
        self._syncs.append(seconds)


def _p99(samples: deque[float]) -> float:
    return sorted(samples)[int(len(samples) * 0.99)] if samples else 0.0
