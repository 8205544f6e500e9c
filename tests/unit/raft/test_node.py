"""The member as its driver sees it: what goes in, what comes out, and what is refused."""

import pytest

from balancer.raft.core import Role
from balancer.raft.limits import ENTRY_OVERHEAD, Limits
from balancer.raft.log_entry import HardState, SnapshotMark
from balancer.raft.message import Message, TimeoutNow
from balancer.raft.ready import SoftState
from balancer.raft.refusals import BusyError, NotLeaderError, SafetyBrokenError
from tests.unit.raft.memory import Laws, MemorySnapshots
from tests.unit.raft.messages import append, appended, beat, beaten, vote, vote_request
from tests.unit.raft.network import Network, Node, Random, alone, entries_of, taken
from tests.unit.raft.test_commit import leader

# Ready.


def test_nothing_to_do_is_none() -> None:
    member, _ = alone()
    assert member.node.ready() is None
    member.node.tick()
    assert member.node.ready() is None


def test_readys_are_numbered_and_give_everything_once() -> None:
    member, _ = alone((1,))
    member.node.campaign()
    numbers = []
    while (ready := member.node.ready()) is not None:
        numbers.append(ready.number)
        member.node.persisted(ready.number)
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) == 3  # vote; first entry; committed


def test_entries_terms_and_votes_must_be_synced_and_a_commit_index_alone_not() -> None:
    member, _ = alone()
    member.node.step(append(1, (0, 0), entries_of([1])))
    assert member.node.ready().must_sync  # type: ignore[union-attr]
    member.node.step(beat(1, commit=1))
    ready = member.node.ready()
    assert ready is not None
    assert (ready.must_sync, ready.hard_state) == (False, HardState(1, 0, 1))
    member.node.step(vote_request(2, (1, 1), transfer=True))
    assert member.node.ready().must_sync  # type: ignore[union-attr]


def test_the_commit_index_is_never_given_before_the_entries_that_it_names() -> None:
    member, _ = alone()
    written = 0
    for first in range(1, 30, 3):
        previous = (first - 1, min(first - 1, 1))
        member.node.step(append(1, previous, entries_of([1, 1, 1], first=first), commit=first + 1))
        ready = member.node.ready()
        assert ready is not None
        assert ready.hard_state is not None
        written = ready.entries[-1].index
        assert ready.hard_state.commit <= written


def test_who_leads_is_told_when_it_changes() -> None:
    member, _ = alone()
    told = []
    for message in (beat(1), beat(1), beat(2, sender=3), vote_request(3, (0, 0), transfer=True)):
        member.node.step(message)
        ready = member.node.ready()
        told.append(ready.soft_state if ready else None)
    assert told == [SoftState(2, False), None, SoftState(3, False), SoftState(0, False)]


def test_committed_entries_come_in_bites() -> None:
    member, _ = alone(terms=[1] * 10, limits=Limits(committed_bytes_max=3 * (ENTRY_OVERHEAD + 4)))
    member.node.step(beat(1, commit=10))
    bites = []
    while (ready := member.node.ready()) is not None:
        bites.append([entry.index for entry in ready.committed])
    assert bites == [[1, 2, 3], [4, 5, 6], [7, 8, 9], [10]]


def test_committed_entries_come_in_order_without_gaps_over_a_restart() -> None:
    network = Network()
    network.elect(1)
    for turn in range(20):
        network.node(1).propose(b"%d" % turn)
        network.settle()
        network[2].crash()
        network.tick()
    assert network[2].state == network[1].state


# Inputs.


def test_a_proposal_tells_where_it_stands() -> None:
    network = Network()
    network.elect(1)
    proposed = [network.node(1).propose(b"a"), network.node(1).propose(b"b")]
    assert [(each.index, each.term) for each in proposed] == [(2, 1), (3, 1)]
    network.settle()
    assert [entry[2] for entry in network[3].log[1:]] == [b"a", b"b"]


def test_only_the_leader_takes_proposals_and_others_name_it() -> None:
    network = Network()
    with pytest.raises(NotLeaderError) as refused:
        network.node(2).propose(b"a")
    assert refused.value.leader == 0
    network.elect(1)
    with pytest.raises(NotLeaderError) as refused:
        network.node(2).propose(b"a")
    assert refused.value.leader == 1


def test_proposals_without_a_majority_are_bounded_in_bytes() -> None:
    network = Network(limits=Limits(uncommitted_bytes_max=10 * (ENTRY_OVERHEAD + 100)))
    network.elect(1)
    network.isolate(1)
    for _ in range(10):
        network.node(1).propose(b"x" * 100)
    with pytest.raises(BusyError):
        network.node(1).propose(b"")
    network.heal()
    network.tick(2)
    network.node(1).propose(b"x" * 100)


