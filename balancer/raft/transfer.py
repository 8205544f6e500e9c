"""Handing over leadership (thesis section 3.10): for restarts that cost a round trip and not an election timeout."""

from balancer.raft import election
from balancer.raft.core import Core, Role
from balancer.raft.log_entry import NodeId
from balancer.raft.message import TimeoutNow
from balancer.raft.refusals import NotLeaderError, TransferRefusedError


def begin(core: Core, to: NodeId) -> None:
    """Step 1: the leader stops taking proposals, so that the other can catch up. A later call replaces an earlier."""
    if core.role is not Role.LEADER:
        raise NotLeaderError("only a leader hands over", core.leader)
    if to == core.id:
        return
    if to not in core.membership.voters:
        raise TransferRefusedError(f"member {to} is no voter", core.id)
    core.transfer_to = to
    core.transfer_elapsed = 0
    core.transfer_told = False


def flush(core: Core) -> None:
    """Steps 2 and 3: once its log is as long as the leader's, the other may campaign at once."""
    to = core.transfer_to
    if to and not core.transfer_told and core.progress[to].match == core.log.last_index:
        core.transfer_told = True
        core.send(TimeoutNow(sender=core.id, to=to, term=core.term))


def tick(core: Core) -> None:
    """ "If leadership transfer does not complete after about an election timeout, the prior leader aborts"."""
    if core.transfer_to:
        core.transfer_elapsed += 1
        if core.transfer_elapsed >= core.election_ticks:
            core.transfer_to = 0


def on_timeout_now(core: Core, message: TimeoutNow) -> None:
    """Campaigns without asking first, and in spite of the leader that everybody hears: it asked for this."""
    if core.role is Role.FOLLOWER and core.leader in (0, message.sender):
        election.campaign(core, transfer=True)
