"""The contract between the Raft core and whatever drives it: what to write, send and apply, and in which order.

The driver's duty, for every `Ready` in the order of their numbers:

1. Send `messages` at any time (a leader's appends may travel while its own disk writes: thesis 10.2.1).
2. Write `snapshot`, then `truncate_from`/`entries`, then `hard_state`, and make them durable when `must_sync`.
3. Only then send `messages_after_sync` and call `node.persisted(number)`. Several Readys may be written with one sync,
   and further ones may be taken meanwhile; numbers are persisted in order.
4. Apply `committed` to the state machine in order, then call `node.applied(index)`. They may be applied before they are
   on this member's own disk (a majority has them), never before an earlier `snapshot` is installed.
5. Answer `reads`: each may read the state machine once `applied >= index`.

If writing fails, the driver must not call `persisted`, send anything or go on.
"""

from dataclasses import dataclass

from balancer.raft.log_entry import Entry, HardState, NodeId, SnapshotMark
from balancer.raft.message import Message


@dataclass(frozen=True, slots=True)
class ReadState:
    """The read that was asked for with `read_id` sees everything that was finished before, once `index` is applied."""

    read_id: int
    index: int


@dataclass(frozen=True, slots=True)
class SoftState:
    """What anybody may like to know and nobody has to remember."""

    leader: NodeId
    is_leader: bool


@dataclass(frozen=True, slots=True)
class Ready:
    """What the core wants done. See the module's text for the order."""

    number: int
    hard_state: HardState | None = None
    entries: tuple[Entry, ...] = ()  # they replace whatever the log has from entries[0].index on
    snapshot: SnapshotMark | None = None  # whole and verified: it replaces the log and the state machine
    must_sync: bool = False
    messages: tuple[Message, ...] = ()
    messages_after_sync: tuple[Message, ...] = ()
    committed: tuple[Entry, ...] = ()
    reads: tuple[ReadState, ...] = ()
    refused_reads: tuple[int, ...] = ()  # their ids: the leader changed, ask again
    soft_state: SoftState | None = None  # when it changed
