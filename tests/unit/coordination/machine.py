"""A state machine that is asked directly: numbers the entries, and raises what it is refused."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from balancer.coordination.command import Command, Request, encode
from balancer.coordination.errors import Code, CoordinationError
from balancer.coordination.requests import (
    CompactionRequest,
    DeleteRangeRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)
from balancer.coordination.responses import KeyValue
from balancer.coordination.state_machine import QUOTA, Applied, StateMachine


@contextmanager
def refusal(code: Code, message: str) -> Iterator[None]:
    """What is done inside is refused so."""
    with pytest.raises(CoordinationError) as caught:
        yield
    assert (caught.value.code, caught.value.message) == (code, message)


class Machine:
    """One member's state, with the entries that made it."""

    def __init__(self, *, quota: int = QUOTA) -> None:
        self.state = StateMachine(quota=quota)
        self.term = 1
        self.entries: list[tuple[int, int, bytes]] = []

    def enter(self, data: bytes) -> Applied:
        """Apply one more entry."""
        entry = (self.state.applied_index + 1, self.term, data)
        self.entries.append(entry)
        return self.state.apply(*entry)

    def apply(self, request: Request, **command: int) -> Applied:
        fields = {"session": 0, "seq": 0, "answered_below": 0} | command
        return self.enter(encode(Command(request=request, **fields)))

    def do(self, request: Request, **command: int):
        result = self.apply(request, **command).result
        if isinstance(result, CoordinationError):
            raise result
        return result

    def put(self, key: bytes, value: bytes = b"", lease: int = 0, **fields: bool):
        return self.do(PutRequest(key, value, lease, **fields))

    def delete(self, key: bytes, range_end: bytes = b"", *, prev_kv: bool = False):
        return self.do(DeleteRangeRequest(key, range_end, prev_kv))

    def txn(self, *success: RequestOp, compare: tuple = (), failure: tuple = ()):
        return self.do(TxnRequest(compare, success, failure))

    def compact(self, revision: int):
        return self.do(CompactionRequest(revision))

    def grant(self, lease: int, ttl: int = 60):
        return self.do(LeaseGrantRequest(TTL=ttl, ID=lease))

    def revoke(self, lease: int):
        return self.do(LeaseRevokeRequest(lease))

    def range(self, key: bytes = b"\0", range_end: bytes = b"\0", **fields: object):
        return self.state.range(RangeRequest(key, range_end, **fields))  # type: ignore[arg-type]

    def get(self, key: bytes) -> KeyValue | None:
        found = self.range(key, b"").kvs
        return found[0] if found else None

    def keys(self, **fields: object) -> list[bytes]:
        return [kv.key for kv in self.range(**fields).kvs]


def op_put(key: bytes, value: bytes = b"", lease: int = 0, **fields: bool) -> RequestOp:
    return RequestOp(request_put=PutRequest(key, value, lease, **fields))


def op_delete(key: bytes, range_end: bytes = b"", *, prev_kv: bool = False) -> RequestOp:
    return RequestOp(request_delete_range=DeleteRangeRequest(key, range_end, prev_kv))


def op_range(key: bytes, range_end: bytes = b"", **fields: object) -> RequestOp:
    return RequestOp(request_range=RangeRequest(key, range_end, **fields))  # type: ignore[arg-type]


def op_txn(*success: RequestOp, compare: tuple = (), failure: tuple = ()) -> RequestOp:
    return RequestOp(request_txn=TxnRequest(compare, success, failure))
