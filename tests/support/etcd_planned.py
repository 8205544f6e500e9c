"""Sequences that are not left to chance: the surface of the API, and every permitted difference at least once."""

from base64 import b64encode
from typing import Any

from tests.support.etcd_steps import Await, Call, Page, Rev, Step, Wait, Watch

_GRANTS: list[Step] = [Call("/v3/lease/grant", {"TTL": 3600, "ID": lease}) for lease in (201, 202, 203)]


def data(value: bytes) -> str:
    """Bytes as JSON has them."""
    return b64encode(value).decode()


def _put(key: bytes, **fields: Any) -> Step:
    return Call("/v3/kv/put", {"key": data(key), **fields})


SURFACE: list[Step] = [
    Page("GET", "/version"),
    Page("GET", "/health"),
    Page("POST", "/health"),
    Page("POST", "/version"),
    Page("GET", "/version/"),
    Page("GET", "/v3/kv/range"),
    Page("PUT", "/v3/kv/range"),
    Page("DELETE", "/v3/watch"),
    Page("GET", "/v3/nothing"),
    Page("GET", "/nothing"),
    Page("OPTIONS", "/v3/kv/range"),
    Page("GET", "/version", (("Host", "attacker.example"),)),
    Page("GET", "/version", (("Origin", "http://attacker.example"),)),
    Call("/v3/maintenance/alarm", {}),
    Call("/v3/auth/user/list/", {}),
    Call("/v3/maintenance/hash", {}),
    Call("/v3beta/kv/range", {"key": "YQ=="}),
    Call("/v3/kv/%72ange", {"key": "YQ=="}),
    *[Call(path, body) for path in ("/v3/watch", "/v3/lease/keepalive") for body in (b"[]", b'"x"', b'{"ID":7', b"7")],
    Call("/v3/watch", {"create_request": {"key": 5}}),
    Call("/v3/watch", {"create_request": {"filters": ["ALL"]}}),
    Call("/v3/lease/keepalive", b""),
    Call("/v3/lease/keepalive", b'{"ID":7}{"ID":8}'),
    Call("/v3/lease/keepalive", b'{"ID":7} [8]'),
    Call("/v3/lease/keepalive", {"ID": "seven"}),
    Call("/v3/lock/unlock", {}),
    Call("/v3/lock/unlock", {"key": data(b"nobody/1")}),
    Call("/v3/lock/lock", {"name": "YQ==", "lease": "x"}),
    Call("/v3/election/leader", {"name": data(b"nobody")}),
    Call("/v3/election/proclaim", {"value": "YQ=="}),
    Call("/v3/election/proclaim", {"leader": {}, "value": "YQ=="}),
    Call("/v3/election/proclaim", {"leader": []}),
    Call("/v3/election/resign", {}),
    Call("/v3/election/resign", {"leader": {}}),
    Call("/v3/election/observe", {"name": 5}),
]
"""Pages, paths, and requests that are refused before anything else is looked at."""

LARGE: list[Step] = [
    _put(b"a", value=data(b"x" * size)) for size in (1_500_000, 1_600_000, 2_000_000, 2_200_000, 3_000_000)
]

LEASES: list[Step] = [
    *[Call("/v3/lease/grant", {"TTL": ttl, "ID": lease}) for lease, ttl in ((101, 3600), (102, 600), (103, 1200))],
    Call("/v3/lease/grant", {"TTL": 600, "ID": 101}),
    Call("/v3/lease/leases", {}),
    *[_put(b"key %d" % number, lease=101) for number in range(12)],
    Call("/v3/lease/timetolive", {"ID": 101, "keys": True}),
    _put(b"key 3", lease=102),
    Call("/v3/kv/deleterange", {"key": data(b"key 4")}),
    Call("/v3/kv/lease/timetolive", {"ID": 102, "keys": True}),
    Call("/v3/kv/lease/revoke", {"ID": 101}),
    Call("/v3/kv/range", {"key": data(b"key"), "range_end": data(b"kez")}),
    Call("/v3/lease/keepalive", {"ID": 101}),
    _put(b"a", lease=101),
    Call("/v3/lease/grant", {"TTL": -5, "ID": -104}),
    Call("/v3/lease/revoke", {"ID": -104}),
]

