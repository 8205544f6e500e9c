"""What a face of the coordination service may ask (`service_face.Service`), for whatever applies commands beneath it.

Who holds a lock, and what a watcher is told, follows from the replicated state alone; here is only the waiting. A
subclass says how a command gets applied (`apply`), when this member has caught up with all others (`catch_up`), what
its leader knows of a lease, and who it is.
"""

import abc
import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from random import Random
from typing import Final, TypeVar

import msgspec

from balancer.consensus.service_turns import Turns
from balancer.coordination import elections, locks, requests, responses
from balancer.coordination.checks import check_txn
from balancer.coordination.command import RegisterSession, RegisterSessionResponse, Request, Ticket
from balancer.coordination.errors import Code, CoordinationError
from balancer.coordination.leases import to_propose
from balancer.coordination.refusals import (
    ELECTION_SESSION_EXPIRED,
    LEADER_NOT_GIVEN,
    LOCK_SESSION_EXPIRED,
    NUMBER_USED,
)
from balancer.coordination.revision_log import Changes
from balancer.coordination.state_machine import StateMachine
from balancer.coordination.transactions import is_read_only
from balancer.coordination.watches import WatchHub, WatchStream

ORPHAN_TTL: Final = 60
"""Seconds: the lease of a lock or candidacy that came without one, as in etcd."""
PROGRESS_EVERY: Final = 600.0
"""Seconds between two notices of progress to watches that asked for them, as in etcd."""

R = TypeVar("R", bound=msgspec.Struct)


