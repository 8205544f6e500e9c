"""The coordination service without consensus: one state machine that is asked directly, behind the real gateway."""

import asyncio
import random
import socket
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator
from types import TracebackType
from typing import Self, TypeVar

import msgspec

from balancer.consensus.gateway import API_VERSION, Gateway
from balancer.coordination import elections, locks, requests, responses
from balancer.coordination.checks import check_txn
from balancer.coordination.command import Command, Request, encode
from balancer.coordination.errors import CoordinationError
from balancer.coordination.leases import to_propose
from balancer.coordination.lessor import Lessor, Renewal
from balancer.coordination.refusals import ELECTION_SESSION_EXPIRED, LEADER_NOT_GIVEN, LOCK_SESSION_EXPIRED
from balancer.coordination.state_machine import StateMachine
from balancer.coordination.transactions import is_read_only
from balancer.coordination.waiters import Verdict, Waiters
from balancer.coordination.watches import WatchHub, WatchStream
from balancer.transport.http_server import HttpServer

IDENTITY = 0x1234_5678_9ABC_DEF0
LEAST_TTL = 1  # seconds
ORPHAN_TTL = 60  # of a lock without a lease

R = TypeVar("R", bound=msgspec.Struct)


class MemoryService:
    """What the gateway may ask, answered at once by a member that is alone and keeps nothing."""

    def __init__(self) -> None:
        self.machine = StateMachine()
        self.hub = WatchHub(self.machine.space)
        self.wakers: dict[WatchStream, asyncio.Event] = {}
        self._waiters = Waiters()
        self._waiting: dict[locks.Claim, list[asyncio.Future[Verdict]]] = defaultdict(list)
        self._lessor = Lessor()
        self._lessor.promote((), 0.0, 0.0)
        self._rng = random.Random(1)

    # ---- keys

    async def range(self, request: requests.RangeRequest) -> responses.RangeResponse:
        return headed(self.machine.range(request))

    async def put(self, request: requests.PutRequest) -> responses.PutResponse:
        return self._do(request, responses.PutResponse)

    async def delete_range(self, request: requests.DeleteRangeRequest) -> responses.DeleteRangeResponse:
        return self._do(request, responses.DeleteRangeResponse)

    async def txn(self, request: requests.TxnRequest) -> responses.TxnResponse:
        check_txn(request)
        if is_read_only(request):
            return headed(self.machine.read_txn(request))
        return self._do(request, responses.TxnResponse)

    async def compact(self, request: requests.CompactionRequest) -> responses.CompactionResponse:
        return self._do(request, responses.CompactionResponse)

    # ---- leases

    async def lease_grant(self, request: requests.LeaseGrantRequest) -> responses.LeaseGrantResponse:
        chosen = self._rng.randrange(2**40, 2**62)
        proposed = to_propose(request, least_ttl=LEAST_TTL, chosen_id=chosen)
        response = self._do(proposed, responses.LeaseGrantResponse)
        self._lessor.granted(response.ID, response.TTL, self._now())
        self._look_at_leases_later()
        return response

    async def lease_revoke(self, request: requests.LeaseRevokeRequest) -> responses.LeaseRevokeResponse:
        self._lessor.revoked(request.ID)
        return self._do(request, responses.LeaseRevokeResponse)

    async def lease_keep_alive(self, lease: int) -> responses.LeaseKeepAliveResponse:
        renewed = self._lessor.renew(lease, self._now()) is Renewal.RENEWED
        ttl = (self.machine.leases.ttl(lease) or 0) if renewed else 0
        return headed(responses.LeaseKeepAliveResponse(self._revision(), lease, ttl))

    async def lease_time_to_live(self, request: requests.LeaseTimeToLiveRequest) -> responses.LeaseTimeToLiveResponse:
        return headed(self.machine.time_to_live(request, self._lessor.remaining(request.ID, self._now()) or 0))

    async def leases(self) -> responses.LeaseLeasesResponse:
        return headed(self.machine.list_leases())

    def _look_at_leases_later(self) -> None:
        due = self._lessor.next_due()
        if due is not None and due - self._now() < 10_000_000:  # a loop's timer cannot wait for centuries
            asyncio.get_running_loop().call_at(due, self._end_leases)

    def _end_leases(self) -> None:
        for lease in self._lessor.due(self._now()):
            self._lessor.revoked(lease)
            self._do(requests.LeaseRevokeRequest(lease), responses.LeaseRevokeResponse)
        self._look_at_leases_later()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    # ---- watches

    def watch(self) -> "MemoryWatches":
        return MemoryWatches(self)

    def wake(self) -> None:
        """Wake whoever serves a stream that has got something to take."""
        for stream in self.hub.take_ready():
            self.wakers[stream].set()

    # ---- locks and elections

    async def lock(self, request: requests.LockRequest) -> responses.LockResponse:
        lease = await self._session(request.lease)
        response = self._do(locks.acquire(request.name, lease), responses.TxnResponse)
        claim, held = locks.claimed(request.name, lease, response)
        header = response.header
        if not held:
            verdict = await self._turn_of(claim)
            if verdict.standing is locks.Standing.LOST:
                raise LOCK_SESSION_EXPIRED.error()
            header = _header(verdict.revision)
        return responses.LockResponse(header, claim.key)

    async def unlock(self, request: requests.UnlockRequest) -> responses.UnlockResponse:
        gone = self._do(requests.DeleteRangeRequest(request.key), responses.DeleteRangeResponse)
        return responses.UnlockResponse(gone.header)

    async def campaign(self, request: requests.CampaignRequest) -> responses.CampaignResponse:
        lease = await self._session(request.lease)
        response = self._do(elections.campaign(request.name, lease, request.value), responses.TxnResponse)
        claim, other_value = elections.campaigned(request.name, lease, request.value, response)
        leader = elections.leader_key(request.name, lease, claim)
        if other_value:
            await self.proclaim(requests.ProclaimRequest(leader, request.value))
        if (await self._turn_of(claim)).standing is locks.Standing.LOST:
            raise ELECTION_SESSION_EXPIRED.error()
        return responses.CampaignResponse(response.header, leader)

    async def proclaim(self, request: requests.ProclaimRequest) -> responses.ProclaimResponse:
        if request.leader is None:
            raise LEADER_NOT_GIVEN.error()
        response = self._do(elections.proclaim(request.leader, request.value), responses.TxnResponse)
        elections.check_proclaimed(response)
        return responses.ProclaimResponse(response.header)

    async def leader(self, request: requests.LeaderRequest) -> responses.LeaderResponse:
        response = await self.range(locks.first_of(request.name))
        return responses.LeaderResponse(response.header, elections.leader_of(response))

    async def observe(self, request: requests.LeaderRequest) -> AsyncGenerator[responses.LeaderResponse, None]:
        observer = elections.Observer(request.name)
        watch, news = observer.begin(await self.range(observer.everybody()))
        stream = self.watch()
        await stream.create(watch)
        try:
            while True:
                for revision, leader in news:
                    yield responses.LeaderResponse(_header(revision), leader)
                news = observer.follow((await anext(stream)).events)
        finally:
            await stream.close()

    async def resign(self, request: requests.ResignRequest) -> responses.ResignResponse:
        if request.leader is None:
            raise LEADER_NOT_GIVEN.error()
        return responses.ResignResponse(self._do(elections.resign(request.leader), responses.TxnResponse).header)

    async def _session(self, lease: int) -> int:
        return lease or (await self.lease_grant(requests.LeaseGrantRequest(ORPHAN_TTL))).ID

    async def _turn_of(self, claim: locks.Claim) -> Verdict:
        standing = self._waiters.wait(self.machine.space, claim)
        if standing is not locks.Standing.WAITING:
            return Verdict(claim, standing, self.machine.revision)
        turn: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._waiting[claim].append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            self._waiters.give_up(claim)
            self._do(locks.release(claim), responses.TxnResponse)
            raise

    # ---- members

    async def status(self) -> responses.StatusResponse:
        index, size = self.machine.applied_index, self.machine.size
        return responses.StatusResponse(
            _header(self.machine.revision), API_VERSION, size, IDENTITY, index, 1, index, (), size
        )

    async def member_list(self, *, linearizable: bool) -> responses.MemberListResponse:
        member = responses.Member(IDENTITY, "memory", ("http://127.0.0.1:1",), ("http://127.0.0.1:2",))
        return headed(responses.MemberListResponse(members=(member,)))

    # ---- the state machine

    def _do(self, request: Request, kind: type[R]) -> R:
        machine = self.machine
        data = encode(Command(session=0, seq=0, answered_below=0, request=request))
        applied = machine.apply(machine.applied_index + 1, 1, data)
        self.hub.publish(applied.changes)
        self.wake()
        for verdict in self._waiters.applied(machine.space, applied.changes):
            for turn in self._waiting.pop(verdict.claim, ()):
                if not turn.done():
                    turn.set_result(verdict)
        if isinstance(applied.result, CoordinationError):
            raise applied.result
        assert isinstance(applied.result, kind)
        return headed(applied.result)

    def _revision(self) -> responses.ResponseHeader:
        return responses.ResponseHeader(revision=self.machine.revision)


