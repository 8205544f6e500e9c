"""Raft section 5.2 and 5.4.1, thesis 9.6, 6.2 and 4.2.3: one test per sentence, or nearly."""

import pytest

from balancer.raft.core import Role
from balancer.raft.log_entry import HardState
from balancer.raft.message import TimeoutNow, VoteReply, VoteRequest
from tests.unit.raft.messages import append, appended, beat, beaten, vote, vote_request
from tests.unit.raft.network import Member, Network, alone, taken


def replies(member: Member, sent: list[object]) -> list[tuple[int, bool, bool]]:
    """The votes it gave: term, granted, pre."""
    member.work()
    return [(each.term, each.granted, each.pre) for each in taken(sent) if isinstance(each, VoteReply)]  # type: ignore[arg-type]


def candidate(**options: object) -> tuple[Member, list]:
    """Member 1 of three as a candidate of term 1, with its vote on its disk."""
    member, sent = alone(**options)
    member.node.campaign()
    member.work()
    term = member.node.status().term
    member.node.step(vote(term + 1, pre=True))
    member.work()
    taken(sent)
    assert member.role is Role.CANDIDATE
    return member, sent


# "If a follower receives no communication over a period of time called the election timeout, then it assumes there is
# no viable leader and begins an election" (5.2).


def test_a_follower_asks_for_votes_when_it_hears_nobody_for_its_timeout() -> None:
    member, sent = alone()
    ticks = 0
    while member.role is Role.FOLLOWER:
        member.node.tick()
        ticks += 1
    assert 10 <= ticks <= 19
    member.work()
    assert [(type(each), each.to, each.term) for each in sent] == [(VoteRequest, 2, 1), (VoteRequest, 3, 1)]


def test_a_leaders_heartbeats_and_appends_keep_it_quiet() -> None:
    member, _ = alone()
    for turn in range(100):
        member.node.tick()
        if turn % 9 == 0:
            member.node.step(beat(1) if turn % 2 else append(1, (0, 0)))
    assert member.role is Role.FOLLOWER


def test_timeouts_are_spread_over_one_to_two_election_timeouts() -> None:
    drawn = set()
    member, _ = alone(election_ticks=5)
    for term in range(1, 200):
        member.node.step(beat(term))
        drawn.add(member.node._core.timeout)
    assert drawn == {5, 6, 7, 8, 9}


# "To begin an election, a follower increments its current term and transitions to candidate state. It then votes for
# itself" (5.2), after it asked whether it could win (9.6).


def test_a_pre_candidate_raises_no_term_and_gives_no_vote() -> None:
    member, _ = alone(hard_state=HardState(4, 2))
    member.node.campaign()
    member.work()
    status = member.node.status()
    assert (status.role, status.term, status.vote) == (Role.PRE_CANDIDATE, 4, 2)


def test_a_candidate_has_raised_its_term_and_voted_for_itself() -> None:
    member, _ = candidate(hard_state=HardState(4))
    assert (member.node.status().term, member.node.status().vote) == (5, 1)
    assert member.disk.hard_state == HardState(5, 1)


def test_a_candidate_asks_only_when_its_term_is_on_its_disk() -> None:
    member, sent = alone()
    member.node.campaign()
    member.work()
    member.node.step(vote(1, pre=True))
    taken(sent)
    while member.take():
        pass
    assert not sent
    member.sync()
    assert [(each.pre, each.term) for each in sent] == [(False, 1), (False, 1)]


# "A candidate wins an election if it receives votes from a majority of the servers in the full cluster for the same
# term" (5.2).


def test_a_candidate_wins_with_a_majority() -> None:
    member, _ = candidate()
    member.node.step(vote(1, sender=3))
    assert member.role is Role.LEADER


def test_a_vote_counts_once() -> None:
    member, _ = alone(voters=(1, 2, 3, 4, 5))
    member.node.campaign()
    for _ in range(3):
        member.node.step(vote(1, pre=True, sender=2))
    assert member.role is Role.PRE_CANDIDATE
    member.node.step(vote(1, pre=True, sender=3))
    member.work()
    for _ in range(3):
        member.node.step(vote(1, sender=2))
    assert member.role is Role.CANDIDATE
    member.node.step(vote(1, sender=3))
    assert member.role is Role.LEADER


def test_the_first_answer_of_a_voter_stands() -> None:
    member, _ = candidate()
    member.node.step(vote(1, granted=False, sender=2))
    member.node.step(vote(1, granted=True, sender=2))
    assert member.role is Role.CANDIDATE


def test_votes_of_another_term_or_kind_do_not_count() -> None:
    member, _ = candidate(hard_state=HardState(6))
    member.node.step(vote(6))
    member.node.step(vote(7, pre=True))
    member.node.step(vote(8, pre=True))
    assert (member.role, member.node.status().term) == (Role.CANDIDATE, 7)
    member.node.step(vote(7))
    assert member.role is Role.LEADER


def test_an_old_answer_to_an_earlier_pre_vote_does_not_count() -> None:
    member, _ = alone(hard_state=HardState(6))
    member.node.campaign()
    member.node.step(vote(6, pre=True))
    assert member.role is Role.PRE_CANDIDATE


