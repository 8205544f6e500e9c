"""A member without its I/O: what it sends, writes and applies keeps its order, and whoever asks is answered once."""

import msgspec
import pytest

from balancer.consensus.peer_frames import Forward, ForwardReply, KeepAlive, KeepAliveReply
from balancer.consensus.proposals import AGAIN
from balancer.coordination.command import Command, decode
from balancer.coordination.errors import Code, CoordinationError
from balancer.coordination.requests import LeaseGrantRequest, LeaseRevokeRequest, PutRequest
from balancer.coordination.responses import LeaseGrantResponse, PutResponse
from balancer.raft.log_entry import Membership
from balancer.raft.message import Append, AppendReply, Heartbeat, VoteReply
from tests.unit.consensus.trio import GRACE, Trio


@pytest.fixture
def trio() -> Trio:
    """Three members, the first one leads."""
    trio = Trio()
    trio.elect(1)
    return trio


def code(heard: list[object]) -> Code:
    (error,) = heard
    assert isinstance(error, CoordinationError)
    return error.code


# ---- commands


@pytest.mark.parametrize("member", [1, 2, 3])
def test_a_put_at_any_member_is_answered_and_is_everywhere(trio: Trio, member: int) -> None:
    (answer,) = trio.put(member, "key")
    assert isinstance(answer, PutResponse)
    assert answer.header.revision == 2
    trio.pass_time(0.2)
    assert len(trio.hashes()) == 1
    assert [each.machine.revision for each in trio.members.values()] == [2, 2, 2]


def test_a_change_is_told_after_each_entry_that_made_one(trio: Trio) -> None:
    trio.put(1, "a")
    trio.ask(1, LeaseRevokeRequest(99))
    trio.put(1, "b")
    assert trio[1].revisions == [2, 3]


def test_a_command_that_was_forwarded_twice_is_applied_once(trio: Trio) -> None:
    trio.put(2, "a")
    trio[2].replica.submit(PutRequest(b"b", b"x"), trio.now, 9.0, lambda _: None)
    (sent,) = [each for each in trio.in_flight if isinstance(each[2], Forward)]
    trio.in_flight.append(sent)
    trio.settle()
    assert trio[1].machine.revision == 3


def test_a_command_that_was_lost_on_its_way_is_sent_again(trio: Trio) -> None:
    trio.put(2, "a")
    heard: list[object] = []
    trio[2].replica.submit(PutRequest(b"b", b"x"), trio.now, 9.0, heard.append)
    trio.in_flight.clear()
    trio.pass_time(AGAIN - 0.2)
    assert heard == []
    trio.pass_time(0.3)
    assert len(heard) == 1
    assert trio[1].machine.revision == 3


def test_a_command_survives_its_leader(trio: Trio) -> None:
    trio.put(2, "a")
    trio.cut = {1}
    heard = trio.ask(2, PutRequest(b"b", b"x"))
    assert heard == []
    trio.elect(3)
    assert len(heard) == 1
    trio.cut = set()
    trio.pass_time(2.0)
    assert len(trio.hashes()) == 1
    assert trio[1].machine.revision == 3


def test_a_command_whose_answer_was_skipped_by_a_snapshot_is_answered(trio: Trio) -> None:
    """It is applied while this member is cut off, and this member hears of it only as part of a snapshot."""
    trio.put(3, "a")
    heard: list[object] = []
    trio[3].replica.submit(PutRequest(b"b", b"x"), trio.now, 9.0, heard.append)
    forward = next(each for each in trio.in_flight if isinstance(each[2], Forward))
    trio.cut = {3}
    trio[1].replica.receive(3, forward[2], trio.now)
    trio.put(1, "c")
    trio[1].save()
    assert heard == []
    trio.cut = set()
    trio.pass_time(2.0)
    assert trio[3].installed
    assert len(heard) == 1
    assert len(trio.hashes()) == 1


