"""Members in memory: what a driver does with a Node, with a disk that may be late, and a network that one can watch.

Every Ready is handed to `Laws`, which keep what Raft promises (extended figure 3) over all members and all their lives.
"""

from collections import deque
from collections.abc import Callable, Iterable
from random import Random

import msgspec

from balancer.raft.core import Role
from balancer.raft.invariants import check_invariants
from balancer.raft.log_entry import Entry, EntryKind, HardState, Membership, NodeId, SnapshotMark
from balancer.raft.message import Message
from balancer.raft.node import Node
from balancer.raft.ready import ReadState, Ready
from tests.unit.raft.memory import BrokenLawError, Disk, Laws, MemorySnapshots, State, records_of


class Member:
    """One member over its lives. `take` takes Readys, `sync` is the disk, `apply` the state machine."""

    def __init__(self, id: NodeId, membership: Membership, send: Callable[[Message], None], laws: Laws, rng: Random):
        self.id = id
        self.send = send
        self.laws = laws
        self.rng = rng
        self.options: dict[str, object] = {}
        self.disk = Disk(mark=SnapshotMark(membership=membership))
        self.snapshots = MemorySnapshots()
        self.start()

    def start(self) -> None:
        """A new life, with what the disk has."""
        disk = self.disk
        self.node = Node(
            self.id,
            rng=self.rng,
            snapshots=self.snapshots,
            mark=disk.mark,
            hard_state=disk.hard_state,
            entries=disk.entries,
            **self.options,  # type: ignore[arg-type]
        )
        self.unsynced: deque[Ready | SnapshotMark] = deque()
        self.unapplied: deque[Ready] = deque()
        self.reads: list[ReadState] = []
        self.refused_reads: list[int] = []
        self.state = self._state_at(disk.mark)
        self.highest_commit = 0

    def _state_at(self, mark: SnapshotMark) -> State:
        if mark.index == 0:
            return State()
        return msgspec.msgpack.decode(self.snapshots.files[mark.index, mark.term][4:], type=State)

    def take(self) -> bool:
        """Takes one Ready and sends what may be sent at once. Whether there was one."""
        ready = self.node.ready()
        if ready is None:
            return False
        self.laws.watch(self.node)
        log = self.node._core.log
        if ready.entries or ready.snapshot:
            check_invariants(self.node._core)
        self.laws.see(self.id, ready, lambda index: log.term_at(index - 1))
        for message in ready.messages:
            self.send(message)
        self.unsynced.append(ready)
        self.unapplied.append(ready)
        self.reads += ready.reads
        self.refused_reads += ready.refused_reads
        return True

    def sync(self, count: int | None = None) -> None:
        """The disk finishes the first `count` writes (all), and what waited for them is sent."""
        for _ in range(len(self.unsynced) if count is None else min(count, len(self.unsynced))):
            job = self.unsynced.popleft()
            if isinstance(job, SnapshotMark):
                self.disk.write(job)
                self.node.compact(job)
                continue
            for record in records_of(job):
                self.disk.write(record)
            self.laws.promised(self.id, self.disk.hard_state)
            for message in job.messages_after_sync:
                self.send(message)
            self.node.persisted(job.number)

    def apply(self, count: int | None = None) -> None:
        """The state machine takes what the first `count` Readys (all) committed."""
        for _ in range(len(self.unapplied) if count is None else min(count, len(self.unapplied))):
            ready = self.unapplied.popleft()
            if ready.snapshot is not None:
                self.state = self._state_at(ready.snapshot)
            for entry in ready.committed:
                self.state.apply(entry)
            if ready.committed:
                self.node.applied(ready.committed[-1].index)

    def work(self) -> bool:
        """Everything there is to do, at once. Whether there was anything."""
        worked = False
        while self.take():
            worked = True
            self.sync()
            self.apply()
        return worked

    def snapshot(self) -> None:
        """Writes a snapshot of the state machine as it is; the log is compacted when the disk has it."""
        mark = self.node.applied_mark()
        if mark.index > self.node._core.mark.index:
            self.snapshots.files[mark.index, mark.term] = self.state.dump()
            self.unsynced.append(mark)

    def crash(self, records_kept: int = 0) -> None:
        """The process dies. Of what was written and not synced the first records survive."""
        for job in self.unsynced:
            for record in [job] if isinstance(job, SnapshotMark) else records_of(job):
                if records_kept > 0:
                    records_kept -= 1
                    self.disk.write(record)
        self.start()

    # Shorthands.

    @property
    def role(self) -> Role:
        return self.node._core.role

    @property
    def log(self) -> list[tuple[int, int, bytes]]:
        """The log in memory as (index, term, data)."""
        log = self.node._core.log
        return [(e.index, e.term, e.data) for e in map(log.entry, range(log.first_index, log.last_index + 1))]

    def commands(self) -> list[bytes]:
        """The commands that were committed, in order, as far as the log still has them."""
        log, core = self.node._core.log, self.node._core
        entries = map(log.entry, range(log.first_index, core.commit + 1))
        return [entry.data for entry in entries if entry.kind is EntryKind.COMMAND and entry.data]


