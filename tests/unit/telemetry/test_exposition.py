"""The text is read back by prometheus_client's parser, which was not written by us."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from balancer.telemetry import metrics
from balancer.telemetry.aggregate import Aggregate
from balancer.telemetry.exposition import CODES, DURATIONS_MAX, number, render
from balancer.telemetry.metrics import BOUNDS, FAMILIES, Kind
from balancer.telemetry.registry import CELL_COUNTS, Sample


def text_of(aggregate: Aggregate, pool: str | None = None, *, all_durations: bool = False) -> str:
    return b"".join(render(aggregate, pool, all_durations=all_durations)).decode()


def read(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """(name, labels) -> value, as the parser understands it."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of_every_family() -> Aggregate:
    aggregate = Aggregate()
    for name, family in FAMILIES.items():
        labels = tuple(f"a {label}" for label in family.labels)
        aggregate.add(0, [Sample(name, labels, [float(cell + 1) for cell in range(CELL_COUNTS[family.kind])])])
    return aggregate


def test_every_family_is_read_back_with_its_type_and_help() -> None:
    read_back = {family.name: family for family in text_string_to_metric_families(text_of(of_every_family()))}
    for name, family in FAMILIES.items():
        kind = "counter" if family.kind is Kind.CODES else family.kind.value
        parsed = read_back[name.removesuffix("_total") if kind == "counter" else name]
        assert (parsed.type, parsed.documentation) == (kind, family.help)


def test_codes_become_the_label_code_in_order() -> None:
    aggregate = Aggregate()
    aggregate.add(0, [Sample(metrics.BACKEND_REQUESTS, ("web", "a"), [1, 2, 3, 4, 5, 6])])
    found = read(text_of(aggregate))
    for value, code in enumerate(CODES, start=1):
        labels = frozenset({("pool", "web"), ("backend", "a"), ("code", code)})
        assert found["balancer_backend_requests_total", labels] == value


def test_a_histogram_is_cumulative_and_its_count_is_the_last_bucket() -> None:
    aggregate = Aggregate()
    cells = [1.0] * len(BOUNDS) + [2.0, 0.25]
    aggregate.add(0, [Sample(metrics.REQUEST_DURATION, ("all",), cells)])
    found = read(text_of(aggregate))
    for position, bound in enumerate(BOUNDS, start=1):
        labels = frozenset({("route", "all"), ("le", str(bound))})
        assert found["balancer_request_duration_seconds_bucket", labels] == position
    total = len(BOUNDS) + 2
    route = frozenset({("route", "all")})
    assert found["balancer_request_duration_seconds_bucket", route | {("le", "+Inf")}] == total
    assert found["balancer_request_duration_seconds_count", route] == total
    assert found["balancer_request_duration_seconds_sum", route] == 0.25


@given(st.text(max_size=30))
def test_any_label_value_is_read_back_as_it_was(value: str) -> None:
    # The parser splits text at every line end that Unicode knows, the format only at \n.
    value = "".join(character for character in value if character == "\n" or len((character + "x").splitlines()) == 1)
    value = value.encode("utf-8", "replace").decode()
    aggregate = Aggregate()
    aggregate.set(metrics.BACKEND_WEIGHT, ("web", value), 1)
    assert read(text_of(aggregate)) == {
        ("balancer_backend_weight", frozenset({("pool", "web"), ("backend", value)})): 1.0
    }


@given(st.floats(allow_nan=False) | st.integers(0, 2**62).map(float))
def test_numbers_keep_their_value(value: float) -> None:
    assert float(number(value)) == value


def test_numbers_that_are_none_have_the_names_of_the_format() -> None:
    assert [number(value) for value in (math.nan, math.inf, -math.inf, 3.0, 3)] == ["NaN", "+Inf", "-Inf", "3", "3"]


def test_one_pool_is_rendered_alone() -> None:
    aggregate = Aggregate()
    for pool in ("web", "api"):
        aggregate.set(metrics.BACKEND_WEIGHT, (pool, "a"), 1)
    aggregate.set(metrics.CONFIG_GENERATION, (), 1)
    assert {dict(labels)["pool"] for _, labels in read(text_of(aggregate, "api"))} == {"api"}
    assert len(read(text_of(aggregate))) == 3


@pytest.mark.parametrize(("backends", "shown"), [(DURATIONS_MAX, True), (DURATIONS_MAX + 1, False)])
def test_durations_of_large_pools_are_shown_only_when_asked_for(backends: int, shown: bool) -> None:
    aggregate = Aggregate()
    cells = [1.0] * CELL_COUNTS[Kind.HISTOGRAM]
    aggregate.add(0, [Sample(metrics.BACKEND_DURATION, ("web", str(number)), cells) for number in range(backends)])
    aggregate.add(0, [Sample(metrics.BACKEND_DURATION, ("small", "a"), cells)])
    name = "balancer_backend_duration_seconds_count"

    def pools(text: str) -> set[str]:
        return {dict(labels)["pool"] for found, labels in read(text) if found == name}

    assert pools(text_of(aggregate)) == ({"web", "small"} if shown else {"small"})
    assert ("Not shown" in text_of(aggregate)) is not shown
    assert pools(text_of(aggregate, all_durations=True)) == {"web", "small"}


def test_each_family_has_one_heading_and_no_piece_holds_many_lines() -> None:
    aggregate = Aggregate()
    for number_ in range(3000):
        aggregate.add(0, [Sample(metrics.BACKEND_REQUESTS, (f"pool{number_ % 2}", str(number_)), [1.0] * 6)])
    pieces = list(render(aggregate))
    assert max(piece.count(b"\n") for piece in pieces) <= 1002
    text = b"".join(pieces).decode()
    assert text.count("# TYPE balancer_backend_requests_total ") == 1
    assert len(read(text)) == 18_000


def test_series_may_come_and_go_between_two_pieces() -> None:
    aggregate = Aggregate()
    for number_ in range(2000):
        aggregate.add(0, [Sample(metrics.UPSTREAM_CONNECTIONS, ("web", str(number_), "idle"), [1.0])])
    pieces = render(aggregate)
    first = next(pieces)
    aggregate.worker_gone(0)
    aggregate.set(metrics.BACKEND_WEIGHT, ("new", "a"), 1)
    rest = b"".join(pieces)
    assert first.count(b'state="idle"') == 1000
    assert b'balancer_backend_weight{pool="new"' in rest
