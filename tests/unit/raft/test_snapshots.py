"""Snapshots from a leader to a peer: Raft section 7, thesis chapter 5."""

import msgspec
import pytest

from balancer.raft.limits import Limits
from balancer.raft.log_entry import Entry, EntryKind, Membership, SnapshotMark
from balancer.raft.membership import encode
from balancer.raft.message import Append, AppendReply, Message, SnapshotChunk, SnapshotReply
from balancer.raft.refusals import SafetyBrokenError
from tests.unit.raft.memory import State
from tests.unit.raft.messages import append, appended, beat, beaten, chunk, got, rejected
from tests.unit.raft.network import Member, Network, alone, entries_of, taken
from tests.unit.raft.test_commit import leader

LIMITS = Limits(chunk_bytes=30, kept_entries_max=0)
MARK = SnapshotMark(8, 2, Membership((1, 2, 4)))
BYTES = State(index=8, digest=5, padding=b"x" * 50).dump()


def behind() -> Network:
    """1 leads, 3 was away for long, and what it lacks is compacted."""
    network = Network(limits=LIMITS)
    network.elect(1)
    network.isolate(3)
    for _ in range(5):
        network.node(1).propose(b"x")
    network.settle()
    network[1].state.padding = b"x" * 100
    network[1].snapshot()
    network[1].sync()
    network.heal()
    return network


def chunks(messages: list[Message]) -> list[SnapshotChunk]:
    return [each for each in messages if isinstance(each, SnapshotChunk)]


# The whole way.


def test_a_peer_that_lacks_compacted_entries_gets_a_snapshot_and_then_entries() -> None:
    network = behind()
    network.tick(2)
    assert network[3].snapshots.begun == 1
    assert network[3].state == network[1].state
    network.node(1).propose(b"y")
    network.settle()
    assert network[3].state == network[1].state
    assert network[3].disk.mark.index == 6


def test_chunks_that_are_lost_repeated_or_out_of_order_come_out_right() -> None:
    for victim in range(1, 6):
        network = behind()
        seen = 0
        for _ in range(60):
            network.node(1).tick()
            for member in network.members.values():
                member.work()
            for message in network.drop():
                seen += isinstance(message, SnapshotChunk)
                if not (isinstance(message, SnapshotChunk) and seen == victim):
                    network.node(message.to).step(message)
                if isinstance(message, SnapshotChunk | SnapshotReply) and seen % 2:
                    network.node(message.to).step(message)
        assert network[3].state == network[1].state, victim


def test_a_peer_that_restarts_in_the_middle_begins_anew() -> None:
    network = behind()
    network.node(1).tick()
    for _ in range(20):
        receiving = network[3].node._core.receiving
        if receiving is not None and receiving.offset:
            break
        for member in network.members.values():
            member.work()
        network.deliver()
    assert network[3].snapshots.begun == 1
    network[3].crash()
    network.tick(5)
    assert network[3].snapshots.begun == 2
    assert network[3].state == network[1].state


def test_another_leader_begins_anew_though_its_snapshot_ends_at_the_same_entry() -> None:
    member, sent = alone(limits=LIMITS)
    member.node.step(chunk(2, MARK, BYTES[:30], 0, len(BYTES)))
    member.node.step(chunk(3, MARK, BYTES[30:60], 30, len(BYTES), sender=3))
    member.work()
    assert [each.offset for each in sent if isinstance(each, SnapshotReply)] == [30, 0]
    assert member.snapshots.begun == 2


def sending() -> tuple[Member, list[Message], SnapshotMark]:
    """A leader that sent the first chunk of its snapshot to 3; 2 is up to date, and plays no part."""
    member = leader()
    sent: list[Message] = []
    member.send = sent.append
    member.node._core.limits = LIMITS
    member.node.step(appended(1, 1, sender=2))
    member.work()
    member.state.padding = b"x" * 50
    member.snapshot()
    member.sync()
    member.node.step(rejected(1, 0, (0, 0), sender=3))
    member.work()
    (first,) = chunks(taken(sent))
    assert (first.to, first.mark.index, first.offset) == (3, 1, 0)
    return member, sent, first.mark


