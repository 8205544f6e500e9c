"""What the replicated log holds, and what a member must never forget."""

import enum

import msgspec

NodeId = int
"""A member's number, 1 to 2**63 - 1, never used again for another member; 0 = nobody."""


class EntryKind(enum.IntEnum):
    """What applying an entry means."""

    COMMAND = 0  # to the state machine; empty `data` = the entry with which a leader begins its term
    MEMBERSHIP = 1  # `data` is an encoded Membership, in use once applied


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One entry of the log. (index, term) names it for good (Log Matching, extended Raft figure 3).

    Out of the garbage collector's sight: a log holds thousands, and they refer to nothing that it could free.
    """

    index: int
    term: int
    kind: EntryKind = EntryKind.COMMAND
    data: bytes = b""


class HardState(msgspec.Struct, frozen=True, array_like=True):
    """What must be on the disk before anything that rests on it is sent (extended Raft figure 2: persistent state).

    `commit` alone may be written later: a member finds it out again.
    """

    term: int = 0
    vote: NodeId = 0
    commit: int = 0


class Membership(msgspec.Struct, frozen=True, array_like=True):
    """Who belongs to the cluster. Both are sorted. `context` is what the proposer attached, e.g. addresses."""

    voters: tuple[NodeId, ...] = ()
    learners: tuple[NodeId, ...] = ()
    context: bytes = b""


class SnapshotMark(msgspec.Struct, frozen=True, array_like=True):
    """The last entry that a snapshot of the state machine contains, and the membership at it."""

    index: int = 0
    term: int = 0
    membership: Membership = Membership()
