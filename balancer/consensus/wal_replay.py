"""Reading a write-ahead log: from the bytes of its segments to what the member knows. Pure; nothing is written.

Law: the result is the log as it stood after some record that was written, and never before the last one that is known
to have been durable; else WalCorruptError. A record may be whole and still impossible (a term that goes back, an entry
that leaves a gap, an entry of a term that was not heard of): that is refused as well.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from balancer.consensus.storage_errors import WalCorruptError
from balancer.consensus.wal_record import (
    HEADER_SIZE,
    SMALLEST,
    Identity,
    Record,
    SegmentHeader,
    Type,
    decode,
    decode_header,
    decode_mark,
    decode_vote,
    segment_name,
    sequence_of,
)
from balancer.consensus.wal_tail import end_of_tail, written_end
from balancer.raft.log_entry import Entry, EntryKind, HardState, SnapshotMark

_KINDS = {int(kind): kind for kind in EntryKind}


@dataclass(slots=True)
class Replayed:
    """The log as it was read. `entries` begin at `first_index`.

    `marks`: the snapshots from which it goes on, the newest last; those before one that replaced the log are not there.
    """

    hard_state: HardState
    first_index: int
    entries: list[Entry] = field(default_factory=list)
    marks: list[SnapshotMark] = field(default_factory=list)

    @property
    def last_index(self) -> int:
        """Of the last entry, or of what stands before the first."""
        return self.first_index - 1 + len(self.entries)


@dataclass(frozen=True, slots=True)
class Tail:
    """Where writing goes on: `offset` in the last segment, with the chain there.

    Up to `end` there are bytes of a torn write. `unfinished`: where the segment before misses its END. `firsts`: the
    first index of each segment.
    """

    header: SegmentHeader
    offset: int
    crc: int
    end: int
    unfinished: int | None
    firsts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a log holds. `entries` follow on `mark`, the newest snapshot; `mark.index` 0: there is none.

    `hard_state.commit` is at least `mark.index`. `cut`: bytes of a torn write that were removed from the end.
    """

    hard_state: HardState
    mark: SnapshotMark
    entries: tuple[Entry, ...]
    cut: int
    replayed: Replayed = field(repr=False)

    def from_mark(self, mark: SnapshotMark) -> "Recovered":
        """The same, from another one of `replayed.marks`, because the newest snapshot cannot be read.

        ValueError where the log does not reach back to it.
        """
        if mark not in self.replayed.marks or mark.index < self.replayed.first_index - 1:
            raise ValueError(f"the log begins with entry {self.replayed.first_index}, not at the snapshot {mark.index}")
        return recovered_from(self.replayed, mark, self.cut)


def recovered_from(replayed: Replayed, mark: SnapshotMark, cut: int) -> Recovered:
    """What is known after `mark`."""
    hard_state = replayed.hard_state
    if hard_state.commit < mark.index:  # only the commit index of a snapshot that came from the leader may be late
        hard_state = HardState(hard_state.term, hard_state.vote, mark.index)
    entries = replayed.entries[mark.index + 1 - replayed.first_index :]
    return Recovered(hard_state, mark, tuple(entries), cut, replayed)


def segments(names: Sequence[str]) -> list[int]:
    """The numbers of the segments among the files. Raises WalCorruptError where one is missing between two."""
    numbers = sorted(number for number in map(sequence_of, names) if number is not None)
    for before, number in itertools.pairwise(numbers):
        if number != before + 1:
            raise WalCorruptError(segment_name(before + 1), 0, "this file", "none")
    return numbers


def replay(files: Sequence[tuple[str, bytes]], identity: Identity | None = None) -> tuple[Replayed, Tail]:
    """Read the segments, which are in order and without a gap. O(bytes).

    `identity`: whose log it has to be. Raises WalCorruptError.
    """
    reader = _Reader(identity)
    for at, (name, data) in enumerate(files):
        reader.segment(name, data, last=at == len(files) - 1, second_last=at == len(files) - 2)
    if reader.state is None or reader.tail is None:
        raise WalCorruptError(segment_name(0), 0, "a segment", "none")
    _check_end(reader.state, reader.tail)
    return reader.state, reader.tail


def _check_end(state: Replayed, tail: Tail) -> None:
    name = segment_name(tail.header.sequence)
    mark = state.marks[-1]
    if mark.index < state.first_index - 1:
        raise WalCorruptError(name, tail.offset, f"entries from {mark.index + 1}", f"from {state.first_index}")


