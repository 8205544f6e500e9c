"""A random member's writes to its storage, and what may be read back: everything synced, and a prefix of the rest."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random

from balancer.consensus.storage import Storage
from balancer.consensus.wal_record import Identity
from balancer.consensus.wal_replay import Recovered
from balancer.raft.log_entry import Entry, HardState, Membership, NodeId, SnapshotMark
from tests.support.simulated_disk import SimulatedDisk

WHO = Identity(cluster_id=7, node_id=1, node_uuid=bytes(range(16)))
FIRST = SnapshotMark(0, 0, Membership((1, 2, 3)))
SEGMENT = 8192
SIZES = (0, 5, 40, 300, 1500)  # of entries' data, in bytes


class LostError(AssertionError):
    """What was read back is not what may be there."""


@dataclass(frozen=True, slots=True)
class State:
    """A log as some record left it. `base`: what the log begins after; `marks`: snapshots of our own since then."""

    term: int = 0
    vote: NodeId = 0
    base: SnapshotMark = FIRST
    log: tuple[Entry, ...] = ()
    marks: tuple[SnapshotMark, ...] = (FIRST,)

    @property
    def last_index(self) -> int:
        """Of the log."""
        return self.base.index + len(self.log)

    def after(self, index: int) -> tuple[Entry, ...]:
        """The entries behind an index."""
        return self.log[max(index - self.base.index, 0) :]


@dataclass(repr=False)
class Expected:
    """The states that were written, one for each record, and which of them is known to be durable."""

    states: list[State] = field(default_factory=lambda: [State()])
    durable: int = 0
    commit: int = 0
    durable_commit: int = 0

    @property
    def state(self) -> State:
        """The newest."""
        return self.states[-1]

    def add(self, state: State) -> None:
        """Another record."""
        self.states.append(state)

    def synced(self) -> None:
        """All that was added is durable."""
        self.durable = len(self.states) - 1
        self.durable_commit = self.commit

    def check(self, recovered: Recovered) -> State:
        """The state that was read back. Raises LostError where it is none that may be there."""
        hard_state, mark = recovered.hard_state, recovered.mark
        for state in self.states[self.durable :]:
            if (
                (hard_state.term, hard_state.vote) == (state.term, state.vote)
                and mark in state.marks
                and recovered.entries == state.after(mark.index)
            ):
                break
        else:
            found = (hard_state.term, hard_state.vote, mark.index, mark.index + len(recovered.entries))
            known = [(state.term, state.vote, state.marks[-1].index, state.last_index) for state in self.states]
            raise LostError(f"term, vote, snapshot, last entry {found}: none of {known[self.durable :]}, or other data")
        least = max(self.durable_commit, mark.index)
        if not least <= hard_state.commit <= max(self.commit, mark.index):
            raise LostError(f"the commit index is {hard_state.commit}, not {least} to {self.commit}")
        if mark.index < self.states[self.durable].marks[-1].index:
            raise LostError(f"the snapshot is {mark.index}, though {self.states[self.durable].marks[-1]} was durable")
        return state

    def restart(self, state: State, recovered: Recovered) -> None:
        """Go on with what was read back."""
        self.states = [replace(state, marks=tuple(mark for mark in state.marks if mark.index <= recovered.mark.index))]
        self.commit = recovered.hard_state.commit
        self.synced()


class Workload:
    """Draws what a member may do next, does it to the storage and says it to `expected` (before, where it matters)."""

    def __init__(self, rng: Random, storage: Storage, expected: Expected) -> None:
        self.rng = rng
        self.storage = storage
        self.expected = expected
        self._data = 0

    def step(self) -> None:
        """One thing."""
        does = self.rng.choices(
            (
                self.append_entries,
                self._election,
                self._commit,
                self._sync,
                self._seal,
                self._flush,
                self._save,
                self._install,
            ),
            (8, 2, 3, 6, 1, 1, 1, 0.4),
        )[0]
        does()

    def _new_entries(self, first: int, term: int, sizes: Sequence[int] = SIZES) -> list[Entry]:
        made = []
        for index in range(first, first + self.rng.randint(1, 6)):
            self._data += 1
            size = self.rng.choice(sizes)
            made.append(Entry(index, term, data=b"%d " % self._data + self.rng.randbytes(size)))
        return made

    def _append(self, term: int, vote: int, entries: list[Entry], snapshot: SnapshotMark | None = None) -> None:
        """Tell the model each record, in the order in which they are written, then write them."""
        expected, state = self.expected, self.expected.state
        if (term, vote) != (state.term, state.vote):
            state = replace(state, term=term, vote=vote)
            expected.add(state)
        if snapshot is not None:
            state = replace(state, base=snapshot, log=(), marks=(snapshot,))
            expected.add(state)
            expected.commit = max(expected.commit, snapshot.index)
        if entries and entries[0].index <= state.last_index:
            state = replace(state, log=state.log[: entries[0].index - 1 - state.base.index])
            expected.add(state)
        for entry in entries:
            state = replace(state, log=(*state.log, entry))
            expected.add(state)
        self.storage.append(HardState(term, vote, expected.commit), entries, snapshot)

    def append_entries(self, sizes: Sequence[int] = SIZES) -> None:
        """Some, of the term that there is; in the first one that there is none."""
        state = self.expected.state
        if state.term:
            self._append(state.term, state.vote, self._new_entries(state.last_index + 1, state.term, sizes))
        else:
            self._election()

    def _election(self) -> None:
        """Another term; perhaps its leader has other entries than the ones here that are not committed."""
        state = self.expected.state
        term = state.term + self.rng.randint(1, 3)
        entries: list[Entry] = []
        if self.rng.random() < 0.6:
            first = self.rng.randint(max(self.expected.commit, state.base.index) + 1, state.last_index + 1)
            entries = self._new_entries(first, term)
        self._append(term, self.rng.choice((0, 1, 2, 3)), entries)

    def _commit(self) -> None:
        state = self.expected.state
        self.expected.commit = self.rng.randint(max(self.expected.commit, state.base.index), state.last_index)
        self.storage.append(HardState(state.term, state.vote, self.expected.commit))

    def _sync(self) -> None:
        self.storage.sync()
        self.expected.synced()

    def _flush(self) -> None:
        self.storage.wal.flush()

    def _seal(self) -> None:
        self.storage.idle()
        self.expected.synced()

    def _save(self) -> None:
        """A snapshot of our own, of something that is committed."""
        state = self.expected.state
        if self.expected.commit <= state.marks[-1].index:
            return
        entry = state.log[self.expected.commit - state.base.index - 1]
        mark = SnapshotMark(entry.index, entry.term, Membership((1, 2, 3), (), b"%d" % entry.index))
        self.expected.add(replace(state, marks=(*state.marks, mark)))
        self.storage.save(mark, (b"state %d " % entry.index * self.rng.randint(1, 50) for _ in range(3)))
        self.expected.synced()

    def _install(self) -> None:
        """A snapshot from a leader, ahead of the log."""
        state = self.expected.state
        term = max(state.term, 1)
        mark = SnapshotMark(state.last_index + self.rng.randint(1, 20), term, Membership((1, 2)))
        receive(self.storage, mark, snapshot_bytes(mark, self.rng.randint(0, 900)), self.rng.choice((64, 500)))
        self._append(term, state.vote, self._new_entries(mark.index + 1, term)[: self.rng.randint(0, 2)], mark)


def snapshot_bytes(mark: SnapshotMark, size: int) -> bytes:
    """A snapshot's file, as another member has it."""
    disk = SimulatedDisk()
    other = Storage.create(disk, WHO, FIRST, segment_bytes=SEGMENT)
    other.snapshots.save(mark, [b"x" * size])
    return other.snapshots.read(mark, 0, other.snapshots.size(mark))


def receive(storage: Storage, mark: SnapshotMark, data: bytes, chunk: int) -> None:
    """What the core does with a snapshot that comes in chunks."""
    storage.snapshots.begin(mark, len(data))
    for at in range(0, len(data), chunk):
        storage.snapshots.write(at, data[at : at + chunk])
    if not storage.snapshots.finish(mark):
        raise LostError("a whole snapshot was refused")


def reopen(disk: SimulatedDisk) -> tuple[Storage, Recovered]:
    """Start again with what the disk has."""
    opened = Storage.open(disk, segment_bytes=SEGMENT)
    if opened is None:
        raise LostError("the directory is empty")
    return opened


def check_crashed(disk: SimulatedDisk, expected: Expected, rng: Random) -> None:
    """Crash a copy, once or twice, and look at what is read back."""
    twin = disk.copy()
    twin.crash(rng)
    if rng.random() < 0.1:
        twin.crash_at(twin.operations + rng.randrange(12))
        with contextlib.suppress(Exception):
            reopen(twin)
        twin.crash(rng)
    storage, recovered = reopen(twin)
    expected.check(recovered)
    if recovered.mark.index:
        for _ in storage.snapshots.pieces(recovered.mark):
            pass
