"""The replicated state machine: what each command of the log does, and what it answers.

Deterministic: the same entries give the same state, answers and hash on every member, also after a restore. Nothing
here knows a clock, a random number or an order of hashing. `applied_index` is part of the state: they cannot part.
"""

from collections.abc import Callable
from hashlib import blake2b
from typing import NamedTuple

from balancer.coordination import checks, ranges, transactions
from balancer.coordination.command import (
    Command,
    RegisterSession,
    RegisterSessionResponse,
    Result,
    decode,
)
from balancer.coordination.errors import CoordinationError
from balancer.coordination.key_space import KeySpace
from balancer.coordination.leases import LEASE_COST, Leases
from balancer.coordination.refusals import KEY_NOT_FOUND, LEADER_CHANGED, LEASE_NOT_FOUND, NO_SPACE
from balancer.coordination.requests import (
    CompactionRequest,
    DeleteRangeRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    LeaseTimeToLiveRequest,
    PutRequest,
    RangeRequest,
    TxnRequest,
)
from balancer.coordination.responses import (
    CompactionResponse,
    DeleteRangeResponse,
    LeaseGrantResponse,
    LeaseLeasesResponse,
    LeaseRevokeResponse,
    LeaseStatus,
    LeaseTimeToLiveResponse,
    PutResponse,
    RangeResponse,
    ResponseHeader,
    TxnResponse,
)
from balancer.coordination.revision_log import Changes
from balancer.coordination.sessions import CLIENTS_FROM, Answer, Sessions
from balancer.errors import BalancerError

QUOTA = 256 * 1024 * 1024
"""Bytes in keys, values and versions. etcd's 2 GiB lie on a disk; ours in the memory of a process that shares its
machine with a load balancer, and a joining member is sent all of it. It must be the same on every member.
"""

SWEEP_AT_COMPACTION = 4_000
SWEEP_PER_ENTRY = 16
"""Changes that are freed at once, and with each later entry: a large compaction must not hold up heartbeats."""


class Applied(NamedTuple):
    """What came of an entry.

    `result`: for whoever asked; None for an entry without a command. `revision`: the store's after it.
    `changes`: what that revision changed, for watches and waiters; none where the store stayed as it was.
    `command`: what the entry holds, where that can be read. `done`: it was done now, not recalled or refused.
    """

    result: Answer | None
    revision: int
    changes: Changes = ()
    command: Command | None = None
    done: bool = False


class OutOfOrderError(BalancerError):
    """An entry was applied that does not follow the last one: the caller is at fault, the state is untouched."""


class HalfDoneError(BalancerError):
    """A fault of ours: what must be checked before the first change was found after it. The state is spoilt."""


