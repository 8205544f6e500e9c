"""Replicas in memory: what is written is durable at once, unless a test holds the disk; frames arrive when told to."""

from collections import deque
from collections.abc import Callable
from random import Random
from zlib import crc32

from balancer.consensus.peer_frames import Frame
from balancer.consensus.replica import Replica
from balancer.coordination.command import Request
from balancer.coordination.requests import PutRequest, RangeRequest
from balancer.coordination.responses import RangeResponse
from balancer.coordination.revision_log import Changes
from balancer.coordination.snapshot import Reader, View
from balancer.coordination.state_machine import StateMachine
from balancer.raft.limits import Limits
from balancer.raft.log_entry import Membership, NodeId, SnapshotMark
from balancer.raft.node import Node
from balancer.raft.ready import Ready

GRACE = 1.0
LIMITS = Limits(kept_entries_max=0)


class Snapshots:
    """A SnapshotStore without checks: whoever wants damage has tests of its own."""

    def __init__(self) -> None:
        self.files: dict[tuple[int, int], bytes] = {}
        self._arriving = bytearray()

    def size(self, mark: SnapshotMark) -> int:
        return len(self.files.get((mark.index, mark.term), b""))

    def read(self, mark: SnapshotMark, offset: int, size: int) -> bytes:
        return self.files.get((mark.index, mark.term), b"")[offset : offset + size]

    def begin(self, mark: SnapshotMark, size: int) -> None:
        self._arriving = bytearray()

    def write(self, offset: int, data: bytes) -> None:
        self._arriving += data

    def finish(self, mark: SnapshotMark) -> bool:
        self.files[mark.index, mark.term] = bytes(self._arriving)
        return True

    def checksum(self, data: bytes) -> int:
        return crc32(data)


class Member:
    """The outlet of one replica. `held`: its disk takes no more Readys; what waits is in `unwritten`."""

    def __init__(self, trio: "Trio", id: NodeId, membership: Membership) -> None:
        self.trio = trio
        self.id = id
        self.held = False
        self.unwritten: deque[Ready] = deque()
        self.snapshots = Snapshots()
        self.leaders: list[NodeId] = []
        self.memberships: list[Membership] = []
        self.revisions: list[int] = []
        self.installed: list[SnapshotMark] = []
        self.node = Node(
            id, rng=Random(id), snapshots=self.snapshots, mark=SnapshotMark(membership=membership), limits=LIMITS
        )
        self.replica = Replica(self.node, StateMachine(), self, token=1000 + id, grace=GRACE)

    @property
    def machine(self) -> StateMachine:
        return self.replica.machine

    # ---- Outlet

    def send(self, to: NodeId, frame: Frame) -> None:
        self.trio.in_flight.append((self.id, to, frame))

    def write(self, ready: Ready) -> None:
        self.unwritten.append(ready)

    def install(self, mark: SnapshotMark) -> StateMachine:
        reader = Reader()
        reader.feed(self.snapshots.files[mark.index, mark.term])
        self.installed.append(mark)
        return reader.finish()

    def changed(self, changes: Changes, revision: int) -> None:
        self.revisions.append(revision)

    def replaced(self, machine: StateMachine) -> None:
        self.revisions.append(machine.revision)

    def membership(self, membership: Membership) -> None:
        self.memberships.append(membership)

    def led_by(self, leader: NodeId) -> None:
        self.leaders.append(leader)

    # ---- what a test does with it

    def written(self) -> None:
        """The disk has everything that it was told."""
        if self.unwritten:
            number = self.unwritten[-1].number
            self.unwritten.clear()
            self.replica.persisted(number, self.trio.now)

    def save(self) -> SnapshotMark:
        """A snapshot of its own; the log before it goes."""
        mark = self.node.applied_mark()
        self.snapshots.files[mark.index, mark.term] = b"".join(View(self.machine).slices())
        self.node.compact(mark)
        return mark

    def work(self) -> bool:
        """What there is to do; whether the disk took something."""
        self.replica.pump(self.trio.now)
        if self.held or not self.unwritten:
            return False
        self.written()
        self.replica.pump(self.trio.now)
        return True


class Trio:
    """Three members, and what is between them. `cut`: who neither hears nor is heard."""

    def __init__(self, voters: tuple[NodeId, ...] = (1, 2, 3)) -> None:
        self.now = 0.0
        self.in_flight: deque[tuple[NodeId, NodeId, Frame]] = deque()
        self.lost: list[tuple[NodeId, NodeId, Frame]] = []
        self.cut: set[NodeId] = set()
        membership = Membership(voters)
        self.members = {id: Member(self, id, membership) for id in voters}

    def __getitem__(self, id: NodeId) -> Member:
        return self.members[id]

    def settle(self) -> None:
        """Everything arrives, until nothing is left to do."""
        for _ in range(10_000):
            working = list(self.members.values())
            while working:
                working = [member for member in working if member.work()]
            if not self.in_flight:
                return
            sender, to, frame = self.in_flight.popleft()
            if self.cut & {sender, to}:
                self.lost.append((sender, to, frame))
            else:
                self.members[to].replica.receive(sender, frame, self.now)
        raise AssertionError("the members never come to rest")

    def pass_time(self, seconds: float, *, tick: float = 0.1) -> None:
        """Ticks for all, with everything settled after each."""
        for _ in range(round(seconds / tick)):
            self.now += tick
            for member in self.members.values():
                member.replica.tick(self.now)
            self.settle()

    def elect(self, id: NodeId) -> Member:
        """Makes this one the leader."""
        for member in self.members.values():
            member.node.forget_leader()
        self[id].node.campaign()
        self.settle()
        assert self[id].replica.leads
        return self[id]

    def ask(self, id: NodeId, request: Request, seconds: float = 5.0) -> list[object]:
        """Submits a request there; the list gets the answer."""
        heard: list[object] = []
        self[id].replica.submit(request, self.now, self.now + seconds, heard.append)
        self.settle()
        return heard

    def put(self, id: NodeId, key: str, value: str = "x") -> list[object]:
        """Writes a key at a member."""
        return self.ask(id, PutRequest(key.encode(), value.encode()))

    def get(self, id: NodeId, key: str, seconds: float = 5.0) -> list[object]:
        """Reads a key at a member; the list gets the values, or the refusal."""
        heard: list[object] = []

        def turn(refused: object) -> None:
            found: RangeResponse = self[id].machine.range(RangeRequest(key.encode()))
            heard.append(refused or [kv.value for kv in found.kvs])

        self[id].replica.read(self.now, self.now + seconds, turn)
        self.settle()
        return heard

    def keep(self, id: NodeId, lease: int, *, renew: bool = True) -> list[object]:
        """Keeps a lease alive at a member; the list gets the time to live, or the refusal."""
        heard: list[object] = []
        done: Callable[[object], None] = heard.append
        self[id].replica.keep_alive(lease, self.now, self.now + 2.0, done, renew=renew)
        self.settle()
        return heard

    def hashes(self) -> set[bytes]:
        """Of all states: one, when all hold the same."""
        return {member.machine.hash() for member in self.members.values()}
