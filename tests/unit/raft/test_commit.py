"""When an entry is committed: Raft section 5.3 and 5.4.2."""

import pytest

from balancer.raft import commit
from balancer.raft.core import Role
from balancer.raft.refusals import SafetyBrokenError
from tests.unit.raft.messages import append, appended, beat, vote
from tests.unit.raft.network import Member, Network, alone, entries_of


def leader(terms: tuple[int, ...] = (), voters: tuple[int, ...] = (1, 2, 3)) -> Member:
    """Member 1, just elected; its first entry is on its disk."""
    member, _ = alone(voters, terms=terms)
    member.node.campaign()
    for sender in voters[1:]:
        member.node.step(vote(member.node.status().term + 1, pre=True, sender=sender))
    member.work()
    for sender in voters[1:]:
        member.node.step(vote(member.node.status().term, sender=sender))
    member.work()
    assert member.role is Role.LEADER
    return member


def test_an_entry_is_committed_when_a_majority_has_it_on_its_disks() -> None:
    member = leader(voters=(1, 2, 3, 4, 5))
    member.node.step(appended(1, 1, sender=2))
    assert member.node.status().commit == 0
    member.node.step(appended(1, 1, sender=2))
    assert member.node.status().commit == 0
    member.node.step(appended(1, 1, sender=3))
    assert member.node.status().commit == 1


def test_a_leader_counts_itself_only_when_its_own_disk_has_the_entry() -> None:
    member = leader()
    member.node.propose(b"a")
    member.take()
    member.node.step(appended(1, 2, sender=2))
    assert member.node.status().commit == 1
    member.sync()
    assert member.node.status().commit == 2


def test_a_majority_of_followers_commits_before_the_leaders_own_disk_has_it() -> None:
    member = leader()
    member.node.propose(b"a")
    member.take()
    member.node.step(appended(1, 2, sender=2))
    member.node.step(appended(1, 2, sender=3))
    assert member.node.status().commit == 2
    member.take()
    member.apply()
    assert member.state.index == 2
    assert len(member.disk.entries) == 1


def test_a_single_member_commits_with_its_own_disk_and_not_before() -> None:
    member, _ = alone((1,))
    member.node.campaign()
    member.work()
    assert member.node.status().commit == 1
    member.node.propose(b"a")
    member.take()
    member.take()
    assert member.node.status().commit == 1
    member.sync()
    assert member.node.status().commit == 2


def test_an_entry_of_an_earlier_term_is_not_committed_by_counting() -> None:
    member = leader(terms=(1, 1))
    member.node.step(appended(2, 2, sender=2))
    member.node.step(appended(2, 2, sender=3))
    assert member.node.status().commit == 0
    member.node.step(appended(2, 3, sender=2))
    assert member.node.status().commit == 3


def test_learners_do_not_count() -> None:
    network = Network((1, 2, 3), (4, 5))
    network.elect(1)
    network.isolate(1, 4, 5)
    network.node(1).propose(b"a")
    network.settle()
    assert network.node(1).status().commit == 1


def test_followers_learn_the_commit_index_with_the_next_append() -> None:
    network = Network()
    network.elect(1)
    network.node(1).propose(b"a")
    network.settle()
    assert [member.node.status().commit for member in network.members.values()] == [2, 2, 2]
    assert [member.commands() for member in network.members.values()] == [[b"a"]] * 3


def test_a_follower_commits_no_further_than_the_entries_it_was_just_shown_to_share() -> None:
    member, _ = alone(terms=[1, 1, 1])
    member.node.step(append(2, (1, 1), commit=3))
    assert member.node.status().commit == 1
    member.node.step(append(2, (1, 1), entries_of([1], first=2), commit=9))
    assert member.node.status().commit == 2


def test_the_commit_index_never_goes_back() -> None:
    member, _ = alone(terms=[1, 1, 1])
    member.node.step(append(1, (3, 1), commit=3))
    member.node.step(append(1, (3, 1), commit=2))
    member.node.step(beat(1, commit=1))
    assert member.node.status().commit == 3


def test_a_member_that_lost_its_log_says_so() -> None:
    member, _ = alone()
    with pytest.raises(SafetyBrokenError, match="data directory"):
        member.node.step(beat(3, commit=5))


@pytest.mark.parametrize(("index", "may"), [(0, False), (1, False), (2, False), (3, True), (4, False), (-1, False)])
def test_only_entries_of_the_own_term_above_the_commit_index_may_be_committed(index: int, may: bool) -> None:
    member = leader(terms=(1, 1))
    member.node._core.commit = 1
    assert commit.may_commit(member.node._core, index) is may