def _header(revision: int) -> responses.ResponseHeader:
    return responses.ResponseHeader(IDENTITY, IDENTITY, revision, 1)


def headed(response: R) -> R:
    """A response whose header says who answered."""
    header: responses.ResponseHeader = response.header  # type: ignore[attr-defined]
    return msgspec.structs.replace(response, header=_header(header.revision))


class MemoryWatches:
    """A stream of watches for the gateway."""

    def __init__(self, service: MemoryService) -> None:
        self._service = service
        self._stream = service.hub.open()
        self._something = service.wakers[self._stream] = asyncio.Event()
        self._taken = asyncio.Event()

    async def create(self, request: requests.WatchCreateRequest) -> None:
        while self._stream.congested:
            self._taken.clear()
            await self._taken.wait()
        self._stream.create(request)
        self._service.wake()

    async def cancel(self, watch_id: int) -> None:
        self._stream.cancel(watch_id)
        self._service.wake()

    async def request_progress(self) -> None:
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
                return headed(response)
            if not self._stream.ready:
                await self._something.wait()

    async def close(self) -> None:
        self._stream.close()
        self._service.wakers.pop(self._stream, None)


class MemoryEtcd:
    """The gateway over a `MemoryService` on loopback: `async with MemoryEtcd() as etcd: etcd.url ...`."""

    def __init__(self) -> None:
        self.service = MemoryService()
        self.url = ""
        self._server: HttpServer | None = None

    async def __aenter__(self) -> Self:
        sock = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        self._server = Gateway(self.service).server()
        await self._server.start(sock)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        await self._server.close(grace=0)
