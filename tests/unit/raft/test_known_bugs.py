"""Bugs that other implementations of Raft had, one test or more for each that concerns the core. The numbers are those
of the list of known bugs that are planted to see whether the tests find them.
"""

from random import Random

import pytest

from balancer.raft.core import Role
from balancer.raft.limits import Limits
from balancer.raft.log_entry import Entry, EntryKind, HardState, Membership, SnapshotMark
from balancer.raft.membership import encode
from balancer.raft.message import AppendReply, Heartbeat, Message, ReadIndexReply, VoteReply
from balancer.raft.refusals import MembershipRefusedError, SafetyBrokenError
from tests.unit.raft.memory import Disk, State, records_of
from tests.unit.raft.messages import append, appended, beat, beaten, chunk, rejected, vote, vote_request
from tests.unit.raft.network import Member, Network, Node, alone, entries_of, taken
from tests.unit.raft.test_commit import leader

# 1: term or vote not persisted, or not in one write (PySyncObj 202, hashicorp/raft 661).


@pytest.mark.parametrize(
    "records", [0, 1, 2, 3, None], ids=lambda records: "all and sent" if records is None else records
)
def test_bug_01_a_crash_at_any_point_of_the_write_never_leads_to_a_second_vote(records: int | None) -> None:
    member, sent = alone()
    member.node.step(vote_request(1, (0, 0), sender=2))
    member.take()
    if records is None:
        member.sync()
    member.crash(records or 0)
    promised = [each.to for each in taken(sent) if isinstance(each, VoteReply) and each.granted]
    member.node.step(vote_request(1, (0, 0), sender=3))
    member.work()
    promised += [each.to for each in taken(sent) if isinstance(each, VoteReply) and each.granted]
    assert len(promised) <= 1


def test_bug_01_term_and_vote_are_written_as_one_record() -> None:
    member, _ = alone()
    member.node.step(vote_request(4, (0, 0), sender=2))
    ready = member.node.ready()
    assert ready is not None
    assert records_of(ready) == [HardState(4, 2)]


def test_bug_01_a_vote_is_not_sent_before_it_is_on_the_disk() -> None:
    member, sent = alone()
    member.node.step(vote_request(1, (0, 0), sender=2))
    member.take()
    assert sent == []
    member.sync()
    assert [each.granted for each in sent if isinstance(each, VoteReply)] == [True]


def test_bug_01_a_candidate_asks_nobody_before_its_own_vote_is_on_the_disk() -> None:
    """Elected by others alone, it could crash, forget, and begin the same term again with another log."""
    member, sent = alone(voters=(1, 2, 3, 4, 5))
    member.node.campaign()
    for sender in (2, 3):
        member.node.step(vote(1, pre=True, sender=sender))
    taken(sent)
    while member.take():
        pass
    assert [each for each in sent if not getattr(each, "pre", False)] == []


# 2: acknowledged before fsync (PySyncObj 84, etcd 14370, NATS 2.12.1).


def test_bug_02_an_entry_is_not_acknowledged_before_it_is_on_the_disk() -> None:
    member, sent = alone()
    member.node.step(append(1, (0, 0), entries_of([1])))
    member.take()
    assert sent == []
    member.crash()
    assert member.log == []


def test_bug_02_a_single_member_commits_nothing_before_it_is_on_the_disk() -> None:
    member, _ = alone((1,))
    member.node.campaign()
    member.work()
    member.node.propose(b"a")
    member.take()
    assert not member.take()
    assert member.node.status().commit == 1


def test_bug_02_a_leader_does_not_count_its_own_entry_before_it_is_on_the_disk() -> None:
    member = leader()
    member.node.step(appended(1, 1))
    member.work()
    member.node.propose(b"a")
    member.take()
    member.node.step(appended(1, 2))
    assert member.node.status().commit == 1


# 3: the whole suffix truncated by a late AppendEntries (PySyncObj, RaftOS 26, WRaft 118).


