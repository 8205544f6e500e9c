"""What a run of a scenario gave: one row of the table, for one proxy."""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tests.integration.faults.load import Result, Size
from tests.support.faulty_origin import Journal

MOST_ATTEMPTS = 1.25  # per request, when all backends fail half of the time


@dataclass(slots=True)
class Row:
    """All that was seen. `marks`: when things happened, on the clock of the results."""

    scenario: str
    proxy: str
    size: Size
    results: list[Result] = field(default_factory=list)
    journal: Journal = field(default_factory=Journal)
    marks: dict[str, float] = field(default_factory=dict)
    cut_ports: set[int] = field(default_factory=set)  # of clients whose connection a killed worker had

    def failed(self, method: str) -> int:
        """Requests of this method that did not get the right answer, whole."""
        return sum(result.failed and result.request.method == method for result in self.results)

    @property
    def failures(self) -> list[Result]:
        """Those that failed."""
        return [result for result in self.results if result.failed]

    @property
    def kinds(self) -> Counter[str]:
        """How many results of each kind."""
        return Counter(result.kind for result in self.results)

    @property
    def duplicates(self) -> int:
        """POSTs that the origins processed again."""
        return self.journal.duplicates

    @property
    def attempts(self) -> float:
        """Requests that reached an origin, for each of the clients'. An attempt without a connection is not seen."""
        return self.journal.requests / len(self.results)

    def latency(self, share: float) -> float:
        """This percentile of the answered requests, in seconds; NaN when there is none."""
        return percentile((result.seconds for result in self.results if not result.failed), share)

    def between(self, start: str, end: str, after: float = 0.0) -> list[Result]:
        """Results of requests sent from `after` seconds after one mark until another."""
        first, last = self.marks[start] + after, self.marks[end]
        return [result for result in self.results if first <= result.sent < last]


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least this share (0 to 1) of them does not exceed; NaN without values."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


Bound = Callable[[Row], list[str]]
"""What is wrong with a row, in words; empty = nothing."""
