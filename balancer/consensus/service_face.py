"""What a face of the coordination service, such as the HTTP gateway, may ask of it.

Every method answers with a whole response, header included, and refuses with a CoordinationError. A call that is
cancelled is withdrawn: who waited for a lock is taken out of its queue. What was proposed may still happen.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Protocol

from balancer.coordination.command import RegisterSessionResponse, Ticket
from balancer.coordination.requests import (
    CampaignRequest,
    CompactionRequest,
    DeleteRangeRequest,
    LeaderRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    LeaseTimeToLiveRequest,
    LockRequest,
    MemberAddRequest,
    MemberChangeRequest,
    MoveLeaderRequest,
    ProclaimRequest,
    PutRequest,
    RangeRequest,
    ResignRequest,
    TxnRequest,
    UnlockRequest,
    WatchCreateRequest,
)
from balancer.coordination.responses import (
    CampaignResponse,
    CompactionResponse,
    DeleteRangeResponse,
    LeaderResponse,
    LeaseGrantResponse,
    LeaseKeepAliveResponse,
    LeaseLeasesResponse,
    LeaseRevokeResponse,
    LeaseTimeToLiveResponse,
    LockResponse,
    MemberAddResponse,
    MemberListResponse,
    MembersResponse,
    MoveLeaderResponse,
    ProclaimResponse,
    PutResponse,
    RangeResponse,
    ResignResponse,
    StatusResponse,
    TxnResponse,
    UnlockResponse,
    WatchResponse,
)


class WatchStream(Protocol):
    """Watches that share one stream of answers, each known by its `watch_id`.

    Requests are answered in the stream: `created` before the watch's events, `canceled` behind its last one; a refused
    one is `created` and `canceled` at once, with watch_id -1 and a cancel_reason. Iteration ends only by an error:
    a CoordinationError, after which the stream is closed.
    """

    async def create(self, request: WatchCreateRequest) -> None:
        """Begin a watch."""

    async def cancel(self, watch_id: int) -> None:
        """End a watch; an unknown one is left without an answer."""

    async def request_progress(self) -> None:
        """Ask for a response without events, watch_id -1, once every watch is as far as its header's revision."""

    def __aiter__(self) -> AsyncIterator[WatchResponse]:
        """The answers, in order. To be taken by one task."""

    async def close(self) -> None:
        """End all watches. May be called twice, and while somebody waits for an answer."""


class Service(Protocol):
    """The coordination service of one member; a follower forwards what only the leader can do.

    A change with a `ticket` is done once, however often and to whichever members it is sent: the answer is the same.
    """

    async def range(self, request: RangeRequest) -> RangeResponse:
        """Read keys: linearizable, unless `serializable` says that this member's state is good enough."""

    async def put(self, request: PutRequest, ticket: Ticket | None = None) -> PutResponse:
        """Write one key."""

    async def delete_range(self, request: DeleteRangeRequest, ticket: Ticket | None = None) -> DeleteRangeResponse:
        """Delete keys."""

    async def txn(self, request: TxnRequest, ticket: Ticket | None = None) -> TxnResponse:
        """Compare, then do one of two lists of operations, as one revision."""

    async def compact(self, request: CompactionRequest, ticket: Ticket | None = None) -> CompactionResponse:
        """Forget what was before a revision."""

    async def open_session(self) -> RegisterSessionResponse:
        """A session for a client that numbers its changes; of too many the least recently used goes (`sessions`)."""

    async def lease_grant(self, request: LeaseGrantRequest, ticket: Ticket | None = None) -> LeaseGrantResponse:
        """Begin a lease. With ID 0 the service chooses one."""

    async def lease_revoke(self, request: LeaseRevokeRequest, ticket: Ticket | None = None) -> LeaseRevokeResponse:
        """End a lease and delete its keys."""

    async def lease_keep_alive(self, lease: int) -> LeaseKeepAliveResponse:
        """Give a lease its full TTL again; TTL 0 in the answer: there is none."""

    async def lease_time_to_live(self, request: LeaseTimeToLiveRequest) -> LeaseTimeToLiveResponse:
        """How long a lease has, in seconds; -1: there is none."""

    async def leases(self) -> LeaseLeasesResponse:
        """All leases."""

    def watch(self) -> WatchStream:
        """A new stream, without watches."""

    async def lock(self, request: LockRequest) -> LockResponse:
        """Wait until the lock is held. Lease 0: one of 60 s is granted, which nobody keeps alive."""

    async def unlock(self, request: UnlockRequest) -> UnlockResponse:
        """Give a lock up."""

    async def campaign(self, request: CampaignRequest) -> CampaignResponse:
        """Wait until the election is won; the header's revision is that of the candidacy. Lease 0: as for a lock."""

    async def proclaim(self, request: ProclaimRequest) -> ProclaimResponse:
        """Change the value that the leader is known by."""

    async def leader(self, request: LeaderRequest) -> LeaderResponse:
        """Who leads now; UNKNOWN "election: no leader" when nobody does."""

    def observe(self, request: LeaderRequest) -> AsyncGenerator[LeaderResponse, None]:
        """Who leads, now and after each change, for as long as it is not closed."""

    async def resign(self, request: ResignRequest) -> ResignResponse:
        """Give leadership up."""

    async def status(self) -> StatusResponse:
        """This member's state; answered without a quorum, too."""

    async def member_list(self, *, linearizable: bool) -> MemberListResponse:
        """The members. Its header has no revision."""

    async def member_add(self, request: MemberAddRequest) -> MemberAddResponse:
        """Let a member in that waits to be added, as a learner."""

    async def member_remove(self, request: MemberChangeRequest) -> MembersResponse:
        """Take a member out, for good."""

    async def member_promote(self, request: MemberChangeRequest) -> MembersResponse:
        """Give a learner a vote."""

    async def move_leader(self, request: MoveLeaderRequest) -> MoveLeaderResponse:
        """Let another voter lead."""