@pytest.mark.parametrize("late", [append(1, (0, 0)), append(1, (1, 1), entries_of([1], first=2)), append(1, (3, 1))])
def test_bug_03_a_late_append_takes_nothing_away_that_was_acknowledged(late: object) -> None:
    member, sent = alone()
    member.node.step(append(1, (0, 0), entries_of([1, 1, 1, 1, 1])))
    member.work()
    assert [each.index for each in taken(sent) if isinstance(each, AppendReply)] == [5]
    member.node.step(late)  # type: ignore[arg-type]
    member.work()
    assert len(member.log) == len(member.disk.entries) == 5


# 4: match or commit index goes back (RaftOS 25, PySyncObj 166 and 167, raft.tla 18 and 19).


def test_bug_04_match_index_and_commit_index_never_go_back() -> None:
    rng = Random(4)
    member = leader(voters=(1, 2, 3, 4, 5))
    for _ in range(20):
        member.node.propose(b"x")
    member.work()
    highest: dict[int, int] = {}
    commit = 0
    for _ in range(300):
        sender, index = rng.randrange(2, 6), rng.randrange(22)
        match rng.randrange(3):
            case 0:
                member.node.step(appended(1, index, sender=sender))
            case 1:
                member.node.step(rejected(1, index, (rng.randrange(index + 1), rng.randrange(2)), sender=sender))
            case _:
                member.node.step(beaten(1, sender=sender))
        member.work()
        status = member.node.status()
        for peer in status.peers:
            assert peer.match >= highest.get(peer.id, 0)
            assert peer.match < peer.next
            highest[peer.id] = peer.match
        assert status.commit >= commit
        commit = status.commit


def test_bug_04_a_follower_commits_nothing_that_it_may_not_share_with_its_leader() -> None:
    member, _ = alone(terms=[1, 1, 1])  # 2 and 3 are of a leader that was deposed
    member.node.step(append(2, (1, 1), commit=3))
    assert member.node.status().commit == 1


def test_bug_04_heartbeats_tell_no_peer_more_than_it_is_known_to_hold() -> None:
    member = leader()
    member.node.propose(b"a")
    member.work()
    member.node.step(appended(1, 2, sender=2))
    member.work()
    sent: list[object] = []
    member.send = sent.append
    member.node.tick()
    member.work()
    assert {each.to: each.commit for each in sent if type(each).__name__ == "Heartbeat"} == {2: 2, 3: 0}  # type: ignore[attr-defined]


# 5: entries of an older term committed by counting (LogCabin 44, PySyncObj 169).


def test_bug_05_an_older_terms_entry_on_a_majority_is_not_committed_by_that() -> None:
    member = leader(terms=(1, 1))
    member.node.step(appended(2, 2, sender=2))
    member.node.step(appended(2, 2, sender=3))
    assert member.node.status().commit == 0


# 6: two leaders in one term; votes counted twice; a leader that votes for others (Xraft 33, PySyncObj, DaosRaft 70).


def test_bug_06_a_vote_that_comes_twice_counts_once() -> None:
    member, _ = alone(voters=(1, 2, 3, 4, 5))
    member.node.campaign()
    member.node.step(vote(1, pre=True, sender=2))
    member.node.step(vote(1, pre=True, sender=2))
    assert member.role is Role.PRE_CANDIDATE


@pytest.mark.parametrize("role", [Role.CANDIDATE, Role.LEADER])
def test_bug_06_who_voted_for_itself_votes_for_nobody_else(role: Role) -> None:
    member, sent = alone()
    member.node.campaign()
    member.node.step(vote(1, pre=True))
    member.work()
    if role is Role.LEADER:
        member.node.step(vote(1))
        member.work()
    taken(sent)
    member.node.step(vote_request(1, (9, 9), sender=3))
    member.work()
    assert member.role is role
    assert [each.granted for each in sent if isinstance(each, VoteReply)] == [False]


def test_bug_06_a_second_leader_of_a_term_is_not_followed() -> None:
    member, _ = alone()
    member.node.step(beat(1, sender=2))
    with pytest.raises(SafetyBrokenError):
        member.node.step(beat(1, sender=3))


# 7: a reply without term, so that an old one is taken for a new one (PySyncObj).


