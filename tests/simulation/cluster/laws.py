"""What must hold of all members at all times. Each step is checked for the member that it concerned.

election safety       one leader per term
log matching          one (index, term) is one entry, with one entry before it
leader completeness   who begins to lead has every entry that was committed in an earlier term
commit                counts only what a majority's disks hold, up to an entry of the leader's term; never goes back
state machine safety  every member applies the same entry at an index, with the same answer and the same state after it
votes                 one per member and term, over all its lives
durable before sent   no message says what its sender's disk does not hold
leases                none is revoked by the clock before its time is up
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from balancer.consensus.peer_frames import Forward, ForwardReply, Frame, KeepAlive, KeepAliveReply
from balancer.coordination.errors import CoordinationError
from balancer.coordination.requests import LeaseRevokeRequest
from balancer.coordination.revision_log import Changes
from balancer.coordination.state_machine import Applied, StateMachine
from balancer.raft.core import Core, Role
from balancer.raft.invariants import check_invariants
from balancer.raft.log_entry import EntryKind, NodeId, SnapshotMark
from balancer.raft.message import AppendReply, SnapshotReply, VoteReply, VoteRequest
from balancer.raft.ready import Ready

if TYPE_CHECKING:
    from tests.simulation.cluster.member import Member

SWEEP_EVERY = 16
"""Steps between two looks at a member's own invariants; they cost more than the step."""


class BrokenLawError(Exception):
    """What the cluster promises did not hold."""


