"""Messages as they reach member 1, mostly from member 2."""

from collections.abc import Sequence

from balancer.raft.log_entry import Entry, SnapshotMark
from balancer.raft.message import (
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    SnapshotChunk,
    SnapshotReply,
    VoteReply,
    VoteRequest,
)
from tests.unit.raft.memory import MemorySnapshots

crc = MemorySnapshots().checksum


def vote_request(term: int, last: tuple[int, int], sender: int = 2, **more: object) -> VoteRequest:
    return VoteRequest(sender=sender, to=1, term=term, last_index=last[0], last_term=last[1], **more)  # type: ignore[arg-type]


def vote(term: int, granted: bool = True, sender: int = 2, **more: object) -> VoteReply:
    return VoteReply(sender=sender, to=1, term=term, granted=granted, **more)  # type: ignore[arg-type]


def append(
    term: int, previous: tuple[int, int], entries: Sequence[Entry] = (), commit: int = 0, sender: int = 2
) -> Append:
    return Append(
        sender=sender,
        to=1,
        term=term,
        previous_index=previous[0],
        previous_term=previous[1],
        commit=commit,
        entries=tuple(entries),
    )


def appended(term: int, index: int, sender: int = 2) -> AppendReply:
    return AppendReply(sender=sender, to=1, term=term, index=index)


def rejected(term: int, index: int, hint: tuple[int, int], sender: int = 2) -> AppendReply:
    return AppendReply(
        sender=sender, to=1, term=term, index=index, rejected=True, hint_index=hint[0], hint_term=hint[1]
    )


def beat(term: int, commit: int = 0, read_id: int = 0, sender: int = 2) -> Heartbeat:
    return Heartbeat(sender=sender, to=1, term=term, commit=commit, read_id=read_id)


def beaten(term: int, read_id: int = 0, sender: int = 2) -> HeartbeatReply:
    return HeartbeatReply(sender=sender, to=1, term=term, read_id=read_id)


def chunk(term: int, mark: SnapshotMark, data: bytes, offset: int, size: int, *, sender: int = 2) -> SnapshotChunk:
    return SnapshotChunk(sender=sender, to=1, term=term, mark=mark, offset=offset, size=size, data=data, crc=crc(data))


def got(term: int, mark: SnapshotMark, offset: int, sender: int = 2, **more: object) -> SnapshotReply:
    return SnapshotReply(
        sender=sender,
        to=1,
        term=term,
        index=mark.index,
        snapshot_term=mark.term,
        offset=offset,
        **more,  # type: ignore[arg-type]
    )