def test_a_state_machine_that_does_not_keep_up_is_given_no_more() -> None:
    member, _ = alone((1,), limits=Limits(backlog_max=5))
    member.node.campaign()
    member.work()
    for _ in range(5):
        member.node.propose(b"x")
    member.take()
    member.sync()
    member.take()
    with pytest.raises(BusyError, match="applied"):
        member.node.propose(b"x")
    member.apply()
    member.node.propose(b"x")


def test_a_proposal_that_no_frame_can_carry_is_refused() -> None:
    member = leader()
    with pytest.raises(BusyError, match="at most"):
        member.node.propose(b"x" * (Limits().proposal_bytes_max + 1))


def test_messages_that_are_not_for_this_member_or_pretend_to_be_its_own_are_ignored() -> None:
    member, sent = alone()
    request = vote_request(1, (0, 0))
    for sender, to in ((2, 3), (1, 1), (0, 1), (-1, 1)):
        member.node.step(type(request)(sender=sender, to=to, term=1, last_index=0, last_term=0))
    member.work()
    assert sent == []


@pytest.mark.parametrize(
    "message",
    [appended(0, 0), beaten(0), vote(0), vote_request(0, (9, 9)), TimeoutNow(sender=2, to=1, term=0)],
)
def test_what_an_earlier_term_brings_changes_nothing(message: Message) -> None:
    member, sent = alone(hard_state=HardState(3))
    member.node.step(message)
    member.work()
    assert sent == []
    assert (member.role, member.node.status().term) == (Role.FOLLOWER, 3)


def test_two_leaders_in_one_term_are_not_both_believed() -> None:
    member, _ = alone()
    member.node.step(beat(1, sender=2))
    with pytest.raises(SafetyBrokenError, match="both lead term 1"):
        member.node.step(beat(1, sender=3))
    other = leader()
    with pytest.raises(SafetyBrokenError, match="both lead term 1"):
        other.node.step(append(1, (0, 0)))


def test_a_driver_that_confirms_what_it_was_not_given_is_told() -> None:
    member, _ = alone()
    with pytest.raises(SafetyBrokenError):
        member.node.persisted(1)
    with pytest.raises(SafetyBrokenError):
        member.node.applied(1)


def test_confirming_twice_changes_nothing() -> None:
    member, _ = alone((1,))
    member.node.campaign()
    member.work()
    member.node.persisted(1)
    member.node.applied(1)
    member.node.applied(0)
    assert member.node.status().applied == 1


def test_a_heartbeat_must_fit_an_election_timeout() -> None:
    for ticks in ((5, 5), (5, 6), (5, 0)):
        with pytest.raises(ValueError, match="heartbeat"):
            Node(1, rng=Random(1), snapshots=MemorySnapshots(), election_ticks=ticks[0], heartbeat_ticks=ticks[1])


def test_one_that_joins_knows_nobody_and_waits() -> None:
    member, sent = alone(())
    for _ in range(100):
        member.node.tick()
    member.node.campaign()
    member.work()
    assert (sent, member.role) == ([], Role.FOLLOWER)


def test_the_status_shows_how_far_everybody_is() -> None:
    network = Network((1, 2, 3), (4,))
    network.elect(1)
    status = network.node(1).status()
    assert (status.role, status.leader, status.term, status.commit, status.applied) == (Role.LEADER, 1, 1, 1, 1)
    assert [(each.id, each.match, each.next, each.pace, each.voter) for each in status.peers] == [
        (2, 1, 2, "replicate", True),
        (3, 1, 2, "replicate", True),
        (4, 1, 2, "replicate", False),
    ]
    assert network.node(2).status().peers == ()


def test_the_same_inputs_give_the_same_outputs() -> None:
    def history() -> list[Message]:
        network = Network((1, 2, 3, 4, 5), (6, 7))
        seen: list[Message] = []
        for _ in range(60):
            for member in network.members.values():
                member.node.tick()
                member.work()
            seen += network.in_flight
            network.deliver()
        return seen

    assert history() == history()


def test_laws_are_kept_by_something() -> None:
    laws = Laws()
    member = leader()
    laws.watch(member.node)
    laws.leaders[1] = 2
    with pytest.raises(Exception, match="both lead"):
        laws.watch(member.node)


def test_a_snapshot_mark_names_what_was_applied() -> None:
    network = Network()
    network.elect(1)
    network.node(1).propose(b"a")
    network.settle()
    assert network.node(1).applied_mark() == SnapshotMark(2, 1, network.membership)


def test_a_leader_that_is_forgotten_is_followed_again_when_it_is_heard() -> None:
    member, sent = alone()
    member.node.step(beat(1))
    member.node.forget_leader()
    assert member.node.status().leader == 0
    member.node.step(beat(1))
    assert member.node.status().leader == 2
    taken(sent)
    other = leader()
    other.node.forget_leader()
    assert other.role is Role.LEADER
