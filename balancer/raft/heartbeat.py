"""Heartbeats: a leader stays one by them, spreads its commit index, and learns that it still leads (section 5.2)."""

from balancer.raft import commit, read_index, snapshots
from balancer.raft.core import Core
from balancer.raft.message import Heartbeat, HeartbeatReply
from balancer.raft.progress import Pace, Progress


def beat(core: Core) -> None:
    """To all peers. What reads wait for a quorum travels with it."""
    core.beat_elapsed = 0
    core.reads.asked = core.reads.position
    for progress in core.peers:
        heartbeat = Heartbeat(
            sender=core.id,
            to=progress.id,
            term=core.term,
            commit=commit_known_to(core, progress),
            read_id=core.reads.position,
        )
        core.send(heartbeat)


def commit_known_to(core: Core, progress: Progress) -> int:
    """A peer is told at most what its own log is known to reach: beyond it, other entries may stand there."""
    return min(progress.match, core.commit)


def on_heartbeat(core: Core, message: Heartbeat) -> None:
    """Of a follower whose leader this is."""
    commit.raise_to(core, message.commit)
    core.send(HeartbeatReply(sender=core.id, to=message.sender, term=core.term, read_id=message.read_id))


def on_heartbeat_reply(core: Core, message: HeartbeatReply) -> None:
    """Of a leader: the peer lives. What is still open may be lost, so that it is asked where its log ends."""
    progress = core.progress.get(message.sender)
    if progress is None:
        return
    progress.active = True
    progress.probe_sent = False
    if progress.pace is Pace.SNAPSHOT:
        snapshots.on_alive(core, progress)
    elif progress.match < core.log.last_index or progress.pace is Pace.PROBE:
        progress.poke = True
        core.replication_due = True
    read_index.confirmed(core, progress, message.read_id)
