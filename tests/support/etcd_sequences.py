"""Random sequences of requests for the differential test: the seed says everything.

Keys, values and revisions come from small sets, so that requests meet each other; about one in twelve is malformed.
"""

import random
from base64 import b64encode, urlsafe_b64encode
from itertools import count
from typing import Any

from tests.support.etcd_steps import Call, Rev, Step

KEYS = [b"a", b"a/1", b"a/2", b"ab", b"b", b"b\x00", b"b\xff", b"c", b"\x00", b"\xff"]
ENDS = [b"", b"", b"", b"\x00", b"a0", b"b", b"b\xff\x00", b"c", b"d", b"\xff"]
VALUES = [b"", b"v", b"w" * 40, b"\x00\xff\xfe", b"10", b"9"]
LEASES = [101, 102, 103, 104]
UNKNOWN_LEASES = [999, -5]


class Sequence:
    """Makes the steps of one seed. `revision`: about how many revisions there are by now."""

    def __init__(self, seed: int, length: int = 30) -> None:
        self.rng = random.Random(seed)
        self.length = length
        self.revision = 0
        self.granted: list[int] = []
        self.numbers = count()

    def steps(self) -> list[Step]:
        """All of them."""
        return [self.step() for _ in range(self.length)]

    def step(self) -> Step:
        """One more."""
        make = self.rng.choices(
            [self.put, self.range, self.delete, self.txn, self.compaction, self.lease, self.malformed],
            [28, 26, 10, 22, 3, 12, 8],
        )[0]
        return make()

    # ---- requests

    def put(self) -> Step:
        self.revision += 1
        return Call("/v3/kv/put", self.put_body(often_bad=True))

    def put_body(self, *, often_bad: bool = False) -> dict[str, Any]:
        body: dict[str, Any] = {"key": self.key(), "value": self.data(self.rng.choice(VALUES))}
        if self.rng.random() < 0.3:
            body["lease"] = self.number(self.lease_id())
        if self.rng.random() < 0.3:
            body[self.name("prev_kv")] = True
        if self.rng.random() < (0.12 if often_bad else 0.04):
            body[self.name("ignore_value")] = True
            if self.rng.random() < 0.8:
                del body["value"]
        if self.rng.random() < (0.12 if often_bad else 0.04):
            body[self.name("ignore_lease")] = True
            if self.rng.random() < 0.8:
                body.pop("lease", None)
        return body

    def range(self) -> Step:
        return Call("/v3/kv/range", self.range_body())

    def range_body(self) -> dict[str, Any]:
        rng = self.rng
        body: dict[str, Any] = {"key": self.key()}
        if rng.random() < 0.7:
            body[self.name("range_end")] = self.data(rng.choice(ENDS))
        if rng.random() < 0.4:
            body["limit"] = self.number(rng.choice([0, 1, 2, 3, 100, -1]))
        if rng.random() < 0.4:
            body["revision"] = self.some_revision()
        if rng.random() < 0.5:
            body[self.name("sort_order")] = self.enum(["NONE", "ASCEND", "DESCEND"])
            body[self.name("sort_target")] = self.enum(["KEY", "VERSION", "CREATE", "MOD", "VALUE"])
        for flag, share in (("keys_only", 0.15), ("count_only", 0.12), ("serializable", 0.2)):
            if rng.random() < share:
                body[self.name(flag)] = rng.random() < 0.9
        for bound in ("min_mod_revision", "max_mod_revision", "min_create_revision", "max_create_revision"):
            if rng.random() < 0.08:
                body[self.name(bound)] = self.some_revision()
        return body

    def delete(self) -> Step:
        self.revision += 1
        return Call("/v3/kv/deleterange", self.delete_body())

    def delete_body(self) -> dict[str, Any]:
        body: dict[str, Any] = {"key": self.key()}
        if self.rng.random() < 0.3:
            body[self.name("range_end")] = self.data(self.rng.choice(ENDS))
        if self.rng.random() < 0.4:
            body[self.name("prev_kv")] = True
        return body

    def txn(self) -> Step:
        self.revision += 1
        body = self.txn_body(3)
        # etcd 3.4 and 3.5 end their process where a put keeps the value of a key deleted in the same transaction.
        return Call("/v3/kv/txn", _without_keeping(body) if _deletes(body) else body)

    def txn_body(self, depth: int) -> dict[str, Any]:
        rng = self.rng
        body: dict[str, Any] = {}
        if rng.random() < 0.8:
            body["compare"] = [self.compare() for _ in range(rng.randint(0, 3))]
        for branch in ("success", "failure"):
            if rng.random() < 0.8:
                body[branch] = [self.operation(depth) for _ in range(rng.randint(0, 4 if depth == 3 else 2))]
        return body

    def compare(self) -> dict[str, Any]:
        rng = self.rng
        body: dict[str, Any] = {"key": self.key()}
        if rng.random() < 0.15:
            body[self.name("range_end")] = self.data(rng.choice(ENDS))
        if rng.random() < 0.8:
            body["result"] = self.enum(["EQUAL", "GREATER", "LESS", "NOT_EQUAL"])
        targets = ["VERSION", "CREATE", "MOD", "VALUE", "LEASE"]
        target = rng.choice(targets)
        body["target"] = rng.choice([target, targets.index(target)])
        if rng.random() < 0.9:
            match target:
                case "VERSION":
                    body["version"] = self.number(rng.choice([0, 1, 2, 3]))
                case "CREATE" | "MOD":
                    name = self.name("create_revision" if target == "CREATE" else "mod_revision")
                    body[name] = rng.choice([self.number(0), self.some_revision()])
                case "VALUE":
                    body["value"] = self.data(rng.choice(VALUES))
                case "LEASE":
                    body["lease"] = self.number(self.lease_id())
        return body

    def operation(self, depth: int) -> dict[str, Any]:
        kinds = ["put", "range", "delete_range", "txn"]
        kind = self.rng.choices(kinds, [45, 35, 20, 15 if depth else 0])[0]
        match kind:
            case "put":
                body = self.put_body()
            case "range":
                body = self.range_body()
            case "delete_range":
                body = self.delete_body()
            case _:
                body = self.txn_body(depth - 1)
        return {self.name(f"request_{kind}"): body}

    def compaction(self) -> Step:
        body: dict[str, Any] = {"revision": self.some_revision()}
        if self.rng.random() < 0.3:
            body["physical"] = True
        return Call("/v3/kv/compaction", body)

    def lease(self) -> Step:
        rng = self.rng
        folder = rng.choice(["/v3", "/v3/kv"])
        kind = rng.choices(["grant", "revoke", "timetolive", "leases", "keepalive"], [40, 15, 20, 10, 10])[0]
        match kind:
            case "grant":
                lease = rng.choice(LEASES)
                ttl = rng.choice([600, 600, 600, 3600, 9_000_000_000, 9_000_000_001])
                self.granted = sorted({*self.granted, lease})
                return Call("/v3/lease/grant", {"TTL": self.number(ttl), "ID": self.number(lease)})
            case "revoke":
                self.revision += 1
                return Call(f"{folder}/lease/revoke", {"ID": self.number(self.lease_id())})
            case "timetolive":
                body = {"ID": self.number(self.lease_id()), "keys": rng.random() < 0.7}
                return Call(f"{folder}/lease/timetolive", body)
            case "leases":
                return Call(f"{folder}/lease/leases", {})
            case _:
                return Call("/v3/lease/keepalive", {"ID": self.number(self.lease_id())})

    # ---- parts

    def key(self) -> str:
        return self.data(self.rng.choice(KEYS))

    def lease_id(self) -> int:
        if self.granted and self.rng.random() < 0.8:
            return self.rng.choice(self.granted)
        return self.rng.choice([*LEASES, *UNKNOWN_LEASES, 0])

    def some_revision(self) -> Rev | str | int:
        if self.rng.random() < 0.08:
            return self.number(self.rng.choice([0, -1, -7]))
        after = self.rng.randint(0, max(1, self.revision)) if self.rng.random() < 0.9 else self.revision + 40
        return Rev(after, self.rng.random() < 0.7)

    def number(self, value: int) -> int | str:
        return value if self.rng.random() < 0.5 else str(value)

    def enum(self, names: list[str]) -> str | int:
        name = self.rng.choice(names)
        return name if self.rng.random() < 0.5 else names.index(name)

    @staticmethod
    def data(value: bytes) -> str:
        return b64encode(value).decode()

    def name(self, snake: str) -> str:
        """A field's name in one of its two forms."""
        first, *others = snake.split("_")
        return snake if self.rng.random() < 0.7 else first + "".join(part.capitalize() for part in others)

    # ---- what is no such request

    def malformed(self) -> Step:
        """A request with one fault, or one that looks as if it had one."""
        if self.rng.random() < 0.3:
            path = self.rng.choice(
                ["/v3/kv/put", "/v3/kv/range", "/v3/kv/deleterange", "/v3/kv/txn", "/v3/lease/grant"]
            )
            return Call(path, self.rng.choice(_TEXTS))
        path, fields = self.rng.choice(_FIELDS)
        self.revision += path == "/v3/kv/put"
        return Call(path, {"key": self.key(), **fields} if "kv" in path and "txn" not in path else fields)


