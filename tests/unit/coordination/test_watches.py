"""Watches: ordered, each event once, none left out, whole revisions, from any revision that is not compacted."""

import pytest

from balancer.coordination import watches
from balancer.coordination.key_space import KeySpace
from balancer.coordination.requests import WatchCreateRequest, WatchFilter
from balancer.coordination.responses import WatchResponse
from balancer.coordination.snapshot import Reader, View
from tests.unit.coordination.machine import Machine, op_delete, op_put, op_txn
from tests.unit.coordination.watching import Watched, told


@pytest.fixture
def machine() -> Watched:
    return Watched()


def create(machine: Watched, **fields: object) -> WatchResponse:
    """The answer to a creation."""
    machine.stream.create(WatchCreateRequest(**fields))  # type: ignore[arg-type]
    answer = machine.stream.take()
    assert answer is not None
    return answer


# ---- creating


def test_the_answer_to_a_creation_has_the_store_s_revision_and_comes_before_events(machine: Watched) -> None:
    machine.put(b"a")
    machine.stream.create(WatchCreateRequest(b"a", start_revision=2))
    machine.put(b"a")
    created, *rest = machine.taken()
    assert (created.created, created.canceled, created.header.revision, created.events) == (True, False, 2, ())
    assert told([event for response in rest for event in response.events]) == [("put", b"a", 2), ("put", b"a", 3)]


def test_numbers_are_given_from_0_and_may_be_chosen(machine: Watched) -> None:
    assert [create(machine, key=b"a", watch_id=number).watch_id for number in (0, 2, 0, 0, 9)] == [0, 2, 1, 3, 9]


def test_a_number_that_is_in_use_is_refused(machine: Watched) -> None:
    create(machine, key=b"a", watch_id=5)
    refused = create(machine, key=b"b", watch_id=5)
    assert (refused.watch_id, refused.created, refused.canceled) == (-1, True, True)
    assert refused.cancel_reason == "mvcc: duplicate watch ID provided on the WatchStream"
    machine.put(b"b")
    assert machine.events() == []


@pytest.mark.parametrize("range_end", [b"a", b"b"])
def test_an_empty_range_is_refused(machine: Watched, range_end: bytes) -> None:
    refused = create(machine, key=b"b", range_end=range_end)
    assert (refused.watch_id, refused.created, refused.canceled) == (-1, True, True)
    assert refused.cancel_reason == "mvcc: watcher range is empty"


def test_a_negative_start_is_refused_as_compacted(machine: Watched) -> None:
    refused = create(machine, key=b"b", start_revision=-1)
    assert (refused.watch_id, refused.created, refused.canceled) == (-1, True, True)
    assert refused.cancel_reason == "etcdserver: mvcc: required revision has been compacted"


def test_an_empty_key_is_the_smallest_one(machine: Watched) -> None:
    one, all_of_them = machine.watch(b"", b""), machine.watch(b"", b"\0")
    machine.put(b"\0")
    machine.put(b"a")
    taken = machine.taken()
    assert [response.watch_id for response in taken if response.events[0].kv.key == b"\0"] == [one, all_of_them]
    assert [response.watch_id for response in taken if response.events[0].kv.key == b"a"] == [all_of_them]


def test_too_many_watchers_are_refused(machine: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "WATCHERS_MAX", 2)
    other = machine.hub.open()
    other.create(WatchCreateRequest(b"a"))
    machine.watch(b"a", b"")
    assert create(machine, key=b"a").cancel_reason == "etcdserver: too many requests"
    other.close()
    assert not create(machine, key=b"a").canceled


# ---- events


def test_a_watch_from_0_tells_what_happens_from_now_on(machine: Watched) -> None:
    machine.put(b"a")
    machine.watch(b"a", b"")
    assert machine.events() == []
    machine.put(b"a")
    machine.put(b"b")
    machine.delete(b"a")
    assert told(machine.events()) == [("put", b"a", 3), ("delete", b"a", 5)]


def test_each_revision_is_one_answer_with_that_revision(machine: Watched) -> None:
    machine.watch()
    machine.put(b"a")
    machine.txn(op_put(b"b"), op_put(b"c"))
    assert [(response.header.revision, len(response.events)) for response in machine.taken()] == [(2, 1), (3, 2)]


def test_a_deletion_has_key_and_revision_only(machine: Watched) -> None:
    machine.put(b"a", b"1")
    machine.watch()
    machine.delete(b"a")
    (event,) = machine.events()
    assert (event.kv.key, event.kv.mod_revision, event.kv.version, event.kv.create_revision) == (b"a", 3, 0, 0)
    assert (event.kv.value, event.prev_kv) == (b"", None)


