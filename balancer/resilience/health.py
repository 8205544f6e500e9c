"""What active checks say of one backend: checking until the first result, then changed by several in a row."""

from enum import StrEnum
from typing import TYPE_CHECKING

from balancer.config.model import HealthCheck

if TYPE_CHECKING:
    from random import Random

JITTER = 0.1  # of the interval, either way: checks that started together drift apart


class Health(StrEnum):
    """A backend's state by its active checks."""

    CHECKING = "checking"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class HealthTracker:
    """One backend's active checks. `in_a_row` counts the latest results that were alike: evidence for the log."""

    __slots__ = ("_check", "_in_step", "_passed", "in_a_row", "state")

    def __init__(self, check: HealthCheck) -> None:
        self._check = check
        self._passed = False
        self._in_step = True  # with all that were checked for the first time at the same moment
        self.in_a_row = 0
        self.state = Health.CHECKING

    def reconfigure(self, check: HealthCheck) -> None:
        """Other settings from now on; what is known stays."""
        self._check = check

    def result(self, passed: bool) -> Health | None:
        """A check ended. Returns the new state when it changed.

        The first result decides alone: a backend that has just been added need not wait for `healthy_after` checks.
        """
        self.in_a_row = self.in_a_row + 1 if passed == self._passed else 1
        self._passed = passed
        said = Health.HEALTHY if passed else Health.UNHEALTHY
        needed = self._check.healthy_after if passed else self._check.unhealthy_after
        if said is self.state or (self.state is not Health.CHECKING and self.in_a_row < needed):
            return None
        self.state = said
        return said

    def next_delay(self, rng: "Random") -> float:
        """Seconds until the next check: the interval +-10 %, the fast one while a change may be under way.

        After the first one any part of the interval: then a pool's checks are spread over it, and the first of many
        backends that return together is seen soon.
        """
        steady = self.state is (Health.HEALTHY if self._passed else Health.UNHEALTHY)
        interval = self._check.interval
        if steady and self._in_step:
            self._in_step = False
            return interval * max(JITTER, rng.random())
        if not steady:
            interval = min(interval, self._check.fast_interval)  # an interval below the fast one is not slowed down
        return interval * (1.0 + JITTER * (2.0 * rng.random() - 1.0))
