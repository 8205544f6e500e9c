"""Reads that see everything that was finished before them: thesis section 6.4."""

from balancer.raft.core import Role
from balancer.raft.limits import Limits
from balancer.raft.message import Heartbeat, Message, ReadIndexReply, ReadIndexRequest
from balancer.raft.ready import ReadState
from tests.unit.raft.messages import appended, beat, beaten, vote_request
from tests.unit.raft.network import Member, Network, alone, taken
from tests.unit.raft.test_commit import leader


def ready_leader(voters: tuple[int, ...] = (1, 2, 3)) -> tuple[Member, list[Message]]:
    """Member 1 leads term 1 and committed its first entry."""
    member = leader(voters=voters)
    for sender in voters[1:]:
        member.node.step(appended(1, 1, sender=sender))
    member.work()
    sent: list[Message] = []
    member.send = sent.append
    return member, sent


def rounds(sent: list[Message]) -> list[int]:
    """The positions of the heartbeats to 2."""
    return [each.read_id for each in taken(sent) if isinstance(each, Heartbeat) and each.to == 2]


def reply(term: int, read_id: int, index: int, sender: int = 2) -> ReadIndexReply:
    return ReadIndexReply(sender=sender, to=1, term=term, read_id=read_id, index=index)


def test_a_read_is_answered_when_a_majority_answered_a_heartbeat_that_was_sent_after_it_came() -> None:
    member, sent = ready_leader((1, 2, 3, 4, 5))
    read = member.node.read_index()
    member.work()
    (position,) = rounds(sent)
    member.node.step(beaten(1, position, sender=2))
    member.node.step(beaten(1, position, sender=2))
    member.work()
    assert member.reads == []
    member.node.step(beaten(1, position, sender=3))
    member.work()
    assert member.reads == [ReadState(read, 1)]


def test_its_index_is_the_commit_index_when_it_came() -> None:
    member, sent = ready_leader()
    read = member.node.read_index()
    member.node.propose(b"a")
    member.work()
    member.node.step(appended(1, 2))
    (position,) = rounds(sent)
    member.node.step(beaten(1, position))
    member.work()
    assert member.reads == [ReadState(read, 1)]


def test_an_answer_to_an_earlier_heartbeat_does_not_confirm_it() -> None:
    member, sent = ready_leader()
    first = member.node.read_index()
    member.work()
    (early,) = rounds(sent)
    member.node.step(beaten(1, early))
    member.work()
    second = member.node.read_index()
    member.work()
    (late,) = rounds(sent)
    member.node.step(beaten(1, early, sender=3))
    member.work()
    assert member.reads == [ReadState(first, 1)]
    member.node.step(beaten(1, late, sender=3))
    member.work()
    assert member.reads[1:] == [ReadState(second, 1)]


def test_answers_that_nobody_can_have_given_are_ignored() -> None:
    member, sent = ready_leader()
    member.node.read_index()
    member.work()
    (position,) = rounds(sent)
    member.node.step(beaten(1, position + 1))
    member.node.step(beaten(1, -1))
    member.work()
    assert member.reads == []


def test_learners_confirm_nothing() -> None:
    network = Network((1, 2, 3), (4,))
    network.elect(1)
    network.isolate(1, 4)
    network.node(1).read_index()
    network.settle()
    assert network[1].reads == []


def test_reads_that_come_while_a_round_is_under_way_share_the_next() -> None:
    member, sent = ready_leader()
    reads = [member.node.read_index()]
    member.work()
    for _ in range(5):
        reads.append(member.node.read_index())
        member.work()
    assert rounds(sent) == [1]
    member.node.step(beaten(1, 1))
    member.work()
    assert rounds(sent) == [6]
    member.node.step(beaten(1, 6))
    member.work()
    assert [read.read_id for read in member.reads] == reads


def test_a_lost_round_is_repeated_by_the_next_heartbeat() -> None:
    member, sent = ready_leader()
    member.node.read_index()
    member.work()
    taken(sent)
    member.node.read_index()
    member.node.tick()
    member.work()
    assert rounds(sent) == [2]
    member.node.step(beaten(1, 2))
    member.work()
    assert len(member.reads) == 2


def test_a_single_member_confirms_itself() -> None:
    member, _ = alone((1,))
    member.node.campaign()
    member.work()
    read = member.node.read_index()
    member.work()
    assert member.reads == [ReadState(read, 1)]


def test_a_new_leader_answers_no_read_before_it_committed_an_entry_of_its_term() -> None:
    member = leader(terms=(1, 1))
    sent: list[Message] = []
    member.send = sent.append
    read = member.node.read_index()
    member.work()
    member.node.tick()
    member.work()
    member.node.step(beaten(2, 0))
    member.node.step(beaten(2, 1))
    member.work()
    assert member.reads == []
    taken(sent)
    member.node.step(appended(2, 3))
    member.work()
    (position,) = rounds(sent)
    member.node.step(beaten(2, position))
    member.work()
    assert member.reads == [ReadState(read, 3)]


