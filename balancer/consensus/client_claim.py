"""What locks and elections have in common: a queue of keys, each bound to its owner's lease, the oldest of which rules.

The keys are those of etcd's own recipes (client/v3/concurrency), so that `etcdctl lock`, etcd's lock service and this
client exclude each other: NAME/LEASE-IN-HEX, put if it is missing; the key with the lowest create_revision under NAME/
rules; whoever waits watches the next older one only.

Why not the server's lock service: when a connection to it breaks, it deletes the key of whoever waited there, at some
later time and whatever became of that key meanwhile. Here nobody but the owner, and the end of its lease, deletes it.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from balancer.consensus.client_errors import (
    CompactedError,
    LeaseLostError,
    LockLostError,
    NotReachedError,
    OutcomeUnknownError,
    RefusedError,
)
from balancer.consensus.client_kv import TXN, created_at, delete, get, missing, put, transaction
from balancer.consensus.client_lease import Context, Lease
from balancer.consensus.client_watch import IDLE, Watch, create_request
from balancer.coordination.errors import Code, CoordinationError
from balancer.coordination.requests import (
    Compare,
    PutRequest,
    RangeRequest,
    SortOrder,
    SortTarget,
    TxnRequest,
    WatchFilter,
)
from balancer.coordination.responses import EventType, KeyValue, RangeResponse, ResponseOp, TxnResponse

_IDLE_IN_QUEUE = 3.0  # seconds without a word after which a member is asked whether it still serves
_PAUSE = 0.5  # seconds before a key is looked at again that could not be watched


def oldest(prefix: bytes) -> RangeRequest:
    """Who rules: the key under `prefix` that was created first."""
    return RangeRequest(prefix, _end(prefix), limit=1, sort_order=SortOrder.ASCEND, sort_target=SortTarget.CREATE)


class Grant:
    """A lock or a leadership that is held.

    `token` is the fencing token: the create_revision of `key`, higher for each holder than for the one before. Whatever
    the holder writes to may compare it; `guard` does so in a transaction on the cluster's own keys.

    `lost` is set when it ended or may have, and `why` tells the reason; it is never taken again by itself. Code that
    does not let the event loop run asks `held`, which reads the clock, before each act.
    """

    def __init__(self, context: Context, lease: Lease, key: bytes, token: int) -> None:
        self.key = key
        self.token = token
        self.given_up = False
        self._context = context
        self._lease = lease
        self._watching = context.background.task(self._watch(), f"holding {key!r}")

    @property
    def guard(self) -> Compare:
        """Holds in a transaction as long as this grant does."""
        return created_at(self.key, self.token)

    @property
    def lost(self) -> asyncio.Event:
        """Set when it is lost, not when it is given up."""
        return self._lease.lost

    @property
    def why(self) -> str:
        """Why it is lost; "" when it is not."""
        return self._lease.why

    @property
    def held(self) -> bool:
        """It is held, by this process's own clock, at this moment."""
        return self._lease.held

    @property
    def remaining(self) -> float:
        """Seconds for which it is held even if the cluster is not heard of any more."""
        return self._lease.remaining

    @property
    def lease(self) -> Lease:
        """What it is bound to; further keys may be bound to it."""
        return self._lease

    @asynccontextmanager
    async def while_held(self) -> AsyncIterator[None]:
        """The code inside is cancelled when it is lost. Raises LockLostError then."""
        try:
            async with self._lease.while_held():
                yield
        except LeaseLostError:
            if self._lease.lost.is_set():
                raise self.loss() from None
            raise

    def loss(self) -> LockLostError:
        """The error that says that it was lost."""
        return LockLostError(f"{self.key.decode('utf-8', 'replace')} was lost: {self.why or 'it was given up'}")

    async def give_up(self, *also: bytes) -> None:
        """Let the next one have it, and delete `also` if it was still held. Raises nothing of the cluster's.

        Without an answer it ends when its TTL is over.
        """
        if self.given_up:
            return
        self.given_up = True
        self._watching.cancel()
        background = self._context.background
        held = self._lease.held
        self._lease.retire()
        try:
            if held:
                release = transaction([self.guard], [delete(key) for key in (self.key, *also)])
                with suppress(CoordinationError):
                    await asyncio.shield(background.last_word(self._txn(release), f"release {self.key!r}"))
        finally:
            background.last_word(self._lease.give_up(), f"revoke {self._lease.id:x}")

    async def write(self, request: PutRequest) -> None:
        """Write a key if it is still held. Raises LockLostError, NotReachedError, OutcomeUnknownError."""
        answer = await self._txn(transaction([self.guard], [request]))
        if not answer.succeeded:
            self._lease.lose("its key is gone")
            raise self.loss()

    async def _txn(self, request: TxnRequest) -> TxnResponse:
        return await self._context.calls.repeat(TXN, request, TxnResponse)

    async def _watch(self) -> None:
        """Hear of the end of the key: somebody may delete it while the lease lives."""
        start = self.token + 1
        gone = False
        while not gone:
            try:
                await _until_deleted(self._context, self.key, start, idle=IDLE)
                gone = True
            except CoordinationError:  # out of reach, or not heard of for so long that changes were compacted away
                await asyncio.sleep(self._context.rng.uniform(0.5, 1) * _PAUSE)
                with suppress(CoordinationError):
                    answer = await self._context.calls.read(TXN, transaction([self.guard]), TxnResponse)
                    gone = not answer.succeeded
                    start = answer.header.revision + 1
        self._lease.lose("its key was deleted")


