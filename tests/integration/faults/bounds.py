"""What a row may show. Each bound gives what is wrong, in words."""

import math
from collections import Counter

from tests.integration.faults.load import Result
from tests.integration.faults.rows import MOST_ATTEMPTS, Row, percentile

DOWN_WITHIN = 0.005
CHECK_INTERVAL = 1.0
_ENOUGH = 10_000  # requests, from which on a 99th percentile is judged
_JITTER = 0.25  # of the check, a tenth; and of this client, whose next request must come and be answered
_SETTLED = 1.5  # seconds until it is known that all are down: a check interval, and the checks that are under way


def _shown(results: list[Result]) -> str:
    counts = Counter((result.request.method, result.kind) for result in results)
    return ", ".join(f"{count} x {method} {kind}" for (method, kind), count in sorted(counts.items()))


def nothing_twice(row: Row) -> list[str]:
    """In every row: no POST was processed twice, and every request had an end."""
    wrong = []
    if row.duplicates:
        twice = [number for number, count in row.journal.posts.items() if count > 1]
        wrong.append(f"{row.duplicates} POSTs were processed again: {twice[:10]}")
    if len(row.results) != row.size.requests:
        wrong.append(f"{len(row.results)} results of {row.size.requests} requests")
    wrong_answers = [result for result in row.results if result.kind == "wrong"]
    if wrong_answers:
        wrong.append(f"answers that are not the right ones: {_shown(wrong_answers)}")
    return wrong


def no_get_fails(row: Row) -> list[str]:
    """Every GET could have been served."""
    failed = [result for result in row.failures if result.request.method == "GET"]
    return [f"GETs failed: {_shown(failed)}"] if failed else []


def errors_and_attempts(row: Row) -> list[str]:
    """When everything is broken, retries must not make it worse."""
    wrong = []
    errors, rate = len(row.failures) / len(row.results), row.journal.kinds["500"] / row.journal.requests
    if errors > rate:
        wrong.append(f"{errors:.1%} of the requests failed, {rate:.1%} of the origins' answers: {_shown(row.failures)}")
    if row.attempts > MOST_ATTEMPTS:
        wrong.append(f"{row.attempts:.3f} attempts per request")
    return wrong


def only_marked_fail(row: Row) -> list[str]:
    """An answer that was begun can neither be repeated nor completed; every other one can."""
    innocent = [result for result in row.failures if not result.request.reset]
    spared = [result for result in row.results if result.request.reset and not result.failed]
    wrong = [f"failed without a reset: {_shown(innocent)}"] if innocent else []
    return wrong + ([f"reset and yet whole: {_shown(spared)}"] if spared else [])


def only_cut_fail(row: Row) -> list[str]:
    """A worker takes along what it was working on. What was sent to it before its end was seen counts as that."""
    innocent = [result for result in row.failures if result.port not in row.cut_ports]
    spared = [result for result in row.failures if result.kind.isdigit()]
    wrong = [f"failed, though no killed worker had them: {_shown(innocent)}"] if innocent else []
    return wrong + ([f"answered with an error: {_shown(spared)}"] if spared else [])


def down_is_told_and_return_is_seen(row: Row) -> list[str]:
    """Nobody waits for a pool that is known to be down, and nobody waits longer than the next check for its return."""
    down = known_down(row)
    others = [result for result in down if result.kind != "503"]
    wrong = [f"not 503 while all were known to be down: {_shown(others)}"] if others or not down else []
    # The slowest hundredth is this client's machine as much as the proxy; a small run says too little about it.
    told = percentile((result.seconds for result in down), 0.99 if row.size.requests >= _ENOUGH else 0.5)
    if told > DOWN_WITHIN:
        wrong.append(f"told after {1000 * told:.1f} ms")
    if (seen := return_seen(row)) > CHECK_INTERVAL + _JITTER:
        wrong.append(f"the first 200 came {seen:.2f} s after the return")
    return wrong


def known_down(row: Row) -> list[Result]:
    """Results of requests that were sent while the proxy must have known that nobody is there."""
    return row.between("down", "returning", after=_SETTLED)


def return_seen(row: Row) -> float:
    """Seconds from the return of all backends to the first right answer; infinite when none came."""
    after = [result.ended for result in row.results if not result.failed and result.ended > row.marks["returned"]]
    return min(after, default=math.inf) - row.marks["returned"]
