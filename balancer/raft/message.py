"""What members of a cluster tell each other. Every message carries its sender's term; a reply says what it answers.

All are tagged, so `Message` is a union that a decoder tells apart. Delivery may fail, repeat and reorder.
"""

import msgspec

from balancer.raft.log_entry import Entry, NodeId, SnapshotMark


class _Base(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    sender: NodeId
    to: NodeId
    term: int


class VoteRequest(_Base, frozen=True, tag="vote"):
    """Extended Raft figure 2, RequestVote. `pre`: only asks (thesis 9.6); `term` is then one above the sender's own.

    `transfer`: the leader asked for this election, so that hearing from a leader is no reason to ignore it.
    (`commit`, `commit_term`): the last entry that the sender knows to be committed; so in the reply.
    """

    last_index: int
    last_term: int
    pre: bool = False
    transfer: bool = False
    commit: int = 0
    commit_term: int = 0


class VoteReply(_Base, frozen=True, tag="voted"):
    """`term`: for a granted pre-vote that of the request, else the sender's own."""

    granted: bool
    pre: bool = False
    commit: int = 0
    commit_term: int = 0


class Append(_Base, frozen=True, tag="append"):
    """Extended Raft figure 2, AppendEntries. `commit` may be beyond the last entry here."""

    previous_index: int
    previous_term: int
    commit: int
    entries: tuple[Entry, ...] = ()


class AppendReply(_Base, frozen=True, tag="appended"):
    """Accepted: the log matches the leader's up to `index`. Rejected: the request's `previous_index` was `index`, and
    (`hint_index`, `hint_term`) is where the sender's log may match (thesis 3.5's optimisation, by term).
    """

    index: int
    rejected: bool = False
    hint_index: int = 0
    hint_term: int = 0


class Heartbeat(_Base, frozen=True, tag="beat"):
    """`commit` is at most what the receiver is known to hold. `read_id`: the newest read that waits for a quorum."""

    commit: int
    read_id: int = 0


class HeartbeatReply(_Base, frozen=True, tag="beaten"):
    """`read_id` as it came: the sender still took us for its leader when it read that."""

    read_id: int = 0


class SnapshotChunk(_Base, frozen=True, tag="snapshot"):
    """A part of a snapshot's bytes (thesis 5.1, InstallSnapshot). `crc`: CRC-32C of `data`."""

    mark: SnapshotMark
    offset: int
    size: int  # of the whole snapshot
    data: bytes
    crc: int


class SnapshotReply(_Base, frozen=True, tag="snapshot_got"):
    """How much of the snapshot (`index`, `snapshot_term`) is here: the next chunk wanted begins there."""

    index: int
    snapshot_term: int
    offset: int
    done: bool = False
    refused: bool = False


class TimeoutNow(_Base, frozen=True, tag="timeout_now"):
    """Thesis 3.10: campaign at once, without asking first."""


class ReadIndexRequest(_Base, frozen=True, tag="read"):
    """A follower asks up to where it must have applied before it may read. `read_id` is its own, never used twice."""

    read_id: int


class ReadIndexReply(_Base, frozen=True, tag="read_at"):
    """`index` 0: refused, ask again later."""

    read_id: int
    index: int


Message = (
    VoteRequest
    | VoteReply
    | Append
    | AppendReply
    | Heartbeat
    | HeartbeatReply
    | SnapshotChunk
    | SnapshotReply
    | TimeoutNow
    | ReadIndexRequest
    | ReadIndexReply
)
