"""The line of exchanges that wait because every backend of their pool is at its `max_connections`.

First in, first out, per pool and worker; bounded by `queue_max` and `queue_timeout`. Law: an exchange in the line holds
no backend, and it leaves the line by exactly one of: its turn (`wake`), its time (`wake`), or its own end (`leave`).
"""

from typing import TYPE_CHECKING

from balancer.clock import monotonic
from balancer.errors import QUEUE_TIMEOUT

if TYPE_CHECKING:
    from balancer.proxy.exchange import Exchange
    from balancer.proxy.snapshot import PoolPlan
    from balancer.transport.timers import Deadlines

TICK = 0.005  # seconds: other workers' exchanges end without telling us, and their cells are read so often


class WaitingLine:
    """The line of one pool in this worker. Joining, leaving and a turn are O(1) beside the pick."""

    __slots__ = ("_deadlines", "_most", "_pool", "_seconds", "_ticking", "_waiting")

    def __init__(self, pool: "PoolPlan", deadlines: "Deadlines", *, seconds: float, most: int) -> None:
        self._deadlines = deadlines
        self._waiting: dict[Exchange, float] = {}  # to the time of its arrival, in that order
        self._ticking = False
        self.configure(pool, seconds=seconds, most=most)

    def configure(self, pool: "PoolPlan", *, seconds: float, most: int) -> None:
        """A new generation is in use; who waits goes on waiting, now for at most `seconds` since it came."""
        self._pool = pool
        self._seconds = seconds
        self._most = most

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self, exchange: "Exchange", now: float) -> bool:
        """Wait at the end of the line; False when it is full."""
        if len(self._waiting) >= self._most:
            return False
        self._waiting[exchange] = now
        self._keep_ticking(now)
        return True

    def leave(self, exchange: "Exchange") -> None:
        """It ended while it waited."""
        self._waiting.pop(exchange, None)

    def wake(self, now: float) -> None:
        """Serve from the front for as long as somebody is free; give up on who has waited long enough."""
        waiting = self._waiting
        while waiting:
            exchange = next(iter(waiting))
            if not exchange.attempt.try_turn(self._pool, now):
                break
            waiting.pop(exchange, None)
        state = self._pool.state
        while waiting:
            exchange, since = next(iter(waiting.items()))
            if state.eligible and since + self._seconds > now:
                break
            del waiting[exchange]
            exchange.fail(QUEUE_TIMEOUT if state.eligible else state.explain(now))

    def _keep_ticking(self, now: float) -> None:
        if not self._ticking:
            self._ticking = True
            self._deadlines.at(now + TICK, self._tick)

    def _tick(self) -> None:
        self._ticking = False
        now = monotonic()
        self.wake(now)
        if self._waiting:
            self._keep_ticking(now)