def test_who_does_not_lead_refuses_what_is_forwarded_to_it(trio: Trio) -> None:
    trio[2].replica.receive(3, Forward(5, b"command"), trio.now)
    assert trio.in_flight[-1][:2] == (2, 3)
    reply = trio.in_flight[-1][2]
    assert isinstance(reply, ForwardReply)
    assert (reply.request_id, reply.accepted, reply.leader) == (5, False, 1)


def test_a_refused_forward_goes_to_the_leader_at_the_next_tick(trio: Trio) -> None:
    trio.put(2, "a")
    heard: list[object] = []
    trio[2].replica.submit(PutRequest(b"b", b"x"), trio.now, 9.0, heard.append)
    trio.in_flight.clear()
    trio[2].replica.receive(1, ForwardReply(2, False), trio.now)
    trio.pass_time(0.1)
    assert len(heard) == 1


def test_without_a_majority_the_outcome_is_not_known_at_the_deadline(trio: Trio) -> None:
    trio.put(1, "a")
    trio.cut = {1}
    heard = trio.ask(1, PutRequest(b"b", b"x"), seconds=1.0)
    trio.pass_time(1.1)
    assert code(heard) is Code.UNAVAILABLE


# ---- what is durable


def test_nothing_is_promised_before_it_is_durable(trio: Trio) -> None:
    trio[2].held = True
    trio.put(1, "a")
    trio.pass_time(0.3)
    sent = [frame for sender, _, frame in trio.lost if sender == 2]
    assert trio[2].unwritten
    assert not [frame for frame in sent if isinstance(frame, AppendReply)]
    trio.cut = {2}
    trio.settle()
    trio[2].written()
    assert [frame for _, _, frame in trio.in_flight if isinstance(frame, AppendReply)]


def test_no_vote_is_sent_before_it_is_durable() -> None:
    trio = Trio()
    trio[2].held = trio[3].held = True
    trio[1].node.campaign()
    trio.settle()
    assert not trio[1].replica.leads
    for voter in (2, 3):
        assert [ready for ready in trio[voter].unwritten if ready.hard_state is not None]
    trio[2].held = False
    trio.settle()
    assert trio[1].replica.leads


def test_promises_leave_in_their_order_and_not_before_an_earlier_write(trio: Trio) -> None:
    trio[2].held = True
    trio.put(1, "a")
    first = trio[2].unwritten[0].number
    before = len(trio.in_flight)
    # What promises nothing new has to wait as well, for what it says rests on the write before it.
    trio[2].replica.receive(3, VoteReply(sender=3, to=2, term=0, granted=False), trio.now)
    trio[2].replica.pump(trio.now)
    trio.put(1, "b")
    assert len(trio.in_flight) == before
    numbers = [ready.number for ready in trio[2].unwritten]
    assert numbers == sorted(numbers)
    trio[2].replica.persisted(first, trio.now)
    told = [frame.index for _, _, frame in trio.in_flight if isinstance(frame, AppendReply)]
    assert told == sorted(told)


def test_a_leader_sends_while_its_own_disk_writes_and_commits_by_the_others(trio: Trio) -> None:
    trio.put(1, "a")
    trio[1].held = True
    (answer,) = trio.put(1, "b")
    assert isinstance(answer, PutResponse)


# ---- reads


@pytest.mark.parametrize("member", [1, 2, 3])
def test_a_read_at_any_member_sees_what_was_answered_before(trio: Trio, member: int) -> None:
    trio.put(1, "key", "new")
    assert trio.get(member, "key") == [[b"new"]]


def test_a_leader_that_was_replaced_unknowingly_does_not_read(trio: Trio) -> None:
    trio.put(1, "key", "old")
    trio.cut = {1}
    trio.elect(2)
    trio.put(2, "key", "new")
    heard = trio.get(1, "key")
    assert heard == []
    trio.cut = set()
    trio.pass_time(2.0)
    assert heard == [[b"new"]]