def test_bug_07_answers_to_a_leader_of_before_say_nothing_to_the_leader_of_now() -> None:
    member = leader(terms=(1, 1))
    member.node.step(appended(1, 2, sender=2))
    member.node.step(beaten(1, 1, sender=2))
    member.node.step(vote(1, sender=2))
    assert [peer.match for peer in member.node.status().peers] == [0, 0]


def test_bug_07_a_refusal_says_which_question_it_answers() -> None:
    member = leader(terms=(1, 1, 1))
    member.node.step(rejected(2, 3, (1, 1), sender=2))
    assert member.node.status().peers[0].next == 2
    member.node.step(rejected(2, 3, (0, 0), sender=2))  # the same question, answered twice
    assert member.node.status().peers[0].next == 2


def test_bug_07_votes_of_an_election_of_before_do_not_elect() -> None:
    member, _ = alone()
    for term in (1, 2):
        member.node.campaign()
        member.node.step(vote(term, pre=True))
        member.work()
        if term == 1:
            for _ in range(20):
                member.node.tick()
    assert (member.role, member.node.status().term) == (Role.CANDIDATE, 2)
    member.node.step(vote(1))
    assert member.role is Role.CANDIDATE


# 8: stale reads: no entry of the own term, before the first commit, a ReadIndex id used twice, a lease and a pause
# (RedisRaft 22, etcd 7331 and 20418, Consul and etcd in 2014, Xraft 40).


def test_bug_08_a_leader_begins_its_term_with_an_entry() -> None:
    member = leader(terms=(1,))
    assert [entry[1:] for entry in member.log][-1] == (2, b"")


def test_bug_08_a_new_leader_answers_no_read_before_its_first_commit() -> None:
    member, _ = alone(terms=(1, 1), hard_state=HardState(1, 0, 1))  # the leader before may have committed the second
    member.node.campaign()
    member.node.step(vote(2, pre=True))
    member.work()
    member.node.step(vote(2))
    member.work()
    assert member.role is Role.LEADER
    member.node.read_index()
    for _ in range(3):
        member.node.tick()
        member.work()
        for position in range(3):
            member.node.step(beaten(2, position, sender=2))
            member.node.step(beaten(2, position, sender=3))
        member.work()
    assert member.reads == []


def test_bug_08_a_late_answer_does_not_confirm_a_later_read() -> None:
    member = leader()
    member.node.step(appended(1, 1))
    member.work()
    sent: list[Message] = []
    member.send = sent.append
    earlier = {0}
    for _ in range(3):
        member.reads.clear()
        member.node.read_index()
        member.work()
        asked = {each.read_id for each in taken(sent) if isinstance(each, Heartbeat)}
        for late in sorted(earlier):
            member.node.step(beaten(1, late, sender=2))
            member.node.step(beaten(1, late, sender=3))
        member.work()
        assert member.reads == []
        member.node.step(beaten(1, max(asked), sender=2))
        member.work()
        assert len(member.reads) == 1
        earlier |= asked


def test_bug_08_a_followers_ids_are_not_used_again_after_a_restart() -> None:
    member, _ = alone()
    member.node.step(beat(1))
    old = member.node.read_index()
    member.work()
    member.crash()
    member.node.step(beat(1))
    member.node.read_index()
    member.work()
    member.node.step(ReadIndexReply(sender=2, to=1, term=1, read_id=old, index=5))
    member.work()
    assert member.reads == []


def test_bug_08_a_leader_that_was_paused_does_not_answer_by_the_clock() -> None:
    network = Network()
    network.elect(1)
    network.isolate(1)
    network.elect(2)
    network.node(2).propose(b"new")
    network.settle()
    assert network[1].role is Role.LEADER  # it does not know better
    network.node(1).read_index()
    network.settle()
    assert network[1].reads == []


# 9: snapshot and log do not fit, the wrong membership, two snapshots (RedisRaft 43, scylladb 9551, etcd 18055,
# PySyncObj 133).


