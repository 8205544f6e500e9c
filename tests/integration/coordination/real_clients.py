"""Programs that use a real cluster and write down what they asked and what they were told, and when.

Times are those of the monotonic clock of this one process, in which all of them run: an answer is noted after it came,
so that an operation never looks shorter than it was. What was not heard of stays open for ever.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from itertools import count
from random import Random
from time import monotonic

from balancer.consensus.client import Coordination
from balancer.consensus.client_errors import NotReachedError, OutcomeUnknownError, RefusedError
from balancer.consensus.client_kv import Operation as Request
from balancer.consensus.client_kv import get, missing, put, value_is
from balancer.coordination.requests import RangeRequest
from balancer.coordination.responses import DeleteRangeResponse, KeyValue, PutResponse, RangeResponse, TxnResponse
from tests.simulation.cluster.history import Operation
from tests.simulation.cluster.laws import BrokenLawError

KEYS = (b"a", b"b", b"c")
"""The single ones; PAIR are two that are always written together."""
PAIR = (b"x", b"y")
GENERATION = 4.0
"""Seconds after which clients turn to new keys, so that the history of one stays short enough to be searched."""
PREFIX = b"keys/"
NOT_DONE = (RefusedError, NotReachedError)
"""What says that nothing was done."""


class History:
    """What all writers did. `undone`: values whose writer was told that nothing was done."""

    def __init__(self) -> None:
        self.began = monotonic()
        self.operations: list[Operation] = []
        self.undone: set[bytes] = set()
        self.counts: Counter[str] = Counter()
        self.stopping = False
        self._values = count(1)

    def key(self, last: bytes) -> bytes:
        """The full name of one of the keys, as they are now."""
        return b"%s%04d/%s" % (PREFIX, (monotonic() - self.began) // GENERATION, last)

    def value(self, client: int) -> bytes:
        """One that nobody wrote before."""
        return b"%d.%d" % (client, next(self._values))


def partner(key: bytes) -> bytes | None:
    """The other key of a pair, for its first."""
    return key[: -len(PAIR[0])] + PAIR[1] if key.endswith(b"/" + PAIR[0]) else None


class Writer:
    """Reads, puts, deletes, compares and swaps, one after the other, on single keys and on pairs.

    `clients`: each operation asks any of them. One of a single member, without second attempts, hears of every failure;
    one of all members that numbers its changes hears of few.
    """

    def __init__(self, number: int, clients: Sequence[Coordination], history: History, rng: Random) -> None:
        self.number = number
        self._clients = clients
        self._history = history
        self._rng = rng
        self._seen: dict[bytes, bytes | None] = {}

    async def run(self, pace: float) -> None:
        """Until the history stops; about one operation each `pace` seconds."""
        rng, history = self._rng, self._history
        while not history.stopping:
            await asyncio.sleep(rng.expovariate(1 / pace))
            key = history.key(rng.choice((*KEYS, PAIR[0])))
            dice = rng.random()
            kind = "get" if dice < 0.4 else "put" if dice < 0.68 else "cas" if dice < 0.95 else "delete"
            if kind in ("put", "delete") and partner(key):
                kind = "cas"
            operation = await self._do(kind, key)
            if operation.done and rng.random() < 0.4:  # whoever is asked must have heard of it
                operation = await self._do("get", key)
            if operation.returned < float("inf") and operation.kind != "delete":
                self._seen[key] = operation.value if operation.done else operation.found

    async def _do(self, kind: str, key: bytes) -> Operation:
        history = self._history
        operation = Operation(self.number, kind, key, monotonic())
        if kind in ("put", "cas"):
            operation.value = history.value(self.number)
        if kind == "cas":
            operation.wanted = self._seen.get(key)
        client = self._rng.choice(self._clients)
        try:
            await _CALLS[kind](client, operation)
        except OutcomeUnknownError:
            history.counts["unknown"] += 1
        except NOT_DONE as error:
            if operation.value is not None:
                history.undone.add(operation.value)
            history.counts[f"not done: {type(error).__name__}"] += 1
            return operation
        else:
            operation.returned = monotonic()
            history.counts[kind if kind != "cas" else "transaction"] += 1
        history.operations.append(operation)
        return operation


async def _get(client: Coordination, operation: Operation) -> None:
    if partner(operation.key) is None:
        answer = await client.range(RangeRequest(operation.key))
    else:
        answer = await client.get_prefix(operation.key[: -len(PAIR[0])])
    operation.revision = answer.header.revision
    operation.found = _value_of(operation.key, answer.kvs)


async def _put(client: Coordination, operation: Operation) -> None:
    answer: PutResponse = await client.put(operation.key, operation.value or b"")
    operation.revision, operation.done = answer.header.revision, True


async def _delete(client: Coordination, operation: Operation) -> None:
    answer: DeleteRangeResponse = await client.delete(operation.key)
    operation.revision, operation.done = answer.header.revision, bool(answer.deleted)


async def _cas(client: Coordination, operation: Operation) -> None:
    key, value, other = operation.key, operation.value or b"", partner(operation.key)
    compare = missing(key) if operation.wanted is None else value_is(key, operation.wanted)
    then: list[Request] = [put(key, value)]
    otherwise: list[Request] = [get(key)]
    if other is not None:
        then.append(put(other, value))
        otherwise.append(get(other))
    answer: TxnResponse = await client.txn([compare], then=then, otherwise=otherwise)
    operation.revision, operation.done = answer.header.revision, answer.succeeded
    if not answer.succeeded:
        found = [kv for each in answer.responses for kv in (each.response_range or RangeResponse()).kvs]
        operation.found = _value_of(key, found)


_CALLS = {"get": _get, "put": _put, "delete": _delete, "cas": _cas}


def _value_of(key: bytes, kvs: Sequence[KeyValue]) -> bytes | None:
    """Raises BrokenLawError where the other half of a pair says something else."""
    values = {kv.key: kv.value for kv in kvs}
    other = partner(key)
    if other is not None and values.get(key) != values.get(other):
        raise BrokenLawError(
            f"{key!r} holds {values.get(key)!r}, and {other!r} in the same answer {values.get(other)!r}"
        )
    return values.get(key)
