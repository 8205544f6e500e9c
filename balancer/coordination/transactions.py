"""Transactions (etcdserver/txn/txn.go): all compares, then all checks, then every operation. So it is all or none.

The compares of nested ones see the state before the whole, too; an operation sees what those before it did.
"""

from typing import NamedTuple

from balancer.coordination import ranges
from balancer.coordination.covered import Covered
from balancer.coordination.key_space import VERSION_COST, KeySpace, bounds
from balancer.coordination.leases import Leases
from balancer.coordination.refusals import COMPACTED, FUTURE_REVISION, KEY_NOT_FOUND, LEASE_NOT_FOUND
from balancer.coordination.requests import (
    Compare,
    CompareResult,
    CompareTarget,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)
from balancer.coordination.responses import (
    DeleteRangeResponse,
    KeyValue,
    PutResponse,
    ResponseHeader,
    ResponseOp,
    TxnResponse,
)


class Chosen(NamedTuple):
    """A transaction whose compares are decided: the operations to do, each nested one decided as well."""

    succeeded: bool
    operations: "list[RequestOp | Chosen]"


_MISSING = KeyValue()


def choose(space: KeySpace, request: TxnRequest) -> Chosen:
    """Decide all compares, at every depth, by the state as it is. O(operations + keys compared)."""
    succeeded = all(_holds(space, compare) for compare in request.compare)
    operations = request.success if succeeded else request.failure
    return Chosen(
        succeeded,
        [
            operation if operation.request_txn is None else choose(space, operation.request_txn)
            for operation in operations
        ],
    )


def check(space: KeySpace, leases: Leases, chosen: Chosen) -> None:
    """Raises CoordinationError for what would fail half-way: etcd checks the puts first, then the ranges."""
    _check_puts(space, leases, chosen, Covered())
    _check_ranges(space, chosen)


def put_cost(space: KeySpace, chosen: Chosen) -> int:
    """By how much the puts make the store larger, in its `size`'s bytes."""
    total = 0
    for operation in chosen.operations:
        if isinstance(operation, Chosen):
            total += put_cost(space, operation)
        elif operation.request_put is not None:
            total += put_size(space, operation.request_put)
    return total


def put_size(space: KeySpace, request: PutRequest) -> int:
    """By how much a put makes the store larger, in its `size`'s bytes."""
    value = request.value
    if request.ignore_value and (before := space.get(request.key)) is not None:
        value = before.value
    return VERSION_COST + len(request.key) + len(value)


def execute(space: KeySpace, chosen: Chosen) -> TxnResponse:
    """Do what was checked. The header is filled in by who commits; a nested answer's stays empty, as in etcd."""
    responses = tuple(
        ResponseOp(response_txn=execute(space, operation))
        if isinstance(operation, Chosen)
        else _execute(space, operation)
        for operation in chosen.operations
    )
    return TxnResponse(succeeded=chosen.succeeded, responses=responses)


def put(space: KeySpace, request: PutRequest) -> PutResponse:
    """A put that was checked."""
    value, lease = request.value, request.lease
    if request.ignore_value or request.ignore_lease:
        before = space.get(request.key)
        if before is None:
            raise KEY_NOT_FOUND.error()
        value = before.value if request.ignore_value else value
        lease = before.lease if request.ignore_lease else lease
    previous = space.put(request.key, value, lease)
    header = ResponseHeader(revision=space.reading_revision)
    return PutResponse(header, previous if request.prev_kv else None)


def delete_range(space: KeySpace, request: DeleteRangeRequest) -> DeleteRangeResponse:
    """A deletion that was checked."""
    gone = space.delete_range(request.key, request.range_end)
    header = ResponseHeader(revision=space.reading_revision)
    return DeleteRangeResponse(header, len(gone), tuple(gone) if request.prev_kv else ())


def is_read_only(request: TxnRequest) -> bool:
    """Whether it needs no place in the log: ranges only. A nested transaction counts as a change, as in etcd."""
    return all(operation.request_range is not None for operation in (*request.success, *request.failure))


def is_serializable(request: TxnRequest) -> bool:
    """Whether a read-only one may be answered by any member from what it has: every range says so."""
    return all(
        operation.request_range is not None and operation.request_range.serializable
        for operation in (*request.success, *request.failure)
    )


def _execute(space: KeySpace, operation: RequestOp) -> ResponseOp:
    if operation.request_range is not None:
        return ResponseOp(response_range=ranges.answer(space, operation.request_range))
    if operation.request_put is not None:
        return ResponseOp(response_put=put(space, operation.request_put))
    if operation.request_delete_range is not None:
        return ResponseOp(response_delete_range=delete_range(space, operation.request_delete_range))
    return ResponseOp()


def _holds(space: KeySpace, compare: Compare) -> bool:
    found, _ = space.select(compare.key, compare.range_end)
    if not found:
        # A value that is not there equals none, not even the empty one; everything else of a missing key is 0.
        return compare.target != CompareTarget.VALUE and _compare(compare, _MISSING)
    return all(_compare(compare, kv) for kv in found)


def _compare(compare: Compare, kv: KeyValue) -> bool:
    if compare.target == CompareTarget.VALUE:
        sign = (kv.value > compare.value) - (kv.value < compare.value)
    else:
        actual, expected = _numbers(compare, kv)
        sign = (actual > expected) - (actual < expected)
    if compare.result == CompareResult.EQUAL:
        return sign == 0
    if compare.result == CompareResult.NOT_EQUAL:
        return sign != 0
    return sign == (1 if compare.result == CompareResult.GREATER else -1)


def _numbers(compare: Compare, kv: KeyValue) -> tuple[int, int]:
    if compare.target == CompareTarget.CREATE:
        return kv.create_revision, compare.create_revision
    if compare.target == CompareTarget.MOD:
        return kv.mod_revision, compare.mod_revision
    if compare.target == CompareTarget.LEASE:
        return kv.lease, compare.lease
    return kv.version, compare.version


def _check_puts(space: KeySpace, leases: Leases, chosen: Chosen, deleted: Covered) -> None:
    """`deleted`: what the operations before these delete. etcd ends its process where a put keeps the value of a key
    that was deleted just before in the same transaction; here it is a key that does not exist.
    """
    for operation in chosen.operations:
        if isinstance(operation, Chosen):
            _check_puts(space, leases, operation, deleted)
        elif operation.request_delete_range is not None:
            _cover(deleted, operation.request_delete_range)
        elif operation.request_put is not None:
            request = operation.request_put
            if (request.ignore_value or request.ignore_lease) and (
                space.get(request.key) is None or request.key in deleted
            ):
                raise KEY_NOT_FOUND.error()
            if request.lease and request.lease not in leases:
                raise LEASE_NOT_FOUND.error()


def _cover(deleted: Covered, request: DeleteRangeRequest) -> None:
    if request.range_end:
        deleted.add_range(*bounds(request.key, request.range_end))
    else:
        deleted.add(request.key)


def _check_ranges(space: KeySpace, chosen: Chosen) -> None:
    for operation in chosen.operations:
        if isinstance(operation, Chosen):
            _check_ranges(space, operation)
        elif operation.request_range is not None:
            _check_range(space, operation.request_range)


def _check_range(space: KeySpace, request: RangeRequest) -> None:
    """As etcd, where a negative revision is compacted inside a transaction, though outside it means the newest."""
    if not request.revision:
        return
    if request.revision > space.revision:
        raise FUTURE_REVISION.error()
    if request.revision < space.compacted:
        raise COMPACTED.error()
