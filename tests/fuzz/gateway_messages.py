"""The messages of etcd's API as its rpc.proto has them, written down a second time: the fuzzer's own, to judge by.

A message is a dictionary of its fields by name. Kinds: the scalars below, a tuple of names for an enum, a list of one
kind for a repeated field, another message.
"""

from dataclasses import dataclass
from typing import Any

INT, UINT, BYTES, BOOL, TEXT = "int64", "uint64", "bytes", "bool", "string"

Message = dict[str, Any]

KV: Message = {
    "key": BYTES,
    "create_revision": INT,
    "mod_revision": INT,
    "version": INT,
    "value": BYTES,
    "lease": INT,
}
HEADER: Message = {"cluster_id": UINT, "member_id": UINT, "revision": INT, "raft_term": UINT}
ONLY_HEADER: Message = {"header": HEADER}

# ---- keys

RANGE: Message = {
    "key": BYTES,
    "range_end": BYTES,
    "limit": INT,
    "revision": INT,
    "sort_order": ("NONE", "ASCEND", "DESCEND"),
    "sort_target": ("KEY", "VERSION", "CREATE", "MOD", "VALUE"),
    "serializable": BOOL,
    "keys_only": BOOL,
    "count_only": BOOL,
    "min_mod_revision": INT,
    "max_mod_revision": INT,
    "min_create_revision": INT,
    "max_create_revision": INT,
}
PUT: Message = {
    "key": BYTES,
    "value": BYTES,
    "lease": INT,
    "prev_kv": BOOL,
    "ignore_value": BOOL,
    "ignore_lease": BOOL,
}
DELETE: Message = {"key": BYTES, "range_end": BYTES, "prev_kv": BOOL}
COMPARE: Message = {
    "result": ("EQUAL", "GREATER", "LESS", "NOT_EQUAL"),
    "target": ("VERSION", "CREATE", "MOD", "VALUE", "LEASE"),
    "key": BYTES,
    "version": INT,
    "create_revision": INT,
    "mod_revision": INT,
    "value": BYTES,
    "lease": INT,
    "range_end": BYTES,
}
OPERATION: Message = {"request_range": RANGE, "request_put": PUT, "request_delete_range": DELETE}
TXN: Message = {"compare": [COMPARE], "success": [OPERATION], "failure": [OPERATION]}
OPERATION["request_txn"] = TXN
COMPACTION: Message = {"revision": INT, "physical": BOOL}

RANGE_ANSWER: Message = {"header": HEADER, "kvs": [KV], "more": BOOL, "count": INT}
PUT_ANSWER: Message = {"header": HEADER, "prev_kv": KV}
DELETE_ANSWER: Message = {"header": HEADER, "deleted": INT, "prev_kvs": [KV]}
OPERATION_ANSWER: Message = {
    "response_range": RANGE_ANSWER,
    "response_put": PUT_ANSWER,
    "response_delete_range": DELETE_ANSWER,
}
TXN_ANSWER: Message = {"header": HEADER, "succeeded": BOOL, "responses": [OPERATION_ANSWER]}
OPERATION_ANSWER["response_txn"] = TXN_ANSWER

# ---- leases

GRANT: Message = {"TTL": INT, "ID": INT}
REVOKE: Message = {"ID": INT}
TIME_TO_LIVE: Message = {"ID": INT, "keys": BOOL}
KEEP_ALIVE: Message = {"ID": INT}

GRANT_ANSWER: Message = {"header": HEADER, "ID": INT, "TTL": INT, "error": TEXT}
KEEP_ALIVE_ANSWER: Message = {"header": HEADER, "ID": INT, "TTL": INT}
TIME_TO_LIVE_ANSWER: Message = {"header": HEADER, "ID": INT, "TTL": INT, "grantedTTL": INT, "keys": [BYTES]}
LEASES_ANSWER: Message = {"header": HEADER, "leases": [{"ID": INT}]}

# ---- watches

FILTER = ("NOPUT", "NODELETE")
CREATE_WATCH: Message = {
    "key": BYTES,
    "range_end": BYTES,
    "start_revision": INT,
    "progress_notify": BOOL,
    "filters": [FILTER],
    "prev_kv": BOOL,
    "watch_id": INT,
    "fragment": BOOL,
}
WATCH: Message = {"create_request": CREATE_WATCH, "cancel_request": {"watch_id": INT}, "progress_request": {}}
EVENT: Message = {"type": ("PUT", "DELETE"), "kv": KV, "prev_kv": KV}
WATCH_ANSWER: Message = {
    "header": HEADER,
    "watch_id": INT,
    "created": BOOL,
    "canceled": BOOL,
    "compact_revision": INT,
    "cancel_reason": TEXT,
    "fragment": BOOL,
    "events": [EVENT],
}

# ---- locks and elections

LEADER_KEY: Message = {"name": BYTES, "key": BYTES, "rev": INT, "lease": INT}
LOCK: Message = {"name": BYTES, "lease": INT}
UNLOCK: Message = {"key": BYTES}
CAMPAIGN: Message = {"name": BYTES, "lease": INT, "value": BYTES}
PROCLAIM: Message = {"leader": LEADER_KEY, "value": BYTES}
LEADER: Message = {"name": BYTES}
RESIGN: Message = {"leader": LEADER_KEY}