class CoordinationService(abc.ABC):
    """See the module. `least_ttl`: seconds, what a shorter lease is raised to."""

    def __init__(self, machine: StateMachine, rng: Random, *, least_ttl: int) -> None:
        self._machine = machine
        self._rng = rng
        self._least_ttl = least_ttl
        self.hub = WatchHub(machine.space)
        self.wakers: dict[WatchStream, asyncio.Event] = {}
        self._turns = Turns(lambda: self._machine.space, self.catch_up, self.apply)

    # ---- what a subclass gives

    @abc.abstractmethod
    async def apply(self, request: Request, ticket: Ticket | None = None) -> msgspec.Struct:
        """Have all members apply it, once for each `ticket`; its answer. Raises CoordinationError."""

    @abc.abstractmethod
    async def catch_up(self) -> None:
        """Return when this member's state holds everything that was answered before. Raises CoordinationError."""

    @abc.abstractmethod
    async def renew(self, lease: int) -> int:
        """The lease's new TTL in seconds, 0 = there is none. Raises CoordinationError."""

    @abc.abstractmethod
    async def remaining(self, lease: int) -> int:
        """Whole seconds that the lease has, as the leader knows. Raises CoordinationError."""

    @abc.abstractmethod
    def header(self, revision: int) -> responses.ResponseHeader:
        """Who answers, and in which term."""

    # ---- what happened to the state

    @property
    def machine(self) -> StateMachine:
        """The state of this member, to be read only."""
        return self._machine

    def changed(self, changes: Changes, revision: int) -> None:
        """An entry was applied. To be called before the next one is: who waits is judged on this state."""
        self.hub.publish(changes)
        self._turns.changed(changes)
        self.wake()

    def replaced(self, machine: StateMachine) -> None:
        """A snapshot took the place of the state."""
        self._machine = machine
        self.hub.restored(machine.space)
        self._turns.replaced()
        self.wake()

    def wake(self) -> None:
        """Wake whoever serves a stream that has got something to take."""
        for stream in self.hub.take_ready():
            waker = self.wakers.get(stream)
            if waker is not None:
                waker.set()

    # ---- keys

    async def range(self, request: requests.RangeRequest) -> responses.RangeResponse:
        """Read keys."""
        if not request.serializable:
            await self.catch_up()
        return self._headed(self._machine.range(request))

    async def put(self, request: requests.PutRequest, ticket: Ticket | None = None) -> responses.PutResponse:
        """Write one key."""
        return await self._do(request, responses.PutResponse, ticket)

    async def delete_range(
        self, request: requests.DeleteRangeRequest, ticket: Ticket | None = None
    ) -> responses.DeleteRangeResponse:
        """Delete keys."""
        return await self._do(request, responses.DeleteRangeResponse, ticket)

    async def txn(self, request: requests.TxnRequest, ticket: Ticket | None = None) -> responses.TxnResponse:
        """Compare, then do one of two lists of operations."""
        check_txn(request)
        if is_read_only(request):
            await self.catch_up()
            return self._headed(self._machine.read_txn(request))
        return await self._do(request, responses.TxnResponse, ticket)

    async def compact(
        self, request: requests.CompactionRequest, ticket: Ticket | None = None
    ) -> responses.CompactionResponse:
        """Forget what was before a revision."""
        return await self._do(request, responses.CompactionResponse, ticket)

    async def open_session(self) -> RegisterSessionResponse:
        """A session for a client that numbers its changes."""
        return await self._do(RegisterSession(client=True), RegisterSessionResponse)

    # ---- leases

    async def lease_grant(
        self, request: requests.LeaseGrantRequest, ticket: Ticket | None = None
    ) -> responses.LeaseGrantResponse:
        """Begin a lease."""
        proposed = to_propose(request, least_ttl=self._least_ttl, chosen_id=self._rng.randrange(2**40, 2**62))
        return await self._do(proposed, responses.LeaseGrantResponse, ticket)

    async def lease_revoke(
        self, request: requests.LeaseRevokeRequest, ticket: Ticket | None = None
    ) -> responses.LeaseRevokeResponse:
        """End a lease and delete its keys."""
        return await self._do(request, responses.LeaseRevokeResponse, ticket)

    async def lease_keep_alive(self, lease: int) -> responses.LeaseKeepAliveResponse:
        """Give a lease its full TTL again. The header is of before: never later than a revocation that comes then."""
        header = self.header(self._machine.revision)
        return responses.LeaseKeepAliveResponse(header, lease, await self.renew(lease))

    async def lease_time_to_live(self, request: requests.LeaseTimeToLiveRequest) -> responses.LeaseTimeToLiveResponse:
        """How long a lease has."""
        await self.catch_up()
        left = await self.remaining(request.ID) if request.ID in self._machine.leases else 0
        return self._headed(self._machine.time_to_live(request, left))

    async def leases(self) -> responses.LeaseLeasesResponse:
        """All leases."""
        await self.catch_up()
        return self._headed(self._machine.list_leases())

    # ---- watches

    def watch(self) -> "Watches":
        """A new stream, without watches."""
        return Watches(self)

    # ---- locks and elections

    async def lock(self, request: requests.LockRequest) -> responses.LockResponse:
        """Wait until the lock is held."""
        lease = await self._session(request.lease)
        response = await self._do(locks.acquire(request.name, lease), responses.TxnResponse)
        claim, held = locks.claimed(request.name, lease, response)
        verdict = await self._turns.of(claim, held=held)
        if verdict.standing is locks.Standing.LOST:
            raise LOCK_SESSION_EXPIRED.error()
        return responses.LockResponse(response.header if held else self.header(verdict.revision), claim.key)

    async def unlock(self, request: requests.UnlockRequest) -> responses.UnlockResponse:
        """Give a lock up."""
        gone = await self._do(requests.DeleteRangeRequest(request.key), responses.DeleteRangeResponse)
        return responses.UnlockResponse(gone.header)

    async def campaign(self, request: requests.CampaignRequest) -> responses.CampaignResponse:
        """Wait until the election is won."""
        lease = await self._session(request.lease)
        response = await self._do(elections.campaign(request.name, lease, request.value), responses.TxnResponse)
        claim, other_value = elections.campaigned(request.name, lease, request.value, response)
        leader = elections.leader_key(request.name, lease, claim)
        if other_value:
            await self.proclaim(requests.ProclaimRequest(leader, request.value))
        if (await self._turns.of(claim, held=False)).standing is locks.Standing.LOST:
            raise ELECTION_SESSION_EXPIRED.error()
        return responses.CampaignResponse(response.header, leader)

    async def proclaim(self, request: requests.ProclaimRequest) -> responses.ProclaimResponse:
        """Change the value that the leader is known by."""
        if request.leader is None:
            raise LEADER_NOT_GIVEN.error()
        response = await self._do(elections.proclaim(request.leader, request.value), responses.TxnResponse)
        elections.check_proclaimed(response)
        return responses.ProclaimResponse(response.header)

    async def leader(self, request: requests.LeaderRequest) -> responses.LeaderResponse:
        """Who leads now."""
        response = await self.range(locks.first_of(request.name))
        return responses.LeaderResponse(response.header, elections.leader_of(response))

    async def observe(self, request: requests.LeaderRequest) -> AsyncGenerator[responses.LeaderResponse, None]:
        """Who leads, now and after each change."""
        observer = elections.Observer(request.name)
        watch, news = observer.begin(await self.range(observer.everybody()))
        stream = self.watch()
        await stream.create(watch)
        try:
            while True:
                for revision, leader in news:
                    yield responses.LeaderResponse(self.header(revision), leader)
                response = await anext(stream)
                news = observer.follow(response.events)
                if response.canceled:  # a compaction took what it had not been told yet
                    watch, news = observer.begin(await self.range(observer.everybody()))
                    await stream.create(watch)
        finally:
            await stream.close()

    async def resign(self, request: requests.ResignRequest) -> responses.ResignResponse:
        """Give leadership up."""
        if request.leader is None:
            raise LEADER_NOT_GIVEN.error()
        response = await self._do(elections.resign(request.leader), responses.TxnResponse)
        return responses.ResignResponse(response.header)

    async def _session(self, lease: int) -> int:
        return lease or (await self.lease_grant(requests.LeaseGrantRequest(ORPHAN_TTL))).ID

    # ---- members: nothing to change where there is no cluster

    async def member_add(self, request: requests.MemberAddRequest) -> responses.MemberAddResponse:
        """Let a member in that waits to be added, as a learner."""
        raise _unserved()

    async def member_remove(self, request: requests.MemberChangeRequest) -> responses.MembersResponse:
        """Take a member out, for good."""
        raise _unserved()

    async def member_promote(self, request: requests.MemberChangeRequest) -> responses.MembersResponse:
        """Give a learner a vote."""
        raise _unserved()

    async def move_leader(self, request: requests.MoveLeaderRequest) -> responses.MoveLeaderResponse:
        """Let another voter lead."""
        raise _unserved()

    # ---- answers

    async def _do(self, request: Request, kind: type[R], ticket: Ticket | None = None) -> R:
        answer = await self.apply(request, ticket)
        if not isinstance(answer, kind):  # a client gave a number twice, and this is the answer to the first
            raise NUMBER_USED.error()
        return self._headed(answer)

    def _headed(self, response: R) -> R:
        header: responses.ResponseHeader = response.header  # type: ignore[attr-defined]
        return msgspec.structs.replace(response, header=self.header(header.revision))