def compact_further(member: Member) -> None:
    """Two more entries, and a snapshot that ends with them."""
    for data in (b"y", b"z"):
        member.node.propose(data)
        member.work()
        member.node.step(appended(1, member.node.status().last_index, sender=2))
        member.work()
    member.snapshot()
    member.sync()


def test_a_leader_that_compacts_further_meanwhile_sends_the_old_one_to_its_end() -> None:
    member, sent, mark = sending()
    compact_further(member)
    taken(sent)
    member.node.step(got(1, mark, 30, sender=3))
    member.work()
    (second,) = chunks(taken(sent))
    assert (second.mark, second.offset) == (mark, 30)


def test_a_snapshot_that_is_gone_is_replaced_by_the_newest() -> None:
    member, sent, mark = sending()
    compact_further(member)
    del member.snapshots.files[1, 1]
    member.node.step(got(1, mark, 30, sender=3))
    member.work()
    assert chunks(taken(sent)) == []
    member.node.step(beaten(1, sender=3))
    member.work()
    (second,) = chunks(taken(sent))
    assert (second.mark.index, second.offset) == (3, 0)


def test_one_chunk_is_under_way_at_a_time_and_repeated_answers_ask_for_no_second_copy() -> None:
    member, sent, mark = sending()
    member.node.step(got(1, mark, 0, sender=3))
    member.node.step(got(1, mark, 30, sender=3))
    member.node.step(got(1, mark, 30, sender=3))
    member.work()
    assert [each.offset for each in chunks(sent)] == [30]


def test_a_chunk_without_an_answer_goes_again_after_two_heartbeats_that_were_answered() -> None:
    member, sent, _ = sending()
    member.node.step(beaten(1, sender=3))
    member.work()
    assert chunks(sent) == []
    member.node.step(beaten(1, sender=3))
    member.work()
    assert [each.offset for each in chunks(sent)] == [0]


def test_an_answer_about_another_snapshot_or_from_a_stranger_changes_nothing() -> None:
    member, sent, mark = sending()
    for answer in (
        got(1, SnapshotMark(9, 1), 30, sender=3),
        got(1, SnapshotMark(1, 9), 30, sender=3, done=True),
        got(1, mark, -1, sender=3),
        got(1, mark, 10_000, sender=3),
        got(1, mark, 30, sender=2),
        got(1, mark, 30, sender=9),
    ):
        member.node.step(answer)
    member.work()
    assert chunks(sent) == []
    assert member.node.status().peers[1].match == 0


def test_a_peer_that_came_to_the_entries_in_another_way_gets_entries() -> None:
    member, sent, _ = sending()
    member.node.propose(b"y")
    member.node.step(appended(1, 1, sender=3))
    member.work()
    assert [(each.to, each.previous_index) for each in sent if isinstance(each, Append)][-1] == (3, 1)
    assert member.node.status().peers[1].pace == "replicate"


def test_a_peer_that_has_the_snapshot_already_gets_a_newer_one_when_the_log_begins_later_by_now() -> None:
    member, sent, mark = sending()
    compact_further(member)
    taken(sent)
    member.node.step(appended(1, mark.index, sender=3))  # it had it; the answer that said so was lost
    member.work()
    (second,) = chunks(taken(sent))
    assert (second.mark.index, second.offset) == (3, 0)


def test_one_that_is_refused_is_sent_again_when_the_peer_is_heard_of() -> None:
    member, sent, mark = sending()
    member.node.step(got(1, mark, 0, sender=3, refused=True))
    member.work()
    assert chunks(sent) == []
    member.node.step(beaten(1, sender=3))
    member.work()
    assert [(each.mark, each.offset) for each in chunks(sent)] == [(mark, 0)]


