"""The contract between the Raft core and whatever drives it: what to write, send and apply, and in which order.

The driver's duty, for every `Ready` in the order of their numbers:

1. Send `messages` at any time (a leader's appends may travel while its own disk writes: thesis 10.2.1).
2. Write `snapshot`, then `entries` (in place of whatever the log has from the first one's index on), then `hard_state`,
   and make them durable when `must_sync`.
3. Only then send `messages_after_sync` and call `node.persisted(number)`. Several Readys may be written with one sync,
   and further ones may be taken meanwhile; numbers are persisted in order.
4. Apply `committed` to the state machine in order, then call `node.applied(index)`. They may be applied before they are
   on this member's own disk (a majority has them), never before an earlier `snapshot` is installed.
5. Answer `reads`: each may read the state machine once `applied >= index`.

If writing fails, the driver must not call `persisted`, send anything or go on.

A crash may lose the end of what was not synced, never something before what it keeps: the order of 2 is that of the
disk. On a start the core is given what the disk has: the newest snapshot's mark, the entries after it, the hard state.

Bytes of snapshots do not pass through Ready: the core reads and writes them chunk by chunk in a `SnapshotStore`. What
it received and found whole is named by `Ready.snapshot`; making that durable and installing it is part of 2 and 4.
"""

from typing import Protocol

import msgspec

from balancer.raft.log_entry import Entry, HardState, NodeId, SnapshotMark
from balancer.raft.message import Message


class SnapshotStore(Protocol):
    """Where a member's snapshots are. The core reads and writes chunks of them while it handles messages.

    A failing disk raises, which ends the member.

    The store keeps what may still be sent: the newest snapshot that `Node.compact` named, and the one before it.
    """

    def size(self, mark: SnapshotMark) -> int:
        """Bytes of the snapshot with this mark; 0 = it is not here (any longer)."""
        ...

    def read(self, mark: SnapshotMark, offset: int, size: int) -> bytes:
        """`size` bytes of it from `offset` on, fewer at its end."""
        ...

    def begin(self, mark: SnapshotMark, size: int) -> None:
        """A snapshot of `size` bytes is about to arrive. Whatever arrived before of another is void."""
        ...

    def write(self, offset: int, data: bytes) -> None:
        """The next bytes of what arrives. Offsets follow each other without gaps."""
        ...

    def finish(self, mark: SnapshotMark) -> bool:
        """All bytes were written. Whether they are a good snapshot with this mark; if not, they are void."""
        ...

    def checksum(self, data: bytes) -> int:
        """CRC-32C of a chunk."""
        ...


class ReadState(msgspec.Struct, frozen=True):
    """The read that was asked for with `read_id` sees everything that was finished before, once `index` is applied."""

    read_id: int
    index: int


class SoftState(msgspec.Struct, frozen=True):
    """What anybody may like to know and nobody has to remember."""

    leader: NodeId
    is_leader: bool


class Ready(msgspec.Struct, frozen=True):
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
