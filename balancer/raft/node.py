"""One member of a cluster as a machine of decisions: inputs go in, `ready()` says what to do (see ready.py).

    node = Node(1, mark=mark, hard_state=hard_state, entries=entries, rng=Random(), snapshots=store)
    node.tick()                      # at a steady pace; timeouts count ticks
    node.step(message)               # what another member sent to this one
    node.propose(data)               # -> Proposed(index, term), or raises RefusedError
    node.read_index()                # -> an id that comes back in Ready.reads or Ready.refused_reads
    while (ready := node.ready()) is not None:
        ...                          # write, send, apply: in the order that ready.py demands
        node.persisted(ready.number)
        node.applied(ready.committed[-1].index)

Inputs decide at once and cost little; what can wait for others like it (Appends, rounds of heartbeats for reads) is
made in `ready()`, so that all inputs between two calls share it. A cluster begins with the same `mark` on all members:
index 0, term 0 and the first membership. One that joins begins with an empty membership and waits.

The rules stand in the modules beside this one, by topic: election, replication, commit, heartbeat, read_index,
transfer, membership, snapshots. They change the state in `Core` and know nothing of this module.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from balancer.raft import (
    commit,
    election,
    heartbeat,
    membership,
    read_index,
    replication,
    roles,
    snapshots,
    transfer,
)
from balancer.raft.core import Core, Reads, Role
from balancer.raft.durable import Durable
from balancer.raft.limits import ENTRY_OVERHEAD, Limits
from balancer.raft.log_entry import Entry, EntryKind, HardState, Membership, NodeId, SnapshotMark
from balancer.raft.message import (
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    Message,
    ReadIndexReply,
    ReadIndexRequest,
    SnapshotChunk,
    SnapshotReply,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from balancer.raft.ready import Ready, SnapshotStore, SoftState
from balancer.raft.refusals import BusyError, NotLeaderError, SafetyBrokenError, TransferringError
from balancer.raft.restore import restored_hard_state, restored_log
from balancer.raft.status import Status, status_of

if TYPE_CHECKING:
    from random import Random

_FROM_LEADER = (Append, Heartbeat, SnapshotChunk)
_TO_LEADER: dict[type, Callable[[Core, Any], None]] = {
    AppendReply: replication.on_append_reply,
    HeartbeatReply: heartbeat.on_heartbeat_reply,
    SnapshotReply: snapshots.on_reply,
}
_TO_ANYBODY: dict[type, Callable[[Core, Any], None]] = {
    Append: replication.on_append,
    Heartbeat: heartbeat.on_heartbeat,
    SnapshotChunk: snapshots.on_chunk,
    VoteRequest: election.on_vote_request,
    VoteReply: election.on_vote_reply,
    TimeoutNow: transfer.on_timeout_now,
    ReadIndexRequest: read_index.on_request,
    ReadIndexReply: read_index.on_reply,
}


class Proposed(msgspec.Struct, frozen=True, gc=False):
    """Where a proposal stands in the leader's log. It is accepted when the committed entry there has this term."""

    index: int
    term: int