def test_nothing_is_sent_to_a_peer_that_does_not_answer() -> None:
    network = behind()
    network.isolate(3)
    network.tick(30, 1, 2)
    network.node(1).propose(b"z")
    network[1].work()
    network.drop(lambda message: message.to == 2)
    assert chunks(network.in_flight) == []


# The follower.


def test_a_snapshot_replaces_log_state_and_membership_together() -> None:
    member, sent = alone(terms=[1, 1, 1, 1, 1, 1, 1, 1, 1, 1], limits=LIMITS)
    for offset in range(0, len(BYTES), 30):
        member.node.step(chunk(2, MARK, BYTES[offset : offset + 30], offset, len(BYTES)))
        member.work()
    status = member.node.status()
    assert (status.last_index, status.commit, status.applied) == (8, 8, 8)
    assert status.membership == Membership((1, 2, 4))
    assert member.log == []
    assert member.node._core.log.last_term == 2
    assert (member.state.index, member.disk.mark, member.disk.entries) == (8, MARK, [])
    last = sent[-1]
    assert isinstance(last, SnapshotReply)
    assert (last.done, last.index, last.snapshot_term) == (True, 8, 2)
    member.crash()
    assert member.node.status().membership == Membership((1, 2, 4))


def test_it_is_promised_only_when_it_is_on_the_disk() -> None:
    member, sent = alone()
    member.node.step(chunk(2, MARK, BYTES, 0, len(BYTES)))
    member.take()
    assert not sent
    assert member.unsynced[0].must_sync  # type: ignore[union-attr]
    member.sync()
    assert [each.done for each in sent if isinstance(each, SnapshotReply)] == [True]


def test_entries_after_it_are_taken_with_it() -> None:
    member, _ = alone()
    member.node.step(chunk(2, MARK, BYTES, 0, len(BYTES)))
    member.node.step(append(2, (8, 2), entries_of([2], first=9), commit=9))
    member.work()
    assert member.state.index == 9
    assert [entry.index for entry in member.disk.entries] == [9]


def test_what_was_promised_for_the_log_before_it_does_not_count_for_the_log_after_it() -> None:
    member, _ = alone()
    member.node.step(append(1, (0, 0), entries_of([1] * 9)))
    member.take()
    member.node.step(chunk(2, MARK, BYTES, 0, len(BYTES)))
    member.take()
    member.sync(1)
    assert member.node._core.durable.index == 0
    member.sync(1)
    assert member.node._core.durable.index == 8


def test_an_obsolete_one_is_answered_with_what_is_committed() -> None:
    member, sent = alone(terms=[1] * 9)
    member.node.step(beat(1, commit=9))
    member.work()
    taken(sent)
    member.node.step(chunk(2, MARK, BYTES[:30], 0, len(BYTES)))
    member.work()
    assert [each.index for each in sent if isinstance(each, AppendReply)] == [9]
    assert (member.snapshots.begun, len(member.log)) == (0, 9)


def test_one_whose_last_entry_is_in_the_log_moves_the_commit_index() -> None:
    member, sent = alone(terms=[1, 1, 1, 1, 1, 2, 2, 2, 2])
    member.node.step(chunk(2, MARK, BYTES[:30], 0, len(BYTES)))
    member.work()
    assert [each.index for each in sent if isinstance(each, AppendReply)] == [8]
    assert (member.node.status().commit, len(member.log), member.snapshots.begun) == (8, 9, 0)


@pytest.mark.parametrize(
    "bad",
    [
        chunk(2, MARK, b"", 0, 9),
        chunk(2, MARK, b"abc", -1, 9),
        chunk(2, MARK, b"abc", 7, 9),
        chunk(2, SnapshotMark(0, 1), b"abc", 0, 9),
        chunk(2, SnapshotMark(8, 0), b"abc", 0, 9),
        chunk(2, SnapshotMark(8, 3), b"abc", 0, 9),
    ],
)
def test_what_is_no_part_of_a_snapshot_changes_nothing(bad: SnapshotChunk) -> None:
    member, sent = alone()
    member.node.step(bad)
    member.work()
    assert (sent, member.snapshots.begun, member.node.status().last_index) == ([], 0, 0)


