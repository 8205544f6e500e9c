"""Results on their way: what is read is what was written, and a reader's tracker ends up as the publisher's."""

import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.config.model import HealthCheck
from balancer.daemon.cluster.check_results import (
    CHUNK_MAX,
    CHUNKS_MAX,
    EVIDENCE_MAX,
    PREFIX,
    VALUE_MAX,
    Own,
    Place,
    Result,
    Source,
    key_of,
    news,
    place_of,
    publication_in,
    shortened,
    value_of,
)
from balancer.resilience.health import HealthTracker

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
RESULTS = st.lists(
    st.builds(
        Result, NAMES, NAMES, st.booleans(), NAMES, st.integers(1, 2**60), st.integers(1, 2**60)
    ),
    max_size=5,
)  # fmt: skip


# ---- keys and values


@given(NAMES, NAMES, st.integers(0, CHUNKS_MAX - 1))
def test_every_node_and_pool_has_keys_that_mean_them(node: str, pool: str, chunk: int) -> None:
    place = Place(node, pool, chunk)
    assert place_of(key_of(place).encode()) == place


def test_keys_and_values_are_as_documented() -> None:
    assert key_of(Place("n1", "api/v1", 3)) == "/balancer/checks/n1/api%2Fv1/3"
    assert json.loads(value_of("d1", "i1", [Result("b1", "10.0.0.7:80", True, "200 in 3 ms", 12, 40)])) == {
        "version": 1,
        "digest": "d1",
        "incarnation": "i1",
        "results": [["b1", "10.0.0.7:80", True, "200 in 3 ms", 12, 40]],
    }


@given(NAMES, NAMES, RESULTS)
def test_what_is_read_is_what_was_written(digest: str, incarnation: str, results: list[Result]) -> None:
    read = publication_in(value_of(digest, incarnation, results))
    assert (read.digest, read.incarnation, list(read.results)) == (digest, incarnation, results)


@pytest.mark.parametrize(
    "key",
    [
        b"",
        b"/balancer/checks/",
        b"/balancer/checks/n1",
        b"/balancer/checks/n1/web",
        b"/balancer/checks/n1/web/",
        b"/balancer/checks/n1/web/x",
        b"/balancer/checks/n1/web/-1",
        b"/balancer/checks/n1/web/1000",
        b"/balancer/checks/n1/web/01",
        b"/balancer/checks/n1/web/1/2",
        b"/balancer/checks/n%31/web/1",
        b"/balancer/checks/%ff/web/1",
        b"/balancer/checks/\xff/web/1",
    ],
)
def test_a_key_that_is_written_otherwise_is_none(key: bytes) -> None:
    with pytest.raises(ValueError, match=r"key|chunks"):
        place_of(key)


@given(st.binary(max_size=40))
def test_any_bytes_are_a_key_or_told_to_be_none(rest: bytes) -> None:
    key = PREFIX.encode() + rest
    try:
        place = place_of(key)
    except ValueError:
        return
    assert key_of(place).encode() == key


