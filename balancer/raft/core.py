"""What one member knows: the state that the rules in the modules beside this one read and change. It decides nothing.

Names are those of extended Raft figure 2: `term` and `vote` persist, `commit` and `applied` are volatile on all
members, `progress` (nextIndex, matchIndex) on leaders.
"""

import enum
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from balancer.raft.durable import Durable
from balancer.raft.limits import Limits
from balancer.raft.log import Log
from balancer.raft.log_entry import Membership, NodeId, SnapshotMark
from balancer.raft.message import Message
from balancer.raft.progress import Progress
from balancer.raft.ready import ReadState, SnapshotStore

if TYPE_CHECKING:
    from random import Random


class Role(enum.Enum):
    """What a member does at the moment (Raft section 5.1; PRE_CANDIDATE: thesis 9.6)."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre_candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


@dataclass(slots=True, eq=False)
class Read:
    """A read that a leader answers. `asker` is the follower that sent it on, 0 = asked here.

    `index` is the commit index when it was taken up; `position` its place among all reads that this leader took up.
    """

    asker: NodeId
    read_id: int
    index: int = 0
    position: int = 0


@dataclass(slots=True, eq=False)
class Reads:
    """Reads under way (thesis 6.4). `last_id` and `position` only grow: no number means two reads."""

    last_id: int
    done: list[ReadState] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    # of a leader
    postponed: list[Read] = field(default_factory=list)  # until an entry of the own term is committed
    waiting: deque[Read] = field(default_factory=deque)  # for a quorum, in the order of their positions
    position: int = 0
    asked: int = 0  # the newest position that heartbeats carry
    confirmed: int = 0  # the newest that a quorum confirmed
    # of a follower
    forwarded: deque[int] = field(default_factory=deque)  # own ids, for the leader to answer
    asked_id: int = 0  # the newest of them that was sent
    waited: int = 0  # ticks since then


@dataclass(slots=True, eq=False)
class Receiving:
    """A snapshot that arrives in chunks from `sender`: the first `offset` bytes are here."""

    sender: NodeId
    term: int
    mark: SnapshotMark
    size: int
    offset: int = 0


@dataclass(slots=True, eq=False, kw_only=True)
class Core:
    """The state of one member. Invariant: applied <= handed <= commit <= log.last_index."""

    id: NodeId
    rng: "Random"
    limits: Limits
    snapshots: SnapshotStore
    election_ticks: int
    heartbeat_ticks: int

    term: int
    vote: NodeId
    log: Log
    durable: Durable
    mark: SnapshotMark  # the newest snapshot that may be sent
    membership: Membership  # as of `applied`
    commit: int
    handed: int  # up to where committed entries were handed out
    applied: int
    reads: Reads

    role: Role = Role.FOLLOWER
    leader: NodeId = 0
    elapsed: int = 0  # ticks since it heard from a leader or voted; on a leader, since it looked for its quorum
    timeout: int = 0  # in ticks, drawn anew with every change of role or term
    votes: dict[NodeId, bool] = field(default_factory=dict)

    # of a leader
    peers: tuple[Progress, ...] = ()  # in the order of their ids
    progress: dict[NodeId, Progress] = field(default_factory=dict)
    beat_elapsed: int = 0
    replication_due: bool = False
    pending_membership_index: int = 0  # no change of the membership before this is applied
    transfer_to: NodeId = 0
    transfer_elapsed: int = 0
    transfer_told: bool = False

    # of a follower
    receiving: Receiving | None = None

    # for the next Ready
    messages: list[Message] = field(default_factory=list)
    messages_after_sync: list[Message] = field(default_factory=list)
    snapshot_received: SnapshotMark | None = None

    def send(self, message: Message) -> None:
        """Sends what promises nothing about this member's disk, except that it is in its term."""
        if self.durable.term == self.term:
            self.messages.append(message)
        else:
            self.messages_after_sync.append(message)

    def promise(self, message: Message) -> None:
        """Sends it when everything that was decided so far is on the disk (thesis 3.8: persist before replying)."""
        self.messages_after_sync.append(message)

    @property
    def is_voter(self) -> bool:
        """Whether the membership in use counts on this member."""
        return self.id in self.membership.voters
