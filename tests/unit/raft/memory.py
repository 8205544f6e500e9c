"""What members in tests stand on: the laws that must hold over all of them, a disk, snapshots, a state machine."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from balancer.raft.core import Role
from balancer.raft.invariants import check_invariants
from balancer.raft.log_entry import Entry, HardState, NodeId, SnapshotMark
from balancer.raft.node import Node
from balancer.raft.ready import Ready


class BrokenLawError(Exception):
    """What Raft promises did not hold."""


class Laws:
    """What holds over all members at all times. Each Ready, each election and each answer is told here."""

    def __init__(self) -> None:
        self.leaders: dict[int, NodeId] = {}  # by term
        self.entries: dict[tuple[int, int], tuple[int, bytes]] = {}  # by (index, term): term before it, data
        self.committed: dict[int, Entry] = {}
        self.votes: dict[tuple[NodeId, int], NodeId] = {}

    def watch(self, node: Node) -> None:
        """Election Safety, and Leader Completeness at the moment of the election."""
        core = node._core
        check_invariants(core, log=False)
        if core.role is not Role.LEADER or self.leaders.get(core.term) == core.id:
            return
        if self.leaders.setdefault(core.term, core.id) != core.id:
            raise BrokenLawError(f"{self.leaders[core.term]} and {core.id} both lead term {core.term}")
        for index, entry in self.committed.items():
            if entry.term < core.term and index > core.log.base_index and core.log.term_at(index) != entry.term:
                raise BrokenLawError(f"leader {core.id} of term {core.term} lacks the committed entry {index}")

    def see(self, member: NodeId, ready: Ready, term_before: Callable[[int], int]) -> None:
        """Log Matching, State Machine Safety, and at most one vote per term over all lives of a member."""
        for entry in ready.entries:
            held = (term_before(entry.index), entry.data)
            if self.entries.setdefault((entry.index, entry.term), held) != held:
                raise BrokenLawError(f"two entries are ({entry.index}, {entry.term})")
        for entry in ready.committed:
            if self.committed.setdefault(entry.index, entry) != entry:
                raise BrokenLawError(f"member {member} applies another entry {entry.index}")

    def promised(self, member: NodeId, hard_state: HardState) -> None:
        """The disk has this vote."""
        if hard_state.vote:
            vote = self.votes.setdefault((member, hard_state.term), hard_state.vote)
            if vote != hard_state.vote:
                raise BrokenLawError(f"member {member} voted twice in term {hard_state.term}")


class MemorySnapshots:
    """A SnapshotStore. What arrived whole and good joins `files`."""

    def __init__(self) -> None:
        self.files: dict[tuple[int, int], bytes] = {}
        self.arriving = b""
        self.begun = 0

    def size(self, mark: SnapshotMark) -> int:
        return len(self.files.get((mark.index, mark.term), b""))

    def read(self, mark: SnapshotMark, offset: int, size: int) -> bytes:
        return self.files.get((mark.index, mark.term), b"")[offset : offset + size]

    def begin(self, mark: SnapshotMark, size: int) -> None:
        self.arriving = b""
        self.begun += 1

    def write(self, offset: int, data: bytes) -> None:
        if offset != len(self.arriving):
            raise BrokenLawError(f"a chunk at {offset} was written after {len(self.arriving)} bytes")
        self.arriving += data

    def finish(self, mark: SnapshotMark) -> bool:
        data, self.arriving = self.arriving, b""
        if zlib.crc32(data[4:]).to_bytes(4, "big") != data[:4]:
            return False
        if msgspec.msgpack.decode(data[4:], type=State).index != mark.index:
            return False
        self.files[mark.index, mark.term] = data
        return True

    def checksum(self, data: bytes) -> int:
        return zlib.crc32(data)


class State(msgspec.Struct):
    """A state machine that remembers a digest of everything it applied, and how far it is."""

    index: int = 0
    digest: int = 0
    padding: bytes = b""  # so that a snapshot can be long

    def apply(self, entry: Entry) -> None:
        if entry.index != self.index + 1:
            raise BrokenLawError(f"entry {entry.index} is applied after {self.index}")
        self.index = entry.index
        self.digest = zlib.crc32(b"%d %d %s" % (entry.index, entry.term, entry.data), self.digest)

    def dump(self) -> bytes:
        data = msgspec.msgpack.encode(self)
        return zlib.crc32(data).to_bytes(4, "big") + data


@dataclass
class Disk:
    """Records in the order of writing. A crash keeps those that were synced and, of the others, the first few."""

    mark: SnapshotMark = field(default_factory=SnapshotMark)
    hard_state: HardState = field(default_factory=HardState)
    entries: list[Entry] = field(default_factory=list)  # above `mark`

    def write(self, record: Entry | HardState | SnapshotMark) -> None:
        match record:
            case HardState():
                self.hard_state = record
            case Entry() if record.index > self.mark.index:
                keep = record.index - self.mark.index - 1
                if keep > len(self.entries):
                    raise BrokenLawError(f"entry {record.index} is written behind a hole")
                self.entries[keep:] = [record]
            case SnapshotMark() if record.index > self.mark.index:
                same = [entry for entry in self.entries if entry.index == record.index and entry.term == record.term]
                self.entries = [entry for entry in self.entries if entry.index > record.index] if same else []
                self.mark = record


def records_of(ready: Ready) -> list[Entry | HardState | SnapshotMark]:
    """What a Ready says to write, in the order in which it must be written."""
    records: list[Entry | HardState | SnapshotMark] = []
    if ready.snapshot is not None:
        records.append(ready.snapshot)
    records += ready.entries
    if ready.hard_state is not None:
        records.append(ready.hard_state)
    return records
