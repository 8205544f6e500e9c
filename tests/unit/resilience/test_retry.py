"""Retries: which failures may be followed by another attempt, and how many the budget allows."""

import pytest

from balancer import errors
from balancer.config.model import Retry
from balancer.resilience.retry import WORDS, RetryRule
from balancer.resilience.retry_budget import LIFETIME, RetryBudget


class Table:
    """Rows of all workers, seen by one of them."""

    def __init__(self, rows: list[list[int]], row: int) -> None:
        self.own = rows[row]
        self._rows = rows

    def total(self, slot: int) -> int:
        return sum(row[slot] for row in self._rows)


def budgets(workers: int, *, share: float | None = 0.2, reserve: float = 3.0) -> list[RetryBudget]:
    rows = [[0] for _ in range(workers)]
    return [RetryBudget(Table(rows, row), 0, share=share, reserve=reserve / workers, now=0.0) for row in range(workers)]


def taken(budget: RetryBudget, now: float, tries: int = 10_000) -> int:
    count = 0
    while count < tries and budget.take(now):
        count += 1
    return count


@pytest.mark.parametrize("workers", [1, 4])
def test_the_reserve_alone_allows_its_rate(workers: int) -> None:
    every = budgets(workers)
    assert taken(every[0], 0.0) == 3 * LIFETIME
    for second in range(1, 11):
        for budget in every:
            budget.tick(float(second))
    assert taken(every[0], 10.0) == pytest.approx(30 * (1 - 1 / 2.71828), abs=1)


def test_retries_are_at_most_their_share_of_the_requests() -> None:
    first, second = budgets(2, reserve=0.0)
    retries = requests = 0
    for step in range(1, 601):  # a minute of 200 requests per second, all of which fail
        for budget in (first, second):
            budget.requests += 10
            requests += 10
            budget.tick(step / 10)
            retries += taken(budget, step / 10, 10)
    assert retries / requests == pytest.approx(0.2, rel=0.02)


def test_what_one_worker_saved_another_may_take() -> None:
    first, second = budgets(2, reserve=0.0)
    first.requests = 50
    first.tick(0.0)
    assert taken(second, 0.0) == 10
    assert not first.take(0.0)


def test_saved_tokens_fade() -> None:
    (budget,) = budgets(1, reserve=0.0)
    budget.requests = 1000
    budget.tick(0.0)
    budget.tick(LIFETIME * 10)
    assert not budget.take(LIFETIME * 10)


def test_without_a_share_there_is_no_limit() -> None:
    (budget,) = budgets(1, share=None, reserve=0.0)
    assert taken(budget, 0.0, 1000) == 1000


def test_every_word_covers_the_outcomes_of_its_name() -> None:
    assert set(WORDS) == {
        reason for reason, row in errors.OUTCOMES.items() if row.retryable is not errors.Retryable.NEVER
    } - {"stale_connection"}, "a stale connection has a rule of its own"


@pytest.mark.parametrize("reason", sorted(WORDS))
@pytest.mark.parametrize("repeatable", [False, True])
def test_a_failure_is_tried_again_only_when_its_word_stands_and_it_is_safe(reason: str, repeatable: bool) -> None:
    outcome = errors.OUTCOMES[reason]
    safe = repeatable or outcome.retryable is errors.Retryable.ALWAYS
    assert RetryRule(Retry(when=(WORDS[reason],))).after_failure(outcome, repeatable=repeatable) == safe
    others = tuple(set(WORDS.values()) - {WORDS[reason]})
    assert not RetryRule(Retry(when=others)).after_failure(outcome, repeatable=repeatable)


def test_what_the_client_caused_is_never_tried_again() -> None:
    rule = RetryRule(Retry())
    for row in errors.OUTCOMES.values():
        if row.source is errors.Source.DOWNSTREAM:
            assert not rule.after_failure(row, repeatable=True), row.reason


def test_only_statuses_that_are_listed_are_tried_again_and_only_where_it_is_safe() -> None:
    rule = RetryRule(Retry(when=("reset", "503")))
    assert rule.after_status(503, repeatable=True)
    assert not rule.after_status(503, repeatable=False)
    assert not rule.after_status(500, repeatable=True)