def test_answers_of_learners_and_strangers_do_not_count() -> None:
    member, _ = alone(learners=(4,))
    member.node.campaign()
    member.node.step(vote(1, pre=True, sender=4))
    member.node.step(vote(1, pre=True, sender=9))
    assert member.role is Role.PRE_CANDIDATE


def test_a_candidate_that_a_majority_refuses_follows() -> None:
    member, _ = candidate()
    member.node.step(vote(1, granted=False, sender=2))
    member.node.step(vote(1, granted=False, sender=3))
    assert member.role is Role.FOLLOWER


def test_its_own_vote_counts_when_it_is_on_the_disk() -> None:
    member, _ = alone()
    member.node.campaign()
    member.node.step(vote(1, pre=True))
    member.node.step(vote(1))
    member.take()
    assert member.role is Role.CANDIDATE
    member.sync()
    assert member.role is Role.LEADER


# "Each server will vote for at most one candidate in a given term, on a first-come-first-served basis" (5.2).


def test_one_vote_per_term() -> None:
    member, sent = alone()
    member.node.step(vote_request(1, (0, 0), sender=2))
    member.node.step(vote_request(1, (5, 1), sender=3))
    assert replies(member, sent) == [(1, True, False), (1, False, False)]


def test_a_repeated_request_gets_the_same_answer() -> None:
    member, sent = alone()
    member.node.step(vote_request(1, (0, 0), sender=2))
    member.node.step(vote_request(1, (0, 0), sender=2))
    assert replies(member, sent) == [(1, True, False), (1, True, False)]


def test_a_new_term_brings_a_new_vote() -> None:
    member, sent = alone()
    member.node.step(vote_request(1, (0, 0), sender=2))
    member.node.step(vote_request(2, (0, 0), sender=3))
    assert replies(member, sent) == [(1, True, False), (2, True, False)]


def test_the_vote_outlives_a_crash() -> None:
    member, sent = alone()
    member.node.step(vote_request(1, (0, 0), sender=2))
    member.work()
    taken(sent)
    member.crash()
    member.node.step(vote_request(1, (0, 0), sender=3))
    assert replies(member, sent) == [(1, False, False)]


def test_a_candidate_and_a_leader_vote_for_nobody_else_in_their_term() -> None:
    member, sent = candidate()
    member.node.step(vote_request(1, (9, 1), sender=3))
    assert replies(member, sent) == [(1, False, False)]
    member.node.step(vote(1))
    member.node.step(vote_request(1, (9, 1), sender=3))
    assert replies(member, sent) == [(1, False, False)]


def test_a_granted_vote_restarts_the_timer_and_a_refused_one_does_not() -> None:
    member, _ = alone(terms=[1])
    for granted, last in ((False, (0, 0)), (True, (1, 1))):
        for _ in range(5):
            member.node.tick()
        before = member.node._core.elapsed
        member.node.step(vote_request(member.node.status().term, last))
        assert (member.node._core.elapsed == 0) is granted
        assert before


# "The RequestVote RPC implements this restriction: the voter denies its vote if its own log is more up-to-date than
# that of the candidate" (5.4.1).


@pytest.mark.parametrize(
    ("last", "granted"),
    [((3, 2), True), ((4, 2), True), ((1, 3), True), ((2, 2), False), ((9, 1), False), ((0, 0), False)],
)
@pytest.mark.parametrize("pre", [True, False])
def test_only_a_log_that_lacks_nothing_gets_the_vote(last: tuple[int, int], granted: bool, pre: bool) -> None:
    member, sent = alone(terms=[1, 2, 2])
    member.node.step(vote_request(5, last, pre=pre))
    term = 5 if granted or not pre else 2
    assert replies(member, sent) == [(term, granted, pre)]


# "While waiting for votes, a candidate may receive an AppendEntries RPC from another server claiming to be leader. If
# the leader's term is at least as large as the candidate's current term, then the candidate recognizes the leader".


@pytest.mark.parametrize("term", [1, 2])
def test_a_candidate_follows_a_leader_of_its_term_or_a_later_one(term: int) -> None:
    member, _ = candidate()
    member.node.step(append(term, (0, 0)))
    assert (member.role, member.node.status().leader, member.node.status().term) == (Role.FOLLOWER, 2, term)


# "If the term in the RPC is smaller than the candidate's current term, then the candidate rejects the RPC" (5.2).


def test_a_leader_of_an_earlier_term_is_not_followed_but_told() -> None:
    member, sent = candidate(hard_state=HardState(3))
    member.node.step(append(2, (0, 0)))
    member.node.step(beat(3))
    member.work()
    assert member.role is Role.CANDIDATE
    assert [(each.term, each.rejected) for each in sent] == [(4, True), (4, True)]


# "If a candidate or leader discovers that its term is out of date, it immediately reverts to follower state" (5.1).


@pytest.mark.parametrize("message", [appended(9, 0), beaten(9), vote(9, granted=False), vote_request(9, (9, 9))])
def test_a_higher_term_makes_a_follower(message: object) -> None:
    member, _ = candidate()
    member.node.step(message)  # type: ignore[arg-type]
    assert (member.role, member.node.status().term) == (Role.FOLLOWER, 9)


