"""What is published when: changes at once, everything once per interval, and never more than is borne."""

from itertools import pairwise
from math import inf
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.daemon.cluster.check_outbox import (
    BYTES_PER_SECOND,
    GATHER,
    OPERATIONS_MAX,
    ROUND,
    ROUND_BYTES,
    Outbox,
    Terms,
    Write,
    pause,
)
from balancer.daemon.cluster.check_results import CHUNK_MAX, PREFIX, Result, publication_in

INTERVAL = 5.0
WEB = {"web": Terms("d1", INTERVAL, 3)}


class Reader:
    """What stands in the cluster, and a publisher on a clock of its own."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self.now = 0.0
        self.stored: dict[str, bytes] = {}
        self.doubtful: set[str] = set()  # what was in rounds that failed
        self.puts = 0
        self.rounds = 0
        self.bytes = 0
        self.put_at: dict[str, list[float]] = {}

    def store(self, writes: list[Write]) -> None:
        assert len(writes) <= OPERATIONS_MAX
        for write in writes:
            if write.value is None:
                assert write.key in self.stored or write.key in self.doubtful
                self.stored.pop(write.key, None)
            else:
                self.stored[write.key] = write.value
            self.put_at.setdefault(write.key, []).append(self.now)
        self.puts += len(writes)
        self.rounds += bool(writes)
        self.bytes += sum(len(write.key) + len(write.value or b"") for write in writes)

    def publish(self) -> None:
        """A round, if one is due."""
        self.store(self.outbox.take(self.now))
        self.outbox.done()

    def lose(self, *, done: bool) -> None:
        """A round of which nobody says whether it was done."""
        writes = self.outbox.take(self.now)
        self.doubtful |= {write.key for write in writes}
        if done:
            self.store(writes)
        self.outbox.begin_anew(self.now)

    def results(self) -> dict[str, Result]:
        """By backend."""
        found = [result for value in self.stored.values() for result in publication_in(value).results]
        assert len({result.backend for result in found}) == len(found)
        return {result.backend: result for result in found}


def reader_of(*slots: int) -> Reader:
    outbox = Outbox("n1", "i1")
    outbox.set_terms(WEB, 0.0)
    for slot in slots:
        outbox.add(slot, "web", f"b{slot}", f"10.0.0.{slot}:80")
    return Reader(outbox)


def steady(reader: Reader, *slots: int) -> None:
    """Enough results in a row that further ones are no news, all published."""
    for _ in range(4):
        for slot in slots:
            reader.outbox.result(slot, True, "200", reader.now)
        reader.now += 1.0
        reader.publish()
    assert reader.outbox.due >= reader.now


def test_without_results_nothing_is_published() -> None:
    reader = reader_of(1, 2)
    reader.publish()
    assert reader.stored == {}
    assert reader.outbox.due == inf


def test_a_result_is_published_with_all_that_is_told_of_it() -> None:
    reader = reader_of(1, 2)
    reader.outbox.result(1, True, "200 in 3 ms", 0.0)
    reader.now = reader.outbox.due
    reader.publish()
    (key,) = reader.stored
    assert key == f"{PREFIX}n1/web/0"
    publication = publication_in(reader.stored[key])
    assert (publication.digest, publication.incarnation) == ("d1", "i1")
    assert publication.results == (Result("b1", "10.0.0.1:80", True, "200 in 3 ms", 1, 1),)


def test_results_of_others_are_not_published() -> None:
    reader = reader_of(1)
    reader.outbox.result(2, True, "200", 0.0)
    assert 2 not in reader.outbox
    assert reader.outbox.due == inf


def test_a_changed_verdict_goes_out_at_once_together_with_others() -> None:
    reader = reader_of(1, 2)
    steady(reader, 1, 2)
    began = reader.now
    reader.outbox.result(1, False, "refused", began)
    reader.outbox.result(2, False, "refused", began + GATHER / 2)
    assert reader.outbox.due == began + GATHER
    reader.now = reader.outbox.due
    reader.publish()
    assert {name: result.passed for name, result in reader.results().items()} == {"b1": False, "b2": False}


def test_results_that_readers_count_up_to_a_threshold_go_out_at_once() -> None:
    reader = reader_of(1)
    steady(reader, 1)
    for streak in (1, 2, 3):
        reader.outbox.result(1, False, "refused", reader.now)
        assert reader.outbox.due == reader.now + GATHER
        reader.now += 1.0
        reader.publish()
        assert reader.results()["b1"].streak == streak
    reader.outbox.result(1, False, "refused", reader.now)
    assert reader.outbox.due == reader.now + INTERVAL


@pytest.mark.parametrize("backends", [1, 2, 30, 400])
def test_everything_is_published_once_per_interval_and_little_more_often(backends: int) -> None:
    slots, rng = range(backends), Random(backends)
    reader = reader_of(*slots)
    steady(reader, *slots)
    reader.put_at.clear()
    began = reader.now
    due = {slot: began + rng.random() * INTERVAL for slot in slots}
    while reader.now < began + 4 * INTERVAL:
        reader.now += 0.25
        for slot in slots:
            if due[slot] <= reader.now:
                due[slot] += INTERVAL * rng.uniform(0.9, 1.1)
                reader.outbox.result(slot, True, "200", reader.now)
        reader.publish()
    for key in reader.stored:
        times = [began, *reader.put_at[key], reader.now]
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert max(gaps) <= INTERVAL * 1.1 + 0.25
        assert len(reader.put_at[key]) <= 6


def test_a_backend_that_is_not_ours_any_more_leaves_and_its_chunk_with_the_last() -> None:
    reader = reader_of(1, 2)
    steady(reader, 1, 2)
    reader.outbox.remove(1, reader.now)
    steady(reader, 2)
    assert reader.results().keys() == {"b2"}
    reader.outbox.remove(2, reader.now)
    assert reader.outbox.due == reader.now
    reader.publish()
    assert reader.stored == {}
    reader.outbox.remove(2, reader.now)
    assert reader.outbox.due == inf


def test_a_backend_that_comes_back_counts_on_and_is_not_published_before_it_was_probed() -> None:
    reader = reader_of(1, 2)
    steady(reader, 1, 2)
    last = reader.results()["b1"].count
    reader.outbox.remove(1, reader.now)
    reader.outbox.add(1, "web", "b1", "10.0.0.1:80")
    steady(reader, 2)
    assert reader.results().keys() == {"b2"}
    reader.outbox.result(1, False, "refused", reader.now)
    reader.now += 1.0
    reader.publish()
    found = reader.results()["b1"]
    assert (found.passed, found.streak) == (False, 1)
    assert found.count > last


def test_chunks_are_bounded_and_those_without_results_have_no_key() -> None:
    reader = reader_of(*range(CHUNK_MAX + 10))
    steady(reader, *range(CHUNK_MAX + 10))
    assert sorted(reader.stored) == [f"{PREFIX}n1/web/0", f"{PREFIX}n1/web/1"]
    assert len(publication_in(reader.stored[f"{PREFIX}n1/web/0"]).results) == CHUNK_MAX
    for slot in range(CHUNK_MAX):
        reader.outbox.remove(slot, reader.now)
    reader.publish()
    assert sorted(reader.stored) == [f"{PREFIX}n1/web/1"]
    reader.outbox.add(0, "web", "b0", "10.0.0.0:80")
    steady(reader, 0)
    assert sorted(reader.stored) == [f"{PREFIX}n1/web/0", f"{PREFIX}n1/web/1"]


def test_a_pool_that_is_no_more_takes_its_keys_along() -> None:
    reader = reader_of(1)
    steady(reader, 1)
    reader.outbox.set_terms({}, reader.now)
    reader.publish()
    assert reader.stored == {}
    assert 1 not in reader.outbox
    reader.outbox.result(1, True, "200", reader.now)
    assert reader.outbox.due == inf


def test_other_terms_are_published_at_once() -> None:
    reader = reader_of(1)
    steady(reader, 1)
    reader.outbox.set_terms({"web": Terms("d2", INTERVAL, 3)}, reader.now)
    reader.publish()
    assert {publication_in(value).digest for value in reader.stored.values()} == {"d2"}


def test_after_a_failed_round_everything_is_written_again() -> None:
    reader = reader_of(1, *range(1000, 1000 + CHUNK_MAX))
    steady(reader, 1, *range(1000, 1000 + CHUNK_MAX))
    assert len(reader.stored) == 2
    for slot in range(1000, 1000 + CHUNK_MAX):
        reader.outbox.remove(slot, reader.now)
    lost = reader.outbox.take(reader.now)
    assert any(write.value is None for write in lost)
    reader.outbox.begin_anew(reader.now)
    reader.publish()
    assert reader.results().keys() == {"b1"}
    reader.outbox.begin_anew(reader.now)
    reader.publish()  # deletes nothing twice
    assert len(reader.stored) == 1


def test_what_waits_longest_goes_first_when_all_do_not_fit_into_a_round() -> None:
    slots = range(20 * CHUNK_MAX)
    reader = reader_of(*slots)
    waited: dict[str, float] = {}
    rng = Random(1)
    for _ in range(200):
        for slot in slots[::7]:
            reader.outbox.result(slot, rng.random() < 0.5, "x" * 100, reader.now)
        writes = reader.outbox.take(reader.now)
        reader.store(writes)
        reader.outbox.done()
        assert sum(len(write.value or b"") for write in writes) < 2 * ROUND_BYTES
        reader.now += pause(writes)
    for key, times in reader.put_at.items():
        waited[key] = max(later - earlier for earlier, later in pairwise(times))
    assert len(waited) == 20
    assert max(waited.values()) < 2 * 20 * CHUNK_MAX * 180 / BYTES_PER_SECOND
    assert reader.bytes / reader.now <= BYTES_PER_SECOND * 1.01


def test_rounds_are_never_closer_than_their_pause() -> None:
    assert pause([Write("k", b"v")]) == ROUND
    assert pause([Write("k", b"v" * BYTES_PER_SECOND)]) > 1.0


def test_what_ten_thousand_backends_cost() -> None:
    """A third of them checked by this node, every 5 s: the figures that users are told, with room above."""
    slots = range(10_000 // 3)
    reader = Reader(Outbox("n1", "i1"))
    reader.outbox.set_terms(WEB, 0.0)
    for slot in slots:
        reader.outbox.add(slot, "web", f"10.0.{slot // 250}.{slot % 250}:8080", f"10.0.{slot // 250}.{slot % 250}:8080")
    rng = Random(1)
    due = {slot: rng.random() * INTERVAL for slot in slots}
    for tick in range(12 * 20):
        reader.now = tick * ROUND * 5
        for slot in slots:
            if due[slot] <= reader.now:
                due[slot] += INTERVAL * rng.uniform(0.9, 1.1)
                reader.outbox.result(slot, True, "200 in 3 ms", reader.now)
        if reader.now == 30.0:
            reader.puts = reader.rounds = reader.bytes = 0
        reader.publish()
    seconds = reader.now - 30.0
    assert reader.puts / seconds < 4.0
    assert reader.rounds / seconds < 2.0
    assert reader.bytes / seconds < 80_000


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["add", "remove", "passed", "failed", "publish", "lose"]), st.integers(0, 5)), max_size=80
)


@given(ACTIONS)
def test_what_stands_there_is_in_the_end_what_was_found_out(actions: list[tuple[str, int]]) -> None:
    reader = reader_of()
    known: dict[int, bool | None] = {}
    for what, slot in actions:
        reader.now += 0.1
        if what == "add":
            reader.outbox.add(slot, "web", f"b{slot}", "10.0.0.1:80")
            known.setdefault(slot, None)
        elif what == "remove":
            reader.outbox.remove(slot, reader.now)
            known.pop(slot, None)
        elif what == "publish":
            reader.publish()
        elif what == "lose":
            reader.lose(done=slot % 2 == 0)
        else:
            reader.outbox.result(slot, what == "passed", "", reader.now)
            if slot in known:
                known[slot] = what == "passed"
    reader.outbox.begin_anew(reader.now)
    reader.publish()
    expected = {f"b{slot}": passed for slot, passed in known.items() if passed is not None}
    assert {name: result.passed for name, result in reader.results().items()} == expected
    assert all(publication_in(value).results for value in reader.stored.values())
    reader.now += 2 * INTERVAL
    reader.publish()
    assert reader.outbox.due == inf
