"""What a request must be like before anybody looks at the state (etcd's v3rpc/key.go).

A face checks before it proposes; applying checks again, because what the log holds may come from another member.
"""

from balancer.coordination.covered import Covered
from balancer.coordination.refusals import (
    DUPLICATE_KEY,
    EMPTY_KEY,
    KEY_NOT_FOUND,
    LEASE_PROVIDED,
    TOO_MANY_OPERATIONS,
    VALUE_PROVIDED,
)
from balancer.coordination.requests import DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest

OPERATIONS_MAX = 128
"""In a list of a transaction; a nested one has what its parent's longest list leaves. So nesting is bounded, too."""


def check_range(request: RangeRequest) -> None:
    """Raises CoordinationError."""
    if not request.key:
        raise EMPTY_KEY.error()


def check_put(request: PutRequest) -> None:
    """Raises CoordinationError."""
    if not request.key:
        raise EMPTY_KEY.error()
    if request.ignore_value and request.value:
        raise VALUE_PROVIDED.error()
    if request.ignore_lease and request.lease:
        raise LEASE_PROVIDED.error()


def check_delete(request: DeleteRangeRequest) -> None:
    """Raises CoordinationError."""
    if not request.key:
        raise EMPTY_KEY.error()


def check_txn(request: TxnRequest) -> None:
    """Raises CoordinationError. O(n log n) for n operations, nested ones counted."""
    _check_operations(request, OPERATIONS_MAX)
    _check_overlaps(request.success)
    _check_overlaps(request.failure)


def _check_operations(request: TxnRequest, budget: int) -> None:
    longest = max(len(request.compare), len(request.success), len(request.failure))
    if longest > budget:
        raise TOO_MANY_OPERATIONS.error()
    for compare in request.compare:
        if not compare.key:
            raise EMPTY_KEY.error()
    for operation in (*request.success, *request.failure):
        _check_operation(operation, budget - longest)


def _check_operation(operation: RequestOp, budget: int) -> None:
    if operation.request_range is not None:
        check_range(operation.request_range)
    elif operation.request_put is not None:
        check_put(operation.request_put)
    elif operation.request_delete_range is not None:
        check_delete(operation.request_delete_range)
    elif operation.request_txn is not None:
        _check_operations(operation.request_txn, budget)
    else:
        raise KEY_NOT_FOUND.error()


def _check_overlaps(operations: tuple[RequestOp, ...]) -> tuple[set[bytes], Covered]:
    """What the operations put and delete. No key may be put twice, nor put and deleted (v3rpc/key.go checkIntervals).

    The two branches of a nested transaction may put the same key: one of them is done. A nested one is held against
    this list's deletions and those of the nested ones before it, not of those after it.
    """
    deleted = Covered()
    for operation in operations:
        request = operation.request_delete_range
        if request is None:
            continue
        if request.range_end:
            # As etcd, which here takes an end of "\0" as it stands: no key is below it, nothing is covered.
            deleted.add_range(request.key, request.range_end)
        else:
            deleted.add(request.key)
    put: set[bytes] = set()
    for operation in operations:
        if operation.request_txn is not None:
            _check_nested(operation.request_txn, put, deleted)
    for operation in operations:
        if operation.request_put is not None:
            key = operation.request_put.key
            if key in put or key in deleted:
                raise DUPLICATE_KEY.error()
            put.add(key)
    return put, deleted


def _check_nested(request: TxnRequest, put: set[bytes], deleted: Covered) -> None:
    """Add what a nested transaction may put and delete to `put` and `deleted`."""
    put_then, deleted_then = _check_overlaps(request.success)
    put_else, deleted_else = _check_overlaps(request.failure)
    here = put_then | put_else
    if not put.isdisjoint(here) or any(key in deleted for key in here):
        raise DUPLICATE_KEY.error()
    put |= here
    deleted.update(deleted_then)
    deleted.update(deleted_else)
