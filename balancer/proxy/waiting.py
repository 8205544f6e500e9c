"""The line of exchanges that wait because every backend of their pool is at its `max_connections`.

First in, first out, per pool and worker; bounded by `queue_max` and `queue_timeout`. Law: an exchange in the line holds
no backend, and it leaves the line by exactly one of: its turn (`wake`), its time (`wake`), or its own end (`leave`).

Retries, which wait for a backend that has not failed them, are a line of their own: what is free may be of no use to
the first of them, and must not be kept from those who came for the first time. Of the two in front, who has waited
longer comes first.
"""

from typing import TYPE_CHECKING

from balancer.clock import monotonic
from balancer.errors import QUEUE_TIMEOUT
from balancer.proxy import retrying

if TYPE_CHECKING:
    from balancer.proxy.exchange import Exchange
    from balancer.proxy.snapshot import PoolPlan
    from balancer.transport.timers import Deadlines

TICK = 0.005  # seconds: other workers' exchanges end without telling us, and their cells are read so often


class WaitingLine:
    """The line of one pool in this worker. Joining, leaving and a turn are O(1) beside the pick."""

    __slots__ = ("_deadlines", "_most", "_pool", "_retries", "_seconds", "_ticking", "_waiting")

    def __init__(self, pool: "PoolPlan", deadlines: "Deadlines", *, seconds: float, most: int) -> None:
        self._deadlines = deadlines
        self._waiting: dict[Exchange, float] = {}  # to the time of its arrival, in that order
        self._retries: dict[Exchange, float] = {}  # likewise
        self._ticking = False
        self.configure(pool, seconds=seconds, most=most)

    def configure(self, pool: "PoolPlan", *, seconds: float, most: int) -> None:
        """A new generation is in use; who waits goes on waiting, now for at most `seconds` since it came."""
        self._pool = pool
        self._seconds = seconds
        self._most = most

    def __len__(self) -> int:
        return len(self._waiting) + len(self._retries)

    @property
    def has_room(self) -> bool:
        """Whether one more may join."""
        return len(self) < self._most

    def join(self, exchange: "Exchange", now: float, *, retry: bool = False) -> bool:
        """Wait at the end of the line; False when it is full."""
        if not self.has_room:
            return False
        (self._retries if retry else self._waiting)[exchange] = now
        self._keep_ticking(now)
        return True

    def leave(self, exchange: "Exchange") -> None:
        """It ended while it waited."""
        self._waiting.pop(exchange, None)
        self._retries.pop(exchange, None)

    def wake(self, now: float) -> None:
        """Serve from the front for as long as somebody is free; give up on who has waited long enough."""
        while self._serve_one(now):
            pass
        state = self._pool.state
        for waiting in (self._waiting, self._retries):
            while waiting:
                exchange, since = next(iter(waiting.items()))
                if state.eligible and since + self._seconds > now:
                    break
                del waiting[exchange]
                retrying.turned_away(exchange, QUEUE_TIMEOUT if state.eligible else state.explain(now), now)

    def _serve_one(self, now: float) -> bool:
        lines = [line for line in (self._waiting, self._retries) if line]
        if len(lines) == 2:
            lines.sort(key=lambda line: next(iter(line.values())))
        for line in lines:
            exchange = next(iter(line))
            if exchange.attempt.try_turn(self._pool, now):
                line.pop(exchange, None)
                return True
        return False

    def _keep_ticking(self, now: float) -> None:
        if not self._ticking:
            self._ticking = True
            self._deadlines.at(now + TICK, self._tick)

    def _tick(self) -> None:
        self._ticking = False
        now = monotonic()
        self.wake(now)
        if len(self):
            self._keep_ticking(now)