Link = tuple[NodeId, NodeId]


class Network:
    """Members and the messages between them. `cut` holds the directed links that lose everything."""

    def __init__(self, voters: Iterable[NodeId] = (1, 2, 3), learners: Iterable[NodeId] = (), **options: object):
        self.laws = Laws()
        self.rng = Random(1)
        self.options = options
        self.cut: set[Link] = set()
        self.in_flight: list[Message] = []
        self.members: dict[NodeId, Member] = {}
        self.membership = Membership(tuple(voters), tuple(learners))
        for id in sorted((*self.membership.voters, *self.membership.learners)):
            self.add(id, self.membership)

    def __getitem__(self, id: NodeId) -> Member:
        return self.members[id]

    def node(self, id: NodeId) -> Node:
        return self.members[id].node

    def add(self, id: NodeId, membership: Membership | None = None) -> Member:
        """A member with an empty disk, but for a first membership."""
        member = Member(id, membership or Membership(), self.in_flight.append, self.laws, self.rng)
        member.options = self.options
        member.start()
        self.members[id] = member
        return member

    def isolate(self, *ids: NodeId) -> None:
        """Cuts them off from all others, not from each other."""
        for one in self.members:
            for other in self.members:
                if (one in ids) != (other in ids):
                    self.cut.add((one, other))

    def heal(self) -> None:
        self.cut.clear()

    def deliver(self, which: Callable[[Message], bool] = lambda message: True) -> int:
        """What is in flight and meets the condition arrives, unless its link is cut. How many."""
        chosen = [message for message in self.in_flight if which(message)]
        self.in_flight[:] = [message for message in self.in_flight if not which(message)]
        for message in chosen:
            if (message.sender, message.to) not in self.cut and message.to in self.members:
                self.members[message.to].node.step(message)
        return len(chosen)

    def drop(self, which: Callable[[Message], bool] = lambda message: True) -> list[Message]:
        """What is in flight and meets the condition is lost."""
        lost = [message for message in self.in_flight if which(message)]
        self.in_flight[:] = [message for message in self.in_flight if not which(message)]
        return lost

    def settle(self, *ids: NodeId) -> None:
        """Everybody works and everything arrives, until nothing is left to do. With ids: only they work."""
        members = [self.members[id] for id in ids or sorted(self.members)]
        for _ in range(1_000):
            worked = [member.work() for member in members]
            if not any(worked) and not self.deliver():
                return
        raise BrokenLawError("the members never come to rest")

    def tick(self, ticks: int = 1, *ids: NodeId) -> None:
        """Time goes on for all (or for `ids`), with everything settled after each tick."""
        for _ in range(ticks):
            for id in ids or sorted(self.members):
                self.members[id].node.tick()
            self.settle()

    def elect(self, id: NodeId) -> Member:
        """Makes this one leader: the others heard nobody for a while."""
        for member in self.members.values():
            member.node.forget_leader()
        self.members[id].node.campaign()
        self.settle()
        if self.members[id].role is not Role.LEADER:
            raise BrokenLawError(f"member {id} was not elected")
        return self.members[id]

    def leader(self) -> Member | None:
        """The leader of the highest term."""
        leaders = [member for member in self.members.values() if member.role is Role.LEADER]
        return max(leaders, key=lambda member: member.node._core.term, default=None)


def alone(
    voters: Iterable[NodeId] = (1, 2, 3),
    learners: Iterable[NodeId] = (),
    *,
    terms: Iterable[int] = (),
    hard_state: HardState | None = None,
    **options: object,
) -> tuple[Member, list[Message]]:
    """Member 1, with entries of these terms on its disk, and what it sends. The others are the test's to play."""
    sent: list[Message] = []
    member = Member(1, Membership(tuple(voters), tuple(learners)), sent.append, Laws(), Random(1))
    member.options = options
    member.disk.entries = entries_of(terms)
    highest = max((entry.term for entry in member.disk.entries), default=0)
    member.disk.hard_state = hard_state or HardState(highest)
    member.start()
    return member, sent


def entries_of(terms: Iterable[int], first: int = 1) -> list[Entry]:
    """Commands with these terms; their data names index and term."""
    return [Entry(index, term, EntryKind.COMMAND, b"%d.%d" % (index, term)) for index, term in enumerate(terms, first)]


def taken(sent: list[Message]) -> list[Message]:
    """What was sent since the last look."""
    found = sent[:]
    sent.clear()
    return found