def test_bug_09_the_membership_of_a_snapshot_takes_the_place_of_the_own() -> None:
    member, _ = alone()
    entry = Entry(1, 1, EntryKind.MEMBERSHIP, encode(Membership((1, 2, 3), (9,))))
    member.node.step(append(1, (0, 0), (entry,)))  # never committed
    mark = SnapshotMark(5, 2, Membership((1, 4, 5)))
    data = State(index=5).dump()
    member.node.step(chunk(2, mark, data, 0, len(data)))
    member.work()
    assert member.node.status().membership == Membership((1, 4, 5))
    assert member.node._core.log.membership_indexes == []
    member.crash()
    assert member.node.status().membership == Membership((1, 4, 5))


def test_bug_09_the_log_goes_on_exactly_after_the_snapshot() -> None:
    network = Network()
    network.elect(1)
    for turn in range(10):
        network.node(1).propose(b"%d" % turn)
        network.settle()
        network[1].snapshot()
        network[2].snapshot()
        network[1].sync()
        network[2].sync()
        network[2].crash()
        network[2].work()
        assert network[2].node._core.log.base_term == network[2].disk.mark.term
        network.tick()
        assert network[2].state == network[1].state


def test_bug_09_a_snapshot_is_named_after_what_was_applied_whatever_is_committed() -> None:
    member, _ = alone(limits=Limits(committed_bytes_max=1))
    member.node.step(append(1, (0, 0), entries_of([1, 1, 1]), commit=3))
    while member.take():
        assert member.node.applied_mark().index == member.state.index
        member.apply()
        assert member.node.applied_mark().index == member.state.index
    assert member.state.index == 3


def test_bug_09_two_snapshots_that_end_at_the_same_entry_are_not_mixed() -> None:
    member, _ = alone()
    mark = SnapshotMark(5, 1, Membership((1, 2, 3)))
    one, other = State(index=5, padding=b"a" * 50).dump(), State(index=5, padding=b"b" * 50).dump()
    member.node.step(chunk(1, mark, one[:40], 0, len(one)))
    member.node.step(chunk(2, mark, other[40:], 40, len(other), sender=3))
    member.work()
    assert member.node.status().last_index == 0
    member.node.step(chunk(2, mark, other[:40], 0, len(other), sender=3))
    member.node.step(chunk(2, mark, other[40:], 40, len(other), sender=3))
    member.work()
    assert member.state.padding == b"b" * 50


def test_bug_09_an_older_snapshot_takes_nothing_back() -> None:
    member, _ = alone(terms=[1] * 9, limits=Limits(kept_entries_max=0))
    member.node.step(beat(1, commit=8))
    member.work()
    member.snapshot()
    member.sync()
    data = State(index=5).dump()
    member.node.step(chunk(2, SnapshotMark(5, 1, Membership((9,))), data, 0, len(data)))
    member.work()
    assert (member.node.status().commit, member.state.index, len(member.log)) == (8, 8, 1)
    assert member.node.status().membership == Membership((1, 2, 3))


# 10: a change of one member without a commit in the own term; changes and partitions that lose updates (the thesis's
# erratum, RedisRaft 17).


def test_bug_10_no_change_before_an_entry_of_the_own_term_is_committed() -> None:
    member, _ = alone(voters=(1, 2, 3, 4), terms=(1,), hard_state=HardState(1, 0, 1))
    member.work()
    member.node.campaign()
    for sender in (2, 3):
        member.node.step(vote(2, pre=True, sender=sender))
    member.work()
    for sender in (2, 3):
        member.node.step(vote(2, sender=sender))
    member.work()
    with pytest.raises(MembershipRefusedError):
        member.node.propose_membership(Membership((1, 2, 3)))


def test_bug_10_the_end_of_a_write_that_a_crash_tore_off_does_not_hide_what_is_committed() -> None:
    """Two memberships in the log: whoever wrote the second had applied the first. Not to know it would mean to
    campaign by a membership that is two changes old."""
    entries = [
        *entries_of([1]),
        Entry(2, 1, EntryKind.MEMBERSHIP, encode(Membership((1, 2, 3, 4)))),
        Entry(3, 1, EntryKind.MEMBERSHIP, encode(Membership((1, 2, 3, 4, 5)))),
    ]
    member, _ = alone()
    member.node.step(append(1, (0, 0), entries, commit=2))
    member.take()
    member.crash(records_kept=3)  # the entries, not the commit index
    assert member.node.status().commit == 2
    member.node.campaign()
    assert member.role is Role.FOLLOWER
    member.work()
    assert member.node.status().membership == Membership((1, 2, 3, 4))