LOCK_ANSWER: Message = {"header": HEADER, "key": BYTES}
CAMPAIGN_ANSWER: Message = {"header": HEADER, "leader": LEADER_KEY}
LEADER_ANSWER: Message = {"header": HEADER, "kv": KV}

# ---- members

MEMBER: Message = {"ID": UINT, "name": TEXT, "peerURLs": [TEXT], "clientURLs": [TEXT], "isLearner": BOOL}
MEMBER_LIST: Message = {"linearizable": BOOL}
MEMBER_ADD: Message = {"peerURLs": [TEXT], "isLearner": BOOL}
MEMBER_CHANGE: Message = {"ID": INT}
MOVE_LEADER: Message = {"targetID": INT}

MEMBER_LIST_ANSWER: Message = {"header": HEADER, "members": [MEMBER]}
STATUS_ANSWER: Message = {
    "header": HEADER,
    "version": TEXT,
    "dbSize": INT,
    "leader": UINT,
    "raftIndex": UINT,
    "raftTerm": UINT,
    "raftAppliedIndex": UINT,
    "errors": [TEXT],
    "dbSizeInUse": INT,
    "isLearner": BOOL,
}

# ---- methods

NUMBERS: Message = {"session": INT, "seq": INT, "answered_below": INT}
"""What a change has beside its own fields when a client numbered it: ours, not etcd's."""


@dataclass(frozen=True, slots=True)
class Method:
    """A path's. `call`: what the state is asked; `bare`: without the message. `numbered`: a client may number it."""

    call: str
    asked: Message
    answered: Message
    numbered: bool = False
    bare: bool = False


METHODS: dict[str, Method] = {
    "/v3/kv/range": Method("range", RANGE, RANGE_ANSWER),
    "/v3/kv/put": Method("put", PUT, PUT_ANSWER, numbered=True),
    "/v3/kv/deleterange": Method("delete_range", DELETE, DELETE_ANSWER, numbered=True),
    "/v3/kv/txn": Method("txn", TXN, TXN_ANSWER, numbered=True),
    "/v3/kv/compaction": Method("compact", COMPACTION, ONLY_HEADER, numbered=True),
    "/v3/lease/grant": Method("lease_grant", GRANT, GRANT_ANSWER, numbered=True),
    "/v3/lease/revoke": Method("lease_revoke", REVOKE, ONLY_HEADER, numbered=True),
    "/v3/kv/lease/revoke": Method("lease_revoke", REVOKE, ONLY_HEADER, numbered=True),
    "/v3/lease/timetolive": Method("lease_time_to_live", TIME_TO_LIVE, TIME_TO_LIVE_ANSWER),
    "/v3/kv/lease/timetolive": Method("lease_time_to_live", TIME_TO_LIVE, TIME_TO_LIVE_ANSWER),
    "/v3/lease/leases": Method("leases", {}, LEASES_ANSWER, bare=True),
    "/v3/kv/lease/leases": Method("leases", {}, LEASES_ANSWER, bare=True),
    "/v3/lock/lock": Method("lock", LOCK, LOCK_ANSWER),
    "/v3/lock/unlock": Method("unlock", UNLOCK, ONLY_HEADER),
    "/v3/election/campaign": Method("campaign", CAMPAIGN, CAMPAIGN_ANSWER),
    "/v3/election/proclaim": Method("proclaim", PROCLAIM, ONLY_HEADER),
    "/v3/election/leader": Method("leader", LEADER, LEADER_ANSWER),
    "/v3/election/resign": Method("resign", RESIGN, ONLY_HEADER),
    "/v3/maintenance/status": Method("status", {}, STATUS_ANSWER, bare=True),
    "/v3/cluster/member/list": Method("member_list", MEMBER_LIST, MEMBER_LIST_ANSWER),
    "/v3/cluster/member/add": Method("member_add", MEMBER_ADD, {"header": HEADER, "member": MEMBER}),
    "/v3/cluster/member/remove": Method("member_remove", MEMBER_CHANGE, MEMBER_LIST_ANSWER),
    "/v3/cluster/member/promote": Method("member_promote", MEMBER_CHANGE, MEMBER_LIST_ANSWER),
    "/v3/maintenance/transfer-leadership": Method("move_leader", MOVE_LEADER, ONLY_HEADER),
    "/v3/balancer/session": Method("open_session", {}, {"header": HEADER, "session": INT}, bare=True),
}
STREAMS: dict[str, Method] = {
    "/v3/watch": Method("watch", WATCH, WATCH_ANSWER),
    "/v3/lease/keepalive": Method("lease_keep_alive", KEEP_ALIVE, KEEP_ALIVE_ANSWER),
    "/v3/election/observe": Method("observe", LEADER, LEADER_ANSWER),
}
UNSERVED = (
    "/v3/cluster/member/update",
    "/v3/maintenance/snapshot",
    "/v3/maintenance/alarm",
    "/v3/maintenance/hash",
    "/v3/auth/authenticate",
    "/v3/auth/user/changepw",
    "/v3/auth/role/grant",
)
"""Some of etcd's methods that a balancer does not have."""
PAGES = ("/version", "/health")
