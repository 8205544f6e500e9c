"""Changes of role and term (extended Raft figure 2, Rules for Servers; thesis figure 3.3)."""

from balancer.raft import read_index
from balancer.raft.core import Core, Role
from balancer.raft.log_entry import NodeId
from balancer.raft.progress import Progress


def become_follower(core: Core, term: int, leader: NodeId) -> None:
    """Follows `leader` (0 = whoever it may be) in `term`, which is not lower than the own."""
    _begin(core, term)
    core.role = Role.FOLLOWER
    core.leader = leader


def become_pre_candidate(core: Core) -> None:
    """Asks whether it could win. Term and vote stay (thesis 9.6)."""
    _begin(core, core.term)
    core.role = Role.PRE_CANDIDATE


def become_candidate(core: Core) -> None:
    """Begins a term and votes for itself in it (Raft section 5.2)."""
    _begin(core, core.term + 1)
    core.role = Role.CANDIDATE
    core.vote = core.id


def become_leader(core: Core) -> None:
    """Won: knows nothing of its peers' logs but that it will try from its own end.

    What it inherited may hold a change of the membership, so that none may follow until that is applied.
    """
    _begin(core, core.term)
    core.role = Role.LEADER
    core.leader = core.id
    core.pending_membership_index = core.log.last_index
    follow_membership(core)


def follow_membership(core: Core) -> None:
    """A leader's peers are the members of the membership in use; those who stay keep their progress."""
    membership = core.membership
    known = core.progress
    core.progress = {
        peer: known.get(peer) or Progress(peer, core.log.last_index + 1)
        for peer in sorted({*membership.voters, *membership.learners} - {core.id})
    }
    core.peers = tuple(core.progress.values())
    core.replication_due = True


def _begin(core: Core, term: int) -> None:
    if term != core.term:
        core.term = term
        core.vote = 0
    core.leader = 0
    core.elapsed = core.beat_elapsed = 0
    draw_timeout(core)
    core.votes.clear()
    core.progress = {}
    core.peers = ()
    core.replication_due = False
    core.pending_membership_index = 0
    core.transfer_to = 0
    read_index.refuse_all(core)


def draw_timeout(core: Core) -> None:
    """Randomised, so that votes are rarely split (Raft section 5.2): between one and two election timeouts."""
    core.timeout = core.rng.randrange(core.election_ticks, 2 * core.election_ticks)