def _unserved() -> CoordinationError:
    return CoordinationError(Code.UNIMPLEMENTED, "there is no cluster whose members could be changed")


class Watches:
    """A stream of watches (`service_face.WatchStream`)."""

    def __init__(self, service: CoordinationService) -> None:
        self._service = service
        self._stream = service.hub.open()
        self._something = service.wakers[self._stream] = asyncio.Event()
        self._taken = asyncio.Event()
        self._progress = asyncio.get_running_loop().call_later(PROGRESS_EVERY, self._progress_due)

    async def create(self, request: requests.WatchCreateRequest) -> None:
        """Begin a watch."""
        while self._stream.congested:
            self._taken.clear()
            await self._taken.wait()
        self._stream.create(request)
        self._service.wake()

    async def cancel(self, watch_id: int) -> None:
        """End a watch."""
        self._stream.cancel(watch_id)
        self._service.wake()

    async def request_progress(self) -> None:
        """Ask how far all of them are."""
        self._stream.request_progress()
        self._service.wake()

    def __aiter__(self) -> AsyncIterator[responses.WatchResponse]:
        return self

    async def __anext__(self) -> responses.WatchResponse:
        while True:
            self._something.clear()
            response = self._stream.take()
            self._taken.set()
            if response is not None:
                header = self._service.header(response.header.revision)
                return msgspec.structs.replace(response, header=header)
            if not self._stream.ready:
                await self._something.wait()

    async def close(self) -> None:
        """End all of them."""
        self._progress.cancel()
        self._stream.close()
        self._service.wakers.pop(self._stream, None)

    def _progress_due(self) -> None:
        self._stream.progress_due()
        self._service.wake()
        self._progress = asyncio.get_running_loop().call_later(PROGRESS_EVERY, self._progress_due)