def test_a_read_without_a_leader_ends_at_its_deadline() -> None:
    trio = Trio()
    heard = trio.get(1, "key", seconds=0.2)
    trio.pass_time(0.3)
    assert code(heard) is Code.UNAVAILABLE


# ---- leases


def granted(trio: Trio, ttl: int = 5, lease: int = 7) -> None:
    (answer,) = trio.ask(1, LeaseGrantRequest(ttl, lease))
    assert isinstance(answer, LeaseGrantResponse)


@pytest.mark.parametrize("member", [1, 2])
def test_a_lease_is_kept_alive_at_any_member(trio: Trio, member: int) -> None:
    granted(trio)
    for _ in range(4):
        trio.pass_time(3.0)
        assert trio.keep(member, 7) == [5]
    assert 7 in trio[1].machine.leases


def test_a_lease_that_nobody_keeps_ends_in_the_log(trio: Trio) -> None:
    granted(trio)
    trio.pass_time(4.8)
    assert 7 in trio[2].machine.leases
    trio.pass_time(0.5)
    assert 7 not in trio[2].machine.leases
    assert trio.keep(2, 7) == [0]


def test_an_unknown_lease_has_no_time(trio: Trio) -> None:
    assert trio.keep(1, 7) == [0]
    assert trio.keep(2, 7) == [0]


def test_how_long_a_lease_has_can_be_asked_without_renewing_it(trio: Trio) -> None:
    granted(trio)
    trio.pass_time(3.0)
    assert trio.keep(1, 7, renew=False) in ([1], [2])
    assert trio.keep(2, 7, renew=False) in ([1], [2])
    trio.pass_time(2.5)
    assert 7 not in trio[1].machine.leases


def test_a_new_leader_gives_every_lease_its_whole_time_and_the_grace(trio: Trio) -> None:
    granted(trio)
    trio.pass_time(4.0)
    trio.elect(2)
    trio.pass_time(5.0 + GRACE - 0.3)
    assert 7 in trio[2].machine.leases
    trio.pass_time(0.6)
    assert 7 not in trio[2].machine.leases


def test_what_a_leader_of_before_decided_about_a_lease_is_void(trio: Trio) -> None:
    granted(trio)
    trio.ask(1, PutRequest(b"key", b"x"))
    term = trio[1].node.status().term
    trio.elect(2)
    heard: list[object] = []
    command = Command(0, 0, 0, LeaseRevokeRequest(7), decided_term=term)
    trio[2].node.propose(msgspec.msgpack.encode(command))
    trio.settle()
    assert heard == []
    assert 7 in trio[2].machine.leases
    assert decode(msgspec.msgpack.encode(command)) == command


def test_a_leader_that_is_cut_off_renews_nothing(trio: Trio) -> None:
    granted(trio)
    trio.cut = {1}
    heard = trio.keep(1, 7)
    assert heard == []
    trio.pass_time(3.0)
    assert code(heard) is Code.UNAVAILABLE


def test_a_keep_alive_that_was_lost_on_its_way_ends_at_its_deadline(trio: Trio) -> None:
    granted(trio)
    heard: list[object] = []
    trio[2].replica.keep_alive(7, trio.now, trio.now + 0.5, heard.append)
    trio.in_flight.clear()
    trio.pass_time(0.6)
    assert code(heard) is Code.UNAVAILABLE
    trio[2].replica.receive(1, KeepAliveReply(1, 5), trio.now)
    assert len(heard) == 1


def test_without_a_leader_a_keep_alive_is_refused() -> None:
    assert code(Trio().keep(1, 7)) is Code.UNAVAILABLE


def test_who_does_not_lead_refuses_a_keep_alive_of_another(trio: Trio) -> None:
    trio[2].replica.receive(3, KeepAlive(4, 7), trio.now)
    reply = trio.in_flight[-1][2]
    assert isinstance(reply, KeepAliveReply)
    assert reply.error