class Node:
    """See the module. `rng` must differ between members, and between two lives of one (its ids of reads rest on it).

    `election_ticks`: the shortest election timeout T; the real ones are drawn from T to 2T - 1.
    """

    __slots__ = ("_core", "_given", "_number", "_soft")

    def __init__(
        self,
        id: NodeId,
        *,
        rng: "Random",
        snapshots: SnapshotStore,
        mark: SnapshotMark | None = None,
        hard_state: HardState | None = None,
        entries: Sequence[Entry] = (),
        election_ticks: int = 10,
        heartbeat_ticks: int = 1,
        limits: Limits | None = None,
    ) -> None:
        if not 0 < heartbeat_ticks < election_ticks:
            raise ValueError("a heartbeat must be shorter than an election timeout")
        mark = mark or SnapshotMark()
        written = hard_state or HardState()
        log = restored_log(mark, entries)
        state = restored_hard_state(mark, log, written)
        self._core = Core(
            id=id,
            rng=rng,
            limits=limits or Limits(),
            snapshots=snapshots,
            election_ticks=election_ticks,
            heartbeat_ticks=heartbeat_ticks,
            term=state.term,
            vote=state.vote,
            log=log,
            durable=Durable(log.last_index, written),
            mark=mark,
            membership=mark.membership,
            commit=state.commit,
            handed=mark.index,
            applied=mark.index,
            reads=Reads(last_id=rng.randrange(1 << 62)),
        )
        roles.draw_timeout(self._core)
        self._number = 0
        self._given = (written.term, written.vote, max(written.commit, mark.index))
        self._soft = (0, False)

    # Inputs.

    def tick(self) -> None:
        """Time goes on by one tick."""
        core = self._core
        if core.role is not Role.LEADER:
            election.tick(core)
            read_index.tick(core)
            return
        transfer.tick(core)
        core.elapsed += 1
        if core.elapsed >= core.election_ticks:
            core.elapsed = 0
            if not election.check_quorum(core):
                return
        core.beat_elapsed += 1
        if core.beat_elapsed >= core.heartbeat_ticks:
            heartbeat.beat(core)

    def step(self, message: Message) -> None:
        """A message from another member. Those that are late, wrong or not for this one change nothing.

        Raises SafetyBrokenError when it proves that some member lost or invented data.
        """
        core = self._core
        if message.to != core.id or message.sender == core.id or message.sender <= 0:
            return
        if message.term != core.term and not self._is_current(message):
            return
        kind = type(message)
        if kind in _FROM_LEADER:
            self._follow(message.sender)
        handler = _TO_LEADER.get(kind)
        if handler is None:
            _TO_ANYBODY[kind](core, message)
        elif core.role is Role.LEADER:
            handler(core, message)

    def propose(self, data: bytes) -> Proposed:
        """Appends a command. It may still be lost: only a committed entry with this index and term is it. O(1)."""
        core = self._core
        if core.role is not Role.LEADER:
            raise NotLeaderError("not the leader", core.leader)
        if core.transfer_to:
            raise TransferringError("leadership is being handed over", core.transfer_to)
        self._admit(len(data))
        return Proposed(replication.add(core, data, EntryKind.COMMAND), core.term)

    def propose_membership(self, new: Membership) -> Proposed:
        """Appends a change of the membership (see membership.py for what is allowed). Raises RefusedError."""
        return Proposed(membership.propose(self._core, new), self._core.term)

    def read_index(self) -> int:
        """Asks up to where to apply before reading. The id comes back in a Ready: in `reads`, or refused."""
        return read_index.ask(self._core)

    def transfer_leadership(self, to: NodeId) -> None:
        """Begins to hand over. `status().transfer_to` shows that it goes on; it ends after an election timeout."""
        transfer.begin(self._core, to)

    def campaign(self) -> None:
        """Does not wait for the election timeout. No effect on a leader, or on who may not campaign."""
        election.campaign(self._core)

    def forget_leader(self) -> None:
        """A follower that knows from elsewhere that its leader died need not wait to vote for another."""
        core = self._core
        if core.role is Role.FOLLOWER and core.leader:
            roles.become_follower(core, core.term, 0)

    # What came of the Readys.

    def persisted(self, number: int) -> None:
        """The disk has what the Readys up to `number` said."""
        core = self._core
        if number > self._number:
            raise SafetyBrokenError(f"Ready {number} is on the disk, but the newest is {self._number}")
        if core.durable.persisted(number):
            election.count_own_vote(core)
            if core.role is Role.LEADER:
                commit.advance(core)

    def applied(self, index: int) -> None:
        """The state machine has all entries up to `index`; memberships among them come into use."""
        core = self._core
        if index > core.handed:
            raise SafetyBrokenError(f"entry {index} is applied, but only those up to {core.handed} were handed out")
        if index > core.applied:
            membership.apply_through(core, index)
            core.applied = index

    def applied_mark(self) -> SnapshotMark:
        """The mark of a snapshot of the state machine as it is now, at what `applied` was told last.

        Not to be asked while a snapshot that was received is not installed yet: the core takes it for applied.
        """
        core = self._core
        return SnapshotMark(core.applied, core.log.term_at(core.applied), core.membership)

    def compact(self, mark: SnapshotMark) -> None:
        """A snapshot with this mark (from `applied_mark`) is on the disk. What it makes superfluous goes.

        A few entries below it stay, for peers that are a little behind.
        """
        core = self._core
        if mark.index <= core.mark.index:
            return
        if mark.index > core.applied or core.log.term_at(mark.index) != mark.term:
            raise SafetyBrokenError(f"the snapshot's last entry ({mark.index}, {mark.term}) is not applied here")
        core.mark = mark
        limits = core.limits
        core.log.compact(core.log.index_within(mark.index, limits.kept_entries_max, limits.kept_bytes_max))

    # Output.

    def ready(self) -> Ready | None:
        """What there is to do, or None. Every call gives what came up since the one before."""
        core = self._core
        if core.role is Role.LEADER:
            if core.replication_due:
                replication.flush(core)
            if read_index.flush(core):
                heartbeat.beat(core)
            transfer.flush(core)
        else:
            read_index.forward(core)
        entries = core.log.unwritten()
        snapshot, core.snapshot_received = core.snapshot_received, None
        state = (core.term, core.vote, core.commit)
        soft = (core.leader, core.role is Role.LEADER)
        reads = core.reads
        something = (
            entries
            or core.messages
            or core.messages_after_sync
            or core.commit > core.handed
            or state != self._given
            or reads.done
            or reads.refused
            or soft != self._soft
            or snapshot is not None
        )
        return self._make_ready(entries, snapshot, state, soft) if something else None

    def status(self) -> Status:
        """Who leads, how far everybody is. O(members)."""
        return status_of(self._core)

    # Inside.

    def _make_ready(
        self,
        entries: tuple[Entry, ...],
        snapshot: SnapshotMark | None,
        state: tuple[int, NodeId, int],
        soft: tuple[NodeId, bool],
    ) -> Ready:
        core, reads = self._core, self._core.reads
        self._number += 1
        # A commit index alone need not be synced: it is found out again (extended Raft figure 2: volatile).
        must_sync = bool(entries) or snapshot is not None or state[:2] != self._given[:2]
        if must_sync:
            core.durable.writing(self._number, core.log.last_index, core.term, core.vote)
        committed: tuple[Entry, ...] = ()
        if core.commit > core.handed:
            committed = core.log.take(core.handed + 1, core.commit, core.limits.committed_bytes_max)
            core.handed += len(committed)
        ready = Ready(
            number=self._number,
            hard_state=HardState(*state) if state != self._given else None,
            entries=entries,
            snapshot=snapshot,
            must_sync=must_sync,
            messages=tuple(core.messages),
            messages_after_sync=tuple(core.messages_after_sync),
            committed=committed,
            reads=tuple(reads.done),
            refused_reads=tuple(reads.refused),
            soft_state=SoftState(*soft) if soft != self._soft else None,
        )
        self._given, self._soft = state, soft
        core.messages.clear()
        core.messages_after_sync.clear()
        reads.done.clear()
        reads.refused.clear()
        return ready

    def _admit(self, size: int) -> None:
        """Refuses a command that would make something grow without bound."""
        core, limits = self._core, self._core.limits
        if size > limits.proposal_bytes_max:
            raise BusyError(f"a command of {size} bytes: at most {limits.proposal_bytes_max} are taken", core.id)
        last = core.log.last_index
        if last - core.applied >= limits.backlog_max:
            raise BusyError(f"{last - core.applied} entries wait to be applied", core.id)
        if core.log.bytes_of(core.commit + 1, last) + ENTRY_OVERHEAD + size > limits.uncommitted_bytes_max:
            raise BusyError("too many bytes wait for a majority", core.id)

    def _follow(self, leader: NodeId) -> None:
        """A message in our term that only its leader sends: "convert to follower", and no election for a while."""
        core = self._core
        if core.leader != leader:
            if core.leader:
                raise SafetyBrokenError(f"members {core.leader} and {leader} both lead term {core.term}")
            roles.become_follower(core, core.term, leader)
        core.elapsed = 0

    def _is_current(self, message: Message) -> bool:
        """The term of `message` is not ours: takes up a higher one. Whether to go on with the message."""
        core = self._core
        if message.term < core.term:
            self._answer_past(message)
            return False
        if isinstance(message, VoteRequest):
            if not message.transfer and election.hears_leader(core):
                return False
            if not message.pre:
                roles.become_follower(core, message.term, 0)
        elif not (isinstance(message, VoteReply) and message.pre and message.granted):  # that is of a term to come
            roles.become_follower(core, message.term, 0)
        return True

    def _answer_past(self, message: Message) -> None:
        """Who sends from an earlier term learns ours, where silence could keep it out for ever.

        A leader of before would have its heartbeats ignored by us, and we our candidacies by those who hear it.
        """
        core = self._core
        if isinstance(message, _FROM_LEADER):
            core.promise(AppendReply(sender=core.id, to=message.sender, term=core.term, index=0, rejected=True))
        elif isinstance(message, VoteRequest) and message.pre:
            core.promise(VoteReply(sender=core.id, to=message.sender, term=core.term, granted=False, pre=True))
