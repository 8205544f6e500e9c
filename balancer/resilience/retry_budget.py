"""The retry budget: retries are a share of the traffic, so that they cannot multiply an overload.

Without it three tries at each of four layers make 81 requests of one; with a budget of 20 % it is 2.07 at most. The
rule is Finagle's RetryBudget: each request deposits a share of a token, each retry takes a whole one, tokens are worth
nothing after about 10 s, and a reserve comes in by the second.

All workers share one budget per pool: each has a cell that only it writes, and the sum decides. A cell may go below
zero: what one worker took, another may have deposited.
"""

import math
from collections.abc import MutableSequence
from typing import Protocol

LIFETIME = 10.0  # seconds; with a longer one a quiet night would pay for a storm in the morning
TOKEN = 1000  # cells hold thousandths


class SharedCells(Protocol):
    """A row of cells of our own in a table of all workers' rows."""

    own: MutableSequence[int]

    def total(self, slot: int, /) -> int:
        """The sum of a column."""


class RetryBudget:
    """The budget of one pool as one worker sees it. `requests` counts those since the last tick; raise it for each."""

    __slots__ = ("_cells", "_column", "_reserve", "_share", "_ticked", "requests")

    def __init__(self, cells: SharedCells, column: int, *, share: float | None, reserve: float, now: float) -> None:
        """`share`: retries per request, None = no limit. `reserve`: this worker's part of the retries per second that
        are allowed however little traffic there is.
        """
        self._cells = cells
        self._column = column
        self._ticked = now
        self.requests = 0
        self.configure(share=share, reserve=reserve)
        cells.own[column] = int(self._reserve * LIFETIME * TOKEN)

    def configure(self, *, share: float | None, reserve: float) -> None:
        """New settings; what was saved stays."""
        self._share = share
        self._reserve = reserve

    def tick(self, now: float) -> None:
        """Deposit what the requests since the last tick earned; let old tokens fade. Call it every second or so."""
        elapsed = max(now - self._ticked, 0.0)
        self._ticked = now
        kept = self._cells.own[self._column] * math.exp(-elapsed / LIFETIME)
        earned = self._reserve * LIFETIME * (1 - math.exp(-elapsed / LIFETIME)) + self.requests * (self._share or 0.0)
        self.requests = 0
        self._cells.own[self._column] = int(kept + earned * TOKEN)

    def take(self, now: float) -> bool:
        """Take a token for one retry, if all workers together have one. O(workers)."""
        if self._share is None:
            return True
        self.tick(now)
        if self._cells.total(self._column) < TOKEN:
            return False
        self._cells.own[self._column] -= TOKEN
        return True