def test_a_refused_pre_vote_tells_of_a_higher_term() -> None:
    member, sent = alone(hard_state=HardState(7))
    member.node.step(vote_request(5, (9, 9), pre=True))
    assert replies(member, sent) == [(7, False, True)]
    other, _ = alone(hard_state=HardState(4))
    other.node.campaign()
    other.node.step(vote(7, granted=False, pre=True))
    assert (other.role, other.node.status().term) == (Role.FOLLOWER, 7)


def test_a_pre_vote_changes_nothing_on_the_voter() -> None:
    member, sent = alone(hard_state=HardState(4, 3))
    member.node.tick()
    member.node.step(vote_request(5, (0, 0), pre=True))
    member.node.step(vote_request(9, (0, 0), pre=True, sender=3))
    assert replies(member, sent) == [(5, True, True), (9, True, True)]
    core = member.node._core
    assert (core.term, core.vote, core.elapsed) == (4, 3, 1)


# "If a server receives a RequestVote request within the minimum election timeout of hearing from a current leader, it
# does not update its term or grant its vote" (thesis 4.2.3).


@pytest.mark.parametrize("pre", [True, False])
def test_who_hears_a_leader_ignores_requests_for_votes(pre: bool) -> None:
    member, sent = alone()
    member.node.step(beat(1))
    for _ in range(9):
        member.node.tick()
    member.node.step(vote_request(5, (9, 9), sender=3, pre=pre))
    assert replies(member, sent) == []
    assert member.node.status().term == 1


def test_who_hears_none_for_an_election_timeout_votes() -> None:
    member, sent = alone()
    member.node.step(beat(1))
    for _ in range(10):
        member.node.tick()
    member.node.step(vote_request(5, (9, 9), sender=3))
    assert replies(member, sent) == [(5, True, False)]


def test_who_was_told_that_its_leader_is_gone_votes_at_once() -> None:
    member, sent = alone()
    member.node.step(beat(1))
    member.node.forget_leader()
    member.node.step(vote_request(5, (9, 9), sender=3))
    assert replies(member, sent) == [(5, True, False)]


def test_a_request_that_the_leader_wished_for_is_heard() -> None:
    member, sent = alone()
    member.node.step(beat(1))
    member.node.step(vote_request(2, (0, 0), sender=3, transfer=True))
    assert replies(member, sent) == [(2, True, False)]


def test_a_learner_never_campaigns_and_votes_when_asked() -> None:
    member, sent = alone(voters=(2, 3), learners=(1,))
    for _ in range(100):
        member.node.tick()
    member.node.campaign()
    member.node.step(TimeoutNow(sender=2, to=1, term=0))
    assert (member.role, member.node.status().term) == (Role.FOLLOWER, 0)
    member.node.step(vote_request(1, (0, 0)))
    assert replies(member, sent) == [(1, True, False)]


def test_who_may_not_campaign_still_sees_that_its_leader_is_gone() -> None:
    member, _ = alone(voters=(2, 3), learners=(1,))
    member.node.step(beat(1))
    for _ in range(20):
        member.node.tick()
    assert member.node.status().leader == 0


def test_a_leader_that_hears_from_no_majority_steps_down() -> None:
    network = Network((1, 2, 3, 4, 5))
    network.elect(1)
    network.isolate(1, 2)
    network.tick(20, 1)
    assert network[1].role is Role.FOLLOWER


def test_a_leader_that_hears_from_a_majority_stays() -> None:
    network = Network((1, 2, 3, 4, 5))
    network.elect(1)
    network.isolate(1, 2, 3)
    network.tick(100, 1, 2, 3)
    assert network[1].role is Role.LEADER
    assert network[1].node.status().term == 1


def test_learners_are_no_majority() -> None:
    network = Network((1, 2, 3), (4, 5))
    network.elect(1)
    network.isolate(1, 4, 5)
    network.tick(20, 1, 4, 5)
    assert network[1].role is Role.FOLLOWER


def test_a_voter_and_a_candidate_learn_from_each_other_what_is_committed() -> None:
    member, sent = alone(terms=[1, 1, 1], hard_state=HardState(1, 0, 1))
    member.node.step(vote_request(2, (2, 1), commit=2, commit_term=1))
    assert member.node.status().commit == 2
    member.work()
    refusal = next(each for each in sent if isinstance(each, VoteReply))
    assert (refusal.granted, refusal.commit, refusal.commit_term) == (False, 1, 1)  # as it was when it was asked
    member.node.campaign()
    member.node.step(vote(2, granted=False, pre=True, commit=3, commit_term=1))
    assert member.node.status().commit == 3


def test_what_is_committed_elsewhere_is_not_learned_of_another_entry_there() -> None:
    member, _ = alone(terms=[1, 1, 1], hard_state=HardState(3, 0, 1))
    for index, term in ((3, 2), (4, 1), (4, -1), (3, 0)):
        member.node.step(vote_request(3, (0, 0), commit=index, commit_term=term))
    assert member.node.status().commit == 1