BAD = {"version": 1, "digest": "d", "incarnation": "i", "results": []}


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        json.dumps({**BAD, "version": 2}).encode(),
        json.dumps({**BAD, "results": None}).encode(),
        json.dumps({"version": 1, "digest": "d", "results": []}).encode(),
        json.dumps({**BAD, "results": [["b", "a", True, "e", 1]]}).encode(),
        json.dumps({**BAD, "results": [["b", "a", 1, "e", 1, 1]]}).encode(),
        json.dumps({**BAD, "results": [["b", "a", True, "e", 0, 1]]}).encode(),
        json.dumps({**BAD, "results": [["b", "a", True, "e", 1, -1]]}).encode(),
        json.dumps({**BAD, "results": [["b", "a", True, "e", 1, 1]] * (CHUNK_MAX + 1)}).encode(),
        json.dumps({**BAD, "digest": "d" * VALUE_MAX}).encode(),
    ],
)
def test_a_value_that_is_none_of_ours_is_told_to_be_unreadable(value: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        publication_in(value)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_value_or_told_to_be_none(value: bytes) -> None:
    try:
        read = publication_in(value)
    except ValueError:
        return
    assert publication_in(value_of(read.digest, read.incarnation, read.results)) == read


def test_later_versions_may_say_more() -> None:
    assert publication_in(json.dumps({**BAD, "later": 1}).encode()).results == ()


@given(st.text(max_size=300))
def test_evidence_of_others_is_bounded_and_safe_to_show(evidence: str) -> None:
    shown = shortened(evidence)
    assert len(shown) <= EVIDENCE_MAX
    assert not shown or shown.isprintable()
    if evidence.isprintable() and len(evidence) <= EVIDENCE_MAX:
        assert shown == evidence


# ---- counting


def own_of(results: list[bool], before: int = 0) -> Own:
    own = Own(before)
    for passed in results:
        own.add(passed, "because")
    return own


def test_results_in_a_row_are_counted_and_all_of_them_beside() -> None:
    own = own_of([False, True, True, False, False, False])
    assert (own.passed, own.streak, own.count) == (False, 3, 6)
    assert (own_of([False]).streak, own_of([True]).streak) == (1, 1)


def test_what_was_not_heard_before_counts_as_often_as_it_came_in_a_row_and_no_more_than_matters() -> None:
    heard = Source("n2", "i", 40)
    assert news(None, heard, 2, 3) == 2
    assert news(None, heard, 12, 3) == 3
    assert news(Source("n1", "i", 40), heard, 2, 3) == 2  # another node
    assert news(Source("n2", "before", 40), heard, 2, 3) == 2  # it started anew
    assert news(Source("n2", "i", 41), heard, 2, 3) == 2  # so it must have


def test_afterwards_only_what_is_new_counts() -> None:
    before = Source("n2", "i", 40)
    assert news(before, Source("n2", "i", 40), 12, 3) == 0
    assert news(before, Source("n2", "i", 41), 12, 3) == 1
    assert news(before, Source("n2", "i", 50), 2, 3) == 2  # eight others came before those
    assert news(before, Source("n2", "i", 5000), 4000, 3) == 3


class Reader:
    """A node that takes in what it reads."""

    def __init__(self, check: HealthCheck) -> None:
        self.tracker = HealthTracker(check)
        self.most = max(check.healthy_after, check.unhealthy_after)
        self.source: Source | None = None

    def read(self, own: Own, incarnation: str = "i") -> None:
        heard = Source("n2", incarnation, own.count)
        for _ in range(news(self.source, heard, own.streak, self.most)):
            self.tracker.result(own.passed)
        self.source = heard


THRESHOLDS = st.integers(1, 5)
CHECKS = st.builds(lambda up, down: HealthCheck(healthy_after=up, unhealthy_after=down), THRESHOLDS, THRESHOLDS)


@given(CHECKS, st.lists(st.booleans(), min_size=1, max_size=60))
def test_a_reader_of_every_publication_is_always_in_the_publishers_state(
    check: HealthCheck, results: list[bool]
) -> None:
    own, tracker, reader = Own(7), HealthTracker(check), Reader(check)
    for passed in results:
        own.add(passed, "")
        tracker.result(passed)
        reader.read(own)
        assert reader.tracker.state is tracker.state


@given(CHECKS, st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60), st.booleans(), st.randoms())
def test_whatever_was_missed_a_reader_ends_in_the_publishers_state(
    check: HealthCheck, results: list[tuple[bool, bool]], last: bool, rng: Random
) -> None:
    """Once so many are alike that the state is settled. It may have seen other results of its own before."""
    own, tracker, reader = Own(0), HealthTracker(check), Reader(check)
    for _ in range(rng.randrange(4)):
        reader.tracker.result(rng.random() < 0.5)
    for passed, is_read in [*results, *[(last, False)] * (reader.most - 1), (last, True)]:
        own.add(passed, "")
        tracker.result(passed)
        if is_read:
            reader.read(own)
    assert reader.tracker.state is tracker.state


@given(CHECKS, st.integers(1, 20), st.integers(1, 20), st.booleans())
def test_a_publisher_that_starts_anew_is_understood(check: HealthCheck, before: int, after: int, again: bool) -> None:
    reader = Reader(check)
    for count in range(before):
        reader.read(own_of([True] * (count + 1)))
    tracker = HealthTracker(check)
    tracker.result(True)
    own = Own(0)
    for _ in range(after):
        own.add(False, "")
        tracker.result(False)
        reader.read(own, "i" if again and before > after else "anew")
        assert reader.tracker.state is tracker.state
