"""The coordination service of a member of a cluster: commands go through the log, reads through its read index."""

import asyncio
from collections.abc import Callable
from random import Random

import msgspec

from balancer.clock import monotonic
from balancer.consensus.bootstrap import decode_members
from balancer.consensus.driver import Driver
from balancer.consensus.gateway import API_VERSION
from balancer.consensus.member_addresses import PublishedMember, advertised, decode_published
from balancer.consensus.membership_changes import MembershipChanges
from balancer.consensus.peer_frames import ChangeKind, Member
from balancer.consensus.service import CoordinationService
from balancer.coordination import requests, responses
from balancer.coordination.command import Request, Ticket
from balancer.coordination.errors import Code, CoordinationError
from balancer.coordination.state_machine import StateMachine
from balancer.raft.log_entry import NodeId

REQUEST_TIMEOUT = 7.0
"""Seconds until the outcome of a request counts as not known: etcd's 5 s, and time for two elections."""


class MemberService(CoordinationService):
    """See the module. `drive` comes first: the driver wants somebody to tell of changes when it is made."""

    def __init__(
        self, machine: StateMachine, rng: Random, *, least_ttl: int, cluster_id: int, node_id: NodeId, client: str
    ) -> None:
        super().__init__(machine, rng, least_ttl=least_ttl)
        self._cluster_id = cluster_id
        self._node_id = node_id
        self._client = client
        self._driver: Driver | None = None
        self._changes: MembershipChanges | None = None
        self._applied = self._refused = self._unknown = 0
        self._loop = asyncio.get_running_loop()

    def drive(self, driver: Driver) -> None:
        """What brings commands into the log."""
        self._driver = driver

    @property
    def proposals(self) -> tuple[int, int, int]:
        """Commands since the start: applied, refused, and those whose outcome is not known."""
        return self._applied, self._refused, self._unknown

    @property
    def _running(self) -> Driver:
        assert self._driver is not None, "drive comes first"
        return self._driver

    async def apply(self, request: Request, ticket: Ticket | None = None) -> msgspec.Struct:
        """See CoordinationService. The answer is this member's own, made when it applied the command."""
        driver, now = self._running, monotonic()
        answered: asyncio.Future[object] = self._loop.create_future()
        driver.replica.submit(request, now, now + REQUEST_TIMEOUT, _once(answered), ticket=ticket)
        driver.poke()
        answer = await answered
        if isinstance(answer, CoordinationError):
            if answer.code is Code.UNAVAILABLE:
                self._unknown += 1
            else:
                self._refused += 1
            raise answer
        assert isinstance(answer, msgspec.Struct)
        self._applied += 1
        return answer

    async def catch_up(self) -> None:
        """See CoordinationService."""
        driver, now = self._running, monotonic()
        caught_up: asyncio.Future[object] = self._loop.create_future()
        driver.replica.read(now, now + REQUEST_TIMEOUT, _once(caught_up))
        driver.poke()
        refused = await caught_up
        if isinstance(refused, CoordinationError):
            raise refused

    async def renew(self, lease: int) -> int:
        """See CoordinationService."""
        return await self._ask_leader(lease, renew=True)

    async def remaining(self, lease: int) -> int:
        """See CoordinationService."""
        return await self._ask_leader(lease, renew=False)

    async def _ask_leader(self, lease: int, *, renew: bool) -> int:
        driver, now = self._running, monotonic()
        answered: asyncio.Future[object] = self._loop.create_future()
        driver.replica.keep_alive(lease, now, now + REQUEST_TIMEOUT, _once(answered), renew=renew)
        driver.poke()
        seconds = await answered
        if isinstance(seconds, CoordinationError):
            raise seconds
        assert isinstance(seconds, int)
        return seconds

    def header(self, revision: int) -> responses.ResponseHeader:
        """See CoordinationService."""
        return responses.ResponseHeader(self._cluster_id, self._node_id, revision, self.machine.applied_term)

    # ---- members

    def members(self) -> tuple[Member, ...]:
        """Who belongs to the cluster, as of what is applied here."""
        context = self._running.replica.node.status().membership.context
        return decode_members(context) if context else ()

    async def status(self) -> responses.StatusResponse:
        """This member's state."""
        status, machine = self._running.replica.node.status(), self.machine
        return responses.StatusResponse(
            header=responses.ResponseHeader(self._cluster_id, self._node_id, machine.revision, status.term),
            version=API_VERSION,
            dbSize=machine.size,
            leader=status.leader,
            raftIndex=status.last_index,
            raftTerm=status.term,
            raftAppliedIndex=status.applied,
            dbSizeInUse=machine.size,
            isLearner=self._node_id in status.membership.learners,
        )

    async def member_list(self, *, linearizable: bool) -> responses.MemberListResponse:
        """The members, with the addresses that they published for clients, this one's in any case."""
        if linearizable:
            await self.catch_up()
        learners = self._running.replica.node.status().membership.learners
        listed = tuple(
            responses.Member(
                ID=member.node_id,
                name=member.name,
                peerURLs=(f"http://{member.address}",),
                clientURLs=self._client_urls(member),
                isLearner=member.node_id in learners,
            )
            for member in decode_published(self._running.replica.node.status().membership.context)
        )
        term = self._running.replica.node.status().term
        return responses.MemberListResponse(responses.ResponseHeader(self._cluster_id, self._node_id, 0, term), listed)

    def _client_urls(self, member: PublishedMember) -> tuple[str, ...]:
        told = member.client
        if member.node_id == self._node_id:
            told = advertised(self._client, member.address) or self._client
        return (told,) if told else ()

    # ---- changes of the membership

    def change_members_by(self, changes: MembershipChanges) -> None:
        """What carries them out, and keeps this member's client address published."""
        self._changes = changes
        changes.publish(self._node_id, self._client)

    async def member_add(self, request: requests.MemberAddRequest) -> responses.MemberAddResponse:
        """See service_face."""
        if len(request.peerURLs) != 1:
            raise CoordinationError(Code.INVALID_ARGUMENT, "a member has one address: give one peerURL")
        if not request.isLearner:
            raise CoordinationError(
                Code.INVALID_ARGUMENT, "add it as a learner (isLearner: true), and promote it when it has the log"
            )
        address = request.peerURLs[0].partition("://")[2].rstrip("/") or request.peerURLs[0]
        members = (await self._changed("add", address=address)).members
        added = next((member for member in members if member.peerURLs == (f"http://{address}",)), None)
        return responses.MemberAddResponse(self.header(0), added, members)

    async def member_remove(self, request: requests.MemberChangeRequest) -> responses.MembersResponse:
        """See service_face."""
        return await self._changed("remove", member=request.ID)

    async def member_promote(self, request: requests.MemberChangeRequest) -> responses.MembersResponse:
        """See service_face."""
        return await self._changed("promote", member=request.ID)

    async def move_leader(self, request: requests.MoveLeaderRequest) -> responses.MoveLeaderResponse:
        """See service_face."""
        assert self._changes is not None
        await self._changes.change("transfer", member=request.targetID)
        return responses.MoveLeaderResponse(self.header(0))

    async def _changed(self, kind: ChangeKind, *, member: NodeId = 0, address: str = "") -> responses.MembersResponse:
        assert self._changes is not None
        await self._changes.change(kind, member=member, address=address)
        gone = member if kind == "remove" else 0
        listed = await self.member_list(linearizable=gone != self._node_id)  # nobody tells this one any more
        return responses.MembersResponse(listed.header, tuple(one for one in listed.members if gone != one.ID))


def _once(future: "asyncio.Future[object]") -> Callable[[object], None]:
    """Sets the result, unless who waits has gone."""

    def done(result: object) -> None:
        if not future.done():
            future.set_result(result)

    return done