def test_another_leader_ends_the_keep_alives_under_way(trio: Trio) -> None:
    granted(trio)
    heard: list[object] = []
    trio[2].replica.keep_alive(7, trio.now, trio.now + 5.0, heard.append)
    trio.in_flight.clear()
    trio.elect(3)
    assert code(heard) is Code.UNAVAILABLE


# ---- snapshots, memberships, ends


def left_behind(trio: Trio) -> None:
    """Member 3 lacks entries that the leader has in a snapshot only."""
    trio.cut = {3}
    for name in "abc":
        trio.put(1, name)
    trio[1].save()
    trio[2].save()


def test_a_member_that_lacks_compacted_entries_gets_the_state(trio: Trio) -> None:
    trio.put(1, "early")
    left_behind(trio)
    trio.cut = set()
    trio.pass_time(1.0)
    assert len(trio[3].installed) == 1
    assert len(trio.hashes()) == 1
    assert trio[3].memberships[-1] == Membership((1, 2, 3))
    assert trio.get(3, "b") == [[b"x"]]


def test_what_is_committed_while_a_snapshot_is_written_waits_for_it(trio: Trio) -> None:
    left_behind(trio)
    trio.cut = set()
    trio[3].held = True
    trio.pass_time(1.0)
    trio.put(1, "d")
    trio.pass_time(0.5)
    assert trio[3].installed == []
    trio[3].held = False
    trio.pass_time(1.0)
    assert len(trio[3].installed) == 1
    assert len(trio.hashes()) == 1


def test_a_snapshot_that_comes_while_another_is_written_takes_the_place_of_what_waited(trio: Trio) -> None:
    left_behind(trio)
    trio.cut = set()
    trio[3].held = True
    trio.pass_time(1.0)  # a first snapshot is to be written
    (first,) = [ready.snapshot for ready in trio[3].unwritten if ready.snapshot is not None]
    trio.put(1, "d")
    log = trio[1].node._core.log
    late = Append(  # a repeated one, of before the leader knew what 3 lacks
        sender=1,
        to=3,
        term=log.last_term,
        previous_index=first.index,
        previous_term=first.term,
        commit=log.last_index,
        entries=(log.entry(log.last_index),),
    )
    trio[3].replica.receive(1, late, trio.now)
    trio.pass_time(0.1)
    assert trio[3].node._core.commit == log.last_index  # what is committed behind the snapshot waits for it
    trio.put(1, "e")
    trio[1].snapshots.files.clear()  # the leader made so many since that it kept none of before
    trio[1].save()
    trio.pass_time(1.0)
    assert len([ready for ready in trio[3].unwritten if ready.snapshot is not None]) == 2
    trio[3].held = False
    trio.pass_time(1.0)
    assert len(trio.hashes()) == 1


def test_a_membership_is_told_when_it_comes_into_use(trio: Trio) -> None:
    trio[1].node.propose_membership(Membership((1, 2), (3,)))
    trio.settle()
    trio.pass_time(0.3)
    assert {each.memberships[-1] for each in trio.members.values()} == {Membership((1, 2), (3,))}


def test_who_leads_is_told(trio: Trio) -> None:
    trio.elect(2)
    assert [each.leaders[-1] for each in trio.members.values()] == [2, 2, 2]
    assert [each.replica.leader for each in trio.members.values()] == [2, 2, 2]


def test_a_message_that_names_another_sender_than_its_link_is_dropped(trio: Trio) -> None:
    term = trio[1].node.status().term
    trio[2].replica.receive(3, Heartbeat(sender=1, to=2, term=term + 5, commit=0), trio.now)
    assert trio[2].node.status().term == term


def test_a_member_that_ends_answers_everybody_who_waits(trio: Trio) -> None:
    granted(trio)
    trio.put(2, "a")
    trio.cut = {2}
    heard = [trio.put(2, "b"), trio.get(2, "b"), trio.keep(2, 7)]
    assert heard == [[], [], []]
    trio[2].replica.close()
    assert [len(each) for each in heard] == [1, 1, 1]
    trio[2].replica.close()
    assert [len(each) for each in heard] == [1, 1, 1]