def test_bug_10_a_known_change_is_applied_before_campaigning() -> None:
    member, _ = alone()
    entry = Entry(1, 1, EntryKind.MEMBERSHIP, encode(Membership((1, 2, 3, 4))))
    member.node.step(append(1, (0, 0), (entry,), commit=1))
    member.node.forget_leader()
    member.node.campaign()
    assert member.role is Role.FOLLOWER


# 12: the commit index is newer than the log, so that it does not start (PySyncObj 197).


def test_bug_12_a_member_starts_after_a_crash_at_any_record() -> None:
    rng = Random(12)
    member, _ = alone()
    disk, states = Disk(mark=member.disk.mark), []
    term, last = 1, 0
    for _ in range(60):
        if rng.random() < 0.1:
            term += 1
        keep = rng.randrange(member.node.status().commit, last + 1)
        previous = member.node._core.log.term_at(keep)
        entries = entries_of([term] * rng.randrange(1, 4), first=keep + 1)
        member.node.step(append(term, (keep, previous), entries, commit=rng.randrange(keep, keep + 4)))
        last = member.node.status().last_index
        member.take()
        states += records_of(member.unsynced[-1])  # type: ignore[arg-type]
        member.sync()
        member.apply()
    for record in states:
        disk.write(record)
        node = Node(
            1,
            rng=rng,
            snapshots=member.snapshots,
            mark=disk.mark,
            hard_state=disk.hard_state,
            entries=disk.entries,
        )
        assert node.status().commit <= node.status().last_index


# 19: elections without end under partial partitions (Cloudflare in 2020, hashicorp/raft before 1.7).


def settled_after(network: Network, ticks: int) -> Member | None:
    """The leader after a while, if it is the same with no election in the second half of it."""
    network.tick(ticks // 2)
    term = max(member.node.status().term for member in network.members.values())
    network.tick(ticks // 2)
    leader = network.leader()
    same = leader is not None and leader.node.status().term == term
    return leader if same else None


LINKS = {
    "two that do not hear each other": [(1, 2), (2, 1)],
    "a leader that is not heard by one": [(1, 2)],
    "a leader that does not hear one": [(2, 1)],
    "a leader that hears nobody": [(2, 1), (3, 1)],
    "a leader that is heard by nobody": [(1, 2), (1, 3)],
    "a chain": [(1, 3), (3, 1)],
    "a ring": [(1, 2), (2, 3), (3, 1)],
}


@pytest.mark.parametrize("cut", LINKS.values(), ids=LINKS)
def test_bug_19_a_partial_partition_ends_with_one_leader_and_no_more_elections(cut: list[tuple[int, int]]) -> None:
    network = Network()
    network.elect(1)
    network.cut.update(cut)
    leader = settled_after(network, 300)
    if cut == LINKS["a ring"]:  # no two hear each other both ways: nobody can be elected, and nobody's term may rise
        assert leader is None
        assert max(member.node.status().term for member in network.members.values()) <= 2
        return
    assert leader is not None
    leader.node.propose(b"works")
    network.settle()
    assert leader.commands() == [b"works"]


def test_bug_19_one_that_comes_back_after_long_deposes_nobody() -> None:
    network = Network()
    network.elect(1)
    network.isolate(3)
    network.tick(200)
    network.heal()
    network.tick(50)
    assert network.leader() is network[1]
    assert {member.node.status().term for member in network.members.values()} == {1}


def test_bug_19_one_that_was_removed_and_does_not_know_it_deposes_nobody() -> None:
    network = Network()
    network.elect(1)
    network.isolate(3)
    network.node(1).propose_membership(Membership((1, 2)))
    network.settle()
    network.heal()
    network.tick(200)
    assert network.leader() is network[1]
    assert network.node(1).status().term == 1
