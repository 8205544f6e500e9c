"""Passive detection: which backends of a pool fail or are slow in real traffic, and what follows from it. Pure.

The supervisor tells what workers report, in the order of arrival, and calls `tick` several times per second. Each
change comes back as a Decision; `is_ejected`, `is_half_open` and `share` change with decisions only (and with `keep`).
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from balancer.config.model import OutlierDetection
from balancer.resilience.ejection import Circuit, Decision, Ejections, Verdict
from balancer.resilience.failure_rate import FailureRates, buckets_of
from balancer.resilience.latency_outliers import LatencyOutliers

if TYPE_CHECKING:
    from random import Random

__all__ = ["Decision", "OutlierDetector", "Verdict"]


class OutlierDetector:
    """The detector of one pool. Backends are known by their slots. Times are seconds on one clock that never goes back.

    Reports of a backend that is ejected already, or that `keep` did not name, change nothing: they are about attempts
    from before. A tick costs O(1), and O(backends with traffic) where a bucket of the window ends.
    """

    __slots__ = ("_bucket_end", "_ejections", "_latencies", "_rates", "_releasing", "_settings", "_streaks")

    def __init__(
        self, settings: OutlierDetection, rng: "Random", last: Callable[[int], bool] = lambda _: False
    ) -> None:
        self._settings = settings
        self._ejections = Ejections(settings, rng, last)
        self._rates = FailureRates(settings.window)
        self._latencies = LatencyOutliers()
        self._streaks: dict[int, int] = {}  # failures in a row, where there are any
        self._bucket_end: float | None = None
        self._releasing = ""  # why lowered shares are to be made whole by the next tick

    def keep(self, slots: Iterable[int]) -> None:
        """The pool's backends from now on: known ones keep their state, others are forgotten. O(backends).

        Where more are ejected than the smaller pool allows, the next `tick` returns those that are nearest their end.
        """
        for slot in self._ejections.keep(slots):
            self._forget(slot)

    def reconfigure(self, settings: OutlierDetection) -> None:
        """Other settings from now on. Ejections and shares that they do not allow are undone by the next `tick`."""
        old, self._settings = self._settings, settings
        self._ejections.reconfigure(settings)
        if settings.window != old.window:
            self._rates = FailureRates(settings.window)
            self._bucket_end = None
        if settings.mode != old.mode:
            self._releasing = f"the mode is {settings.mode} now"
        elif not settings.latency:
            self._releasing = "latency is off now"

    def failed(self, slot: int, reason: str, succeeded: int, now: float) -> list[Decision]:
        """An attempt failed, after `succeeded` attempts of the same reporter that went well.

        Those are told here only, not by way of `succeeded()` as well. Of a message that carries both, the successes
        are to be told first: told after the failures, they would break a streak that they came before.
        """
        circuit = self._ejections.circuit(slot)
        if circuit is Circuit.HALF_OPEN and self._settings.mode == "enforce":
            return [self._ejections.trial_failed(slot, reason, now)]
        if circuit is not Circuit.CLOSED:
            return []
        streak = 1 if succeeded > 0 else self._streaks.get(slot, 0) + 1
        self._streaks[slot] = streak
        self._rates.add(slot, 1 + max(0, succeeded), 1)
        limit = self._settings.consecutive_failures
        if limit is not None and streak >= limit:
            return self._propose(slot, "consecutive_failures", f"{streak} failures in a row, last {reason}", now)
        evidence = self._rates.evidence_at_once(slot) if self._settings.failure_rate else None
        return [] if evidence is None else self._propose(slot, "failure_rate", evidence, now)

    def succeeded(self, slot: int, count: int, first_byte_sum: float, now: float) -> list[Decision]:
        """`count` attempts went well; their times to the first byte, in seconds, sum up to `first_byte_sum`."""
        if count <= 0:
            return []
        circuit = self._ejections.circuit(slot)
        if circuit is Circuit.HALF_OPEN:
            return [self._ejections.give_back(slot, "trial", "the trial request went well", now)]
        if circuit is not Circuit.CLOSED:
            return []
        self._streaks.pop(slot, None)
        self._rates.add(slot, count, 0)
        if self._settings.latency:
            self._latencies.add(slot, count, first_byte_sum)
        return []

    def checked_healthy(self, slot: int, now: float) -> list[Decision]:
        """An active check passed. It ends a trial, not an ejection: checks often pass where requests fail."""
        if self._ejections.circuit(slot) is not Circuit.HALF_OPEN:
            return []
        return [self._ejections.give_back(slot, "health_check", "a health check passed", now)]

    def tick(self, now: float) -> list[Decision]:
        """Ejections that are over, windows that moved on, and what `keep` and `reconfigure` left to do."""
        decisions = self._ejections.tick(now)
        if self._releasing:
            decisions += self._latencies.release(self._releasing)
            self._releasing = ""
        length = self._settings.window / buckets_of(self._settings.window)
        if self._bucket_end is None:
            self._bucket_end = now + length
        if now < self._bucket_end:
            return decisions
        if self._settings.failure_rate:
            for slot in self._rates.suspects():
                evidence = self._rates.evidence(slot)  # asked one by one: the worst no longer spoils the others' rate
                if evidence is not None:
                    decisions += self._propose(slot, "failure_rate", evidence, now)
        if self._settings.latency:
            decisions += self._latencies.look(now, self._settings.window, observe=self._settings.mode == "observe")
        late = int((now - self._bucket_end) / length)
        for _ in range(min(1 + late, buckets_of(self._settings.window))):
            self._rates.move_on()
        self._bucket_end += (1 + late) * length
        return decisions

    def is_ejected(self, slot: int) -> bool:
        """Whether it is out of use: OPEN or HALF_OPEN. Never in mode observe."""
        return self._ejections.circuit(slot) in (Circuit.OPEN, Circuit.HALF_OPEN)

    def is_half_open(self, slot: int) -> bool:
        """Whether one real request or an active check decides about its return."""
        return self._ejections.circuit(slot) is Circuit.HALF_OPEN

    def share(self, slot: int) -> float:
        """What latency leaves of its weight: 1.0, less (down to 0.01) for an outlier. An ejection makes it whole."""
        return self._latencies.share(slot)

    def _propose(self, slot: int, cause: str, evidence: str, now: float) -> list[Decision]:
        decision = self._ejections.propose(slot, cause, evidence, now)
        if decision is None:
            return []
        if decision.verdict is not Verdict.SPARED:
            self._forget(slot)
        return [decision]

    def _forget(self, slot: int) -> None:
        self._streaks.pop(slot, None)
        self._rates.forget(slot)
        self._latencies.forget(slot)