def test_a_watch_of_the_past_tells_it_and_goes_on(machine: Watched) -> None:
    for number in range(5):
        machine.put(b"%d" % (number % 2))
    machine.watch(start=3)
    machine.put(b"0")
    assert told(machine.events()) == [
        ("put", key, revision) for key, revision in zip((b"1", b"0", b"1", b"0", b"0"), range(3, 8), strict=True)
    ]
    machine.put(b"1")
    assert told(machine.events()) == [("put", b"1", 8)]


def test_the_past_comes_in_one_answer_that_says_how_far_it_goes(machine: Watched) -> None:
    for _ in range(5):
        machine.put(b"a")
    machine.put(b"other")
    machine.watch(b"a", b"", start=3)
    (answer,) = machine.taken()
    assert (len(answer.events), answer.header.revision) == (4, 7)


@pytest.mark.parametrize("range_end", [b"", b"b"])
def test_a_long_past_comes_in_parts_and_no_part_says_more_than_was_told(
    machine: Watched, range_end: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watches, "ANSWER_REVISIONS_MAX", 3)
    monkeypatch.setattr(watches, "SCAN_MAX", 7)
    for number in range(40):
        machine.put(b"a" if number % 3 else b"z")
    machine.watch(b"a", range_end, start=2)
    answers = machine.taken()
    assert len(answers) > 5
    seen = 0
    for answer in answers:
        revisions = [event.kv.mod_revision for event in answer.events]
        assert revisions == sorted(revisions)
        assert seen < revisions[0]
        assert revisions[-1] <= answer.header.revision
        assert len(revisions) <= 3
        seen = answer.header.revision
    assert [event.kv.mod_revision for answer in answers for event in answer.events] == [
        2 + number for number in range(40) if number % 3
    ]


def test_a_start_in_the_future_waits_for_it(machine: Watched) -> None:
    machine.watch(start=4)
    for key in (b"a", b"b", b"c", b"d"):
        machine.put(key)
    assert told(machine.events()) == [("put", b"c", 4), ("put", b"d", 5)]


def test_filters(machine: Watched) -> None:
    machine.put(b"a")
    machine.delete(b"a")
    no_put = machine.watch(start=2, filters=(WatchFilter.NOPUT,))
    no_delete = machine.watch(start=2, filters=(WatchFilter.NODELETE,))
    neither = machine.watch(start=2, filters=(WatchFilter.NODELETE, WatchFilter.NOPUT))
    for _ in range(2):
        taken = machine.taken()
        by_watch = {
            number: [
                kind for response in taken if response.watch_id == number for kind, *_ in told(list(response.events))
            ]
            for number in (no_put, no_delete, neither)
        }
        assert by_watch == {no_put: ["delete"], no_delete: ["put"], neither: []}
        assert all(response.events for response in taken)
        machine.put(b"a")
        machine.delete(b"a")


def test_prev_kv_is_what_was_there_before_and_not_of_a_creation(machine: Watched) -> None:
    machine.watch(prev_kv=True)
    machine.put(b"a", b"1")
    machine.put(b"a", b"2")
    machine.delete(b"a")
    machine.put(b"a", b"3")
    assert [event.prev_kv and event.prev_kv.value for event in machine.events()] == [None, b"1", b"2", None]


def test_prev_kv_of_before_the_compaction_is_left_out(machine: Watched) -> None:
    for value in (b"1", b"2", b"3", b"4"):
        machine.put(b"a", value)
    machine.compact(4)
    machine.watch(b"a", b"", start=4, prev_kv=True)
    assert [event.prev_kv and event.prev_kv.value for event in machine.events()] == [None, b"3"]


def test_several_changes_of_a_key_in_one_revision_come_in_order(machine: Watched) -> None:
    machine.watch()
    machine.put(b"a")
    machine.txn(op_delete(b"a", b"\0"), op_put(b"a"))
    machine.txn(op_txn(op_put(b"b")), op_txn(op_delete(b"b")))
    expected = [("put", b"a", 2), ("delete", b"a", 3), ("put", b"a", 3), ("put", b"b", 4), ("delete", b"b", 4)]
    assert told(machine.events()) == expected
    for key in (b"a", b"b"):
        machine.watch(key, b"", start=2)
        assert told(machine.events()) == [event for event in expected if event[1] == key]


def test_a_revoked_lease_s_keys_are_told_in_one_revision(machine: Watched) -> None:
    machine.grant(1)
    for key in (b"b", b"a"):
        machine.put(key, lease=1)
    machine.watch()
    machine.revoke(1)
    assert told(machine.events()) == [("delete", b"a", 4), ("delete", b"b", 4)]


# ---- compaction


def test_a_start_before_the_compaction_is_cancelled_after_its_creation(machine: Watched) -> None:
    for _ in range(5):
        machine.put(b"a")
    machine.compact(5)
    number = machine.watch(start=4)
    (answer,) = machine.taken()
    assert (answer.watch_id, answer.canceled, answer.compact_revision, answer.created) == (number, True, 5, False)
    assert answer.header.revision == 0, "as etcd"
    machine.put(b"a")
    assert machine.taken() == []


