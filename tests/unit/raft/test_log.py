"""The log in memory, against a plain list."""

from random import Random

from balancer.raft.limits import ENTRY_OVERHEAD
from balancer.raft.log import UNKNOWN, Log
from balancer.raft.log_entry import Entry, EntryKind
from tests.unit.raft.network import entries_of


def test_it_is_like_a_list_that_forgets_its_beginning() -> None:
    rng = Random(3)
    for _ in range(200):
        log, plain, base, term = Log(0, 0), [], 0, 1
        for _ in range(30):
            last = base + len(plain)
            match rng.choice("aaatc"):
                case "a":
                    term += rng.random() < 0.2
                    new = [
                        Entry(last + n, term, rng.choice(tuple(EntryKind)), b"x" * rng.randrange(9)) for n in (1, 2, 3)
                    ]
                    log.append(new)
                    plain += new
                case "t" if plain:
                    at = rng.randrange(base + 1, last + 1)
                    log.truncate_from(at)
                    del plain[at - base - 1 :]
                case "c" if plain:
                    at = rng.randrange(base + 1, last + 1)
                    log.compact(at)
                    del plain[: at - base]
                    base = at
            last = base + len(plain)
            assert (log.base_index, log.first_index, log.last_index) == (base, base + 1, last)
            assert [log.entry(index) for index in range(base + 1, last + 1)] == plain
            assert [log.term_at(entry.index) for entry in plain] == [entry.term for entry in plain]
            assert log.membership_indexes == [e.index for e in plain if e.kind is EntryKind.MEMBERSHIP]
            if plain:
                first = rng.randrange(base + 1, last + 1)
                size = sum(len(entry.data) + ENTRY_OVERHEAD for entry in plain[first - base - 1 :])
                assert log.bytes_of(first, last) == size
                assert log.last_term == plain[-1].term


def test_the_term_of_what_is_not_there_is_unknown() -> None:
    log = Log(5, 2, entries_of([2, 3], first=6))
    assert [log.term_at(index) for index in (-1, 0, 4, 5, 6, 7, 8)] == [UNKNOWN] * 3 + [2, 2, 3, UNKNOWN]


def test_compaction_remembers_the_term_of_the_last_entry_that_it_drops() -> None:
    log = Log(0, 0, entries_of([1, 1, 2, 3, 3]))
    log.compact(3)
    assert (log.base_index, log.base_term) == (3, 2)
    log.compact(2)
    assert log.base_index == 3
    log.compact(5)
    assert (log.last_index, log.last_term) == (5, 3)


def test_taking_gives_what_fits_and_at_least_one() -> None:
    log = Log(2, 1, entries_of([1] * 6, first=3))
    size = ENTRY_OVERHEAD + 3
    assert [entry.index for entry in log.take(4, 7, 3 * size)] == [4, 5, 6]
    assert [entry.index for entry in log.take(4, 7, 3 * size - 1)] == [4, 5]
    assert [entry.index for entry in log.take(4, 7, 100 * size)] == [4, 5, 6, 7]
    assert [entry.index for entry in log.take(8, 8, 1)] == [8]


def test_unwritten_entries_are_given_once_and_again_when_they_were_replaced() -> None:
    log = Log(0, 0, entries_of([1]))
    assert log.unwritten() == ()
    log.append(entries_of([1, 1], first=2))
    assert [entry.index for entry in log.unwritten()] == [2, 3]
    assert log.unwritten() == ()
    log.truncate_from(3)
    assert log.unwritten() == ()
    log.append(entries_of([2], first=3))
    assert [(entry.index, entry.term) for entry in log.unwritten()] == [(3, 2)]


def test_what_is_kept_below_a_snapshot_is_bounded_in_count_and_bytes() -> None:
    log = Log(10, 1, entries_of([1] * 20, first=11))
    size = len(b"11.1") + ENTRY_OVERHEAD
    assert log.index_within(25, 5, 100 * size) == 20
    assert log.index_within(25, 100, 3 * size) == 22
    assert log.index_within(25, 100, 3 * size - 1) == 23
    assert log.index_within(25, 100, 100 * size) == 10
    assert log.index_within(25, 0, 100 * size) == 25


def test_a_hint_is_the_newest_entry_whose_term_is_not_after_the_given() -> None:
    rng = Random(5)
    for _ in range(500):
        terms = sorted(rng.randrange(1, 6) for _ in range(rng.randrange(1, 9)))
        base = rng.randrange(3)
        log = Log(base, terms[0], entries_of(terms, first=base + 1))
        index, term = rng.randrange(base, base + 12), rng.randrange(terms[0], 7)
        fitting = [at for at in range(base, min(index, log.last_index) + 1) if log.term_at(at) <= term]
        assert log.last_not_after(index, term) == (max(fitting), log.term_at(max(fitting)))


def test_a_hint_below_the_log_has_no_term() -> None:
    log = Log(5, 3, entries_of([3], first=6))
    assert log.last_not_after(3, 2) == (3, 0)
    assert log.last_not_after(6, 2) == (4, 0)


def test_up_to_date_means_a_later_last_term_or_the_same_and_no_fewer_entries() -> None:
    log = Log(0, 0, entries_of([1, 2, 2]))
    verdicts = {(4, 1): False, (9, 1): False, (2, 2): False, (3, 2): True, (4, 2): True, (1, 3): True}
    assert {last: log.up_to_date(*last) for last in verdicts} == verdicts