class Laws:
    """See the module. `truth[k]`: the changes of revision k + 2, and when they were first applied."""

    def __init__(self, now: Callable[[], float], counts: Counter[str]) -> None:
        self.now = now
        self._counts = counts
        self.leaders: dict[int, NodeId] = {}  # by term
        self._entries: dict[tuple[int, int], tuple[int, EntryKind, bytes]] = {}  # with the term before
        self._committed_terms: list[int] = []  # of entries 1, 2, ...
        self._committed_in: list[int] = []  # the terms whose leaders committed them
        self._applied: list[tuple[int, bytes, object, bytes]] = []  # term, data, answer, hash after it
        self._votes: dict[tuple[NodeId, int], NodeId] = {}
        self._steps = 0
        self.truth: list[tuple[Changes, float]] = []
        self.lease_ends: dict[int, float] = {}  # not before this true time may the clock end it
        self.revoked: dict[int, float] = {}  # leases that are gone, since when

    # ---- one member, after a step

    def look(self, member: "Member") -> None:
        """Its core is as it may be. O(1), but for what was committed."""
        core = member.core
        if core.commit < member.commit_seen:
            raise BrokenLawError(f"member {core.id}: commit went from {member.commit_seen} back to {core.commit}")
        leads = core.role is Role.LEADER and self.leaders.get(core.term) == core.id
        if leads and core.commit > member.commit_seen and core.log.term_at(core.commit) != core.term:
            raise BrokenLawError(f"leader {core.id} of term {core.term} commits {core.commit} of an earlier term")
        member.commit_seen = core.commit
        if core.commit > len(self._committed_terms):
            self._count_committed(member, core)
        member.voters_seen = core.membership.voters
        if core.role is Role.LEADER and not leads:
            self._elected(core)
        self._steps += 1
        if not self._steps % SWEEP_EVERY:
            check_invariants(core, log=not self._steps % (64 * SWEEP_EVERY))

    def _elected(self, core: Core) -> None:
        other = self.leaders.setdefault(core.term, core.id)
        if other != core.id:
            raise BrokenLawError(f"members {other} and {core.id} both lead term {core.term}")
        self._counts["elections"] += 1
        # Up to the last one that was committed in an earlier term; its own may be earlier still. Logs match below it.
        index = bisect_left(self._committed_in, core.term)
        if index > core.log.base_index and core.log.term_at(index) != self._committed_terms[index - 1]:
            raise BrokenLawError(f"leader {core.id} of term {core.term} lacks the committed entry {index}")

    def _count_committed(self, member: "Member", core: Core) -> None:
        world = member.world
        for index in range(len(self._committed_terms) + 1, core.commit + 1):
            term = core.log.term_at(index)
            holders = {id for id, each in world.members.items() if each.durable.holds(index, term)}
            for voters in (core.membership.voters, member.voters_seen):
                if len(holders.intersection(voters)) > len(voters) // 2:
                    break
            else:
                raise BrokenLawError(f"entry {index} is committed, the disks of {sorted(holders)} hold it")
            self._committed_terms.append(term)
            self._committed_in.append(core.term)

    # ---- what is written and sent

    def writes(self, member: "Member", ready: Ready) -> None:
        """Log Matching, by induction over all entries that are ever written."""
        if not ready.entries:
            return
        log = member.core.log
        before = log.term_at(ready.entries[0].index - 1)
        for entry in ready.entries:
            held = self._entries.setdefault((entry.index, entry.term), (before, entry.kind, entry.data))
            if before >= 0 and held != (before, entry.kind, entry.data):
                raise BrokenLawError(f"two entries are ({entry.index}, {entry.term})")
            before = entry.term

    def sends(self, member: "Member", frame: Frame) -> None:
        """The sender's disk holds what the message says."""
        disk = member.durable
        match frame:
            case Forward() | ForwardReply() | KeepAlive() | KeepAliveReply():
                return
            case VoteRequest(term=term, pre=True):
                entered = term - 1
            case VoteReply(granted=True, pre=True):
                return  # of a term that nobody entered yet
            case VoteReply(term=entered, granted=True, to=candidate):
                self._vote(member, entered, candidate)
            case VoteRequest(term=entered):
                self._vote(member, entered, member.id)
            case AppendReply(term=entered, index=index, rejected=False):
                if index > max(disk.last, disk.reached):
                    raise BrokenLawError(f"member {member.id} acknowledges {index}, its disk ends with {disk.last}")
            case SnapshotReply(term=entered, index=index, done=True):
                if index > max(disk.last, disk.reached):
                    raise BrokenLawError(f"member {member.id} has the snapshot of {index}, its disk {disk.base}")
            case _:
                entered = getattr(frame, "term", 0)
        if entered > disk.term:
            name = type(frame).__name__
            raise BrokenLawError(f"member {member.id} sends {name} in term {entered}, its disk has {disk.term}")

    def _vote(self, member: "Member", term: int, candidate: NodeId) -> None:
        disk = member.durable
        if (disk.term, disk.vote) != (term, candidate) and disk.term <= term:
            raise BrokenLawError(f"member {member.id} votes for {candidate} in {term}, its disk for {disk.vote}")
        if self._votes.setdefault((member.id, term), candidate) != candidate:
            raise BrokenLawError(f"member {member.id} votes twice in term {term}")

    # ---- what is applied

    def applies(self, member: "Member", machine: StateMachine, index: int, term: int, data: bytes) -> Applied:
        """Has `machine` apply an entry, and compares what comes of it with what came of it elsewhere."""
        if index > len(self._committed_terms):
            self._count_committed(member, member.core)  # a core commits and hands out in one step
        if index > len(self._committed_terms) or self._committed_terms[index - 1] != term:
            raise BrokenLawError(f"member {member.id} applies ({index}, {term}), which is not committed")
        before = machine.revision
        applied = StateMachine.apply(machine, index, term, data)
        if machine.revision < before:
            raise BrokenLawError(f"member {member.id}: revision went from {before} back to {machine.revision}")
        answer = _comparable(applied.result)
        told = (term, data, answer, machine.hash())
        if index > len(self._applied):
            if index != len(self._applied) + 1:
                raise BrokenLawError(f"member {member.id} applies {index}, nobody applied {len(self._applied) + 1}")
            self._applied.append(told)
            self._first_applied(applied, data)
        elif self._applied[index - 1] != told:
            raise BrokenLawError(f"member {member.id} came to something else by entry {index}")
        return applied

    def installed(self, member: "Member", machine: StateMachine, mark: SnapshotMark) -> None:
        """A snapshot holds the state after the entry that it names."""
        index = mark.index
        if machine.applied_index != index or index > len(self._applied):
            raise BrokenLawError(f"member {member.id}: a snapshot of {index} holds {machine.applied_index}")
        if self._applied[index - 1][3] != machine.hash() or self._applied[index - 1][0] != mark.term:
            raise BrokenLawError(f"member {member.id}: the snapshot of {index} holds another state")

    def _first_applied(self, applied: Applied, data: bytes) -> None:
        now = self.now()
        if applied.changes:
            if applied.revision != len(self.truth) + 2:
                raise BrokenLawError(f"revision {applied.revision} follows {len(self.truth) + 1}")
            self.truth.append((applied.changes, now))
        command = applied.command
        if command is None or not applied.done:
            return
        if isinstance(command.request, LeaseRevokeRequest):
            lease = command.request.ID
            self.revoked[lease] = now
            if command.decided_term and now < self.lease_ends.get(lease, 0.0):
                raise BrokenLawError(
                    f"lease {lease} ended at {now:.3f}, not before {self.lease_ends[lease]:.3f} is due"
                )
            self._counts["leases that ran out"] += bool(command.decided_term)


def _comparable(answer: object) -> Any:
    return (answer.code, answer.message) if isinstance(answer, CoordinationError) else answer