def test_a_damaged_chunk_is_not_written() -> None:
    member, sent = alone()
    damaged = msgspec.structs.replace(chunk(2, MARK, BYTES[:30], 0, len(BYTES)), data=BYTES[:29] + b"?")
    member.node.step(damaged)
    member.work()
    assert [each.offset for each in sent if isinstance(each, SnapshotReply)] == [0]
    assert member.snapshots.arriving == b""


def test_a_chunk_that_is_not_the_next_is_not_written() -> None:
    member, sent = alone()
    member.node.step(chunk(2, MARK, BYTES[:30], 0, len(BYTES)))
    member.node.step(chunk(2, MARK, BYTES[40:50], 40, len(BYTES)))
    member.node.step(chunk(2, MARK, BYTES[:30], 0, len(BYTES)))
    member.work()
    assert [each.offset for each in sent if isinstance(each, SnapshotReply)] == [30, 30, 30]
    assert member.snapshots.arriving == BYTES[:30]


def test_one_that_is_no_good_as_a_whole_is_refused_and_asked_for_anew() -> None:
    member, sent = alone()
    broken = b"????" + BYTES[4:]
    member.node.step(chunk(2, MARK, broken, 0, len(broken)))
    member.work()
    assert [(each.refused, each.done) for each in sent if isinstance(each, SnapshotReply)] == [(True, False)]
    assert member.node.status().last_index == 0
    member.node.step(chunk(2, MARK, BYTES, 0, len(BYTES)))
    member.work()
    assert member.state.index == 8


# Compaction.


def taught(count: int, **limits: int) -> Member:
    """A single member that applied this many entries."""
    member, _ = alone((1,), limits=Limits(**limits))
    member.node.campaign()
    member.work()
    for _ in range(count - 1):
        member.node.propose(b"0123456789")
    member.work()
    return member


def test_a_few_entries_below_the_snapshot_stay_for_peers_that_are_a_little_behind() -> None:
    member = taught(20, kept_entries_max=5)
    member.node.compact(member.node.applied_mark())
    assert [index for index, _, _ in member.log] == list(range(16, 21))


def test_the_mark_holds_the_membership_that_was_in_use_at_its_entry() -> None:
    member, _ = alone()
    first, second = Membership((1, 2, 3), (4,)), Membership((1, 2, 3), (5,))
    entries = [Entry(i, 1, EntryKind.MEMBERSHIP, encode(m)) for i, m in enumerate((first, second), 1)]
    member.node.step(append(1, (0, 0), entries, commit=1))
    member.work()
    assert member.node.applied_mark() == SnapshotMark(1, 1, first)
    member.node.step(append(1, (2, 1), commit=2))
    member.take()
    assert member.node.applied_mark() == SnapshotMark(1, 1, first)
    member.apply()
    assert member.node.applied_mark() == SnapshotMark(2, 1, second)


def test_what_is_not_applied_cannot_be_compacted() -> None:
    member = taught(5)
    with pytest.raises(SafetyBrokenError):
        member.node.compact(SnapshotMark(6, 1))
    with pytest.raises(SafetyBrokenError):
        member.node.compact(SnapshotMark(5, 9))


def test_an_older_snapshot_does_not_take_the_place_of_a_newer() -> None:
    member = taught(8, kept_entries_max=0)
    older = SnapshotMark(4, 1, Membership((1,)))
    member.node.compact(member.node.applied_mark())
    member.node.compact(older)
    assert member.node._core.mark.index == 8
    assert member.node._core.log.base_index == 8