class StateMachine:
    """The state after `applied_index`. `space` and `leases` are for reading only, except by a restore."""

    def __init__(self, *, quota: int = QUOTA) -> None:
        self.applied_index = 0
        self.applied_term = 0
        self.quota = quota
        self.leases = Leases()
        self.space = KeySpace(self.leases)
        self.sessions = Sessions()
        self._doers: dict[type, Callable[..., Result]] = {
            PutRequest: self._put,
            DeleteRangeRequest: self._delete_range,
            TxnRequest: self._txn,
            CompactionRequest: self._compact,
            LeaseGrantRequest: self._grant,
            LeaseRevokeRequest: self._revoke,
            RegisterSession: self._register,
        }

    @property
    def revision(self) -> int:
        """The store's newest revision."""
        return self.space.revision

    @property
    def size(self) -> int:
        """Bytes that the quota bounds."""
        return self.space.size + self.leases.size

    # ---- applying

    def apply(self, index: int, term: int, data: bytes) -> Applied:
        """Do the entry `index` of the log. Every entry is to come here; one that is no command, with empty `data`.

        A command that cannot be done, or not be read, is answered with a CoordinationError, the same on every member.
        Raises OutOfOrderError, HalfDoneError; nothing that an entry can hold brings them about.
        """
        if index != self.applied_index + 1:
            raise OutOfOrderError(f"entry {index} was to be applied after entry {self.applied_index}")
        self.applied_index = index
        self.applied_term = term
        space = self.space
        if not space.swept:
            space.sweep(SWEEP_PER_ENTRY)
        if not data:
            return Applied(None, space.revision)
        command = None
        try:
            command = decode(data)
            known = self.sessions.recall(command) if command.session else None
        except CoordinationError as refused:
            return Applied(refused, space.revision, (), command)
        if known is not None:
            return Applied(known, space.revision, (), command)
        answer = self._do(command)
        changes = space.commit()
        if command.session:
            self.sessions.keep(command, answer)
        return Applied(answer, space.revision, changes, command, not isinstance(answer, CoordinationError))

    def _do(self, command: Command) -> Answer:
        if command.decided_term and command.decided_term != self.applied_term:
            return LEADER_CHANGED.error()
        request = command.request
        try:
            return self._doers[type(request)](request)
        except CoordinationError as refused:
            if self.space.changing:
                raise HalfDoneError(f"entry {self.applied_index} was refused half-way: {refused}") from refused
            return refused

    def _put(self, request: PutRequest) -> PutResponse:
        checks.check_put(request)
        if request.lease and request.lease not in self.leases:
            raise LEASE_NOT_FOUND.error()
        if (request.ignore_value or request.ignore_lease) and self.space.get(request.key) is None:
            raise KEY_NOT_FOUND.error()
        self._check_room(transactions.put_size(self.space, request))
        return transactions.put(self.space, request)

    def _delete_range(self, request: DeleteRangeRequest) -> DeleteRangeResponse:
        checks.check_delete(request)
        return transactions.delete_range(self.space, request)

    def _txn(self, request: TxnRequest) -> TxnResponse:
        checks.check_txn(request)
        chosen = transactions.choose(self.space, request)
        transactions.check(self.space, self.leases, chosen)
        if added := transactions.put_cost(self.space, chosen):
            self._check_room(added)
        return self._executed(chosen)

    def _executed(self, chosen: transactions.Chosen) -> TxnResponse:
        done = transactions.execute(self.space, chosen)
        return TxnResponse(self._header(), done.succeeded, done.responses)

    def _compact(self, request: CompactionRequest) -> CompactionResponse:
        self.space.compact(request.revision)
        self.space.sweep(SWEEP_AT_COMPACTION)
        return CompactionResponse(self._header())

    def _grant(self, request: LeaseGrantRequest) -> LeaseGrantResponse:
        self.leases.check_grant(request.ID, request.TTL)
        self._check_room(LEASE_COST)
        ttl = self.leases.grant(request.ID, request.TTL)
        return LeaseGrantResponse(self._header(), request.ID, ttl)

    def _revoke(self, request: LeaseRevokeRequest) -> LeaseRevokeResponse:
        if request.ID not in self.leases:
            raise LEASE_NOT_FOUND.error()
        for key in self.leases.keys(request.ID):
            self.space.delete(key)
        self.leases.remove(request.ID)
        return LeaseRevokeResponse(self._header())

    def _register(self, request: RegisterSession) -> RegisterSessionResponse:
        number = self.applied_index + (CLIENTS_FROM if request.client else 0)
        self.sessions.register(number)
        return RegisterSessionResponse(self._header(), number)

    def _check_room(self, added: int) -> None:
        if self.size + added > self.quota:
            raise NO_SPACE.error()

    def _header(self) -> ResponseHeader:
        return ResponseHeader(revision=self.space.reading_revision)

    # ---- reading

    def range(self, request: RangeRequest) -> RangeResponse:
        """Raises CoordinationError."""
        checks.check_range(request)
        return ranges.answer(self.space, request)

    def read_txn(self, request: TxnRequest) -> TxnResponse:
        """A transaction that `transactions.is_read_only` lets pass without the log. Raises CoordinationError."""
        checks.check_txn(request)
        chosen = transactions.choose(self.space, request)
        transactions.check(self.space, self.leases, chosen)
        return self._executed(chosen)

    def time_to_live(self, request: LeaseTimeToLiveRequest, remaining: int) -> LeaseTimeToLiveResponse:
        """`remaining`: whole seconds, which only the leader's lessor knows."""
        granted = self.leases.ttl(request.ID)
        if granted is None:
            return LeaseTimeToLiveResponse(self._header(), request.ID, TTL=-1)
        keys = tuple(self.leases.keys(request.ID)) if request.keys else ()
        return LeaseTimeToLiveResponse(self._header(), request.ID, remaining, granted, keys)

    def list_leases(self) -> LeaseLeasesResponse:
        """Every lease, in the order of the grants."""
        return LeaseLeasesResponse(self._header(), tuple(LeaseStatus(number) for number, _ in self.leases))

    # ---- comparing

    def hash(self) -> bytes:
        """16 bytes, equal on all members that applied the same entries. O(sessions + unconfirmed answers)."""
        space = self.space
        numbers = [
            *(self.applied_index, self.applied_term, self.quota),
            *(space.revision, space.compacted, space.log.first, space.size, space.digest, self.leases.digest),
        ]
        for number, session in self.sessions:
            numbers += (number, session.answered_below, len(session.answers), *session.answers)
        return blake2b(",".join(map(str, numbers)).encode(), digest_size=16).digest()
