"""A row in figures: what the table shows and two proxies are compared by."""

from collections import Counter
from dataclasses import dataclass, field

from tests.integration.faults.bounds import known_down, return_seen
from tests.integration.faults.load import OK
from tests.integration.faults.rows import MOST_ATTEMPTS, Row, percentile
from tests.integration.faults.run import problems
from tests.integration.faults.scenarios import Scenario


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Of every number less is better. Latencies in seconds, of the right answers; NaN when there was none.

    `told`: how long an answer took while all backends were down (p99). `seen`: how long until the first right answer
    after their return. Both only where that happens.
    """

    failed_gets: int
    failed_posts: int
    duplicates: int
    attempts: float
    p50: float
    p99: float
    longest: float
    failures: Counter[str] = field(default_factory=Counter)
    told: float | None = None
    seen: float | None = None
    problems: tuple[str, ...] = ()

    @property
    def failed(self) -> int:
        """Requests of any method."""
        return self.failed_gets + self.failed_posts

    @property
    def attempts_beyond(self) -> float:
        """Attempts per request above what the bound allows."""
        return max(0.0, self.attempts - MOST_ATTEMPTS)


def summarise(scenario: Scenario, row: Row) -> Summary:
    """The figures of a row; the results, of which there are many, can go then."""
    returned = "returned" in row.marks
    return Summary(
        failed_gets=row.failed("GET"),
        failed_posts=row.failed("POST"),
        duplicates=row.duplicates,
        attempts=row.attempts,
        p50=row.latency(0.5),
        p99=row.latency(0.99),
        longest=row.latency(1.0),
        failures=Counter({kind: count for kind, count in row.kinds.items() if kind != OK}),
        told=percentile((result.seconds for result in known_down(row)), 0.99) if returned else None,
        seen=return_seen(row) if returned else None,
        problems=tuple(problems(scenario, row)),
    )
