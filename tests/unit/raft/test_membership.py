"""Changes of the membership: thesis chapter 4, with the correction of 2015."""

import pytest

from balancer.raft.core import Role
from balancer.raft.limits import Limits
from balancer.raft.log_entry import EntryKind, HardState, Membership
from balancer.raft.membership import decode, encode
from balancer.raft.refusals import MembershipRefusedError, NotLeaderError, SafetyBrokenError
from tests.unit.raft.messages import append, appended, vote
from tests.unit.raft.network import Network, alone, entries_of
from tests.unit.raft.test_commit import leader


def change(network: Network, id: int, voters: tuple[int, ...], learners: tuple[int, ...] = ()) -> None:
    """Proposes it and lets it be applied."""
    network.node(id).propose_membership(Membership(voters, learners))
    network.settle()


@pytest.mark.parametrize(
    ("voters", "learners", "why"),
    [
        ((), (), "needs a voter"),
        ((1, 3, 2), (), "sorted"),
        ((1, 2, 2, 3), (), "sorted"),
        ((1, 2, 3), (5, 4), "sorted"),
        ((0, 1, 2, 3), (), "ids of members"),
        ((1, 2, 3), (2**63,), "ids of members"),
        ((1, 2, 3), (3,), "at once"),
        ((1,), (), "one at a time"),
        ((1, 2, 4), (), "one at a time"),
        ((1, 2, 3, 4, 5), (), "one at a time"),
        ((1, 2, 3, 4), (), "learner first"),
    ],
)
def test_what_is_no_single_change_is_refused(voters: tuple[int, ...], learners: tuple[int, ...], why: str) -> None:
    network = Network()
    network.elect(1)
    with pytest.raises(MembershipRefusedError, match=why):
        network.node(1).propose_membership(Membership(voters, learners))
    assert network.node(1).status().last_index == 1


def test_only_the_leader_changes_it() -> None:
    network = Network()
    network.elect(1)
    with pytest.raises(NotLeaderError):
        network.node(2).propose_membership(Membership((1, 2)))


def test_any_number_of_learners_may_come_and_go_with_one_voter() -> None:
    network = Network((1, 2, 3), (4, 5))
    network.elect(1)
    change(network, 1, (1, 2, 3, 4), (6, 7, 8))
    assert network.node(1).status().membership == Membership((1, 2, 3, 4), (6, 7, 8))
    change(network, 1, (1, 2, 4), (3,))
    assert network.node(4).status().membership == Membership((1, 2, 4), (3,))


def test_it_counts_from_when_it_is_applied() -> None:
    network = Network((1, 2, 3), (4,))
    network.elect(1)
    network.node(1).propose_membership(Membership((1, 2, 3, 4)))
    for _ in range(10):
        for id in (1, 2, 3, 4):
            network[id].take()
            network[id].sync()
        network.deliver()
    assert network.node(1).status().commit == 2
    assert network.node(1).status().membership == Membership((1, 2, 3), (4,))
    network[1].apply()
    assert network.node(1).status().membership == Membership((1, 2, 3, 4))


def test_one_change_is_applied_before_the_next_is_taken() -> None:
    network = Network((1, 2, 3), (4, 5))
    network.elect(1)
    network.node(1).propose_membership(Membership((1, 2, 3, 4), (5,)))
    with pytest.raises(MembershipRefusedError, match="not applied"):
        network.node(1).propose_membership(Membership((1, 2, 3, 5), (4,)))
    network.settle()
    change(network, 1, (1, 2, 3, 4, 5))


def test_a_new_leader_waits_until_what_it_inherited_is_applied() -> None:
    member = leader(terms=(1, 1))
    member.node.step(appended(2, 3))
    assert member.node.status().commit == 3
    with pytest.raises(MembershipRefusedError, match="not applied"):
        member.node.propose_membership(Membership((1, 2)))
    member.work()
    member.node.propose_membership(Membership((1, 2)))


def test_the_flaw_of_2015_a_leader_without_an_entry_of_its_own_term_committed_changes_nothing() -> None:
    member, _ = alone(terms=(1, 1), hard_state=HardState(1, 0, 2))
    member.work()  # everything it has is committed and applied
    member.node.campaign()
    member.node.step(vote(2, pre=True))
    member.work()
    member.node.step(vote(2))
    member.work()
    assert member.role is Role.LEADER
    with pytest.raises(MembershipRefusedError, match="its term"):
        member.node.propose_membership(Membership((1, 2)))
    member.node.step(appended(2, 3))
    member.work()
    member.node.propose_membership(Membership((1, 2)))