def test_who_is_deposed_refuses_what_waits() -> None:
    member, _ = ready_leader()
    read = member.node.read_index()
    member.node.step(vote_request(5, (9, 9), transfer=True))
    member.work()
    assert member.reads == []
    assert member.refused_reads == [read]


def test_a_new_leader_of_a_later_term_has_its_own_reads() -> None:
    network = Network()
    network.elect(1)
    network.isolate(1)
    stale = network.node(1).read_index()
    network.elect(2)
    network.node(2).propose(b"new")
    network.settle(2, 3)
    network.tick(20, 1)
    assert network[1].refused_reads == [stale]
    network.heal()
    network.settle()
    assert network[1].reads == []


def test_ids_are_never_used_twice_not_even_over_lives() -> None:
    member, _ = alone()
    ids = []
    for _ in range(5):
        ids += [member.node.read_index() for _ in range(10)]
        member.crash()
    assert len(set(ids)) == 50
    assert all(0 < each < 2**63 for each in ids)


# Followers.


def follower() -> tuple[Member, list[Message]]:
    member, sent = alone(terms=[1])
    member.node.step(beat(1, commit=1))
    member.work()
    taken(sent)
    return member, sent


def test_a_follower_asks_its_leader_once_for_all_that_wait() -> None:
    member, sent = follower()
    reads = [member.node.read_index() for _ in range(3)]
    member.work()
    (request,) = sent
    assert request == ReadIndexRequest(sender=1, to=2, term=1, read_id=reads[-1])
    member.node.read_index()
    assert not member.take()
    member.node.step(reply(1, reads[-1], 7))
    member.work()
    assert member.reads == [ReadState(read, 7) for read in reads]
    assert len(sent) == 2


def test_an_answer_to_an_earlier_question_does_not_confirm_a_later_read() -> None:
    member, sent = follower()
    first = member.node.read_index()
    member.work()
    member.node.step(reply(1, first, 7))
    second = member.node.read_index()
    member.work()
    taken(sent)
    member.node.step(reply(1, first, 7))
    member.node.step(reply(1, second + 1, 7))
    member.work()
    assert [read.read_id for read in member.reads] == [first]


def test_only_its_leader_answers_it() -> None:
    member, _ = follower()
    read = member.node.read_index()
    member.work()
    member.node.step(reply(1, read, 7, sender=3))
    member.work()
    assert member.reads == []


def test_without_a_leader_a_read_is_refused_at_once() -> None:
    member, _ = alone()
    read = member.node.read_index()
    member.work()
    assert member.refused_reads == [read]


def test_a_lost_question_is_repeated_and_given_up_after_an_election_timeout() -> None:
    member, sent = follower()
    read = member.node.read_index()
    member.work()
    for _ in range(10):
        member.node.step(beat(1))
        member.node.tick()
        member.work()
    assert len([each for each in sent if isinstance(each, ReadIndexRequest)]) > 2
    assert member.refused_reads == [read]


def test_another_leader_means_asking_again() -> None:
    member, _ = follower()
    read = member.node.read_index()
    member.work()
    member.node.step(beat(2, sender=3))
    member.work()
    assert member.refused_reads == [read]


def test_a_leader_answers_what_followers_ask() -> None:
    member, sent = ready_leader()
    member.node.step(ReadIndexRequest(sender=3, to=1, term=1, read_id=77))
    member.work()
    (position,) = rounds(sent)
    member.node.step(beaten(1, position))
    member.work()
    assert ReadIndexReply(sender=1, to=3, term=1, read_id=77, index=1) in sent


def test_who_does_not_lead_refuses_what_others_ask() -> None:
    member, sent = follower()
    member.node.step(ReadIndexRequest(sender=3, to=1, term=1, read_id=77))
    member.work()
    assert sent == [ReadIndexReply(sender=1, to=3, term=1, read_id=77, index=0)]


def test_strangers_are_not_answered() -> None:
    member, sent = ready_leader()
    member.node.step(ReadIndexRequest(sender=9, to=1, term=1, read_id=77))
    member.work()
    assert sent == []


def test_reads_that_wait_are_bounded() -> None:
    member, sent = ready_leader()
    member.node._core.limits = Limits(reads_max=3)
    for _ in range(5):
        member.node.read_index()
    member.node.step(ReadIndexRequest(sender=3, to=1, term=1, read_id=77))
    member.work()
    assert len(member.refused_reads) == 2
    assert ReadIndexReply(sender=1, to=3, term=1, read_id=77, index=0) in sent
    other, _ = follower()
    other.node._core.limits = Limits(reads_max=3)
    for _ in range(5):
        other.node.read_index()
    other.work()
    assert len(other.refused_reads) == 2
    assert other.role is Role.FOLLOWER
