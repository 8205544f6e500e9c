"""What the core shows of itself."""

from dataclasses import dataclass

from balancer.raft.core import Core, Role
from balancer.raft.log_entry import Membership, NodeId


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """How far a peer is, as its leader knows it. `pace`: probe, replicate or snapshot."""

    id: NodeId
    match: int
    next: int
    pace: str
    active: bool  # heard of within the last election timeout or so
    voter: bool


@dataclass(frozen=True, slots=True)
class Status:
    """One member. `peers` is empty but on a leader; `transfer_to` is who gets the leadership, 0 = nobody."""

    id: NodeId
    role: Role
    term: int
    vote: NodeId
    leader: NodeId
    last_index: int
    commit: int
    applied: int
    membership: Membership
    transfer_to: NodeId
    peers: tuple[PeerStatus, ...]


def status_of(core: Core) -> Status:
    """At this moment."""
    peers = tuple(
        PeerStatus(
            progress.id,
            progress.match,
            progress.next,
            progress.pace.name.lower(),
            progress.active,
            progress.id in core.membership.voters,
        )
        for progress in core.peers
    )
    return Status(
        id=core.id,
        role=core.role,
        term=core.term,
        vote=core.vote,
        leader=core.leader,
        last_index=core.log.last_index,
        commit=core.commit,
        applied=core.applied,
        membership=core.membership,
        transfer_to=core.transfer_to,
        peers=peers,
    )
