"""Programs that use the cluster: each asks any member, hears an answer or none, and writes down what it saw."""

from typing import TYPE_CHECKING, Any

from balancer.coordination import locks
from balancer.coordination.errors import Code, CoordinationError
from balancer.coordination.requests import (
    CompactionRequest,
    Compare,
    CompareTarget,
    DeleteRangeRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)
from balancer.coordination.responses import (
    DeleteRangeResponse,
    LeaseGrantResponse,
    PutResponse,
    RangeResponse,
    TxnResponse,
)
from tests.simulation.cluster.desk import REFUSED, ask
from tests.simulation.cluster.history import Operation
from tests.simulation.cluster.lock_laws import guarded_key
from tests.simulation.cluster.processes import Doing, Process, sleep

if TYPE_CHECKING:
    from tests.simulation.cluster.member import Member
    from tests.simulation.cluster.world import World

KEYS = (b"a", b"b", b"c", b"d")
LOCKS = (b"red", b"blue")
PATIENCE = 1.0
"""Seconds that a client waits for an answer."""


def outcome_is_known(answer: object) -> bool:
    """Whether it is certain what came of the request: done, or refused and not done."""
    if isinstance(answer, CoordinationError):
        return answer.code not in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED)
    return answer is not None


class Clients:
    """All clients of a history."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.operations: list[Operation] = []
        self.done: dict[str, int] = {"read": 0, "write": 0, "lock": 0}
        self._values = 0
        for number in range(world.dials.writers):
            Process(world, lambda process, number=number: self._writer(process, number))  # type: ignore[misc]
        for _ in range(world.dials.lockers):
            Process(world, self._locker)

    def _ask(self, kind: str, argument: Any, seconds: float = PATIENCE) -> Doing:
        """Asks a member."""
        return (yield ask(self._somebody(), kind, argument, seconds))

    def _somebody(self) -> "Member":
        """Any member that anybody knows of."""
        world = self.world
        known = [each for each in world.members.values() if each.state in ("up", "down") and not each.left]
        return world.rng.choice(known)

    # ---- keys

    def _writer(self, process: Process, number: int) -> Doing:
        """Puts, deletes, compares and swaps, and reads, one after the other."""
        rng = self.world.rng
        seen: dict[bytes, bytes | None] = dict.fromkeys(KEYS)
        while True:
            yield sleep(rng.expovariate(1 / 0.12))
            dice = rng.random()
            key = rng.choice(KEYS)
            if dice < 0.45:
                operation = yield from self._get(number, key)
            elif dice < 0.97:
                kind = "put" if dice < 0.7 else "cas" if dice < 0.92 else "delete"
                operation = yield from self._write(number, kind, key, seen[key])
            else:
                revision = len(self.world.laws.truth) - rng.randrange(20)
                yield from self._ask("submit", CompactionRequest(max(revision, 1)))
                continue
            if operation.done and rng.random() < 0.4:  # whoever is asked must have heard of it
                operation = yield from self._get(number, key)
            if operation.revision and (operation.kind in ("get", "cas") or operation.done):
                seen[key] = operation.value if operation.done else operation.found

    def _get(self, number: int, key: bytes) -> Doing:
        operation = Operation(number, "get", key, self.world.timeline.now)
        answer = yield from self._ask("read", RangeRequest(key))
        if isinstance(answer, RangeResponse):
            operation.returned = self.world.timeline.now
            operation.revision = answer.header.revision
            operation.found = answer.kvs[0].value if answer.kvs else None
            self.operations.append(operation)
            self.done["read"] += 1
        return operation

    def _write(self, number: int, kind: str, key: bytes, seen: bytes | None) -> Doing:
        operation = Operation(number, kind, key, self.world.timeline.now)
        if kind != "delete":
            self._values += 1
            operation.value = b"%d.%d" % (number, self._values)
        operation.wanted = seen if kind == "cas" else None
        self.operations.append(operation)  # it may be done, though the history ends before anybody hears of it
        answer = yield from self._ask("submit", _request(operation))
        if answer is REFUSED or (isinstance(answer, CoordinationError) and outcome_is_known(answer)):
            self.operations.remove(operation)  # nothing was done, and nothing is told of the state
        elif outcome_is_known(answer):
            _take_answer(operation, answer)
            operation.returned = self.world.timeline.now
            self.done["write"] += 1
            self.world.faults.acknowledged()
        return operation

    # ---- locks

    def _locker(self, process: Process) -> Doing:
        """Takes a lease, waits for a lock with it, writes under it, lets go: in one way or another."""
        world, rng, laws = self.world, self.world.rng, self.world.lock_laws
        while True:
            yield sleep(rng.expovariate(1 / 0.2))
            lease, ttl = rng.getrandbits(40) + 1, rng.choice((1, 1, 2, 3))
            called = world.timeline.now
            answer = yield from self._ask("submit", LeaseGrantRequest(ttl, lease))
            if not isinstance(answer, LeaseGrantResponse):
                continue
            laws.renewed(lease, ttl, called)
            keeper = _Keeper(self, lease, ttl, careless=rng.random() < 0.15)
            name = rng.choice((*LOCKS, LOCKS[0], LOCKS[0]))
            yield from self._hold(name, lease, keeper)
            keeper.wanted = False
            if rng.random() < 0.7:
                yield from self._ask("submit", LeaseRevokeRequest(lease))

    def _hold(self, name: bytes, lease: int, keeper: "_Keeper") -> Doing:
        rng, laws = self.world.rng, self.world.lock_laws
        member = self._somebody()
        answer = yield ask(member, "lock", (name, lease), 5.0)
        if not isinstance(answer, tuple):
            yield ask(member, "give_up", (name, lease), PATIENCE)
            return
        claim, standing = answer
        if standing is locks.Standing.LOST:
            return
        laws.held(name, lease, claim.revision)
        self.done["lock"] += 1
        for _ in range(rng.randrange(4)):
            yield sleep(rng.expovariate(1 / 0.2))
            if keeper.lost:
                return
            put = PutRequest(guarded_key(name), b"%d" % claim.revision)
            guard = locks.still_there(claim.key, claim.revision)
            yield from self._ask("submit", TxnRequest((guard,), (RequestOp(request_put=put),)))
        laws.released(name, lease)
        yield from self._ask("submit", locks.release(claim))


class _Keeper:
    """Keeps a lease alive until that is not wanted any more; a careless one forgets it."""

    def __init__(self, clients: Clients, lease: int, ttl: int, *, careless: bool) -> None:
        self.wanted = True
        self.lost = False
        self._clients = clients
        self._lease, self._ttl = lease, ttl
        if not careless:
            Process(clients.world, self._keep)

    def _keep(self, process: Process) -> Doing:
        world = self._clients.world
        while self.wanted and not self.lost:
            yield sleep(self._ttl / 3)
            called = world.timeline.now
            answer = yield from self._clients._ask("keep", self._lease, self._ttl / 3)
            if isinstance(answer, int):
                if answer:
                    world.lock_laws.renewed(self._lease, self._ttl, called)
                    world.counts["leases renewed"] += 1
                else:
                    self.lost = True


def _request(operation: Operation) -> PutRequest | DeleteRangeRequest | TxnRequest:
    key, value = operation.key, operation.value or b""
    if operation.kind == "put":
        return PutRequest(key, value)
    if operation.kind == "delete":
        return DeleteRangeRequest(key)
    if operation.wanted is None:
        compare = Compare(target=CompareTarget.CREATE, key=key, create_revision=0)
    else:
        compare = Compare(target=CompareTarget.VALUE, key=key, value=operation.wanted)
    put, look = RequestOp(request_put=PutRequest(key, value)), RequestOp(request_range=RangeRequest(key))
    return TxnRequest((compare,), (put,), (look,))


def _take_answer(operation: Operation, answer: object) -> None:
    assert isinstance(answer, PutResponse | DeleteRangeResponse | TxnResponse)
    operation.revision = answer.header.revision
    if isinstance(answer, TxnResponse):
        operation.done = answer.succeeded
        found = answer.responses[0].response_range
        if found is not None and found.kvs:
            operation.found = found.kvs[0].value
    else:
        operation.done = isinstance(answer, PutResponse) or bool(answer.deleted)
