"""What a worker reports of its attempts: failures at once and with the successes before them, the rest in numbers."""

import asyncio
from collections.abc import Awaitable, Callable

from balancer import errors
from balancer.balancing.backend import Address, BackendState
from balancer.proxy.outcomes import EVERY, FailureReport, OutcomeReports, SuccessReport, failure_reason
from balancer.proxy.report import BackendCounters
from balancer.telemetry.registry import Registry

Told = list[tuple[list[FailureReport], list[SuccessReport]]]


def backend(slot: int = 3) -> BackendState:
    made = BackendState(pool="p", name="b", address=Address("127.0.0.1", 1), slot=slot)
    made.counters = BackendCounters(Registry(), "p", "b")
    return made


def run(test: Callable[[OutcomeReports, Told], Awaitable[None]]) -> None:
    async def main() -> None:
        told: Told = []
        reports = OutcomeReports(asyncio.get_running_loop())
        reports.tell = lambda failures, successes: told.append((failures, successes))
        await test(reports, told)

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


def test_failures_of_one_turn_go_out_together_and_those_soon_after_wait() -> None:
    async def check(reports: OutcomeReports, told: Told) -> None:
        one = backend()
        loop = asyncio.get_running_loop()
        reports.failed(one, "upstream_reset", 0)
        reports.failed(one, "connect_failed", 0)
        assert not told, "the turn is not over"
        await until(lambda: len(told) == 1)
        sent = loop.time()
        reports.failed(one, "upstream_reset", 0)
        await until(lambda: len(told) == 2)
        assert loop.time() - sent >= EVERY * 0.8
        assert told == [([(3, "upstream_reset", 0), (3, "connect_failed", 0)], []), ([(3, "upstream_reset", 0)], [])]

    run(check)


def test_a_failure_tells_the_successes_before_it_once() -> None:
    async def check(reports: OutcomeReports, told: Told) -> None:
        one = backend()
        one.counters.codes[2] += 4
        one.counters.codes[4] += 1  # a client's fault is no fault of the backend
        reports.failed(one, "upstream_reset", 0)
        reports.failed(one, "upstream_reset", 0)
        await until(lambda: bool(told))
        assert told[0][0] == [(3, "upstream_reset", 5), (3, "upstream_reset", 0)]

    run(check)


def test_a_failure_behind_a_good_status_is_no_success() -> None:
    async def check(reports: OutcomeReports, told: Told) -> None:
        one = backend()
        one.counters.codes[2] += 1  # its head came, its body was cut short
        reports.failed(one, "upstream_truncated", 200)
        await until(lambda: bool(told))
        reports.succeeded([one])
        assert told == [([(3, "upstream_truncated", 0)], [])]

    run(check)


def test_successes_are_told_in_numbers_and_only_where_there_were_some() -> None:
    async def check(reports: OutcomeReports, told: Told) -> None:
        busy, quiet = backend(1), backend(2)
        busy.counters.codes[2] += 2
        busy.counters.first_byte += 0.5
        reports.succeeded([busy, quiet])
        reports.succeeded([busy, quiet])
        assert told == [([], [(1, 2, 0.5)])]

    run(check)


def test_which_ends_count_against_a_backend() -> None:
    for row in errors.OUTCOMES.values():
        assert (failure_reason(row, 200) == row.reason) == row.counts_against_backend
        if row.source is errors.Source.DOWNSTREAM:
            assert not failure_reason(row, 503), "the client's doing is never the backend's fault"
    assert not failure_reason(errors.STALE_CONNECTION, 0), "closing an idle connection is no fault"
    statuses = [status for status in range(100, 600) if failure_reason(errors.COMPLETED, status)]
    assert statuses == [500, 502, 503, 504, *range(506, 600)]
    assert failure_reason(errors.COMPLETED, 999) == "status_5xx"
