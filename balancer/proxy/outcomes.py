"""What the supervisor is told of attempts, so that it can judge backends: failures at once, successes in numbers.

Hot code only counts (report.BackendCounters); here the counts become reports. Failures of one turn of the loop go out
together, at most every 5 ms.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from balancer.clock import monotonic
from balancer.errors import COMPLETED, Outcome

if TYPE_CHECKING:
    from balancer.balancing.backend import BackendState

EVERY = 0.005  # seconds between two reports of failures
FAILURES_MAX = 1000  # in one report; in 5 ms a worker cannot end more attempts than that
NOT_A_FAULT = frozenset((501, 505))  # a backend that does not do what was asked works as it should (as HAProxy sees it)

FailureReport = tuple[int, str, int]
"""Slot, reason, and this worker's successes there since its last report."""
SuccessReport = tuple[int, int, float]
"""Slot, successes since the last report, and the sum of their times to the first byte in seconds."""
Tell = Callable[[list[FailureReport], list[SuccessReport]], None]


def failure_reason(outcome: Outcome, status: int) -> str:
    """The reason when an attempt that ended so counts against its backend, else ""."""
    if outcome.counts_against_backend:
        return outcome.reason
    if outcome is COMPLETED and status >= 500 and status not in NOT_A_FAULT:
        return f"status_{status}" if status < 600 else "status_5xx"
    return ""


class OutcomeReports:
    """The reports of one worker. `tell` is where they go; until it is set they are dropped."""

    __slots__ = ("_due", "_failures", "_last", "_loop", "tell")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._failures: list[FailureReport] = []
        self._due = False
        self._last = 0.0
        self.tell: Tell | None = None

    def failed(self, backend: "BackendState", reason: str, status: int) -> None:
        """An attempt at `backend` failed, with the backend's `status` or 0."""
        if self.tell is None or len(self._failures) >= FAILURES_MAX:
            return
        counters = backend.counters
        if 100 <= status < 500:
            counters.spoiled += 1  # its status was counted among the good ones
        self._failures.append((backend.slot, reason, counters.take_successes()[0]))
        if not self._due:
            self._due = True
            wait = self._last + EVERY - monotonic()
            if wait > 0:
                self._loop.call_later(wait, self._send)
            else:
                self._loop.call_soon(self._send)

    def succeeded(self, backends: "Iterable[BackendState]") -> None:
        """Report what went well at these since the last report. O(backends)."""
        if self.tell is None:
            return
        reports: list[SuccessReport] = []
        for backend in backends:
            count, seconds = backend.counters.take_successes()
            if count > 0:
                reports.append((backend.slot, count, seconds))
        if reports:
            self.tell([], reports)

    def _send(self) -> None:
        self._due = False
        self._last = monotonic()
        failures, self._failures = self._failures, []
        if self.tell is not None and failures:
            self.tell(failures, [])
