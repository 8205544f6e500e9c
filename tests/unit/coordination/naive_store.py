"""The store as one would write it without a thought for speed: a whole copy of everything for each revision.

It says what etcd's rules are a second time, in another way than the product does; the two are compared.
"""

from dataclasses import dataclass, field

from balancer.coordination.errors import Code, CoordinationError
from balancer.coordination.requests import (
    Compare,
    CompareResult,
    CompareTarget,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    SortOrder,
    SortTarget,
    TxnRequest,
)
from balancer.coordination.responses import (
    DeleteRangeResponse,
    KeyValue,
    PutResponse,
    RangeResponse,
    ResponseHeader,
    ResponseOp,
    TxnResponse,
)

COMPACTED = CoordinationError(Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted")
FUTURE = CoordinationError(Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision")
KEY_NOT_FOUND = CoordinationError(Code.INVALID_ARGUMENT, "etcdserver: key not found")
DUPLICATE_KEY = CoordinationError(Code.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request")
NO_LEASE = CoordinationError(Code.NOT_FOUND, "etcdserver: requested lease not found")
LEASE_EXISTS = CoordinationError(Code.FAILED_PRECONDITION, "etcdserver: lease already exists")

FIELDS = {
    CompareTarget.VERSION: "version",
    CompareTarget.CREATE: "create_revision",
    CompareTarget.MOD: "mod_revision",
    CompareTarget.VALUE: "value",
    CompareTarget.LEASE: "lease",
}
SORTED_BY = {
    SortTarget.KEY: "key",
    SortTarget.VERSION: "version",
    SortTarget.CREATE: "create_revision",
    SortTarget.MOD: "mod_revision",
    SortTarget.VALUE: "value",
}


def within(key: bytes, start: bytes, end: bytes) -> bool:
    return key == start if not end else start <= key and (end == b"\0" or key < end)


@dataclass
class NaiveStore:
    states: list[dict[bytes, KeyValue]] = field(default_factory=lambda: [{}, {}])  # by revision
    events: list[list[KeyValue]] = field(default_factory=lambda: [[], []])
    leases: dict[int, int] = field(default_factory=dict)
    compacted: int = -1
    state: dict[bytes, KeyValue] = field(default_factory=dict)  # what the running transaction made of the last one
    changes: list[KeyValue] = field(default_factory=list)

    @property
    def revision(self) -> int:
        return len(self.states) - 1

    @property
    def header(self) -> ResponseHeader:
        return ResponseHeader(revision=self.revision + bool(self.changes))

    def commit(self) -> None:
        if self.changes:
            self.states.append(dict(self.state))
            self.events.append(self.changes)
            self.changes = []

    def some_key(self) -> bytes:
        """One that was changed lately, gone or not."""
        return self.events[-1][-1].key if self.events[-1] else b"none"

    # ---- requests

    def range(self, request: RangeRequest) -> RangeResponse:
        now = self.revision + bool(self.changes)
        if request.revision > now:
            raise FUTURE
        if 0 < request.revision < self.compacted:
            raise COMPACTED
        state = self.state if request.revision in (0, now) or request.revision < 0 else self.states[request.revision]
        found = [state[key] for key in sorted(state) if within(key, request.key, request.range_end)]
        count = len(found)
        if request.count_only:
            return RangeResponse(self.header, count=count)
        low, high = request.min_mod_revision, request.max_mod_revision
        bounded = bool(low or high or request.min_create_revision or request.max_create_revision)
        more = False
        if request.sort_order == SortOrder.NONE and not bounded and 0 < request.limit < len(found):
            found, more = found[: request.limit + 1], True
        found = [kv for kv in found if kv.mod_revision >= low and (not high or kv.mod_revision <= high)]
        low, high = request.min_create_revision, request.max_create_revision
        found = [kv for kv in found if kv.create_revision >= low and (not high or kv.create_revision <= high)]
        if request.sort_order != SortOrder.NONE or request.sort_target != SortTarget.KEY:
            found = sorted(found, key=lambda kv: getattr(kv, SORTED_BY[request.sort_target]))
            if request.sort_order == SortOrder.DESCEND:
                found = turned(found, SORTED_BY[request.sort_target])
        if 0 < request.limit < len(found):
            found, more = found[: request.limit], True
        if request.keys_only:
            found = [KeyValue(kv.key, kv.create_revision, kv.mod_revision, kv.version, b"", kv.lease) for kv in found]
        return RangeResponse(self.header, tuple(found), more, count)

    def put(self, request: PutRequest) -> PutResponse:
        before = self.state.get(request.key)
        if request.lease and request.lease not in self.leases:
            raise NO_LEASE
        if (request.ignore_value or request.ignore_lease) and before is None:
            raise KEY_NOT_FOUND
        revision = self.revision + 1
        kv = KeyValue(
            request.key,
            before.create_revision if before else revision,
            revision,
            before.version + 1 if before else 1,
            before.value if before and request.ignore_value else request.value,
            before.lease if before and request.ignore_lease else request.lease,
        )
        self.state[request.key] = kv
        self.changes.append(kv)
        return PutResponse(self.header, before if request.prev_kv else None)

    def delete(self, request: DeleteRangeRequest) -> DeleteRangeResponse:
        gone = [self.state[key] for key in sorted(self.state) if within(key, request.key, request.range_end)]
        for kv in gone:
            del self.state[kv.key]
            self.changes.append(KeyValue(kv.key, mod_revision=self.revision + 1))
        return DeleteRangeResponse(self.header, len(gone), tuple(gone) if request.prev_kv else ())

    def revoke(self, lease: int) -> None:
        if lease not in self.leases:
            raise NO_LEASE
        for key in sorted(key for key, kv in self.state.items() if kv.lease == lease):
            self.delete(DeleteRangeRequest(key))
        del self.leases[lease]

    def grant(self, lease: int, ttl: int) -> None:
        if lease in self.leases:
            raise LEASE_EXISTS
        self.leases[lease] = ttl

    def compact(self, revision: int) -> None:
        if revision <= self.compacted:
            raise COMPACTED
        if revision > self.revision:
            raise FUTURE
        self.compacted = revision

    def txn(self, request: TxnRequest) -> TxnResponse:
        for branch in (request.success, request.failure):
            overlaps(branch)
        before, taken = dict(self.state), dict(self.state)
        try:
            self.check(request, before, "put")
            self.check(request, before, "range")
            response = self.run(request, before)
        except CoordinationError:
            self.state, self.changes = taken, []
            raise
        return TxnResponse(self.header, response.succeeded, response.responses)

    def check(self, request: TxnRequest, before: dict[bytes, KeyValue], what: str) -> None:
        for op in chosen(request, before)[1]:
            if op.request_txn is not None:
                self.check(op.request_txn, before, what)
            elif what == "put" and (put := op.request_put) is not None:
                if (put.ignore_value or put.ignore_lease) and put.key not in before:
                    raise KEY_NOT_FOUND
                if put.lease and put.lease not in self.leases:
                    raise NO_LEASE
            elif what == "range" and op.request_range is not None and op.request_range.revision:
                if op.request_range.revision > self.revision:
                    raise FUTURE
                if op.request_range.revision < self.compacted:
                    raise COMPACTED

    def run(self, request: TxnRequest, before: dict[bytes, KeyValue]) -> TxnResponse:
        succeeded, ops = chosen(request, before)
        responses = []
        for op in ops:
            if op.request_range is not None:
                responses.append(ResponseOp(response_range=self.range(op.request_range)))
            elif op.request_put is not None:
                responses.append(ResponseOp(response_put=self.put(op.request_put)))
            elif op.request_delete_range is not None:
                responses.append(ResponseOp(response_delete_range=self.delete(op.request_delete_range)))
            elif op.request_txn is not None:
                responses.append(ResponseOp(response_txn=self.run(op.request_txn, before)))
        return TxnResponse(ResponseHeader(), succeeded, tuple(responses))


def turned(found: list[KeyValue], name: str) -> list[KeyValue]:
    """Descending, but equal ones in ascending order of their keys."""
    values = sorted({getattr(kv, name) for kv in found}, reverse=True)
    return [kv for value in values for kv in found if getattr(kv, name) == value]


def chosen(request: TxnRequest, before: dict[bytes, KeyValue]) -> tuple[bool, tuple[RequestOp, ...]]:
    succeeded = all(holds(compare, before) for compare in request.compare)
    return succeeded, request.success if succeeded else request.failure


def holds(compare: Compare, state: dict[bytes, KeyValue]) -> bool:
    found = [kv for key, kv in state.items() if within(key, compare.key, compare.range_end)]
    if not found and compare.target == CompareTarget.VALUE:
        return False
    for kv in found or [KeyValue()]:
        actual = getattr(kv, FIELDS[compare.target])
        expected = getattr(compare, FIELDS[compare.target])
        held = {
            CompareResult.EQUAL: actual == expected,
            CompareResult.NOT_EQUAL: actual != expected,
            CompareResult.GREATER: actual > expected,
            CompareResult.LESS: actual < expected,
        }
        if not held[compare.result]:
            return False
    return True


Deletion = tuple[bytes, bytes]


def overlaps(ops: tuple[RequestOp, ...]) -> tuple[list[bytes], list[Deletion]]:
    """etcd's checkIntervals: raises for a key that is put twice, or put and deleted."""
    deleted = [
        (op.request_delete_range.key, op.request_delete_range.range_end) for op in ops if op.request_delete_range
    ]
    put: list[bytes] = []
    for nested in [op.request_txn for op in ops if op.request_txn is not None]:
        then, then_deleted = overlaps(nested.success)
        other, other_deleted = overlaps(nested.failure)
        for key in {*then, *other}:
            refuse_overlap(key, put, deleted)
        put += {*then, *other}
        deleted += then_deleted + other_deleted
    for op in ops:
        if op.request_put is not None:
            refuse_overlap(op.request_put.key, put, deleted)
            put.append(op.request_put.key)
    return put, deleted


def refuse_overlap(key: bytes, put: list[bytes], deleted: list[Deletion]) -> None:
    # An end of "\0" is not "to the last" here, but an end below every key.
    if key in put or any(key == start if not end else start <= key < end for start, end in deleted):
        raise DUPLICATE_KEY
