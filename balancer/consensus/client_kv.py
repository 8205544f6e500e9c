"""Keys and values: reads, writes, and transactions with their comparisons."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from balancer.consensus.client_calls import Calls
from balancer.coordination.requests import (
    CompactionRequest,
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
    CompactionResponse,
    DeleteRangeResponse,
    KeyValue,
    PutResponse,
    RangeResponse,
    TxnResponse,
)

if TYPE_CHECKING:
    from balancer.consensus.client_lease import Lease

Text = str | bytes
"""Keys and values are bytes; a str is sent as UTF-8."""

Operation = RangeRequest | PutRequest | DeleteRangeRequest | TxnRequest
"""What a transaction may do."""

RANGE, PUT, DELETE, TXN = "/v3/kv/range", "/v3/kv/put", "/v3/kv/deleterange", "/v3/kv/txn"


def to_bytes(text: Text) -> bytes:
    """The bytes that are sent."""
    return text.encode() if isinstance(text, str) else text


def prefix_range(prefix: Text) -> tuple[bytes, bytes]:
    """(key, range_end) of all keys that begin with `prefix`."""
    start = to_bytes(prefix)
    cut = start.rstrip(b"\xff")
    if not cut:
        return start or b"\0", b"\0"
    return start, cut[:-1] + bytes([cut[-1] + 1])


# ---- comparisons: what must hold for a transaction to do its `then`


def exists(key: Text) -> Compare:
    """There is such a key."""
    return Compare(CompareResult.GREATER, CompareTarget.CREATE, to_bytes(key))


def missing(key: Text) -> Compare:
    """There is no such key."""
    return created_at(key, 0)


def created_at(key: Text, revision: int) -> Compare:
    """The key was created at this revision, and not deleted since: the guard of a fencing token."""
    return Compare(CompareResult.EQUAL, CompareTarget.CREATE, to_bytes(key), create_revision=revision)


def modified_at(key: Text, revision: int) -> Compare:
    """The key was last written at this revision: nobody changed it since it was read (0: there is none)."""
    return Compare(CompareResult.EQUAL, CompareTarget.MOD, to_bytes(key), mod_revision=revision)


def version_is(key: Text, version: int) -> Compare:
    """The key was written so many times since its creation."""
    return Compare(CompareResult.EQUAL, CompareTarget.VERSION, to_bytes(key), version=version)


def value_is(key: Text, value: Text) -> Compare:
    """The key has this value. Never holds for a key that is missing."""
    return Compare(CompareResult.EQUAL, CompareTarget.VALUE, to_bytes(key), value=to_bytes(value))


# ---- operations: what a transaction does


def get(key: Text) -> RangeRequest:
    """Read one key."""
    return RangeRequest(to_bytes(key))


def get_prefix(prefix: Text) -> RangeRequest:
    """Read all keys that begin with `prefix`."""
    return RangeRequest(*prefix_range(prefix))


def put(key: Text, value: Text, *, lease: "Lease | int" = 0) -> PutRequest:
    """Write one key; with a lease it is deleted when that ends."""
    return PutRequest(to_bytes(key), to_bytes(value), lease if isinstance(lease, int) else lease.id)


def delete(key: Text) -> DeleteRangeRequest:
    """Delete one key."""
    return DeleteRangeRequest(to_bytes(key))


def delete_prefix(prefix: Text) -> DeleteRangeRequest:
    """Delete all keys that begin with `prefix`."""
    return DeleteRangeRequest(*prefix_range(prefix))


def transaction(
    compare: Iterable[Compare], then: Iterable[Operation] = (), otherwise: Iterable[Operation] = ()
) -> TxnRequest:
    """The request of a transaction: `then` when every comparison holds, else `otherwise`."""
    return TxnRequest(tuple(compare), tuple(map(_operation, then)), tuple(map(_operation, otherwise)))


def _operation(request: Operation) -> RequestOp:
    match request:
        case RangeRequest():
            return RequestOp(request_range=request)
        case PutRequest():
            return RequestOp(request_put=request)
        case DeleteRangeRequest():
            return RequestOp(request_delete_range=request)
        case TxnRequest():
            return RequestOp(request_txn=request)


class Keys:
    """The calls on keys. All raise RefusedError and NotReachedError; changes raise OutcomeUnknownError, too.

    Reads are linearizable: they see everything that was finished before they began.
    """

    _calls: Calls

    async def get(self, key: Text, *, revision: int = 0, serializable: bool = False) -> KeyValue | None:
        """One key; None = there is none.

        `revision`: as it was then. `serializable`: what the asked member knows, which may be old; needs no quorum.
        """
        request = RangeRequest(to_bytes(key), revision=revision, serializable=serializable)
        answer = await self.range(request)
        return answer.kvs[0] if answer.kvs else None

    async def get_prefix(
        self, prefix: Text, *, limit: int = 0, revision: int = 0, serializable: bool = False, keys_only: bool = False
    ) -> RangeResponse:
        """All keys that begin with `prefix`, in order; `header.revision` + 1 is where a watch goes on from it."""
        key, range_end = prefix_range(prefix)
        request = RangeRequest(
            key, range_end, limit=limit, revision=revision, serializable=serializable, keys_only=keys_only
        )
        return await self.range(request)

    async def range(self, request: RangeRequest) -> RangeResponse:
        """A read with everything that etcd's API has for one."""
        return await self._calls.read(RANGE, request, RangeResponse)

    async def put(self, key: Text, value: Text, *, lease: "Lease | int" = 0, prev_kv: bool = False) -> PutResponse:
        """Write one key. With a lease it is deleted when that ends."""
        number = lease if isinstance(lease, int) else lease.id
        request = PutRequest(to_bytes(key), to_bytes(value), number, prev_kv)
        return await self._calls.change(PUT, request, PutResponse)

    async def delete(self, key: Text, *, prev_kv: bool = False) -> DeleteRangeResponse:
        """Delete one key; `deleted` says whether there was one."""
        return await self._calls.change(DELETE, DeleteRangeRequest(to_bytes(key), b"", prev_kv), DeleteRangeResponse)

    async def delete_prefix(self, prefix: Text, *, prev_kv: bool = False) -> DeleteRangeResponse:
        """Delete all keys that begin with `prefix`."""
        request = DeleteRangeRequest(*prefix_range(prefix), prev_kv)
        return await self._calls.change(DELETE, request, DeleteRangeResponse)

    async def txn(
        self, compare: Iterable[Compare], *, then: Iterable[Operation] = (), otherwise: Iterable[Operation] = ()
    ) -> TxnResponse:
        """All of `then` when every comparison holds, else all of `otherwise`; `succeeded` says which."""
        return await self._calls.change(TXN, transaction(compare, then, otherwise), TxnResponse)

    async def compact(self, revision: int) -> CompactionResponse:
        """Forget what was before `revision`: it can no longer be read or watched from."""
        return await self._calls.change("/v3/kv/compaction", CompactionRequest(revision), CompactionResponse)