class _Reader:
    """Takes the segments one after the other."""

    def __init__(self, identity: Identity | None) -> None:
        self.identity = identity
        self.state: Replayed | None = None
        self.tail: Tail | None = None
        self.crc = 0
        self.unfinished: int | None = None
        self.firsts: list[int] = []

    def segment(self, name: str, data: bytes, *, last: bool, second_last: bool) -> None:
        """Take the next one."""
        header = decode_header(name, data, len(data))
        self._check_header(header, name)
        self.firsts.append(header.first_index)
        records, stop, crc = decode(data, header.body, self._repeated(header, data, name))
        ended = bool(records) and records[-1][0] == Type.END
        if self.unfinished is not None and written_end(data) > header.body:
            before = segment_name(header.sequence - 1)
            raise WalCorruptError(before, self.unfinished, "an end, since records follow in the next one", "none")
        self._apply(records[: len(records) - ended], header, name)
        if ended and last:
            raise WalCorruptError(segment_name(header.sequence + 1), 0, "this file: the one before ended", "none")
        if last:
            self.tail = Tail(
                header, stop, crc, end_of_tail(data, header, stop, name), self.unfinished, tuple(self.firsts)
            )
        elif not ended:
            # The next segment was made and the END behind it is not there. The chain says whether that is all.
            if not second_last or written_end(data) > stop + SMALLEST:
                raise WalCorruptError(name, stop, "a whole record", "a damaged one")
            self.unfinished = stop
        else:
            crc = int.from_bytes(data[records[-1][5] - 4 : records[-1][5]], "little")
        self.crc = crc

    def _check_header(self, header: SegmentHeader, name: str) -> None:
        if self.identity is None:
            self.identity = header.identity
        if header.identity != self.identity:
            raise WalCorruptError(name, 0, f"a log of {self.identity}", f"one of {header.identity}")
        if self.state is not None and (header.previous_crc, header.first_index) != (
            self.crc,
            self.state.last_index + 1,
        ):
            raise WalCorruptError(name, 0, "the segment that follows on the one before", "another: the chain breaks")

    def _repeated(self, header: SegmentHeader, data: bytes, name: str) -> int:
        """Read the state that the segment begins with, or compare it with what is known; the chain behind it."""
        records, stop, crc = decode(data[: header.body], HEADER_SIZE, header.crc)
        state = Replayed(HardState(), header.first_index)
        if stop != header.body or [record[0] for record in records] != [Type.HARD_STATE, Type.SNAPSHOT]:
            raise WalCorruptError(name, stop, "the state at the segment's beginning", "something else")
        try:
            (_, _, commit, term, vote, _), (_, _, index, mark_term, membership, _) = records
            state.hard_state = HardState(term, decode_vote(vote), commit)
            state.marks.append(decode_mark(index, mark_term, membership))
        except ValueError as error:
            raise WalCorruptError(name, stop, "a record that can be read", str(error)) from error
        if self.state is None:
            self.state = state
        elif (state.hard_state, state.marks[-1]) != (self.state.hard_state, self.state.marks[-1]):
            raise WalCorruptError(name, stop, "the state at the end of the segment before", "another")
        return crc

    def _apply(self, records: list[Record], header: SegmentHeader, name: str) -> None:
        state = self.state
        assert state is not None
        for record in records:
            try:
                _apply(state, record, header)
            except ValueError as error:
                raise WalCorruptError(name, record[5], "a record that can follow", str(error)) from error


def _apply(state: Replayed, record: Record, header: SegmentHeader) -> None:
    """One record. Raises ValueError where it contradicts those before."""
    type_, kind, index, term, data, offset = record
    if type_ == Type.ENTRY:
        _append(state, Entry(index, term, _KINDS.get(kind, EntryKind.COMMAND), data), kind)
    elif type_ == Type.HARD_STATE:
        _set_hard_state(state, HardState(term, decode_vote(data), index))
    elif type_ == Type.SNAPSHOT:
        _mark(state, decode_mark(index, term, data), replaces_log=bool(kind))
    elif type_ == Type.TRUNCATE:
        _truncate(state, index)
    elif type_ != Type.FILL and (type_, index, term) != (Type.SEAL, offset, int.from_bytes(header.token, "little")):
        raise ValueError(f"a record of type {type_}")


def _truncate(state: Replayed, index: int) -> None:
    if not state.hard_state.commit < index <= state.last_index:
        raise ValueError(f"entries from {index} on are taken back, {state.hard_state.commit} are committed")
    if index < state.first_index:  # they began in a segment that was purged since
        state.first_index = index
        state.entries.clear()
    else:
        del state.entries[index - state.first_index :]


def check_entries(entries: Sequence[Entry], last_index: int, last_term: int, state: HardState) -> None:
    """Raise ValueError where these cannot be written behind, or over the end of, a log with this end and state."""
    index = entries[0].index
    term = last_term if index == last_index + 1 else 0
    for entry in entries:
        if entry.index != index or entry.term < term:
            raise ValueError(f"entry {entry.index} of term {entry.term} where {index} of term {term} or later is due")
        index += 1
        term = entry.term
    if term > state.term:
        raise ValueError(f"an entry of term {term} while the term is {state.term}")


def _append(state: Replayed, entry: Entry, kind: int) -> None:
    before = state.entries[-1].term if state.entries else 0
    if entry.index != state.last_index + 1 or not before <= entry.term <= state.hard_state.term or kind not in _KINDS:
        raise ValueError(f"entry {entry.index} of term {entry.term} and kind {kind} after {state.last_index}")
    state.entries.append(entry)


def _set_hard_state(state: Replayed, new: HardState) -> None:
    old = state.hard_state
    voted_again = new.term == old.term and old.vote not in (0, new.vote)
    if new.term < old.term or voted_again or not old.commit <= new.commit <= state.last_index:
        raise ValueError(f"{new} after {old}")
    state.hard_state = new


def _mark(state: Replayed, mark: SnapshotMark, *, replaces_log: bool) -> None:
    if replaces_log:
        if mark.index < state.hard_state.commit or mark.term > state.hard_state.term:
            raise ValueError(f"a snapshot of {mark.index} replaces the log behind {state.hard_state}")
        state.first_index = mark.index + 1
        state.entries.clear()
        state.marks = [mark]
        return
    at = mark.index - state.first_index
    known = 0 <= at < len(state.entries)
    if mark.index > state.hard_state.commit or (known and state.entries[at].term != mark.term):
        raise ValueError(f"a snapshot of {mark.index}, term {mark.term}, with {state.hard_state}")
    state.marks.append(mark)
