"""Why the core says no, and what it says when the world is not as Raft demands."""

from balancer.errors import BalancerError
from balancer.raft.log_entry import NodeId


class RefusedError(BalancerError):
    """Nothing was done. `leader` is whom to ask instead, 0 = not known."""

    def __init__(self, text: str, leader: NodeId = 0) -> None:
        super().__init__(text)
        self.leader = leader


class NotLeaderError(RefusedError):
    """Only a leader does this."""


class BusyError(RefusedError):
    """A bound is reached (`Limits`): ask again later. Nothing waits in a queue."""


class TransferringError(RefusedError):
    """This leader hands its office over, at most for an election timeout: ask again. `leader` is who gets it."""


class MembershipRefusedError(RefusedError):
    """This change of the membership is not allowed, or not now. The text says which."""


class TransferRefusedError(RefusedError):
    """The office cannot be handed to this member."""


class SafetyBrokenError(BalancerError):
    """What Raft rests on does not hold: some member lost data or lies. Going on could only spread it."""


class RestoreError(BalancerError):
    """What the disk holds cannot be a member's state."""
