"""Majorities (Raft section 5.2). An empty set of voters never agrees on anything."""

import enum
from collections.abc import Mapping, Sequence

from balancer.raft.log_entry import NodeId


class VoteResult(enum.Enum):
    """How an election stands."""

    PENDING = enum.auto()
    WON = enum.auto()
    LOST = enum.auto()


def majority(voters: int) -> int:
    """How many of them decide."""
    return voters // 2 + 1


def vote_result(voters: Sequence[NodeId], votes: Mapping[NodeId, bool]) -> VoteResult:
    """Who did not answer may still say either. Answers of others than `voters` do not count."""
    granted = refused = 0
    for voter in voters:
        vote = votes.get(voter)
        if vote is None:
            continue
        if vote:
            granted += 1
        else:
            refused += 1
    needed = majority(len(voters))
    if voters and granted >= needed:
        return VoteResult.WON
    return VoteResult.LOST if len(voters) - refused < needed else VoteResult.PENDING


def agreed(values: list[int]) -> int:
    """The highest value that a majority has reached, given each voter's. 0 without voters."""
    if not values:
        return 0
    values.sort(reverse=True)
    return values[majority(len(values)) - 1]
