"""Heartbeats: Raft section 5.2; what a follower is told of the commit index."""

import pytest

from balancer.raft.message import Heartbeat, HeartbeatReply, Message
from tests.unit.raft.messages import appended, beat, beaten
from tests.unit.raft.network import alone, entries_of, taken
from tests.unit.raft.test_commit import leader


def test_they_come_at_their_pace_to_everybody() -> None:
    member = leader(voters=(1, 2, 3, 4))
    sent: list[Message] = []
    member.send = sent.append
    member.node._core.heartbeat_ticks = 3
    for _ in range(9):
        member.node.tick()
        member.work()
    beats = [each.to for each in sent if isinstance(each, Heartbeat)]
    assert beats == [2, 3, 4] * 3


@pytest.mark.parametrize(("match", "told"), [(0, 0), (1, 1), (2, 2), (3, 2)])
def test_a_peer_is_told_no_more_than_its_log_is_known_to_reach(match: int, told: int) -> None:
    member = leader(voters=(1, 2, 3, 4, 5))
    member.node.propose(b"a")
    member.node.propose(b"b")
    member.work()
    for sender in (3, 4):
        member.node.step(appended(1, 2, sender=sender))
    member.node.step(appended(1, match))
    sent: list[Message] = []
    member.send = sent.append
    member.node.tick()
    member.take()
    assert [each.commit for each in sent if isinstance(each, Heartbeat) and each.to == 2] == [told]


def test_a_follower_commits_what_it_is_told_and_answers_with_what_it_was_asked() -> None:
    member, sent = alone(terms=[1, 1])
    member.node.step(beat(1, commit=2, read_id=7))
    member.work()
    assert member.state.index == 2
    assert [(each.term, each.read_id) for each in sent if isinstance(each, HeartbeatReply)] == [(1, 7)]


def test_the_answer_does_not_wait_for_a_slow_disk() -> None:
    member, sent = alone()
    member.node.step(beat(1))
    member.work()
    taken(sent)
    member.node._core.log.append(entries_of([1]))  # something to write
    member.node.step(beat(1))
    member.take()
    assert [type(each) for each in sent] == [HeartbeatReply]


def test_the_answer_waits_until_its_term_is_on_the_disk() -> None:
    member, sent = alone()
    member.node.step(beat(4))
    member.take()
    assert not sent
    member.sync()
    assert [type(each) for each in sent] == [HeartbeatReply]


def test_an_answer_of_a_peer_that_lacks_something_leads_to_a_question() -> None:
    member = leader()
    sent: list[Message] = []
    member.send = sent.append
    member.node.step(appended(1, 1))
    member.node.propose(b"a")
    member.work()
    taken(sent)
    member.node.step(beaten(1))
    member.take()
    (question,) = sent
    assert (question.previous_index, question.entries) == (2, ())
    taken(sent)
    member.node.step(appended(1, 2))
    member.work()
    taken(sent)
    member.node.step(beaten(1))
    assert not member.take()


def test_an_answer_of_a_stranger_is_ignored() -> None:
    member = leader()
    member.node.step(beaten(1, sender=9))
    assert not member.take()