TIES: list[Step] = [
    *[_put(b"%d" % number, value=data(b"same")) for number in range(9)],
    *[_put(b"%d" % number) for number in (2, 7)],
    *[
        Call("/v3/kv/range", {"key": "AA==", "range_end": "AA==", "sort_target": target, "sort_order": order})
        for target in ("VERSION", "VALUE")
        for order in ("ASCEND", "DESCEND")
    ],
]

_PUT_A = {"request_put": {"key": "YQ=="}}

FAULTS: list[Step] = [
    Call("/v3/kv/range", {"key": "_-8="}),
    Call("/v3/kv/range", {"key": "YWI"}),
    Call("/v3/kv/range", {"key": "YQ==", "sort_order": 7}),
    Call("/v3/kv/txn", {"compare": [{"key": "YQ==", "target": 17}]}),
    Call("/v3/kv/txn", {"success": [None]}),
    Call("/v3/kv/txn", {"compare": [None]}),
    Call("/v3/kv/range", b'{"key":"YQ=="'),
    Call("/v3/kv/range", b'{"key":"YQ=="} and so on'),
    Call("/v3/kv/txn", {"success": [_PUT_A, {"request_txn": {"failure": [_PUT_A]}}]}),
    Call("/v3/kv/txn", {"success": [{"request_txn": {"success": [_PUT_A], "failure": [_PUT_A]}}]}),
    Call("/v3/kv/range", {"key": "YQ==", "revision": Rev(99)}),
    Call("/v3/kv/compaction", {"revision": Rev(99)}),
    Call("/v3/kv/compaction", {"revision": 0}),
]


def _entering(path: str, lease: int) -> tuple[str, dict[str, Any]]:
    return path, {"name": data(b"it"), "lease": lease, **({"value": "dg=="} if "election" in path else {})}


def _expired(path: str) -> list[Step]:
    """One holds it, one waits, and the lease of who waits ends before its turn."""
    return [
        *_GRANTS,
        Call(*_entering(path, 201)),
        Wait("waiting", *_entering(path, 202), b"it/"),
        Call("/v3/lease/revoke", {"ID": 202}),
        Call("/v3/kv/deleterange", {"key": data(b"it/c9")}),
        Await("waiting"),
        Call(*_entering(path, 203)),
    ]


WATCHES: list[Step] = [
    *[_put(b"a", value=data(b"%d" % number)) for number in range(3)],
    Call("/v3/kv/deleterange", {"key": "YQ=="}),
    _put(b"b"),
    Watch("twice", ({"create_request": {"key": "YQ=="}}, {"progress_request": {}}, {"progress_request": {}}), 2),
    Watch("negative", ({"create_request": {"key": "YQ==", "start_revision": -1}},), 1),
    Watch("empty", ({"create_request": {"key": "Yg==", "range_end": "YQ=="}},), 1),
    Call("/v3/kv/compaction", {"revision": Rev(4), "physical": True}),
    Watch("past", ({"create_request": {"key": "Yg==", "start_revision": Rev(5), "prev_kv": True}},), 1),
    Watch("deletion", ({"create_request": {"key": "YQ==", "start_revision": Rev(4)}},), 1),
    Watch("compacted", ({"create_request": {"key": "YQ==", "start_revision": Rev(3)}},), 1),
    Watch("all", ({"create_request": {"key": "AA==", "range_end": "AA==", "start_revision": Rev(5)}},), 1),
]


PLANNED: dict[str, list[Step]] = {
    "surface": SURFACE,
    "large": LARGE,
    "leases": LEASES,
    "ties": TIES,
    "faults": FAULTS,
    "planned-watches": WATCHES,
    "expired-lock": _expired("/v3/lock/lock"),
    "expired-election": _expired("/v3/election/campaign"),
}
