"""A simulator that finds nothing proves nothing: faults that are planted in the parts are found within a few seeds."""

from collections.abc import Callable, Sequence

import pytest

from balancer.consensus import read_rounds
from balancer.consensus.replica import Replica
from balancer.consensus.storage import Storage
from balancer.consensus.wal import Wal
from balancer.coordination import locks, sessions, waiters
from balancer.coordination.command import Command, encode
from balancer.coordination.leases import Leases
from balancer.coordination.lessor import Lessor
from balancer.coordination.requests import LeaseRevokeRequest
from balancer.coordination.snapshot import Reader
from balancer.coordination.state_machine import StateMachine
from balancer.raft import commit, election, read_index, snapshots
from balancer.raft.core import Core
from balancer.raft.quorum import agreed
from balancer.raft.ready import Ready, SoftState
from tests.simulation.cluster.world import HistoryFailedError, play

MOST = 40
"""Seeds that are tried."""


def found(*words: str) -> None:
    """Some history is refused, the first one for a reason with one of these words."""
    text = next(filter(None, map(failure, range(MOST))), "")
    assert any(word in text for word in words), text or f"not found in {MOST} histories"


def failure(seed: int) -> str:
    """Why this history is refused, "" = it is not."""
    try:
        play(seed)
    except HistoryFailedError as error:
        return str(error)
    return ""


def test_a_stale_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every member reads its own state at once."""
    monkeypatch.setattr(read_rounds.ReadRounds, "join", lambda rounds, turn, deadline: turn(None))
    found("was answered before")


def test_a_stale_read_by_a_leader_that_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    right = read_index.flush

    def trust(core: Core) -> bool:
        right(core)
        read_index._release(core, core.reads.position)
        return False

    monkeypatch.setattr(read_index, "flush", trust)
    found("was answered before", "and renewed after")


def test_a_lock_for_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    right = locks.claimed
    monkeypatch.setattr(locks, "claimed", lambda *given: (right(*given)[0], True))
    found("is held with token")


def test_a_lock_for_who_lost_his_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """etcd before PR 11408: the own key is not looked at when the one before is gone."""
    right = waiters.Waiters._judge

    def blind(own: waiters.Waiters, space: object, prefix: bytes) -> list[waiters.Verdict]:
        return [each._replace(standing=locks.Standing.HELD) for each in right(own, space, prefix)]  # type: ignore[arg-type]

    monkeypatch.setattr(waiters.Waiters, "_judge", blind)
    found("is given the lock, which is that of")


def test_an_acknowledgement_before_the_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Wal, "sync", lambda log: log.flush())
    found("was durable")


def test_a_vote_that_is_not_synced(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(storage: Storage, readys: Sequence[Ready]) -> None:
        for ready in readys:
            storage.append(ready.hard_state, ready.entries, ready.snapshot)
        if any(ready.entries or ready.snapshot for ready in readys):
            storage.sync()

    monkeypatch.setattr(Storage, "write", write)
    found("was durable")


def test_a_leader_that_counts_itself_before_its_disk_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """etcd issue 14370."""

    def hasty(core: Core) -> int:
        last, progress = core.log.last_index, core.progress
        return agreed([last if voter == core.id else progress[voter].match for voter in core.membership.voters])

    monkeypatch.setattr(commit, "quorum_match", hasty)
    found("the disks of")


def test_two_votes_in_one_term(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(election, "may_vote", lambda core, message: core.leader == 0)
    found("votes twice", "both lead", "votes for", "after HardState")


def test_a_leader_without_all_that_was_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("balancer.raft.log.Log.up_to_date", lambda *_: True)
    found("lacks the committed entry", "SafetyBrokenError")


def test_a_command_that_is_done_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions.Sessions, "recall", lambda *_: None)
    monkeypatch.setattr(sessions.Sessions, "keep", lambda *_: None)
    found("was written twice", "KeyError")


def test_a_state_that_depends_on_the_member(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here on what it was restored from: one that read a snapshot counts leases otherwise."""
    restored = Reader.finish

    def finish(reader: Reader) -> StateMachine:
        machine = restored(reader)
        machine.leases.grant = lambda lease, ttl: Leases.grant(machine.leases, lease, ttl + 1)  # type: ignore[method-assign]
        return machine

    monkeypatch.setattr(Reader, "finish", finish)
    found("came to something else")


def test_a_lease_that_ends_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new leader counts from the grant, as etcd did before it extended leases."""
    right: Callable[..., None] = Lessor.promote
    monkeypatch.setattr(Lessor, "promote", lambda own, leases, now, extend: right(own, leases, now - 2.0, 0.0))
    found("is due")


def test_a_revocation_by_a_leader_of_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """etcd issue 15247: who leads no more goes on to decide, and hands its decisions to who leads now."""
    right = Replica._another_leader

    def another_leader(replica: Replica, soft: SoftState) -> None:
        term = replica._lessor_term
        right(replica, soft)
        replica._lessor_term = term

    def expire(replica: Replica, lease: int) -> None:
        replica._carry(encode(Command(0, 0, 0, LeaseRevokeRequest(lease), decided_term=replica._lessor_term)), 0)

    monkeypatch.setattr(Lessor, "demote", lambda lessor: None)
    monkeypatch.setattr(Replica, "_another_leader", another_leader)
    monkeypatch.setattr(Replica, "_expire", expire)
    right_do = StateMachine._do  # which looks at `decided_term`, and so would keep all this from doing harm

    def obey(machine: StateMachine, command: Command) -> object:
        return right_do(machine, Command(0, 0, 0, command.request))

    monkeypatch.setattr(StateMachine, "_do", obey)
    found("is due")


def test_entries_of_earlier_terms_that_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raft figure 8."""
    monkeypatch.setattr(commit, "may_commit", lambda core, index: index > core.commit)
    found("of an earlier term")


def test_a_leader_that_reads_before_it_knows_what_is_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    """etcd issue 7331: no entry of its own term is committed yet."""
    monkeypatch.setattr(commit, "in_own_term", lambda core: True)
    found("was answered before", "and renewed after")


def test_a_snapshot_that_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known already is installed again."""
    monkeypatch.setattr(snapshots, "is_known", lambda core, mark: False)
    found("back to", "Safety", "ValueError", "OutOfOrder", "CorruptError", "healed for")