_TEXTS: list[bytes] = [
    b"[]",
    b'"x"',
    b"7",
    b"true",
    b"{",
    b'{"key":"YQ==",}',
    b'{"key" "YQ=="}',
    b"",
    b"null",
    b"{}",
    b'{"key":null}',
    b'{"key":"YQ=="} and more',
    b"{'key':1}",
    b"\x00",
]

_URL_SAFE = urlsafe_b64encode(b"\xff\xfe").decode()


def _each(path: str, name: str, *values: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(path, {name: value}) for value in values]


_FIELDS: list[tuple[str, dict[str, Any]]] = [
    *_each("/v3/kv/put", "key", 5, True, ["YQ=="], {}, "not base64!", "Y"),
    *_each("/v3/kv/put", "lease", "x", 1.5, True, {}, "", " 0 ", "9223372036854775808", 1e30, 0),
    *_each("/v3/kv/put", "prev_kv", 1, "true", None),
    *_each("/v3/kv/put", "nobody", [{"knows": None}]),
    *_each("/v3/kv/range", "key", "YQ", _URL_SAFE, _URL_SAFE.rstrip("="), "YQ==\n", "Y\rQ==", ""),
    *_each("/v3/kv/range", "sort_order", "UPWARDS", "1", 7, 1.0, None, -1),
    *_each("/v3/kv/range", "limit", [1], "null", None, "1.0", "0x1"),
    *_each("/v3/kv/deleterange", "range_end", 0),
    *_each("/v3/kv/txn", "compare", {}, [{"key": ""}], [{}], [7], [None], None),
    *_each("/v3/kv/txn", "compare", *([{"key": "YQ==", "target": value}] for value in ("SIZE", 17, None))),
    *_each("/v3/kv/txn", "compare", *([{"key": "YQ==", "result": value}] for value in (-1, "equal"))),
    *_each("/v3/kv/txn", "success", [{}], [[]], "x", [None], [{"request_put": None}], None),
    *_each("/v3/kv/txn", "failure", [{"request_put": {}}], [{"request_put": []}], [{"request_put": 1}]),
    *_each("/v3/kv/txn", "failure", [{"request_txn": {}}], [{"request_txn": []}], [{"request_txn": 1}]),
    *_each("/v3/kv/txn", "success", *([{"request_range": {"key": "YQ=="}}] * number for number in (128, 129))),
    *_each("/v3/kv/compaction", "revision", -1, "x", {}),
    *_each("/v3/lease/grant", "TTL", "ten", 1.5, []),
    *_each("/v3/lease/timetolive", "ID", "ten", 1.5, [], None),
    *[("/v3/nothing", {}), ("/v3/kv/lease/grant", {}), ("/v3alpha/kv/put", {}), ("/", {})],
]
"""Fields with something wrong or strange, and where; a key is added where one is due."""


_KEEPING = {"ignore_value", "ignoreValue", "ignore_lease", "ignoreLease"}


def _deletes(body: Any) -> bool:
    parts = body.values() if isinstance(body, dict) else body if isinstance(body, list) else ()
    deletes = isinstance(body, dict) and bool({"request_delete_range", "requestDeleteRange"} & body.keys())
    return deletes or any(_deletes(part) for part in parts)


def _without_keeping(body: Any) -> Any:
    if isinstance(body, dict):
        return {name: _without_keeping(part) for name, part in body.items() if name not in _KEEPING}
    return [_without_keeping(part) for part in body] if isinstance(body, list) else body
