"""Replication of the log: Raft section 5.3, both sides."""

import pytest

from balancer.raft.limits import ENTRY_OVERHEAD, Limits
from balancer.raft.message import Append, AppendReply, Message
from balancer.raft.refusals import SafetyBrokenError
from balancer.raft.replication import truncate_from
from tests.unit.raft.messages import append, appended, beaten, rejected
from tests.unit.raft.network import Member, Network, alone, entries_of, taken
from tests.unit.raft.test_commit import leader


def terms_of(member: Member) -> list[int]:
    return [term for _, term, _ in member.log]


def answer(member: Member, sent: list[Message]) -> AppendReply:
    """The one answer to what it was sent."""
    member.work()
    (reply,) = [each for each in taken(sent) if isinstance(each, AppendReply)]
    return reply


# The follower: extended Raft figure 2, AppendEntries RPC, receiver implementation.


def test_entries_are_appended_and_promised_up_to_the_last_new_one() -> None:
    member, sent = alone(terms=[1])
    member.node.step(append(1, (1, 1), entries_of([1, 1], first=2)))
    reply = answer(member, sent)
    assert (reply.rejected, reply.index) == (False, 3)
    assert terms_of(member) == [1, 1, 1]


def test_nothing_is_promised_before_it_is_on_the_disk() -> None:
    member, sent = alone(terms=[1])
    member.node.step(append(1, (1, 1), entries_of([1, 1], first=2)))
    member.take()
    assert not sent
    member.sync()
    assert [each.index for each in sent] == [3]


def test_a_promise_about_entries_that_are_still_being_written_waits_for_them() -> None:
    member, sent = alone(terms=[1])
    member.node.step(append(1, (1, 1), entries_of([1], first=2)))
    member.take()
    member.node.step(append(1, (1, 1), entries_of([1], first=2)))  # it came twice
    member.take()
    assert not sent
    member.sync(1)
    assert len(sent) == 1


# "2. Reply false if log doesn't contain an entry at prevLogIndex whose term matches prevLogTerm".


@pytest.mark.parametrize(("previous", "hint"), [((5, 3), (3, 2)), ((3, 3), (3, 2)), ((3, 1), (1, 1)), ((9, 1), (1, 1))])
def test_a_log_that_does_not_match_is_refused_with_where_it_may(
    previous: tuple[int, int], hint: tuple[int, int]
) -> None:
    member, sent = alone(terms=[1, 2, 2])
    member.node.step(append(3, previous, entries_of([3], first=previous[0] + 1)))
    reply = answer(member, sent)
    assert reply.rejected
    assert (reply.index, reply.hint_index, reply.hint_term) == (previous[0], *hint)
    assert terms_of(member) == [1, 2, 2]


# "3. If an existing entry conflicts with a new one (same index but different terms), delete the existing entry and all
# that follow it. 4. Append any new entries not already in the log".


def test_a_conflict_deletes_the_entry_and_all_that_follow_it() -> None:
    member, sent = alone(terms=[1, 2, 2, 2])
    member.node.step(append(3, (1, 1), entries_of([2, 3], first=2)))
    assert answer(member, sent).index == 3
    assert terms_of(member) == [1, 2, 3]
    assert [entry.term for entry in member.disk.entries] == [1, 2, 3]


def test_entries_that_are_there_already_delete_nothing() -> None:
    member, sent = alone(terms=[1, 1, 1, 1])
    member.node.step(append(1, (0, 0), entries_of([1, 1])))
    assert answer(member, sent).index == 2
    assert terms_of(member) == [1, 1, 1, 1]


def test_an_empty_append_deletes_nothing() -> None:
    member, sent = alone(terms=[1, 1, 1, 1])
    member.node.step(append(1, (2, 1)))
    assert answer(member, sent).index == 2
    assert terms_of(member) == [1, 1, 1, 1]


def test_what_is_below_the_commit_index_is_answered_with_it() -> None:
    member, sent = alone(terms=[1, 1, 1, 1])
    member.node.step(append(1, (3, 1), commit=3))
    taken(sent)
    member.node.step(append(1, (1, 1), entries_of([1], first=2)))
    assert answer(member, sent).index == 3
    assert terms_of(member) == [1, 1, 1, 1]


def test_a_committed_entry_is_never_deleted() -> None:
    member, _ = alone(terms=[1, 1, 1, 1])
    member.node.step(append(1, (3, 1), commit=3))
    with pytest.raises(SafetyBrokenError, match="differs at 3"):
        truncate_from(member.node._core, 3)
    truncate_from(member.node._core, 4)


@pytest.mark.parametrize(
    "message",
    [
        append(3, (1, 1), entries_of([2, 2], first=3)),  # a hole
        append(3, (1, 1), [*entries_of([2], first=2), *entries_of([2], first=4)]),
        append(3, (1, 1), entries_of([2, 1], first=2)),  # a term that falls
        append(3, (1, 2), entries_of([1], first=2)),
        append(3, (1, 1), entries_of([4], first=2)),  # a term to come
        append(3, (-1, 1)),
        append(3, (1, -1)),
    ],
)
def test_entries_that_no_leader_sends_change_nothing(message: Append) -> None:
    member, _ = alone(terms=[1])
    member.node.step(message)
    member.work()
    assert terms_of(member) == [1]