def test_a_start_at_the_compacted_revision_is_served_with_its_deletions(machine: Watched) -> None:
    machine.put(b"a")
    machine.put(b"b")
    machine.txn(op_delete(b"a"), op_put(b"c"))
    machine.put(b"d")
    machine.compact(4)
    machine.watch(start=4)
    assert told(machine.events()) == [("delete", b"a", 4), ("put", b"c", 4), ("put", b"d", 5)]
    machine.watch(b"a", b"", start=4)
    assert told(machine.events()) == [("delete", b"a", 4)]


def test_a_watcher_that_is_far_behind_is_cancelled_by_a_compaction(machine: Watched) -> None:
    machine.put(b"a")
    machine.watch(start=2)
    for _ in range(3):
        machine.put(b"a")
    machine.compact(4)
    assert machine.taken()[0].compact_revision == 4


def test_what_waits_in_a_queue_survives_a_compaction(machine: Watched) -> None:
    machine.watch()
    for _ in range(3):
        machine.put(b"a")
    machine.compact(4)
    assert [revision for *_, revision in told(machine.events())] == [2, 3, 4]


# ---- slow readers


def test_a_reader_that_does_not_read_costs_a_bounded_queue_and_misses_nothing() -> None:
    machine = Watched(queue_size_max=1000)
    machine.watch()
    for number in range(200):
        machine.put(b"%d" % number, b"x" * 20)
    (watcher,) = machine.stream.watchers()
    assert watcher.queue_size <= 1000
    assert [revision for *_, revision in told(machine.events())] == list(range(2, 202))
    machine.put(b"a")
    assert watcher.synced
    assert told(machine.events()) == [("put", b"a", 202)]


def test_a_revision_larger_than_the_queue_s_bound_is_told_whole() -> None:
    machine = Watched(queue_size_max=100)
    machine.watch()
    machine.txn(*(op_put(b"%d" % number, b"x" * 50) for number in range(10)))
    machine.txn(*(op_put(b"%d" % number, b"x" * 50) for number in range(10)))
    assert [len(response.events) for response in machine.taken()] == [20]
    machine.txn(*(op_put(b"%d" % number, b"x" * 50) for number in range(10)))
    assert [len(response.events) for response in machine.taken()] == [10]


def test_a_part_of_the_past_ends_at_a_whole_revision(machine: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "ANSWER_SIZE_MAX", 300)
    for _ in range(6):
        machine.txn(op_put(b"a", b"x" * 50), op_put(b"b", b"x" * 50))
    machine.watch(start=2)
    answers = machine.taken()
    assert [len(answer.events) for answer in answers] == [2] * 6


def test_nobody_starves_beside_a_watcher_with_much_to_read(machine: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "ANSWER_REVISIONS_MAX", 1)
    for _ in range(50):
        machine.put(b"a")
    busy, quiet = machine.watch(b"a", b"", start=2), machine.watch(b"b", b"")
    machine.put(b"b")
    assert [response.watch_id for response in machine.taken()[:2]] == [busy, quiet]


def test_a_client_that_asks_and_does_not_read_is_congested(machine: Watched) -> None:
    for _ in range(watches.UNREAD_MAX):
        assert not machine.stream.congested
        machine.stream.create(WatchCreateRequest(b"a"))
    assert machine.stream.congested
    machine.stream.take()
    assert not machine.stream.congested


def test_who_has_something_to_take_is_named_once(machine: Watched) -> None:
    other = machine.hub.open()
    machine.watch()
    machine.taken()
    machine.hub.take_ready()
    machine.put(b"a")
    machine.put(b"b")
    assert machine.hub.take_ready() == [machine.stream]
    assert machine.hub.take_ready() == []
    other.create(WatchCreateRequest(b"a"))
    assert machine.hub.take_ready() == [other]
    other.request_progress()
    assert machine.hub.take_ready() == [other]


# ---- cancelling


def test_after_a_cancellation_nothing_more_is_told(machine: Watched) -> None:
    number, other = machine.watch(), machine.watch(b"a", b"")
    machine.put(b"a")
    machine.stream.cancel(number)
    machine.put(b"a")
    first, *rest = machine.taken()
    assert (first.watch_id, first.canceled, first.header.revision, first.compact_revision) == (number, True, 2, 0)
    assert {response.watch_id for response in rest} == {other}
    assert len(rest) == 2


def test_an_unknown_watch_is_cancelled_without_an_answer(machine: Watched) -> None:
    machine.stream.cancel(7)
    assert not machine.stream.ready


def test_a_cancelled_number_may_be_chosen_again(machine: Watched) -> None:
    number = machine.watch(watch_id=4)
    machine.stream.cancel(number)
    machine.taken()
    assert machine.watch(watch_id=4) == 4


