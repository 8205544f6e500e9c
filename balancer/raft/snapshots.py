"""Snapshots on their way from a leader to a peer that lacks compacted entries (Raft section 7; thesis section 5).

One chunk is under way at a time; its answer says where the next begins, so that a lost, repeated or damaged chunk, a
peer that restarts and a peer that has the snapshot already all come out right. Between two snapshots that end at the
same entry nothing is mixed: what arrives belongs to one sender and one term.
"""

from balancer.raft import commit
from balancer.raft.core import Core, Receiving
from balancer.raft.log_entry import SnapshotMark
from balancer.raft.message import AppendReply, SnapshotChunk, SnapshotReply
from balancer.raft.progress import Progress, Sending

BEATS_UNTIL_RESENT = 2
"""Answered heartbeats without an answer to the chunk: one may have overtaken it, two say that it was lost."""

# The leader's side.


def begin(core: Core, progress: Progress) -> None:
    """The peer's next entry was compacted: sends the newest snapshot, from its beginning."""
    if not progress.active:
        return  # it will answer a heartbeat first
    size = core.snapshots.size(core.mark)
    if size <= 0:
        return  # not there yet
    progress.send_snapshot(Sending(core.mark, size))
    _send_chunk(core, progress)


def _send_chunk(core: Core, progress: Progress) -> None:
    sending = progress.sending
    if sending is None:
        return
    data = core.snapshots.read(sending.mark, sending.offset, core.limits.chunk_bytes)
    if not data:
        restart(core, progress)
        return
    sending.beats = 0
    chunk = SnapshotChunk(
        sender=core.id,
        to=progress.id,
        term=core.term,
        mark=sending.mark,
        offset=sending.offset,
        size=sending.size,
        data=data,
        crc=core.snapshots.checksum(data),
    )
    core.send(chunk)


def restart(core: Core, progress: Progress) -> None:
    """That snapshot is of no use. The next answer of the peer leads to a new one, if it still needs one."""
    progress.probe()
    progress.probe_sent = True
    core.replication_due = True


def on_alive(core: Core, progress: Progress) -> None:
    """The peer answered a heartbeat, though not the chunk: after a few, the chunk is taken for lost."""
    sending = progress.sending
    if sending is None:
        return
    sending.beats += 1
    if sending.beats >= BEATS_UNTIL_RESENT:
        _send_chunk(core, progress)


def is_superfluous(core: Core, progress: Progress) -> bool:
    """The peer has what the snapshot on its way to it contains, or entries of the log would do by now.

    The first alone does not say the second: the log may have been compacted further, and a newer snapshot be needed.
    """
    sending = progress.sending
    return progress.match >= core.log.base_index or sending is None or progress.match >= sending.mark.index


def on_reply(core: Core, message: SnapshotReply) -> None:
    """How far the peer is with it."""
    progress = core.progress.get(message.sender)
    if progress is None:
        return
    progress.active = True
    sending = progress.sending
    if sending is None or (sending.mark.index, sending.mark.term) != (message.index, message.snapshot_term):
        return
    if message.refused:
        restart(core, progress)
    elif message.done:
        progress.matched(sending.mark.index)
        progress.replicate()
        core.replication_due = True
        commit.advance(core)
    elif message.offset != sending.offset and 0 <= message.offset < sending.size:
        sending.offset = message.offset
        _send_chunk(core, progress)


# The follower's side.


def on_chunk(core: Core, message: SnapshotChunk) -> None:
    """InstallSnapshot, receiver implementation (thesis figure 5.3)."""
    mark = message.mark
    if not well_formed(message):
        return
    if is_known(core, mark):
        commit.raise_to(core, mark.index)
        core.receiving = None
        core.promise(AppendReply(sender=core.id, to=message.sender, term=core.term, index=core.commit))
        return
    receiving = _receiving(core, message)
    if message.offset == receiving.offset and core.snapshots.checksum(message.data) == message.crc:
        core.snapshots.write(message.offset, message.data)
        receiving.offset += len(message.data)
    if receiving.offset < receiving.size:
        _answer(core, message, offset=receiving.offset)
        return
    core.receiving = None
    if core.snapshots.finish(mark):
        install(core, mark)
        _answer(core, message, offset=message.size, done=True)
    else:
        _answer(core, message, offset=0, refused=True)


def well_formed(message: SnapshotChunk) -> bool:
    """Whether this can be a part of a snapshot."""
    mark = message.mark
    end = message.offset + len(message.data)
    return mark.index > 0 and 0 < mark.term <= message.term and 0 <= message.offset < end <= message.size


def is_known(core: Core, mark: SnapshotMark) -> bool:
    """Whether its entries are here: it is obsolete, or the log holds its last entry and thus all before it."""
    return mark.index <= core.commit or core.log.term_at(mark.index) == mark.term


def _receiving(core: Core, message: SnapshotChunk) -> Receiving:
    receiving = core.receiving
    if (
        receiving is None
        or (receiving.sender, receiving.term) != (message.sender, message.term)
        or (receiving.mark, receiving.size) != (message.mark, message.size)
    ):
        receiving = Receiving(message.sender, message.term, message.mark, message.size)
        core.receiving = receiving
        core.snapshots.begin(message.mark, message.size)
    return receiving


def _answer(core: Core, message: SnapshotChunk, *, offset: int, done: bool = False, refused: bool = False) -> None:
    """Only that it is done promises anything; but answers wait for the disk, so that chunks come no faster than it."""
    reply = SnapshotReply(
        sender=core.id,
        to=message.sender,
        term=core.term,
        index=message.mark.index,
        snapshot_term=message.mark.term,
        offset=offset,
        done=done,
        refused=refused,
    )
    core.promise(reply)


def install(core: Core, mark: SnapshotMark) -> None:
    """The snapshot takes the place of log, state machine and membership: all three belong to its last entry."""
    core.log.replace(mark.index, mark.term)
    core.durable.forget_from(1)
    core.mark = mark
    core.membership = mark.membership
    core.commit = core.handed = core.applied = mark.index
    core.snapshot_received = mark