def test_answers_that_wait_for_the_same_sync_become_one() -> None:
    member, sent = alone()
    for index in range(5):
        member.node.step(append(1, (index, min(index, 1)), entries_of([1], first=index + 1)))
    member.work()
    assert [each.index for each in sent] == [5]


# The leader.


def appends(sent: list[Message], to: int = 2) -> list[Append]:
    return [each for each in sent if isinstance(each, Append) and each.to == to]


def with_peer(**limits: int) -> tuple[Member, list[Message]]:
    """Member 1 leads and 2 answered its first entry; 3 is silent."""
    member = leader()
    member.node._core.limits = Limits(**limits)
    sent: list[Message] = []
    member.send = sent.append
    member.node.step(appended(1, 1))
    member.work()
    sent.clear()
    return member, sent


def test_all_proposals_between_two_readys_share_an_append() -> None:
    member, sent = with_peer()
    for _ in range(50):
        member.node.propose(b"x")
    member.take()
    assert [len(each.entries) for each in appends(sent)] == [50]


def test_appends_are_sent_before_the_leaders_own_disk_has_the_entries() -> None:
    member, sent = with_peer()
    member.node.propose(b"x")
    member.take()
    assert appends(sent)
    assert len(member.unsynced) == 1


def test_an_append_is_bounded_in_bytes_but_takes_an_entry_of_any_size() -> None:
    member, sent = with_peer(append_bytes_max=3 * (ENTRY_OVERHEAD + 10))
    for size in (10, 10, 10, 10, 1_000, 10):
        member.node.propose(b"x" * size)
    member.take()
    assert [len(each.entries) for each in appends(sent)] == [3, 1, 1, 1]


def test_the_window_bounds_appends_by_count_and_answers_open_it() -> None:
    member, sent = with_peer(append_bytes_max=1, in_flight_max=3)
    for _ in range(10):
        member.node.propose(b"x")
    member.take()
    assert [each.entries[0].index for each in appends(taken(sent))] == [2, 3, 4]
    member.node.step(appended(1, 3))
    member.take()
    assert [each.entries[0].index for each in appends(taken(sent))] == [5, 6]


def test_the_window_bounds_appends_by_bytes() -> None:
    member, sent = with_peer(append_bytes_max=1, in_flight_bytes_max=2 * (ENTRY_OVERHEAD + 1))
    for _ in range(10):
        member.node.propose(b"x")
    member.take()
    assert len(appends(sent)) == 2


def test_with_a_full_window_the_commit_index_is_still_told() -> None:
    member, sent = with_peer(append_bytes_max=1, in_flight_max=2)
    for _ in range(10):
        member.node.propose(b"x")
    member.work()
    taken(sent)
    member.node._core.progress[2].in_flight.add(99, 1)  # full whatever is answered
    member.node.step(appended(1, 3, sender=3))
    member.take()
    (told,) = appends(sent)
    assert (told.entries, told.commit) == ((), 3)


def test_a_silent_peer_is_sent_one_append_until_it_answers_something() -> None:
    member, sent = with_peer()
    for _ in range(3):
        member.node.propose(b"x")
        member.take()
    assert appends(sent, to=3) == []
    member.node.step(beaten(1, sender=3))
    member.take()
    (probe,) = appends(sent, to=3)
    assert (probe.previous_index, len(probe.entries)) == (0, 4)


def test_a_refusal_leads_to_where_the_logs_may_agree() -> None:
    member = leader(terms=(1, 1, 3, 3, 3))
    sent: list[Message] = []
    member.send = sent.append
    member.node.step(rejected(4, 5, (5, 2)))
    member.take()
    (probe,) = appends(sent)
    assert (probe.previous_index, probe.previous_term) == (2, 1)


def test_late_and_repeated_refusals_change_nothing() -> None:
    member, _ = with_peer()
    for message in (rejected(1, 1, (0, 0)), rejected(1, 0, (0, 0)), rejected(1, -1, (5, 5)), rejected(1, 1, (7, 1))):
        member.node.step(message)
        assert member.node.status().peers[0].next == 2
        assert member.node.status().peers[0].pace == "replicate"


def test_late_answers_do_not_lower_what_a_peer_is_known_to_have() -> None:
    member, _ = with_peer()
    member.node.propose(b"x")
    member.work()
    member.node.step(appended(1, 2))
    member.node.step(appended(1, 1))
    assert member.node.status().peers[0].match == 2


def test_a_peer_that_claims_more_than_there_is_is_not_believed() -> None:
    member, _ = with_peer()
    member.node.step(appended(1, 7))
    assert member.node.status().peers[0].match == 1
    assert member.node.status().commit == 1


def test_strangers_are_not_counted() -> None:
    member, _ = with_peer()
    member.node.step(appended(1, 1, sender=9))
    member.node.step(rejected(1, 1, (0, 0), sender=9))
    assert len(member.node.status().peers) == 2


def test_logs_that_diverged_become_one() -> None:
    network = Network((1, 2, 3, 4, 5))
    for id, terms in {1: [1, 1, 3], 2: [1, 1, 2, 2, 2], 3: [1], 4: [1, 1, 3, 3], 5: []}.items():
        network[id].disk.entries = entries_of(terms)
        network[id].disk.hard_state = network[id].disk.hard_state.__class__(3)
        network[id].start()
    network.elect(4)
    assert {tuple(terms_of(member)) for member in network.members.values()} == {(1, 1, 3, 3, 4)}
