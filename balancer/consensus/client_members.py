"""The members of the cluster: who they are, how they are, and changes among them.

The paths and shapes are etcd's; a server that lacks one answers 404, which becomes UnsupportedError.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from balancer.consensus.client_calls import Calls
from balancer.consensus.client_errors import NotReachedError, RefusedError
from balancer.consensus.client_http import ExchangeError, Server
from balancer.consensus.client_json import decoded, refusal
from balancer.coordination.errors import CoordinationError
from balancer.coordination.responses import Member, MemberListResponse, ResponseHeader, StatusResponse

_STATUS = "/v3/maintenance/status"


class MemberAddResponse(msgspec.Struct, frozen=True):
    """The new member, and all of them."""

    header: ResponseHeader = ResponseHeader()
    member: Member = Member()
    members: tuple[Member, ...] = ()


class MembersResponse(msgspec.Struct, frozen=True):
    """The members after a change."""

    header: ResponseHeader = ResponseHeader()
    members: tuple[Member, ...] = ()


class _Nothing(msgspec.Struct, frozen=True):
    header: ResponseHeader = ResponseHeader()


class Standing(NamedTuple):
    """What one endpoint said of itself: a status or an error."""

    url: str
    status: StatusResponse | None
    error: CoordinationError | None


class Members:
    """The calls about members. Changes raise RefusedError, NotReachedError, OutcomeUnknownError, UnsupportedError."""

    _calls: Calls

    async def members(self) -> tuple[Member, ...]:
        """Voters and learners. Raises NotReachedError, RefusedError."""
        return (await self._calls.read("/v3/cluster/member/list", None, MemberListResponse)).members

    async def sync(self) -> None:
        """Learn where else the cluster can be asked: the client addresses that its voters have published.

        They come after the endpoints that were given, at most `client_endpoints.LEARNED_MAX`; a later call replaces
        what an earlier one learned. Raises NotReachedError, RefusedError.
        """
        voters = [member for member in await self.members() if not member.isLearner]
        self._calls.endpoints.learn(url for member in voters for url in member.clientURLs)

    async def status(self) -> list[Standing]:
        """What each endpoint says of itself, in their order; each is asked, and none for another. Never raises."""
        return await asyncio.gather(*(self._status(server) for server in self._calls.endpoints.servers))

    async def add_member(self, peer_urls: Sequence[str], *, learner: bool) -> MemberAddResponse:
        """Let a member in, which is then to be started. A learner gets the log and has no vote."""
        body: dict[str, Any] = {"peerURLs": list(peer_urls)} | ({"isLearner": True} if learner else {})
        return await self._calls.administer("/v3/cluster/member/add", body, MemberAddResponse)

    async def remove_member(self, member: int) -> MembersResponse:
        """Take a member out, for good."""
        return await self._calls.administer("/v3/cluster/member/remove", {"ID": member}, MembersResponse)

    async def promote_member(self, member: int) -> MembersResponse:
        """Give a learner a vote; refused while it lags behind."""
        return await self._calls.administer("/v3/cluster/member/promote", {"ID": member}, MembersResponse)

    async def transfer_leadership(self, member: int) -> None:
        """Let a voter lead. An etcd can be asked for that only where it leads, so each endpoint is asked in turn."""
        endpoints = self._calls.endpoints
        for left in reversed(range(len(endpoints.servers))):
            try:
                await self._calls.administer("/v3/maintenance/transfer-leadership", {"targetID": member}, _Nothing)
            except RefusedError as error:
                if "not leader" not in error.message or not left:
                    raise
                endpoints.avoid(endpoints.current)
            else:
                return

    async def _status(self, server: Server) -> Standing:
        try:
            answer = await server.exchange(_STATUS, b"{}", timeout=self._calls.endpoints.timeout)
            if answer.status != 200:
                return Standing(server.url, None, refusal(answer.status, answer.body))
            return Standing(server.url, decoded(answer.body, StatusResponse), None)
        except ExchangeError as error:
            return Standing(server.url, None, NotReachedError(str(error)))
        except CoordinationError as error:
            return Standing(server.url, None, error)
