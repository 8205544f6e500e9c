"""What is answered: the messages of etcd's v3 API, by the names of its rpc.proto. Zero values are left out of JSON."""

import enum

import msgspec

from balancer.coordination.requests import LeaderKey


class ResponseHeader(msgspec.Struct, frozen=True, omit_defaults=True):
    """`revision` is the store's at the answer. The state machine fills only that; the service adds the others."""

    cluster_id: int = 0
    member_id: int = 0
    revision: int = 0
    raft_term: int = 0


class KeyValue(msgspec.Struct, frozen=True, omit_defaults=True):
    """`create_revision` and `mod_revision` are revisions of the store; `version` counts puts since the creation."""

    key: bytes = b""
    create_revision: int = 0
    mod_revision: int = 0
    version: int = 0
    value: bytes = b""
    lease: int = 0


class RangeResponse(msgspec.Struct, frozen=True, tag="range", omit_defaults=True):
    """`count`: all keys of the range, before limit and filters; `more`: the limit cut some off."""

    header: ResponseHeader = ResponseHeader()
    kvs: tuple[KeyValue, ...] = ()
    more: bool = False
    count: int = 0


class PutResponse(msgspec.Struct, frozen=True, tag="put", omit_defaults=True):
    header: ResponseHeader = ResponseHeader()
    prev_kv: KeyValue | None = None


class DeleteRangeResponse(msgspec.Struct, frozen=True, tag="delete", omit_defaults=True):
    header: ResponseHeader = ResponseHeader()
    deleted: int = 0
    prev_kvs: tuple[KeyValue, ...] = ()


class TxnResponse(msgspec.Struct, frozen=True, tag="txn", omit_defaults=True):
    header: ResponseHeader = ResponseHeader()
    succeeded: bool = False
    responses: tuple["ResponseOp", ...] = ()


class ResponseOp(msgspec.Struct, frozen=True, omit_defaults=True):
    """Exactly one is set."""

    response_range: RangeResponse | None = None
    response_put: PutResponse | None = None
    response_delete_range: DeleteRangeResponse | None = None
    response_txn: TxnResponse | None = None


class CompactionResponse(msgspec.Struct, frozen=True, tag="compact", omit_defaults=True):
    header: ResponseHeader = ResponseHeader()


class LeaseGrantResponse(msgspec.Struct, frozen=True, tag="grant", omit_defaults=True):
    """`TTL` may be more than was asked for: there is a least one."""

    header: ResponseHeader = ResponseHeader()
    ID: int = 0
    TTL: int = 0
    error: str = ""


class LeaseRevokeResponse(msgspec.Struct, frozen=True, tag="revoke", omit_defaults=True):
    header: ResponseHeader = ResponseHeader()


class LeaseKeepAliveResponse(msgspec.Struct, frozen=True, omit_defaults=True):
    """`TTL` 0: there is no such lease any more."""

    header: ResponseHeader = ResponseHeader()
    ID: int = 0
    TTL: int = 0


class LeaseTimeToLiveResponse(msgspec.Struct, frozen=True, omit_defaults=True):
    """`TTL` -1: there is no such lease."""

    header: ResponseHeader = ResponseHeader()
    ID: int = 0
    TTL: int = 0
    grantedTTL: int = 0
    keys: tuple[bytes, ...] = ()


class LeaseStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    ID: int = 0


class LeaseLeasesResponse(msgspec.Struct, frozen=True, omit_defaults=True):
    header: ResponseHeader = ResponseHeader()
    leases: tuple[LeaseStatus, ...] = ()


class EventType(enum.IntEnum):
    PUT = 0
    DELETE = 1


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """One change of one key. For a DELETE `kv` has the key and its mod_revision only."""

    type: EventType = EventType.PUT
    kv: KeyValue = KeyValue()
    prev_kv: KeyValue | None = None


class WatchResponse(msgspec.Struct, frozen=True, omit_defaults=True):
    header: ResponseHeader = ResponseHeader()
    watch_id: int = 0
    created: bool = False
    canceled: bool = False
    compact_revision: int = 0
    cancel_reason: str = ""
    fragment: bool = False
    events: tuple[Event, ...] = ()


class LockResponse(msgspec.Struct, frozen=True, omit_defaults=True):
    """`key` exists for as long as the lock is held; its create_revision is the fencing token."""

    header: ResponseHeader = ResponseHeader()
    key: bytes = b""


class UnlockResponse(msgspec.Struct, frozen=True, omit_defaults=True):
    header: ResponseHeader = ResponseHeader()


class CampaignResponse(msgspec.Struct, frozen=True, omit_defaults=True):
    header: ResponseHeader = ResponseHeader()
    leader: LeaderKey | None = None


class ProclaimResponse(msgspec.Struct, frozen=True, omit_defaults=True):
    header: ResponseHeader = ResponseHeader()


class LeaderResponse(msgspec.Struct, frozen=True, omit_defaults=True):
    header: ResponseHeader = ResponseHeader()
    kv: KeyValue | None = None


class ResignResponse(msgspec.Struct, frozen=True, omit_defaults=True):
    header: ResponseHeader = ResponseHeader()


class Member(msgspec.Struct, frozen=True, omit_defaults=True):
    ID: int = 0
    name: str = ""
    peerURLs: tuple[str, ...] = ()
    clientURLs: tuple[str, ...] = ()
    isLearner: bool = False


class MemberListResponse(msgspec.Struct, frozen=True, omit_defaults=True):
    header: ResponseHeader = ResponseHeader()
    members: tuple[Member, ...] = ()


class MemberAddResponse(msgspec.Struct, frozen=True, omit_defaults=True):
    """The new member, and all of them."""

    header: ResponseHeader = ResponseHeader()
    member: Member | None = None
    members: tuple[Member, ...] = ()


class MembersResponse(msgspec.Struct, frozen=True, omit_defaults=True):
    """The members after a change."""

    header: ResponseHeader = ResponseHeader()
    members: tuple[Member, ...] = ()


class MoveLeaderResponse(msgspec.Struct, frozen=True, omit_defaults=True):
    """Another one leads."""

    header: ResponseHeader = ResponseHeader()


class StatusResponse(msgspec.Struct, frozen=True, omit_defaults=True):
    """etcd's Maintenance.Status. Sizes in bytes."""

    header: ResponseHeader = ResponseHeader()
    version: str = ""
    dbSize: int = 0
    leader: int = 0
    raftIndex: int = 0
    raftTerm: int = 0
    raftAppliedIndex: int = 0
    errors: tuple[str, ...] = ()
    dbSizeInUse: int = 0
    isLearner: bool = False
