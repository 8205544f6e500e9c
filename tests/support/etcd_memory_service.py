"""The coordination service without consensus: one state machine that is asked directly, behind the real gateway."""

import asyncio
import random
import socket
from types import TracebackType
from typing import Self

import msgspec

from balancer.consensus.gateway import API_VERSION, Gateway
from balancer.consensus.service import CoordinationService
from balancer.coordination import requests, responses
from balancer.coordination.command import Command, Request, Ticket, encode
from balancer.coordination.errors import CoordinationError
from balancer.coordination.lessor import Lessor, Renewal
from balancer.coordination.state_machine import StateMachine
from balancer.transport.http_server import HttpServer

IDENTITY = 0x1234_5678_9ABC_DEF0
LEAST_TTL = 1  # seconds
UNNUMBERED = Ticket(0, 0, 0)


class MemoryService(CoordinationService):
    """A member that is alone, applies each command as it comes, and keeps nothing."""

    def __init__(self) -> None:
        super().__init__(StateMachine(), random.Random(1), least_ttl=LEAST_TTL)
        self._lessor = Lessor()
        self._lessor.promote((), 0.0, 0.0)

    async def apply(self, request: Request, ticket: Ticket | None = None) -> msgspec.Struct:
        return self._apply(request, ticket or UNNUMBERED)

    def _apply(self, request: Request, ticket: Ticket = UNNUMBERED) -> msgspec.Struct:
        data = encode(Command(*ticket, request))
        applied = self.machine.apply(self.machine.applied_index + 1, 1, data)
        self.changed(applied.changes, applied.revision)
        match applied.result:
            case CoordinationError():
                raise applied.result
            case responses.LeaseGrantResponse(ID=lease, TTL=ttl) if applied.done:
                self._lessor.granted(lease, ttl, self._now())
                self._look_at_leases_later()
            case responses.LeaseRevokeResponse() if applied.done:
                assert isinstance(request, requests.LeaseRevokeRequest)
                self._lessor.revoked(request.ID)
        assert isinstance(applied.result, msgspec.Struct)
        return applied.result

    async def catch_up(self) -> None:
        return

    async def renew(self, lease: int) -> int:
        renewed = self._lessor.renew(lease, self._now()) is Renewal.RENEWED
        return (self.machine.leases.ttl(lease) or 0) if renewed else 0

    async def remaining(self, lease: int) -> int:
        return self._lessor.remaining(lease, self._now()) or 0

    def header(self, revision: int) -> responses.ResponseHeader:
        return responses.ResponseHeader(IDENTITY, IDENTITY, revision, 1)

    async def status(self) -> responses.StatusResponse:
        index, size = self.machine.applied_index, self.machine.size
        return responses.StatusResponse(
            self.header(self.machine.revision), API_VERSION, size, IDENTITY, index, 1, index, (), size
        )

    async def member_list(self, *, linearizable: bool) -> responses.MemberListResponse:
        member = responses.Member(IDENTITY, "memory", ("http://127.0.0.1:1",), ("http://127.0.0.1:2",))
        return responses.MemberListResponse(self.header(0), (member,))

    def _look_at_leases_later(self) -> None:
        due = self._lessor.next_due()
        if due is not None and due - self._now() < 10_000_000:  # a loop's timer cannot wait for centuries
            asyncio.get_running_loop().call_at(due, self._end_leases)

    def _end_leases(self) -> None:
        for lease in self._lessor.due(self._now()):
            self._apply(requests.LeaseRevokeRequest(lease))
        self._look_at_leases_later()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


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
