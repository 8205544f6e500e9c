"""When a dead worker is started again. Pure: time is an argument."""

FIRST = 0.1
LONGEST = 30.0
STABLE_AFTER = 10.0  # seconds of service after which earlier deaths are forgiven


class Restarts:
    """The deaths of one worker slot. The first restart is at once; each further quick death doubles the wait."""

    __slots__ = ("_ready_at", "quick_deaths")

    def __init__(self) -> None:
        self.quick_deaths = 0
        self._ready_at: float | None = None

    def ready(self, now: float) -> None:
        """The worker serves."""
        self._ready_at = now

    def died(self, now: float) -> float:
        """The worker ended unasked. Returns the seconds to wait: 0, then 0.1 doubling to 30."""
        served = self._ready_at is not None and now - self._ready_at >= STABLE_AFTER
        self._ready_at = None
        if served:
            self.quick_deaths = 0
        self.quick_deaths += 1
        if self.quick_deaths == 1:
            return 0.0
        # 2 ** 20 is far beyond the longest wait: the exponent is bounded, as deaths are not.
        return min(LONGEST, FIRST * 2.0 ** min(self.quick_deaths - 2, 20))
