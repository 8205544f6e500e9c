"""Handing over leadership: thesis section 3.10."""

import pytest

from balancer.raft.core import Role
from balancer.raft.log_entry import Membership
from balancer.raft.message import TimeoutNow
from balancer.raft.refusals import NotLeaderError, TransferRefusedError, TransferringError
from tests.unit.raft.messages import beat
from tests.unit.raft.network import Network, alone


def test_the_other_leads_after_a_round_trip() -> None:
    network = Network()
    network.elect(1)
    network.node(1).transfer_leadership(3)
    network.settle()
    assert network.leader() is network[3]
    assert network[1].role is Role.FOLLOWER


def test_the_leader_takes_no_proposals_meanwhile() -> None:
    network = Network()
    network.elect(1)
    network.node(1).transfer_leadership(3)
    with pytest.raises(TransferringError) as refused:
        network.node(1).propose(b"a")
    assert refused.value.leader == 3
    with pytest.raises(TransferringError):
        network.node(1).propose_membership(Membership((1, 2)))


def test_the_other_is_told_only_when_it_has_all_of_the_log() -> None:
    network = Network()
    network.elect(1)
    network.node(1).propose(b"a")
    network.node(1).transfer_leadership(3)
    network[1].work()
    assert not [each for each in network.in_flight if isinstance(each, TimeoutNow)]
    network.settle()
    assert network.leader() is network[3]
    assert network[3].commands() == [b"a"]


def test_it_is_given_up_after_an_election_timeout() -> None:
    network = Network()
    network.elect(1)
    network.isolate(3)
    network.node(1).transfer_leadership(3)
    network.tick(9, 1, 2)
    assert network.node(1).status().transfer_to == 3
    network.tick(1, 1, 2)
    assert network.node(1).status().transfer_to == 0
    network.node(1).propose(b"a")


def test_a_later_wish_replaces_an_earlier_one() -> None:
    network = Network()
    network.elect(1)
    network.isolate(3)
    network.node(1).transfer_leadership(3)
    network.settle()
    network.node(1).transfer_leadership(2)
    network.settle(1, 2)
    assert network.leader() is network[2]


def test_to_itself_it_does_nothing() -> None:
    network = Network()
    network.elect(1)
    network.node(1).transfer_leadership(1)
    assert network.node(1).status().transfer_to == 0


def test_only_to_voters_and_only_by_the_leader() -> None:
    network = Network((1, 2, 3), (4,))
    network.elect(1)
    for other in (4, 9):
        with pytest.raises(TransferRefusedError):
            network.node(1).transfer_leadership(other)
    with pytest.raises(NotLeaderError) as refused:
        network.node(2).transfer_leadership(3)
    assert refused.value.leader == 1


def test_it_ends_when_the_other_is_no_voter_any_longer() -> None:
    network = Network((1, 2, 3, 4))
    network.elect(1)
    network.node(1).propose_membership(Membership((1, 2, 3)))
    network.isolate(4)
    network.node(1).transfer_leadership(4)
    network.settle()
    assert network.node(1).status().transfer_to == 0


def test_the_one_who_is_told_campaigns_without_asking_first() -> None:
    member, sent = alone()
    member.node.step(beat(1))
    member.node.step(TimeoutNow(sender=2, to=1, term=1))
    member.work()
    assert (member.role, member.node.status().term) == (Role.CANDIDATE, 2)
    assert [(each.pre, each.transfer) for each in sent[-2:]] == [(False, True)] * 2


def test_who_does_not_lead_cannot_tell_anybody() -> None:
    member, _ = alone()
    member.node.step(beat(1))
    member.node.step(TimeoutNow(sender=3, to=1, term=1))
    assert member.role is Role.FOLLOWER


def test_a_copy_that_comes_late_changes_nothing() -> None:
    network = Network()
    network.elect(1)
    network.node(1).transfer_leadership(3)
    network.settle()
    term = network.node(3).status().term
    network.node(3).step(TimeoutNow(sender=1, to=3, term=term - 1))
    network.node(2).step(TimeoutNow(sender=1, to=2, term=term - 1))
    network.settle()
    assert network.node(3).status().term == term
    assert network[3].role is Role.LEADER