def test_a_closed_stream_leaves_nothing_behind(machine: Watched) -> None:
    machine.put(b"a")
    machine.watch()
    machine.watch(b"a", b"b")
    machine.watch(b"a", b"", start=2)
    machine.stream.close()
    machine.put(b"a")
    assert not machine.stream.ready
    assert machine.hub.take_ready() == []
    assert machine.hub.watchers == 0


# ---- progress


def test_progress_is_told_only_when_everything_else_was(machine: Watched) -> None:
    machine.put(b"a")
    machine.watch(start=2)
    machine.watch(b"b", b"")
    machine.put(b"b")
    machine.stream.request_progress()
    *events, progress = machine.taken()
    assert len(events) == 2
    assert (progress.watch_id, progress.header.revision, progress.events) == (-1, 3, ())


def test_progress_requested_often_is_told_once(machine: Watched) -> None:
    for _ in range(100):
        machine.stream.request_progress()
    assert len(machine.taken()) == 1


def test_progress_that_is_due_goes_to_those_who_asked_and_had_no_events(machine: Watched) -> None:
    asked, _ = machine.watch(b"a", b"", progress_notify=True), machine.watch(b"a", b"")
    machine.put(b"x")
    machine.stream.progress_due()
    (progress,) = machine.taken()
    assert (progress.watch_id, progress.header.revision, progress.events) == (asked, 2, ())
    machine.put(b"a")
    machine.stream.progress_due()
    assert [len(response.events) for response in machine.taken()] == [1, 1], "events wait: no progress before them"
    machine.stream.progress_due()
    assert machine.taken() == [], "it had events since"
    machine.stream.progress_due()
    assert [response.watch_id for response in machine.taken()] == [asked]


# ---- fragments


def test_a_large_answer_is_cut_for_who_asked_for_it(machine: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "FRAGMENT_SIZE", 500)
    cut, whole = machine.watch(fragment=True), machine.watch()
    machine.txn(*(op_put(b"%02d" % number, b"x" * 100) for number in range(10)))
    machine.put(b"after")
    taken = machine.taken()
    of_cut = [response for response in taken if response.watch_id == cut and response.header.revision == 2]
    assert [response.fragment for response in of_cut] == [True] * (len(of_cut) - 1) + [False]
    assert len(of_cut) == 4
    assert [event.kv.key for response in of_cut for event in response.events] == [b"%02d" % n for n in range(10)]
    assert taken[: len(of_cut)] == of_cut, "nothing comes between the parts"
    assert [len(response.events) for response in taken if response.watch_id == whole] == [10, 1]


def test_one_event_is_never_cut(machine: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "FRAGMENT_SIZE", 10)
    machine.watch(fragment=True)
    machine.put(b"a", b"x" * 100)
    (answer,) = machine.taken()
    assert not answer.fragment


# ---- after a snapshot was installed


def ahead(machine: Watched, *, compact: bool = False) -> KeySpace:
    """The store of a member that has applied more than this one."""
    leader = Machine()
    for entry in machine.entries:
        leader.enter(entry[2])
    for number in range(5):
        leader.put(b"a", b"%d" % number)
    if compact:
        leader.compact(leader.state.revision - 1)
    reader = Reader()
    for piece in View(leader.state).slices():
        reader.feed(piece)
    machine.state = reader.finish()
    return machine.state.space


def test_watches_go_on_where_they_were_when_the_state_is_replaced(machine: Watched) -> None:
    machine.put(b"a")
    synced, behind, future = machine.watch(), machine.watch(start=2), machine.watch(start=7)
    machine.put(b"a")
    machine.hub.restored(ahead(machine))
    assert machine.hub.take_ready() == [machine.stream]
    machine.put(b"a")
    by_watch: dict[int, list[int]] = {synced: [], behind: [], future: []}
    for response in machine.taken():
        by_watch[response.watch_id] += [event.kv.mod_revision for event in response.events]
    assert by_watch == {synced: [3, 4, 5, 6, 7, 8, 9], behind: [2, 3, 4, 5, 6, 7, 8, 9], future: [7, 8, 9]}


def test_a_start_after_what_was_replaced_still_waits(machine: Watched) -> None:
    machine.watch(start=50)
    machine.hub.restored(ahead(machine))
    assert machine.events() == []
    machine.put(b"a")
    assert machine.events() == []
    (watcher,) = machine.stream.watchers()
    assert (watcher.synced, watcher.next_revision) == (True, 50)


def test_watches_are_cancelled_when_what_they_missed_was_compacted(machine: Watched) -> None:
    machine.put(b"a")
    machine.watch()
    machine.hub.restored(ahead(machine, compact=True))
    (answer,) = machine.taken()
    assert (answer.canceled, answer.compact_revision) == (True, 6)
