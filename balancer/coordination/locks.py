"""Locks as keys (etcd's client/v3/concurrency): what to propose, who holds, and whom a waiter waits for.

Whoever wants the lock NAME puts a key NAME/LEASE with its lease; the key that was created first holds it. So a lock
ends with its lease, the order of waiting is that of the log, and the create_revision of the owner's key rises from
owner to owner: it is the fencing token.

A waiter whose key is gone must never be given the lock, though nobody stands before it any more: its lease ended while
it waited. So the own key is looked at first, in the same state as the others.
"""

import enum
from typing import NamedTuple

from balancer.coordination.key_space import KeySpace
from balancer.coordination.requests import (
    Compare,
    CompareTarget,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    SortOrder,
    SortTarget,
    TxnRequest,
)
from balancer.coordination.responses import KeyValue, RangeResponse, TxnResponse
from balancer.coordination.watch_index import prefix_end


class Claim(NamedTuple):
    """A place in a lock's or an election's order. `revision`: the create_revision of `key`, the fencing token."""

    prefix: bytes
    key: bytes
    revision: int


class Standing(enum.Enum):
    """What a claim is worth in a state."""

    WAITING = enum.auto()
    HELD = enum.auto()
    LOST = enum.auto()  # its key is gone; one of the same name with another create_revision is another claim


def prefix_of(name: bytes) -> bytes:
    """What the keys of all owners and waiters of a name begin with."""
    return name + b"/"


def owner_key(name: bytes, lease: int) -> bytes:
    """The key of one of them; `lease` in hexadecimal, a negative one with its sign, as Go prints it."""
    return prefix_of(name) + b"%x" % lease


def first_of(name: bytes) -> RangeRequest:
    """Asks who holds the lock or leads: the key that was created first, none where nobody does."""
    prefix = prefix_of(name)
    return RangeRequest(prefix, prefix_end(prefix), 1, sort_order=SortOrder.ASCEND, sort_target=SortTarget.CREATE)


def one_before(claim: Claim) -> RangeRequest:
    """Asks for the key that was created last before the claim's: wait for its end, then ask again; none = held.

    For who can only ask and watch. `standing` says the same of a state.
    """
    return RangeRequest(
        claim.prefix,
        prefix_end(claim.prefix),
        1,
        sort_order=SortOrder.DESCEND,
        sort_target=SortTarget.CREATE,
        max_create_revision=claim.revision - 1,
    )


def acquire(name: bytes, lease: int, value: bytes = b"") -> TxnRequest:
    """Stand in line with this lease, or find that it stands there already (or even holds the lock)."""
    key = owner_key(name, lease)
    own = RequestOp(request_range=RangeRequest(key))
    owner = RequestOp(request_range=first_of(name))
    return TxnRequest(
        compare=(Compare(target=CompareTarget.CREATE, key=key, create_revision=0),),
        success=(RequestOp(request_put=PutRequest(key, value, lease)), owner),
        failure=(own, owner),
    )


def claimed(name: bytes, lease: int, response: TxnResponse) -> tuple[Claim, bool]:
    """What `acquire` came to: the claim, and whether it held the lock then."""
    key = owner_key(name, lease)
    revision = response.header.revision
    if not response.succeeded:
        revision = _only(response.responses[0].response_range).create_revision
    owner = response.responses[1].response_range
    held = owner is None or not owner.kvs or owner.kvs[0].create_revision == revision
    return Claim(prefix_of(name), key, revision), held


def release(claim: Claim) -> TxnRequest:
    """Give up this claim and no other: the key goes only if it is still the same one."""
    return TxnRequest(
        compare=(still_there(claim.key, claim.revision),),
        success=(RequestOp(request_delete_range=DeleteRangeRequest(claim.key)),),
    )


def still_there(key: bytes, revision: int) -> Compare:
    """Holds while the claim exists: the guard to put into every write that only its holder may do."""
    return Compare(target=CompareTarget.CREATE, key=key, create_revision=revision)


def standing(space: KeySpace, claim: Claim) -> Standing:
    """What the claim is worth now. O(keys under the prefix)."""
    own = space.get(claim.key)
    if own is None or own.create_revision != claim.revision:
        return Standing.LOST
    return Standing.HELD if claim.revision <= first_revision(space, claim.prefix) else Standing.WAITING


def first_revision(space: KeySpace, prefix: bytes) -> int:
    """The create_revision of the owner under a prefix, 0 = nobody. O(keys under the prefix)."""
    found, _ = space.select(prefix, prefix_end(prefix))
    return min((kv.create_revision for kv in found), default=0)


def _only(found: RangeResponse | None) -> KeyValue:
    assert found is not None
    return found.kvs[0]
