"""Who is to blame when the route's patience ends, and that no law of attempts is broken by how many follow."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from balancer.errors import ATTEMPT_TIMEOUT, CONNECT_TIMEOUT, EXCHANGE_TIMEOUT, UPSTREAM_RESET, Outcome
from balancer.proxy import retrying
from balancer.proxy.exchange import Exchange

NEVER = float("inf")
PATIENCE = 10.0


def blamed(
    *, connecting: bool = False, connected: bool = True, picked: float = 0.0, asked: float = 0.0, **more: Any
) -> Outcome:
    """The verdict 20 s after the clock's beginning."""
    attempt = SimpleNamespace(
        connecting=connecting, upstream=object() if connected else None, started=picked, asked=asked
    )
    exchange = SimpleNamespace(attempt=attempt, route=SimpleNamespace(timeout=PATIENCE), status=more.get("status", 0))
    return retrying.blamed(cast("Exchange", exchange), more.get("outcome", EXCHANGE_TIMEOUT), 20.0)


@pytest.mark.parametrize("asked", [10.0, 15.0])
def test_a_backend_that_was_silent_for_half_of_the_time_is_to_blame(asked: float) -> None:
    assert blamed(asked=asked) is ATTEMPT_TIMEOUT


@pytest.mark.parametrize("asked", [15.1, NEVER])
def test_a_backend_whose_request_took_long_to_come_is_not(asked: float) -> None:
    assert blamed(picked=10.0, asked=asked) is EXCHANGE_TIMEOUT


@pytest.mark.parametrize(("picked", "to_blame"), [(10.0, True), (15.0, True), (15.1, False)])
@pytest.mark.parametrize("asked", [0.0, NEVER])  # the rest of the request is not read before there is a connection
def test_a_backend_that_cannot_be_reached_is_to_blame_if_it_had_a_fair_time(
    picked: float, to_blame: bool, asked: float
) -> None:
    outcome = blamed(connecting=True, connected=False, picked=picked, asked=max(picked, asked))
    assert outcome is (CONNECT_TIMEOUT if to_blame else EXCHANGE_TIMEOUT)


def test_nobody_is_to_blame_for_a_request_that_waits() -> None:
    assert blamed(connected=False) is EXCHANGE_TIMEOUT


def test_a_backend_that_has_begun_to_answer_is_not_to_blame() -> None:
    assert blamed(status=200) is EXCHANGE_TIMEOUT


def test_another_outcome_is_what_it_is() -> None:
    assert blamed(outcome=UPSTREAM_RESET) is UPSTREAM_RESET