def test_a_learner_becomes_a_voter_when_it_has_nearly_all_of_the_log() -> None:
    network = Network((1, 2, 3), (4,), limits=Limits(promote_lag_max=2))
    network.elect(1)
    network.isolate(4)
    for _ in range(3):
        network.node(1).propose(b"x")
    network.settle()
    with pytest.raises(MembershipRefusedError, match="lacks 3 entries"):
        network.node(1).propose_membership(Membership((1, 2, 3, 4)))
    network.heal()
    network.tick(2)
    change(network, 1, (1, 2, 3, 4))
    assert network.node(4).status().membership.voters == (1, 2, 3, 4)


def test_one_that_joins_gets_the_log_and_then_knows_the_membership() -> None:
    network = Network()
    network.elect(1)
    network.node(1).propose(b"a")
    network.settle()
    network.add(4)
    change(network, 1, (1, 2, 3), (4,))
    assert network[4].state == network[1].state
    assert network.node(4).status().membership == Membership((1, 2, 3), (4,))
    change(network, 1, (1, 2, 3, 4))
    network.isolate(1, 2)
    network.tick(40, 3, 4)
    assert network.leader() is network[1]  # two of four elect nobody


def test_a_removed_leader_leads_until_that_is_committed() -> None:
    network = Network()
    network.elect(1)
    network.node(1).propose_membership(Membership((2, 3)))
    network[1].work()
    assert network[1].role is Role.LEADER
    network.settle()
    assert network[1].role is Role.FOLLOWER
    network.tick(40)
    assert network.leader() in (network[2], network[3])
    assert network[1].role is Role.FOLLOWER


def test_fewer_voters_may_commit_what_more_did_not() -> None:
    network = Network((1, 2, 3, 4))
    network.elect(1)
    network.isolate(4)
    network.node(1).propose_membership(Membership((1, 2, 3)))
    network.settle()
    network.isolate(3)
    network.node(1).propose(b"a")
    network.settle()
    assert network[1].commands() == [b"a"]


def test_a_commit_that_waited_for_the_removed_one_happens_with_its_removal() -> None:
    network = Network((1, 2, 3, 4))
    network.elect(1)
    network.node(1).propose_membership(Membership((1, 2, 3)))
    network.settle(1, 2, 3)
    network.isolate(3, 4)
    network.node(1).propose(b"a")
    network.settle()
    assert network[1].commands() == [b"a"]


def test_who_removed_itself_does_not_keep_the_others_from_electing_a_leader() -> None:
    network = Network((1, 2))
    network.elect(1)
    network.node(1).propose_membership(Membership((2,)))
    network[1].work()
    network.deliver()
    network[2].work()
    network.node(1).propose(b"only 1 has this")
    network.deliver()
    network[1].work()
    network.drop()
    assert network.node(1).status().last_index > network.node(2).status().last_index
    assert network.node(2).status().membership == Membership((1, 2))
    network.tick(60)
    assert network.leader() is network[2]


def test_nobody_campaigns_who_knows_of_a_change_that_it_did_not_apply() -> None:
    member, _ = alone()
    entries = entries_of([1])
    entries.append(type(entries[0])(2, 1, EntryKind.MEMBERSHIP, encode(Membership((1, 2, 3, 4)))))
    member.node.step(append(1, (0, 0), entries, commit=2))
    member.node.forget_leader()
    member.take()
    member.sync()
    member.node.campaign()
    assert member.role is Role.FOLLOWER
    member.apply()
    member.node.campaign()
    assert member.role is Role.PRE_CANDIDATE


def test_a_candidate_that_is_removed_gives_up() -> None:
    member, _ = alone()
    entries = entries_of([1])
    entries.append(type(entries[0])(2, 1, EntryKind.MEMBERSHIP, encode(Membership((2, 3)))))
    member.node.step(append(1, (0, 0), entries, commit=1))
    member.work()
    member.node.forget_leader()
    member.node.campaign()
    member.node._core.commit = 2
    member.work()
    assert member.role is Role.FOLLOWER


def test_a_membership_stays_over_a_crash() -> None:
    network = Network((1, 2, 3), (4,))
    network.elect(1)
    change(network, 1, (1, 2, 3, 4))
    network[4].crash()
    assert network.node(4).status().membership == Membership((1, 2, 3), (4,))
    network[4].work()
    assert network.node(4).status().membership == Membership((1, 2, 3, 4))


def test_an_encoded_membership_comes_back_and_another_is_not_guessed() -> None:
    membership = Membership((1, 2**63 - 1), (5,), b"addresses")
    assert decode(encode(membership)) == membership
    with pytest.raises(SafetyBrokenError):
        decode(b"\xc1")
