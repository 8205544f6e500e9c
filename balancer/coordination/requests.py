"""What may be asked of the key space: the messages of etcd's v3 API, by the names of its rpc.proto.

Field names are those that etcd's JSON has on the wire (snake_case, with its oddities `ID` and `TTL`). A key range is
[key, range_end): "" = the one key, b"\\0" = every key from `key` on; `key` and `range_end` both b"\\0" = everything.
"""

import enum

import msgspec


class SortOrder(enum.IntEnum):
    NONE = 0
    ASCEND = 1
    DESCEND = 2


class SortTarget(enum.IntEnum):
    KEY = 0
    VERSION = 1
    CREATE = 2
    MOD = 3
    VALUE = 4


class CompareResult(enum.IntEnum):
    EQUAL = 0
    GREATER = 1
    LESS = 2
    NOT_EQUAL = 3


class CompareTarget(enum.IntEnum):
    VERSION = 0
    CREATE = 1
    MOD = 2
    VALUE = 3
    LEASE = 4


class RangeRequest(msgspec.Struct, frozen=True, tag="range", omit_defaults=True):
    key: bytes = b""
    range_end: bytes = b""
    limit: int = 0
    revision: int = 0
    sort_order: SortOrder = SortOrder.NONE
    sort_target: SortTarget = SortTarget.KEY
    serializable: bool = False
    keys_only: bool = False
    count_only: bool = False
    min_mod_revision: int = 0
    max_mod_revision: int = 0
    min_create_revision: int = 0
    max_create_revision: int = 0


class PutRequest(msgspec.Struct, frozen=True, tag="put", omit_defaults=True):
    key: bytes = b""
    value: bytes = b""
    lease: int = 0
    prev_kv: bool = False
    ignore_value: bool = False
    ignore_lease: bool = False


class DeleteRangeRequest(msgspec.Struct, frozen=True, tag="delete", omit_defaults=True):
    key: bytes = b""
    range_end: bytes = b""
    prev_kv: bool = False


class Compare(msgspec.Struct, frozen=True, omit_defaults=True):
    """Only the field that `target` names is looked at."""

    result: CompareResult = CompareResult.EQUAL
    target: CompareTarget = CompareTarget.VERSION
    key: bytes = b""
    range_end: bytes = b""
    version: int = 0
    create_revision: int = 0
    mod_revision: int = 0
    value: bytes = b""
    lease: int = 0


class TxnRequest(msgspec.Struct, frozen=True, tag="txn", omit_defaults=True):
    """`success` where every compare holds, else `failure`; all of it or nothing."""

    compare: tuple[Compare, ...] = ()
    success: tuple["RequestOp", ...] = ()
    failure: tuple["RequestOp", ...] = ()


class RequestOp(msgspec.Struct, frozen=True, omit_defaults=True):
    """Exactly one is set; none is etcd's error "key not found"."""

    request_range: RangeRequest | None = None
    request_put: PutRequest | None = None
    request_delete_range: DeleteRangeRequest | None = None
    request_txn: TxnRequest | None = None


class CompactionRequest(msgspec.Struct, frozen=True, tag="compact", omit_defaults=True):
    revision: int = 0
    physical: bool = False


class LeaseGrantRequest(msgspec.Struct, frozen=True, tag="grant", omit_defaults=True):
    """`TTL` in seconds. `ID` 0: one is chosen before the command enters the log, so that all members agree on it."""

    TTL: int = 0
    ID: int = 0


class LeaseRevokeRequest(msgspec.Struct, frozen=True, tag="revoke", omit_defaults=True):
    ID: int = 0


class LeaseTimeToLiveRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    ID: int = 0
    keys: bool = False


class WatchFilter(enum.IntEnum):
    NOPUT = 0
    NODELETE = 1


class WatchCreateRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """`start_revision` 0: from the next revision on. `watch_id` 0: one is chosen."""

    key: bytes = b""
    range_end: bytes = b""
    start_revision: int = 0
    progress_notify: bool = False
    filters: tuple[WatchFilter, ...] = ()
    prev_kv: bool = False
    watch_id: int = 0
    fragment: bool = False


# ---- locks and elections (etcd's v3lock and v3election)


class LockRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Held for as long as `lease` lives; the answer comes when it is held."""

    name: bytes = b""
    lease: int = 0


class UnlockRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    key: bytes = b""


class CampaignRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    name: bytes = b""
    lease: int = 0
    value: bytes = b""


class LeaderKey(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who leads: `rev` is the create_revision of `key`, and so the fencing token."""

    name: bytes = b""
    key: bytes = b""
    rev: int = 0
    lease: int = 0


class ProclaimRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    leader: LeaderKey | None = None
    value: bytes = b""


class LeaderRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Both "who leads now" and "tell me of every new one" (observe)."""

    name: bytes = b""


class ResignRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    leader: LeaderKey | None = None


# ---- members (etcd's cluster and maintenance services)


class MemberAddRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """The new member, already started with `join: true`, by the one address at which others reach it."""

    peerURLs: tuple[str, ...] = ()
    isLearner: bool = False


class MemberChangeRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """The member that is to go, or to be promoted."""

    ID: int = 0


class MoveLeaderRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """The voter that is to lead."""

    targetID: int = 0