async def claim(context: Context, lease: Lease, name: bytes, value: bytes) -> tuple[bytes, int]:
    """Wait until the own key rules: the key and its create_revision.

    Raises LeaseLostError, RefusedError, NotReachedError. It leaves a key behind when it fails or is cancelled: then the
    lease must be revoked.
    """
    prefix = name + b"/"
    key = prefix + b"%x" % lease.id
    async with lease.while_held():
        answer = await _queue(
            context,
            transaction([missing(key)], [put(key, value, lease=lease), oldest(prefix)], [get(key), oldest(prefix)]),
        )
        first = _found(answer.responses[1])
        own = answer.header.revision if answer.succeeded else _only(_found(answer.responses[0]), key).create_revision
        if not first or first[0].key != key:
            await _until_oldest(context, key, prefix, own)
    return key, own


async def _queue(context: Context, request: TxnRequest) -> TxnResponse:
    """It may be sent twice: the second time the key is there already."""
    try:
        return await context.calls.repeat(TXN, request, TxnResponse)
    except OutcomeUnknownError as error:  # if the key is there, it goes with its lease
        raise NotReachedError(str(error)) from None
    except RefusedError as error:
        if error.code is Code.NOT_FOUND:
            raise LeaseLostError(f"the lease ended before the key was put: {error}") from None
        raise


async def _until_oldest(context: Context, key: bytes, prefix: bytes, own: int) -> None:
    """Wait until no older key is left. The own key is looked at in the same breath: it may be gone (etcd#11408)."""
    older = RangeRequest(
        prefix,
        _end(prefix),
        limit=1,
        sort_order=SortOrder.DESCEND,
        sort_target=SortTarget.CREATE,
        max_create_revision=own - 1,
    )
    while True:
        answer = await context.calls.read(TXN, transaction([created_at(key, own)], [older]), TxnResponse)
        if not answer.succeeded:
            raise LeaseLostError("the key that waited in the queue was deleted")
        ahead = _found(answer.responses[0])
        if not ahead:
            return
        with suppress(CompactedError):  # then look again
            await _until_deleted(context, ahead[0].key, answer.header.revision + 1, idle=_IDLE_IN_QUEUE)


async def _until_deleted(context: Context, key: bytes, start: int, *, idle: float) -> None:
    """Wait until a key is deleted at revision `start` or later. Raises CompactedError, RefusedError."""
    request = create_request(key, start_revision=start, filters=[WatchFilter.NOPUT])
    async with Watch(context.calls, request, idle=idle) as watch:
        async for event in watch:
            if event.type is EventType.DELETE:
                return


def _end(prefix: bytes) -> bytes:
    return prefix[:-1] + bytes([prefix[-1] + 1])  # it ends with a slash


def _found(response: ResponseOp) -> tuple[KeyValue, ...]:
    return (response.response_range or RangeResponse()).kvs


def _only(found: tuple[KeyValue, ...], key: bytes) -> KeyValue:
    if not found:
        raise RefusedError(Code.UNKNOWN, f"the key {key!r} is there and is not there")
    return found[0]
