"""The outcome table: closed, unambiguous, and consistent with RFC 9110 section 9.2.2."""

import ast
import dataclasses
import inspect
from http import HTTPStatus

import pytest

from balancer import errors
from balancer.errors import OUTCOMES, ConfigError, Outcome, Phase, Problem, ProtocolError, Retryable, Source

ROWS = sorted(OUTCOMES.values(), key=lambda outcome: outcome.reason)
NAMED = {name: value for name, value in vars(errors).items() if isinstance(value, Outcome)}

# Not in the registry of status codes: nginx's number for a client that went away. It is logged, never sent.
CLIENT_WENT_AWAY = 499

# RFC 9209 section 2.3 that our rows use.
PROXY_STATUS = {
    "connection_limit_reached",
    "connection_refused",
    "connection_terminated",
    "connection_timeout",
    "destination_unavailable",
    "http_protocol_error",
    "http_response_header_section_size",
    "http_response_timeout",
    "proxy_internal_error",
    "proxy_loop_detected",
    "tls_protocol_error",
}


def test_every_row_has_one_name_in_the_module_and_every_name_is_a_row() -> None:
    assert sorted(outcome.reason for outcome in NAMED.values()) == sorted(OUTCOMES)
    assert len({id(outcome) for outcome in NAMED.values()}) == len(NAMED)


def test_the_names_of_rows_are_their_reasons() -> None:
    exceptions = {"ok": "COMPLETED"}
    wrong = {
        name: outcome.reason
        for name, outcome in NAMED.items()
        if exceptions.get(outcome.reason, outcome.reason.upper()) != name
    }
    assert wrong == {}


def test_no_row_is_written_twice() -> None:
    tree = ast.parse(inspect.getsource(errors))
    reasons = [
        call.args[0].value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id == "_row"
        and isinstance(call.args[0], ast.Constant)
    ]
    assert len(reasons) == len(set(reasons)) == len(OUTCOMES)


def test_reasons_are_the_keys_and_lower_case_words() -> None:
    assert {key: outcome.reason for key, outcome in OUTCOMES.items()} == {key: key for key in OUTCOMES}
    assert all(key.replace("_", "").isalpha() and key == key.lower() for key in OUTCOMES)


@pytest.mark.parametrize("outcome", ROWS, ids=lambda outcome: outcome.reason)
def test_a_row_cannot_be_changed(outcome: Outcome) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        outcome.status = 200  # type: ignore[misc]


@pytest.mark.parametrize("outcome", ROWS, ids=lambda outcome: outcome.reason)
def test_a_status_is_a_registered_error_or_the_logged_499_or_none(outcome: Outcome) -> None:
    known = {status.value for status in HTTPStatus if status.value >= 400} | {CLIENT_WENT_AWAY, 0}
    assert outcome.status in known


@pytest.mark.parametrize("outcome", ROWS, ids=lambda outcome: outcome.reason)
def test_the_class_of_the_status_tells_whose_doing_it_was(outcome: Outcome) -> None:
    if outcome.source is Source.UPSTREAM:
        assert outcome.status in {0, 502, 504}
    if outcome.source is Source.DOWNSTREAM and outcome.status >= 500:
        assert outcome.status in {501, 505}, "a request that we do not understand; the rest is the client's fault"
    if outcome.status == CLIENT_WENT_AWAY:
        assert outcome.source is Source.DOWNSTREAM


@pytest.mark.parametrize("outcome", ROWS, ids=lambda outcome: outcome.reason)
def test_only_the_backends_failures_count_against_it(outcome: Outcome) -> None:
    if outcome.counts_against_backend:
        assert outcome.source is Source.UPSTREAM


def test_a_stale_connection_is_not_held_against_the_backend() -> None:
    assert not errors.STALE_CONNECTION.counts_against_backend


@pytest.mark.parametrize("outcome", ROWS, ids=lambda outcome: outcome.reason)
def test_another_attempt_follows_only_a_backends_failure_before_a_response_byte_was_relayed(outcome: Outcome) -> None:
    if outcome.retryable is Retryable.ALWAYS:
        assert outcome.phase is Phase.CONNECT, "only then was nothing of the request sent"
    if outcome.retryable is not Retryable.NEVER:
        assert outcome.source is Source.UPSTREAM
        assert outcome.phase in {Phase.CONNECT, Phase.RESPONSE_HEAD}
        assert outcome.status != 0, "the client can still be told"


@pytest.mark.parametrize("outcome", ROWS, ids=lambda outcome: outcome.reason)
def test_every_failure_to_connect_may_be_tried_again_elsewhere(outcome: Outcome) -> None:
    if outcome.phase is Phase.CONNECT:
        assert outcome.retryable is Retryable.ALWAYS


@pytest.mark.parametrize("outcome", ROWS, ids=lambda outcome: outcome.reason)
def test_proxy_status_tokens_are_those_of_rfc_9209_and_only_on_5xx(outcome: Outcome) -> None:
    if outcome.proxy_status:
        assert outcome.proxy_status in PROXY_STATUS
        assert outcome.status >= 500


def test_a_protocol_error_carries_its_row_and_a_detail_for_the_log() -> None:
    bare, detailed = ProtocolError(errors.BAD_REQUEST), ProtocolError(errors.BAD_REQUEST, "two Host fields")
    assert (str(bare), bare.detail) == ("bad_request", "")
    assert (str(detailed), detailed.outcome) == ("two Host fields", errors.BAD_REQUEST)


def test_a_problem_prints_as_file_line_column_path_message() -> None:
    problem = Problem("a.yaml", 3, 7, "pools.web", "no backends")
    warning = Problem("a.yaml", 4, 1, "routes[1]", "never matches", warning=True)
    assert str(problem) == "a.yaml:3:7: pools.web: no backends"
    assert str(warning) == "a.yaml:4:1: routes[1]: warning: never matches"


def test_a_config_error_prints_every_problem() -> None:
    problems = [Problem("a.yaml", line, 1, "pools", f"problem {line}") for line in (1, 2, 3)]
    error = ConfigError(problems)
    assert error.problems == problems
    assert str(error).splitlines() == [str(problem) for problem in problems]
